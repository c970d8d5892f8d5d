//! Calls of jobs that run at the same time, carried out together.
//!
//! A call is carried out at once if no other runs. Calls that come meanwhile form the next batch, so an idle worker
//! never waits, and a busy one needs few statements. A call that a batch does not carry out, for example because the
//! batch failed, is carried out alone by its caller, which also sees the fault.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use super::database::Database;
use crate::orders::StoreError;

/// Most calls of a batch, so that one does not hold up the next for long.
const MAX_BATCH: usize = 64;
/// Time limit of a batch, well below that of a call, so that there is time left to carry out the call alone.
const MAX_TIME: Duration = Duration::from_secs(2);

/// A call that can be part of a batch.
pub(super) trait Together: Sized + Send + 'static {
    type Done: Send + 'static;

    /// How many batches run at once.
    fn at_once(database: &Database) -> usize;

    /// Carries out a batch. The results are in the sequence of the calls, with `None` for a call that was not carried
    /// out. After an error, no call was carried out.
    fn carry_out(
        database: &Database,
        batch: Vec<Self>,
    ) -> impl Future<Output = Result<Vec<Option<Self::Done>>, StoreError>> + Send;
}

/// The batches of one kind of call. Clones share them.
pub(super) struct Batches<C: Together>(Arc<Inner<C>>);

struct Inner<C: Together> {
    database: Database,
    state: Mutex<State<C>>,
}

struct State<C: Together> {
    waiting: Vec<Waiting<C>>,
    running: usize,
}

struct Waiting<C: Together> {
    call: C,
    done: oneshot::Sender<C::Done>,
}

impl<C: Together> Clone for Batches<C> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<C: Together> fmt::Debug for Batches<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The values of a call contain data of a customer.
        f.debug_struct("Batches").finish_non_exhaustive()
    }
}

impl<C: Together> Batches<C> {
    pub(super) fn new(database: Database) -> Self {
        let state = Mutex::new(State { waiting: Vec::new(), running: 0 });
        Self(Arc::new(Inner { database, state }))
    }

    /// Carries out a call in a batch. `None` if it was not carried out; the caller then carries it out alone.
    pub(super) async fn carry_out(&self, call: C) -> Option<C::Done> {
        let (done, result) = oneshot::channel();
        let starts = {
            let mut state = self.0.state();
            state.waiting.push(Waiting { call, done });
            let starts = state.running < C::at_once(&self.0.database);
            state.running += usize::from(starts);
            starts
        };
        if starts {
            tokio::spawn(run(Running { batches: Arc::clone(&self.0), counts: true }));
        }
        result.await.ok()
    }
}

impl<C: Together> Inner<C> {
    fn state(&self) -> MutexGuard<'_, State<C>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts as running until it is dropped.
struct Running<C: Together> {
    batches: Arc<Inner<C>>,
    counts: bool,
}

impl<C: Together> Running<C> {
    /// The next batch, without the calls whose callers no longer wait. If no call waits, returns `None` and no longer
    /// counts as running: a call that comes now starts another run.
    fn next(&mut self) -> Option<Vec<Waiting<C>>> {
        let mut state = self.batches.state();
        while !state.waiting.is_empty() {
            let most = state.waiting.len().min(MAX_BATCH);
            let batch: Vec<_> = state.waiting.drain(..most).filter(|call| !call.done.is_closed()).collect();
            if !batch.is_empty() {
                return Some(batch);
            }
        }
        state.running -= 1;
        self.counts = false;
        None
    }
}

impl<C: Together> Drop for Running<C> {
    fn drop(&mut self) {
        // A panic ended the run.
        if self.counts {
            self.batches.state().running -= 1;
        }
    }
}

/// Carries out batches until no call waits.
async fn run<C: Together>(mut running: Running<C>) {
    while let Some(batch) = running.next() {
        let (calls, done): (Vec<C>, Vec<_>) =
            batch.into_iter().map(|waiting| (waiting.call, waiting.done)).unzip();
        let results = tokio::time::timeout(MAX_TIME, C::carry_out(&running.batches.database, calls)).await;
        // If the batch failed, the dropped senders tell the callers that their calls were not carried out.
        for (result, done) in results.ok().and_then(Result::ok).into_iter().flatten().zip(done) {
            if let Some(result) = result {
                // A caller that no longer waits finds the result in the database.
                drop(done.send(result));
            }
        }
    }
}
