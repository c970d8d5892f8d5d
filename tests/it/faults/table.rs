//! What a plain consumer gets wrong even without a fault. The table in [`super`] lists it.

use std::time::Duration;

use crate::support::engine::{Act, Engine, EngineWorker, QUEUE, Settings, TestJob};
use crate::support::until;

const MS: Duration = Duration::from_millis(1);

#[tokio::test]
async fn busy_workers_run_no_job_twice_however_long_their_jobs_take() {
    let engine = Engine::new().await;
    let mut workers = [engine.worker(2).await, engine.worker(2).await];
    let jobs: Vec<TestJob> = (0..8).map(|n| TestJob::new(n, [Act::Finish.taking(6_000 * MS)])).collect();
    engine.push(&jobs).await;
    engine.begun(4, |_| true).await;
    // A job that has not begun waits in the queue, and no busy worker holds it.
    let held: usize = engine.ask(&["LLEN", &format!("{QUEUE}:active")]).await;
    assert_eq!(held, 4);
    engine.assert_settled(&jobs).await;
    engine.assert_each_step_ran_once(&jobs);
    workers.iter_mut().for_each(EngineWorker::assert_runs);
}

#[tokio::test]
async fn a_worker_restarted_after_a_kill_works_at_once_and_unregisters_when_it_stops() {
    let engine = Engine::new().await;
    let mut jobs = Vec::new();
    for n in 0..3 {
        let mut worker = engine.worker(4).await;
        let job = TestJob::new(n, [Act::Finish.at_once()]);
        engine.push(std::slice::from_ref(&job)).await;
        jobs.push(job);
        engine.assert_settled(&jobs).await;
        worker.kill();
    }
    let mut last = engine.worker(4).await;
    let mut other = engine.worker(4).await;
    let registered =
        async || -> Vec<String> { engine.ask(&["ZRANGE", &format!("{QUEUE}:workers"), "0", "-1"]).await };
    until("the dead workers are unregistered", async || (registered().await.len() == 2).then_some(())).await;
    assert!(last.stop().await.success(), "{}", last.log());
    let others = registered().await;
    let other_name = format!("-{}-", other.pid());
    assert!(others.len() == 1 && others[0].contains(&other_name), "only one unregistered: {others:?}");
    assert!(other.stop().await.success(), "{}", other.log());
    assert_eq!(registered().await, Vec::<String>::new());
}

#[tokio::test]
async fn an_idle_worker_starts_scheduled_jobs_within_a_fraction_of_a_second() {
    let engine = Engine::new().await;
    let _worker = engine.worker(4).await;
    let now = engine.now().await;
    let timed: Vec<(TestJob, f64)> = (0..20_u32)
        .map(|n| (TestJob::new(n, [Act::Finish.at_once()]), now + 4.0 + 0.137 * f64::from(n)))
        .collect();
    for (job, due) in &timed {
        engine.schedule(job, *due).await;
    }
    let jobs: Vec<TestJob> = timed.iter().map(|(job, _)| job.clone()).collect();
    engine.assert_settled(&jobs).await;
    let mut late_ms: Vec<i64> = Vec::new();
    for (job, due) in &timed {
        #[expect(clippy::cast_possible_truncation, reason = "milliseconds of this century")]
        let due_ms = (due * 1000.0) as i64;
        late_ms.push(engine.diary.runs_of(&job.id)[0].at_ms - due_ms);
    }
    late_ms.sort_unstable();
    assert!(late_ms[0] >= 0, "no job begins before its time: {late_ms:?}");
    // On a busy machine, some jobs may be delayed.
    assert!(late_ms[late_ms.len() / 2] < 400, "most jobs begin at their time: {late_ms:?}");
}

#[tokio::test]
async fn finished_jobs_leave_no_keys_in_redis() {
    let engine = Engine::new().await;
    let settings = Settings { receipts: false, ..engine.settings(10) };
    let mut worker = engine.start(&settings).await;
    let steps = || [Act::Wait(50).at_once(), Act::Retry(50).at_once(), Act::Finish.at_once()];
    let jobs: Vec<TestJob> = (0..100).map(|n| TestJob::new(n, steps())).collect();
    engine.push(&jobs).await;
    until("all jobs are done", async || {
        let ledger = engine.ledger().await.ok()?;
        ledger.payloads.is_empty().then_some(())
    })
    .await;
    engine.assert_each_step_ran_once(&jobs);
    assert!(worker.stop().await.success(), "{}", worker.log());
    let keys: Vec<String> = engine.ask(&["KEYS", "*"]).await;
    assert_eq!(keys, Vec::<String>::new());
}

