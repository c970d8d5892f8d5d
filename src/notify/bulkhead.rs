//! Bulkheads and circuit breakers: an endpoint that answers late, or not at all, holds up no other. The slots in which
//! notifications are sent are shared out between endpoints. After several failures in a row the breaker of an endpoint
//! opens.
//!
//! | rule | effect |
//! |---|---|
//! | An endpoint has at most half of the slots, and no more than it leaves free | one endpoint with many events takes half; two take a third each; others always find a slot |
//! | Endpoints that are not *trusted* have half of the slots together, shared out by the same rule | any number of endpoints that hang leave half to those that answer |
//! | An attempt that takes longer than [`SLOW`] is lent a spare slot | attempts that only wait for an answer fill no slots, as long as there are spare ones |
//!
//! An endpoint is trusted after an attempt that was answered within [`SLOW`], until an attempt fails or takes longer. A
//! new endpoint is not trusted.
//!
//! Rejected jobs come back one after another, at the pace at which slots come free, so that a backlog does not keep the
//! worker busy with rejecting it.
//!
//! While the breaker is open, the jobs of that endpoint wait in the queue and lose no attempt. Then one job is tried
//! first: an answer closes the breaker. A slot that is dropped without a result, as after a refusal that may have come
//! before the endpoint was reached, leaves the breaker as it is. Each process judges for itself. All times are real time
//! of a clock that never steps.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::slots::{LentSlot, Slots};

/// An endpoint whose attempt takes longer is not trusted.
pub const SLOW: Duration = Duration::from_millis(500);
/// Failures in a row that open the breaker.
const FAILURES: u32 = 5;
/// How long the breaker stays open, in domain time. Short beside the waits between the attempts of one event, so that an
/// event's own failures do not delay it.
const OPEN: Duration = Duration::from_secs(30);
/// Wait of the other jobs while the first one is tried, in domain time.
const FIRST_TRIES: Duration = Duration::from_secs(3);
/// In this time all slots of an endpoint that answers quickly come free once.
const SLOT_CYCLE: Duration = Duration::from_millis(50);
/// The same for an endpoint that has had no free slot for long.
const MAX_SLOT_CYCLE: Duration = Duration::from_secs(15);
/// A rejected job comes back after this long at the latest.
const MAX_WAIT: Duration = Duration::from_secs(15);
/// Endpoints that are remembered while nothing is sent to them: callbacks may have any number of hosts.
const MAX_REMEMBERED: usize = 10_000;

/// The breakers of all endpoints, and the slots that they share.
#[derive(Debug)]
pub struct Bulkhead {
    slots: Slots,
    /// Of the slots, for one endpoint and for all endpoints that are not trusted.
    half: usize,
    open: Duration,
    first_tries: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    endpoints: HashMap<String, Endpoint>,
    /// Attempts in flight without a lent slot.
    taken: usize,
    /// Those of them to endpoints that are not trusted.
    untrusted: usize,
    /// Rejected jobs of different endpoints, where those that are not trusted take all their slots.
    shared_queue: ReturnQueue,
}

#[derive(Debug, Default)]
struct Endpoint {
    in_flight: usize,
    /// Those of them that have a lent slot.
    lent: usize,
    trusted: bool,
    /// In a row.
    failures: u32,
    open_until: Option<Instant>,
    queue: ReturnQueue,
}

/// Rejected jobs that come back one after another.
#[derive(Debug, Default)]
struct ReturnQueue {
    last_back: Option<Instant>,
    /// When a slot last came free, or was first taken.
    moved: Option<Instant>,
}

/// Why a job gets no slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejected {
    /// The slots of this endpoint are taken; this job's turn comes after this long.
    Busy(Duration),
    /// The breaker stays open for this long.
    Open(Duration),
}

/// What an attempt did to the breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    /// The breaker opened.
    Opened,
    /// The breaker closed.
    Closed,
}

impl Bulkhead {
    /// The bulkhead of a worker that sends in these slots; `real` makes real time of domain time.
    #[must_use]
    pub fn new(slots: Slots, real: impl Fn(Duration) -> Duration) -> Arc<Self> {
        let half = (slots.size() / 2).max(1);
        let (open, first_tries) = (real(OPEN), real(FIRST_TRIES));
        Arc::new(Self { slots, half, open, first_tries, state: Mutex::default() })
    }

