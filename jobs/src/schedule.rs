//! All waits between checks and between attempts to notify, computed without clock or I/O; randomness is an argument.
//! Sources: the provider's page on status tracking (5–10 s, five minutes, 60 attempts; adaptive 3 s, 5 s, 10 s; recheck
//! after 24 h, then 12 h), Bull's `lib/backoffs.js`, and the attempt schedule of Standard Webhooks.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MINUTE: Duration = Duration::from_mins(1);
pub(crate) const HOUR: Duration = Duration::from_hours(1);

/// Longest duration of one period of fast polling.
pub(crate) const POLL_LIMIT: Duration = Duration::from_mins(5);
/// Number of answers after which fast polling ends, even before `POLL_LIMIT`.
pub(crate) const POLL_LIMIT_COUNT: u32 = 60;
/// Wait before the first recheck of a QUEUED order.
pub(crate) const FIRST_RECHECK: Duration = Duration::from_hours(24);
/// Wait before every further recheck of a QUEUED order.
pub(crate) const NEXT_RECHECK: Duration = Duration::from_hours(12);
/// Time since the first QUEUED answer after which the operator is notified, once, that the order is overdue.
pub(crate) const OVERDUE_AFTER: Duration = Duration::from_hours(72);
/// Time since the first QUEUED answer after which a QUEUED order is dead-lettered.
pub(crate) const QUEUED_LIMIT: Duration = Duration::from_hours(168);
/// Time since tracking began after which the operator is notified, once, that an order never QUEUED is overdue.
pub(crate) const HANDLING_OVERDUE_AFTER: Duration = Duration::from_hours(24);
/// Time since tracking began, or since the first QUEUED answer, after which a HANDLING order is dead-lettered.
pub(crate) const HANDLING_LIMIT: Duration = QUEUED_LIMIT;
/// Number of waits after which an order that the provider has never known is given up. The waits last more than ten
/// minutes together, because a lagging replica or a mistaken environment setting may last for minutes.
pub(crate) const NOT_FOUND_LIMIT: u32 = 12;

/// The wait after the `count`th answer "not found" in a row: 12 s, doubling to a minute.
#[must_use]
pub(crate) fn not_found_wait(count: u32) -> Duration {
    (SECOND * 12).saturating_mul(2_u32.saturating_pow(count.saturating_sub(1).min(16))).min(MINUTE)
}

/// A random number from −1 to 1, drawn by the caller, that varies a wait by up to a tenth.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Jitter(f64);

impl Jitter {
    /// No jitter.
    pub const NONE: Self = Self(0.0);

    /// Makes a jitter. A number outside −1 to 1 is clamped to that range; a number that is not finite counts as 0.
    #[must_use]
    pub fn new(unit: f64) -> Self {
        Self(if unit.is_finite() { unit.clamp(-1.0, 1.0) } else { 0.0 })
    }

    /// Shortens or lengthens the wait by up to a tenth.
    #[must_use]
    pub fn apply(self, wait: Duration) -> Duration {
        wait.mul_f64(1.0 + self.0 / 10.0)
    }
}

/// Pace of fast polling.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PollStrategy {
    /// A poll every 3 s; after 30 s of polling every 5 s; after 60 s every 10 s.
    #[default]
    Adaptive,
    /// A poll every 5 s.
    Fixed,
}

/// The text is not the name of a poll strategy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the poll strategy is either adaptive or fixed")]
pub struct UnknownPollStrategy;

impl std::str::FromStr for PollStrategy {
    type Err = UnknownPollStrategy;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "adaptive" => Ok(Self::Adaptive),
            "fixed" => Ok(Self::Fixed),
            _ => Err(UnknownPollStrategy),
        }
    }
}

impl std::fmt::Display for PollStrategy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Adaptive => "adaptive",
            Self::Fixed => "fixed",
        })
    }
}

impl PollStrategy {
    /// Wait before the next poll of an order that has been polled for `elapsed`.
    pub(crate) fn interval(self, elapsed: Duration) -> Duration {
        match self {
            Self::Fixed => 5 * SECOND,
            Self::Adaptive if elapsed > 60 * SECOND => 10 * SECOND,
            Self::Adaptive if elapsed > 30 * SECOND => 5 * SECOND,
            Self::Adaptive => 3 * SECOND,
        }
    }
}

/// Wait after the n-th failed poll in a row (from 1): 5 s, doubling to 60 s.
pub(crate) fn poll_error_wait(failures: u32) -> Duration {
    doubled(5 * SECOND, failures.saturating_sub(1)).min(MINUTE)
}

/// Wait before the recheck of an order after its n-th period of fast polling (from 1): 15 min, doubling to 12 h.
pub(crate) fn delayed_wait(times: u32) -> Duration {
    doubled(15 * MINUTE, times.saturating_sub(1)).min(12 * HOUR)
}

