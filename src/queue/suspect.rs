//! A job that may have killed its process, and what comes of it.

use std::time::Duration;

use tokio::sync::oneshot;

use super::isolation::IsolatedJob;
use crate::job::Settlement;

/// A job that waits for its end in a process.
#[derive(Debug)]
pub(super) struct Suspect {
    pub(super) job: IsolatedJob,
    pub(super) end: oneshot::Sender<Verdict>,
}

/// What came of a suspect.
#[derive(Debug)]
pub(super) enum Verdict {
    Settled(Settlement),
    /// Its handler failed to say what becomes of it.
    Failed(String),
    /// A process died that ran this job and no other; how.
    Killed(String),
    /// The process ended for a reason that says nothing of the job; or it was no process, and why.
    Inconclusive(String),
    /// There is no process to be had, and has not been for a while.
    NoProcess(String),
    /// Suspects have all the places they may have. It is to come back after this time.
    NoPlace(Duration),
}
