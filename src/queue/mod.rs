//! The job queues: apalis workers on apalis-redis's key layout, with a consumer of our own.
//!
//! Every queue `{topup}:<job>` consists of these structures:
//!
//! | key | type | content |
//! |---|---|---|
//! | `:active` | list | ids of jobs that are due, oldest first |
//! | `:scheduled` | sorted set | ids of jobs that wait, scored by the second they are due, with milliseconds; the microseconds say how long each was meant to wait at most, see `lua/layout.lua` |
//! | `:data` | hash | payload by id, from the job's arrival to its end |
//! | `:meta:<id>` | hash | `attempts`, `faults`, `crashes`, `last_error`; `lost_with`, the worker that was lost with it; of a dead letter also `reason`, `dead_at`, `replaying`; absent for a job to which nothing has happened |
//! | `:inflight:<worker>` | set | ids that this worker has claimed |
//! | `:workers` | sorted set | workers, scored by their last heartbeat |
//! | `:dead` | set | ids of dead letters; payload and reason stay in `:data` and `:meta:<id>` |
//! | `:cancelled:<id>` | string | in `poll-topup`: a message ended the tracking of this order; for two days |
//! | `:settled:<worker>` | string | number of the last batch of settlements that was carried out |
//!
//! The channel `:wake` carries word that something became due earlier than the workers know of.
//! A job is at any moment in exactly one of `:active`, `:scheduled`, one `:inflight` set and `:dead`; every
//! move is one script under `lua/`. Nothing of a finished job stays. Redis 6.2 or later.
//!
//! A job that was lost with its worker is a suspect, and runs apart from the others until it is known what it does to
//! a process: see `quarantine`. The clock of Redis may be set; then due times are put right by what each job was
//! meant to wait (`put_right`), and by what the store says of orders and notifications (`hasten.lua`, called where
//! the store is known). Redis counts time for all: a clock that is set ahead only has jobs run early.
//!
//! What this module must not do: know what a job means, or sleep a domain wait in memory.

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

/// `host-pid-ulid`: unique for each start, so that a worker never meets its own past.
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
    /// Has the process report to Redis at once.
    report_now: Arc<Notify>,
    quarantine: Option<Quarantine>,
    pauses: Vec<ClaimPause>,
}

/// How the queues ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// Every running job came to its end.
    Drained,
    /// Time was up, or a second signal came; running jobs were given back.
    TimedOut,
    /// A task of the service died.
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

    /// Has jobs that were lost with a worker run in processes of their own; for the handlers added after it. Must be
    /// called on a tokio runtime.
    #[must_use]
    pub fn isolating(self, isolation: Isolation) -> Self {
        Self { quarantine: Some(Quarantine::open(isolation, self.slots)), ..self }
    }

    /// Has the queues of the handlers added after it claim nothing while this pause, or another one given before, lasts.
    #[must_use]
    pub fn pausing(mut self, pause: ClaimPause) -> Self {
        self.pauses.push(pause);
        self
    }

    /// Has this handler run the jobs of its name. Must be called on a tokio runtime.
    #[must_use]
    pub fn with<H: Handler>(self, handler: H) -> Self {
        let slots = Slots::new(self.slots, 0);
        self.with_slots(handler, &slots)
    }

    /// The same, in these slots.
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

    /// Works until asked to stop, then lets running jobs finish for `deadline` and gives the rest back.
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
            // What runs there still was given back.
            quarantine.end().await;
        }
        let leave = async {
            for consumer in self.consumers {
                consumer.leave().await;
            }
        };
        // Redis may be away for good; then the leases run out and other workers take the jobs over.
        if tokio::time::timeout(LEASE, leave).await.is_err() {
            stopped = Stopped::TimedOut;
        }
        stopped
    }
}

/// Waits until the service is asked to stop, its work ends or a task of it dies. Also says whether `working` has ended.
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
    // The work and its tasks end by themselves once they are asked to, perhaps before this task sees that they were.
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
