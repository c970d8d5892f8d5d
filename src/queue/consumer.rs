//! One worker's side of one queue: claim, keep the lease, settle.
//!
//! Two tasks, so that neither waits for the other or for a handler: *claim* takes as many due jobs as there
//! are free slots and sleeps until the next one is due; *settle* hands results to Redis in batches and holds
//! them while Redis is away. The leases of all queues are kept by one task of the process. None of them ends
//! because of Redis.
//!
//! An answer of Redis may be lost after its script has run. So a batch of settlements carries a number
//! under which it is carried out once, and jobs that stand as claimed by this worker while it holds no
//! lease on them are given back.

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::claim::Claim;
use super::lease::ClaimedJob;
use super::settle::{MOST_SETTLED, settle_all};
use crate::claim_pause::ClaimPause;
use crate::job::{Handler, WORKER_IS_GONE_AFTER};
use crate::redis::{Connection, Names};
use crate::slots::Slots;

/// A worker that has not reported for this long is taken for dead. Real time, whatever the clock's scale.
pub(super) const LEASE: Duration = WORKER_IS_GONE_AFTER;
/// A job is poison once so many processes have died that ran it and no other.
pub(super) const MOST_CRASHES: u32 = 3;

/// The id that a job with this payload must have, if the payload asks for one.
pub(super) type OtherId = fn(&[u8], &[u8]) -> Option<String>;

/// What the tasks of a consumer share.
pub(super) struct Shared {
    pub(super) names: Names,
    /// `{topup}:<job>`.
    pub(super) queue: String,
    /// The other queues in which the same job may be.
    pub(super) siblings: Vec<String>,
    /// The id that a payload asks for.
    pub(super) other_id: OtherId,
    /// Holds the number of the last batch of settlements that Redis has carried out.
    pub(super) last_batch: String,
    pub(super) connection: Connection,
    /// Wakes the claim task: something may be due.
    pub(super) wake: Arc<Notify>,
    /// Has the process report at once: the worker's registration was found gone.
    pub(super) report_now: Arc<Notify>,
    identity: Mutex<Identity>,
    /// Set when Redis may count more jobs as claimed by this worker than it knows of.
    pub(super) stranded: AtomicBool,
    /// Whether jobs were scheduled or due when the worker last reported.
    pub(super) some_wait: AtomicBool,
    /// Set before the worker leaves the queue: a report behind that would register it again.
    pub(super) left: AtomicBool,
}

/// Under which name jobs are claimed now, and which. Each start has a name of its own, and a worker that was
/// taken for dead takes a new one: whatever it still holds under the old name is no longer its own.
struct Identity {
    worker: Arc<str>,
    /// Ids of the jobs claimed under this name, each as often as there is a lease on it or a settlement that
    /// Redis has not confirmed.
    held: HashMap<Vec<u8>, usize>,
}

impl Shared {
    fn identity(&self) -> MutexGuard<'_, Identity> {
        // A poisoned lock holds a whole identity all the same: nothing in between can panic.
        self.identity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The name under which jobs are claimed now.
    pub(super) fn worker(&self) -> Arc<str> {
        Arc::clone(&self.identity().worker)
    }

    /// The same, and how many leases there are under it.
    pub(super) fn worker_and_held(&self) -> (Arc<str>, usize) {
        let identity = self.identity();
        (Arc::clone(&identity.worker), identity.held.values().sum())
    }

    /// Takes a new name, under which nothing is held yet. Returns the old one, and the jobs that were held under it.
    pub(super) fn rename(&self) -> (Arc<str>, Vec<Vec<u8>>) {
        let new = Identity { worker: super::worker_name(), held: HashMap::new() };
        let old = std::mem::replace(&mut *self.identity(), new);
        (old.worker, old.held.into_keys().collect())
    }

    /// A job was claimed under this name. Returns whether that is the name still.
    pub(super) fn hold(&self, worker: &str, id: &[u8]) -> bool {
        let mut identity = self.identity();
        let current = &*identity.worker == worker;
        if current {
            *identity.held.entry(id.to_vec()).or_default() += 1;
        }
        current
    }

    /// Whether there is a lease on this job.
    pub(super) fn holds(&self, id: &[u8]) -> bool {
        self.identity().held.contains_key(id)
    }

    /// A lease under this name has ended, as far as Redis is concerned.
    pub(super) fn forget(&self, worker: &str, id: &[u8]) {
        let mut identity = self.identity();
        if &*identity.worker == worker
            && let Some(times) = identity.held.get_mut(id)
        {
            *times -= 1;
            if *times == 0 {
                identity.held.remove(id);
            }
        }
    }
}

/// The tasks of one consumer.
pub(super) struct Consumer {
    pub(super) shared: Arc<Shared>,
    stop: CancellationToken,
    claim: JoinHandle<()>,
    settle: JoinHandle<()>,
}

impl Consumer {
    /// Starts consuming the queue of this handler; claimed jobs arrive at the receiver.
    pub(super) fn start<H: Handler>(
        names: Names,
        slots: &Slots,
        connection: Connection,
        wake: Arc<Notify>,
        report_now: Arc<Notify>,
        pauses: Vec<ClaimPause>,
    ) -> (Self, UnboundedReceiver<ClaimedJob>) {
        let worker = super::worker_name();
        let queue = names.queue(H::NAME);
        let siblings = names.siblings(H::NAME);
        let shared = Arc::new(Shared {
            names,
            last_batch: format!("{queue}:settled:{worker}"),
            queue,
            siblings,
            other_id: H::other_id,
            connection,
            wake,
            report_now,
            identity: Mutex::new(Identity { worker, held: HashMap::new() }),
            stranded: AtomicBool::new(false),
            some_wait: AtomicBool::new(false),
            left: AtomicBool::new(false),
        });
        let stop = CancellationToken::new();
        let (jobs, received) = unbounded_channel();
        let (settle, settlings) = unbounded_channel();
        let claim = Claim {
            shared: Arc::clone(&shared),
            slots: slots.running(),
            unsettled: Arc::new(Semaphore::new(slots.most() + MOST_SETTLED)),
            jobs,
            settle,
            pauses,
        };
        let consumer = Self {
            claim: tokio::spawn(claim.run(stop.clone())),
            settle: tokio::spawn(settle_all(Arc::clone(&shared), settlings)),
            stop,
            shared,
        };
        (consumer, received)
    }

    /// Claims nothing more; what is claimed goes on.
    pub(super) fn stop(&self) {
        self.stop.cancel();
    }

    /// Waits until everything claimed is settled or given back, then leaves the queue. The receiver and
    /// all leases must be gone, or going.
    pub(super) async fn leave(self) {
        self.stop.cancel();
        for task in [self.claim, self.settle] {
            if let Err(error) = task.await {
                tracing::error!(%error, "a task of the queue died");
            }
        }
    }

    /// Whether all tasks run.
    pub(super) fn is_alive(&self) -> bool {
        let claims = self.stop.is_cancelled() || !self.claim.is_finished();
        claims && !self.settle.is_finished()
    }
}
