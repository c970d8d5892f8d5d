//! Divides the sending slots (the number of notifications that a worker sends at once) among the endpoints. Bulkheads
//! and circuit breakers keep a slow or dead endpoint from holding up the others.
//!
//! | rule | effect |
//! |---|---|
//! | An endpoint takes at most half of the slots, and another slot only while more are free than it holds | one busy endpoint takes half, two take a third each |
//! | *Untrusted* endpoints together take at most half of the slots, divided by the same rule | however many endpoints hang, half of the slots remain for those that answer |
//! | An attempt that takes longer than [`SLOW`] moves to a spare slot | while there are spare slots, attempts that only wait for an answer occupy no regular slot |
//!
//! A new endpoint is untrusted. An answer within [`SLOW`] makes it trusted; a slower answer, or none, makes it
//! untrusted again. A job that gets no slot at a trusted endpoint waits a moment, because a slot comes free soon. Any
//! other job without a slot is rescheduled. Rejected jobs return one by one, at the pace at which slots come free,
//! because many jobs that returned at once would only be rejected again.
//!
//! While a breaker is open, the endpoint's jobs wait in the queue and lose no attempt. After [`OPEN`] one job probes
//! the endpoint, and an answer closes the breaker. `SendError::Refused` leaves the breaker unchanged, because a channel
//! may refuse before it connects. Each process has its own state. Times are measured with the monotonic clock.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use crate::slots::{LentSlot, Slots};

/// An attempt that takes longer makes its endpoint untrusted, and moves to a spare slot if one is free.
pub const SLOW: Duration = Duration::from_millis(500);
/// Number of consecutive attempts without an answer that opens the breaker.
const FAILURES: u32 = 5;
/// How long a breaker stays open, in domain time (the time of orders, which demos scale). This delays no event that
/// opened the breaker by five attempts of its own, because the next attempt of such an event is hours away anyway.
const OPEN: Duration = Duration::from_secs(30);
/// Wait of a job that finds another job probing its endpoint, in domain time.
const FIRST_TRIES: Duration = Duration::from_secs(3);
/// Least cycle (time since a slot last came free). Rejected jobs return at intervals of cycle / (half the slots).
const SLOT_CYCLE: Duration = Duration::from_millis(50);
/// Longest cycle (see [`SLOT_CYCLE`]), even if the last slot came free longer ago.
const MAX_SLOT_CYCLE: Duration = Duration::from_secs(15);
/// Longest wait of a job that gets no slot.
const MAX_WAIT: Duration = Duration::from_secs(15);
/// Longest time for which a job keeps its place in the worker while it waits for a slot at a trusted endpoint.
const MAX_WAIT_IN_PLACE: Duration = Duration::from_millis(100);
/// Above this number, even a trusted endpoint is forgotten when idle: callback URLs may name any number of hosts.
const MAX_REMEMBERED: usize = 10_000;

/// The breakers of all endpoints and the slots they share. One per process.
#[derive(Debug)]
pub struct Bulkhead {
    slots: Slots,
    /// Half of the slots: the limit of one endpoint, and of all untrusted endpoints together.
    half: usize,
    open: Duration,
    first_tries: Duration,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    endpoints: HashMap<String, Endpoint>,
    /// Attempts in flight in regular slots.
    taken: usize,
    /// The part of `taken` that goes to untrusted endpoints.
    untrusted: usize,
    /// Return times of jobs that got no slot because attempts at other endpoints, not at their own, held the slots.
    shared_queue: ReturnQueue,
}

#[derive(Debug, Default)]
struct Endpoint {
    in_flight: usize,
    /// The part of `in_flight` that has moved to spare slots.
    lent: usize,
    trusted: bool,
    /// Number of attempts without an answer since the last answer.
    failures: u32,
    open_until: Option<Instant>,
    queue: ReturnQueue,
    /// Notified when an attempt at this endpoint ends.
    freed: Arc<Notify>,
}

/// Spreads rejected jobs over time: each job returns a little later than the job rejected before it.
#[derive(Debug, Default)]
struct ReturnQueue {
    last_back: Option<Instant>,
    /// When a slot last came free, or when the first attempt after idle time took one: the beginning of the cycle.
    moved: Option<Instant>,
}

/// Why a job gets no slot. The waits are measured by the machine's clock, not in the order's scaled time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejected {
    /// The slots for this endpoint are taken; the job is due again after this wait.
    Busy(Duration),
    /// The breaker is open, or another job is probing the endpoint; the job waits this long.
    Open(Duration),
}

/// A change of the breaker's state by an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    /// The breaker opened.
    Opened,
    /// The breaker closed.
    Closed,
}

