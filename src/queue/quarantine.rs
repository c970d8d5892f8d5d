//! Where suspects run: jobs that were lost with a worker, of which any may have killed it.
//!
//! Guilt is proven, never counted up. A lost lease proves nothing: the worker may have been killed, frozen or cut
//! off, with dozens of jobs. So its jobs become suspects, and suspects run in a process of their own, all in the same
//! one and side by side: that costs one process, and innocent jobs are done as fast as elsewhere. A process that dies
//! while it runs several jobs proves nothing of any of them, either. They are halved, and each half runs in a process
//! of its own, and so on. What remains is a process that ran one job and died: that counts as a crash of this job.
//! Such a job runs alone from then on, and at the third crash the queue makes it a dead letter. A worker that was
//! taken for dead and lives takes the suspicion back (`acquit.lua`).
//!
//! Nor does the death of a process count that was not set up yet (there was no memory for it), that ended by a signal
//! which asks programs to stop, or that died while its worker was stopping.
//!
//! Two processes at most, one for all suspects and one for the halves: each takes some 15 MiB and connections of its
//! own, and a host that has just run out of memory must not be asked for many. Suspects have half of the worker's
//! slots at most. The others wait in the queue, and come back one after another.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::isolated_process::{Left, run_in_process};
use super::isolation::{IsolatedJob, Isolation};
use super::suspect::{Suspect, Verdict};

/// Suspects that come together are claimed together; so long the first one waits for the others.
const GATHERED_WITHIN: Duration = Duration::from_millis(20);
/// A suspect without a place comes back after this time at the earliest, …
const SHORTEST_TURN: Duration = Duration::from_millis(300);
/// … and so long after the one before it.
const BETWEEN_TURNS: Duration = Duration::from_millis(10);
/// Starting a process is retried for this long. After that suspects run in the worker, or they would never run.
const START_TRIED_FOR: Duration = Duration::from_mins(1);

