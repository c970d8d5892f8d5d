//! The trait of a budget, which permits requests to the provider, and its types. Real time is time that is not scaled.

use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use topup_jobs::{Timestamp, TopupId};

use crate::provider::ApiError;

/// A request for a permit to check an order.
#[derive(Debug, Clone, PartialEq)]
pub struct PermitRequest {
    /// Id of the order.
    pub topup_id: TopupId,
    /// When the provider created the order; the start of tracking if that is unknown.
    pub created_at: Timestamp,
    /// Age of the order at the provider's last answer; `None` before the first one.
    pub last: Option<Duration>,
    /// Age of the order now.
    pub age: Duration,
    /// Whether the order is in the backlog: it is rechecked, or long past fast polling. New orders get more requests.
    pub backlog: bool,
    /// Whether a row of the list may replace the request.
    pub list_counts: bool,
}

/// A decision of the budget. Its waits are real (not scaled) time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PermitDecision {
    /// The order may be checked once, and the answer must be reported.
    Granted(Permit),
    /// The list of orders has just shown that the order is not final; no request is needed.
    SeenInList,
    /// Other orders come first, or the budget is used up. The order waits in the queue; request again after this time.
    Wait(Duration),
    /// As [`PermitDecision::Wait`], for one of the first orders in the queue, if only requests in flight keep it from a
    /// permit. It may request again as soon as one ends.
    Full(Duration),
    /// This worker, or every worker, may check no order now; request again after this time.
    Blocked(Duration),
}

/// The order that a request was about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checked<'a> {
    /// Id of the order.
    pub topup_id: &'a TopupId,
    /// Whether the provider has answered for the order before.
    pub known: bool,
}

/// What an answer means for the order that was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// The answer, or the error, is about the order.
    AboutOrder,
    /// There was no usable answer. The number counts the orders whose checks failed, at all workers, since the provider
    /// last answered for an order; the list counts as one order. After an hour of failures the number is 1.
    Failing(u32),
    /// The answer says nothing about the order: check it again after this wait, in real (not scaled) time.
    SaysNothing(Duration),
}

/// Permission for one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permit {
    /// Number of the permit, unique in the deployment.
    pub number: String,
    /// The API key to use: 0 for the primary key, 1 for the secondary.
    pub key: usize,
    /// Whether the request is the probe of a half-open breaker, so that all other orders wait for its answer.
    pub probe: bool,
    /// How long the order has waited for the permit, in real (not scaled) time.
    pub waited: Duration,
}

/// Permits for requests to the provider, shared by all workers.
#[async_trait]
pub trait Budget: Send + Sync + 'static {
    /// Requests a permit. After `Wait` or `Full` the order is in the wait queue.
    async fn acquire(&self, request: &PermitRequest) -> PermitDecision;

    /// Changes whenever a request of this process has ended and a permit may be free.
    fn ended_requests(&self) -> watch::Receiver<()>;

    /// Whether a request of this process is in flight.
    fn has_request_in_flight(&self) -> bool;

    /// Requests a permit for a page of the list. A page comes before most orders, because it shows many of them.
    ///
    /// # Errors
    /// The wait, in real time, if no permit is free now.
    async fn acquire_for_page(&self) -> Result<Permit, Duration>;

    /// Requests a permit for a request that verifies the key or shows whether the provider answers.
    ///
    /// # Errors
    /// The wait, in real time, if no permit is free now.
    async fn acquire_to_verify(&self) -> Result<Permit, Duration>;

    /// Whether the provider refuses every request of this worker now, because of its keys or its address.
    fn is_refused(&self) -> bool;

    /// Waits until an order of this process is denied a permit. Returns at once if that happened since the last call.
    async fn wait_for_contention(&self);

    /// Reports how a request ended. `order` is `None` for the list; `error` is `None` if there was a usable answer.
    async fn report(&self, permit: &Permit, order: Option<Checked<'_>>, error: Option<&ApiError>) -> Meaning;

    /// Counts an order that was not yet final at age `last` and was final at age `age`.
    async fn completed(&self, last: Duration, age: Duration);
}
