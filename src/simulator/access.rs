//! Access control of the simulated API: keys, the lockout after wrong keys, and the rate limit.
//!
//! The lockout counts per address, as the real provider's does. A request without a key is refused but not counted. The
//! rate limit is strict: "60 requests a minute" means at most 60 in any sixty seconds. A key can be
//! revoked while the simulator runs, as a merchant does to replace a key. No error or log may contain a key.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use super::envelope::ApiError;
use super::settings::SimulatorSettings;
use super::traffic::{RequestKind, Traffic, WINDOW};

/// Consecutive wrong keys after which the address is blocked.
const FAILURES_TO_LOCKOUT: u32 = 5;
/// How long an address is blocked after wrong keys, in domain time.
const LOCKOUT: Duration = Duration::from_mins(15);

#[derive(Clone, Copy)]
pub(super) struct Caller<'a> {
    /// Value of `X-Access-Token`, if present.
    pub(super) token: Option<&'a [u8]>,
    pub(super) address: IpAddr,
}

#[derive(Default)]
struct Address {
    failures: u32,
    blocked_until: Option<Duration>,
}

#[derive(Default)]
pub(super) struct Access {
    addresses: HashMap<IpAddr, Address>,
    /// Times of the admitted requests of the last minute, by the key's index in the settings.
    recent: HashMap<usize, VecDeque<Duration>>,
    revoked: HashSet<String>,
    pub(super) traffic: Traffic,
}

impl Access {
    /// Admits a request made at domain time `now`, or returns the refusal.
    pub(super) fn admit(
        &mut self,
        settings: &SimulatorSettings,
        Caller { token, address }: Caller<'_>,
        kind: RequestKind,
        now: Duration,
    ) -> Result<(), ApiError> {
        let accepted = |key: &String| Some(key.as_bytes()) == token && !self.revoked.contains(key);
        let key = settings.api_keys.iter().position(accepted);
        self.traffic.count(kind, key, now);
        if settings.denied_addresses.contains(&address) {
            self.traffic.address_refused();
            return Err(ApiError::ip_not_allowed());
        }
        let place = self.addresses.entry(address).or_default();
        if let Some(until) = place.blocked_until {
            if now < until {
                self.traffic.address_refused();
                return Err(ApiError::ip_blocked());
            }
            place.blocked_until = None;
        }
        if token.is_none() {
            return Err(ApiError::missing_token());
        }
        let Some(key) = key else { return Err(self.failed(address, now)) };
        place.failures = 0;
        self.traffic.key_accepted();
        if settings.rate_limit == 0 {
            return Ok(());
        }
        let recent = self.recent.entry(key).or_default();
        while recent.front().is_some_and(|at| now.saturating_sub(*at) >= WINDOW) {
            recent.pop_front();
        }
        if recent.len() >= usize::try_from(settings.rate_limit).unwrap_or(usize::MAX) {
            let free = recent.front().map(|oldest| oldest.saturating_add(WINDOW).saturating_sub(now));
            let retry_after = free.filter(|_| settings.retry_after).map(whole_seconds);
            return Err(ApiError::rate_limited(retry_after));
        }
        recent.push_back(now);
        Ok(())
    }

    pub(super) fn revoke(&mut self, key: &str) {
        self.revoked.insert(key.to_owned());
    }

    /// Accepts the key again if the settings list it.
    pub(super) fn restore(&mut self, key: &str) {
        self.revoked.remove(key);
    }

    fn failed(&mut self, address: IpAddr, now: Duration) -> ApiError {
        self.traffic.key_refused();
        let place = self.addresses.entry(address).or_default();
        place.failures += 1;
        let left = FAILURES_TO_LOCKOUT.saturating_sub(place.failures);
        if left == 0 {
            place.failures = 0;
            place.blocked_until = Some(now.saturating_add(LOCKOUT));
        }
        ApiError::invalid_token(left)
    }
}

