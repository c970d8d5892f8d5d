//! The code of an isolated process, which runs jobs that may have killed a worker, and its protocol with the worker.
//!
//! The worker sends each job as a line of JSON. The process writes [`Word::Ready`] once it is set up, [`Word::Began`]
//! before it runs a handler, and [`Word::Ended`] with the settlement. The process ends when its input closes, at the
//! latest when the worker ends. `quarantine` decides which jobs it runs, and what its death proves about these jobs.

use std::io::{BufRead, Write};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::process::Command;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use topup_jobs::JobName;

use super::running::{carry_out, run_payload};
use crate::job::{Handler, Settlement};

/// The command that starts an isolated process.
#[derive(Clone)]
pub struct Isolation(Arc<dyn Fn() -> Command + Send + Sync>);

/// A job as it is sent to an isolated process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct IsolatedJob {
    /// The name of the job, which selects its handler.
    pub name: JobName,
    id: String,
    attempts_made: u32,
    payload: Vec<u8>,
    /// Identifies the job in the lines that the process writes.
    pub(super) number: u64,
}

/// A line that the process writes.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "word", rename_all = "kebab-case")]
pub(super) enum Word {
    /// The process is set up and takes jobs.
    Ready,
    /// The handler of this job is about to run.
    Began { number: u64 },
    /// The handler of this job returned a settlement.
    Ended { number: u64, settlement: Settlement },
    /// The handler of this job panicked or took too long.
    Failed { number: u64, what: String },
}

impl std::fmt::Debug for Isolation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Isolation").finish_non_exhaustive()
    }
}

impl Isolation {
    /// Takes a function that builds the command. The program of the command must call [`run_isolated`].
    #[must_use]
    pub fn new(command: impl Fn() -> Command + Send + Sync + 'static) -> Self {
        Self(Arc::new(command))
    }

    pub(super) fn command(&self) -> Command {
        (self.0)()
    }
}

impl IsolatedJob {
    pub(super) fn new(name: JobName, id: String, attempts_made: u32, payload: Vec<u8>) -> Self {
        Self { name, id, attempts_made, payload, number: 0 }
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Runs the job with its handler.
    pub async fn run<H: Handler>(self, handler: &H) -> Settlement {
        run_payload(handler, self.id, self.attempts_made, Some(&self.payload)).await
    }
}

/// Runs the jobs that the worker sends to this process concurrently, until the worker ends or closes the input.
///
/// # Errors
/// `io::Error` if a line is not a job. If the worker has ended and no longer reads, that is not an error.
pub async fn run_isolated<F>(run: impl Fn(IsolatedJob) -> F) -> std::io::Result<()>
where
    F: Future<Output = Settlement> + Send + 'static,
{
    let mut jobs = receive();
    if say(&Word::Ready).is_err() {
        return Ok(());
    }
    while let Some(job) = jobs.recv().await {
        let job = job?;
        let number = job.number;
        if say(&Word::Began { number }).is_err() {
            return Ok(());
        }
        let running = run(job);
        tokio::spawn(async move {
            let said = match carry_out(async { Ok::<_, std::convert::Infallible>(running.await) }).await {
                Ok(settlement) => Word::Ended { number, settlement },
                Err(what) => Word::Failed { number, what: what.to_owned() },
            };
            if say(&said).is_err() {
                // The worker has ended, so nothing receives the results.
                std::process::exit(0);
            }
        });
    }
    Ok(())
}

/// Receives jobs from the standard input. The process exits when the input closes.
fn receive() -> UnboundedReceiver<std::io::Result<IsolatedJob>> {
    let (send, received) = unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            let job = serde_json::from_str(&line).map_err(|error| {
                let what = "only a worker starts this command and sends it jobs; this line is not a job";
                std::io::Error::other(format!("{what}: {error}"))
            });
            if send.send(job).is_err() {
                return;
            }
        }
        std::process::exit(0);
    });
    received
}

fn say(word: &Word) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(word)?;
    line.push(b'\n');
    let mut output = std::io::stdout().lock();
    output.write_all(&line)?;
    output.flush()
}
