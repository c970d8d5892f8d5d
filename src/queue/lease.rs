//! A claimed job and its [`Lease`]. The code that holds the lease owns the job and one of the worker's slots. Settling
//! the job consumes the lease. If a lease is dropped unsettled, the job returns to its queue, so no job is lost.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::UnboundedSender;

use crate::job::{Disposition, Settlement};
use crate::redis::millis;

#[derive(Debug)]
pub(super) struct ClaimedJob {
    /// Bytes, not text, because another program may have chosen any id.
    pub(super) id: Vec<u8>,
    /// `None` if another program enqueued an id without a payload.
    pub(super) payload: Option<Vec<u8>>,
    /// Failed attempts before this one.
    pub(super) attempts_made: u32,
    /// Number of times that its handler panicked or took too long.
    pub(super) faults: u32,
    /// Number of processes that died while they ran only this job.
    pub(super) crashes: u32,
    /// Whether a worker that held the job was presumed dead. The job may have killed that worker.
    pub(super) suspect: bool,
    pub(super) lease: Option<Lease>,
}

/// The right to settle a job, and the slot that the job takes.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) worker: Arc<str>,
    pub(super) id: Vec<u8>,
    pub(super) settle: UnboundedSender<Settling>,
    pub(super) slot: Option<Slot>,
}

/// The permits to run a job and to settle it.
#[derive(Debug)]
pub(super) struct Slot {
    /// Held while the job runs. Dropping it lets the worker run another job.
    pub(super) _running: OwnedSemaphorePermit,
    /// Held until Redis has settled the job. The number of these permits bounds the claims while Redis is unreachable.
    pub(super) unsettled: OwnedSemaphorePermit,
}

/// A settlement on its way to Redis.
#[derive(Debug)]
pub(super) struct Settling {
    pub(super) worker: Arc<str>,
    pub(super) id: Vec<u8>,
    pub(super) end: SettlingEnd,
    pub(super) _unsettled: OwnedSemaphorePermit,
}

#[derive(Debug)]
pub(super) enum SettlingEnd {
    Settled(Settlement),
    /// The handler panicked or took too long; the job runs again after this wait.
    Fault(Duration, String),
    /// The process that ran only this job died. The job runs again, or becomes a dead letter after `MAX_CRASHES`.
    Crashed,
    /// The handler panicked or took too long `MAX_FAULTS` times; `settle.lua` makes the job a dead letter.
    Condemned(String),
    /// The job goes back to the head of its queue.
    Released,
}

impl Lease {
    /// Settles the job. The settlement is kept until Redis has confirmed it.
    pub(super) fn settle(mut self, end: SettlingEnd) {
        self.send(end);
    }

    fn send(&mut self, end: SettlingEnd) {
        // Drops `_running`, so that the next job can run while the settlement of this job is on its way.
        if let Some(Slot { unsettled, .. }) = self.slot.take() {
            let (worker, id) = (Arc::clone(&self.worker), std::mem::take(&mut self.id));
            let settling = Settling { worker, id, end, _unsettled: unsettled };
            if self.settle.send(settling).is_err() {
                // Unexpected: the task that settles jobs ends only after the last lease, or with the process.
                tracing::warn!(
                    "the result of a job could not be recorded, because the worker is ending; the job runs again"
                );
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.send(SettlingEnd::Released);
    }
}

impl Settling {
    /// Whether the job is complete and has no following job.
    pub(super) fn only_finishes(&self) -> bool {
        matches!(&self.end, SettlingEnd::Settled(Settlement { disposition: Disposition::Complete, next, .. }) if next.is_empty())
    }

    /// Adds the arguments of `settle.lua` for this job.
    pub(super) fn write_args(&self, names: &crate::redis::Names, call: &mut redis::ScriptInvocation<'_>) {
        let (action, delay, reason) = match &self.end {
            SettlingEnd::Released => ("release", Duration::ZERO, ""),
            SettlingEnd::Fault(wait, what) => ("fault", *wait, what.as_str()),
            SettlingEnd::Crashed => ("crash", Duration::ZERO, ""),
            SettlingEnd::Condemned(reason) => ("condemned", Duration::ZERO, reason.as_str()),
            SettlingEnd::Settled(settlement) => match &settlement.disposition {
                Disposition::Complete => ("complete", Duration::ZERO, ""),
                Disposition::Snooze(wait) => ("snooze", *wait, ""),
                Disposition::Retry(wait, error) => ("retry", *wait, error.as_str()),
                Disposition::DeadLetter(reason) => ("dead-letter", Duration::ZERO, reason.as_str()),
            },
        };
        let (payload, next) = match &self.end {
            SettlingEnd::Settled(settlement) => {
                (settlement.payload.as_deref().unwrap_or_default(), settlement.next.as_slice())
            }
            _ => Default::default(),
        };
        call.arg(self.id.as_slice()).arg(action).arg(millis(delay)).arg(reason).arg(payload).arg(next.len());
        for next in next {
            call.arg(names.queue(next.job)).arg(next.id.as_str()).arg(next.payload.as_slice());
            call.arg(millis(next.delay));
        }
    }
}
