//! What a handler gets and what it answers, in the words of the domain.
//!
//! A handler says explicitly what becomes of its job; there is no error type that the queue would have
//! to interpret. It knows neither Redis nor apalis.

use std::time::Duration;

use async_trait::async_trait;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use topup_jobs::{JobName, NotifyCustomer, PollTopup, RecheckTopup, TrackTopup};

/// A worker that has not reported for this long counts as gone, and its leases have run out. Real time.
pub(crate) const WORKER_IS_GONE_AFTER: Duration = Duration::from_secs(5);

/// The work of one job.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// What the job carries.
    type Payload: DeserializeOwned + Send;
    /// The job's one name.
    const NAME: JobName;

    /// The id that a job with this payload must have, so that the queue holds one of it, where it is another than its
    /// id. None where the payload asks for none, or cannot be read.
    #[must_use]
    fn other_id(_id: &[u8], _payload: &[u8]) -> Option<String> {
        None
    }

    /// Does the work and says what becomes of the job.
    async fn handle(&self, job: Job<Self::Payload>) -> Settlement;
}

/// A job as a handler sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Job<P> {
    /// Its id in the queue.
    pub id: String,
    /// Failed attempts before this one.
    pub attempts_made: u32,
    /// What it carries.
    pub payload: P,
}

impl<P> Job<P> {
    /// The job with another form of its payload.
    pub(super) fn map<Q>(self, change: impl FnOnce(P) -> Q) -> Job<Q> {
        Job { id: self.id, attempts_made: self.attempts_made, payload: change(self.payload) }
    }
}

/// What becomes of a job, and what follows from it; both happen in one step or not at all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settlement {
    /// What becomes of the job itself.
    pub disposition: Disposition,
    /// What it carries from now on, if it goes on and that is to change.
    pub payload: Option<Vec<u8>>,
    /// Jobs that follow. One that is already in its queue is left as it is; one with the name and id of
    /// the job itself takes its place.
    pub next: Vec<NextJob>,
}

/// What becomes of the job itself. Waits are real time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Disposition {
    /// The job is done and leaves no trace.
    Complete,
    /// The job could not do its work yet and runs again after this wait. That is no failure; crashes and faults before it
    /// still count.
    Snooze(Duration),
    /// The job failed and runs again after this wait.
    Retry(Duration, String),
    /// The job becomes a dead letter for an operator, for this reason.
    DeadLetter(String),
}

impl Settlement {
    /// A settlement from which nothing follows.
    #[must_use]
    pub fn new(disposition: Disposition) -> Self {
        Self { disposition, payload: None, next: Vec::new() }
    }
}

/// A job to be enqueued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextJob {
    /// Which job, and by that which queue.
    pub job: JobName,
    /// Its id; the queue holds one job of an id.
    pub id: String,
    /// Its payload as JSON.
    pub payload: Vec<u8>,
    /// Real wait before it runs.
    pub delay: Duration,
}

impl NextJob {
    /// A job with this payload.
    ///
    /// # Panics
    /// Never for the payloads of `topup-jobs`: they are plain structs of texts and numbers.
    #[must_use]
    pub fn new(job: JobName, id: impl Into<String>, payload: &impl Serialize, delay: Duration) -> Self {
        Self { job, id: id.into(), payload: encode(payload), delay }
    }

    /// A check of an order, `poll-topup` or `recheck-topup`: one job of an order, whatever its payload.
    #[must_use]
    pub fn check(job: JobName, order: TrackTopup, delay: Duration) -> Self {
        let id = order.topup_id.to_string();
        match job {
            JobName::PollTopup => Self::new(job, id, &PollTopup(order), delay),
            _ => Self::new(JobName::RecheckTopup, id, &RecheckTopup(order), delay),
        }
    }

    /// What a message about an order that is known asks for, at once: one job of a message, in the queue `poll-topup`.
    #[must_use]
    pub fn instruct(order: TrackTopup, message_id: &str) -> Self {
        let id = format!("{}#{message_id}", order.topup_id);
        Self::new(JobName::PollTopup, id, &PollTopup(order), Duration::ZERO)
    }

    /// `notify-customer`, at once.
    #[must_use]
    pub fn notify(notification: &NotifyCustomer) -> Self {
        Self::new(JobName::NotifyCustomer, notification.job_id(), notification, Duration::ZERO)
    }
}

/// A payload as it stands in the queue.
pub(super) fn encode(payload: &impl Serialize) -> Vec<u8> {
    // Invariant: the payloads have no map with keys other than text and no failing serializer.
    serde_json::to_vec(payload).expect("payloads serialize")
}
