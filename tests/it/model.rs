//! The scripts of the queue against a model of it: random sequences of everything that producers, workers, dead
//! workers and foreign programs do, carried out on a real Redis and in plain values side by side. After every
//! step the answer, all that Redis holds, and the word sent to the workers must be the same.
//!
//! The scripts run from their files. In most cases they are given the time instead of asking Redis for it, so
//! that jobs fall due and leases run out exactly when a sequence says so, and nothing waits. `PROPTEST_CASES`
//! sets the number of sequences.

mod call;
mod case;
mod compare;
mod found;
mod ground;
mod ops;
mod queue;
mod queues;
mod snapshot;
mod workers;

use std::cell::RefCell;
use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use case::Case;
use ground::{Ground, Time};
use ops::ops;

/// Some time in milliseconds, not a whole second.
const SOME_TIME_MS: u64 = 1_761_998_400_123;
/// So many sequences, carried out once or in a few rounds, come upon everything that can happen.
const ENOUGH_CASES: u32 = 200;
const MAX_ROUNDS: usize = 20;

/// Carries out so many sequences of at most so many operations; returns what has happened in them.
fn check(time: Time, cases: u32, most_ops: usize) -> BTreeSet<&'static str> {
    // A failure shows its shortest sequence, and that belongs into a test below rather than into a file.
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let (ground, happened) = (RefCell::new(Ground::start(time)), RefCell::default());
    let checked = TestRunner::new(config).run(&ops(most_ops), |ops| {
        let played = Case::new(&mut ground.borrow_mut()).play(&ops);
        let happened: &mut BTreeSet<_> = &mut happened.borrow_mut();
        happened.extend(played.map_err(TestCaseError::fail)?);
        Ok(())
    });
    if let Err(difference) = checked {
        panic!("{difference}");
    }
    happened.into_inner()
}

#[test]
fn the_scripts_do_what_the_model_does() {
    let cases = ProptestConfig::default().cases;
    let mut happened = check(Time::Set(SOME_TIME_MS), cases, 120);
    let everything = [
        "accepted",
        "accepted with delay",
        "acquitted",
        "batch sent again",
        "batch that comes late",
        "dead-letter",
        "claim",
        "claim of a job with a history",
        "claim of a worker taken for dead",
        "claim of an id held already",
        "poison",
        "crash",
        "discarded",
        "duplicate",
        "fault",
        "duplicate of another program dropped",
        "complete",
        "complete of a job that was dead-lettered meanwhile",
        "gone",
        "hastened",
        "heartbeat of a worker taken for dead",
        "a lease by a clock that was ahead",
        "job of another program given its id",
        "more dead workers than one reap takes",
        "passed-on",
        "poison by a crash",
        "put right",
        "reaped",
        "reaped in part",
        "rejected",
        "release",
        "replay of what is tracked elsewhere",
        "replay of what is no dead letter",
        "replayed",
        "restored",
        "retry",
        "settlement of a job not owned",
        "snooze",
    ];
    let missing = |happened: &BTreeSet<_>| everything.into_iter().find(|what| !happened.contains(what));
    // The rarest things happen in one of a hundred sequences.
    for _ in 0..MAX_ROUNDS {
        if cases >= ENOUGH_CASES && missing(&happened).is_some() {
            happened.extend(check(Time::Set(SOME_TIME_MS), cases, 120));
        }
    }
    assert!(cases < ENOUGH_CASES || missing(&happened).is_none(), "never came upon {:?}", missing(&happened));
}

#[test]
fn the_scripts_do_the_same_by_the_clock_of_redis() {
    check(Time::Real, ProptestConfig::default().cases.div_ceil(16), 60);
}
