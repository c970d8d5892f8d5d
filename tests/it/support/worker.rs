//! The built program as a worker process that a test may kill.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use super::{signal, until};

/// Path of the built program.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_topup-worker");

/// A process of `topup-worker run`. Dropping it kills the process.
pub(crate) struct Worker {
    child: Child,
    log: PathBuf,
}

impl Worker {
    /// Starts the process with these environment variables. Its log is appended to a file.
    pub(crate) fn start(settings: &[(&str, String)], log: &Path) -> Self {
        let file: File = OpenOptions::new().create(true).append(true).open(log).expect("the log opens");
        let mut command = Command::new(PROGRAM);
        command.arg("run").stdin(Stdio::null()).stdout(Stdio::null()).stderr(file);
        command.envs(settings.iter().map(|(name, value)| (*name, value)));
        let child = command.spawn().expect("the program starts");
        Self { child, log: log.to_owned() }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The log so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until the worker logs that it is ready.
    pub(crate) async fn ready(&self) {
        until("the worker is ready", async || self.log().contains("ready for work").then_some(())).await;
    }

    /// Waits until the log contains `words`.
    pub(crate) async fn logs(&self, words: &str) {
        until(&format!("the worker logs {words:?}"), async || self.log().contains(words).then_some(())).await;
    }

    /// Kills the process (SIGKILL) and reaps it.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("the worker is our child");
        self.child.wait().expect("the killed worker is reaped");
    }

    /// Sends a signal, for example `TERM`. For `STOP` use [`freeze`](Self::freeze).
    pub(crate) fn signal(&self, signal: &str) {
        signal::send(&self.child, signal);
    }

    /// Freezes the process until it receives `CONT`. Returns once all its threads are stopped.
    pub(crate) fn freeze(&self) {
        signal::freeze(&self.child);
    }

    /// Exit status, if the process has ended.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the worker is our child")
    }

    /// Sends SIGTERM and returns the exit status.
    pub(crate) async fn stop(&mut self) -> ExitStatus {
        self.signal("TERM");
        until("the worker stops", async || self.ended()).await
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let died = self.child.try_wait().ok().flatten().is_some_and(|status| !status.success());
        let killed = self.child.kill().and_then(|()| self.child.wait()).is_ok();
        let dead_task = self.log().contains("a task of the");
        if !std::thread::panicking() {
            assert!(killed, "a worker could not be killed");
            assert!(!dead_task, "a task of the service died:\n{}", self.log());
            // Also fails if the worker ended by itself with an error before the test killed it.
            assert!(!died || !self.log().contains("ERROR topup_worker::cli"), "{}", self.log());
        }
    }
}
