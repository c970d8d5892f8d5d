//! The worker's side of an isolated process: starts the process, sends it jobs, and returns the jobs it did not finish.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep_until, timeout};

use super::isolation::{Isolation, Word};
use super::running::HANDLER_TIMEOUT;
use super::suspect::{Suspect, Verdict};

/// Timeout for a new process to report that it is set up.
const SET_UP_WITHIN: Duration = Duration::from_secs(30);
/// How long an idle process is kept, so that suspects that went back to the queue and are soon due again can use it.
const KEPT_FOR: Duration = Duration::from_secs(3);
/// A process that runs a job for this long has hung: it should have stopped the handler after [`HANDLER_TIMEOUT`].
const HUNG_AFTER: Duration = HANDLER_TIMEOUT.saturating_add(Duration::from_secs(15));
/// Timeout for sending a line to the process, which expires if the process does not read.
const WRITTEN_WITHIN: Duration = Duration::from_secs(10);
/// Timeout for the process to end after it has closed its output.
const ENDS_WITHIN: Duration = Duration::from_secs(5);
/// Signals that ask a program to stop: SIGHUP, SIGINT, SIGTERM.
const STOP_SIGNALS: [i32; 3] = [1, 2, 15];

/// The jobs that a process left behind when it ended.
pub(super) enum Left {
    /// No job: the process was no longer needed.
    NoJobs,
    /// The process could not be started, or ended while no job was running.
    NotStarted { why: String, jobs: Vec<Suspect> },
    /// A signal asked the process to stop.
    Stopped { why: String, jobs: Vec<Suspect> },
    /// The process died, or hung and was killed, while it was `running` jobs. The `waiting` jobs had not begun.
    Died { why: String, running: Vec<Suspect>, waiting: Vec<Suspect>, hung: bool },
}

struct Process {
    child: Child,
    input: ChildStdin,
    said: Lines<BufReader<ChildStdout>>,
    sent: BTreeMap<u64, Sent>,
    number: u64,
}

/// A job that was sent to the process at the time `since`, and whose handler began to run at the time `began`.
struct Sent {
    suspect: Suspect,
    began: Option<Instant>,
    since: Instant,
}

/// Runs jobs concurrently in one process until all have ended. Jobs that arrive at `joining` are added.
pub(super) async fn run_in_process(
    isolation: &Isolation,
    jobs: Vec<Suspect>,
    mut joining: Option<&mut UnboundedReceiver<Suspect>>,
) -> Left {
    let mut process = match Process::start(isolation).await {
        Ok(process) => process,
        Err(error) => return Left::NotStarted { why: error.to_string(), jobs },
    };
    let mut hung = false;
    for job in jobs {
        // `send` records the job first, so a job that could not be sent is returned as unfinished.
        hung |= process.send(job).await.is_err();
    }
    let mut idle_since = Instant::now();
    while !hung {
        if process.sent.is_empty() && joining.is_none() {
            return Left::NoJobs;
        }
        let next = async {
            match joining.as_mut() {
                Some(joining) => joining.recv().await,
                None => std::future::pending().await,
            }
        };
        let until = process.longest_began().map_or(idle_since + KEPT_FOR, |began| began + HUNG_AFTER);
        tokio::select! {
            line = process.said.next_line() => match line {
                Ok(Some(line)) => process.heard(&line),
                Ok(None) | Err(_) => break,
            },
            job = next => match job {
                Some(job) => hung = process.send(job).await.is_err(),
                None => joining = None,
            },
            () = sleep_until(until) => {
                if process.sent.is_empty() {
                    return Left::NoJobs;
                }
                hung = true;
            }
        }
        if !process.sent.is_empty() {
            idle_since = Instant::now();
        }
    }
    process.left(hung).await
}

impl Process {
    async fn start(isolation: &Isolation) -> io::Result<Self> {
        let mut command = isolation.command();
        // A process group of its own, so that a Ctrl-C at the terminal reaches the worker only.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0).kill_on_drop(true);
        let mut child = command.spawn()?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let mut said = BufReader::new(output).lines();
        let ready = async {
            // Skips other lines, because libraries may print before the process is ready.
            while let Some(line) = said.next_line().await? {
                if matches!(serde_json::from_str(&line), Ok(Word::Ready)) {
                    return Ok(());
                }
            }
            let status = child.wait().await?;
            Err(io::Error::other(format!("the process ended before it was ready ({status})")))
        };
        let late = |_elapsed| Err(io::Error::new(io::ErrorKind::TimedOut, "the process started too slowly"));
        timeout(SET_UP_WITHIN, ready).await.unwrap_or_else(late)?;
        Ok(Self { child, input, said, sent: BTreeMap::new(), number: 0 })
    }

    async fn send(&mut self, mut suspect: Suspect) -> io::Result<()> {
        self.number += 1;
        suspect.job.number = self.number;
        let line = serde_json::to_vec(&suspect.job);
        self.sent.insert(self.number, Sent { suspect, began: None, since: Instant::now() });
        let mut line = line?;
        line.push(b'\n');
        match timeout(WRITTEN_WITHIN, self.input.write_all(&line)).await {
            Ok(Err(error)) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
            // A broken pipe means that the process has died. Its output then ends, which the caller handles.
            Ok(_) => Ok(()),
            Err(_elapsed) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    fn heard(&mut self, line: &str) {
        let (number, end) = match serde_json::from_str(line) {
            Ok(Word::Began { number }) => {
                if let Some(sent) = self.sent.get_mut(&number) {
                    sent.began = Some(Instant::now());
                }
                return;
            }
            Ok(Word::Ended { number, settlement }) => (number, Verdict::Settled(settlement)),
            Ok(Word::Failed { number, what }) => (number, Verdict::Failed(what)),
            Ok(Word::Ready) | Err(_) => return,
        };
        if let Some(Sent { suspect, .. }) = self.sent.remove(&number) {
            // The send fails if the job was given back meanwhile. Then the verdict is not needed.
            drop(suspect.end.send(end));
        }
    }

    /// Returns when the oldest job began. A job that has not begun counts from the time at which it was sent.
    fn longest_began(&self) -> Option<Instant> {
        self.sent.values().map(|sent| sent.began.unwrap_or(sent.since)).min()
    }

    /// Ends the process and returns its unfinished jobs.
    async fn left(mut self, hung: bool) -> Left {
        let ended = if hung { None } else { timeout(ENDS_WITHIN, self.child.wait()).await.ok() };
        let status = ended.and_then(Result::ok);
        // Has no effect if the process has already ended.
        drop(self.child.start_kill());
        let why = match status {
            Some(status) => status.to_string(),
            None if hung => "the handler took too long".to_owned(),
            None => "the process closed its output and did not end".to_owned(),
        };
        let (running, waiting): (Vec<_>, Vec<_>) =
            self.sent.into_values().partition(|sent| sent.began.is_some());
        let suspects = |of: Vec<Sent>| of.into_iter().map(|sent| sent.suspect).collect::<Vec<_>>();
        let (running, waiting) = (suspects(running), suspects(waiting));
        if status.is_some_and(was_asked_to_stop) {
            return Left::Stopped { why, jobs: running.into_iter().chain(waiting).collect() };
        }
        if running.is_empty() {
            return Left::NotStarted { why, jobs: waiting };
        }
        Left::Died { why, running, waiting, hung }
    }
}

fn was_asked_to_stop(status: ExitStatus) -> bool {
    status.signal().is_some_and(|signal| STOP_SIGNALS.contains(&signal))
}
