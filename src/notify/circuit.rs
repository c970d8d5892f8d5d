//! What keeps an endpoint that answers late, or not at all, from holding up the others: the slots in which notifications
//! are sent are shared out between endpoints, and after several time-outs or failed connections in a row a circuit opens.
//!
//! | rule | what it is good for |
//! |---|---|
//! | An endpoint has at most half of the slots, and no more than it leaves free | one endpoint with many events takes half; two take a third each; others always find a slot |
//! | Endpoints that are not *trusted* have half of the slots together, shared out by the same rule | any number of endpoints that hang leave half to those that answer |
//! | An attempt that takes longer than [`SLOW`] is lent a spare slot | attempts that only wait for an answer fill no slots, as long as there are spare ones |
//!
//! An endpoint is trusted once an attempt was answered within [`SLOW`], and no longer as soon as an attempt takes
//! longer, while it runs, or fails. An endpoint that has not been tried yet is not trusted.
//!
//! Jobs that find no place come back one after another, at the pace at which places come free, so that a backlog does
//! not keep the worker busy with turning it away.
//!
//! While the circuit is open, jobs of that endpoint wait outside and lose no attempt; then one goes first, for all.
//! An answer closes it again: an endpoint that answers holds up nobody. A place that is given back without a word, as
//! after a refusal that may have come about before anybody was reached, turns nothing. Each process judges for
//! itself. All times are real time of a clock that never steps.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::slots::{LentSlot, Slots};

/// An attempt that takes longer makes its endpoint one that is not trusted.
pub const SLOW: Duration = Duration::from_millis(500);
/// So many failures in a row open the circuit.
const FAILURES: u32 = 5;
/// How long it stays open, in domain time. Short beside the waits between the attempts of one event, so that
/// the schedule of an event is not held up by its own failures.
const OPEN: Duration = Duration::from_secs(30);
/// How long others wait while the first one tries, in domain time.
const FIRST_TRIES: Duration = Duration::from_secs(3);
/// In so much time all places of an endpoint that answers quickly come free once.
const TURN: Duration = Duration::from_millis(50);
/// The same for one that has not had a place free for long.
const LONGEST_TURN: Duration = Duration::from_secs(15);
/// A job that found no place comes back after this long at the latest.
const LONGEST_WAIT: Duration = Duration::from_secs(15);
/// Endpoints that are remembered while nothing is sent to them. Callbacks may have any number of hosts.
const MOST_REMEMBERED: usize = 10_000;

/// The circuits of all endpoints, and the slots that they share.
#[derive(Debug)]
pub struct Circuits {
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
    /// Attempts under way that have no lent slot.
    placed: usize,
    /// Those of them at endpoints that are not trusted.
    doubtful: usize,
    /// Jobs of different endpoints for which the endpoints that are not trusted leave no room.
    crowd: Line,
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
    line: Line,
}

/// Jobs that have found no place and come back one after another.
#[derive(Debug, Default)]
struct Line {
    last_back: Option<Instant>,
    /// When a place last came free, or was first taken.
    moved: Option<Instant>,
}

/// Why a job must wait outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outside {
    /// There is no room for this endpoint; it is this job's turn after this long.
    Busy(Duration),
    /// The circuit is open for this long.
    Open(Duration),
}

/// What an attempt did to the circuit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turned {
    /// It opened.
    Opened,
    /// It closed.
    Closed,
}

impl Circuits {
    /// Circuits of a worker that sends in these slots; `real` makes real time of domain time.
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