    /// The slots that are shared out.
    #[must_use]
    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    /// Takes a slot for one attempt at this endpoint.
    ///
    /// # Errors
    /// [`Rejected`] where there is none now.
    pub fn try_acquire(self: &Arc<Self>, name: String, now: Instant) -> Result<EndpointSlot, Rejected> {
        let mut state = self.state();
        let State { endpoints, taken, untrusted, shared_queue } = &mut *state;
        let endpoint = endpoints.entry(name.clone()).or_default();
        match endpoint.open_until {
            Some(until) if now < until => return Err(Rejected::Open(until - now)),
            Some(_) if endpoint.in_flight > 0 => return Err(Rejected::Open(self.first_tries)),
            _ => {}
        }
        let free = self.slots.size().saturating_sub(*taken);
        let left = if endpoint.trusted { free } else { free.min(self.half.saturating_sub(*untrusted)) };
        let here = endpoint.in_flight - endpoint.lent;
        if endpoint.in_flight >= self.half || here >= left {
            let others_fill_it = here == 0 && endpoint.in_flight < self.half;
            let queue = if others_fill_it { shared_queue } else { &mut endpoint.queue };
            return Err(Rejected::Busy(queue.back(now, self.half)));
        }
        // Where nothing was in flight, no slot could come free: the pace begins anew.
        if endpoint.in_flight == 0 {
            endpoint.queue.moved = Some(now);
        }
        if *untrusted == 0 {
            shared_queue.moved = Some(now);
        }
        endpoint.in_flight += 1;
        *taken += 1;
        *untrusted += usize::from(!endpoint.trusted);
        drop(state);
        Ok(EndpointSlot { bulkhead: Arc::clone(self), name, lent: None, slow: false })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A poisoned lock holds whole numbers all the same: nothing in between can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Trusts an endpoint, or no longer.
    fn trust(&mut self, name: &str, trusted: bool) {
        let Some(endpoint) = self.endpoints.get_mut(name) else { return };
        if endpoint.trusted != trusted {
            endpoint.trusted = trusted;
            let here = endpoint.in_flight - endpoint.lent;
            self.untrusted = if trusted { self.untrusted - here } else { self.untrusted + here };
        }
    }
}

impl ReturnQueue {
    /// How long the next job waits until it comes back, where so many slots come free one after another.
    fn back(&mut self, now: Instant, places: usize) -> Duration {
        let since = now.saturating_duration_since(*self.moved.get_or_insert(now));
        let turn = since.clamp(SLOT_CYCLE, MAX_SLOT_CYCLE) / u32::try_from(places).unwrap_or(u32::MAX);
        let back = self.last_back.map_or(now, |last| last.max(now)) + turn;
        let back = back.min(now + MAX_WAIT);
        self.last_back = Some(back);
        back - now
    }
}

/// A slot for an attempt at one endpoint, until it is dropped.
#[derive(Debug)]
pub struct EndpointSlot {
    bulkhead: Arc<Bulkhead>,
    name: String,
    lent: Option<LentSlot>,
    /// Whether the attempt took longer than [`SLOW`].
    slow: bool,
}

impl EndpointSlot {
    /// Waits for the attempt, and lends it a spare slot when it takes long.
    pub async fn watch<T>(&mut self, attempt: impl Future<Output = T>) -> T {
        let mut attempt = pin!(attempt);
        loop {
            tokio::select! {
                biased;
                ended = attempt.as_mut() => return ended,
                () = sleep(SLOW) => self.takes_long(),
            }
        }
    }

    fn takes_long(&mut self) {
        self.slow = true;
        let mut state = self.bulkhead.state();
        state.trust(&self.name, false);
        if self.lent.is_some() {
            return;
        }
        let Some(lent) = self.bulkhead.slots.lend() else { return };
        let moved = Some(Instant::now());
        if let Some(endpoint) = state.endpoints.get_mut(&self.name) {
            endpoint.lent += 1;
            endpoint.queue.moved = moved;
            state.taken -= 1;
            state.untrusted -= 1;
            state.shared_queue.moved = moved;
        }
        drop(state);
        self.lent = Some(lent);
    }

    /// Ends the attempt; `answered` says whether the endpoint was reached. Returns the transition of the breaker, if any.
    #[must_use]
    pub fn ended(self, answered: bool, now: Instant) -> Option<Transition> {
        let mut state = self.bulkhead.state();
        state.trust(&self.name, answered && !self.slow);
        let endpoint = state.endpoints.get_mut(&self.name)?;
        if answered {
            endpoint.failures = 0;
            return endpoint.open_until.take().map(|_| Transition::Closed);
        }
        endpoint.failures = endpoint.failures.saturating_add(1);
        if endpoint.failures < FAILURES {
            return None;
        }
        let was_closed = endpoint.open_until.replace(now + self.bulkhead.open).is_none();
        was_closed.then_some(Transition::Opened)
    }
}

impl Drop for EndpointSlot {
    fn drop(&mut self) {
        let mut state = self.bulkhead.state();
        let State { endpoints, taken, untrusted, shared_queue } = &mut *state;
        let remembered = endpoints.len() <= MAX_REMEMBERED;
        let Some(endpoint) = endpoints.get_mut(&self.name) else { return };
        let moved = Some(Instant::now());
        endpoint.queue.moved = moved;
        endpoint.in_flight -= 1;
        if self.lent.is_some() {
            endpoint.lent -= 1;
        } else {
            *taken -= 1;
            *untrusted -= usize::from(!endpoint.trusted);
        }
        if !endpoint.trusted {
            shared_queue.moved = moved;
        }
        let nothing_to_say = endpoint.failures == 0 && !(endpoint.trusted && remembered);
        if endpoint.in_flight == 0 && nothing_to_say {
            endpoints.remove(&self.name);
        }
    }
}

#[cfg(test)]
#[path = "bulkhead_tests.rs"]
mod tests;
