//! A worker is frozen for longer than its lease and then continues. Its results for jobs that it has lost are
//! dropped, and the freeze does not count against these jobs.

use std::time::Duration;

use tokio::time::sleep;

use crate::support::engine::{Act, Engine, EngineWorker, QUEUE, TestJob};
use crate::support::until;

#[tokio::test]
async fn a_worker_frozen_for_fifteen_seconds_settles_no_job_that_it_lost() {
    frozen(Duration::from_secs(15)).await;
}

#[tokio::test]
async fn a_worker_frozen_for_a_minute_settles_no_job_that_it_lost() {
    frozen(Duration::from_mins(1)).await;
}

async fn frozen(time: Duration) {
    let engine = Engine::new().await;
    // All slots are taken, so every claimed job has begun when the worker is frozen. When it continues, some
    // of its jobs have finished on the other worker, and some still run there.
    let done: Vec<TestJob> = (0..15).map(|n| TestJob::new(n, [Act::Finish.behind("early")])).collect();
    let waits: Vec<TestJob> =
        (20..30).map(|n| TestJob::new(n, [Act::Wait(200).behind("early"), Act::Finish.at_once()])).collect();
    let running: Vec<TestJob> = (40..55).map(|n| TestJob::new(n, [Act::Finish.behind("late")])).collect();
    let held = [done, waits, running].concat();
    let mut frozen = engine.worker(held.len()).await;
    engine.push(&held).await;
    engine.begun(held.len(), |_| true).await;
    let mut other = engine.worker(held.len()).await;
    frozen.freeze();
    let end_of_freeze = sleep(time);
    let waiting: Vec<TestJob> =
        (100..160).map(|n| TestJob::new(n, [Act::Finish.taking(Duration::from_millis(50))])).collect();
    engine.push(&waiting).await;
    engine.open("early");
    until("the other worker has done what it can", async || {
        let ledger = engine.ledger().await.ok()?;
        (ledger.running.len() == 15 && ledger.scheduled.is_empty()).then_some(())
    })
    .await;
    end_of_freeze.await;
    frozen.thaw();
    frozen.logs("continues under a new name").await;
    engine.open("late");
    frozen.logs("its results are dropped").await;
    engine.assert_settled(&[held, waiting].concat()).await;
    // The worker continues under a name that is not presumed dead.
    let next: Vec<TestJob> = (200..230).map(|n| TestJob::new(n, [Act::Finish.behind("next")])).collect();
    let status = other.stop().await;
    assert!(status.success(), "{}", other.log());
    engine.push(&next).await;
    engine
        .begun(next.len(), |run| run.owner == frozen.pid() && next.iter().any(|job| job.id == run.job))
        .await;
    engine.open("next");
    until("all jobs are done", async || {
        let ledger = engine.ledger().await.ok()?;
        ledger.payloads.is_empty().then_some(())
    })
    .await;
    frozen.assert_runs();
    assert!(frozen.stop().await.success(), "{}", frozen.log());
    let remaining: Vec<String> = engine.ask(&["KEYS", &format!("{QUEUE}:*")]).await;
    assert_eq!(remaining, Vec::<String>::new(), "no key remains");
}

/// Waits until this worker runs all of these jobs.
async fn all_run_on(engine: &Engine, jobs: &[TestJob], worker: &EngineWorker, runs_before: usize) {
    engine.begun(runs_before + jobs.len(), |run| run.owner == worker.pid()).await;
}

#[tokio::test]
async fn workers_frozen_in_turn_dead_letter_no_job_and_clear_the_suspects() {
    let engine = Engine::new().await;
    let jobs: Vec<TestJob> = (0..8).map(|n| TestJob::new(n, [Act::Finish.behind("gate")])).collect();
    // Slots for all jobs that a worker holds when it is frozen. Suspects may use only half of the slots.
    let one = engine.worker(6 * jobs.len()).await;
    engine.push(&jobs).await;
    all_run_on(&engine, &jobs, &one, 0).await;
    let other = engine.worker(6 * jobs.len()).await;
    // The workers repeatedly lose all jobs to each other, but no process dies.
    for (n, (frozen, heir)) in
        [(&one, &other), (&other, &one), (&one, &other), (&other, &one)].iter().enumerate()
    {
        let before = engine.diary.runs().iter().filter(|run| run.owner == heir.pid()).count();
        frozen.freeze();
        all_run_on(&engine, &jobs, heir, before).await;
        frozen.thaw();
        until("the worker notices that it was presumed dead", async || {
            (frozen.log().matches("continues under a new name").count() > n / 2).then_some(())
        })
        .await;
    }
    until("no job is a suspect", async || {
        let histories: Vec<String> = engine.ask(&["KEYS", &format!("{QUEUE}:meta:*")]).await;
        histories.is_empty().then_some(())
    })
    .await;
    engine.open("gate");
    engine.assert_settled(&jobs).await;
}

#[tokio::test]
async fn a_frozen_worker_that_finishes_a_dead_lettered_job_removes_the_dead_letter() {
    let engine = Engine::new().await;
    let job = TestJob::new(0, [Act::Finish.behind("gate")]);
    let frozen = engine.worker(2).await;
    engine.push(std::slice::from_ref(&job)).await;
    engine.begun(1, |_| true).await;
    let heir = engine.worker(2).await;
    frozen.freeze();
    // Each process of its own is killed, as if the job had crashed it.
    for crashes in 1..=3 {
        engine.begun(crashes, |run| run.owner == heir.pid()).await;
        let run = engine.diary.runs_of(&job.id).pop().expect("the job runs");
        assert_ne!(run.pid, heir.pid(), "the job runs in a process of its own");
        engine.diary.kill(run.pid);
    }
    until("the job is a dead letter", async || {
        let ledger = engine.ledger().await.ok()?;
        ledger.dead.contains(&job.id).then_some(())
    })
    .await;
    frozen.thaw();
    frozen.logs("continues under a new name").await;
    engine.open("gate");
    engine.assert_settled(std::slice::from_ref(&job)).await;
}
