//! Shutdown in two stages: the first request lets running jobs finish, the second stops at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The shutdown of a process. Clones share one state.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    requested: CancellationToken,
    forced: CancellationToken,
}

impl Shutdown {
    /// A shutdown that is not requested yet.
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
    /// [`std::io::Error`] if the signal handlers cannot be installed.
    pub fn on_signals(&self) -> std::io::Result<()> {
        let shutdown = self.clone();
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        tokio::spawn(async move {
            loop {
                tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
                tracing::info!("this process was asked to stop by SIGTERM or SIGINT");
                shutdown.request();
            }
        });
        Ok(())
    }
}
