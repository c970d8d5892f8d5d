//! What a plain consumer gets wrong without any fault at all: see the table at the head of [`super`].

use std::time::Duration;

use crate::support::engine::{Act, Engine, EngineWorker, Part, QUEUE, Settings};
use crate::support::until;

const MS: Duration = Duration::from_millis(1);

#[tokio::test]
async fn busy_workers_run_no_job_twice_however_long_their_jobs_take() {
    let engine = Engine::new().await;
    let mut workers = [engine.worker(2).await, engine.worker(2).await];
    let parts: Vec<Part> = (0..8).map(|n| Part::new(n, [Act::Finish.taking(6_000 * MS)])).collect();
    engine.push(&parts).await;
    engine.begun(4, |_| true).await;
    // What is not begun is nobody's: a job waits in the queue, and not in the hands of a busy worker.
    let held: usize = engine.ask(&["LLEN", &format!("{QUEUE}:active")]).await;
    assert_eq!(held, 4);
    engine.account(&parts).await;
    engine.assert_each_step_ran_once(&parts);
    workers.iter_mut().for_each(EngineWorker::assert_runs);
}

#[tokio::test]
async fn a_worker_that_is_killed_and_started_again_works_at_once_and_stops_without_a_trace() {
    let engine = Engine::new().await;
    let mut parts = Vec::new();
    for n in 0..3 {
        let mut worker = engine.worker(4).await;
        let part = Part::new(n, [Act::Finish.at_once()]);
        engine.push(std::slice::from_ref(&part)).await;
        parts.push(part);
        engine.account(&parts).await;
        worker.kill();
    }
    let mut last = engine.worker(4).await;
    let mut other = engine.worker(4).await;
    let registered =
        async || -> Vec<String> { engine.ask(&["ZRANGE", &format!("{QUEUE}:workers"), "0", "-1"]).await };
    until("the dead are taken off the list", async || (registered().await.len() == 2).then_some(())).await;
    assert!(last.stop().await.success(), "{}", last.log());
    let left = registered().await;
    let other_one = format!("-{}-", other.pid());
    assert!(left.len() == 1 && left[0].contains(&other_one), "it took itself off the list, alone: {left:?}");
    assert!(other.stop().await.success(), "{}", other.log());
    assert_eq!(registered().await, Vec::<String>::new());
}

#[tokio::test]
async fn an_idle_worker_starts_scheduled_jobs_at_their_time_to_a_fraction_of_a_second() {
    let engine = Engine::new().await;
    let _worker = engine.worker(4).await;
    let now = engine.now().await;
    let timed: Vec<(Part, f64)> = (0..20_u32)
        .map(|n| (Part::new(n, [Act::Finish.at_once()]), now + 4.0 + 0.137 * f64::from(n)))
        .collect();
    for (part, due) in &timed {
        engine.schedule(part, *due).await;
    }
    let parts: Vec<Part> = timed.iter().map(|(part, _)| part.clone()).collect();
    engine.account(&parts).await;
    let mut late_ms: Vec<i64> = Vec::new();
    for (part, due) in &timed {
        #[expect(clippy::cast_possible_truncation, reason = "milliseconds of this century")]
        let due_ms = (due * 1000.0) as i64;
        late_ms.push(engine.diary.runs_of(&part.id)[0].at_ms - due_ms);
    }
    late_ms.sort_unstable();
    assert!(late_ms[0] >= 0, "none begins before its time: {late_ms:?}");
    // On a machine that is busy with other tests, one or the other may be held up.
    assert!(late_ms[late_ms.len() / 2] < 400, "most begin at their time: {late_ms:?}");
}

#[tokio::test]
async fn nothing_of_a_finished_job_stays_in_redis() {
    let engine = Engine::new().await;
    let settings = Settings { receipts: false, ..engine.settings(10) };
    let mut worker = engine.start(&settings).await;
    let steps = || [Act::Wait(50).at_once(), Act::Retry(50).at_once(), Act::Finish.at_once()];
    let parts: Vec<Part> = (0..100).map(|n| Part::new(n, steps())).collect();
    engine.push(&parts).await;
    until("all is done", async || {
        let ledger = engine.ledger().await.ok()?;
        ledger.payloads.is_empty().then_some(())
    })
    .await;
    engine.assert_each_step_ran_once(&parts);
    assert!(worker.stop().await.success(), "{}", worker.log());
    let keys: Vec<String> = engine.ask(&["KEYS", "*"]).await;
    assert_eq!(keys, Vec::<String>::new());
}

