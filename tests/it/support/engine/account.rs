//! Checks that every enqueued job is complete, scheduled or a dead letter, and that each step was settled exactly once.

use std::collections::{BTreeMap, BTreeSet};

use redis::RedisResult;
use tokio::time::{Instant, sleep};

use super::script::RECEIPTS;
use super::{Act, Engine, PREFIX, QUEUE, TestJob};
use crate::support::DEADLINE;

/// Ids of the jobs in the queue, by state.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Ledger {
    /// Due, or claimed by a worker.
    pub(crate) running: BTreeSet<String>,
    pub(crate) scheduled: BTreeSet<String>,
    pub(crate) dead: BTreeSet<String>,
    pub(crate) payloads: BTreeSet<String>,
}

impl Engine {
    /// Reads the state of the queue.
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

    /// Waits until all jobs have run, and fails unless each of these jobs, and no other, has its expected state.
    pub(crate) async fn assert_settled(&self, jobs: &[TestJob]) {
        self.wait_until_settled(jobs).await;
        for job in jobs {
            let reason = match last(job) {
                Act::DeadLetter => "scripted",
                Act::Panic => "the handler panicked",
                Act::Abort | Act::Exit => "poison: ",
                _ => continue,
            };
            let found = self.reason(&job.id).await;
            assert!(found.starts_with(reason), "wrong reason of dead letter {}: {found}", job.id);
        }
        self.assert_receipts(jobs).await;
        self.diary.assert_no_job_ran_twice_at_once();
    }

    /// Checks that no step ran twice. This holds only if no worker died and Redis lost no write.
    pub(crate) fn assert_each_step_ran_once(&self, jobs: &[TestJob]) {
        let mut runs = BTreeMap::<String, Vec<usize>>::new();
        for run in self.diary.runs() {
            runs.entry(run.job).or_default().push(run.steps_left);
        }
        for job in jobs {
            let each: Vec<usize> = (1..=job.steps.len()).rev().collect();
            assert_eq!(runs.get(&job.id), Some(&each), "the steps of {} that ran", job.id);
        }
    }

    async fn wait_until_settled(&self, jobs: &[TestJob]) {
        let mut expected = Ledger::default();
        for job in jobs {
            match last(job) {
                Act::Finish => continue,
                Act::Wait(_) | Act::Retry(_) => expected.scheduled.insert(job.id.clone()),
                _ => expected.dead.insert(job.id.clone()),
            };
            expected.payloads.insert(job.id.clone());
        }
        let end = Instant::now() + DEADLINE;
        loop {
            let ledger = self.ledger().await;
            if ledger.as_ref().is_ok_and(|ledger| *ledger == expected) {
                return;
            }
            assert!(
                Instant::now() < end,
                "not settled within {DEADLINE:?}: {ledger:?}, expected {expected:?}"
            );
            sleep(std::time::Duration::from_millis(50)).await;
        }
    }

    async fn assert_receipts(&self, jobs: &[TestJob]) {
        let found: Vec<String> = self.ask(&["HKEYS", &format!("{PREFIX}:{RECEIPTS}:data")]).await;
        let mut receipts = BTreeMap::<&str, usize>::new();
        for receipt in &found {
            let (step, _run) = receipt.rsplit_once('/').expect("a receipt names its run");
            *receipts.entry(step).or_default() += 1;
        }
        for job in jobs {
            let steps = job.steps.iter().enumerate().filter(|(_, step)| step.act.settles());
            for (n, _) in steps {
                let step = format!("{}/{}", job.id, job.steps.len() - n);
                let times = receipts.remove(step.as_str());
                assert_eq!(times, Some(1), "number of settlements of {step}");
            }
        }
        assert!(receipts.is_empty(), "settlements of unknown steps: {receipts:?}");
    }
}

fn last(job: &TestJob) -> Act {
    job.steps.last().expect("a job has a step").act
}
