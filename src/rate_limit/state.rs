//! The state of the budget, for metrics and health checks.

use std::time::Duration;

use super::RedisBudget;
use super::scripts;

/// Time limit for the answer of Redis, shorter than that of a metrics scrape.
const SAID_WITHIN: Duration = Duration::from_secs(1);

/// The state of the budget of all workers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BudgetState {
    /// State of the circuit breakers.
    pub breaker: Breaker,
    /// Whether the list of orders is read.
    pub list: ListUse,
    /// Number of new orders in the wait queue.
    pub new_waiting: u64,
    /// Number of orders of the backlog (rechecks and old orders) in the wait queue.
    pub backlog_waiting: u64,
    /// The API key in use.
    pub key: ApiKey,
    /// Requests left in the current minute, per API key of this worker.
    pub tokens: Vec<(ApiKey, u32)>,
}

/// State of the circuit breakers of the provider and of one worker's keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breaker {
    /// Orders are checked, within the budget.
    Closed,
    /// One request at a time is made, until an answer is usable or a key is verified.
    HalfOpen,
    /// Orders wait: a breaker is open, all keys are refused, or the answer "not found" is not believed.
    Open,
}

/// Whether the list of orders is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListUse {
    /// The list is not needed.
    Unused,
    /// The list is read regularly.
    Read,
    /// The list is not read for a while, since it did not show the waiting orders.
    Disabled,
}

/// A key of the provider's API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApiKey {
    /// The key that is tried first.
    Primary,
    /// The key that takes over when the primary one is refused.
    Secondary,
}

impl Breaker {
    /// Every state.
    pub const ALL: [Self; 3] = [Self::Closed, Self::HalfOpen, Self::Open];

    /// The state's name in metrics and scripts.
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
    /// Every use of the list.
    pub const ALL: [Self; 3] = [Self::Unused, Self::Read, Self::Disabled];

    /// The name in metrics and scripts.
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

    /// The name in metrics; it shows nothing of the key itself.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Secondary => "secondary",
        }
    }
}

type Said = (String, String, u64, u64, usize, Vec<u32>);

impl RedisBudget {
    /// The state of the budget; `None` if Redis does not answer in time.
    pub async fn state(&self) -> Option<BudgetState> {
        let mut call = scripts::BUDGET_STATE.prepare_invoke();
        call.key(&self.key).arg(self.rate_limit.requests_per_minute);
        self.write_keys(&mut call);
        let mut connection = self.connection.get();
        let said = tokio::time::timeout(SAID_WITHIN, call.invoke_async::<Said>(&mut connection));
        // A time-out here is not reported to the connection, so it causes no reconnect.
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
