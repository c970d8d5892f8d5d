//! The simulator's own clock: domain time, which is real time multiplied by the time scale.
//!
//! Lives of orders, the lockout and the rate limit are all told in domain time, so that a demo can let twelve
//! hours pass in seconds. The simulator plays another machine, so it keeps a clock of its own and must not
//! share the worker's: a worker that only works when both clocks agree to the millisecond would be wrong.

use std::time::{Duration, Instant};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};

/// Domain time since the simulator began, and the wall clock it began at.
pub(super) struct SimClock {
    started: Instant,
    started_at: DateTime<Utc>,
    scale: f64,
}

impl SimClock {
    /// Starts the clock. A scale that is not a positive, finite number counts as 1: real time.
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the simulator's own clock, and the one place in it that reads the time of day"
    )]
    pub(super) fn start(scale: f64) -> Self {
        let scale = if scale.is_finite() && scale > 0.0 { scale } else { 1.0 };
        Self { started: Instant::now(), started_at: Utc::now(), scale }
    }

    /// Domain time since the start.
    pub(super) fn elapsed(&self) -> Duration {
        Duration::try_from_secs_f64(self.started.elapsed().as_secs_f64() * self.scale)
            .unwrap_or(Duration::MAX)
    }

    /// The date and time that domain time `at` stands for.
    pub(super) fn date(&self, at: Duration) -> DateTime<Utc> {
        TimeDelta::from_std(at)
            .ok()
            .and_then(|passed| self.started_at.checked_add_signed(passed))
            .unwrap_or(DateTime::<Utc>::MAX_UTC)
    }

    /// [`SimClock::date`] as the provider writes it: `2025-11-01T12:00:45.000Z`.
    pub(super) fn timestamp(&self, at: Duration) -> String {
        self.date(at).to_rfc3339_opts(SecondsFormat::Millis, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scale_that_makes_no_sense_is_real_time() {
        for scale in [0.0, -3.0, f64::NAN, f64::INFINITY] {
            let clock = SimClock::start(scale);
            assert!(clock.elapsed() < Duration::from_mins(1), "scale {scale}");
        }
    }

    #[test]
    fn a_time_beyond_the_calendar_is_the_last_date_and_no_panic() {
        let clock = SimClock::start(f64::MAX);
        std::thread::yield_now();
        assert_eq!(clock.date(Duration::MAX), DateTime::<Utc>::MAX_UTC);
        let _far = clock.timestamp(clock.elapsed());
    }

    #[test]
    fn timestamps_look_like_the_providers() {
        let clock = SimClock::start(1.0);
        let text = clock.timestamp(Duration::from_hours(1));
        assert_eq!(text.len(), "2025-11-01T12:00:45.000Z".len());
        assert!(text.ends_with('Z'));
    }
}
