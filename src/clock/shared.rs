//! A clock of the deployment's time, which all workers share: the last measured time plus the monotonic time since.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::TimeDelta;
use tokio::time::Instant;
use topup_jobs::Timestamp;

/// A measurement corrects only a quarter of the clock's error, since it may itself be wrong by its round-trip time.
const PART: i32 = 4;
/// While the clock's error is corrected, the clock runs at most a tenth faster or slower.
const GENTLY: i32 = 10;

/// The time of the deployment. Clones share one clock.
#[derive(Debug, Clone)]
pub struct SharedTime(Arc<Mutex<Reckoning>>);

/// A time of the deployment, and the reading of the monotonic clock at that time.
#[derive(Debug, Clone, Copy)]
struct Reckoning {
    at: Instant,
    time: Timestamp,
}

impl SharedTime {
    /// A clock that shows `time` at the moment `at`.
    #[must_use]
    pub fn new(at: Instant, time: Timestamp) -> Self {
        Self(Arc::new(Mutex::new(Reckoning { at, time })))
    }

    /// The present time of the deployment.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.at(Instant::now())
    }

    pub(crate) fn at(&self, at: Instant) -> Timestamp {
        self.reckoning().at(at)
    }

    /// Corrects the clock gradually towards a measured time.
    pub(crate) fn approach(&self, at: Instant, measured: Timestamp) {
        let mut reckoning = self.reckoning();
        let most = delta(at.saturating_duration_since(reckoning.at)) / GENTLY;
        let shown = reckoning.at(at);
        let by = ((measured - shown) / PART).clamp(-most, most);
        *reckoning = Reckoning { at, time: shown + by };
    }

    /// Sets the clock to a measured time at once.
    pub(crate) fn take(&self, at: Instant, measured: Timestamp) {
        *self.reckoning() = Reckoning { at, time: measured };
    }

    fn reckoning(&self) -> std::sync::MutexGuard<'_, Reckoning> {
        // Even a poisoned lock holds a complete value, because the value is written in one step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reckoning {
    fn at(&self, at: Instant) -> Timestamp {
        // `at` may be before `self.at`: after this thread read the monotonic clock, another thread may have set `self`.
        self.time + delta(at.saturating_duration_since(self.at))
            - delta(self.at.saturating_duration_since(at))
    }
}

fn delta(duration: Duration) -> TimeDelta {
    TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Timestamp = Timestamp::UNIX_EPOCH;

    #[test]
    fn the_clock_advances_by_itself_and_corrects_a_difference_gradually() {
        let start = Instant::now();
        let (clock, second) = (SharedTime::new(start, T0), Duration::from_secs(1));
        assert_eq!(clock.at(start + second) - T0, TimeDelta::seconds(1));
        for ahead in [TimeDelta::milliseconds(800), TimeDelta::milliseconds(-800)] {
            let clock = SharedTime::new(start, T0);
            let mut shown = T0;
            for n in 1..=40 {
                let at = start + second * n;
                let before = clock.at(at);
                clock.approach(at, T0 + delta(second * n) + ahead);
                assert!((clock.at(at) - before).abs() <= TimeDelta::milliseconds(100), "it does not step");
                assert!(clock.at(at) > shown, "it goes on");
                shown = clock.at(at);
            }
            let off = shown - (T0 + delta(second * 40) + ahead);
            assert!(off.abs() < TimeDelta::milliseconds(5), "{off}");
        }
    }

    #[test]
    fn a_taken_time_counts_at_once() {
        let start = Instant::now();
        let clock = SharedTime::new(start, T0);
        clock.take(start, T0 + TimeDelta::hours(1));
        assert_eq!(clock.at(start + Duration::from_secs(2)), T0 + TimeDelta::seconds(3602));
    }
}
