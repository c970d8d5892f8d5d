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
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::Names;
use super::claim::Claim;
use super::connection::Connection;
use super::lease::ClaimedJob;
use super::settle::settle_all;

/// A worker that has not reported for this long is taken for dead. Real time, whatever the clock's scale.
pub(super) const LEASE: Duration = Duration::from_secs(5);
/// A job whose process died this often while running it is poison.
pub(super) const MOST_CRASHES: u32 = 3;

/// What the tasks of a consumer share.
pub(super) struct Shared {
    pub(super) names: Names,
    /// `{topup}:<job>`.
    pub(super) queue: String,
    /// Holds the number of the last batch of settlements that Redis has carried out.
    pub(super) last_batch: String,
    pub(super) connection: Connection,
    /// Wakes the claim task: something may be due.
    pub(super) wake: Arc<Notify>,
    /// Name under which jobs are claimed now. Each start has its own, and a worker that was taken for
    /// dead takes a new one: whatever it still holds under the old name is no longer its own.
    worker: RwLock<Arc<str>>,
    /// Has the process report at once: the worker's registration was found gone.
    pub(super) report_now: Arc<Notify>,
    /// Ids of the jobs of which this worker knows, each as often as it holds a lease on it or a
    /// settlement that Redis has not confirmed.
    held: Mutex<HashMap<Vec<u8>, usize>>,
    /// Set when Redis may count more jobs as claimed by this worker than it knows of.
    pub(super) stranded: AtomicBool,
}

impl Shared {
    /// See the field.
    pub(super) fn worker(&self) -> Arc<str> {
        // A poisoned lock holds a whole name all the same: it is replaced in one assignment.
        Arc::clone(&self.worker.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes a new name.
    pub(super) fn rename(&self) {
        *self.worker.write().unwrap_or_else(PoisonError::into_inner) = super::worker_name();
    }

    /// See the field.
    pub(super) fn held(&self) -> MutexGuard<'_, HashMap<Vec<u8>, usize>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A lease on this job has ended, as far as Redis is concerned.
    pub(super) fn forget(&self, id: &[u8]) {
        let mut held = self.held();
        if let Some(times) = held.get_mut(id) {
            *times -= 1;
            if *times == 0 {
                held.remove(id);
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
    /// Starts consuming; claimed jobs arrive at the receiver.
    pub(super) fn start(
        names: Names,
        queue: String,
        slots: usize,
        connection: Connection,
        wake: Arc<Notify>,
        report_now: Arc<Notify>,
    ) -> (Self, UnboundedReceiver<ClaimedJob>) {
        let worker = super::worker_name();
        let shared = Arc::new(Shared {
            names,
            last_batch: format!("{queue}:settled:{worker}"),
            queue,
            connection,
            wake,
            worker: RwLock::new(worker),
            report_now,
            held: Mutex::default(),
            stranded: AtomicBool::new(false),
        });
        let stop = CancellationToken::new();
        let (jobs, received) = unbounded_channel();
        let (settle, settlings) = unbounded_channel();
        let claim =
            Claim { shared: Arc::clone(&shared), slots: Arc::new(Semaphore::new(slots)), jobs, settle };
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
