//! The simulator's own clock: domain time, which is real time multiplied by the time scale.
//!
//! The ages of orders, the lockout and the rate limit use domain time, so that a demo can let twelve hours pass in
//! seconds. The simulator stands for another machine, so it does not share the worker's clock: a worker must work even
//! if the two clocks differ by milliseconds.

use std::time::{Duration, Instant};

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};

/// Domain time since the simulator's start, and the wall-clock time of the start.
pub(super) struct SimClock {
    started: Instant,
    started_at: DateTime<Utc>,
    scale: f64,
}

impl SimClock {
    /// Starts the clock. A scale that is not positive and finite counts as 1, which is real time.
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the simulator's own clock, and the one place in it that reads the time of day"
    )]
    pub(super) fn start(scale: f64) -> Self {
        let scale = if scale.is_finite() && scale > 0.0 { scale } else { 1.0 };
        Self { started: Instant::now(), started_at: Utc::now(), scale }
    }

    pub(super) fn elapsed(&self) -> Duration {
        Duration::try_from_secs_f64(self.started.elapsed().as_secs_f64() * self.scale)
            .unwrap_or(Duration::MAX)
    }

    /// Date and time at domain time `at`.
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
    fn an_invalid_scale_counts_as_real_time() {
        for scale in [0.0, -3.0, f64::NAN, f64::INFINITY] {
            let clock = SimClock::start(scale);
            assert!(clock.elapsed() < Duration::from_mins(1), "scale {scale}");
        }
    }

    #[test]
    fn a_time_beyond_the_calendar_becomes_the_last_date() {
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
