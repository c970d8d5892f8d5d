//! One child process: started with its log in the command's folder, and surely ended.
//!
//! Each is a process group of its own, so that a Ctrl-C at the terminal reaches the command alone and that
//! ends the others in order. Should the command itself fall over, `kill_on_drop` ends them.

use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context;
use tokio::process::{Child, Command};

use super::Folder;

/// How long a process that was asked to stop may take; real time.
const STOP_TIME: Duration = Duration::from_secs(5);

/// A running child.
pub(in crate::cli) struct Process {
    pub(in crate::cli) name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    pub(in crate::cli) fn start(name: &str, mut command: Command, folder: &Folder) -> anyhow::Result<Self> {
        let (log, path) = folder.log(name)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{name} cannot be started"))?;
        Ok(Self { name: name.to_owned(), child, log: path })
    }

    /// Its number, while it runs.
    pub(in crate::cli) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Fails if the process has ended, with the last line of its log.
    pub(in crate::cli) fn must_run(&mut self) -> anyhow::Result<()> {
        let Some(status) = self.child.try_wait()? else { return Ok(()) };
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let last = log.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("nothing").trim();
        anyhow::bail!("{} ended by itself ({status}); the last line of its log: {last}", self.name)
    }

    /// Ends it at once, as a crash does.
    pub(in crate::cli) async fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().await.with_context(|| format!("{} cannot be killed", self.name))
    }

    /// Asks it to stop with SIGTERM.
    pub(in crate::cli) async fn ask_to_stop(&self) {
        let Some(pid) = self.pid() else { return };
        // The shell's own `kill`: the program of that name is missing on slim systems.
        let asked = Command::new("sh")
            .args(["-c", "kill -TERM \"$1\"", "sh"])
            .arg(pid.to_string())
            .stderr(Stdio::null())
            .status()
            .await;
        if let Err(error) = asked {
            tracing::warn!(%error, "{} could not be asked to stop", self.name);
        }
    }

    /// Waits until it has stopped; ends it where it takes too long, and then tells nothing.
    pub(in crate::cli) async fn stopped(mut self) -> Option<ExitStatus> {
        match tokio::time::timeout(STOP_TIME, self.child.wait()).await {
            Ok(status) => status.ok(),
            Err(_elapsed) => {
                if let Err(error) = self.kill().await {
                    tracing::warn!("{error:#}");
                }
                None
            }
        }
    }
}
