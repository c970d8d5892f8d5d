//! A process of its own for a job whose process has died while running it.
//!
//! When a worker dies, one of its jobs may be the cause, and nobody can tell which. Each of them runs again
//! at once, but in a process of its own: if it is the cause, only that process dies, the worker sees it at
//! once and knows which job it was, and no other job waits for a lease to run out or is counted as a crash.
//!
//! The two speak by lines of JSON: the worker sends an [`IsolatedJob`]; the process answers [`STARTED`] once
//! it is set up, and then the settlement. It ends when its standard input does, and so with its worker.

use std::io::{BufRead, Write};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;
use tokio::sync::{Semaphore, SemaphorePermit};
use topup_jobs::JobName;

use super::apalis::run_payload;
use crate::handlers::{Handler, Settlement};

/// Processes at once; each takes some 15 MiB for as long as its job runs.
const MOST_PROCESSES: usize = 16;
/// What the process says once the handler is about to run.
const STARTED: &str = "started";

/// How to start a process that runs one job.
#[derive(Clone)]
pub struct Isolation {
    command: Arc<dyn Fn() -> Command + Send + Sync>,
    places: Arc<Semaphore>,
}

/// A job on its way to its process.
#[derive(Debug, Serialize, Deserialize)]
pub struct IsolatedJob {
    /// The job's one name.
    pub name: JobName,
    id: String,
    attempts_made: u32,
    payload: Vec<u8>,
}

/// Why a process of its own brought no settlement.
#[derive(Debug, thiserror::Error)]
pub(super) enum IsolationError {
    /// It could not be started, or not set up: that says nothing about the job.
    #[error("no process could be started for the job")]
    Unavailable(#[source] std::io::Error),
    /// It died while running the job.
    #[error("the process of the job died ({0})")]
    Died(ExitStatus),
}

impl std::fmt::Debug for Isolation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Isolation").finish_non_exhaustive()
    }
}

impl Isolation {
    /// Processes made by this command, which must end up in [`run_isolated`].
    #[must_use]
    pub fn new(command: impl Fn() -> Command + Send + Sync + 'static) -> Self {
        Self { command: Arc::new(command), places: Arc::new(Semaphore::new(MOST_PROCESSES)) }
    }

    /// The right to start one more process, if one may be started now.
    pub(super) fn place(&self) -> Option<SemaphorePermit<'_>> {
        self.places.try_acquire().ok()
    }

    /// Runs the job in a process. Dropped, it ends the process.
    ///
    /// # Errors
    /// [`IsolationError`] where that brought no settlement.
    pub(super) async fn run(&self, job: &IsolatedJob) -> Result<Settlement, IsolationError> {
        let mut command = (self.command)();
        // A group of its own: a Ctrl-C at the terminal is the worker's business, not a crash of the job.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0).kill_on_drop(true);
        let mut child = command.spawn().map_err(IsolationError::Unavailable)?;
        let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(IsolationError::Unavailable(std::io::ErrorKind::BrokenPipe.into()));
        };
        let mut line = serde_json::to_vec(job).map_err(|error| IsolationError::Unavailable(error.into()))?;
        line.push(b'\n');
        let mut said = BufReader::new(output).lines();
        let mut started = false;
        if input.write_all(&line).await.is_ok() {
            // It may say other things first: handlers and libraries are free to print.
            while let Ok(Some(line)) = said.next_line().await {
                if line == STARTED {
                    started = true;
                } else if started && let Ok(settlement) = serde_json::from_str(&line) {
                    return Ok(settlement);
                }
            }
        }
        let status = child.wait().await.map_err(IsolationError::Unavailable)?;
        if started {
            Err(IsolationError::Died(status))
        } else {
            Err(IsolationError::Unavailable(std::io::Error::other(format!("it was not set up ({status})"))))
        }
    }
}

impl IsolatedJob {
    pub(super) fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn new(name: JobName, id: String, attempts_made: u32, payload: Vec<u8>) -> Self {
        Self { name, id, attempts_made, payload }
    }

    /// Reads the job that a worker has sent to this process, which ends when the worker does.
    ///
    /// # Errors
    /// Where it is not a job: somebody else has started this process.
    pub fn receive() -> std::io::Result<Self> {
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line)?;
        // The worker says nothing more; the end of its words is the end of the worker.
        std::thread::spawn(|| {
            let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
            std::process::exit(0);
        });
        serde_json::from_str(&line).map_err(|error| {
            std::io::Error::other(format!("this command is run by a worker, which says what to run: {error}"))
        })
    }
}

/// The other side: runs the job with its handler and answers with the settlement.
///
/// # Errors
/// `io::Error` where the worker does not listen any more.
pub async fn run_isolated<H: Handler>(handler: &H, job: IsolatedJob) -> std::io::Result<()> {
    say(STARTED.as_bytes())?;
    let settlement = run_payload(handler, job.id, job.attempts_made, Some(&job.payload)).await;
    say(&serde_json::to_vec(&settlement)?)
}

fn say(line: &[u8]) -> std::io::Result<()> {
    let mut output = std::io::stdout().lock();
    output.write_all(line)?;
    output.write_all(b"\n")?;
    output.flush()
}
