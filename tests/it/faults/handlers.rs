//! Handlers that fail in every way there is: the job bears it, and nobody beside it.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::support::engine::{Act, Engine, Part, QUEUE};
use crate::support::until;

const MS: Duration = Duration::from_millis(1);

#[tokio::test]
async fn a_handler_that_panics_ends_in_the_dead_letters_after_three_faults_and_disturbs_nobody() {
    let engine = Engine::new().await;
    let mut worker = engine.worker(4).await;
    let parts: Vec<Part> = (0..60)
        .map(|n| {
            let act = if n % 10 == 0 { Act::Panic } else { Act::Finish };
            Part::new(n, [act.taking(20 * MS)])
        })
        .collect();
    engine.push(&parts).await;
    engine.account(&parts).await;
    for part in &parts {
        let (runs, panics) = (engine.diary.runs_of(&part.id).len(), part.steps[0].act == Act::Panic);
        assert_eq!(runs, if panics { 3 } else { 1 }, "{}", part.id);
        if panics {
            assert_eq!(engine.reason(&part.id).await, "the handler panicked, 3 times");
        }
    }
    worker.assert_runs();
}

#[tokio::test]
async fn a_handler_slower_than_the_lease_keeps_its_job_and_the_worker_its_life() {
    let engine = Engine::new().await;
    let mut busy = engine.worker(6).await;
    // Every slot of the worker is taken for twice the lease, and others look for work all the while.
    let slow: Vec<Part> = (0..6).map(|n| Part::new(n, [Act::Finish.taking(10_000 * MS)])).collect();
    engine.push(&slow).await;
    engine.begun(slow.len(), |_| true).await;
    let mut idle = engine.worker(6).await;
    let quick: Vec<Part> = (100..160).map(|n| Part::new(n, [Act::Finish.taking(100 * MS)])).collect();
    engine.push(&quick).await;
    engine.account(&[slow.clone(), quick].concat()).await;
    for part in &slow {
        let owners: Vec<u32> = engine.diary.runs_of(&part.id).iter().map(|run| run.owner).collect();
        assert_eq!(owners, [busy.pid()], "nobody else took {}", part.id);
    }
    busy.assert_runs();
    idle.assert_runs();
}

#[tokio::test]
async fn a_job_that_aborts_its_process_is_buried_once_that_is_proven_and_every_innocent_completes() {
    poison(Act::Abort).await;
}

#[tokio::test]
async fn a_job_that_exits_its_process_is_buried_once_that_is_proven_and_every_innocent_completes() {
    poison(Act::Exit).await;
}

/// One poison job among 40 innocents in flight on the same worker, and more that wait; another worker is left.
async fn poison(act: Act) {
    let engine = Engine::new().await;
    let poison = Part::new(0, [act.behind("poison")]);
    let beside: Vec<Part> = (1..=40).map(|n| Part::new(n, [Act::Finish.behind("innocents")])).collect();
    let waiting: Vec<Part> = (100..160).map(|n| Part::new(n, [Act::Finish.taking(150 * MS)])).collect();
    let mut victim = engine.worker(beside.len() + 1).await;
    engine.push(std::slice::from_ref(&poison)).await;
    engine.push(&beside).await;
    engine.begun(beside.len() + 1, |_| true).await;
    let mut survivor = engine.worker(4).await;
    engine.push(&waiting).await;
    engine.open("poison");
    let status = victim.dies().await;
    assert_eq!(status.success(), act == Act::Exit, "it died by its job: {status}");
    engine.open("innocents");

    let all = [vec![poison.clone()], beside.clone(), waiting.clone()].concat();
    engine.account(&all).await;
    let mut runs = engine.diary.runs_of(&poison.id);
    assert_eq!(runs.remove(0).pid, victim.pid());
    for run in &runs {
        assert_eq!(run.owner, survivor.pid());
        assert_ne!(run.pid, run.owner, "from the second time on apart from the worker");
    }
    // Three processes died that ran nothing else; before that it may have died with others, of which half remain each
    // time.
    assert!((3..=3 + 6).contains(&runs.len()), "{runs:?}");
    assert_eq!(engine.reason(&poison.id).await, "poison: the process that ran it died 3 times");
    for part in &beside {
        let runs = engine.diary.runs_of(&part.id);
        assert!(runs[1..].iter().all(|run| run.pid != run.owner), "nobody can tell yet that it is innocent");
    }
    for part in &waiting {
        assert_eq!(engine.diary.runs_of(&part.id).len(), 1, "{} was in no crash", part.id);
    }
    survivor.assert_runs();
    // The next job of a worker that has met poison runs as if nothing had been.
    let next = Part::new(200, [Act::Finish.at_once()]);
    engine.push(std::slice::from_ref(&next)).await;
    engine.account(&[all, vec![next.clone()]].concat()).await;
    assert_eq!(engine.diary.runs_of(&next.id)[0].pid, survivor.pid());
}

