//! Runs suspects. A suspect is a job whose worker was presumed dead; the job may have killed the worker.
//!
//! An expired lease proves nothing: the worker may have been killed, frozen or cut off while it held dozens of jobs. So
//! suspects run concurrently in one isolated process, where harmless jobs finish as fast as elsewhere. If the process
//! dies while it runs several jobs, they run again in a new process. If that dies too, each half of them runs in a new
//! one, and so on. The death of a process that ran only one job is a crash of that job. The job then runs alone, and
//! its third crash makes it a dead letter. A death is not counted if the process was not set up yet (for lack of
//! memory), got a signal to stop, or died while its worker stopped. A worker that was presumed dead but is alive clears
//! its jobs of the suspicion (`acquit.lua`).
//!
//! A worker has at most two isolated processes: the common one, and one for jobs that run again or alone. Each takes
//! some 15 MiB and connections of its own, and a host that has just run out of memory must not start many. Suspects
//! take at most half of the worker's slots; further suspects go back to the queue and return one after another.

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

/// How long the first suspect waits for others that were claimed with it, to run in the same process.
const GATHERED_WITHIN: Duration = Duration::from_millis(20);
/// If too many suspects run, a further suspect goes back to the queue for at least this long.
const SHORTEST_TURN: Duration = Duration::from_millis(300);
/// Interval between the returns of suspects that went back to the queue.
const BETWEEN_TURNS: Duration = Duration::from_millis(10);
/// How long the start of a process is retried. After that, suspects run in the worker; otherwise they would never run.
const START_TRIED_FOR: Duration = Duration::from_mins(1);

/// Runs suspects for one worker. Clones share the tasks and the processes.
#[derive(Debug, Clone)]
pub(super) struct Quarantine(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    places: Semaphore,
    /// The latest time at which a suspect that went back to the queue will return.
    last_turn: Mutex<Instant>,
    /// The time since which no process could be started; `None` if the last start succeeded.
    unavailable: Mutex<Option<Instant>>,
    /// Sends suspects to the task that runs them in the common process.
    common: UnboundedSender<Suspect>,
    /// Sends groups (suspects whose process died, or one that runs alone) to the task that runs each in a new process.
    narrowed: UnboundedSender<Vec<Suspect>>,
    stopping: AtomicBool,
    ended: CancellationToken,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl Quarantine {
    /// Starts the tasks for a worker with this many slots. Must be called on a tokio runtime.
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

    /// Runs a suspect in the common process or, after its first crash, `alone` in another one.
    pub(super) async fn run(&self, job: IsolatedJob, alone: bool) -> Verdict {
        let Ok(_place) = self.0.places.try_acquire() else { return Verdict::NoPlace(self.turn()) };
        let (end, ended) = oneshot::channel();
        let suspect = Suspect { job, end };
        // If the quarantine has ended, the send fails and drops `end`, so `ended` returns an error below.
        if alone {
            drop(self.0.narrowed.send(vec![suspect]));
        } else {
            drop(self.0.common.send(suspect));
        }
        ended.await.unwrap_or_else(|_| Verdict::Inconclusive("the worker stops".to_owned()))
    }

    /// Returns the wait of a suspect that finds no place. Each gets a later turn, so that they return one by one.
    fn turn(&self) -> Duration {
        let (now, mut last) = (Instant::now(), lock(&self.0.last_turn));
        *last = (*last + BETWEEN_TURNS).max(now + SHORTEST_TURN);
        *last - now
    }

    /// Records that the worker stops. From now on the death of a process is not blamed on its jobs.
    pub(super) fn stopping(&self) {
        self.0.stopping.store(true, Ordering::Relaxed);
    }

    /// Kills the processes. Returns once each has been sent the signal.
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

/// Runs suspects in the common process while there are any.
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

/// Runs each group in a new process. If a process dies while it runs several jobs, these are halved into two groups.
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
    /// Sends verdicts on the jobs that a process left unfinished. Returns those that run again: the jobs one of which
    /// may have killed the process, and the jobs that had not begun.
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
                        "an isolated process died; its jobs run again, in smaller groups each time, to find the one that kills it"
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
        // The send fails if the job was given back meanwhile. Then the verdict is not needed.
        drop(suspect.end.send(end(why.to_owned())));
    }
}
