//! `topup-worker run`: runs one worker until it is asked to stop.

use crate::app;
use crate::config::RunSettings;
use crate::queue::Stopped;
use crate::shutdown::Shutdown;

pub(super) async fn run(settings: RunSettings) -> anyhow::Result<()> {
    let config = settings.validate()?;
    let shutdown = Shutdown::new();
    shutdown.on_signals()?;
    match Box::pin(app::run(config, shutdown)).await? {
        Stopped::Drained | Stopped::TimedOut => Ok(()),
        Stopped::Failed => anyhow::bail!("a task of the service died; restart the worker"),
    }
}

/// `topup-worker run-job`: the separate process in which a worker runs the jobs of a dead worker. If one of these jobs
/// crashes, it ends only this process and not the worker.
pub(super) async fn run_job(settings: RunSettings) -> anyhow::Result<()> {
    app::run_jobs(&settings.validate()?).await
}
