//! Puts back what the store knows of and no queue holds, and gives up what the queue has buried.
//!
//! Redis may lose what it has promised: it is flushed, comes back from an older file, or fails over to a
//! replica that lags. The store has every order that is not final, with the time of its next look, and
//! everything that is still to be told. What is long past its time and in no queue is put back; what is in
//! a queue or in flight is left alone, so any number of workers may do this.
//!
//! No more is put back than the provider answers for in minutes: the rest is safe in the store, and in a queue it would
//! only ask for requests that are not there. Orders that are polled are put back apart from those that are rechecked: a
//! customer waits for them, and they are few.
//!
//! A job that the store says is late, and that a queue has scheduled for much later, is made due: a clock of Redis
//! that was ahead did that.
//!
//! A dead letter that the queue made by itself (poison, a handler that panics) is news to the store: no handler
//! was there to say so. The operator is told, and the store waits for it no longer. A notification that a handler made
//! a dead letter is given up in the store; where the store holds it as pending, an operator has replayed it and the
//! command did not get as far as the queue. That is completed here.

use std::time::Duration;

use topup_jobs::{JobName, NotifyCustomer, OrderStatus, Timestamp, TopupId, TrackTopup};

use crate::handlers::{Environment, NextJob, chain, give_up, give_up_telling, is_by_the_handler};
use crate::orders::{Behind, StoreError};
use crate::queue::{Connection, Names, resend, scripts};
use crate::shutdown::Shutdown;
use crate::topup_api::Allowance;

/// How often to look. Real time.
const EVERY: Duration = Duration::from_secs(20);
/// How long past its time a job must be. Real time; a job that waits for a free slot is in a queue anyway.
const PAST: Duration = Duration::from_secs(10);
/// Most orders and most notifications that are read at a time.
const MOST: u32 = 500;
/// Most orders that are read in one round. In the next one the search goes on from there.
const MOST_READ: u32 = 20 * MOST;
/// Minutes of the provider's time in which those are answered for that wait, once orders to be rechecked are put back.
const RECHECK_MINUTES: u32 = 2;
/// The same for orders that are polled, of which many may wait while many come.
const POLL_MINUTES: u32 = 10;

/// See the module.
pub(crate) struct Restore {
    pub(crate) environment: Environment,
    pub(crate) allowance: Allowance,
    pub(crate) connection: Connection,
    pub(crate) names: Names,
    /// Where the search for orders goes on, for each job that follows them.
    pub(crate) behind: [Option<Behind>; JobName::FOLLOWING.len()],
}

/// A job that waits for a request, or for the provider, is due again within this domain time.
const AGAIN_WITHIN: Duration = Duration::from_mins(5);

#[derive(Debug, thiserror::Error)]
enum RestoreError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("Redis did not answer")]
    Redis(#[from] redis::RedisError),
}

