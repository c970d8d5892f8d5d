//! Checks every few seconds whether the database answers, can be written, and is still the one of this worker's start.
//!
//! A check is two small queries and, every 15 seconds, a rehearsal: an order is stored, changed, read and deleted in a
//! transaction that is rolled back. So `/readyz` reports an unusable database before a job fails on it. After a failed
//! check the worker claims no jobs, because another worker may still reach the database.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::claim_pause::ClaimPause;
use crate::deployment::Refusal;
use crate::error_chain::chain;
use crate::orders::{NO_ANSWER, SqlStore, StoreError};

/// Pause between two checks. `TIME_SCALE` changes no duration of this file.
const INTERVAL: Duration = Duration::from_secs(5);
/// Interval of the rehearsals: short enough to notice a database that cannot record deliveries before `restore` has a
/// delivered notification sent again.
const REHEARSAL: Duration = Duration::from_secs(15);
/// Pause after a failed check.
const AGAIN: Duration = Duration::from_secs(1);
/// A check has failed if the database does not answer within this time.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How long a failed check pauses claims. The next check ends or prolongs this pause within about six seconds.
const CLAIMS_PAUSE: Duration = Duration::from_secs(10);
/// How long a job's failed database call makes the worker unready: longer than the 10 s after which the job runs again.
const CALLS_FAIL_FOR: Duration = Duration::from_secs(15);
/// A database call of a starting worker that takes longer than this is logged.
const ANSWERS_AT_START_WITHIN: Duration = Duration::from_secs(10);

/// Whether the database is usable, according to the last check or call.
#[derive(Debug, Clone, Default)]
pub(crate) struct StoreHealth {
    /// Why the database is unusable, in words; `None` if it is usable.
    fault: Arc<Mutex<Option<&'static str>>>,
}

impl StoreHealth {
    /// Whether the last check or call found the database usable. The error is the reason, in words for `/readyz`.
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        self.fault().map_or(Ok(()), Err)
    }

    /// Records that the database is usable.
    pub(crate) fn answered(&self) {
        if self.fault().take().is_some() {
            tracing::info!("the database answers again");
        }
    }

    /// Waits without a time limit for a database call of a starting worker. A call that takes long is logged.
    pub(crate) async fn at_start<T, E>(&self, call: impl Future<Output = Result<T, E>>) -> Result<T, E> {
        tokio::pin!(call);
        if let Ok(answer) = timeout(ANSWERS_AT_START_WITHIN, &mut call).await {
            return answer;
        }
        self.failed(NO_ANSWER, "no answer yet, or a worker is migrating its tables");
        call.await.inspect(|_| self.answered())
    }

    /// Records that the database is unusable. `fault` is for `/readyz` and the log, `why` for the log alone.
    pub(crate) fn failed(&self, fault: &'static str, why: &str) {
        if self.fault().replace(fault) != Some(fault) {
            tracing::warn!(error = why, "{fault}; orders wait until it can be used again");
        }
    }

    fn fault(&self) -> MutexGuard<'_, Option<&'static str>> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) struct StoreWatch {
    pub(crate) store: SqlStore,
    /// The id of the database with which the worker started.
    store_id: String,
    health: StoreHealth,
    claims: ClaimPause,
}

impl StoreWatch {
    pub(crate) fn new(store: SqlStore, store_id: String, health: StoreHealth) -> Self {
        Self { store, store_id, health, claims: ClaimPause::default() }
    }

    pub(crate) fn claim_pause(&self) -> ClaimPause {
        self.claims.clone()
    }

    /// Checks the database until the worker must stop using it, and returns the reason.
    pub(crate) async fn run(self) -> anyhow::Error {
        let (mut pause, mut calls_failed_at) = (INTERVAL, None::<Instant>);
        // The first rehearsal took place when the worker started.
        let mut rehearsed_at = Some(Instant::now());
        loop {
            sleep(pause).await;
            let looked = timeout(ANSWER_WITHIN, async {
                let marks = self.store.look().await?;
                if rehearsed_at.is_none_or(|at| at.elapsed() >= REHEARSAL) {
                    rehearsed_at = None;
                    self.store.rehearse().await?;
                    rehearsed_at = Some(Instant::now());
                }
                Ok(marks)
            });
            let looked = looked.await;
            if matches!(looked, Ok(Ok(_))) {
                self.claims.end();
                pause = INTERVAL;
            } else {
                self.claims.pause_for(CLAIMS_PAUSE);
                // Discards, unlogged, what jobs' database calls met: it has the same cause as this failed check.
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
                        self.health.failed(fault, "database calls of jobs have failed");
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
