//! `topup-worker run`.

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
        Stopped::Failed => anyhow::bail!("a task of the service died; start it again"),
    }
}

/// `topup-worker run-job`, which a worker runs for jobs that were lost with another worker.
pub(super) async fn run_job(settings: RunSettings) -> anyhow::Result<()> {
    app::run_jobs(&settings.validate()?).await
}
