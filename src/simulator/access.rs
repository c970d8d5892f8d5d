//! Who may ask, and how often: keys, the lockout after failed keys, and the rate limit.
//!
//! The lockout counts per simulator and not per address: all its clients sit on one machine, and the real
//! provider counts per IP address. A request without the header is refused but not counted, for it tried no
//! key. The rate limit is the strictest reading of "60 requests a minute": no more than that in any sixty
//! seconds. Nothing here may show a key, not even in an error.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::envelope::ApiError;
use super::settings::SimulatorSettings;

/// Wrong keys in a row that block the address.
const FAILURES_TO_LOCKOUT: u32 = 5;
/// How long the block lasts, in domain time.
const LOCKOUT: Duration = Duration::from_mins(15);
/// The window of the rate limit, in domain time.
const WINDOW: Duration = Duration::from_mins(1);

/// What the provider remembers about its callers.
#[derive(Default)]
pub(super) struct Access {
    failures: u32,
    blocked_until: Option<Duration>,
    /// Times of the requests of the last minute, by the place of the key in the settings.
    recent: HashMap<usize, VecDeque<Duration>>,
}

impl Access {
    /// Admits a request made at domain time `now`, or says how it is refused.
    pub(super) fn admit(
        &mut self,
        settings: &SimulatorSettings,
        token: Option<&[u8]>,
        now: Duration,
    ) -> Result<(), ApiError> {
        if let Some(until) = self.blocked_until {
            if now < until {
                return Err(ApiError::ip_blocked());
            }
            self.blocked_until = None;
        }
        let token = token.ok_or_else(ApiError::missing_token)?;
        let Some(key) = settings.api_keys.iter().position(|key| key.as_bytes() == token) else {
            return Err(self.failed(now));
        };
        self.failures = 0;
        if settings.rate_limit == 0 {
            return Ok(());
        }
        let recent = self.recent.entry(key).or_default();
        while recent.front().is_some_and(|at| now.saturating_sub(*at) >= WINDOW) {
            recent.pop_front();
        }
        if recent.len() >= usize::try_from(settings.rate_limit).unwrap_or(usize::MAX) {
            return Err(ApiError::rate_limited(None));
        }
        recent.push_back(now);
        Ok(())
    }

    fn failed(&mut self, now: Duration) -> ApiError {
        self.failures += 1;
        let left = FAILURES_TO_LOCKOUT.saturating_sub(self.failures);
        if left == 0 {
            self.failures = 0;
            self.blocked_until = Some(now.saturating_add(LOCKOUT));
        }
        ApiError::invalid_token(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Option<&[u8]> = Some(b"sandbox-key");
    const BAD: Option<&[u8]> = Some(b"wrong");

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn label(result: Result<(), ApiError>) -> String {
        result.map_or_else(|error| error.label(), |()| "admitted".to_owned())
    }

    #[test]
    fn five_wrong_keys_in_a_row_block_even_the_right_one_for_fifteen_minutes() {
        let (settings, mut access) = (SimulatorSettings::default(), Access::default());
        for at in 0..5 {
            assert_eq!(label(access.admit(&settings, BAD, secs(at))), "401 INVALID_ACCESS_TOKEN");
        }
        assert_eq!(label(access.admit(&settings, GOOD, secs(5))), "403 IP_BLOCKED");
        assert_eq!(label(access.admit(&settings, GOOD, secs(4 + 899))), "403 IP_BLOCKED");
        assert_eq!(label(access.admit(&settings, GOOD, secs(4 + 900))), "admitted");
        assert_eq!(label(access.admit(&settings, BAD, secs(1000))), "401 INVALID_ACCESS_TOKEN");
    }

    #[test]
    fn a_right_key_or_none_does_not_lead_to_the_lockout() {
        let (settings, mut access) = (SimulatorSettings::default(), Access::default());
        for _ in 0..3 {
            for _ in 0..4 {
                assert_eq!(label(access.admit(&settings, BAD, secs(0))), "401 INVALID_ACCESS_TOKEN");
            }
            assert_eq!(label(access.admit(&settings, GOOD, secs(0))), "admitted");
        }
        for _ in 0..9 {
            assert_eq!(label(access.admit(&settings, None, secs(0))), "401 MISSING_ACCESS_TOKEN");
        }
        assert_eq!(label(access.admit(&settings, GOOD, secs(0))), "admitted");
    }

    #[test]
    fn the_rate_limit_holds_in_any_minute_and_per_key() {
        let settings = SimulatorSettings {
            api_keys: vec!["sandbox-key".to_owned(), "second".to_owned()],
            rate_limit: 2,
            ..SimulatorSettings::default()
        };
        let mut access = Access::default();
        let mut at = |token, time| label(access.admit(&settings, token, secs(time)));
        assert_eq!(at(GOOD, 0), "admitted");
        assert_eq!(at(GOOD, 50), "admitted");
        assert_eq!(at(GOOD, 59), "429 RATE_LIMIT_EXCEEDED");
        assert_eq!(at(Some(b"second"), 59), "admitted");
        assert_eq!(at(GOOD, 60), "admitted");
        assert_eq!(at(GOOD, 100), "429 RATE_LIMIT_EXCEEDED");
        assert_eq!(at(GOOD, 110), "admitted");
    }
}
