//! What a job asks of the budget, and what the budget decides.

use std::time::Duration;

use async_trait::async_trait;
use topup_jobs::{Timestamp, TopupId};

use crate::provider::ApiError;

/// A request for a permit to check an order.
#[derive(Debug, Clone, PartialEq)]
pub struct PermitRequest {
    /// The order.
    pub topup_id: TopupId,
    /// When the provider created it, as far as is known.
    pub created_at: Timestamp,
    /// Its age at the last answer; `None` before the first one.
    pub last: Option<Duration>,
    /// Its age now.
    pub age: Duration,
    /// Whether it belongs to the backlog: an order that is rechecked after hours, or is long past fast polling. New
    /// orders have the larger share of the requests, however long the backlog is.
    pub backlog: bool,
    /// Whether the list may answer in place of a request of its own.
    pub list_counts: bool,
}

/// What the budget decides. Waits are real time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PermitDecision {
    /// The order may be checked once; the answer is to be reported.
    Granted(Permit),
    /// The list of orders has just shown that the order is not final; no request is needed.
    SeenInList,
    /// Other orders come first, or the budget is used up. The order waits in the queue and asks again after this time.
    Wait(Duration),
    /// No order may be checked now, by this worker or by any: ask again after this time.
    Blocked(Duration),
}

/// The order that was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checked<'a> {
    /// Id of the order.
    pub topup_id: &'a TopupId,
    /// Whether the provider has answered for it before.
    pub known: bool,
}

/// What an answer means for the order that was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// The answer, or the error, is about the order.
    AboutOrder,
    /// There was no usable answer. The number counts the distinct orders, and the list, without one since the provider
    /// last answered for an order; of all workers.
    Failing(u32),
    /// The answer says nothing of the order: check it again after this wait, in real time.
    SaysNothing(Duration),
}

/// Permission for one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permit {
    /// Number of the permit, unique in the deployment.
    pub number: String,
    /// Which API key to use: 0 is the primary one, 1 the secondary.
    pub key: usize,
    /// Whether the breaker is half-open, so that all other orders wait for this answer.
    pub probe: bool,
    /// How long the order has waited for the permit, in real time.
    pub waited: Duration,
}

/// Permits for requests to the provider, shared by all workers.
#[async_trait]
pub trait Budget: Send + Sync + 'static {
    /// Requests a permit. Without one the order joins the wait queue, and its job is rescheduled.
    async fn acquire(&self, request: &PermitRequest) -> PermitDecision;

    /// Requests a permit for a page of the list, which comes before every order: a page shows many of them.
    ///
    /// # Errors
    /// The wait, in real time, where no permit is free now.
    async fn acquire_for_page(&self) -> Result<Permit, Duration>;

    /// Requests a permit for a request that verifies the key, or shows whether the provider answers.
    ///
    /// # Errors
    /// The wait, in real time, where no permit is free now.
    async fn acquire_to_verify(&self) -> Result<Permit, Duration>;

    /// Whether the provider refuses every request of this worker now, because of its keys or its address.
    fn is_refused(&self) -> bool;

    /// Waits until an order of this process gets no permit. Returns at once if one has got none since the last call.
    async fn wait_for_contention(&self);

    /// Reports how a request for this order, or for the list, ended: with this error, or with an answer.
    async fn report(&self, permit: &Permit, order: Option<Checked<'_>>, error: Option<&ApiError>) -> Meaning;

    /// Counts an order that became final between these two ages.
    async fn completed(&self, last: Duration, age: Duration);
}
