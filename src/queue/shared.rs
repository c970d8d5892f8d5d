//! State shared by the tasks of one consumer, such as the name of the worker and the jobs that it holds.

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::job::WORKER_IS_GONE_AFTER;
use crate::redis::{Connection, Names};

/// A worker that has not reported for this long by the clock of Redis (never by scaled time) is presumed dead.
pub(super) const LEASE: Duration = WORKER_IS_GONE_AFTER;
/// After this many crashes (deaths of processes that ran only this job) a job becomes a dead letter (reason `poison`).
pub(super) const MAX_CRASHES: u32 = 3;

/// Takes the id and the payload of a job. Returns the id that the payload requires if the job has another one.
pub(super) type OtherId = fn(&[u8], &[u8]) -> Option<String>;

pub(super) struct Shared {
    pub(super) names: Names,
    /// Name of the queue, `{topup}:<job>`.
    pub(super) queue: String,
    /// The other queues in which the same job may be.
    pub(super) siblings: Vec<String>,
    pub(super) other_id: OtherId,
    /// Key with the number of the last batch of settlements that Redis has applied.
    pub(super) last_batch: String,
    pub(super) connection: Connection,
    /// Wakes the claim task when a job may be due.
    pub(super) wake: Arc<Notify>,
    /// Notified if the worker has lost its registration. The process then sends a heartbeat at once.
    pub(super) report_now: Arc<Notify>,
    pub(super) identity: Mutex<Identity>,
    /// Set if Redis may count jobs as claimed by this worker although the worker does not hold them.
    pub(super) orphaned_claims: AtomicBool,
    /// Whether jobs were scheduled or due when the worker last reported.
    pub(super) some_wait: AtomicBool,
    /// Set before the worker is removed from the queue. Heartbeats then end, as they would register it again.
    pub(super) left: AtomicBool,
}

/// The name of the worker, and the jobs claimed under it. Each start of a process has its own name. A worker that was
/// presumed dead takes a new name, because other workers take over the jobs that it claimed under the old one.
pub(super) struct Identity {
    worker: Arc<str>,
    /// By job id, the number of claims whose settlement Redis has not confirmed yet.
    held: HashMap<Vec<u8>, usize>,
}

impl Identity {
    pub(super) fn new(worker: Arc<str>) -> Self {
        Self { worker, held: HashMap::new() }
    }
}

impl Shared {
    fn identity(&self) -> MutexGuard<'_, Identity> {
        // A poisoned lock still holds a consistent identity, as no change of it can panic halfway.
        self.identity.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn worker(&self) -> Arc<str> {
        Arc::clone(&self.identity().worker)
    }

    /// Returns the name of the worker, and the number of unsettled claims under this name.
    pub(super) fn worker_and_held(&self) -> (Arc<str>, usize) {
        let identity = self.identity();
        (Arc::clone(&identity.worker), identity.held.values().sum())
    }

    /// Takes a new name. Returns the old name and the ids of the jobs that were claimed under it.
    pub(super) fn rename(&self) -> (Arc<str>, Vec<Vec<u8>>) {
        let new = Identity::new(super::worker_name());
        let old = std::mem::replace(&mut *self.identity(), new);
        (old.worker, old.held.into_keys().collect())
    }

    /// Records that the worker claimed a job under this name. Returns false if the worker has a new name by now.
    pub(super) fn hold(&self, worker: &str, id: &[u8]) -> bool {
        let mut identity = self.identity();
        let current = &*identity.worker == worker;
        if current {
            *identity.held.entry(id.to_vec()).or_default() += 1;
        }
        current
    }

    /// Whether the worker holds this job, or Redis has yet to confirm its settlement.
    pub(super) fn holds(&self, id: &[u8]) -> bool {
        self.identity().held.contains_key(id)
    }

    /// Removes one claim of this job, whose settlement Redis has confirmed, if the worker still has this name.
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
