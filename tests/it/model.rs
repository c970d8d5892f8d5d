//! Compares the Lua scripts of the queue with a model in plain Rust. Random sequences of what producers, workers,
//! crashed workers and other programs do run on a real Redis and on the model. After each operation the answer, the
//! content of Redis and the wake-ups sent to the workers must be the same.
//!
//! The scripts run from their files. In most cases the test sets their time, so that jobs fall due and leases expire
//! exactly when a sequence says so, and the test never waits. `PROPTEST_CASES` sets the number of sequences.

mod call;
mod case;
mod compare;
mod found;
mod ops;
mod queue;
mod queues;
mod snapshot;
mod system;
mod workers;

use std::cell::RefCell;
use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use case::Case;
use ops::ops;
use system::{System, Time};

/// Time at which each sequence begins, in milliseconds since 1970. It is not a whole second.
const START_MS: u64 = 1_761_998_400_123;
/// Number of sequences that reach every event, in one round or a few.
const ENOUGH_CASES: u32 = 200;
const MAX_ROUNDS: usize = 20;

/// Runs `cases` sequences of fewer than `max_ops` operations. Returns the events that happened in them.
fn check(time: Time, cases: u32, max_ops: usize) -> BTreeSet<&'static str> {
    // A failure prints its shortest sequence. It belongs in `found.rs`, not in a file of proptest.
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let (system, happened) = (RefCell::new(System::start(time)), RefCell::default());
    let checked = TestRunner::new(config).run(&ops(max_ops), |ops| {
        let played = Case::new(&mut system.borrow_mut()).play(&ops);
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
fn the_scripts_match_the_model() {
    let cases = ProptestConfig::default().cases;
    let mut happened = check(Time::Set(START_MS), cases, 120);
    let events = [
        "accepted",
        "accepted with delay",
        "acquitted",
        "batch sent again",
        "late batch",
        "dead-letter",
        "claim",
        "claim of a job with a history",
        "claim of a worker presumed dead",
        "claim of an id that the worker holds",
        "condemned",
        "crash",
        "discarded",
        "duplicate",
        "fault",
        "duplicate of another program dropped",
        "complete",
        "complete of a job that was dead-lettered meanwhile",
        "gone",
        "hastened",
        "heartbeat of a worker presumed dead",
        "lease from a clock that was ahead",
        "job of another program given its id",
        "more dead workers than one call reaps",
        "passed-on",
        "poison by a crash",
        "wait put right",
        "reaped",
        "reaped in part",
        "rejected",
        "release",
        "replay of a job tracked in another queue",
        "replay of a job that is no dead letter",
        "replayed",
        "restored",
        "retry",
        "settlement of a job not owned",
        "snooze",
    ];
    let missing = |happened: &BTreeSet<_>| events.into_iter().find(|event| !happened.contains(event));
    // The rarest events happen in one of a hundred sequences.
    for _ in 0..MAX_ROUNDS {
        if cases >= ENOUGH_CASES && missing(&happened).is_some() {
            happened.extend(check(Time::Set(START_MS), cases, 120));
        }
    }
    assert!(cases < ENOUGH_CASES || missing(&happened).is_none(), "never reached: {:?}", missing(&happened));
}

#[test]
fn the_scripts_match_the_model_with_the_clock_of_redis() {
    check(Time::Real, ProptestConfig::default().cases.div_ceil(16), 60);
}
