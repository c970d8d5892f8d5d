//! Redis stops, refuses commands or closes connections while jobs are in flight. No worker ends, no job is
//! lost and none runs twice. While no worker dies, each step of a job runs exactly once.

use std::time::Duration;

use tokio::time::sleep;

use crate::support::engine::{Act, Engine, EngineWorker, QUEUE, Settings, TestJob, connect, mixed};
use crate::support::redis::{TestRedis, free_port};
use crate::support::{Proxy, until};

/// Longer than the lease.
const BEYOND_THE_LEASE: Duration = Duration::from_secs(8);
const SLOTS: usize = 20;

/// Jobs of which some are in flight for longer than the fault.
fn load() -> Vec<TestJob> {
    let long = (1_000..1_010).map(|n| TestJob::new(n, [Act::Finish.taking(2 * BEYOND_THE_LEASE)]));
    long.chain(mixed(400)).collect()
}

/// Starts two workers, which are busy with the first half of the load.
async fn busy(engine: &Engine, load: &[TestJob]) -> [EngineWorker; 2] {
    let workers = [engine.worker(SLOTS).await, engine.worker(SLOTS).await];
    engine.push(&load[..load.len() / 2]).await;
    engine.begun(60, |_| true).await;
    workers
}

/// Waits until all jobs have ended, and checks that each step ran once and that the workers live.
async fn assert_recovered(engine: &Engine, load: &[TestJob], workers: &mut [EngineWorker]) {
    engine.assert_settled(load).await;
    engine.assert_each_step_ran_once(load);
    workers.iter_mut().for_each(EngineWorker::assert_runs);
}

#[tokio::test]
async fn jobs_survive_a_redis_that_stops_for_longer_than_the_lease() {
    let mut engine = Engine::in_container().await;
    let load = load();
    let mut workers = busy(&engine, &load).await;
    // The first pause is shorter than the timeout of a command, so pending commands are executed after it.
    for pause in [Duration::from_millis(4_500), BEYOND_THE_LEASE] {
        engine.redis.pause().await;
        sleep(pause).await;
        engine.redis.resume().await;
    }
    engine.push(&load[load.len() / 2..]).await;
    assert_recovered(&engine, &load, &mut workers).await;
}

#[tokio::test]
async fn jobs_survive_a_redis_that_is_killed_and_returns_after_the_lease() {
    let mut engine = Engine::in_container().await;
    let load = load();
    let mut workers = busy(&engine, &load).await;
    engine.redis.kill().await;
    sleep(BEYOND_THE_LEASE).await;
    engine.redis.start_again().await;
    engine.push(&load[load.len() / 2..]).await;
    assert_recovered(&engine, &load, &mut workers).await;
}

#[tokio::test]
async fn jobs_of_a_dead_worker_with_a_heartbeat_in_the_future_are_taken_over() {
    let engine = Engine::new().await;
    let held: Vec<TestJob> = (0..5).map(|n| TestJob::new(n, [Act::Finish.at_once()])).collect();
    let an_hour_ahead = (engine.now().await + 3_600.0).to_string();
    engine.ask::<usize>(&["ZADD", &format!("{QUEUE}:workers"), &an_hour_ahead, "dead"]).await;
    for job in &held {
        let payload = String::from_utf8(job.payload()).expect("text");
        engine.ask::<usize>(&["HSET", &format!("{QUEUE}:data"), &job.id, &payload]).await;
        engine.ask::<usize>(&["SADD", &format!("{QUEUE}:inflight:dead"), &job.id]).await;
    }
    let mut worker = engine.worker(2).await;
    engine.assert_settled(&held).await;
    worker.assert_runs();
}

#[tokio::test]
async fn the_first_worker_that_reaches_redis_again_does_not_presume_the_others_dead() {
    let mut engine = Engine::new().await;
    let proxy = Proxy::start(&engine.redis.url(), Duration::ZERO).await;
    let held: Vec<TestJob> = (0..10).map(|n| TestJob::new(n, [Act::Finish.behind("end")])).collect();
    let settings = Settings { redis_url: proxy.url(), ..engine.settings(held.len()) };
    let mut late = engine.start(&settings).await;
    engine.push(&held).await;
    engine.begun(held.len(), |run| run.owner == late.pid()).await;
    let mut early = engine.worker(held.len()).await;

    // Redis is away for longer than the lease, and one worker cannot reach it for a while longer.
    let nowhere = format!("redis://127.0.0.1:{}", free_port());
    proxy.forward_to(&nowhere);
    proxy.cut();
    let before = engine.now().await;
    engine.redis.kill().await;
    early.logs("Redis does not answer").await;
    sleep(BEYOND_THE_LEASE).await;
    engine.redis.start_again().await;
    let reports = async || -> Vec<(String, f64)> {
        engine.ask(&["ZRANGE", &format!("{QUEUE}:workers"), "0", "-1", "WITHSCORES"]).await
    };
    until("the early worker reports after the other's lease has ended", async || {
        reports().await.iter().any(|(_, at)| *at > before).then_some(())
    })
    .await;
    proxy.forward_to(&engine.redis.url());
    late.logs("Redis answers again").await;
    engine.open("end");
    engine.assert_settled(&held).await;
    engine.assert_each_step_ran_once(&held);
    assert!(!late.log().contains("under a new name"), "{}", late.log());
    for worker in [&mut early, &mut late] {
        worker.assert_runs();
        assert!(!worker.log().contains("took over"), "{}", worker.log());
    }
}

