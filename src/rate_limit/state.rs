//! How the budget stands now, for whoever watches the service. Reading it changes nothing.

use std::time::Duration;

use super::RedisBudget;
use super::scripts;

/// Longest that Redis may take to say; whoever asks gives up soon after.
const SAID_WITHIN: Duration = Duration::from_secs(1);

/// How the budget of all workers stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BudgetState {
    /// Whether anybody may ask.
    pub gate: Gate,
    /// What is done with the list of orders.
    pub list: ListUse,
    /// New orders that wait in line for a request.
    pub new_in_line: u64,
    /// Orders of the backlog that do.
    pub backlog_in_line: u64,
    /// The key that requests are made with.
    pub key: ApiKey,
    /// Requests that are left in the present minute, for each key there is.
    pub tokens: Vec<(ApiKey, u32)>,
}

/// Whether anybody may ask the provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// Everybody may, within the budget.
    Open,
    /// One asks first, for all: after a closure, and after the start of a worker.
    Probing,
    /// Nobody may.
    Closed,
}

/// What is done with the list of orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListUse {
    /// There is no need to read it.
    Unused,
    /// It is read again and again.
    Read,
    /// It did not show the orders that wait, and is left alone for a while.
    Left,
}

/// A key of the provider's API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApiKey {
    /// The one to begin with.
    Primary,
    /// The one that takes over.
    Secondary,
}

impl Gate {
    /// Every state.
    pub const ALL: [Self; 3] = [Self::Open, Self::Probing, Self::Closed];

    /// The state as it is told.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Probing => "probing",
            Self::Closed => "closed",
        }
    }
}

impl ListUse {
    /// Every use.
    pub const ALL: [Self; 3] = [Self::Unused, Self::Read, Self::Left];

    /// The use as it is told.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unused => "unused",
            Self::Read => "read",
            Self::Left => "left",
        }
    }
}

impl ApiKey {
    /// Every key, by the number it has in a [`Ticket`](crate::rate_limit::Ticket).
    pub const ALL: [Self; 2] = [Self::Primary, Self::Secondary];

    /// The key as it is told: which one it is, and nothing of what it says.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Secondary => "secondary",
        }
    }
}

/// What the script returns.
type Said = (String, String, u64, u64, usize, Vec<u32>);

impl RedisBudget {
    /// How the budget stands; nothing where Redis does not say in time.
    pub async fn state(&self) -> Option<BudgetState> {
        let mut call = scripts::BUDGET_STATE.prepare_invoke();
        call.key(&self.key).arg(self.allowance.requests_per_minute);
        self.write_keys(&mut call);
        let mut connection = self.connection.get();
        let said = tokio::time::timeout(SAID_WITHIN, call.invoke_async::<Said>(&mut connection));
        // Redis that is slow to tell this is not taken for dead: others judge that by limits of their own.
        self.heard(said.await.ok()?).and_then(read)
    }
}

fn read((gate, list, new_in_line, backlog_in_line, key, left): Said) -> Option<BudgetState> {
    Some(BudgetState {
        gate: Gate::ALL.into_iter().find(|known| known.as_str() == gate)?,
        list: ListUse::ALL.into_iter().find(|known| known.as_str() == list)?,
        new_in_line,
        backlog_in_line,
        key: *ApiKey::ALL.get(key)?,
        tokens: ApiKey::ALL.into_iter().zip(left).collect(),
    })
}
