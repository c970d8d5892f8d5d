//! Every wait of the domain, as pure arithmetic: poll pace, rechecks, backoff, notification attempts.
//!
//! Sources: the provider's page on status tracking (5–10 s, five minutes, 60 attempts; adaptive 3 s,
//! 5 s, 10 s; recheck after 24 h, then 12 h), Bull's `lib/backoffs.js`, and the attempt schedule that
//! Standard Webhooks senders share. Randomness comes in as an argument.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MINUTE: Duration = Duration::from_mins(1);
pub(crate) const HOUR: Duration = Duration::from_hours(1);

/// Fast polling ends after this long, …
pub(crate) const POLL_LIMIT: Duration = Duration::from_mins(5);
/// … or after this many answers, whichever comes first.
pub(crate) const POLL_LIMIT_COUNT: u32 = 60;
/// First recheck of a QUEUED order.
pub(crate) const FIRST_RECHECK: Duration = Duration::from_hours(24);
/// Every further recheck of a QUEUED order.
pub(crate) const NEXT_RECHECK: Duration = Duration::from_hours(12);
/// The operator is notified of a QUEUED order this old, once.
pub(crate) const OVERDUE_AFTER: Duration = Duration::from_hours(72);
/// A QUEUED order this old goes to the dead letters.
pub(crate) const QUEUED_LIMIT: Duration = Duration::from_hours(168);
/// An order that has been HANDLING for this long since it was tracked is reported to the operator, once.
pub(crate) const HANDLING_OVERDUE_AFTER: Duration = Duration::from_hours(24);
/// An order that is still HANDLING after this long goes to the dead letters, as a QUEUED one does.
pub(crate) const HANDLING_LIMIT: Duration = QUEUED_LIMIT;
/// An order that the provider has never known is given up after this many waits, which together take more than ten
/// minutes: a replica that lags behind and a change of environment by mistake last for minutes.
pub(crate) const NOT_FOUND_LIMIT: u32 = 12;

/// The wait after the `count`th answer "not found" in a row: 12 s, doubling to a minute.
#[must_use]
pub(crate) fn not_found_wait(count: u32) -> Duration {
    (SECOND * 12).saturating_mul(2_u32.saturating_pow(count.saturating_sub(1).min(16))).min(MINUTE)
}

/// A random number from −1 to 1, drawn by the caller.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Jitter(f64);

impl Jitter {
    /// No jitter.
    pub const NONE: Self = Self(0.0);

    /// Takes a number from −1 to 1; anything outside is brought back to the nearer end.
    #[must_use]
    pub fn new(unit: f64) -> Self {
        Self(if unit.is_finite() { unit.clamp(-1.0, 1.0) } else { 0.0 })
    }

    /// The wait, up to a tenth shorter or longer.
    #[must_use]
    pub fn apply(self, wait: Duration) -> Duration {
        wait.mul_f64(1.0 + self.0 / 10.0)
    }
}

/// Pace of fast polling.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PollStrategy {
    /// 3 s; 5 s once 30 s have passed; 10 s once 60 s have passed.
    #[default]
    Adaptive,
    /// Every 5 s.
    Fixed,
}

/// The text names no poll strategy.
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
    /// Wait before the next poll of an order polled for `elapsed`.
    pub(crate) fn interval(self, elapsed: Duration) -> Duration {
        match self {
            Self::Fixed => 5 * SECOND,
            Self::Adaptive if elapsed > 60 * SECOND => 10 * SECOND,
            Self::Adaptive if elapsed > 30 * SECOND => 5 * SECOND,
            Self::Adaptive => 3 * SECOND,
        }
    }
}

/// Wait after the n-th failed poll in a row (counted from 1): 5 s doubling to 60 s.
pub(crate) fn poll_error_wait(failures: u32) -> Duration {
    doubled(5 * SECOND, failures.saturating_sub(1)).min(MINUTE)
}

/// Wait before the recheck of an order that outlived fast polling for the n-th time (counted from 1):
/// 15 min doubling to 12 h.
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
    /// Bull's: `(2^attemptsMade − 1) · delay`.
    Exponential,
}

/// Wait between attempts, in Bull's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Backoff {
    /// How it grows.
    #[serde(rename = "type")]
    pub kind: BackoffType,
    /// Unit of the wait, in milliseconds.
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
        // A wait beyond a year is a mistake of the producer; a year keeps it a date that can be stored.
        Duration::from_millis(self.delay.saturating_mul(times)).min(365 * 24 * HOUR)
    }
}

/// How often and after which waits a failing recheck is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RetryPolicy {
    /// Attempts in all, the first included.
    pub attempts: u32,
    /// Wait between them.
    pub backoff: Backoff,
}

impl Default for RetryPolicy {
    /// That of the provider's `recheckQueue`: three attempts, exponential, one hour.
    fn default() -> Self {
        Self { attempts: 3, backoff: Backoff { kind: BackoffType::Exponential, delay: 3_600_000 } }
    }
}

/// Waits before each attempt to tell a channel, the first included.
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

/// Wait before the next attempt after `attempts_made` failed ones, or `None` after the last.
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
    fn exponential_backoff_is_bulls() {
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
    fn a_channel_is_tried_ten_times() {
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
