//! Puts back what the store knows of and Redis has lost, and gives up what the queue has dead-lettered.
//!
//! Redis may lose what it has promised: it is flushed, comes back from an older file, or fails over to a
//! replica that lags. The store has every order that is not final, with the time of its next look, everything that is
//! still to be sent, and everything that was given up. What is long past its time and in no queue is put back, with its
//! failed attempts; what is in a queue or in flight is left alone, so any number of workers may do this.
//!
//! No more is put back than the provider answers for in minutes: the rest is safe in the store, and in a queue it would
//! only ask for requests that are not there. Orders that are polled are put back apart from those that are rechecked: a
//! customer waits for them, and they are few.
//!
//! Each search goes on from where it was, oldest first, and a round of it has a bounded length: however much Redis has
//! lost, neither of the two databases is held up.
//!
//! A job that the store says is late, and that a queue has scheduled for much later, is made due: a clock of Redis
//! that was ahead did that.
//!
//! Dead letters are the subject of [`dead_lettered`], [`given_up`] and [`stale`].

mod dead_lettered;
mod given_up;
mod stale;

use std::time::Duration;

use topup_jobs::{JobName, Timestamp, TrackTopup, Waited};

use self::given_up::GivenUp;
use self::stale::Stale;
use crate::error_chain::chain;
use crate::handlers::Environment;
use crate::job::NextJob;
use crate::orders::{Behind, BehindNotification, StoreError, UncheckedOrder};
use crate::queue::{DeadLetters, scripts};
use crate::rate_limit::RateLimit;
use crate::redis::{Connection, Names};
use crate::shutdown::Shutdown;

/// How often to look. Real time.
const INTERVAL: Duration = Duration::from_secs(20);
/// How long past its time a job must be. Real time; a job that waits for a free slot is in a queue anyway.
const GRACE: Duration = Duration::from_secs(10);
/// Most orders and most notifications that are read at a time.
const MOST: u32 = 500;
/// Most orders, and most notifications, that are read in one round. In the next one the search goes on from there.
const MAX_READ: u32 = 20 * MOST;
/// Minutes of the provider's time in which those are answered for that wait, once orders to be rechecked are put back.
const RECHECK_MINUTES: u32 = 2;
/// The same for orders that are polled, of which many may wait while many come.
const POLL_MINUTES: u32 = 10;

/// See the module.
pub(crate) struct Restore {
    environment: Environment,
    rate_limit: RateLimit,
    connection: Connection,
    names: Names,
    letters: DeadLetters,
    /// Where the search for orders goes on, for each job that follows them.
    behind: [Option<Behind>; JobName::TRACKING.len()],
    /// Where the search for notifications goes on.
    behind_notification: Option<BehindNotification>,
    given_up: GivenUp,
    stale: Stale,
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

/// A job to be put back, and its failed attempts.
type Lost = (NextJob, u32);

impl Restore {
    pub(crate) fn new(
        environment: Environment,
        rate_limit: RateLimit,
        connection: Connection,
        names: Names,
    ) -> Self {
        let letters = DeadLetters::new(connection.clone(), names.clone());
        Self {
            environment,
            rate_limit,
            connection,
            names,
            letters,
            behind: [None, None],
            behind_notification: None,
            given_up: GivenUp::default(),
            stale: Stale::default(),
        }
    }

