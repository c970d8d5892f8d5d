//! Pauses between tries.

use std::time::Duration;

/// Longest pause between two tries while Redis is away.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Growing pauses between tries, from 50 ms to a second.
#[derive(Debug)]
pub(crate) struct Pause {
    next: Duration,
}

impl Pause {
    pub(crate) fn new() -> Self {
        Self { next: Duration::from_millis(50) }
    }

    /// Waits, longer each time.
    pub(crate) async fn wait(&mut self) {
        tokio::time::sleep(self.next).await;
        self.next = (self.next * 2).min(LONGEST_PAUSE);
    }
}
