//! The backoff between tries while Redis or the database is unreachable.

use std::time::Duration;

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

    pub(crate) async fn wait(&mut self) {
        tokio::time::sleep(self.next).await;
        self.next = (self.next * 2).min(MAX_PAUSE);
    }
}