#[tokio::test]
async fn suspects_that_find_no_process_leave_the_slots_to_others() {
    let engine = Engine::new().await;
    let suspects: Vec<Part> = (0..40).map(|n| Part::new(n, [Act::Finish.behind("suspects")])).collect();
    let mut victim = engine.worker(suspects.len()).await;
    engine.push(&suspects).await;
    engine.begun(suspects.len(), |_| true).await;
    victim.kill();
    // Suspects have half of the slots.
    let mut survivor = engine.worker(20).await;
    engine.begun(10, |run| run.owner == survivor.pid()).await;
    let others: Vec<Part> = (100..160).map(|n| Part::new(n, [Act::Finish.at_once()])).collect();
    engine.push(&others).await;
    engine.begun(others.len(), |run| others.iter().any(|part| part.id == run.job)).await;
    let suspects_begun: Vec<u32> =
        engine.diary.runs().iter().filter(|run| run.pid != run.owner).map(|run| run.pid).collect();
    assert_eq!(suspects_begun.len(), 10, "the others wait for a place");
    assert!(suspects_begun.iter().all(|pid| *pid == suspects_begun[0]), "one process runs them all");
    engine.open("suspects");
    engine.account(&[suspects, others].concat()).await;
    survivor.assert_runs();
}

#[tokio::test]
async fn jobs_of_a_killed_worker_are_run_again_within_seconds() {
    let engine = Engine::new().await;
    let jobs: Vec<Part> = (0..100).map(|n| Part::new(n, [Act::Finish.behind("first")])).collect();
    let mut victim = engine.worker(jobs.len()).await;
    engine.push(&jobs).await;
    engine.begun(jobs.len(), |_| true).await;
    let mut survivor = engine.worker(jobs.len()).await;
    // It must have seen the victim alive for as long as a lease before it may take it for dead.
    sleep(8_000 * MS).await;
    victim.kill();
    engine.open("first");
    let killed = Instant::now();
    engine.begun(1, |run| run.owner == survivor.pid()).await;
    let taken_over = killed.elapsed();
    engine.account(&jobs).await;
    // The take-over takes a lease and a heartbeat; then one process is started, and runs them all.
    let run_again = killed.elapsed().checked_sub(taken_over).unwrap();
    assert!(run_again < 10_000 * MS, "{taken_over:?} until the first ran again, {run_again:?} until all had");
    survivor.assert_runs();
}

#[tokio::test]
async fn a_suspect_that_has_to_wait_is_no_less_suspect_for_it() {
    let engine = Engine::new().await;
    let poison = Part::new(0, [Act::Abort.once_open("way")]);
    let mut victim = engine.worker(2).await;
    engine.open("way");
    engine.push(std::slice::from_ref(&poison)).await;
    victim.dies().await;
    engine.shut("way");
    let mut survivor = engine.worker(2).await;
    // It runs, in a process of its own, and all it can do is wait.
    engine.begun(4, |run| run.owner == survivor.pid()).await;
    engine.open("way");
    engine.account(std::slice::from_ref(&poison)).await;
    let runs = engine.diary.runs_of(&poison.id);
    assert!(runs[1..].iter().all(|run| run.pid != run.owner), "it never runs among others again: {runs:?}");
    survivor.assert_runs();
}

#[tokio::test]
async fn a_retry_is_counted_and_waits_in_redis_and_not_in_a_slot_or_a_process() {
    let engine = Engine::new().await;
    let mut first = engine.worker(1).await;
    let retried =
        Part::new(0, [Act::Retry(15_000).at_once(), Act::Retry(300).at_once(), Act::Finish.at_once()]);
    engine.push(std::slice::from_ref(&retried)).await;
    until("it waits for its second attempt", async || {
        let ledger = engine.ledger().await.ok()?;
        ledger.scheduled.contains(&retried.id).then_some(())
    })
    .await;
    // The one slot is free meanwhile.
    let other = Part::new(1, [Act::Finish.at_once()]);
    engine.push(std::slice::from_ref(&other)).await;
    engine.begun(1, |run| run.job == other.id).await;
    assert_eq!(engine.diary.runs_of(&retried.id).len(), 1, "it still waits");
    first.kill();
    let _second = engine.worker(1).await;
    engine.account(&[retried.clone(), other]).await;
    let attempts: Vec<u32> = engine.diary.runs_of(&retried.id).iter().map(|run| run.attempts_made).collect();
    assert_eq!(attempts, [0, 1, 2], "a crash of the worker changes neither the count nor the wait");
    let left: Vec<String> = engine.ask(&["KEYS", &format!("{QUEUE}:meta:*")]).await;
    assert_eq!(left, Vec::<String>::new());
}
