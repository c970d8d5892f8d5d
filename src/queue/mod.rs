//! The job queues: apalis runs the handlers, the key layout is that of apalis-redis, our own code claims and settles.
//!
//! Every queue `{topup}:<job>` consists of these structures:
//!
//! | key | type | content |
//! |---|---|---|
//! | `:active` | list | ids of jobs that are due, oldest first |
//! | `:scheduled` | sorted set | ids of jobs that wait, scored by due time in seconds, with milliseconds; the microseconds encode the longest intended wait, see `lua/layout.lua` |
//! | `:data` | hash | payload by id, from the job's arrival to its end |
//! | `:meta:<id>` | hash | `attempts`, `faults`, `crashes`, `last_error`; `lost_with`, the worker that was presumed dead while it held the job; for a dead letter also `reason`, `dead_at`, `replaying`; absent for a job without history |
//! | `:inflight:<worker>` | set | ids that this worker has claimed |
//! | `:workers` | sorted set | workers, scored by their last heartbeat |
//! | `:dead` | set | ids of dead letters; payload and reason stay in `:data` and `:meta:<id>` |
//! | `:cancelled:<id>` | string | only in `poll-topup`: mark that a message cancelled this order; expires after two days |
//! | `:settled:<worker>` | string | number of the last batch of settlements that was applied |
//!
//! When a job becomes the next one due in its queue, a message on the channel `:wake` ends the sleep of the workers.
//! At any moment a job is in exactly one of `:active`, `:scheduled`, one `:inflight` set and `:dead`; every move is one
//! script under `lua/`. A completed job leaves no key behind. Redis must be 6.2 or later.
//!
//! A job whose worker was presumed dead is a suspect, because it may have killed that worker; it runs in an isolated
//! process, see `quarantine`. All times are by the clock of Redis. If that clock is moved back, `put_right` shortens
//! waits that have become too long, and `hasten.lua` makes overdue jobs due. If it is moved forward, jobs run early.
//!
//! This module must not know what a job means, and must not keep waits between attempts in memory.

mod apalis;
mod claim;
mod consumer;
mod dead_letters;
mod heartbeat;
mod isolated_process;
mod isolation;
mod lease;
mod put_right;
mod quarantine;
mod rejected;
mod resend;
mod running;
pub(crate) mod scripts;
mod settle;
mod shared;
mod suspect;
mod wake;
mod whereabouts;

use std::sync::{Arc, Weak};
use std::time::Duration;

use ::apalis::prelude::Monitor;
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

pub(crate) use dead_letters::{DeadLetter, DeadLetters, Replayed};
pub use isolation::{IsolatedJob, Isolation, run_isolated};
pub use rejected::RejectedCap;
pub(crate) use rejected::{Rejected, RejectedMessages, Returned};
pub(crate) use resend::{Resent, mark_dead_letters, resend};
pub(crate) use scripts::LAYOUT;
pub(crate) use whereabouts::{Whereabouts, naming, whereabouts};

use self::consumer::Consumer;
use self::heartbeat::keep_leases;
use self::quarantine::Quarantine;
use self::shared::LEASE;
use crate::claim_pause::ClaimPause;
use crate::job::Handler;
use crate::redis::{Connection, Names, RedisAddress, RedisHealth};
use crate::shutdown::Shutdown;
use crate::slots::Slots;

/// Returns `host-pid-ulid`. The ULID differs from that of earlier processes with the same host name and process id.
fn worker_name() -> Arc<str> {
    let host = gethostname::gethostname();
    format!("{}-{}-{}", host.to_string_lossy(), std::process::id(), ulid::Ulid::generate()).into()
}

/// The queues of one worker process.
pub struct Queues {
    address: RedisAddress,
    names: Names,
    connection: Connection,
    slots: usize,
    monitor: Monitor,
    consumers: Vec<Consumer>,
    workers: Vec<Weak<()>>,
    listeners: Vec<wake::Listener>,
    /// Makes the process send a heartbeat at once.
    report_now: Arc<Notify>,
    quarantine: Option<Quarantine>,
    pauses: Vec<ClaimPause>,
}

/// Why [`Queues::run`] returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// Every running job finished.
    Drained,
    /// The deadline passed, a second signal came or Redis was unreachable. Unfinished jobs run again on other workers.
    TimedOut,
    /// A background task died.
    Failed,
}

impl Queues {
    /// Queues under these names, each running at most `slots` jobs at once.
    #[must_use]
    pub fn new(address: RedisAddress, names: Names, slots: usize, health: &RedisHealth) -> Self {
        let connection = Connection::new(&address, health);
        Self {
            address,
            names,
            connection,
            slots,
            monitor: Monitor::new(),
            consumers: Vec::new(),
            workers: Vec::new(),
            listeners: Vec::new(),
            report_now: Arc::default(),
            quarantine: None,
            pauses: Vec::new(),
        }
    }

    /// Makes handlers added after this call run suspects in isolated processes. Must be called on a tokio runtime.
    #[must_use]
    pub fn isolating(self, isolation: Isolation) -> Self {
        Self { quarantine: Some(Quarantine::open(isolation, self.slots)), ..self }
    }