impl Restore {
    /// Looks until asked to stop.
    pub(crate) async fn run(mut self, shutdown: Shutdown) {
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

    async fn restore(&mut self) -> Result<u64, RestoreError> {
        let clock = &self.environment.clock;
        let before = clock.now() - clock.domain(PAST);
        let mut restored = 0;
        for (n, job) in JobName::FOLLOWING.into_iter().enumerate() {
            restored += self.restore_orders(n, job, before).await?;
        }
        let untold = self.environment.store.untold(before, MOST).await?;
        self.hasten(&[JobName::NotifyCustomer], untold.iter().map(NotifyCustomer::job_id)).await?;
        let untold = self.give_up_telling_buried(untold).await?;
        let untold: Vec<NextJob> = untold.iter().map(NextJob::tell).collect();
        Ok(restored + self.put_back(&[JobName::NotifyCustomer], &untold, None).await?.0)
    }

    /// Puts back the orders of this job, the oldest first, until there is no room for more.
    async fn restore_orders(
        &mut self,
        n: usize,
        job: JobName,
        before: Timestamp,
    ) -> Result<u64, RestoreError> {
        let (minutes, queues) = match job {
            JobName::PollTopup => (POLL_MINUTES, [JobName::PollTopup, JobName::RecheckTopup]),
            _ => (RECHECK_MINUTES, [JobName::RecheckTopup, JobName::PollTopup]),
        };
        let (mut restored, mut read) = (0, 0);
        while read < MOST_READ {
            let store = &self.environment.store;
            let found = store.unchecked_orders(job, before, self.behind[n].as_ref(), MOST).await?;
            self.hasten(&queues, found.orders.iter().map(|(id, _)| id.as_str().to_owned())).await?;
            let orders = self.give_up_buried(found.orders).await?;
            let orders: Vec<NextJob> = orders.into_iter().map(|(id, status)| look(id, status)).collect();
            let (put_back, no_room) = self.put_back(&queues, &orders, Some(minutes)).await?;
            restored += put_back;
            read += MOST;
            // Those that have been put back are few, so the next round may begin with the oldest order again.
            self.behind[n] = found.behind.filter(|_| !no_room);
            if self.behind[n].is_none() {
                break;
            }
        }
        Ok(restored)
    }

    /// Has jobs run at once that are late by the store and wait for long in one of these queues: the clock of Redis was
    /// set back.
    async fn hasten(
        &self,
        queues: &[JobName],
        ids: impl Iterator<Item = String>,
    ) -> Result<(), RestoreError> {
        let mut call = scripts::HASTEN.prepare_invoke();
        for job in queues {
            call.key(self.names.queue(*job));
        }
        call.arg(self.allowance.real_ms(AGAIN_WITHIN));
        for id in ids {
            call.arg(id);
        }
        let hastened: u64 = call.invoke_async(&mut self.connection.get()).await?;
        if hastened > 0 {
            tracing::warn!(
                hastened,
                "jobs that were late by the store run now: the clock of Redis was set back"
            );
        }
        Ok(())
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
                let told = match give_up(&self.environment, &order.0, &reason).await {
                    Err(error) if error.is_of_one_row() => {
                        let (id, error) = (&order.0, chain(&error));
                        tracing::error!(order.id = %id, error, "a buried order cannot be given up; others are");
                        continue;
                    }
                    told => told?,
                };
                self.put_back(&[JobName::NotifyCustomer], &told, None).await?;
            }
        }
        Ok(others)
    }

    /// Gives up notifications that the queue has buried, completes the replay of those that a handler has given up, and
    /// returns the others.
    async fn give_up_telling_buried(
        &self,
        untold: Vec<NotifyCustomer>,
    ) -> Result<Vec<NotifyCustomer>, RestoreError> {
        let ids = untold.iter().map(NotifyCustomer::job_id);
        let reasons = self.buried(&[JobName::NotifyCustomer], ids).await?;
        let mut others = Vec::new();
        let mut replayed = Vec::new();
        for (told, reason) in untold.into_iter().zip(reasons) {
            if reason.is_empty() {
                others.push(told);
            } else if is_by_the_handler(&reason) {
                replayed.push(told);
            } else {
                let jobs = match give_up_telling(&self.environment, &told, &reason).await {
                    Err(error) if error.is_of_one_row() => {
                        let (id, error) = (told.event_id(), chain(&error));
                        tracing::error!(
                            event.id = %id,
                            error,
                            "a notification that is a dead letter cannot be given up; others are"
                        );
                        continue;
                    }
                    jobs => jobs?,
                };
                self.put_back(&[JobName::NotifyCustomer], &jobs, None).await?;
            }
        }
        if !replayed.is_empty() {
            // The command that replayed them ended between the store and Redis.
            resend(&self.connection, &self.names, &replayed).await?;
            tracing::warn!(replayed = replayed.len(), "dead letters that the operator replayed are due now");
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

    /// Puts jobs back of which none of these queues holds one of the same id. Returns how many, and whether there was
    /// no room for more.
    async fn put_back(
        &self,
        queues: &[JobName],
        jobs: &[NextJob],
        minutes: Option<u32>,
    ) -> Result<(u64, bool), RestoreError> {
        if jobs.is_empty() {
            return Ok((0, false));
        }
        let most = minutes.map_or(0, |minutes| self.allowance.requests_per_minute.saturating_mul(minutes));
        let mut call = scripts::RESTORE.prepare_invoke();
        for job in queues {
            call.key(self.names.queue(*job));
        }
        call.arg(most).arg(self.allowance.real_ms(AGAIN_WITHIN));
        for job in jobs {
            call.arg(self.names.queue(job.job)).arg(&job.id).arg(job.payload.as_slice());
        }
        Ok(call.invoke_async(&mut self.connection.get()).await?)
    }
}

fn look(topup_id: TopupId, status: OrderStatus) -> NextJob {
    NextJob::look(JobName::following(status), TrackTopup::new(topup_id), Duration::ZERO)
}
