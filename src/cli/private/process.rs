//! A child process of `demo` or `bench`, which logs to the folder of the command and does not outlive it. Each child
//! has its own process group, so that Ctrl-C reaches only the command, which then stops its children one after the
//! other. If the command panics or fails, `kill_on_drop` kills the children.

use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context;
use tokio::process::{Child, Command};

use super::Folder;

/// Maximum real time (not scaled) from SIGTERM to the end of a process.
const STOP_TIME: Duration = Duration::from_secs(5);

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

    pub(in crate::cli) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Fails with the last line of the log if the process has ended.
    pub(in crate::cli) fn must_run(&mut self) -> anyhow::Result<()> {
        let Some(status) = self.child.try_wait()? else { return Ok(()) };
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let last = log.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("nothing").trim();
        anyhow::bail!("{} ended by itself ({status}); the last line of its log: {last}", self.name)
    }

    /// Kills the process with SIGKILL, so that it ends as in a crash.
    pub(in crate::cli) async fn kill(&mut self) -> anyhow::Result<()> {
        self.child.kill().await.with_context(|| format!("{} cannot be killed", self.name))
    }

    pub(in crate::cli) async fn ask_to_stop(&self) {
        let Some(pid) = self.pid() else { return };
        // `sh` runs its built-in `kill`, because slim systems lack the program `kill`.
        let asked = Command::new("sh")
            .args(["-c", "kill -TERM \"$1\"", "sh"])
            .arg(pid.to_string())
            .stderr(Stdio::null())
            .status()
            .await;
        if let Err(error) = asked {
            tracing::warn!(%error, "SIGTERM could not be sent to {}; it will be killed", self.name);
        }
    }

    /// Waits for the end of the process; kills it after [`STOP_TIME`] and then returns `None`.
    pub(in crate::cli) async fn stopped(mut self) -> Option<ExitStatus> {
        match tokio::time::timeout(STOP_TIME, self.child.wait()).await {
            Ok(status) => status.ok(),
            Err(_elapsed) => {
                if let Err(error) = self.kill().await {
                    tracing::warn!("a process did not end after SIGTERM: {error:#}");
                }
                None
            }
        }
    }
}
