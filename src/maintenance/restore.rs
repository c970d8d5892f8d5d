//! Restores jobs that Redis has lost, and records the dead letters of the queue in the store.
//!
//! Redis loses data when it is flushed, restored from an older file, or replaced by a replica that lags. The store has
//! the next check of every order that is not final, and all pending or dead-lettered notifications. An overdue job that
//! is in no queue is put back with its count of failed attempts. Several workers may restore jobs at once: none of them
//! touches a job that is in a queue or in flight. Each round searches a limited number of jobs, the oldest first.
//!
//! The number of restored checks is limited to what the provider answers in a few minutes, because more would only fill
//! the wait queue. Customers of polled orders are waiting, so these orders have a separate limit. A job
//! that is overdue in the store, but was scheduled for much later while the clock of Redis was ahead, is made due.

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

/// Pause between two rounds. It is real time: `TIME_SCALE` does not shorten it.
const INTERVAL: Duration = Duration::from_secs(20);
/// A job is restored only if it has been overdue for this long in real time.
const GRACE: Duration = Duration::from_secs(10);
/// Maximum number of orders, or of notifications, that are read at a time.
const MOST: u32 = 500;
/// Maximum number of orders, or of notifications, that are read in one round. The next round continues after them.
const MAX_READ: u32 = 20 * MOST;
/// Lost rechecks are restored while fewer rechecks wait than the provider answers in this number of minutes.
const RECHECK_MINUTES: u32 = 2;
/// Like [`RECHECK_MINUTES`], but for polls. The number is higher, because in a rush of orders many polls wait.
const POLL_MINUTES: u32 = 10;

pub(crate) struct Restore {
    environment: Environment,
    rate_limit: RateLimit,
    connection: Connection,
    names: Names,
    letters: DeadLetters,
    /// Where the search for orders continues, for each tracking job.
    behind: [Option<Behind>; JobName::TRACKING.len()],
    /// Where the search for notifications continues.
    behind_notification: Option<BehindNotification>,
    given_up: GivenUp,
    stale: Stale,
}

/// A job that waits for a permit or for the provider is scheduled to run again within this domain time.
const AGAIN_WITHIN: Duration = Duration::from_mins(5);

#[derive(Debug, thiserror::Error)]
enum RestoreError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("Redis did not answer")]
    Redis(#[from] redis::RedisError),
}

/// A job to be put back, with the number of its failed attempts.
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
                    tracing::error!(error = chain(&error), "the search for lost jobs failed; retry in 20 s");
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

    /// Puts back overdue checks of this kind, the oldest first, up to the limit of waiting checks.
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
            // If the limit was reached, some jobs of this page are still lost, so the next round begins at the oldest.
            self.behind[n] = page.behind.filter(|_| !no_room);
            if self.behind[n].is_none() {
                break;
            }
        }
        Ok(restored)
    }

    /// Makes overdue jobs due that Redis would run only much later, as they were scheduled while its clock was ahead.
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
                "moved overdue jobs forward to now; Redis had scheduled them for much later, perhaps before its clock was set back"
            );
        }
        Ok(())
    }

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

    /// Puts back those jobs whose id is in none of these queues. Returns how many, and whether the limit was reached.
    /// The limit on waiting jobs is what the provider answers in `minutes`; `None` means no limit.
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

/// The job that checks an order. Time since the missed check does not count towards the five minutes of fast polling.
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
