//! Handlers panic, hang, abort and exit. Only the job itself fails, and no other job is affected.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use crate::support::engine::{Act, Engine, QUEUE, TestJob};
use crate::support::until;

const MS: Duration = Duration::from_millis(1);

#[tokio::test]
async fn a_job_whose_handler_panics_is_dead_lettered_after_three_panics_and_affects_no_other() {
    let engine = Engine::new().await;
    let mut worker = engine.worker(4).await;
    let jobs: Vec<TestJob> = (0..60)
        .map(|n| {
            let act = if n % 10 == 0 { Act::Panic } else { Act::Finish };
            TestJob::new(n, [act.taking(20 * MS)])
        })
        .collect();
    engine.push(&jobs).await;
    engine.assert_settled(&jobs).await;
    for job in &jobs {
        let (runs, panics) = (engine.diary.runs_of(&job.id).len(), job.steps[0].act == Act::Panic);
        assert_eq!(runs, if panics { 3 } else { 1 }, "{}", job.id);
        if panics {
            assert_eq!(engine.reason(&job.id).await, "the handler panicked, 3 times");
        }
    }
    worker.assert_runs();
}

#[tokio::test]
async fn a_handler_slower_than_the_lease_keeps_its_job_and_its_worker_alive() {
    let engine = Engine::new().await;
    let mut busy = engine.worker(6).await;
    // Every slot of the worker is taken for twice the lease, while another worker claims jobs.
    let slow: Vec<TestJob> = (0..6).map(|n| TestJob::new(n, [Act::Finish.taking(10_000 * MS)])).collect();
    engine.push(&slow).await;
    engine.begun(slow.len(), |_| true).await;
    let mut idle = engine.worker(6).await;
    let quick: Vec<TestJob> = (100..160).map(|n| TestJob::new(n, [Act::Finish.taking(100 * MS)])).collect();
    engine.push(&quick).await;
    engine.assert_settled(&[slow.clone(), quick].concat()).await;
    for job in &slow {
        let owners: Vec<u32> = engine.diary.runs_of(&job.id).iter().map(|run| run.owner).collect();
        assert_eq!(owners, [busy.pid()], "no other worker took {}", job.id);
    }
    busy.assert_runs();
    idle.assert_runs();
}

#[tokio::test]
async fn a_job_that_aborts_its_process_is_dead_lettered_and_the_other_jobs_complete() {
    poison(Act::Abort).await;
}

#[tokio::test]
async fn a_job_that_exits_its_process_is_dead_lettered_and_the_other_jobs_complete() {
    poison(Act::Exit).await;
}

/// One poison job is in flight with 40 innocent jobs on one worker, and another worker survives.
async fn poison(act: Act) {
    let engine = Engine::new().await;
    let poison = TestJob::new(0, [act.behind("poison")]);
    let beside: Vec<TestJob> = (1..=40).map(|n| TestJob::new(n, [Act::Finish.behind("innocents")])).collect();
    let waiting: Vec<TestJob> = (100..160).map(|n| TestJob::new(n, [Act::Finish.taking(150 * MS)])).collect();
    let mut victim = engine.worker(beside.len() + 1).await;
    engine.push(std::slice::from_ref(&poison)).await;
    engine.push(&beside).await;
    engine.begun(beside.len() + 1, |_| true).await;
    let mut survivor = engine.worker(4).await;
    engine.push(&waiting).await;
    engine.open("poison");
    let status = victim.dies().await;
    assert_eq!(status.success(), act == Act::Exit, "the job ended the worker: {status}");
    engine.open("innocents");

    let all = [vec![poison.clone()], beside.clone(), waiting.clone()].concat();
    engine.assert_settled(&all).await;
    let mut runs = engine.diary.runs_of(&poison.id);
    assert_eq!(runs.remove(0).pid, victim.pid());
    for run in &runs {
        assert_eq!(run.owner, survivor.pid());
        assert_ne!(run.pid, run.owner, "a suspect runs in another process than the worker");
    }
    // Three processes died with the poison job alone. Before that, up to six died with other suspects, and
    // each time half of the suspects remain.
    assert!((3..=3 + 6).contains(&runs.len()), "{runs:?}");
    assert_eq!(engine.reason(&poison.id).await, "poison: the process that ran it died 3 times");
    for job in &beside {
        let runs = engine.diary.runs_of(&job.id);
        assert!(runs[1..].iter().all(|run| run.pid != run.owner), "a suspect does not run in the worker");
    }
    for job in &waiting {
        assert_eq!(engine.diary.runs_of(&job.id).len(), 1, "{} was in no crash", job.id);
    }
    survivor.assert_runs();
    // The next job runs in the worker again.
    let next = TestJob::new(200, [Act::Finish.at_once()]);
    engine.push(std::slice::from_ref(&next)).await;
    engine.assert_settled(&[all, vec![next.clone()]].concat()).await;
    assert_eq!(engine.diary.runs_of(&next.id)[0].pid, survivor.pid());
}

