//! Sequences that once came out differently in Redis, as short as they were found.

use super::case::Case;
use super::ground::{Ground, Time};
use super::ops::{Op, Pick};

fn play(ops: &[Op]) {
    let mut ground = Ground::start(Time::Set(super::SOME_TIME_MS));
    if let Err(difference) = Case::new(&mut ground).play(ops) {
        panic!("{difference}");
    }
}

fn add(job: u8, delay_ms: u64) -> Op {
    tell("repeat", job, delay_ms)
}

fn tell(what: &'static str, job: u8, delay_ms: u64) -> Op {
    Op::Add { what, recheck: false, job, delay_ms, bad: false, ahead: false }
}

fn intake(new: usize, again: usize) -> Op {
    Op::Intake { new, again }
}

fn claim(limit: usize) -> Op {
    Op::Claim { worker: 0, limit, lost: false }
}

fn settle(picks: Vec<Pick>) -> Op {
    Op::Settle { worker: 0, most_crashes: 1, picks }
}

/// A settlement of the first, second … job that the worker holds.
fn pick(job: u8, action: &'static str, next: Vec<(u8, u8, u64)>) -> Pick {
    Pick { held: true, job, action, delay_ms: 0, new_payload: false, replaced_ms: None, next }
}

#[test]
fn of_jobs_due_at_the_same_time_word_is_sent_whatever_their_ids() {
    play(&[add(1, 500), add(0, 500), intake(2, 0)]);
    play(&[add(0, 500), add(1, 500), intake(2, 0)]);
}

#[test]
fn a_message_that_another_worker_took_in_leaves_the_dead_letter_alone() {
    play(&[add(0, 0), intake(1, 0), claim(1), settle(vec![pick(0, "dead-letter", vec![])]), intake(0, 1)]);
}

#[test]
fn a_job_that_stands_in_a_batch_twice_is_settled_once() {
    let twice = |one, other| settle(vec![pick(0, one, vec![]), pick(0, other, vec![])]);
    for (one, other) in
        [("complete", "snooze"), ("snooze", "complete"), ("snooze", "snooze"), ("release", "dead-letter")]
    {
        play(&[add(0, 0), intake(1, 0), claim(1), twice(one, other), claim(4)]);
    }
}

#[test]
fn what_follows_takes_the_place_of_a_job_finished_in_the_same_batch() {
    for delay_ms in [0, 500] {
        let picks = vec![pick(0, "complete", vec![]), pick(1, "complete", vec![(0, 0, delay_ms)])];
        play(&[add(0, 0), add(1, 0), intake(2, 0), claim(2), settle(picks), Op::Pass { ms: 500 }, claim(4)]);
    }
}

#[test]
fn of_two_messages_in_one_batch_the_later_decides_whether_an_order_is_followed() {
    for later in ["repeat", "update", "check", "correct"] {
        play(&[add(0, 3_000), intake(1, 0), tell("cancel", 0, 0), tell(later, 0, 0), intake(2, 0)]);
        play(&[add(0, 3_000), tell("cancel", 0, 0), tell(later, 0, 0), intake(3, 0)]);
    }
}

#[test]
fn an_order_that_waits_is_checked_now_in_whichever_queue_it_is() {
    for recheck in [false, true] {
        let first = Op::Add { what: "repeat", recheck, job: 0, delay_ms: 3_000, bad: false, ahead: false };
        play(&[first.clone(), intake(1, 0), tell("check", 0, 0), intake(1, 0), claim(4)]);
        play(&[first, tell("check", 0, 0), intake(2, 0), claim(4)]);
    }
}
