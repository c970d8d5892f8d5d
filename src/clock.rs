//! Domain time: the time of the deployment, and the one place that reads the wall clock of the machine.
//!
//! With a scale of 3600 an hour of the domain passes in a second: for demos and tests. The scale applies
//! to the waits of the domain and to the times it stores, never to leases, HTTP time-outs, reconnects or
//! the time stamp of a webhook.

mod shared;

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use tokio::time::Instant;
use topup_jobs::Timestamp;

pub use self::shared::SharedTime;

/// Tells domain time.
pub trait Clock: Send + Sync + 'static {
    /// Now, in domain time.
    fn now(&self) -> Timestamp;
    /// Now, by the time of the deployment: at real time, and the same for all workers.
    fn deployment_now(&self) -> Timestamp;
    /// How long a wait of the domain takes in real time.
    fn real(&self, wait: Duration) -> Duration;
    /// How much domain time passes in this much real time.
    fn domain(&self, real: Duration) -> Duration;
}

/// Now, by the wall clock of the machine. Hosts do not agree on it: ask a [`Clock`] for whatever concerns an order.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
pub fn real_now() -> Timestamp {
    Utc::now()
}

/// Domain time that began at the anchor and runs `scale` times as fast as the time of the deployment.
#[derive(Debug, Clone)]
pub struct ScaledClock {
    time: SharedTime,
    anchor: Timestamp,
    scale: f64,
}

impl ScaledClock {
    /// The time of this machine at the start, unscaled, for a process that shares nothing with others.
    #[must_use]
    pub fn real_time() -> Self {
        Self::new(SharedTime::new(Instant::now(), real_now()), 1.0, Timestamp::UNIX_EPOCH)
    }

    /// A clock that ran at real time up to the anchor and runs `scale` times as fast since.
    #[must_use]
    pub fn new(time: SharedTime, scale: f64, anchor: Timestamp) -> Self {
        Self { time, anchor, scale }
    }

    /// When it began to run at its scale; nothing for a clock at real time.
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
