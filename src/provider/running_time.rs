//! A limit in time that passes only while this process runs.
//!
//! A worker that is frozen for some seconds, as busy virtual machines are, would otherwise find that the provider has
//! not answered in time, although none was awaited; and enough of such failures keep all workers from asking.

use std::pin::pin;
use std::time::Duration;

use tokio::time::timeout;

/// The most that counts of a freeze.
const TICK: Duration = Duration::from_millis(250);

/// What is left of the limit. Several steps may share it.
pub(super) struct RunningTime(Duration);

impl RunningTime {
    pub(super) const fn new(limit: Duration) -> Self {
        Self(limit)
    }

    /// What the work comes to within the limit, otherwise nothing.
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
    async fn a_freeze_counts_for_a_moment_and_what_takes_too_long_is_given_up() {
        let start = Instant::now();
        let mut limit = RunningTime::new(3 * TICK);
        let freeze = async {
            // The one thread of this runtime stands still, and all that waits in it.
            std::thread::sleep(8 * TICK);
            sleep(Duration::ZERO).await;
        };
        let work = limit.limit(sleep_until(start + 9 * TICK));
        let (done, ()) = tokio::join!(work, freeze);
        assert!(done.is_some(), "the freeze was longer than the limit, and the answer came soon after it");
        assert!(limit.limit(std::future::pending::<()>()).await.is_none());
    }
}
