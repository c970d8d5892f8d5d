//! Stopping in two stages: asked once, finish what runs; asked again, stop now.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Shared by everything that must stop.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    requested: CancellationToken,
    forced: CancellationToken,
}

impl Shutdown {
    /// No shutdown is requested yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Requests a shutdown; the second request forces it.
    pub fn request(&self) {
        if self.requested.is_cancelled() {
            self.forced.cancel();
        }
        self.requested.cancel();
    }

    /// Waits until a shutdown is requested.
    pub async fn requested(&self) {
        self.requested.cancelled().await;
    }

    /// Waits until the shutdown is forced.
    pub async fn forced(&self) {
        self.forced.cancelled().await;
    }

    /// Whether a shutdown is requested.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.requested.is_cancelled()
    }

    /// Requests a shutdown whenever the process gets SIGTERM or SIGINT.
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
                shutdown.request();
            }
        });
        Ok(())
    }
}
