//! What keeps an endpoint that does not answer from costing anybody else: each has a share of the places in
//! which jobs run, and after several time-outs or failed connections in a row a circuit that opens.
//!
//! Jobs that find no place come back one after another, as fast as places may come free, so that a backlog of one
//! endpoint does not keep the worker busy with turning it away.
//!
//! While the circuit is open, jobs of that endpoint wait outside and lose no attempt; then one goes first, for all.
//! An answer closes it again: an endpoint that answers holds up nobody. A place that is given back without a word, as
//! after a refusal that may have come about before anybody was reached, turns nothing. Each process judges for
//! itself. This knows neither queues nor clocks: whoever asks says what time it is.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use topup_jobs::Timestamp;

/// So many failures in a row open the circuit.
const FAILURES: u32 = 5;
/// How long it stays open, in domain time. Short beside the waits between the attempts of one event, so that
/// the schedule of an event is not held up by its own failures.
const OPEN: Duration = Duration::from_secs(30);
/// How long others wait while the first one tries.
const FIRST_TRIES: Duration = Duration::from_secs(3);
/// In so much real time all places of an endpoint that answers quickly come free once.
pub const TURN: Duration = Duration::from_millis(50);

/// The circuits of all endpoints.
#[derive(Debug)]
pub struct Circuits {
    most: usize,
    /// Between two jobs that come back, in domain time.
    spacing: Duration,
    endpoints: Mutex<HashMap<String, Endpoint>>,
}

#[derive(Debug, Default)]
struct Endpoint {
    in_flight: usize,
    /// In a row.
    failures: u32,
    open_until: Option<Timestamp>,
    /// When the last job comes back that found no place.
    last_back: Option<Timestamp>,
}

/// Why a job must wait outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outside {
    /// The endpoint's share is taken; it is this job's turn after this much domain time.
    Busy(Duration),
    /// The circuit is open for this much domain time.
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
    /// Circuits of a worker that runs `slots` jobs at once: an endpoint gets half of them. `turn` is
    /// [`TURN`] in domain time.
    #[must_use]
    pub fn new(slots: usize, turn: Duration) -> Arc<Self> {
        let most = (slots / 2).max(1);
        let spacing = turn.div_f64(f64::from(u32::try_from(most).unwrap_or(u32::MAX)));
        Arc::new(Self { most, spacing, endpoints: Mutex::default() })
    }

    /// A place for one attempt at this endpoint.
    ///
    /// # Errors
    /// [`Outside`] where it must wait.
    pub fn enter(self: &Arc<Self>, name: String, now: Timestamp) -> Result<Place, Outside> {
        let mut endpoints = self.endpoints();
        let endpoint = endpoints.entry(name.clone()).or_default();
        let wait = |until: Timestamp| (until - now).to_std().unwrap_or_default();
        match endpoint.open_until {
            Some(until) if now < until => return Err(Outside::Open(wait(until))),
            Some(_) if endpoint.in_flight > 0 => return Err(Outside::Open(FIRST_TRIES)),
            None if endpoint.in_flight >= self.most => {
                let back = endpoint.last_back.map_or(now, |last| last.max(now)) + self.spacing;
                endpoint.last_back = Some(back);
                return Err(Outside::Busy(wait(back)));
            }
            _ => {}
        }
        endpoint.in_flight += 1;
        drop(endpoints);
        Ok(Place { circuits: Arc::clone(self), name })
    }

    fn endpoints(&self) -> MutexGuard<'_, HashMap<String, Endpoint>> {
        // A poisoned lock holds whole numbers all the same: nothing in between can panic.
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place at an endpoint, until it is dropped.
#[derive(Debug)]
pub struct Place {
    circuits: Arc<Circuits>,
    name: String,
}

