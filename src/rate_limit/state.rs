//! The state of the budget, for metrics and health checks. Reading it changes nothing.

use std::time::Duration;

use super::RedisBudget;
use super::scripts;

/// Time limit of the answer of Redis; a scrape gives up soon after.
const SAID_WITHIN: Duration = Duration::from_secs(1);

/// The state of the budget of all workers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BudgetState {
    /// Whether orders are checked.
    pub breaker: Breaker,
    /// What is done with the list of orders.
    pub list: ListUse,
    /// New orders in the wait queue.
    pub new_waiting: u64,
    /// Orders of the backlog in the wait queue.
    pub backlog_waiting: u64,
    /// The key that requests are made with.
    pub key: ApiKey,
    /// Requests that are left in the present minute, for each key there is.
    pub tokens: Vec<(ApiKey, u32)>,
}

/// Whether orders are checked, with the keys of one worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breaker {
    /// Orders are checked, within the budget.
    Closed,
    /// One request at a time is made: after the breaker was open, and until a key is verified.
    HalfOpen,
    /// No order is checked.
    Open,
}

/// What is done with the list of orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListUse {
    /// There is no need to read it.
    Unused,
    /// It is read again and again.
    Read,
    /// It did not show the orders that wait, and is not read for a while.
    Disabled,
}

/// A key of the provider's API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApiKey {
    /// The one to begin with.
    Primary,
    /// The one that takes over.
    Secondary,
}

impl Breaker {
    /// Every state.
    pub const ALL: [Self; 3] = [Self::Closed, Self::HalfOpen, Self::Open];

    /// The state in metrics and scripts.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half-open",
            Self::Open => "open",
        }
    }
}

impl ListUse {
    /// Every use.
    pub const ALL: [Self; 3] = [Self::Unused, Self::Read, Self::Disabled];

    /// The use in metrics and scripts.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unused => "unused",
            Self::Read => "read",
            Self::Disabled => "disabled",
        }
    }
}

impl ApiKey {
    /// Every key, by the number it has in a [`Permit`](crate::rate_limit::Permit).
    pub const ALL: [Self; 2] = [Self::Primary, Self::Secondary];

    /// Which key it is, in metrics; nothing of the key itself.
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
    /// The state of the budget; `None` where Redis does not answer in time.
    pub async fn state(&self) -> Option<BudgetState> {
        let mut call = scripts::BUDGET_STATE.prepare_invoke();
        call.key(&self.key).arg(self.rate_limit.requests_per_minute);
        self.write_keys(&mut call);
        let mut connection = self.connection.get();
        let said = tokio::time::timeout(SAID_WITHIN, call.invoke_async::<Said>(&mut connection));
        // A slow answer here is no reason to reconnect.
        self.heard(said.await.ok()?).and_then(read)
    }
}

fn read((breaker, list, new_waiting, backlog_waiting, key, left): Said) -> Option<BudgetState> {
    Some(BudgetState {
        breaker: Breaker::ALL.into_iter().find(|known| known.as_str() == breaker)?,
        list: ListUse::ALL.into_iter().find(|known| known.as_str() == list)?,
        new_waiting,
        backlog_waiting,
        key: *ApiKey::ALL.get(key)?,
        tokens: ApiKey::ALL.into_iter().zip(left).collect(),
    })
}