    /// Handlers added after this call claim no jobs while this pause lasts. Earlier pauses stay in force.
    #[must_use]
    pub fn pausing(mut self, pause: ClaimPause) -> Self {
        self.pauses.push(pause);
        self
    }

    /// Adds a handler, which runs the jobs of its name. Must be called on a tokio runtime.
    #[must_use]
    pub fn with<H: Handler>(self, handler: H) -> Self {
        let slots = Slots::new(self.slots, 0);
        self.with_slots(handler, &slots)
    }

    /// Adds a handler like [`Queues::with`]. All handlers added with the same `slots` share these slots.
    #[must_use]
    pub fn with_slots<H: Handler>(mut self, handler: H, slots: &Slots) -> Self {
        let queue = self.names.queue(H::NAME);
        let wake = Arc::new(Notify::new());
        self.listeners.push((queue, Arc::clone(&wake)));
        let (consumer, jobs) = Consumer::start::<H>(
            self.names.clone(),
            slots,
            self.connection.clone(),
            wake,
            Arc::clone(&self.report_now),
            self.pauses.clone(),
        );
        self.consumers.push(consumer);
        let (monitor, worker) = apalis::register(self.monitor, jobs, handler, self.quarantine.clone());
        self.monitor = monitor;
        self.workers.push(worker);
        self
    }

    /// Runs jobs until a stop is requested, then gives running jobs `deadline` to end. The rest return to their queues.
    pub async fn run(self, shutdown: Shutdown, deadline: Duration) -> Stopped {
        let _watching = AbortOnDropHandle::new(tokio::spawn(self.address.clone().watch()));
        let _listening = AbortOnDropHandle::new(tokio::spawn(wake::listen(self.address, self.listeners)));
        let shared = self.consumers.iter().map(|consumer| Arc::clone(&consumer.shared)).collect();
        let keeping = keep_leases(shared, self.connection, self.report_now);
        let keeping = AbortOnDropHandle::new(tokio::spawn(keeping));
        let asked = shutdown.clone();
        let mut working = Box::pin(self.monitor.run_with_signal(async move {
            asked.requested().await;
            Ok(())
        }));
        let died = any_died(&self.consumers, &self.workers, &keeping);
        let (mut stopped, ended) = first_end(&shutdown, &mut working, died).await;
        self.consumers.iter().for_each(Consumer::stop);
        if let Some(quarantine) = &self.quarantine {
            quarantine.stopping();
        }
        if stopped == Stopped::Drained && !ended {
            tokio::select! {
                _ = &mut working => {}
                () = tokio::time::sleep(deadline) => stopped = Stopped::TimedOut,
                () = shutdown.forced() => stopped = Stopped::TimedOut,
            }
        }
        drop(working);
        if let Some(quarantine) = &self.quarantine {
            // Jobs in isolated processes are back in their queues already, because `drop(working)` ended their leases.
            quarantine.end().await;
        }
        let leave = async {
            for consumer in self.consumers {
                consumer.leave().await;
            }
        };
        // If Redis stays unreachable, the leases expire and other workers take over the jobs.
        if tokio::time::timeout(LEASE, leave).await.is_err() {
            stopped = Stopped::TimedOut;
        }
        stopped
    }
}

/// Waits until a stop is requested, the work ends or a task dies. Also returns whether `working` has ended.
async fn first_end(
    shutdown: &Shutdown,
    working: impl Future,
    died: impl Future<Output = ()>,
) -> (Stopped, bool) {
    let (failed, ended) = tokio::select! {
        biased;
        () = shutdown.requested() => (false, false),
        _ = working => (true, true),
        () = died => (true, false),
    };
    // A request to stop also ends the work. If that end is seen before the request itself, it is not a failure.
    let stopped = if failed && !shutdown.is_requested() { Stopped::Failed } else { Stopped::Drained };
    (stopped, ended)
}

async fn any_died(consumers: &[Consumer], workers: &[Weak<()>], keeping: &AbortOnDropHandle<()>) {
    while consumers.iter().all(Consumer::is_alive)
        && workers.iter().all(|worker| worker.strong_count() > 0)
        && !keeping.is_finished()
    {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    #[tokio::test]
    async fn work_that_ends_because_it_was_asked_to_has_not_failed() {
        let shutdown = Shutdown::new();
        let asked_at_the_last_moment = async { shutdown.request() };
        let end = first_end(&shutdown, asked_at_the_last_moment, pending()).await;
        assert_eq!(end, (Stopped::Drained, true));

        let shutdown = Shutdown::new();
        let asked_at_the_last_moment = async { shutdown.request() };
        let end = first_end(&shutdown, pending::<()>(), asked_at_the_last_moment).await;
        assert_eq!(end, (Stopped::Drained, false));
    }

    #[tokio::test]
    async fn work_that_ends_unasked_has_failed() {
        let shutdown = Shutdown::new();
        assert_eq!(first_end(&shutdown, ready(()), pending()).await, (Stopped::Failed, true));
        assert_eq!(first_end(&shutdown, pending::<()>(), ready(())).await, (Stopped::Failed, false));
    }
}