#[tokio::test]
async fn waiting_suspects_leave_half_of_the_slots_to_other_jobs() {
    let engine = Engine::new().await;
    let suspects: Vec<TestJob> = (0..40).map(|n| TestJob::new(n, [Act::Finish.behind("suspects")])).collect();
    let mut victim = engine.worker(suspects.len()).await;
    engine.push(&suspects).await;
    engine.begun(suspects.len(), |_| true).await;
    victim.kill();
    // Suspects have half of the slots.
    let mut survivor = engine.worker(20).await;
    engine.begun(10, |run| run.owner == survivor.pid()).await;
    let others: Vec<TestJob> = (100..160).map(|n| TestJob::new(n, [Act::Finish.at_once()])).collect();
    engine.push(&others).await;
    engine.begun(others.len(), |run| others.iter().any(|job| job.id == run.job)).await;
    let suspects_begun: Vec<u32> =
        engine.diary.runs().iter().filter(|run| run.pid != run.owner).map(|run| run.pid).collect();
    assert_eq!(suspects_begun.len(), 10, "the other suspects wait for a slot");
    assert!(suspects_begun.iter().all(|pid| *pid == suspects_begun[0]), "one process runs them all");
    engine.open("suspects");
    engine.assert_settled(&[suspects, others].concat()).await;
    survivor.assert_runs();
}

#[tokio::test]
async fn jobs_of_a_killed_worker_run_again_within_seconds() {
    let engine = Engine::new().await;
    let jobs: Vec<TestJob> = (0..100).map(|n| TestJob::new(n, [Act::Finish.behind("first")])).collect();
    let mut victim = engine.worker(jobs.len()).await;
    engine.push(&jobs).await;
    engine.begun(jobs.len(), |_| true).await;
    let mut survivor = engine.worker(jobs.len()).await;
    // The survivor must have observed the victim for a lease before it may presume the victim dead.
    sleep(8_000 * MS).await;
    victim.kill();
    engine.open("first");
    let killed = Instant::now();
    engine.begun(1, |run| run.owner == survivor.pid()).await;
    let taken_over = killed.elapsed();
    engine.assert_settled(&jobs).await;
    // The takeover takes a lease and a heartbeat. Then one process is started and runs all jobs.
    let run_again = killed.elapsed().checked_sub(taken_over).unwrap();
    assert!(run_again < 10_000 * MS, "{taken_over:?} until the first ran again, {run_again:?} until all had");
    survivor.assert_runs();
}

#[tokio::test]
async fn a_suspect_that_waits_remains_a_suspect() {
    let engine = Engine::new().await;
    let poison = TestJob::new(0, [Act::Abort.snoozing_until("way")]);
    let mut victim = engine.worker(2).await;
    engine.open("way");
    engine.push(std::slice::from_ref(&poison)).await;
    victim.dies().await;
    engine.shut("way");
    let mut survivor = engine.worker(2).await;
    // The job runs in a process of its own and can only wait.
    engine.begun(4, |run| run.owner == survivor.pid()).await;
    engine.open("way");
    engine.assert_settled(std::slice::from_ref(&poison)).await;
    let runs = engine.diary.runs_of(&poison.id);
    assert!(runs[1..].iter().all(|run| run.pid != run.owner), "the suspect never runs in a worker: {runs:?}");
    survivor.assert_runs();
}

#[tokio::test]
async fn a_retry_is_counted_and_waits_in_redis_without_a_slot_or_a_process() {
    let engine = Engine::new().await;
    let mut first = engine.worker(1).await;
    let retried =
        TestJob::new(0, [Act::Retry(15_000).at_once(), Act::Retry(300).at_once(), Act::Finish.at_once()]);
    engine.push(std::slice::from_ref(&retried)).await;
    until("the job waits for its second attempt", async || {
        let ledger = engine.ledger().await.ok()?;
        ledger.scheduled.contains(&retried.id).then_some(())
    })
    .await;
    // The only slot is free meanwhile.
    let other = TestJob::new(1, [Act::Finish.at_once()]);
    engine.push(std::slice::from_ref(&other)).await;
    engine.begun(1, |run| run.job == other.id).await;
    assert_eq!(engine.diary.runs_of(&retried.id).len(), 1, "the retry still waits");
    first.kill();
    let _second = engine.worker(1).await;
    engine.assert_settled(&[retried.clone(), other]).await;
    let attempts: Vec<u32> = engine.diary.runs_of(&retried.id).iter().map(|run| run.attempts_made).collect();
    assert_eq!(attempts, [0, 1, 2], "a crash of the worker changes neither the count nor the wait");
    let remaining: Vec<String> = engine.ask(&["KEYS", &format!("{QUEUE}:meta:*")]).await;
    assert_eq!(remaining, Vec::<String>::new());
}
