//! Domain time, by which orders are tracked, and the only function that reads the wall clock of the machine.
//!
//! Domain time is the time of the deployment. In demos and tests it is scaled: at a scale of 3600, an hour of domain
//! time passes in a second. The scale applies to waits and stored times of orders, never to leases, HTTP time-outs,
//! reconnects or the time stamp of a webhook.

mod shared;

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use tokio::time::Instant;
use topup_jobs::Timestamp;

pub use self::shared::SharedTime;

/// A source of domain time.
pub trait Clock: Send + Sync + 'static {
    /// The present domain time.
    fn now(&self) -> Timestamp;
    /// The present time of the deployment, which is not scaled and is the same for all workers.
    fn deployment_now(&self) -> Timestamp;
    /// Converts a wait in domain time to the time that really passes: at a scale of 3600, an hour to a second.
    fn real(&self, wait: Duration) -> Duration;
    /// Converts time that really passed to domain time: at a scale of 3600, a second to an hour.
    fn domain(&self, real: Duration) -> Duration;
}

/// The wall clock of the machine. The wall clocks of hosts differ, so code about orders uses a [`Clock`] instead.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
pub fn real_now() -> Timestamp {
    Utc::now()
}

/// A clock for domain time, which begins at the anchor and runs `scale` times as fast as the deployment's time.
#[derive(Debug, Clone)]
pub struct ScaledClock {
    time: SharedTime,
    anchor: Timestamp,
    scale: f64,
}

impl ScaledClock {
    /// An unscaled clock that starts from this machine's time, for a process that shares nothing with others.
    #[must_use]
    pub fn real_time() -> Self {
        Self::new(SharedTime::new(Instant::now(), real_now()), 1.0, Timestamp::UNIX_EPOCH)
    }

    /// A clock that runs `scale` times as fast as `time` since the anchor.
    #[must_use]
    pub fn new(time: SharedTime, scale: f64, anchor: Timestamp) -> Self {
        Self { time, anchor, scale }
    }

    /// The beginning of scaled time, or `None` for an unscaled clock.
    #[must_use]
    pub fn anchor(&self) -> Option<Timestamp> {
        (!self.is_real()).then_some(self.anchor)
    }

    fn is_real(&self) -> bool {
        (self.scale - 1.0).abs() < f64::EPSILON
    }
}

impl Clock for ScaledClock {
    fn now(&self) -> Timestamp {
        let now = self.time.now();
        if self.is_real() {
            return now;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_precision_loss,
            reason = "microseconds of a demo"
        )]
        let elapsed = (now - self.anchor).num_microseconds().map(|real| (real as f64 * self.scale) as i64);
        self.anchor + elapsed.map_or(TimeDelta::zero(), TimeDelta::microseconds)
    }

    fn deployment_now(&self) -> Timestamp {
        self.time.now()
    }

    fn real(&self, wait: Duration) -> Duration {
        wait.div_f64(self.scale)
    }

    fn domain(&self, real: Duration) -> Duration {
        real.mul_f64(self.scale)
    }
}

/// A clock that stands still until a test advances it. It is not scaled.
#[cfg(test)]
pub(crate) struct ManualClock(std::sync::Mutex<Timestamp>);

#[cfg(test)]
impl ManualClock {
    pub(crate) fn at(now: Timestamp) -> Self {
        Self(std::sync::Mutex::new(now))
    }

    pub(crate) fn advance(&self, seconds: i64) {
        *self.0.lock().unwrap() += TimeDelta::seconds(seconds);
    }
}

#[cfg(test)]
impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }

    fn deployment_now(&self) -> Timestamp {
        self.now()
    }

    fn real(&self, wait: Duration) -> Duration {
        wait
    }

    fn domain(&self, real: Duration) -> Duration {
        real
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_passes_in_a_second_at_3600() {
        let anchor = real_now();
        let clock = ScaledClock::new(SharedTime::new(Instant::now(), anchor), 3600.0, anchor);
        assert_eq!(clock.real(Duration::from_hours(1)), Duration::from_secs(1));
        let (domain, real) = (clock.now() - anchor, clock.time.now() - anchor);
        assert!(domain <= real * 3600, "{domain} of {real}");
    }
}
