//! A job that may have killed its worker, and the verdict on it.

use std::time::Duration;

use tokio::sync::oneshot;

use super::isolation::IsolatedJob;
use crate::job::Settlement;

/// A job that runs in an isolated process or waits for one.
#[derive(Debug)]
pub(super) struct Suspect {
    pub(super) job: IsolatedJob,
    pub(super) end: oneshot::Sender<Verdict>,
}

#[derive(Debug)]
pub(super) enum Verdict {
    Settled(Settlement),
    /// The handler panicked or took too long.
    Failed(String),
    /// The process that ran only this job died; the text says how.
    Killed(String),
    /// The process could not be started, or ended for a reason that proves nothing about the job.
    Inconclusive(String),
    /// No process could be started within `START_TRIED_FOR`. The job runs in the worker.
    NoProcess(String),
    /// All places for suspects are taken. The job goes back to its queue, and is due again after this wait.
    NoPlace(Duration),
}