/// See the module. Clones are the same quarantine.
#[derive(Debug, Clone)]
pub(super) struct Quarantine(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    places: Semaphore,
    /// When the last suspect that found no place comes back.
    last_turn: Mutex<Instant>,
    /// Since when no process can be started, if that is so.
    unavailable: Mutex<Option<Instant>>,
    /// Suspects for the common process.
    common: UnboundedSender<Suspect>,
    /// Those of which one has killed its process, for a process of their own.
    narrowed: UnboundedSender<Vec<Suspect>>,
    stopping: AtomicBool,
    ended: CancellationToken,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Quarantine {
    /// For a worker that runs this many jobs at once. Must be called on a tokio runtime.
    pub(super) fn open(isolation: Isolation, slots: usize) -> Self {
        let (common, suspects) = unbounded_channel();
        let (narrowed, groups) = unbounded_channel();
        let shared = Arc::new(Shared {
            places: Semaphore::new((slots / 2).max(1)),
            last_turn: Mutex::new(Instant::now()),
            unavailable: Mutex::default(),
            common,
            narrowed,
            stopping: AtomicBool::new(false),
            ended: CancellationToken::new(),
            tasks: Mutex::default(),
        });
        let of_all =
            until_ended(shared.ended.clone(), run_common(Arc::clone(&shared), isolation.clone(), suspects));
        let of_halves =
            until_ended(shared.ended.clone(), run_narrowed(Arc::clone(&shared), isolation, groups));
        *lock(&shared.tasks) = vec![tokio::spawn(of_all), tokio::spawn(of_halves)];
        Self(shared)
    }

    /// Runs a suspect. One that is known to have killed a process runs alone.
    pub(super) async fn run(&self, job: IsolatedJob, alone: bool) -> Verdict {
        let Ok(_place) = self.0.places.try_acquire() else { return Verdict::NoPlace(self.turn()) };
        let (end, ended) = oneshot::channel();
        let suspect = Suspect { job, end };
        // The send fails once the quarantine has ended; the receiver below then sees the dropped end.
        if alone {
            drop(self.0.narrowed.send(vec![suspect]));
        } else {
            drop(self.0.common.send(suspect));
        }
        ended.await.unwrap_or_else(|_| Verdict::Inconclusive("the worker stops".to_owned()))
    }

    /// Those that find no place come back one after another.
    fn turn(&self) -> Duration {
        let (now, mut last) = (Instant::now(), lock(&self.0.last_turn));
        *last = (*last + BETWEEN_TURNS).max(now + SHORTEST_TURN);
        *last - now
    }

    /// The worker stops: from here on the death of a process says nothing of its jobs.
    pub(super) fn stopping(&self) {
        self.0.stopping.store(true, Ordering::Relaxed);
    }

    /// Ends the processes, and returns once each has been sent the signal.
    pub(super) async fn end(&self) {
        self.stopping();
        self.0.ended.cancel();
        let tasks = std::mem::take(&mut *lock(&self.0.tasks));
        for task in tasks {
            drop(task.await);
        }
    }
}

fn lock<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn until_ended(ended: CancellationToken, work: impl Future<Output = ()>) {
    tokio::select! {
        () = ended.cancelled() => {}
        () = work => {}
    }
}

/// Runs suspects in the common process, for as long as there are any.
async fn run_common(shared: Arc<Shared>, isolation: Isolation, mut suspects: UnboundedReceiver<Suspect>) {
    while let Some(first) = suspects.recv().await {
        sleep(GATHERED_WITHIN).await;
        let mut group = vec![first];
        while let Ok(next) = suspects.try_recv() {
            group.push(next);
        }
        let left = run_in_process(&isolation, group, Some(&mut suspects)).await;
        let (running, waiting) = shared.judge(left);
        drop(shared.narrowed.send(running));
        for suspect in waiting {
            drop(shared.common.send(suspect));
        }
    }
}

/// Runs groups in which one job has killed its process, and halves them until that job is alone.
async fn run_narrowed(
    shared: Arc<Shared>,
    isolation: Isolation,
    mut groups: UnboundedReceiver<Vec<Suspect>>,
) {
    let mut stack: Vec<Vec<Suspect>> = Vec::new();
    loop {
        let group = match stack.pop() {
            Some(group) => group,
            None => match groups.recv().await {
                Some(group) => group,
                None => return,
            },
        };
        if group.is_empty() {
            continue;
        }
        let left = run_in_process(&isolation, group, None).await;
        let (mut running, waiting) = shared.judge(left);
        let half = running.split_off(running.len() / 2);
        stack.extend([waiting, half, running]);
    }
}

impl Shared {
    /// Tells those that a process left behind what that means for them. Returns those among which the cause is, where
    /// they are several, and those that had not begun.
    fn judge(&self, left: Left) -> (Vec<Suspect>, Vec<Suspect>) {
        match left {
            Left::NoJobs => {
                *lock(&self.unavailable) = None;
                (Vec::new(), Vec::new())
            }
            Left::NotStarted { why, jobs } => {
                let since = *lock(&self.unavailable).get_or_insert_with(Instant::now);
                let given_up = since.elapsed() >= START_TRIED_FOR;
                let end = if given_up { Verdict::NoProcess } else { Verdict::Inconclusive };
                release(jobs, &why, end);
                (Vec::new(), Vec::new())
            }
            Left::Stopped { why, jobs } => {
                release(jobs, &why, Verdict::Inconclusive);
                (Vec::new(), Vec::new())
            }
            Left::Died { why, running, waiting, hung } => {
                *lock(&self.unavailable) = None;
                if self.stopping.load(Ordering::Relaxed) {
                    release(running.into_iter().chain(waiting).collect(), &why, Verdict::Inconclusive);
                    return (Vec::new(), Vec::new());
                }
                if running.len() > 1 {
                    let jobs = running.len();
                    tracing::warn!(
                        jobs,
                        why,
                        "a process died that ran jobs of a lost worker; their number is halved"
                    );
                    return (running, waiting);
                }
                release(running, &why, if hung { Verdict::Failed } else { Verdict::Killed });
                (Vec::new(), waiting)
            }
        }
    }
}

fn release(suspects: Vec<Suspect>, why: &str, end: fn(String) -> Verdict) {
    for suspect in suspects {
        // A job that was given back meanwhile has no receiver for its end.
        drop(suspect.end.send(end(why.to_owned())));
    }
}
