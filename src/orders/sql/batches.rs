//! Calls of jobs that run at the same time, carried out together.
//!
//! A call starts a batch at once, unless `max_concurrent` batches run already. Calls that arrive meanwhile form the next
//! batch, which begins some milliseconds after the previous one. So an idle worker adds no delay, and a busy one needs
//! few statements. If a batch fails or skips a call, its caller carries it out alone and gets any error.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::database::Database;
use crate::error_chain::chain;
use crate::orders::StoreError;
use crate::pace::{Pace, rest};

/// Most calls of a batch, so that one does not hold up the next for long.
const MAX_BATCH: usize = 64;
/// Time limit of the statements of a batch, well below that of a call, so that there is time left to carry it out alone.
const BATCH_TIMEOUT: Duration = Duration::from_secs(2);
/// Time limit of the commit of a batch. The callers do not wait longer.
const COMMIT_TIMEOUT: Duration = super::MAX_CALL;

/// Least time between the beginnings of two batches of several calls.
const INTERVAL: Duration = Duration::from_millis(3);

/// A call that can be part of a batch.
pub(super) trait BatchCall: Sized + Send + 'static {
    type Done: Send + 'static;
    /// What a batch runs in: an open transaction, or the database.
    type Open: Send;

    /// How many batches run at once.
    fn max_concurrent(database: &Database) -> usize;

    /// Prepares a batch. It may take long, so the calls of the batch are chosen afterwards.
    fn open(database: &Database) -> impl Future<Output = Result<Self::Open, StoreError>> + Send;

    /// Runs the statements of a batch. The results are in the order of the calls, with `None` for a call that was not
    /// carried out.
    fn run(
        open: &mut Self::Open,
        batch: Vec<Self>,
    ) -> impl Future<Output = Result<Vec<Option<Self::Done>>, StoreError>> + Send;

    /// Commits the batch, or rolls it back.
    fn close(open: Self::Open, commit: bool) -> impl Future<Output = Result<(), StoreError>> + Send;
}

/// A call that only reads. One batch runs at once, and it needs no transaction.
pub(super) trait BatchRead: Sized + Send + 'static {
    type Done: Send + 'static;

    /// As [`BatchCall::run`].
    fn read(
        database: &Database,
        batch: Vec<Self>,
    ) -> impl Future<Output = Result<Vec<Option<Self::Done>>, StoreError>> + Send;
}

impl<R: BatchRead> BatchCall for R {
    type Done = R::Done;
    type Open = Database;

    fn max_concurrent(_: &Database) -> usize {
        1
    }

    async fn open(database: &Database) -> Result<Database, StoreError> {
        Ok(database.clone())
    }

    async fn run(database: &mut Database, batch: Vec<Self>) -> Result<Vec<Option<R::Done>>, StoreError> {
        R::read(database, batch).await
    }

    async fn close(_: Database, _: bool) -> Result<(), StoreError> {
        Ok(())
    }
}

/// The batches of one kind of call. Clones share them.
pub(super) struct Batches<C: BatchCall>(Arc<Inner<C>>);

struct Inner<C: BatchCall> {
    database: Database,
    state: Mutex<State<C>>,
}

struct State<C: BatchCall> {
    waiting: Vec<Waiting<C>>,
    running: usize,
    pace: Pace,
}

struct Waiting<C: BatchCall> {
    call: C,
    done: oneshot::Sender<Result<C::Done, StoreError>>,
}

impl<C: BatchCall> Clone for Batches<C> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<C: BatchCall> fmt::Debug for Batches<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The values of a call contain data of a customer.
        f.debug_struct("Batches").finish_non_exhaustive()
    }
}

impl<C: BatchCall> Batches<C> {
    pub(super) fn new(database: Database) -> Self {
        let state = Mutex::new(State { waiting: Vec::new(), running: 0, pace: Pace::default() });
        Self(Arc::new(Inner { database, state }))
    }