    /// Looks until asked to stop.
    pub(crate) async fn run(mut self, shutdown: Shutdown) {
        loop {
            tokio::select! {
                () = shutdown.requested() => return,
                () = tokio::time::sleep(INTERVAL) => {}
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
        let before = clock.now() - clock.domain(GRACE);
        let mut restored = 0;
        for (n, job) in JobName::TRACKING.into_iter().enumerate() {
            restored += self.restore_orders(n, job, before).await?;
        }
        restored += self.restore_notifications(before).await?;
        self.restore_dead_letters().await?;
        self.drop_stale_dead_letters().await?;
        Ok(restored)
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
        while read < MAX_READ {
            let store = &self.environment.store;
            let page = store.unchecked_orders(job, before, self.behind[n].as_ref(), MOST).await?;
            self.hasten(&queues, page.found.iter().map(|order| order.topup_id.as_str().to_owned())).await?;
            let orders = self.give_up_dead_orders(page.found).await?;
            let orders: Vec<Lost> = orders.into_iter().map(check_job).collect();
            let (put_back, no_room) = self.put_back(&queues, &orders, Some(minutes)).await?;
            restored += put_back;
            read += MOST;
            // Those that have been put back are few, so the next round may begin with the oldest order again.
            self.behind[n] = page.behind.filter(|_| !no_room);
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
        let ids: Vec<String> = ids.collect();
        if ids.is_empty() {
            return Ok(());
        }
        let mut call = scripts::HASTEN.prepare_invoke();
        for job in queues {
            call.key(self.names.queue(*job));
        }
        call.arg(self.rate_limit.real_ms(AGAIN_WITHIN));
        for id in ids {
            call.arg(id);
        }
        let hastened: u64 = call.invoke_async(&mut self.connection.get()).await?;
        if hastened > 0 {
            tracing::warn!(
                hastened,
                "jobs that are late by the store, and that a queue held for much later, run now"
            );
        }
        Ok(())
    }

    /// Puts back notifications that are still to be sent, the oldest first.
    async fn restore_notifications(&mut self, before: Timestamp) -> Result<u64, RestoreError> {
        let (mut restored, mut read) = (0, 0);
        while read < MAX_READ {
            let behind = self.behind_notification.as_ref();
            let page = self.environment.store.pending_notifications(before, behind, MOST).await?;
            let ids = page.found.iter().map(|pending| pending.notification.job_id());
            self.hasten(&[JobName::NotifyCustomer], ids).await?;
            let pending = self.give_up_dead_notifications(page.found).await?;
            let lost: Vec<Lost> = pending
                .iter()
                .map(|pending| (NextJob::notify(&pending.notification), pending.attempts))
                .collect();
            restored += self.put_back(&[JobName::NotifyCustomer], &lost, None).await?.0;
            read += MOST;
            self.behind_notification = page.behind;
            if self.behind_notification.is_none() {
                break;
            }
        }
        Ok(restored)
    }

    /// Puts jobs back of which none of these queues holds one of the same id. Returns how many, and whether there was
    /// no room for more.
    async fn put_back(
        &self,
        queues: &[JobName],
        jobs: &[Lost],
        minutes: Option<u32>,
    ) -> Result<(u64, bool), RestoreError> {
        if jobs.is_empty() {
            return Ok((0, false));
        }
        let most = minutes.map_or(0, |minutes| self.rate_limit.requests_per_minute.saturating_mul(minutes));
        let mut call = scripts::RESTORE.prepare_invoke();
        for job in queues {
            call.key(self.names.queue(*job));
        }
        call.arg(most).arg(self.rate_limit.real_ms(AGAIN_WITHIN));
        for (job, attempts) in jobs {
            call.arg(self.names.queue(job.job)).arg(&job.id).arg(job.payload.as_slice()).arg(attempts);
        }
        Ok(call.invoke_async(&mut self.connection.get()).await?)
    }
}

/// The job that checks an order. Nothing was learned of the order since it should have been checked, which is no time
/// of its fast polling.
fn check_job(order: UncheckedOrder) -> Lost {
    let job = JobName::tracking(order.status);
    let waited = match job {
        JobName::PollTopup => Waited::default().on(order.next_check_at),
        _ => Waited::default(),
    };
    let request =
        TrackTopup { waited, tracked_at: Some(order.tracked_at), ..TrackTopup::new(order.topup_id) };
    (NextJob::check(job, request, Duration::ZERO), order.failed_attempts)
}
