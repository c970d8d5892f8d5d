//! The backoff between tries while Redis or the database is away.

use std::time::Duration;

/// Longest pause between two tries while Redis is away.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// Waits that double from 50 ms to a second.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Self { next: Duration::from_millis(50) }
    }

    /// Waits, longer each time.
    pub(crate) async fn wait(&mut self) {
        tokio::time::sleep(self.next).await;
        self.next = (self.next * 2).min(MAX_PAUSE);
    }
}