/// The seconds for `Retry-After`, rounded up, so that a client that waits as long is admitted.
fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Option<&[u8]> = Some(b"sandbox-key");
    const BAD: Option<&[u8]> = Some(b"wrong");

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn from(last: u8, token: Option<&[u8]>) -> Caller<'_> {
        Caller { token, address: IpAddr::from([192, 0, 2, last]) }
    }

    fn admit(access: &mut Access, settings: &SimulatorSettings, token: Option<&[u8]>, at: u64) -> String {
        label(access.admit(settings, from(1, token), RequestKind::CheckId, secs(at)))
    }

    fn label(result: Result<(), ApiError>) -> String {
        result.map_or_else(|error| error.label(), |()| "admitted".to_owned())
    }

    #[test]
    fn five_wrong_keys_in_a_row_block_even_the_right_one_for_fifteen_minutes() {
        let (settings, mut access) = (SimulatorSettings::default(), Access::default());
        for at in 0..5 {
            assert_eq!(admit(&mut access, &settings, BAD, at), "401 INVALID_ACCESS_TOKEN");
        }
        assert_eq!(admit(&mut access, &settings, GOOD, 5), "403 IP_BLOCKED");
        assert_eq!(admit(&mut access, &settings, GOOD, 4 + 899), "403 IP_BLOCKED");
        assert_eq!(admit(&mut access, &settings, GOOD, 4 + 900), "admitted");
        assert_eq!(admit(&mut access, &settings, BAD, 1000), "401 INVALID_ACCESS_TOKEN");
    }

    #[test]
    fn lockouts_and_denied_addresses_affect_one_address_only() {
        let denied_addresses = vec![from(3, GOOD).address];
        let settings = SimulatorSettings { denied_addresses, ..SimulatorSettings::default() };
        let mut access = Access::default();
        let mut at =
            |last, token| label(access.admit(&settings, from(last, token), RequestKind::CheckId, secs(0)));
        for _ in 0..5 {
            assert_eq!(at(1, BAD), "401 INVALID_ACCESS_TOKEN");
        }
        assert_eq!(at(1, GOOD), "403 IP_BLOCKED");
        assert_eq!(at(2, GOOD), "admitted");
        assert_eq!(at(3, GOOD), "403 IP_NOT_ALLOWED");
        assert_eq!(access.traffic.refused_addresses(), 2);
    }

    #[test]
    fn accepted_and_missing_keys_do_not_cause_a_lockout() {
        let (settings, mut access) = (SimulatorSettings::default(), Access::default());
        for _ in 0..3 {
            for _ in 0..4 {
                assert_eq!(admit(&mut access, &settings, BAD, 0), "401 INVALID_ACCESS_TOKEN");
            }
            assert_eq!(admit(&mut access, &settings, GOOD, 0), "admitted");
        }
        for _ in 0..9 {
            assert_eq!(admit(&mut access, &settings, None, 0), "401 MISSING_ACCESS_TOKEN");
        }
        assert_eq!(admit(&mut access, &settings, GOOD, 0), "admitted");
    }

    #[test]
    fn the_rate_limit_holds_in_any_minute_and_per_key() {
        let settings = SimulatorSettings {
            api_keys: vec!["sandbox-key".to_owned(), "second".to_owned()],
            rate_limit: 2,
            ..SimulatorSettings::default()
        };
        let mut access = Access::default();
        let mut at = |token, time| admit(&mut access, &settings, token, time);
        assert_eq!(at(GOOD, 0), "admitted");
        assert_eq!(at(GOOD, 50), "admitted");
        assert_eq!(at(GOOD, 59), "429 RATE_LIMIT_EXCEEDED");
        assert_eq!(at(Some(b"second"), 59), "admitted");
        assert_eq!(at(GOOD, 60), "admitted");
        assert_eq!(at(GOOD, 100), "429 RATE_LIMIT_EXCEEDED");
        assert_eq!(at(GOOD, 110), "admitted");
    }

    #[test]
    fn the_rate_limit_sends_retry_after_if_enabled() {
        let settings = SimulatorSettings { rate_limit: 1, retry_after: true, ..SimulatorSettings::default() };
        let mut access = Access::default();
        let mut refused = |millis| {
            let now = Duration::from_millis(millis);
            access
                .admit(&settings, from(1, GOOD), RequestKind::CheckId, now)
                .err()
                .map(|error| error.retry_after())
        };
        assert_eq!(refused(500), None);
        assert_eq!(refused(1_000), Some(Some(60)), "a partial second rounds up");
        assert_eq!(refused(60_499), Some(Some(1)));
        assert_eq!(refused(60_500), None);
    }

    #[test]
    fn a_revoked_key_is_refused_and_counted_until_it_is_restored() {
        let settings = SimulatorSettings {
            api_keys: vec!["sandbox-key".to_owned(), "second".to_owned()],
            ..SimulatorSettings::default()
        };
        let mut access = Access::default();
        access.revoke("sandbox-key");
        assert_eq!(admit(&mut access, &settings, GOOD, 0), "401 INVALID_ACCESS_TOKEN");
        assert_eq!(access.addresses[&from(1, GOOD).address].failures, 1);
        assert_eq!(admit(&mut access, &settings, Some(b"second"), 0), "admitted");
        access.restore("sandbox-key");
        access.restore("stranger");
        assert_eq!(admit(&mut access, &settings, GOOD, 0), "admitted");
        assert_eq!(admit(&mut access, &settings, Some(b"stranger"), 0), "401 INVALID_ACCESS_TOKEN");
    }
}
