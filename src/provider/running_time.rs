//! A time limit that counts only the time in which this process runs.
//!
//! A busy virtual machine may freeze for seconds. With a plain time-out every request in flight would then count as
//! unanswered, and enough such failures open the breaker for all workers.

use std::pin::pin;
use std::time::Duration;

use tokio::time::timeout;

/// The step in which time is counted. A freeze of the process, however long, counts as at most one step.
const TICK: Duration = Duration::from_millis(250);

/// The remaining time of a limit. The steps of one request share it.
pub(super) struct RunningTime(Duration);

impl RunningTime {
    pub(super) const fn new(limit: Duration) -> Self {
        Self(limit)
    }

    /// Runs `work` and returns its result, or `None` if the limit runs out first.
    pub(super) async fn limit<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        while !self.0.is_zero() {
            let tick = self.0.min(TICK);
            match timeout(tick, &mut work).await {
                Ok(done) => return Some(done),
                Err(_elapsed) => self.0 -= tick,
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Instant, sleep, sleep_until};

    use super::*;

    #[tokio::test]
    async fn a_freeze_hardly_counts_and_work_that_takes_too_long_times_out() {
        let start = Instant::now();
        let mut limit = RunningTime::new(3 * TICK);
        let freeze = async {
            // Blocks the runtime's only thread, so every task of the test stands still.
            std::thread::sleep(8 * TICK);
            sleep(Duration::ZERO).await;
        };
        let work = limit.limit(sleep_until(start + 9 * TICK));
        let (done, ()) = tokio::join!(work, freeze);
        assert!(done.is_some(), "the freeze was longer than the limit, and the answer came soon after it");
        assert!(limit.limit(std::future::pending::<()>()).await.is_none());
    }
}
