//! The standing of this worker: whether the provider accepts its keys and its address.
//!
//! A refused key concerns every worker that uses it, so Redis stores the refusal. A refused address concerns only this
//! worker, so this process keeps it. In both cases the worker is not ready, reports why, and leaves jobs to workers
//! that can check orders. Without such a worker the jobs wait.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::claim_pause::ClaimPause;
use crate::provider::ApiError;

/// A worker that cannot check orders claims no jobs for this long, once it has found that another worker can.
const PAUSE: Duration = Duration::from_secs(10);
/// After this many requests in a row that did not reach the provider, this host's network counts as at fault.
const UNREACHED: u32 = 3;

#[derive(Default)]
pub(crate) struct Standing {
    state: Mutex<State>,
    changed: Notify,
    claims: ClaimPause,
}

#[derive(Default)]
struct State {
    /// Whether a request of this worker has ended, with an answer or an error.
    tried: bool,
    refusal: Option<Refusal>,
    /// Whether the provider knew none of several orders checked with this worker's keys, so "not found" is doubted.
    mistrusted: bool,
    unreached: u32,
}

struct Refusal {
    of: Refused,
    /// The provider's answer in words; `None` if the refusal is known from Redis only.
    answer: Option<String>,
    until: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refused {
    Keys,
    Address,
}

impl Refused {
    const fn in_words(self) -> &'static str {
        match self {
            Self::Keys => "the provider refuses the API key of this worker",
            Self::Address => "the provider refuses the address of this host",
        }
    }
}

impl Standing {
    fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How much longer the provider refuses this worker; `None` if it does not.
    pub(super) fn refused_for(&self) -> Option<Duration> {
        self.with(|state| state.refusal.as_ref()?.until.checked_duration_since(Instant::now()))
            .filter(|left| !left.is_zero())
    }

    /// Why this worker is not ready, in words; `None` if it is.
    pub(crate) fn refusal(&self) -> Option<String> {
        self.with(|state| match &state.refusal {
            Some(Refusal { of, answer: Some(answer), .. }) => Some(format!("{}: {answer}", of.in_words())),
            Some(Refusal { of, answer: None, .. }) => Some(of.in_words().to_owned()),
            None if !state.tried => Some("the API key has not been verified yet".to_owned()),
            None if state.mistrusted => {
                Some("the provider knows none of several orders that this worker checked".to_owned())
            }
            None => None,
        })
    }

    pub(super) fn keys_refused(&self, error: Option<&ApiError>, wait: Duration) {
        self.refused(Refused::Keys, error, wait);
    }

    pub(super) fn address_refused(&self, error: Option<&ApiError>, wait: Duration) {
        self.refused(Refused::Address, error, wait);
    }

    fn refused(&self, of: Refused, error: Option<&ApiError>, wait: Duration) {
        let until = Instant::now() + wait;
        let answer = error.map(ToString::to_string);
        let first = self.with(|state| {
            state.tried = true;
            let first = state.refusal.as_ref().is_none_or(|refusal| refusal.of != of);
            let answer = answer.or_else(|| state.refusal.take()?.answer);
            state.refusal = Some(Refusal { of, answer, until });
            first
        });
        if first {
            let advice = match of {
                Refused::Keys => "set ONECLICKDZ_API_KEY as the provider's dashboard shows it",
                Refused::Address => {
                    "allow the public address of this host in the provider's dashboard, or wait if it is blocked \
                     for a while only"
                }
            };
            tracing::error!(
                error = error.map(tracing::field::display),
                retry_in_ms = crate::redis::millis(wait),
                advice,
                "{}; this worker checks no orders until the provider accepts it; other workers continue",
                of.in_words()
            );
        }
        self.changed.notify_one();
    }

    pub(super) fn keys_mistrusted(&self) {
        self.with(|state| (state.tried, state.mistrusted) = (true, true));
    }

    /// Counts requests in a row that did not reach the provider. Returns whether this host's network is at fault.
    pub(super) fn reached(&self, error: Option<&ApiError>) -> bool {
        let unreached = matches!(error, Some(ApiError::Connection(_) | ApiError::TimedOut));
        self.with(|state| {
            state.unreached = if unreached { state.unreached.saturating_add(1) } else { 0 };
            state.unreached >= UNREACHED
        })
    }

    /// Whether this worker can check orders, as far as is known.
    pub(super) fn is_able(&self) -> bool {
        self.with(|state| state.refusal.is_none() && !state.mistrusted && state.unreached < UNREACHED)
    }

    /// Whether the provider has refused this worker and accepted no request since.
    pub(super) fn is_refused(&self) -> bool {
        self.with(|state| state.refusal.is_some())
    }

    /// Records that the provider accepted a request of this worker, for an order or for the list.
    pub(super) fn admitted(&self, an_order: bool) {
        let refusal = self.with(|state| {
            state.tried = true;
            state.mistrusted &= !an_order;
            state.refusal.take()
        });
        if refusal.is_some() {
            self.claims.end();
            self.changed.notify_one();
            tracing::info!("the provider accepts this worker again; the worker checks orders");
        }
    }

    pub(super) fn tried(&self) {
        self.with(|state| state.tried = true);
    }

    /// Waits until a refusal has begun or ended.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    pub(super) fn pause_claims(&self) {
        self.claims.pause_for(PAUSE);
    }

    pub(super) fn claim_pause(&self) -> ClaimPause {
        self.claims.clone()
    }
}
