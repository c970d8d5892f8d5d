//! Looks every few seconds whether the database answers and can be written, and whether it is still the one this worker
//! started with.
//!
//! Two small questions, whatever the load: a worker whose database is away is not ready before the first order shows it,
//! and one without work costs the database nothing else. While a look fails, the worker claims no jobs: another worker
//! may have the database, or a connection to it.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::claim_pause::ClaimPause;
use crate::deployment::Refusal;
use crate::error_chain::chain;
use crate::orders::{NO_ANSWER, SqlStore, StoreError};

/// How often to look. Real time.
const INTERVAL: Duration = Duration::from_secs(5);
/// When to look again after it could not be used. Real time.
const AGAIN: Duration = Duration::from_secs(1);
/// How long an answer may take. Real time.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How long one look that fails keeps the worker from claiming jobs: until after the next one.
const CLAIMS_PAUSE: Duration = Duration::from_secs(10);
/// How long the worker is not ready after a call of a job has failed. Longer than the ten seconds after which the job tries
/// again and shows whether the database works. Real time.
const CALLS_FAIL_FOR: Duration = Duration::from_secs(15);
/// A database that has not answered a worker that starts for so long is reported. Real time.
const ANSWERS_AT_START_WITHIN: Duration = Duration::from_secs(10);

/// Whether the database can be used, as it was last seen.
#[derive(Debug, Clone, Default)]
pub(crate) struct StoreHealth {
    /// Why not, in words.
    fault: Arc<Mutex<Option<&'static str>>>,
}

impl StoreHealth {
    /// Whether it could be used when it was last asked.
    ///
    /// # Errors
    /// Why not, in words.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        self.fault().map_or(Ok(()), Err)
    }

    /// It can be used.
    pub(crate) fn answered(&self) {
        if self.fault().take().is_some() {
            tracing::info!("the database answers again");
        }
    }

    /// Waits for a call that a worker makes at its start, however long it takes; one that takes long is reported.
    pub(crate) async fn at_start<T, E>(&self, call: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        tokio::pin!(call);
        if let Ok(answer) = timeout(ANSWERS_AT_START_WITHIN, &mut call).await {
            return answer;
        }
        self.failed(NO_ANSWER, "it has not answered yet, or its tables are being brought up to date");
        call.await.inspect(|_| self.answered())
    }

    /// It cannot be used, for this reason, in words for `/readyz` and for the log.
    pub(crate) fn failed(&self, fault: &'static str, why: &str) {
        if self.fault().replace(fault) != Some(fault) {
            tracing::warn!(error = why, "{fault}; orders wait until it can be used again");
        }
    }

    fn fault(&self) -> MutexGuard<'_, Option<&'static str>> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See the module.
pub(crate) struct StoreWatch {
    pub(crate) store: SqlStore,
    /// Which store it was at the start.
    store_id: String,
    health: StoreHealth,
    claims: ClaimPause,
}

impl StoreWatch {
    pub(crate) fn new(store: SqlStore, store_id: String, health: StoreHealth) -> Self {
        Self { store, store_id, health, claims: ClaimPause::default() }
    }

    /// Keeps jobs from being claimed while the database cannot be used.
    pub(crate) fn claim_pause(&self) -> ClaimPause {
        self.claims.clone()
    }

    /// Looks until this worker must not go on with the database, and says why.
    pub(crate) async fn run(self) -> anyhow::Error {
        let (mut pause, mut calls_failed_at) = (INTERVAL, None::<Instant>);
        loop {
            sleep(pause).await;
            let looked = timeout(ANSWER_WITHIN, self.store.look()).await;
            if matches!(looked, Ok(Ok(_))) {
                self.claims.end();
                pause = INTERVAL;
            } else {
                self.claims.pause_for(CLAIMS_PAUSE);
                // Calls of jobs that have failed till now say no more than that.
                self.store.take_fault();
                (pause, calls_failed_at) = (AGAIN, None);
            }
            match looked {
                Ok(Ok(marks)) if marks.store_id != self.store_id => return Refusal::Replaced.into(),
                Ok(Ok(_)) => match self.store.take_fault() {
                    None if calls_failed_at.is_some_and(|at| at.elapsed() < CALLS_FAIL_FOR) => {}
                    None => self.health.answered(),
                    Some(fault) => {
                        calls_failed_at = Some(Instant::now());
                        self.health.failed(fault, "calls of jobs have failed");
                    }
                },
                Ok(Err(error @ StoreError::TooNew)) => return error.into(),
                Ok(Err(error)) => {
                    self.health.failed(error.fault().unwrap_or(NO_ANSWER), &chain(&error));
                }
                Err(_elapsed) => self.health.failed(NO_ANSWER, "no answer in time"),
            }
        }
    }
}
