//! Puts back what the store knows of and no queue holds.
//!
//! Redis may lose what it has promised: it is flushed, comes back from an older file, or fails over to a
//! replica that lags. The store has every order that is not final, with the time of its next look, and
//! everything that is still to be told. What is long past its time and in no queue is put back; what is in
//! a queue, in flight or a dead letter is left alone, so any number of workers may do this.

use std::sync::Arc;
use std::time::Duration;

use topup_jobs::{JobName, OrderStatus, TopupId, TrackTopup};

use crate::clock::Clock;
use crate::handlers::NextJob;
use crate::orders::{OrderStore, StoreError};
use crate::queue::{Connection, Names, scripts};
use crate::shutdown::Shutdown;

/// How often to look. Real time.
const EVERY: Duration = Duration::from_secs(20);
/// How long past its time a job must be. Real time; a job that waits for a free slot is in a queue anyway.
const PAST: Duration = Duration::from_secs(10);
/// Most orders and most notifications put back at a time.
const MOST: u32 = 500;

/// See the module.
pub(crate) struct Restore {
    pub(crate) store: Arc<dyn OrderStore>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) connection: Connection,
    pub(crate) names: Names,
}

#[derive(Debug, thiserror::Error)]
enum RestoreError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("Redis did not answer")]
    Redis(#[from] redis::RedisError),
}

impl Restore {
    /// Looks until asked to stop.
    pub(crate) async fn run(self, shutdown: Shutdown) {
        loop {
            tokio::select! {
                () = shutdown.requested() => return,
                () = tokio::time::sleep(EVERY) => {}
            }
            match self.restore().await {
                Ok(0) => {}
                Ok(restored) => tracing::warn!(restored, "put back jobs that no queue held any more"),
                Err(RestoreError::Redis(error)) => self.connection.failed(&error),
                Err(RestoreError::Store(error)) => {
                    tracing::error!(%error, "the store could not be looked through");
                }
            }
        }
    }

    async fn restore(&self) -> Result<u64, RestoreError> {
        let before = self.clock.now() - self.clock.domain(PAST);
        let orders = self.store.unchecked_orders(before, MOST).await?;
        let orders: Vec<NextJob> = orders.into_iter().map(|(id, status)| look(id, status)).collect();
        let untold = self.store.untold(before, MOST).await?;
        let untold: Vec<NextJob> = untold.iter().map(NextJob::tell).collect();
        let following = [JobName::PollTopup, JobName::RecheckTopup];
        Ok(self.put_back(&following, &orders).await?
            + self.put_back(&[JobName::NotifyCustomer], &untold).await?)
    }

    /// Puts jobs back of which none of these queues holds one of the same id.
    async fn put_back(&self, queues: &[JobName], jobs: &[NextJob]) -> Result<u64, RestoreError> {
        if jobs.is_empty() {
            return Ok(0);
        }
        let mut call = scripts::RESTORE.prepare_invoke();
        for job in queues {
            call.key(self.names.queue(*job));
        }
        for job in jobs {
            call.arg(self.names.queue(job.job)).arg(&job.id).arg(job.payload.as_slice());
        }
        Ok(call.invoke_async(&mut self.connection.get()).await?)
    }
}

fn look(topup_id: TopupId, status: OrderStatus) -> NextJob {
    let handling = status == OrderStatus::Handling;
    let job = if handling { JobName::PollTopup } else { JobName::RecheckTopup };
    NextJob::look(job, TrackTopup::new(topup_id), Duration::ZERO)
}
