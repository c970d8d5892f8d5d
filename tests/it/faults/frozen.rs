//! A worker that is frozen beyond its lease in the middle of its jobs, and goes on: whatever it settles then is
//! no longer its own, and must not count. Nor does it count against the jobs that it was frozen.

use std::time::Duration;

use tokio::time::sleep;

use crate::support::engine::{Act, Engine, EngineWorker, Part, QUEUE};
use crate::support::until;

#[tokio::test]
async fn a_worker_frozen_for_fifteen_seconds_settles_nothing_that_is_not_its_own() {
    frozen(Duration::from_secs(15)).await;
}

#[tokio::test]
async fn a_worker_frozen_for_a_minute_settles_nothing_that_is_not_its_own() {
    frozen(Duration::from_mins(1)).await;
}

async fn frozen(time: Duration) {
    let engine = Engine::new().await;
    // All slots are taken, and so nothing is claimed that has not begun when the worker is frozen. Some of its
    // jobs have run elsewhere by the time it goes on, some run elsewhere at that moment.
    let done: Vec<Part> = (0..15).map(|n| Part::new(n, [Act::Finish.behind("early")])).collect();
    let waits: Vec<Part> =
        (20..30).map(|n| Part::new(n, [Act::Wait(200).behind("early"), Act::Finish.at_once()])).collect();
    let running: Vec<Part> = (40..55).map(|n| Part::new(n, [Act::Finish.behind("late")])).collect();
    let held = [done, waits, running].concat();
    let mut frozen = engine.worker(held.len()).await;
    engine.push(&held).await;
    engine.begun(held.len(), |_| true).await;
    let mut other = engine.worker(held.len()).await;
    frozen.freeze();
    let until_then = sleep(time);
    let waiting: Vec<Part> =
        (100..160).map(|n| Part::new(n, [Act::Finish.taking(Duration::from_millis(50))])).collect();
    engine.push(&waiting).await;
    engine.open("early");
    until("the other has done what it can", async || {
        let ledger = engine.ledger().await.ok()?;
        (ledger.running.len() == 15 && ledger.scheduled.is_empty()).then_some(())
    })
    .await;
    until_then.await;
    frozen.thaw();
    frozen.logs("starts under a new name").await;
    engine.open("late");
    frozen.logs("their results are dropped").await;
    engine.account(&[held, waiting].concat()).await;
    // It works on, and under a name that nobody has taken for dead.
    let next: Vec<Part> = (200..230).map(|n| Part::new(n, [Act::Finish.behind("next")])).collect();
    let started = other.stop().await;
    assert!(started.success(), "{}", other.log());
    engine.push(&next).await;
    engine
        .begun(next.len(), |run| run.owner == frozen.pid() && next.iter().any(|part| part.id == run.job))
        .await;
    engine.open("next");
    until("all is done", async || {
        let ledger = engine.ledger().await.ok()?;
        ledger.payloads.is_empty().then_some(())
    })
    .await;
    frozen.assert_runs();
    assert!(frozen.stop().await.success(), "{}", frozen.log());
    let left: Vec<String> = engine.ask(&["KEYS", &format!("{QUEUE}:*")]).await;
    assert_eq!(left, Vec::<String>::new(), "nothing of it stays");
}

/// Waits until all of these jobs run on this worker, beside whatever else they do.
async fn all_run_on(engine: &Engine, jobs: &[Part], worker: &EngineWorker, runs_before: usize) {
    engine.begun(runs_before + jobs.len(), |run| run.owner == worker.pid()).await;
}

#[tokio::test]
async fn workers_that_are_frozen_in_turn_bury_nothing_and_take_their_verdict_back() {
    let engine = Engine::new().await;
    let jobs: Vec<Part> = (0..8).map(|n| Part::new(n, [Act::Finish.behind("gate")])).collect();
    // Room for what each of them held when it was frozen, and half of it again for suspects.
    let one = engine.worker(6 * jobs.len()).await;
    engine.push(&jobs).await;
    all_run_on(&engine, &jobs, &one, 0).await;
    let other = engine.worker(6 * jobs.len()).await;
    // Each of them loses all its jobs to the other, again and again. That a process died is never true.
    for (n, (frozen, heir)) in
        [(&one, &other), (&other, &one), (&one, &other), (&other, &one)].iter().enumerate()
    {
        let before = engine.diary.runs().iter().filter(|run| run.owner == heir.pid()).count();
        frozen.freeze();
        all_run_on(&engine, &jobs, heir, before).await;
        frozen.thaw();
        until("it knows that it was taken for dead", async || {
            (frozen.log().matches("starts under a new name").count() > n / 2).then_some(())
        })
        .await;
    }
    until("no job is a suspect any more", async || {
        let histories: Vec<String> = engine.ask(&["KEYS", &format!("{QUEUE}:meta:*")]).await;
        histories.is_empty().then_some(())
    })
    .await;
    engine.open("gate");
    engine.account(&jobs).await;
}

#[tokio::test]
async fn a_frozen_worker_that_finishes_a_job_which_was_buried_meanwhile_leaves_no_dead_letter() {
    let engine = Engine::new().await;
    let job = Part::new(0, [Act::Finish.behind("gate")]);
    let frozen = engine.worker(2).await;
    engine.push(std::slice::from_ref(&job)).await;
    engine.begun(1, |_| true).await;
    let heir = engine.worker(2).await;
    frozen.freeze();
    // Processes of its own die of it, as far as anybody can tell.
    for crashes in 1..=3 {
        engine.begun(crashes, |run| run.owner == heir.pid()).await;
        let run = engine.diary.runs_of(&job.id).pop().expect("it runs");
        assert_ne!(run.pid, heir.pid(), "it runs apart");
        engine.diary.kill(run.pid);
    }
    until("it is a dead letter", async || {
        let ledger = engine.ledger().await.ok()?;
        ledger.dead.contains(&job.id).then_some(())
    })
    .await;
    frozen.thaw();
    frozen.logs("starts under a new name").await;
    engine.open("gate");
    engine.account(std::slice::from_ref(&job)).await;
}