impl Bulkhead {
    /// Creates the bulkhead over a worker's sending slots; `real` converts domain time to real time.
    #[must_use]
    pub fn new(slots: Slots, real: impl Fn(Duration) -> Duration) -> Arc<Self> {
        let half = (slots.size() / 2).max(1);
        let (open, first_tries) = (real(OPEN), real(FIRST_TRIES));
        Arc::new(Self { slots, half, open, first_tries, state: Mutex::default() })
    }

    /// The slots that the endpoints share.
    #[must_use]
    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    /// As [`Bulkhead::try_acquire`], but waits a moment for a slot if the endpoint is trusted.
    ///
    /// # Errors
    /// [`Rejected`] if the breaker is open, or if no slot comes free.
    pub async fn acquire(self: &Arc<Self>, name: String) -> Result<EndpointSlot, Rejected> {
        let end = Instant::now() + MAX_WAIT_IN_PLACE;
        while let Some(freed) = self.trusted_but_full(&name)
            && tokio::time::timeout_at(end, freed.notified()).await.is_ok()
        {}
        self.try_acquire(name, Instant::now())
    }

    /// If no slot is free at a trusted endpoint, returns the notifier of its next free slot.
    fn trusted_but_full(&self, name: &str) -> Option<Arc<Notify>> {
        let state = self.state();
        let endpoint = state.endpoints.get(name)?;
        let is_full = endpoint.in_flight > 0
            && endpoint.open_until.is_none()
            && !self.has_room(endpoint, state.taken, state.untrusted);
        (endpoint.trusted && is_full).then(|| Arc::clone(&endpoint.freed))
    }

    /// Whether another attempt at this endpoint may begin; for `taken` and `untrusted` see [`State`].
    fn has_room(&self, endpoint: &Endpoint, taken: usize, untrusted: usize) -> bool {
        let free = self.slots.size().saturating_sub(taken);
        let left = if endpoint.trusted { free } else { free.min(self.half.saturating_sub(untrusted)) };
        endpoint.in_flight < self.half && endpoint.in_flight - endpoint.lent < left
    }

    /// Acquires a slot for one attempt at this endpoint; `name` is the key of its breaker.
    ///
    /// # Errors
    /// [`Rejected`] if the breaker is open or no slot is free.
    pub fn try_acquire(self: &Arc<Self>, name: String, now: Instant) -> Result<EndpointSlot, Rejected> {
        let mut state = self.state();
        let State { endpoints, taken, untrusted, shared_queue } = &mut *state;
        let endpoint = endpoints.entry(name.clone()).or_default();
        match endpoint.open_until {
            Some(until) if now < until => return Err(Rejected::Open(until - now)),
            Some(_) if endpoint.in_flight > 0 => return Err(Rejected::Open(self.first_tries)),
            _ => {}
        }
        if !self.has_room(endpoint, *taken, *untrusted) {
            let here = endpoint.in_flight - endpoint.lent;
            let others_fill_it = here == 0 && endpoint.in_flight < self.half;
            let queue = if others_fill_it { shared_queue } else { &mut endpoint.queue };
            return Err(Rejected::Busy(queue.back(now, self.half)));
        }
        // While no attempt ran, no slot could come free. So this idle time must not make the cycle longer.
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
        // A poisoned lock leaves the state consistent, because no update can panic halfway.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Sets whether an endpoint is trusted, and adjusts the count `untrusted`.
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
    /// Returns the wait of a rejected job. The job returns 1/`places` of a cycle after the job rejected before it.
    fn back(&mut self, now: Instant, places: usize) -> Duration {
        let since = now.saturating_duration_since(*self.moved.get_or_insert(now));
        let turn = since.clamp(SLOT_CYCLE, MAX_SLOT_CYCLE) / u32::try_from(places).unwrap_or(u32::MAX);
        let back = self.last_back.map_or(now, |last| last.max(now)) + turn;
        let back = back.min(now + MAX_WAIT);
        self.last_back = Some(back);
        back - now
    }
}

/// A slot for one attempt at one endpoint; dropping it frees the slot.
#[derive(Debug)]
pub struct EndpointSlot {
    bulkhead: Arc<Bulkhead>,
    name: String,
    lent: Option<LentSlot>,
    slow: bool,
}

impl EndpointSlot {
    /// Runs the attempt and moves it to a spare slot if it takes longer than [`SLOW`].
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

    /// Ends the attempt and returns the breaker's transition, if any; `answered` says whether the endpoint answered.
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
        endpoint.freed.notify_one();
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
