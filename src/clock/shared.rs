//! The time of the deployment as a process reckons it: a time that was measured once, and what has passed since on a
//! clock that never steps. The wall clock of the host decides nothing.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::TimeDelta;
use tokio::time::Instant;
use topup_jobs::Timestamp;

/// Of a small difference this part is made up for with each measurement: one of them may be off by its round trip.
const PART: i32 = 4;
/// Time runs no more than this part faster or slower to make up for a difference.
const GENTLY: i32 = 10;

/// The time of the deployment. Clones are the same clock.
#[derive(Debug, Clone)]
pub struct SharedTime(Arc<Mutex<Reckoning>>);

/// A time, and the moment at which it was so.
#[derive(Debug, Clone, Copy)]
struct Reckoning {
    at: Instant,
    time: Timestamp,
}

impl SharedTime {
    /// A clock that shows this time at that moment.
    #[must_use]
    pub fn new(at: Instant, time: Timestamp) -> Self {
        Self(Arc::new(Mutex::new(Reckoning { at, time })))
    }

    /// Now.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.at(Instant::now())
    }

    /// What it shows at that moment.
    pub(crate) fn at(&self, at: Instant) -> Timestamp {
        self.reckoning().at(at)
    }

    /// Follows a measured time, a little at a time.
    pub(crate) fn approach(&self, at: Instant, measured: Timestamp) {
        let mut reckoning = self.reckoning();
        let most = delta(at.saturating_duration_since(reckoning.at)) / GENTLY;
        let shown = reckoning.at(at);
        let by = ((measured - shown) / PART).clamp(-most, most);
        *reckoning = Reckoning { at, time: shown + by };
    }

    /// Takes a measured time at once.
    pub(crate) fn take(&self, at: Instant, measured: Timestamp) {
        *self.reckoning() = Reckoning { at, time: measured };
    }

    fn reckoning(&self) -> std::sync::MutexGuard<'_, Reckoning> {
        // A poisoned lock holds a whole reckoning all the same: nothing in between can panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reckoning {
    fn at(&self, at: Instant) -> Timestamp {
        // Two threads may have looked at the clock in one order and come here in the other.
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
    fn it_goes_on_by_itself_and_makes_up_for_a_difference_little_by_little() {
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
    fn a_time_that_is_taken_counts_at_once() {
        let start = Instant::now();
        let clock = SharedTime::new(start, T0);
        clock.take(start, T0 + TimeDelta::hours(1));
        assert_eq!(clock.at(start + Duration::from_secs(2)), T0 + TimeDelta::seconds(3602));
    }
}
