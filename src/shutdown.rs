//! Stopping in two stages: asked once, finish what runs; asked again, stop now.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Shared by everything that must stop.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    requested: CancellationToken,
    insisted: CancellationToken,
}

impl Shutdown {
    /// Not asked yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks to stop; asked a second time, insists.
    pub fn ask(&self) {
        if self.requested.is_cancelled() {
            self.insisted.cancel();
        }
        self.requested.cancel();
    }

    /// Waits until asked.
    pub async fn requested(&self) {
        self.requested.cancelled().await;
    }

    /// Waits until asked twice.
    pub async fn insisted(&self) {
        self.insisted.cancelled().await;
    }

    /// Whether asked.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.requested.is_cancelled()
    }

    /// Asks whenever the process gets SIGTERM or SIGINT.
    ///
    /// # Errors
    /// `io::Error` where signals cannot be listened for.
    pub fn on_signals(&self) -> std::io::Result<()> {
        let shutdown = self.clone();
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        tokio::spawn(async move {
            loop {
                tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
                tracing::info!("asked to stop");
                shutdown.ask();
            }
        });
        Ok(())
    }
}