    /// Carries out a call in a batch. `None` if it was not carried out; the caller then carries it out alone.
    ///
    /// # Errors
    /// [`StoreError::Unconfirmed`] if the call may or may not have been carried out.
    pub(super) async fn carry_out(&self, call: C) -> Result<Option<C::Done>, StoreError> {
        let (done, result) = oneshot::channel();
        let starts = {
            let mut state = self.0.state();
            state.waiting.push(Waiting { call, done });
            let starts = state.running < C::max_concurrent(&self.0.database);
            state.running += usize::from(starts);
            starts
        };
        if starts {
            tokio::spawn(run(Running { batches: Arc::clone(&self.0), counts: true }));
        }
        result.await.ok().transpose()
    }
}

impl<C: BatchCall> Inner<C> {
    fn state(&self) -> MutexGuard<'_, State<C>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A run of batches. It is in `State::running` while `counts` is set.
struct Running<C: BatchCall> {
    batches: Arc<Inner<C>>,
    counts: bool,
}

impl<C: BatchCall> Running<C> {
    /// Whether a call waits. If none does, stops counting as running under the same lock, so that the next call starts a
    /// run.
    fn has_calls(&mut self) -> bool {
        let mut state = self.batches.state();
        self.counts = !state.waiting.is_empty();
        state.running -= usize::from(!self.counts);
        self.counts
    }

    /// Waits before the next batch, unless enough calls wait for it.
    async fn pace(&self) {
        let wait = {
            let state = self.batches.state();
            if state.waiting.len() < MAX_BATCH / 2 {
                state.pace.wait(INTERVAL, Instant::now())
            } else {
                Duration::ZERO
            }
        };
        rest(wait).await;
    }

    /// The calls of the next batch, without cancelled ones.
    fn next(&self) -> Vec<Waiting<C>> {
        let mut state = self.batches.state();
        let most = state.waiting.len().min(MAX_BATCH);
        state.pace.called(most, Instant::now());
        state.waiting.drain(..most).filter(|call| !call.done.is_closed()).collect()
    }
}

impl<C: BatchCall> Drop for Running<C> {
    fn drop(&mut self) {
        if self.counts {
            // A panic, or the end of the runtime, ended the run. The callers of the waiting calls carry them out alone.
            let mut state = self.batches.state();
            state.running -= 1;
            state.waiting.clear();
        }
    }
}

/// Carries out batches until no call waits. Where a call is dropped, its caller carries it out alone.
async fn run<C: BatchCall>(mut running: Running<C>) {
    while running.has_calls() {
        running.pace().await;
        let mut open = match C::open(&running.batches.database).await {
            Ok(open) => open,
            Err(error) => {
                report(&error, running.next().len());
                continue;
            }
        };
        let (calls, done): (Vec<C>, Vec<_>) =
            running.next().into_iter().map(|waiting| (waiting.call, waiting.done)).unzip();
        let number = calls.len();
        let results = match tokio::time::timeout(BATCH_TIMEOUT, C::run(&mut open, calls)).await {
            Ok(Ok(results)) => results,
            Ok(Err(error)) => {
                report(&error, number);
                // A transaction that cannot be rolled back ends with its connection.
                drop(C::close(open, false).await);
                continue;
            }
            Err(_elapsed) => {
                report(&StoreError::TooSlow(BATCH_TIMEOUT), number);
                continue;
            }
        };
        let committed = tokio::time::timeout(COMMIT_TIMEOUT, C::close(open, true)).await;
        let is_confirmed = match committed {
            Ok(Ok(())) => true,
            Ok(Err(error)) if !error.is_of_absence() => {
                report(&error, number);
                continue;
            }
            Ok(Err(_)) | Err(_) => false,
        };
        for (result, done) in results.into_iter().zip(done) {
            // If the caller was cancelled meanwhile, its result is dropped.
            match result {
                Some(_) if !is_confirmed => drop(done.send(Err(StoreError::Unconfirmed))),
                Some(result) => drop(done.send(Ok(result))),
                None => {}
            }
        }
    }
}

fn report(error: &StoreError, calls: usize) {
    let error = chain(error);
    tracing::debug!(error, calls, "a batch of calls to the database failed; each is carried out alone");
}