#[tokio::test]
async fn the_work_of_a_claim_and_of_a_settlement_does_not_grow_with_the_backlog() {
    const BACKLOG: u32 = 100_000;
    const BUSY: u32 = 1_000;
    let engine = Engine::new().await;
    // The queue also holds a backlog that is due much later.
    let fill = redis::Script::new(
        "for n = 1, tonumber(ARGV[1]) do \
           local id = string.format('f%023d', n) \
           redis.call('HSET', KEYS[1] .. ':data', id, '{}') \
           redis.call('ZADD', KEYS[1] .. ':scheduled', 1e11, id) \
         end",
    );
    let mut connection = engine.connect().await.unwrap();
    fill.key(QUEUE).arg(BACKLOG).invoke_async::<()>(&mut connection).await.unwrap();
    let jobs: Vec<TestJob> = (0..BUSY).map(|n| TestJob::new(n, [Act::Finish.at_once()])).collect();
    engine.push(&jobs).await;
    engine.ask::<()>(&["CONFIG", "RESETSTAT"]).await;
    let _worker = engine.worker(50).await;
    engine.begun(jobs.len(), |_| true).await;
    until("all due jobs are done", async || {
        let remaining: u32 = engine.ask(&["HLEN", &format!("{QUEUE}:data")]).await;
        (remaining == BACKLOG).then_some(())
    })
    .await;
    let calls: String = engine.ask(&["INFO", "commandstats"]).await;
    for whole in [
        "lrem", "lrange", "lpos", "hgetall", "hkeys", "hvals", "hscan", "smembers", "sscan", "zscan", "sort",
        "sort_ro", "keys", "scan",
    ] {
        assert!(!calls.contains(&format!("cmdstat_{whole}:")), "{whole} reads a whole queue:\n{calls}");
    }
    // These read a given range: the head of a queue in microseconds, a whole queue in many milliseconds.
    for ranged in ["zrange", "zrangebyscore"] {
        let spent = calls.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{ranged}:")));
        let each =
            spent.and_then(|spent| spent.split(',').find_map(|one| one.strip_prefix("usec_per_call=")));
        let each: f64 = each.expect("the command is called").parse().expect("a number");
        assert!(each < 500.0, "{ranged} reads more than the head of a queue:\n{calls}");
    }
}

#[tokio::test]
async fn a_batch_of_settlements_succeeds_although_some_of_its_jobs_are_lost_or_taken_over() {
    let engine = Engine::new().await;
    let jobs: Vec<TestJob> = (0..30).map(|n| TestJob::new(n, [Act::Finish.behind("end")])).collect();
    let mut worker = engine.worker(jobs.len()).await;
    engine.push(&jobs).await;
    engine.begun(jobs.len(), |_| true).await;
    // Another worker holds every third job, except for two that no worker holds.
    let inflight: Vec<String> = engine.ask(&["KEYS", &format!("{QUEUE}:inflight:*")]).await;
    let taken: Vec<&str> = jobs.iter().step_by(3).map(|job| job.id.as_str()).collect();
    let mut take: Vec<&str> = vec!["SREM", &inflight[0]];
    take.extend(&taken);
    assert_eq!(engine.ask::<usize>(&take).await, taken.len());
    let (gone, elsewhere) = taken.split_at(2);
    let other = format!("{QUEUE}:inflight:somebody-else");
    let mut give: Vec<&str> = vec!["SADD", &other];
    give.extend(elsewhere);
    engine.ask::<usize>(&give).await;
    engine.open("end");
    until("the other jobs are settled", async || {
        let ledger = engine.ledger().await.ok()?;
        (ledger.running.len() == elsewhere.len()).then_some(())
    })
    .await;
    worker.logs("its results are dropped").await;
    // After its return to the queue, each of these jobs runs and counts once.
    let active = format!("{QUEUE}:active");
    let mut back: Vec<&str> = vec!["RPUSH", &active];
    back.extend(&taken);
    engine.ask::<usize>(&["DEL", &other]).await;
    engine.ask::<usize>(&back).await;
    engine.assert_settled(&jobs).await;
    assert_eq!(engine.diary.runs_of(gone[0]).len(), 2);
    worker.assert_runs();
    // The worker can still stop.
    assert!(worker.stop().await.success(), "{}", worker.log());
}

#[tokio::test]
async fn a_stop_with_more_jobs_than_one_batch_lets_all_of_them_end() {
    let engine = Engine::new().await;
    let jobs: Vec<TestJob> = (0..600).map(|n| TestJob::new(n, [Act::Finish.behind("end")])).collect();
    let mut worker = engine.worker(jobs.len()).await;
    engine.push(&jobs).await;
    engine.begun(jobs.len(), |_| true).await;
    worker.ask_to_stop();
    engine.open("end");
    assert!(worker.dies().await.success(), "{}", worker.log());
    engine.assert_settled(&jobs).await;
    engine.assert_each_step_ran_once(&jobs);
}
