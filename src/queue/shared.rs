//! What the tasks of one consumer share: under which name the worker claims, and what it holds.

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::job::WORKER_IS_GONE_AFTER;
use crate::redis::{Connection, Names};

/// A worker that has not reported for this long is taken for dead. Real time, whatever the clock's scale.
pub(super) const LEASE: Duration = WORKER_IS_GONE_AFTER;
/// A job is poison once so many processes have died that ran it and no other.
pub(super) const MAX_CRASHES: u32 = 3;

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
    pub(super) identity: Mutex<Identity>,
    /// Set when Redis may count more jobs as claimed by this worker than it knows of.
    pub(super) orphaned_claims: AtomicBool,
    /// Whether jobs were scheduled or due when the worker last reported.
    pub(super) some_wait: AtomicBool,
    /// Set before the worker leaves the queue: a report behind that would register it again.
    pub(super) left: AtomicBool,
}

/// Under which name jobs are claimed now, and which. Each start has a name of its own, and a worker that was
/// taken for dead takes a new one: whatever it still holds under the old name is no longer its own.
pub(super) struct Identity {
    worker: Arc<str>,
    /// Ids of the jobs claimed under this name, once for each lease on it or settlement that
    /// Redis has not confirmed.
    held: HashMap<Vec<u8>, usize>,
}

impl Identity {
    /// Under this name, with nothing held yet.
    pub(super) fn new(worker: Arc<str>) -> Self {
        Self { worker, held: HashMap::new() }
    }
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
        let new = Identity::new(super::worker_name());
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
