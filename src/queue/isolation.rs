//! Processes in which a worker runs jobs apart from its own: the lines that the two speak, and the process's side.
//!
//! The worker sends jobs, a line of JSON each. The process says [`Word::Ready`] once it is set up, [`Word::Began`]
//! before a job's handler runs, and [`Word::Ended`] with what came of it. It ends when its standard input does, and
//! so with its worker. Which jobs run there, and what the death of such a process says of them, is decided in
//! `quarantine`.

use std::io::{BufRead, Write};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::process::Command;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use topup_jobs::JobName;

use super::running::{carry_out, run_payload};
use crate::job::{Handler, Settlement};

/// How to start a process that runs jobs for a worker.
#[derive(Clone)]
pub struct Isolation(Arc<dyn Fn() -> Command + Send + Sync>);

/// A job on its way to its process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct IsolatedJob {
    /// The job's one name.
    pub name: JobName,
    id: String,
    attempts_made: u32,
    payload: Vec<u8>,
    /// By which the process names it to its worker.
    pub(super) number: u64,
}

/// What the process says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "word", rename_all = "kebab-case")]
pub(super) enum Word {
    /// It is set up, and takes jobs.
    Ready,
    /// The handler of this job is about to run.
    Began { number: u64 },
    /// The handler of this job has come to its end.
    Ended { number: u64, settlement: Settlement },
    /// It has not, for this reason: it panicked, or took too long.
    Failed { number: u64, what: String },
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

/// The process's side: runs the jobs that the worker sends, side by side, until the worker ends or dismisses it.
///
/// # Errors
/// `io::Error` where what it is sent is no job. That the worker does not listen any more is no error: it is gone, and with
/// it all reason to go on.
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
                // The worker is gone, and with it all reason to go on.
                std::process::exit(0);
            }
        });
    }
    Ok(())
}

/// The jobs that a worker sends to this process, which ends when the worker says nothing more.
fn receive() -> UnboundedReceiver<std::io::Result<IsolatedJob>> {
    let (send, received) = unbounded_channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            let job = serde_json::from_str(&line).map_err(|error| {
                let what = "this command is run by a worker, which says what to run";
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
