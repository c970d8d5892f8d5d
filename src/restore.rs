//! Puts back what the store knows of and no queue holds, and gives up what the queue has buried.
//!
//! Redis may lose what it has promised: it is flushed, comes back from an older file, or fails over to a
//! replica that lags. The store has every order that is not final, with the time of its next look, and
//! everything that is still to be told. What is long past its time and in no queue is put back; what is in
//! a queue or in flight is left alone, so any number of workers may do this.
//!
//! A dead letter that the queue made by itself (poison, a handler that panics) is news to the store: no handler
//! was there to say so. The operator is told, and the store waits for it no longer.

use std::time::Duration;

use topup_jobs::{JobName, NotifyCustomer, OrderStatus, TopupId, TrackTopup};

use crate::handlers::{Environment, NextJob, chain, give_up, give_up_telling};
use crate::orders::StoreError;
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
    pub(crate) environment: Environment,
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
                    tracing::error!(error = chain(&error), "the store could not be looked through");
                }
            }
        }
    }

    async fn restore(&self) -> Result<u64, RestoreError> {
        let Environment { store, clock, .. } = &self.environment;
        let before = clock.now() - clock.domain(PAST);
        let orders = self.give_up_buried(store.unchecked_orders(before, MOST).await?).await?;
        let orders: Vec<NextJob> = orders.into_iter().map(|(id, status)| look(id, status)).collect();
        let untold = self.give_up_telling_buried(store.untold(before, MOST).await?).await?;
        let untold: Vec<NextJob> = untold.iter().map(NextJob::tell).collect();
        Ok(self.put_back(&JobName::FOLLOWING, &orders).await?
            + self.put_back(&[JobName::NotifyCustomer], &untold).await?)
    }

    /// Gives up the orders that are dead letters and returns the others.
    async fn give_up_buried(
        &self,
        orders: Vec<(TopupId, OrderStatus)>,
    ) -> Result<Vec<(TopupId, OrderStatus)>, RestoreError> {
        let reasons =
            self.buried(&JobName::FOLLOWING, orders.iter().map(|(id, _)| id.as_str().to_owned())).await?;
        let mut others = Vec::new();
        for (order, reason) in orders.into_iter().zip(reasons) {
            if reason.is_empty() {
                others.push(order);
            } else {
                let told = give_up(&self.environment, &order.0, &reason).await?;
                self.put_back(&[JobName::NotifyCustomer], &told).await?;
            }
        }
        Ok(others)
    }

    /// Gives up telling where that is a dead letter and returns what else is to be told.
    async fn give_up_telling_buried(
        &self,
        untold: Vec<NotifyCustomer>,
    ) -> Result<Vec<NotifyCustomer>, RestoreError> {
        let ids = untold.iter().map(NotifyCustomer::job_id);
        let reasons = self.buried(&[JobName::NotifyCustomer], ids).await?;
        let mut others = Vec::new();
        for (told, reason) in untold.into_iter().zip(reasons) {
            if reason.is_empty() {
                others.push(told);
            } else {
                let jobs = give_up_telling(&self.environment, &told, &reason).await?;
                self.put_back(&[JobName::NotifyCustomer], &jobs).await?;
            }
        }
        Ok(others)
    }

    /// Why each of these jobs is a dead letter in these queues; an empty text where it is none.
    async fn buried(
        &self,
        queues: &[JobName],
        ids: impl Iterator<Item = String>,
    ) -> Result<Vec<String>, RestoreError> {
        let mut call = scripts::BURIED.prepare_invoke();
        for job in queues {
            call.key(self.names.queue(*job));
        }
        for id in ids {
            call.arg(id);
        }
        Ok(call.invoke_async(&mut self.connection.get()).await?)
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
    NextJob::look(JobName::following(status), TrackTopup::new(topup_id), Duration::ZERO)
}
