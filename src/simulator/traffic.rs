//! Request counts and high-water marks, so that a test can check that callers keep the provider's limits.
//!
//! The module must not store requests, because a simulator that runs for days must not grow with its traffic. Checks
//! of one order are kept with the order, see [`Simulator::calls`].

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::{Simulator, lock};

/// The window of the rate limit, in domain time.
pub(super) const WINDOW: Duration = Duration::from_mins(1);

/// Kinds of request, one for each endpoint.
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

/// Counts of all requests, refused ones included.
#[derive(Default)]
pub(super) struct Traffic {
    requests: HashMap<RequestKind, u64>,
    /// Times of the requests of the last minute, by the key's index in the settings; `None` without a valid key.
    last_minute: HashMap<Option<usize>, VecDeque<Duration>>,
    busiest_minute: usize,
    failures_in_a_row: u32,
    most_failures_in_a_row: u32,
    refused_addresses: u64,
}

impl Traffic {
    /// Counts a request made at domain time `now`, which must not precede the previous request.
    pub(super) fn count(&mut self, kind: RequestKind, key: Option<usize>, now: Duration) {
        *self.requests.entry(kind).or_default() += 1;
        let last_minute = self.last_minute.entry(key).or_default();
        last_minute.push_back(now);
        while last_minute.front().is_some_and(|at| now.saturating_sub(*at) >= WINDOW) {
            last_minute.pop_front();
        }
        self.busiest_minute = self.busiest_minute.max(last_minute.len());
    }

    pub(super) fn key_refused(&mut self) {
        self.failures_in_a_row += 1;
        self.most_failures_in_a_row = self.most_failures_in_a_row.max(self.failures_in_a_row);
    }

    /// Counts a request that was refused because of its address.
    pub(super) fn address_refused(&mut self) {
        self.refused_addresses += 1;
    }

    #[cfg(test)]
    pub(super) fn refused_addresses(&self) -> u64 {
        self.refused_addresses
    }

    pub(super) fn key_accepted(&mut self) {
        self.failures_in_a_row = 0;
    }
}

impl Simulator {
    /// Number of requests of this kind, refused ones included.
    #[must_use]
    pub fn requests(&self, kind: RequestKind) -> u64 {
        lock(&self.shared.access).traffic.requests.get(&kind).copied().unwrap_or_default()
    }

    /// Largest number of requests with one key in any minute of domain time, refused ones included.
    #[must_use]
    pub fn busiest_minute(&self) -> usize {
        lock(&self.shared.access).traffic.busiest_minute
    }

    /// Number of requests that were refused because their address is blocked or not allowed.
    #[must_use]
    pub fn refused_addresses(&self) -> u64 {
        lock(&self.shared.access).traffic.refused_addresses
    }

    /// Largest number of refused keys without an accepted one between them; at five the address is locked out. Requests
    /// during a lockout do not count, because their key is not checked.
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
        assert_eq!(busiest(&[(one, 0), (other, 1), (one, 2), (None, 3)]), 2, "keys are counted separately");
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