impl Place {
    /// The attempt has ended; `answered` unless nobody was reached. Returns whether that turned the circuit.
    #[must_use]
    pub fn ended(self, answered: bool, now: Timestamp) -> Option<Turned> {
        let mut endpoints = self.circuits.endpoints();
        let endpoint = endpoints.get_mut(&self.name)?;
        if answered {
            endpoint.failures = 0;
            return endpoint.open_until.take().map(|_| Turned::Closed);
        }
        endpoint.failures = endpoint.failures.saturating_add(1);
        if endpoint.failures < FAILURES {
            return None;
        }
        let was_closed = endpoint.open_until.replace(now + OPEN).is_none();
        was_closed.then_some(Turned::Opened)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut endpoints = self.circuits.endpoints();
        if let Some(endpoint) = endpoints.get_mut(&self.name) {
            endpoint.in_flight -= 1;
            // Callbacks may have any number of hosts; one of which there is nothing to say is forgotten.
            if endpoint.in_flight == 0 && endpoint.failures == 0 {
                endpoints.remove(&self.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Timestamp = Timestamp::UNIX_EPOCH;

    fn enter(circuits: &Arc<Circuits>, now: Timestamp) -> Result<Place, Outside> {
        circuits.enter("https://shop.example".to_owned(), now)
    }

    fn fail(circuits: &Arc<Circuits>, now: Timestamp) -> Option<Turned> {
        enter(circuits, now).unwrap().ended(false, now)
    }

    #[test]
    fn an_endpoint_gets_half_of_the_slots_and_leaves_the_rest_to_others() {
        for (slots, share) in [(1, 1), (2, 1), (3, 1), (64, 32)] {
            let circuits = Circuits::new(slots, TURN);
            let mut places: Vec<_> = (0..share).map(|_| enter(&circuits, T0).unwrap()).collect();
            assert!(matches!(enter(&circuits, T0), Err(Outside::Busy(_))), "{slots}");
            assert!(circuits.enter("https://other.example".to_owned(), T0).is_ok());
            // A handler that panics gives its place back all the same.
            drop(places.pop());
            assert!(enter(&circuits, T0).is_ok());
        }
    }

    #[test]
    fn five_failures_in_a_row_open_it_and_one_goes_first_after_the_pause() {
        let circuits = Circuits::new(64, TURN);
        for turned in [None, None, None, None, Some(Turned::Opened)] {
            assert_eq!(fail(&circuits, T0), turned);
        }
        let soon = T0 + Duration::from_secs(10);
        assert_eq!(enter(&circuits, soon).err(), Some(Outside::Open(Duration::from_secs(20))));
        let later = T0 + OPEN;
        let first = enter(&circuits, later).unwrap();
        assert_eq!(enter(&circuits, later).err(), Some(Outside::Open(FIRST_TRIES)));
        assert_eq!(first.ended(false, later), None, "it stays open");
        assert_eq!(enter(&circuits, later).err(), Some(Outside::Open(OPEN)));
        let first = enter(&circuits, later + OPEN).unwrap();
        assert_eq!(first.ended(true, later + OPEN), Some(Turned::Closed));
        let _two = (enter(&circuits, later + OPEN).unwrap(), enter(&circuits, later + OPEN).unwrap());
    }

    #[test]
    fn those_that_find_no_place_come_back_one_after_another() {
        let circuits = Circuits::new(20, TURN);
        let _places: Vec<_> = (0..10).map(|_| enter(&circuits, T0).unwrap()).collect();
        let back = |now| match enter(&circuits, now) {
            Err(Outside::Busy(wait)) => wait.as_millis(),
            other => panic!("{other:?}"),
        };
        assert_eq!([back(T0), back(T0), back(T0)], [5, 10, 15]);
        assert_eq!(back(T0 + Duration::from_millis(10)), 10, "behind the three");
        assert_eq!(back(T0 + Duration::from_secs(1)), 5, "nobody is outside any more");
    }

    #[test]
    fn an_answer_in_between_begins_the_count_anew() {
        let circuits = Circuits::new(64, TURN);
        for _ in 0..3 {
            for _ in 0..FAILURES - 1 {
                assert_eq!(fail(&circuits, T0), None);
            }
            assert_eq!(enter(&circuits, T0).unwrap().ended(true, T0), None);
        }
        assert!(circuits.endpoints().is_empty(), "nothing is remembered of an endpoint that is well");
    }
}
