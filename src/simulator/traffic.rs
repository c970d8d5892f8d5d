//! What callers asked for so far, so that a test can hold them to the provider's limits.
//!
//! Counts and high-water marks only, and not a list of requests: a simulator that runs for days must not grow
//! with what it is asked. What was asked about one order is kept with the order, see [`Simulator::calls`].

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::{Simulator, lock};

/// The window of the rate limit, in domain time.
pub(super) const WINDOW: Duration = Duration::from_mins(1);

/// Kinds of request the API knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RequestKind {
    /// `POST /v3/internet/send`.
    Send,
    /// `GET /v3/internet/check-id/{id}`.
    CheckId,
    /// `GET /v3/internet/check-ref/{ref}`.
    CheckRef,
    /// `GET /v3/internet/list`.
    List,
}

/// Counts of the requests so far, the refused ones included.
#[derive(Default)]
pub(super) struct Traffic {
    requests: HashMap<RequestKind, u64>,
    /// Times of the requests of the last minute, by the place of the key in the settings. Those with no key or
    /// a wrong one are counted together.
    last_minute: HashMap<Option<usize>, VecDeque<Duration>>,
    busiest_minute: usize,
    failures_in_a_row: u32,
    most_failures_in_a_row: u32,
    refused_addresses: u64,
}

impl Traffic {
    /// Counts a request made at domain time `now`, which must not be before that of the one before it.
    pub(super) fn count(&mut self, kind: RequestKind, key: Option<usize>, now: Duration) {
        *self.requests.entry(kind).or_default() += 1;
        let last_minute = self.last_minute.entry(key).or_default();
        last_minute.push_back(now);
        while last_minute.front().is_some_and(|at| now.saturating_sub(*at) >= WINDOW) {
            last_minute.pop_front();
        }
        self.busiest_minute = self.busiest_minute.max(last_minute.len());
    }

    /// Counts a key that was tried and refused.
    pub(super) fn key_refused(&mut self) {
        self.failures_in_a_row += 1;
        self.most_failures_in_a_row = self.most_failures_in_a_row.max(self.failures_in_a_row);
    }

    /// Counts a request that was refused for the address it came from.
    pub(super) fn address_refused(&mut self) {
        self.refused_addresses += 1;
    }

    #[cfg(test)]
    pub(super) fn refused_addresses(&self) -> u64 {
        self.refused_addresses
    }

    /// A key was accepted, which ends a row of refused ones.
    pub(super) fn key_accepted(&mut self) {
        self.failures_in_a_row = 0;
    }
}

impl Simulator {
    /// Requests of this kind so far, the refused ones included.
    #[must_use]
    pub fn requests(&self, kind: RequestKind) -> u64 {
        lock(&self.shared.access).traffic.requests.get(&kind).copied().unwrap_or_default()
    }

    /// The most requests that came with one key within any minute of domain time, the refused ones included.
    #[must_use]
    pub fn busiest_minute(&self) -> usize {
        lock(&self.shared.access).traffic.busiest_minute
    }

    /// Requests that were refused for the address they came from, because it is blocked or not allowed.
    #[must_use]
    pub fn refused_addresses(&self) -> u64 {
        lock(&self.shared.access).traffic.refused_addresses
    }

    /// The most keys refused in a row, with no accepted one in between: at five the provider locks the address
    /// out. What is refused during a lockout does not count, for no key is looked at.
    #[must_use]
    pub fn most_refused_keys_in_a_row(&self) -> u32 {
        lock(&self.shared.access).traffic.most_failures_in_a_row
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn busiest(requests: &[(Option<usize>, u64)]) -> usize {
        let mut traffic = Traffic::default();
        for (key, secs) in requests {
            traffic.count(RequestKind::List, *key, Duration::from_secs(*secs));
        }
        traffic.busiest_minute
    }

    #[test]
    fn the_busiest_minute_is_any_minute_of_one_key() {
        let (one, other) = (Some(0), Some(1));
        assert_eq!(busiest(&[]), 0);
        assert_eq!(busiest(&[(one, 0), (one, 50), (one, 59), (one, 200)]), 3, "it stays the busiest");
        assert_eq!(busiest(&[(one, 0), (one, 60), (one, 120)]), 1, "a minute ends before the next begins");
        assert_eq!(busiest(&[(one, 50), (one, 70), (one, 100), (one, 115)]), 3, "a minute begins anywhere");
        assert_eq!(busiest(&[(one, 0), (other, 1), (one, 2), (None, 3)]), 2, "each key has its own");
    }

    #[test]
    fn refused_keys_count_in_a_row() {
        let mut traffic = Traffic::default();
        for accepted in [false, false, true, false, false, false, true, false] {
            if accepted {
                traffic.key_accepted();
            } else {
                traffic.key_refused();
            }
        }
        assert_eq!(traffic.most_failures_in_a_row, 3);
    }
}
