//! The interface between queue and handlers: a job, its handler and its settlement.
//!
//! A handler decides explicitly what becomes of its job, so that the queue has no error type to interpret. A handler
//! knows neither Redis nor apalis.

use std::time::Duration;

use async_trait::async_trait;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use topup_jobs::{JobName, NotifyCustomer, PollTopup, RecheckTopup, TrackTopup};

/// A worker that has not reported for this long in real time counts as gone. Its leases have then expired.
pub(crate) const WORKER_IS_GONE_AFTER: Duration = Duration::from_secs(5);

/// The handler of one kind of job.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// The payload of the job.
    type Payload: DeserializeOwned + Send;
    /// The name of the job, and of its queue.
    const NAME: JobName;

    /// The id that this payload requires, if another program gave the job a different one. With it, a queue cannot hold
    /// the same work twice. `None` if `_id` is right, or if the payload names no id or cannot be read.
    #[must_use]
    fn other_id(_id: &[u8], _payload: &[u8]) -> Option<String> {
        None
    }

    /// Does the work and returns what becomes of the job.
    async fn handle(&self, job: Job<Self::Payload>) -> Settlement;
}

/// A job as a handler sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct Job<P> {
    /// The id of the job in its queue.
    pub id: String,
    /// Failed attempts before this one.
    pub attempts_made: u32,
    /// The decoded payload.
    pub payload: P,
}

impl<P> Job<P> {
    pub(super) fn map<Q>(self, change: impl FnOnce(P) -> Q) -> Job<Q> {
        Job { id: self.id, attempts_made: self.attempts_made, payload: change(self.payload) }
    }
}

/// What becomes of a job, and the jobs to enqueue after it. One script applies both.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settlement {
    /// What becomes of the settled job.
    pub disposition: Disposition,
    /// The new payload if the job runs again. `None` keeps the present one.
    pub payload: Option<Vec<u8>>,
    /// Jobs to enqueue. If the queue already holds a job with the same id, that job stays unchanged. Only the settled
    /// job itself is replaced by a next job with its name and id.
    pub next: Vec<NextJob>,
}

/// What becomes of a settled job. Waits are in real time, which is not scaled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Disposition {
    /// The job is done and leaves no trace.
    Complete,
    /// The job was not ready and runs again after this wait. The run is not a failed attempt, and the counts of crashes
    /// (deaths of the job's process) and faults (panics and time-outs of its handler) stay.
    Snooze(Duration),
    /// The job failed and runs again after this wait.
    Retry(Duration, String),
    /// The job becomes a dead letter for this reason.
    DeadLetter(String),
}

impl Settlement {
    /// A settlement without a new payload and without next jobs.
    #[must_use]
    pub fn new(disposition: Disposition) -> Self {
        Self { disposition, payload: None, next: Vec::new() }
    }
}

/// A job to be enqueued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextJob {
    /// The name of the job, and of its queue.
    pub job: JobName,
    /// The id of the job. A queue holds at most one job with an id.
    pub id: String,
    /// The payload as JSON.
    pub payload: Vec<u8>,
    /// The wait before the job runs, in real time.
    pub delay: Duration,
}

impl NextJob {
    /// A job with this payload.
    ///
    /// # Panics
    /// Never for the payloads of `topup-jobs`, which are plain structs of texts and numbers.
    #[must_use]
    pub fn new(job: JobName, id: impl Into<String>, payload: &impl Serialize, delay: Duration) -> Self {
        Self { job, id: id.into(), payload: encode(payload), delay }
    }

    /// A check of an order, `poll-topup` or `recheck-topup`. Its id is the order's, so that an order has one such job.
    #[must_use]
    pub fn check(job: JobName, order: TrackTopup, delay: Duration) -> Self {
        let id = order.topup_id.to_string();
        match job {
            JobName::PollTopup => Self::new(job, id, &PollTopup(order), delay),
            _ => Self::new(JobName::RecheckTopup, id, &RecheckTopup(order), delay),
        }
    }

    /// A job in the queue `poll-topup` that applies one message about a known order. The job is due at once.
    #[must_use]
    pub fn instruct(order: TrackTopup, message_id: &str) -> Self {
        let id = format!("{}#{message_id}", order.topup_id);
        Self::new(JobName::PollTopup, id, &PollTopup(order), Duration::ZERO)
    }

    /// A `notify-customer` job that runs at once.
    #[must_use]
    pub fn notify(notification: &NotifyCustomer) -> Self {
        Self::new(JobName::NotifyCustomer, notification.job_id(), notification, Duration::ZERO)
    }
}

/// Encodes a payload for the queue.
pub(super) fn encode(payload: &impl Serialize) -> Vec<u8> {
    // Invariant: encoding cannot fail, because all map keys of the payloads are texts and no serializer fails.
    serde_json::to_vec(payload).expect("payloads serialize")
}
