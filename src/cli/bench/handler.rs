//! The handler of the bench: it reads the payload of each job and records how late the job started.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use topup_jobs::{JobName, PollTopup};

use crate::clock::real_now;
use crate::job::{Disposition, Handler, Job, Settlement};

/// Metadata field with the time at which a job is due, in ms since 1970.
pub(super) const DUE: &str = "due";

/// Counts jobs and records their lateness. Clones share the recorded figures.
#[derive(Debug, Clone, Default)]
pub(super) struct BenchHandler {
    done: Arc<AtomicU64>,
    /// Lateness in ms (start minus due time) of every job with a due time.
    lateness: Arc<Mutex<Vec<i64>>>,
    hold: Duration,
}

impl BenchHandler {
    /// Creates a handler that keeps every job running for `hold`.
    pub(super) fn holding(hold: Duration) -> Self {
        Self { hold, ..Self::default() }
    }

    pub(super) fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// The recorded lateness in ms, sorted.
    pub(super) fn lateness(&self) -> Vec<i64> {
        let mut lateness = self.lateness.lock().unwrap_or_else(PoisonError::into_inner).clone();
        lateness.sort_unstable();
        lateness
    }
}

#[async_trait]
impl Handler for BenchHandler {
    type Payload = PollTopup;
    const NAME: JobName = JobName::PollTopup;

    async fn handle(&self, job: Job<PollTopup>) -> Settlement {
        let due = job.payload.0.metadata.as_ref().and_then(|metadata| metadata.get(DUE)?.as_i64());
        if let Some(due) = due {
            let late = real_now().timestamp_millis() - due;
            self.lateness.lock().unwrap_or_else(PoisonError::into_inner).push(late);
        }
        if !self.hold.is_zero() {
            tokio::time::sleep(self.hold).await;
        }
        self.done.fetch_add(1, Ordering::Relaxed);
        Settlement::new(Disposition::Complete)
    }
}
