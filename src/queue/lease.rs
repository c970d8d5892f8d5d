//! A claimed job and the lease on it.
//!
//! The lease is a value: its holder owns the job and one of the worker's slots. Settling consumes
//! it; dropping it unsettled gives the job back, so that no path of the code can lose one.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::UnboundedSender;

use crate::job::{Disposition, Settlement};
use crate::redis::millis;

/// A job that this worker has claimed.
#[derive(Debug)]
pub(super) struct ClaimedJob {
    /// Its id in the queue, as the bytes that stand there.
    pub(super) id: Vec<u8>,
    /// What it carries; nothing where a foreign program left an id without a payload.
    pub(super) payload: Option<Vec<u8>>,
    /// Failed attempts before this one.
    pub(super) attempts_made: u32,
    /// How often its handler has failed to say what becomes of it.
    pub(super) faults: u32,
    /// How often a process has died that ran this job and no other.
    pub(super) crashes: u32,
    /// Whether a worker was lost that held it: it may have killed that worker.
    pub(super) suspect: bool,
    /// The right to settle it.
    pub(super) lease: Option<Lease>,
}

/// The right to settle a job, and the slot it takes.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) worker: Arc<str>,
    pub(super) id: Vec<u8>,
    pub(super) settle: UnboundedSender<Settling>,
    pub(super) slot: Option<Slot>,
}

/// The right to run a job, and to settle it.
#[derive(Debug)]
pub(super) struct Slot {
    /// Free again once the job has run.
    pub(super) _running: OwnedSemaphorePermit,
    /// Free again once Redis has settled it: while it refuses to, jobs are not claimed without end.
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
    /// The handler failed to say what becomes of the job; it runs again after this wait.
    Fault(Duration, String),
    /// The process of its own in which it ran has died; it runs again, or it is poison.
    Crashed,
    /// The queue made it a dead letter, for this reason: its handler never said what becomes of it.
    Condemned(String),
    /// The job goes back to the head of its queue.
    Released,
}

impl Lease {
    /// Hands over what becomes of the job. It is kept until Redis has it.
    pub(super) fn settle(mut self, end: SettlingEnd) {
        self.send(end);
    }

    fn send(&mut self, end: SettlingEnd) {
        // The slot is free for the next job while this one's settlement is on its way.
        if let Some(Slot { unsettled, .. }) = self.slot.take() {
            let (worker, id) = (Arc::clone(&self.worker), std::mem::take(&mut self.id));
            let settling = Settling { worker, id, end, _unsettled: unsettled };
            if self.settle.send(settling).is_err() {
                // The settling task ends only after every lease is gone, or with the process.
                tracing::warn!("a job was left to its lease: the settling task has ended");
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
    /// Whether the job is done and nothing follows from it.
    pub(super) fn only_finishes(&self) -> bool {
        matches!(&self.end, SettlingEnd::Settled(Settlement { disposition: Disposition::Complete, next, .. }) if next.is_empty())
    }

    /// The arguments of `settle.lua` for this job.
    pub(super) fn write_args(&self, names: &crate::redis::Names, call: &mut redis::ScriptInvocation<'_>) {
        let (action, delay, reason) = match &self.end {
            SettlingEnd::Released => ("release", Duration::ZERO, ""),
            SettlingEnd::Fault(wait, what) => ("fault", *wait, what.as_str()),
            SettlingEnd::Crashed => ("crash", Duration::ZERO, ""),
            SettlingEnd::Condemned(reason) => ("poison", Duration::ZERO, reason.as_str()),
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
