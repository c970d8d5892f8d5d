//! What is generated: operations that name jobs and workers by small numbers, so that any part of a sequence
//! is a sequence, and shrinking works.

use proptest::prelude::*;

/// Operations name one of so many jobs; few, so that they meet.
pub(super) const JOBS: u8 = 6;

#[derive(Debug, Clone)]
pub(super) enum Op {
    /// A producer adds a message for one of the queues, or about an order that is known, or one that is to be rejected.
    /// Its clock may be ahead.
    Add {
        what: &'static str,
        recheck: bool,
        job: u8,
        delay_ms: u64,
        bad: bool,
        ahead: bool,
    },
    /// A worker takes so many messages in, or tries to where it begins with so many that another has taken before.
    Intake {
        new: usize,
        again: usize,
    },
    /// The store's jobs are put back where no queue holds them, each by its number, in the first queue or in the
    /// second; the first may be left out of those that are looked at.
    Restore {
        jobs: Vec<(u8, bool)>,
        narrow: bool,
    },
    /// A program on apalis-redis pushes a job.
    ForeignPush {
        queue: u8,
        job: u8,
        due_in_seconds: u64,
        garbled: bool,
    },
    /// A foreign program puts an id into `:active`, whatever there is of it.
    ForeignId {
        queue: u8,
        job: u8,
    },
    /// A foreign program puts a text where the history of a job should be.
    ForeignText {
        queue: u8,
        job: u8,
    },
    /// A process starts; workers only ever stop by doing nothing more.
    Start {
        queue: u8,
    },
    /// The answer may be lost.
    Claim {
        worker: u8,
        limit: usize,
        lost: bool,
    },
    Settle {
        worker: u8,
        most_crashes: i64,
        picks: Vec<Pick>,
    },
    /// The last batch is sent again, or comes again so many batches late.
    SettleAgain {
        worker: u8,
        before: u8,
    },
    /// Several workers report in one call, each bit of the number standing for one.
    Heartbeat {
        workers: u16,
        clock_was_set: bool,
    },
    /// More workers than one reap looks at report once and never again.
    Crowd,
    Pass {
        ms: u64,
    },
    /// The clock of Redis is set back.
    SetBack {
        ms: u64,
    },
    Reap {
        queue: u8,
        most: usize,
    },
    /// A worker takes back what jobs that were claimed under one of its former names are suspected of.
    Acquit {
        worker: u8,
        jobs: u8,
    },
    /// Jobs that a worker holds are to have other ids, each bit of the number standing for one; their payloads ask
    /// for the ids of these jobs.
    Identify {
        worker: u8,
        jobs: u8,
        ids: [u8; 8],
    },
    /// All jobs of a queue are put right, so many in one call.
    PutRight {
        queue: u8,
        most: usize,
    },
    /// Jobs are late by the store, each bit of the number standing for one.
    Hasten {
        jobs: u8,
        within_ms: u64,
    },
    /// A worker gives back what it does not know of; each bit of the number stands for a job. Also one that it
    /// need not have.
    GiveBack {
        worker: u8,
        jobs: u8,
        other: u8,
    },
    Leave {
        worker: u8,
    },
    /// An operator has a dead letter run again, of those there are or one that is none.
    Replay {
        queue: u8,
        job: u8,
        dead: bool,
    },
    Discard {
        queue: u8,
        job: u8,
        dead: bool,
    },
}

/// A settlement: of a job that the worker holds, or else of any.
#[derive(Debug, Clone)]
pub(super) struct Pick {
    pub(super) held: bool,
    pub(super) job: u8,
    pub(super) action: &'static str,
    pub(super) delay_ms: u64,
    pub(super) new_payload: bool,
    /// Where the job is finished and goes on in its own queue, after how long.
    pub(super) replaced_ms: Option<u64>,
    /// Queue, job and delay of those that follow.
    pub(super) next: Vec<(u8, u8, u64)>,
}

fn delay() -> impl Strategy<Value = u64> {
    prop_oneof![2 => Just(0), 1 => Just(20), 3 => Just(500), 2 => Just(3_000)]
}

/// What a message is; mostly a plain one.
fn what() -> impl Strategy<Value = &'static str> {
    let others = prop::sample::select(vec!["update", "check", "correct", "cancel"]);
    prop_oneof![5 => Just("repeat"), 4 => others]
}

fn job() -> impl Strategy<Value = u8> {
    0..JOBS
}

/// Mostly the first, so that jobs meet.
fn queue() -> impl Strategy<Value = u8> {
    prop_oneof![4 => Just(0), 2 => Just(1), 1 => Just(2)]
}

