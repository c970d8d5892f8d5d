//! What a job asks the budget, and what it answers.

use std::time::Duration;

use async_trait::async_trait;
use topup_jobs::{Timestamp, TopupId};

use crate::provider::ApiError;

/// An order for which somebody wants to ask the provider.
#[derive(Debug, Clone, PartialEq)]
pub struct Wish {
    /// The order.
    pub topup_id: TopupId,
    /// When the provider created it, as far as is known.
    pub created_at: Timestamp,
    /// Its age at the last answer; none where there was no answer yet.
    pub last: Option<Duration>,
    /// Its age now.
    pub age: Duration,
    /// Whether it belongs to the backlog: it is rechecked after hours, or long past fast polling. New orders have
    /// the larger share of the requests, whatever the backlog.
    pub backlog: bool,
    /// Whether it is enough that the list has just shown it, or will.
    pub list_counts: bool,
}

/// Whether the provider may be asked. Waits are real time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Permission {
    /// Ask once, and say how it went.
    Ask(Ticket),
    /// The list of orders has just shown that it is not final; there is no need to ask.
    Sighted,
    /// Others come first, or the budget is spent: come back after this wait.
    Wait(Duration),
    /// No order may be checked now, here or by any worker: come back after this wait.
    Closed(Duration),
}

/// The order that was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checked<'a> {
    /// Its id.
    pub topup_id: &'a TopupId,
    /// Whether the provider has answered for it before.
    pub known: bool,
}

/// What an answer means for the order that was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning {
    /// The answer, or the error, is about the order.
    AboutOrder,
    /// There was no usable answer. Counts the distinct orders, and the list, for which there was none since an order was
    /// last answered for; over all workers.
    Failing(u32),
    /// The answer says nothing of the order: check it again after this wait, in real time.
    SaysNothing(Duration),
}

/// The right to one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// Its number.
    pub number: String,
    /// Which key to ask with: 0 for the primary one, 1 for the secondary.
    pub key: usize,
    /// Whether everybody else waits for this answer.
    pub probe: bool,
    /// How long the order has waited for it, in real time.
    pub waited: Duration,
}

/// What the provider allows, shared by all workers.
#[async_trait]
pub trait Budget: Send + Sync + 'static {
    /// Asks for one request. Who has none waits in line, and comes back.
    async fn ask(&self, wish: &Wish) -> Permission;

    /// Asks for one request for a page of the list: it goes before every order, since it tells of many.
    ///
    /// # Errors
    /// How long to wait, in real time, where there is none now.
    async fn ask_for_page(&self) -> Result<Ticket, Duration>;

    /// Asks for one request that verifies the key or shows whether the provider answers.
    ///
    /// # Errors
    /// How long to wait, in real time, where there is none now.
    async fn ask_to_verify(&self) -> Result<Ticket, Duration>;

    /// Whether the provider refuses every request of this worker now, for its keys or its address.
    fn is_refused(&self) -> bool;

    /// Waits until an order of this process may not ask, unless one might not since this was last asked.
    async fn somebody_waits(&self);

    /// Reports how a request went, for this order or for the list: with this error, or with an answer.
    async fn answered(
        &self,
        ticket: &Ticket,
        order: Option<Checked<'_>>,
        error: Option<&ApiError>,
    ) -> Meaning;

    /// Says that an order became final, somewhere between these two ages.
    async fn completed(&self, last: Duration, age: Duration);
}
