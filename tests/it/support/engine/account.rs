//! The account: every job that was enqueued is done, scheduled or a dead letter, and each of its steps was
//! settled exactly once.

use std::collections::{BTreeMap, BTreeSet};

use redis::RedisResult;
use tokio::time::{Instant, sleep};

use super::script::RECEIPTS;
use super::{Act, Engine, PREFIX, Part, QUEUE};
use crate::support::DEADLINE;

/// What stands in the queue, by id.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Ledger {
    /// Due, or in somebody's hands.
    pub(crate) running: BTreeSet<String>,
    pub(crate) scheduled: BTreeSet<String>,
    pub(crate) dead: BTreeSet<String>,
    pub(crate) payloads: BTreeSet<String>,
}

impl Engine {
    /// What stands in the queue at one moment.
    pub(crate) async fn ledger(&self) -> RedisResult<Ledger> {
        let mut connection = self.connect().await?;
        let inflight: Vec<String> =
            redis::cmd("KEYS").arg(format!("{QUEUE}:inflight:*")).query_async(&mut connection).await?;
        let mut pipe = redis::pipe();
        pipe.atomic().lrange(format!("{QUEUE}:active"), 0, -1).zrange(format!("{QUEUE}:scheduled"), 0, -1);
        pipe.smembers(format!("{QUEUE}:dead")).hkeys(format!("{QUEUE}:data"));
        for worker in inflight {
            pipe.smembers(worker);
        }
        let lists: Vec<Vec<String>> = pipe.query_async(&mut connection).await?;
        let mut sets = lists.into_iter().map(BTreeSet::from_iter);
        let mut next = || sets.next().unwrap_or_default();
        let mut ledger = Ledger { running: next(), scheduled: next(), dead: next(), payloads: next() };
        ledger.running.extend(sets.flatten());
        Ok(ledger)
    }

    /// The reason of a dead letter.
    pub(crate) async fn reason(&self, id: &str) -> String {
        self.ask(&["HGET", &format!("{QUEUE}:meta:{id}"), "reason"]).await
    }

    /// Waits until nothing is left to do, and fails unless exactly these jobs came to exactly their ends.
    pub(crate) async fn account(&self, parts: &[Part]) {
        self.settled(parts).await;
        for part in parts {
            let reason = match last(part) {
                Act::DeadLetter => "asked for",
                Act::Panic => "the handler panicked",
                Act::Abort | Act::Exit => "poison: ",
                _ => continue,
            };
            let found = self.reason(&part.id).await;
            assert!(found.starts_with(reason), "{} is dead because {found}", part.id);
        }
        self.assert_receipts(parts).await;
        self.diary.assert_no_job_ran_twice_at_once();
    }

    /// Where no worker died and Redis lost nothing, nothing has to be done again.
    pub(crate) fn assert_each_step_ran_once(&self, parts: &[Part]) {
        let mut runs = BTreeMap::<String, Vec<usize>>::new();
        for run in self.diary.runs() {
            runs.entry(run.job).or_default().push(run.left);
        }
        for part in parts {
            let each: Vec<usize> = (1..=part.steps.len()).rev().collect();
            assert_eq!(runs.get(&part.id), Some(&each), "the steps of {} as they were run", part.id);
        }
    }

    async fn settled(&self, parts: &[Part]) {
        let mut expected = Ledger::default();
        for part in parts {
            match last(part) {
                Act::Finish => continue,
                Act::Wait(_) | Act::Retry(_) => expected.scheduled.insert(part.id.clone()),
                _ => expected.dead.insert(part.id.clone()),
            };
            expected.payloads.insert(part.id.clone());
        }
        let end = Instant::now() + DEADLINE;
        loop {
            let ledger = self.ledger().await;
            if ledger.as_ref().is_ok_and(|ledger| *ledger == expected) {
                return;
            }
            assert!(
                Instant::now() < end,
                "not settled within {DEADLINE:?}: {ledger:?}, and not {expected:?}"
            );
            sleep(std::time::Duration::from_millis(50)).await;
        }
    }

    async fn assert_receipts(&self, parts: &[Part]) {
        let found: Vec<String> = self.ask(&["HKEYS", &format!("{PREFIX}:{RECEIPTS}:data")]).await;
        let mut receipts = BTreeMap::<&str, usize>::new();
        for receipt in &found {
            let (step, _run) = receipt.rsplit_once('/').expect("a receipt names its run");
            *receipts.entry(step).or_default() += 1;
        }
        for part in parts {
            let steps = part.steps.iter().enumerate().filter(|(_, step)| step.act.settles());
            for (n, _) in steps {
                let step = format!("{}/{}", part.id, part.steps.len() - n);
                let times = receipts.remove(step.as_str());
                assert_eq!(times, Some(1), "settled {times:?} times: {step}");
            }
        }
        assert!(receipts.is_empty(), "settlements of nobody's job: {receipts:?}");
    }
}

fn last(part: &Part) -> Act {
    part.steps.last().expect("a job has a step").act
}