fn doubled(wait: Duration, times: u32) -> Duration {
    wait.saturating_mul(2_u32.saturating_pow(times))
}

/// How a backoff grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BackoffType {
    /// The same wait each time.
    Fixed,
    /// Bull's formula: `(2^attemptsMade − 1) · delay`.
    Exponential,
}

/// Wait between attempts, in the form that Bull uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Backoff {
    /// How the wait grows.
    #[serde(rename = "type")]
    pub kind: BackoffType,
    /// The wait, or the unit of an exponential wait, in milliseconds.
    pub delay: u64,
}

impl Backoff {
    /// Wait after `attempts_made` attempts have failed.
    #[must_use]
    pub fn wait(&self, attempts_made: u32) -> Duration {
        let times = match self.kind {
            BackoffType::Fixed => 1,
            BackoffType::Exponential => 2_u64.saturating_pow(attempts_made) - 1,
        };
        // A wait of more than a year is a producer's mistake; the limit keeps the time of the next check storable.
        Duration::from_millis(self.delay.saturating_mul(times)).min(365 * 24 * HOUR)
    }
}

/// Number of attempts of a failing recheck, and the waits between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RetryPolicy {
    /// Number of attempts, including the first.
    pub attempts: u32,
    /// Wait between the attempts.
    pub backoff: Backoff,
}

impl Default for RetryPolicy {
    /// The policy of the provider's `recheckQueue`: three attempts, exponential backoff, one hour as its unit.
    fn default() -> Self {
        Self { attempts: 3, backoff: Backoff { kind: BackoffType::Exponential, delay: 3_600_000 } }
    }
}

/// The wait before each of the ten attempts to send a notification; the first attempt has none.
pub const NOTIFY_WAITS: [Duration; 10] = [
    Duration::ZERO,
    Duration::from_secs(5),
    Duration::from_mins(5),
    Duration::from_mins(30),
    Duration::from_hours(2),
    Duration::from_hours(5),
    Duration::from_hours(10),
    Duration::from_hours(14),
    Duration::from_hours(20),
    Duration::from_hours(24),
];

/// Wait before the next attempt to send a notification after `attempts_made` failed ones; `None` after the last.
#[must_use]
pub fn notify_wait(attempts_made: u32, jitter: Jitter) -> Option<Duration> {
    let wait = NOTIFY_WAITS.get(usize::try_from(attempts_made).ok()?)?;
    Some(jitter.apply(*wait))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_adaptive_pace_is_that_of_the_providers_page() {
        let pace = |seconds| PollStrategy::Adaptive.interval(Duration::from_secs(seconds)).as_secs();
        assert_eq!([0, 30, 31, 60, 61, 299].map(pace), [3, 3, 5, 5, 10, 10]);
        assert_eq!(PollStrategy::Fixed.interval(Duration::from_secs(200)), 5 * SECOND);
    }

    #[test]
    fn backoff_waits_are_those_of_bull() {
        let waits = [1, 2, 3].map(|made| RetryPolicy::default().backoff.wait(made).as_secs());
        assert_eq!(waits, [3_600, 3 * 3_600, 7 * 3_600]);
        let fixed = Backoff { kind: BackoffType::Fixed, delay: 1_500 };
        assert_eq!([1, 5].map(|made| fixed.wait(made).as_millis()), [1_500, 1_500]);
    }

    #[test]
    fn error_and_delay_waits_double_to_their_caps() {
        assert_eq!([1, 2, 3, 4, 5, 6].map(|n| poll_error_wait(n).as_secs()), [5, 10, 20, 40, 60, 60]);
        assert_eq!([1, 2, 3, 6, 7, 40].map(|n| delayed_wait(n).as_secs() / 60), [15, 30, 60, 480, 720, 720]);
    }

    #[test]
    fn a_notification_has_ten_attempts() {
        let waits: Vec<_> = (0..).map_while(|made| notify_wait(made, Jitter::NONE)).collect();
        assert_eq!(waits, NOTIFY_WAITS);
    }

    proptest! {
        #[test]
        fn every_wait_is_bounded(n: u32, delay: u64, unit: f64, exponential: bool) {
            let kind = if exponential { BackoffType::Exponential } else { BackoffType::Fixed };
            let backoff = Backoff { kind, delay };
            prop_assert!(backoff.wait(n) <= 365 * 24 * HOUR);
            prop_assert!(poll_error_wait(n) <= MINUTE);
            prop_assert!(delayed_wait(n) <= 12 * HOUR);
            let wait = Jitter::new(unit).apply(10 * SECOND);
            prop_assert!(wait >= 9 * SECOND && wait <= 11 * SECOND);
        }
    }
}
