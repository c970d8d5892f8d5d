//! Spaces calls that several jobs share, so that a busy worker makes fewer and larger ones.
//!
//! An idle worker waits for nothing: only a call that was shared delays the next one.

use std::time::Duration;

use tokio::time::Instant;

/// Remembers the last shared call.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    shared_at: Option<Instant>,
}

impl Pace {
    /// Notes a call for this number of jobs.
    pub(crate) fn called(&mut self, jobs: usize, now: Instant) {
        self.shared_at = (jobs > 1).then_some(now);
    }

    /// How long the next call waits, so that more jobs can share it.
    pub(crate) fn wait(&self, interval: Duration, now: Instant) -> Duration {
        self.shared_at.map_or(Duration::ZERO, |at| interval.saturating_sub(now.duration_since(at)))
    }
}

/// Sleeps for this time. Zero ends at once, although the shortest sleep of the runtime takes a millisecond.
pub(crate) async fn rest(wait: Duration) {
    if !wait.is_zero() {
        tokio::time::sleep(wait).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_shared_call_delays_the_next() {
        let (interval, begin) = (Duration::from_millis(3), Instant::now());
        let after = |ms| begin + Duration::from_millis(ms);
        let mut pace = Pace::default();
        assert_eq!(pace.wait(interval, begin), Duration::ZERO);
        pace.called(1, begin);
        assert_eq!(pace.wait(interval, begin), Duration::ZERO);
        pace.called(2, begin);
        assert_eq!(pace.wait(interval, after(1)), Duration::from_millis(2));
        assert_eq!(pace.wait(interval, after(9)), Duration::ZERO);
        pace.called(2, after(9));
        pace.called(1, after(9));
        assert_eq!(pace.wait(interval, after(9)), Duration::ZERO);
    }
}
