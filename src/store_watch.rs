//! Looks every few seconds whether the database answers, and whether it is still the one this worker started with.
//!
//! One small question, whatever the load: a worker whose database is away is not ready before the first order shows it,
//! and one without work costs the database nothing else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{sleep, timeout};

use crate::deployment::Refusal;
use crate::handlers::chain;
use crate::orders::{Marks, SqlStore, StoreError};

/// How often to look. Real time.
const EVERY: Duration = Duration::from_secs(5);
/// How long an answer may take. Real time.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Whether the database answers, as it was last seen.
#[derive(Debug, Clone, Default)]
pub(crate) struct StoreHealth {
    down: Arc<AtomicBool>,
}

impl StoreHealth {
    /// Whether it answered when it was last asked.
    ///
    /// # Errors
    /// Why not, in words.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        if self.down.load(Ordering::Relaxed) { Err("the database does not answer") } else { Ok(()) }
    }

    fn answered(&self) {
        if self.down.swap(false, Ordering::Relaxed) {
            tracing::info!("the database answers again");
        }
    }

    fn failed(&self, why: &str) {
        if !self.down.swap(true, Ordering::Relaxed) {
            tracing::warn!(error = why, "the database does not answer; orders wait until it does");
        }
    }
}

/// See the module.
pub(crate) struct StoreWatch {
    pub(crate) store: SqlStore,
    /// Which store it was at the start.
    pub(crate) store_id: String,
    pub(crate) health: StoreHealth,
}

impl StoreWatch {
    /// Looks until this worker must not go on with the database, and says why.
    pub(crate) async fn run(self) -> anyhow::Error {
        loop {
            sleep(EVERY).await;
            match timeout(ANSWER_WITHIN, self.store.look()).await {
                Ok(Ok(Marks { store_id, .. })) if store_id != self.store_id => {
                    return Refusal::Replaced.into();
                }
                Ok(Ok(_)) => self.health.answered(),
                Ok(Err(error @ StoreError::TooNew)) => return error.into(),
                Ok(Err(error)) => self.health.failed(&chain(&error)),
                Err(_elapsed) => self.health.failed("no answer in time"),
            }
        }
    }
}