fn most_crashes() -> impl Strategy<Value = i64> {
    prop_oneof![1 => Just(1_i64), 2 => Just(2_i64), 1 => Just(3_i64)]
}

fn pick() -> impl Strategy<Value = Pick> {
    let action = prop::sample::select(vec![
        "complete",
        "snooze",
        "retry",
        "fault",
        "crash",
        "dead-letter",
        "poison",
        "release",
    ]);
    let next = prop::collection::vec((queue(), job(), delay()), 0..3);
    let rarely_none = prop::option::weighted(0.3, delay());
    let held = prop::bool::weighted(0.85);
    let fields = (held, job(), action, delay(), any::<bool>(), rarely_none, next);
    fields.prop_map(|(held, job, action, delay_ms, new_payload, replaced_ms, next)| Pick {
        held,
        job,
        action,
        delay_ms,
        new_payload,
        replaced_ms,
        next,
    })
}

fn op() -> impl Strategy<Value = Op> {
    let rarely = || prop::bool::weighted(0.15);
    let passing = prop::sample::select(vec![1_u64, 19, 20, 480, 499, 500, 3_000, 4_999, 5_000, 5_001]);
    let settle = (any::<u8>(), most_crashes(), prop::collection::vec(pick(), 1..6));
    prop_oneof![
        10 => (what(), prop::bool::weighted(0.3), job(), delay(), rarely(), rarely()).prop_map(
            |(what, recheck, job, delay_ms, bad, ahead)| Op::Add { what, recheck, job, delay_ms, bad, ahead }
        ),
        10 => (1..4_usize, prop_oneof![3 => Just(0_usize), 1 => 1..3_usize])
            .prop_map(|(new, again)| Op::Intake { new, again }),
        4 => (prop::collection::vec((job(), prop::bool::weighted(0.3)), 1..5), rarely())
            .prop_map(|(jobs, narrow)| Op::Restore { jobs, narrow }),
        5 => (queue(), job(), 0..3_u64, rarely()).prop_map(|(queue, job, due_in_seconds, garbled)| {
            Op::ForeignPush { queue, job, due_in_seconds, garbled }
        }),
        1 => (queue(), job()).prop_map(|(queue, job)| Op::ForeignId { queue, job }),
        1 => (queue(), job()).prop_map(|(queue, job)| Op::ForeignText { queue, job }),
        1 => queue().prop_map(|queue| Op::Start { queue }),
        22 => (any::<u8>(), 1..5_usize, rarely())
            .prop_map(|(worker, limit, lost)| Op::Claim { worker, limit, lost }),
        22 => settle.prop_map(|(worker, most_crashes, picks)| Op::Settle { worker, most_crashes, picks }),
        2 => (any::<u8>(), 0..3_u8).prop_map(|(worker, before)| Op::SettleAgain { worker, before }),
        6 => (any::<u16>(), prop::bool::weighted(0.2))
            .prop_map(|(workers, clock_was_set)| Op::Heartbeat { workers, clock_was_set }),
        1 => Just(Op::Crowd),
        12 => passing.prop_map(|ms| Op::Pass { ms }),
        1 => (1..20_000_u64).prop_map(|ms| Op::SetBack { ms }),
        7 => (queue(), prop_oneof![2 => Just(1_000_usize), 1 => 1..3_usize])
            .prop_map(|(queue, most)| Op::Reap { queue, most }),
        9 => (any::<u8>(), any::<u8>()).prop_map(|(worker, jobs)| Op::Acquit { worker, jobs }),
        3 => (any::<u8>(), any::<u8>(), any::<[u8; 8]>())
            .prop_map(|(worker, jobs, ids)| Op::Identify { worker, jobs, ids }),
        4 => (queue(), prop_oneof![1 => Just(1_000_usize), 2 => 1..3_usize])
            .prop_map(|(queue, most)| Op::PutRight { queue, most }),
        2 => (any::<u8>(), delay()).prop_map(|(jobs, within_ms)| Op::Hasten { jobs, within_ms }),
        2 => (any::<u8>(), any::<u8>(), job())
            .prop_map(|(worker, jobs, other)| Op::GiveBack { worker, jobs, other }),
        2 => any::<u8>().prop_map(|worker| Op::Leave { worker }),
        5 => (queue(), job(), prop::bool::weighted(0.85))
            .prop_map(|(queue, job, dead)| Op::Replay { queue, job, dead }),
        2 => (queue(), job(), prop::bool::weighted(0.85))
            .prop_map(|(queue, job, dead)| Op::Discard { queue, job, dead }),
    ]
}

pub(super) fn ops(most: usize) -> impl Strategy<Value = Vec<Op>> {
    prop::collection::vec(op(), 1..most)
}