#[tokio::test]
async fn jobs_survive_a_redis_that_becomes_a_replica_and_then_the_master_again() {
    let engine = Engine::new().await;
    let load = load();
    let other = TestRedis::start().await;
    let (here, there) = (engine.redis.url(), other.url());
    for url in [&here, &there] {
        run(url, &["CONFIG", "SET", "repl-diskless-sync-delay", "0"]).await;
    }
    run(&there, &["REPLICAOF", "127.0.0.1", port(&here)]).await;
    until("the replica is in sync", async || {
        run(&here, &["INFO", "replication"]).await.contains("state=online").then_some(())
    })
    .await;
    let mut workers = busy(&engine, &load).await;
    fail_over(&here, &there).await;

    let refused = engine.try_push(&load[load.len() / 2..]).await.expect_err("a replica refuses writes");
    assert!(format!("{refused:?}").contains("ReadOnly"), "the producer gets the error: {refused:?}");
    for worker in &workers {
        worker.logs("Redis does not answer").await;
    }
    sleep(BEYOND_THE_LEASE).await;

    fail_over(&there, &here).await;
    engine.push(&load[load.len() / 2..]).await;
    assert_recovered(&engine, &load, &mut workers).await;
    for worker in &workers {
        assert!(worker.log().contains("Redis answers again"), "{}", worker.log());
    }
}

/// Makes the other server the master without losing a write.
async fn fail_over(from: &str, to: &str) {
    run(from, &["FAILOVER", "TO", "127.0.0.1", port(to)]).await;
    // For a moment both servers are replicas.
    for (server, role) in [(from, "role:slave"), (to, "role:master")] {
        until(role, async || run(server, &["INFO", "replication"]).await.contains(role).then_some(())).await;
    }
}

fn port(url: &str) -> &str {
    url.rsplit_once(':').expect("the URL has a port").1
}

async fn run(url: &str, command: &[&str]) -> String {
    let mut connection = connect(url).await.expect("Redis accepts connections");
    let mut call = redis::cmd(command[0]);
    call.arg(&command[1..]);
    call.query_async(&mut connection).await.expect("Redis answers")
}

#[tokio::test]
async fn jobs_survive_a_redis_that_is_full() {
    let engine = Engine::in_container().await;
    let load = load();
    let mut workers = busy(&engine, &load).await;
    engine.ask::<()>(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let refused = engine.try_push(&load[load.len() / 2..]).await.expect_err("Redis is full");
    assert!(format!("{refused:?}").contains("OOM"), "the producer gets the error: {refused:?}");
    sleep(BEYOND_THE_LEASE).await;
    workers.iter_mut().for_each(EngineWorker::assert_runs);
    engine.ask::<()>(&["CONFIG", "SET", "maxmemory", "0"]).await;
    engine.push(&load[load.len() / 2..]).await;
    assert_recovered(&engine, &load, &mut workers).await;
}

#[tokio::test]
async fn jobs_survive_a_redis_that_repeatedly_closes_all_connections() {
    let engine = Engine::in_container().await;
    let load = mixed(400);
    let mut workers = busy(&engine, &load).await;
    for chunk in load[load.len() / 2..].chunks(20) {
        for _ in 0..3 {
            engine.ask::<usize>(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await;
            sleep(Duration::from_millis(100)).await;
        }
        engine.push(chunk).await;
    }
    assert_recovered(&engine, &load, &mut workers).await;
}

#[tokio::test]
async fn wake_ups_work_again_after_redis_closed_the_subscription() {
    let engine = Engine::in_container().await;
    let mut worker = engine.worker(1).await;
    let mut jobs = Vec::new();
    for _ in 0..5 {
        engine.ask::<usize>(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
        let wake = format!("{QUEUE}:wake");
        until("the worker listens again", async || {
            let (_, listeners): (String, usize) = engine.ask(&["PUBSUB", "NUMSUB", &wake]).await;
            (listeners == 1).then_some(())
        })
        .await;
        assert!(engine.is_woken(&mut jobs).await, "a wake-up was lost");
    }
    engine.assert_settled(&jobs).await;
    worker.assert_runs();
}

#[tokio::test]
async fn wake_ups_work_again_after_their_connection_became_silent() {
    let engine = Engine::new().await;
    let proxy = Proxy::start(&engine.redis.url(), Duration::ZERO).await;
    let settings = Settings { redis_url: proxy.url(), ..engine.settings(1) };
    let mut worker = engine.start(&settings).await;
    let mut jobs = Vec::new();
    until("the worker is woken", async || engine.is_woken(&mut jobs).await.then_some(())).await;
    proxy.silence();
    until("the worker is woken again", async || engine.is_woken(&mut jobs).await.then_some(())).await;
    engine.assert_settled(&jobs).await;
    engine.assert_each_step_ran_once(&jobs);
    worker.assert_runs();
}
