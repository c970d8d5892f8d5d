//! The generated operations. They name jobs and workers by small numbers, so that any part of a sequence is a valid
//! sequence and proptest can shrink it.

use proptest::prelude::*;

/// Number of job ids. It is small, so that operations often name the same job.
pub(super) const JOBS: u8 = 6;

#[derive(Debug, Clone)]
pub(super) enum Op {
    /// A producer, whose clock may be ahead, adds a new order, a change of a known one, or a message to reject (`bad`).
    Add {
        kind: &'static str,
        recheck: bool,
        job: u8,
        delay_ms: u64,
        bad: bool,
        ahead: bool,
    },
    /// A worker moves `new` messages out of the inbox. With `again` the call also holds messages moved before.
    Intake {
        new: usize,
        again: usize,
    },
    /// Jobs of the database that no queue holds are restored, each to the first queue or to the second (`true`).
    /// With `narrow` the script is not given the first queue.
    Restore {
        jobs: Vec<(u8, bool)>,
        narrow: bool,
    },
    /// A program pushes a job by apalis-redis.
    ForeignPush {
        queue: u8,
        job: u8,
        due_in_seconds: u64,
        garbled: bool,
    },
    /// Another program puts an id into `:active`, even if the job is in the queue or has no payload.
    ForeignId {
        queue: u8,
        job: u8,
    },
    /// Another program writes a text to the key of a job's history.
    ForeignText {
        queue: u8,
        job: u8,
    },
    /// A worker starts. A worker crashes by doing nothing more; see `Leave` for a worker that stops.
    Start {
        queue: u8,
    },
    /// A worker claims jobs. With `lost` it does not receive the answer.
    Claim {
        worker: u8,
        limit: usize,
        lost: bool,
    },
    Settle {
        worker: u8,
        max_crashes: i64,
        picks: Vec<Pick>,
    },
    /// An old batch arrives again: the last one, or with `before` one of those before it.
    SettleAgain {
        worker: u8,
        before: u8,
    },
    /// Several workers report in one call. Each bit of `workers` stands for one.
    Heartbeat {
        workers: u16,
        clock_was_set: bool,
    },
    /// More workers than one call reaps report once and never again.
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
        limit: usize,
    },
    /// A worker clears suspects that it claimed under one of its former names.
    Acquit {
        worker: u8,
        jobs: u8,
    },
    /// Jobs that a worker holds are renamed to the ids that their payloads require. Each bit of `jobs` stands for a
    /// job, and `ids` has the required ids.
    Identify {
        worker: u8,
        jobs: u8,
        ids: [u8; 8],
    },
    /// The waits of all jobs of a queue are put right, in calls of at most this many jobs.
    PutRight {
        queue: u8,
        limit: usize,
    },
    /// Jobs are overdue according to the database. Each bit of `jobs` stands for one.
    Hasten {
        jobs: u8,
        within_ms: u64,
    },
    /// A worker returns claimed jobs that it does not hold; each bit of `jobs` stands for one. It also names the job
    /// `other`, which it may not have claimed.
    GiveBack {
        worker: u8,
        jobs: u8,
        other: u8,
    },
    Leave {
        worker: u8,
    },
    /// An operator replays a dead letter, or a job that is none.
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

/// A settlement of a job that the worker holds, or of any job.
#[derive(Debug, Clone)]
pub(super) struct Pick {
    pub(super) held: bool,
    pub(super) job: u8,
    pub(super) action: &'static str,
    pub(super) delay_ms: u64,
    pub(super) new_payload: bool,
    /// Delay of the following job that replaces a completed job in its own queue.
    pub(super) replaced_ms: Option<u64>,
    /// Queue, id and delay of each following job.
    pub(super) next: Vec<(u8, u8, u64)>,
}

fn delay() -> impl Strategy<Value = u64> {
    prop_oneof![2 => Just(0), 1 => Just(20), 3 => Just(500), 2 => Just(3_000)]
}

/// Kind of a message, most often `repeat`.
fn kind() -> impl Strategy<Value = &'static str> {
    let others = prop::sample::select(vec!["update", "check", "correct", "cancel"]);
    prop_oneof![5 => Just("repeat"), 4 => others]
}

fn job() -> impl Strategy<Value = u8> {
    0..JOBS
}

/// Most often the first queue, so that jobs meet.
fn queue() -> impl Strategy<Value = u8> {
    prop_oneof![4 => Just(0), 2 => Just(1), 1 => Just(2)]
}

fn max_crashes() -> impl Strategy<Value = i64> {
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
        "condemned",
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
    let settle = (any::<u8>(), max_crashes(), prop::collection::vec(pick(), 1..6));
    prop_oneof![
        10 => (kind(), prop::bool::weighted(0.3), job(), delay(), rarely(), rarely()).prop_map(
            |(kind, recheck, job, delay_ms, bad, ahead)| Op::Add { kind, recheck, job, delay_ms, bad, ahead }
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
        22 => settle.prop_map(|(worker, max_crashes, picks)| Op::Settle { worker, max_crashes, picks }),
        2 => (any::<u8>(), 0..3_u8).prop_map(|(worker, before)| Op::SettleAgain { worker, before }),
        6 => (any::<u16>(), prop::bool::weighted(0.2))
            .prop_map(|(workers, clock_was_set)| Op::Heartbeat { workers, clock_was_set }),
        1 => Just(Op::Crowd),
        12 => passing.prop_map(|ms| Op::Pass { ms }),
        1 => (1..20_000_u64).prop_map(|ms| Op::SetBack { ms }),
        7 => (queue(), prop_oneof![2 => Just(1_000_usize), 1 => 1..3_usize])
            .prop_map(|(queue, limit)| Op::Reap { queue, limit }),
        9 => (any::<u8>(), any::<u8>()).prop_map(|(worker, jobs)| Op::Acquit { worker, jobs }),
        3 => (any::<u8>(), any::<u8>(), any::<[u8; 8]>())
            .prop_map(|(worker, jobs, ids)| Op::Identify { worker, jobs, ids }),
        4 => (queue(), prop_oneof![1 => Just(1_000_usize), 2 => 1..3_usize])
            .prop_map(|(queue, limit)| Op::PutRight { queue, limit }),
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

pub(super) fn ops(max_ops: usize) -> impl Strategy<Value = Vec<Op>> {
    prop::collection::vec(op(), 1..max_ops)
}
