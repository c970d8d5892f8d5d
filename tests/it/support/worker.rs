//! The built binary at work, as a process that a test may kill.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use super::{signal, until};

/// The built program.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_topup-worker");

/// A `topup-worker run`. Dropping it kills it.
pub(crate) struct Worker {
    child: Child,
    log: PathBuf,
}

impl Worker {
    /// Starts it; the settings come by environment, the log goes to a file.
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

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until it says that it is ready.
    pub(crate) async fn ready(&self) {
        until("the worker is ready", async || self.log().contains("ready for work").then_some(())).await;
    }

    /// Waits until it has logged these words.
    pub(crate) async fn logs(&self, words: &str) {
        until(&format!("the worker logs {words:?}"), async || self.log().contains(words).then_some(())).await;
    }

    /// SIGKILL: no time for last words.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it is ours to kill");
        self.child.wait().expect("it is gone");
    }

    /// Sends it a signal, for example `TERM`. To stop it for a while, [`freeze`](Self::freeze) it.
    pub(crate) fn signal(&self, signal: &str) {
        signal::send(&self.child, signal);
    }

    /// Stops it in the middle of whatever it does, until it is sent `CONT`. Returns once it stands still.
    pub(crate) fn freeze(&self) {
        signal::freeze(&self.child);
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("it is ours to ask")
    }

    /// Asks it to stop and waits for how it ends.
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
            assert!(killed, "a worker could not be ended");
            assert!(!dead_task, "a task of the service died:\n{}", self.log());
            // A worker that a test killed has no status of its own; one that failed by itself has.
            assert!(!died || !self.log().contains("ERROR topup_worker::cli"), "{}", self.log());
        }
    }
}
