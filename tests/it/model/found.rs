//! Shortest sequences in which Redis and the model once differed.

use super::case::Case;
use super::ops::{Op, Pick};
use super::system::{System, Time};

fn play(ops: &[Op]) {
    let mut system = System::start(Time::Set(super::START_MS));
    if let Err(difference) = Case::new(&mut system).play(ops) {
        panic!("{difference}");
    }
}

fn add(job: u8, delay_ms: u64) -> Op {
    message("repeat", job, delay_ms)
}

fn message(kind: &'static str, job: u8, delay_ms: u64) -> Op {
    Op::Add { kind, recheck: false, job, delay_ms, bad: false, ahead: false }
}

fn intake(new: usize, again: usize) -> Op {
    Op::Intake { new, again }
}

fn claim(limit: usize) -> Op {
    Op::Claim { worker: 0, limit, lost: false }
}

fn settle(picks: Vec<Pick>) -> Op {
    Op::Settle { worker: 0, max_crashes: 1, picks }
}

/// A settlement of the job at this index among the jobs that the worker holds.
fn pick(job: u8, action: &'static str, next: Vec<(u8, u8, u64)>) -> Pick {
    Pick { held: true, job, action, delay_ms: 0, new_payload: false, replaced_ms: None, next }
}

#[test]
fn jobs_due_at_the_same_time_wake_the_workers_in_any_order_of_ids() {
    play(&[add(1, 500), add(0, 500), intake(2, 0)]);
    play(&[add(0, 500), add(1, 500), intake(2, 0)]);
}

#[test]
fn a_repeated_intake_of_a_message_keeps_the_dead_letter() {
    play(&[add(0, 0), intake(1, 0), claim(1), settle(vec![pick(0, "dead-letter", vec![])]), intake(0, 1)]);
}

#[test]
fn a_job_that_is_in_a_batch_twice_is_settled_once() {
    let twice = |one, other| settle(vec![pick(0, one, vec![]), pick(0, other, vec![])]);
    for (one, other) in
        [("complete", "snooze"), ("snooze", "complete"), ("snooze", "snooze"), ("release", "dead-letter")]
    {
        play(&[add(0, 0), intake(1, 0), claim(1), twice(one, other), claim(4)]);
    }
}

#[test]
fn a_following_job_replaces_a_job_completed_in_the_same_batch() {
    for delay_ms in [0, 500] {
        let picks = vec![pick(0, "complete", vec![]), pick(1, "complete", vec![(0, 0, delay_ms)])];
        play(&[add(0, 0), add(1, 0), intake(2, 0), claim(2), settle(picks), Op::Pass { ms: 500 }, claim(4)]);
    }
}

#[test]
fn the_later_of_two_messages_decides_whether_an_order_is_tracked() {
    for later in ["repeat", "update", "check", "correct"] {
        play(&[add(0, 3_000), intake(1, 0), message("cancel", 0, 0), message(later, 0, 0), intake(2, 0)]);
        play(&[add(0, 3_000), message("cancel", 0, 0), message(later, 0, 0), intake(3, 0)]);
    }
}

#[test]
fn a_check_makes_a_scheduled_order_due_in_either_queue() {
    for recheck in [false, true] {
        let first = Op::Add { kind: "repeat", recheck, job: 0, delay_ms: 3_000, bad: false, ahead: false };
        play(&[first.clone(), intake(1, 0), message("check", 0, 0), intake(1, 0), claim(4)]);
        play(&[first, message("check", 0, 0), intake(2, 0), claim(4)]);
    }
}
