//! Whether the provider lets this worker ask at all: what it said of the worker's keys and of its address.
//!
//! A refused key concerns every worker that uses it, which Redis knows. A refused address concerns this worker alone, so
//! it is known here alone. Either way this worker is not ready, says why, and leaves jobs to workers that can check
//! orders; without such a worker the jobs wait here.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::claim_pause::ClaimPause;
use crate::provider::ApiError;

/// How long one look at the other workers keeps this one from claiming jobs.
const PAUSE: Duration = Duration::from_secs(10);
/// So many requests in a row that do not reach the provider are more than an accident.
const UNREACHED: u32 = 3;

/// See the module's head.
#[derive(Default)]
pub(crate) struct Standing {
    state: Mutex<State>,
    changed: Notify,
    claims: ClaimPause,
}

#[derive(Default)]
struct State {
    /// Whether a request of this worker has come to an end, whatever the end.
    tried: bool,
    refusal: Option<Refusal>,
    /// Whether the provider knows none of several orders that were checked with the keys of this worker.
    mistrusted: bool,
    /// Requests in a row that did not reach the provider.
    unreached: u32,
}

struct Refusal {
    of: Refused,
    /// The provider's answer in words; none where only Redis told of it.
    answer: Option<String>,
    until: Instant,
}

/// What the provider refuses.
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

    /// How much longer the provider refuses this worker, if it does.
    pub(super) fn refused_for(&self) -> Option<Duration> {
        self.with(|state| state.refusal.as_ref()?.until.checked_duration_since(Instant::now()))
            .filter(|left| !left.is_zero())
    }

    /// Why this worker is not ready, in words; nothing where it is.
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

    /// The provider refuses every key of this worker for this long.
    pub(super) fn keys_refused(&self, error: Option<&ApiError>, wait: Duration) {
        self.refused(Refused::Keys, error, wait);
    }

    /// The provider refuses the address of this worker for this long.
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
                    "allow the public address of this host in the provider's dashboard, or wait where it is blocked \
                     for a while"
                }
            };
            tracing::error!(
                error = error.map(tracing::field::display),
                retry_in_ms = crate::redis::millis(wait),
                advice,
                "{}; this worker checks no orders, and other workers go on",
                of.in_words()
            );
        }
        self.changed.notify_one();
    }

    /// The provider knows none of several orders that were checked with the keys of this worker.
    pub(super) fn keys_mistrusted(&self) {
        self.with(|state| (state.tried, state.mistrusted) = (true, true));
    }

    /// Counts the requests in a row that did not reach the provider, by how the last one ended. Returns whether they are
    /// so many that the network of this host may be at fault.
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

    /// Whether the provider refuses this worker.
    pub(super) fn is_refused(&self) -> bool {
        self.with(|state| state.refusal.is_some())
    }

    /// The provider let this worker ask, for an order or for the list.
    pub(super) fn admitted(&self, an_order: bool) {
        let refusal = self.with(|state| {
            state.tried = true;
            state.mistrusted &= !an_order;
            state.refusal.take()
        });
        if refusal.is_some() {
            self.claims.end();
            self.changed.notify_one();
            tracing::info!("the provider lets this worker ask again; it checks orders");
        }
    }

    /// A request ended without an answer that says anything of this worker.
    pub(super) fn tried(&self) {
        self.with(|state| state.tried = true);
    }

    /// Waits until a refusal has begun or ended.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Has the queues claim no jobs for a while.
    pub(super) fn pause_claims(&self) {
        self.claims.pause_for(PAUSE);
    }

    pub(super) fn claim_pause(&self) -> ClaimPause {
        self.claims.clone()
    }
}