#[tokio::test]
async fn the_work_of_a_claim_and_of_an_end_does_not_grow_with_the_backlog() {
    const BACKLOG: u32 = 100_000;
    const BUSY: u32 = 1_000;
    let engine = Engine::new().await;
    // Beside the jobs that are run stands a backlog that is far from due.
    let fill = redis::Script::new(
        "for n = 1, tonumber(ARGV[1]) do \
           local id = string.format('f%023d', n) \
           redis.call('HSET', KEYS[1] .. ':data', id, '{}') \
           redis.call('ZADD', KEYS[1] .. ':scheduled', 1e11, id) \
         end",
    );
    let mut connection = engine.connect().await.unwrap();
    fill.key(QUEUE).arg(BACKLOG).invoke_async::<()>(&mut connection).await.unwrap();
    let parts: Vec<Part> = (0..BUSY).map(|n| Part::new(n, [Act::Finish.at_once()])).collect();
    engine.push(&parts).await;
    engine.ask::<()>(&["CONFIG", "RESETSTAT"]).await;
    let _worker = engine.worker(50).await;
    engine.begun(parts.len(), |_| true).await;
    until("all are done", async || {
        let left: u32 = engine.ask(&["HLEN", &format!("{QUEUE}:data")]).await;
        (left == BACKLOG).then_some(())
    })
    .await;
    let calls: String = engine.ask(&["INFO", "commandstats"]).await;
    for whole in [
        "lrem", "lrange", "lpos", "hgetall", "hkeys", "hvals", "hscan", "smembers", "sscan", "zscan", "sort",
        "sort_ro", "keys", "scan",
    ] {
        assert!(!calls.contains(&format!("cmdstat_{whole}:")), "{whole} reads a whole queue:\n{calls}");
    }
    // These read as much as they are told to: the head of a queue in some microseconds, all of it in many
    // milliseconds.
    for ranged in ["zrange", "zrangebyscore"] {
        let spent = calls.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{ranged}:")));
        let each =
            spent.and_then(|spent| spent.split(',').find_map(|one| one.strip_prefix("usec_per_call=")));
        let each: f64 = each.expect("it is called").parse().expect("a number");
        assert!(each < 500.0, "{ranged} reads more than the head of a queue:\n{calls}");
    }
}

#[tokio::test]
async fn a_batch_of_settlements_goes_through_though_some_of_its_jobs_are_gone_or_taken_over() {
    let engine = Engine::new().await;
    let parts: Vec<Part> = (0..30).map(|n| Part::new(n, [Act::Finish.behind("end")])).collect();
    let mut worker = engine.worker(parts.len()).await;
    engine.push(&parts).await;
    engine.begun(parts.len(), |_| true).await;
    // Every third job is in other hands, but for two of them, which are in none.
    let inflight: Vec<String> = engine.ask(&["KEYS", &format!("{QUEUE}:inflight:*")]).await;
    let taken: Vec<&str> = parts.iter().step_by(3).map(|part| part.id.as_str()).collect();
    let mut take: Vec<&str> = vec!["SREM", &inflight[0]];
    take.extend(&taken);
    assert_eq!(engine.ask::<usize>(&take).await, taken.len());
    let (gone, elsewhere) = taken.split_at(2);
    let other = format!("{QUEUE}:inflight:somebody-else");
    let mut give: Vec<&str> = vec!["SADD", &other];
    give.extend(elsewhere);
    engine.ask::<usize>(&give).await;
    engine.open("end");
    until("the rest is settled", async || {
        let ledger = engine.ledger().await.ok()?;
        (ledger.running.len() == elsewhere.len()).then_some(())
    })
    .await;
    worker.logs("their results are dropped").await;
    // Given back, each runs and counts once, as if it had never been here.
    let active = format!("{QUEUE}:active");
    let mut back: Vec<&str> = vec!["RPUSH", &active];
    back.extend(&taken);
    engine.ask::<usize>(&["DEL", &other]).await;
    engine.ask::<usize>(&back).await;
    engine.account(&parts).await;
    assert_eq!(engine.diary.runs_of(gone[0]).len(), 2);
    worker.assert_runs();
    // And nothing of it keeps the worker from stopping.
    assert!(worker.stop().await.success(), "{}", worker.log());
}

#[tokio::test]
async fn a_stop_with_more_jobs_than_one_claim_or_one_settling_takes_lets_all_of_them_end() {
    let engine = Engine::new().await;
    let parts: Vec<Part> = (0..600).map(|n| Part::new(n, [Act::Finish.behind("end")])).collect();
    let mut worker = engine.worker(parts.len()).await;
    engine.push(&parts).await;
    engine.begun(parts.len(), |_| true).await;
    worker.ask_to_stop();
    engine.open("end");
    assert!(worker.dies().await.success(), "{}", worker.log());
    engine.account(&parts).await;
    engine.assert_each_step_ran_once(&parts);
}