    /// A place for one attempt at this endpoint.
    ///
    /// # Errors
    /// [`Outside`] where it must wait.
    pub fn enter(self: &Arc<Self>, name: String, now: Instant) -> Result<Place, Outside> {
        let mut state = self.state();
        let State { endpoints, placed, doubtful, crowd } = &mut *state;
        let endpoint = endpoints.entry(name.clone()).or_default();
        match endpoint.open_until {
            Some(until) if now < until => return Err(Outside::Open(until - now)),
            Some(_) if endpoint.in_flight > 0 => return Err(Outside::Open(self.first_tries)),
            _ => {}
        }
        let free = self.slots.size().saturating_sub(*placed);
        let left = if endpoint.trusted { free } else { free.min(self.half.saturating_sub(*doubtful)) };
        let here = endpoint.in_flight - endpoint.lent;
        if endpoint.in_flight >= self.half || here >= left {
            let others_fill_it = here == 0 && endpoint.in_flight < self.half;
            let line = if others_fill_it { crowd } else { &mut endpoint.line };
            return Err(Outside::Busy(line.back(now, self.half)));
        }
        // Where nothing was under way, no place could come free: the pace begins anew.
        if endpoint.in_flight == 0 {
            endpoint.line.moved = Some(now);
        }
        if *doubtful == 0 {
            crowd.moved = Some(now);
        }
        endpoint.in_flight += 1;
        *placed += 1;
        *doubtful += usize::from(!endpoint.trusted);
        drop(state);
        Ok(Place { circuits: Arc::clone(self), name, lent: None, slow: false })
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
            self.doubtful = if trusted { self.doubtful - here } else { self.doubtful + here };
        }
    }
}

impl Line {
    /// How long the next job waits until it comes back, where so many places come free one after another.
    fn back(&mut self, now: Instant, places: usize) -> Duration {
        let since = now.saturating_duration_since(*self.moved.get_or_insert(now));
        let turn = since.clamp(TURN, LONGEST_TURN) / u32::try_from(places).unwrap_or(u32::MAX);
        let back = self.last_back.map_or(now, |last| last.max(now)) + turn;
        let back = back.min(now + LONGEST_WAIT);
        self.last_back = Some(back);
        back - now
    }
}

/// A place at an endpoint, until it is dropped.
#[derive(Debug)]
pub struct Place {
    circuits: Arc<Circuits>,
    name: String,
    lent: Option<LentSlot>,
    /// Whether the attempt took longer than [`SLOW`].
    slow: bool,
}

impl Place {
    /// Waits for the attempt, and notices when it takes long.
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
        let mut state = self.circuits.state();
        state.trust(&self.name, false);
        if self.lent.is_some() {
            return;
        }
        let Some(lent) = self.circuits.slots.lend() else { return };
        let moved = Some(Instant::now());
        if let Some(endpoint) = state.endpoints.get_mut(&self.name) {
            endpoint.lent += 1;
            endpoint.line.moved = moved;
            state.placed -= 1;
            state.doubtful -= 1;
            state.crowd.moved = moved;
        }
        drop(state);
        self.lent = Some(lent);
    }

    /// The attempt has ended; `answered` unless nobody was reached. Returns whether that turned the circuit.
    #[must_use]
    pub fn ended(self, answered: bool, now: Instant) -> Option<Turned> {
        let mut state = self.circuits.state();
        state.trust(&self.name, answered && !self.slow);
        let endpoint = state.endpoints.get_mut(&self.name)?;
        if answered {
            endpoint.failures = 0;
            return endpoint.open_until.take().map(|_| Turned::Closed);
        }
        endpoint.failures = endpoint.failures.saturating_add(1);
        if endpoint.failures < FAILURES {
            return None;
        }
        let was_closed = endpoint.open_until.replace(now + self.circuits.open).is_none();
        was_closed.then_some(Turned::Opened)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.circuits.state();
        let State { endpoints, placed, doubtful, crowd } = &mut *state;
        let remembered = endpoints.len() <= MOST_REMEMBERED;
        let Some(endpoint) = endpoints.get_mut(&self.name) else { return };
        let moved = Some(Instant::now());
        endpoint.line.moved = moved;
        endpoint.in_flight -= 1;
        if self.lent.is_some() {
            endpoint.lent -= 1;
        } else {
            *placed -= 1;
            *doubtful -= usize::from(!endpoint.trusted);
        }
        if !endpoint.trusted {
            crowd.moved = moved;
        }
        let nothing_to_say = endpoint.failures == 0 && !(endpoint.trusted && remembered);
        if endpoint.in_flight == 0 && nothing_to_say {
            endpoints.remove(&self.name);
        }
    }
}

#[cfg(test)]
#[path = "circuit_tests.rs"]
mod tests;
