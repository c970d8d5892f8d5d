//! A Redis that stops, refuses, or hangs up, while jobs are in flight: no worker ends, no job is lost, and none
//! runs twice. Where no worker dies, each step of a job runs exactly once.

use std::time::Duration;

use tokio::time::sleep;

use crate::support::engine::{Act, Engine, EngineWorker, Part, QUEUE, Settings, connect, mixed};
use crate::support::redis::{TestRedis, free_port};
use crate::support::{Proxy, until};

/// Longer than the lease.
const BEYOND_THE_LEASE: Duration = Duration::from_secs(8);
const SLOTS: usize = 20;

/// A load of which some jobs are in flight for longer than the fault lasts.
fn load() -> Vec<Part> {
    let long = (1_000..1_010).map(|n| Part::new(n, [Act::Finish.taking(2 * BEYOND_THE_LEASE)]));
    long.chain(mixed(400)).collect()
}

/// Two workers in the middle of the first half of the load.
async fn busy(engine: &Engine, load: &[Part]) -> [EngineWorker; 2] {
    let workers = [engine.worker(SLOTS).await, engine.worker(SLOTS).await];
    engine.push(&load[..load.len() / 2]).await;
    engine.begun(60, |_| true).await;
    workers
}

/// Everything has come to its end, each step was run once, and the workers live.
async fn came_through(engine: &Engine, load: &[Part], workers: &mut [EngineWorker]) {
    engine.account(load).await;
    engine.assert_each_step_ran_once(load);
    workers.iter_mut().for_each(EngineWorker::assert_runs);
}

#[tokio::test]
async fn a_redis_that_stops_for_longer_than_the_lease() {
    let mut engine = Engine::in_container().await;
    let load = load();
    let mut workers = busy(&engine, &load).await;
    // Once shorter than any command waits for its answer, so that all that was asked meanwhile is done at once.
    for pause in [Duration::from_millis(4_500), BEYOND_THE_LEASE] {
        engine.redis.pause().await;
        sleep(pause).await;
        engine.redis.resume().await;
    }
    engine.push(&load[load.len() / 2..]).await;
    came_through(&engine, &load, &mut workers).await;
}

#[tokio::test]
async fn a_redis_that_is_killed_and_comes_back_after_the_lease() {
    let mut engine = Engine::in_container().await;
    let load = load();
    let mut workers = busy(&engine, &load).await;
    engine.redis.kill().await;
    sleep(BEYOND_THE_LEASE).await;
    engine.redis.start_again().await;
    engine.push(&load[load.len() / 2..]).await;
    came_through(&engine, &load, &mut workers).await;
}

#[tokio::test]
async fn a_dead_worker_whose_redis_had_a_clock_that_was_ahead_is_not_waited_for() {
    let engine = Engine::new().await;
    let held: Vec<Part> = (0..5).map(|n| Part::new(n, [Act::Finish.at_once()])).collect();
    let an_hour_ahead = (engine.now().await + 3_600.0).to_string();
    engine.ask::<usize>(&["ZADD", &format!("{QUEUE}:workers"), &an_hour_ahead, "dead"]).await;
    for part in &held {
        let payload = String::from_utf8(part.payload()).expect("text");
        engine.ask::<usize>(&["HSET", &format!("{QUEUE}:data"), &part.id, &payload]).await;
        engine.ask::<usize>(&["SADD", &format!("{QUEUE}:inflight:dead"), &part.id]).await;
    }
    let mut worker = engine.worker(2).await;
    engine.account(&held).await;
    worker.assert_runs();
}

#[tokio::test]
async fn who_is_back_first_does_not_take_the_others_for_dead() {
    let mut engine = Engine::new().await;
    let proxy = Proxy::start(&engine.redis.url(), Duration::ZERO).await;
    let held: Vec<Part> = (0..10).map(|n| Part::new(n, [Act::Finish.behind("end")])).collect();
    let settings = Settings { redis_url: proxy.url(), ..engine.settings(held.len()) };
    let mut late = engine.start(&settings).await;
    engine.push(&held).await;
    engine.begun(held.len(), |run| run.owner == late.pid()).await;
    let mut early = engine.worker(held.len()).await;

    // Redis was away for longer than the lease, and the one cannot reach it for a while more.
    let nowhere = format!("redis://127.0.0.1:{}", free_port());
    proxy.lead_to(&nowhere);
    proxy.cut();
    let before = engine.now().await;
    engine.redis.kill().await;
    early.logs("Redis does not answer").await;
    sleep(BEYOND_THE_LEASE).await;
    engine.redis.start_again().await;
    let reports = async || -> Vec<(String, f64)> {
        engine.ask(&["ZRANGE", &format!("{QUEUE}:workers"), "0", "-1", "WITHSCORES"]).await
    };
    until("it has seen that the other's lease has run out", async || {
        reports().await.iter().any(|(_, at)| *at > before).then_some(())
    })
    .await;
    proxy.lead_to(&engine.redis.url());
    late.logs("Redis answers again").await;
    engine.open("end");
    engine.account(&held).await;
    engine.assert_each_step_ran_once(&held);
    assert!(!late.log().contains("under a new name"), "{}", late.log());
    for worker in [&mut early, &mut late] {
        worker.assert_runs();
        assert!(!worker.log().contains("took over"), "{}", worker.log());
    }
}

#[tokio::test]
async fn a_redis_that_was_made_a_replica_and_is_made_the_master_again() {
    let engine = Engine::new().await;
    let load = load();
    let other = TestRedis::start().await;
    let (here, there) = (engine.redis.url(), other.url());
    for url in [&here, &there] {
        tell(url, &["CONFIG", "SET", "repl-diskless-sync-delay", "0"]).await;
    }
    tell(&there, &["REPLICAOF", "127.0.0.1", port(&here)]).await;
    until("the other is in step", async || {
        tell(&here, &["INFO", "replication"]).await.contains("state=online").then_some(())
    })
    .await;
    let mut workers = busy(&engine, &load).await;
    fail_over(&here, &there).await;

    let refused = engine.try_push(&load[load.len() / 2..]).await.expect_err("a replica takes nothing");
    assert!(format!("{refused:?}").contains("ReadOnly"), "the producer is told: {refused:?}");
    for worker in &workers {
        worker.logs("Redis does not answer").await;
    }
    sleep(BEYOND_THE_LEASE).await;

    fail_over(&there, &here).await;
    engine.push(&load[load.len() / 2..]).await;
    came_through(&engine, &load, &mut workers).await;
    for worker in &workers {
        assert!(worker.log().contains("Redis answers again"), "{}", worker.log());
    }
}

/// Hands the part of the master over without losing a write.
async fn fail_over(from: &str, to: &str) {
    tell(from, &["FAILOVER", "TO", "127.0.0.1", port(to)]).await;
    // For a moment both are replicas.
    for (server, role) in [(from, "role:slave"), (to, "role:master")] {
        until(role, async || tell(server, &["INFO", "replication"]).await.contains(role).then_some(())).await;
    }
}

fn port(url: &str) -> &str {
    url.rsplit_once(':').expect("it has a port").1
}

async fn tell(url: &str, command: &[&str]) -> String {
    let mut connection = connect(url).await.expect("Redis is there");
    let mut call = redis::cmd(command[0]);
    call.arg(&command[1..]);
    call.query_async(&mut connection).await.expect("Redis answers")
}

#[tokio::test]
async fn a_redis_that_is_full() {
    let engine = Engine::in_container().await;
    let load = load();
    let mut workers = busy(&engine, &load).await;
    engine.ask::<()>(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let refused = engine.try_push(&load[load.len() / 2..]).await.expect_err("it is full");
    assert!(format!("{refused:?}").contains("OOM"), "the producer is told: {refused:?}");
    sleep(BEYOND_THE_LEASE).await;
    workers.iter_mut().for_each(EngineWorker::assert_runs);
    engine.ask::<()>(&["CONFIG", "SET", "maxmemory", "0"]).await;
    engine.push(&load[load.len() / 2..]).await;
    came_through(&engine, &load, &mut workers).await;
}

#[tokio::test]
async fn a_redis_that_hangs_up_on_everybody_again_and_again() {
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
    came_through(&engine, &load, &mut workers).await;
}

#[tokio::test]
async fn wake_ups_come_again_after_redis_hung_up_on_who_listens() {
    let engine = Engine::in_container().await;
    let mut worker = engine.worker(1).await;
    let mut parts = Vec::new();
    for _ in 0..5 {
        engine.ask::<usize>(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
        let wake = format!("{QUEUE}:wake");
        until("it listens again", async || {
            let (_, listeners): (String, usize) = engine.ask(&["PUBSUB", "NUMSUB", &wake]).await;
            (listeners == 1).then_some(())
        })
        .await;
        assert!(engine.is_woken(&mut parts).await, "a word was not heard");
    }
    engine.account(&parts).await;
    worker.assert_runs();
}

#[tokio::test]
async fn wake_ups_come_again_after_the_connection_went_silent_on_which_they_come() {
    let engine = Engine::new().await;
    let proxy = Proxy::start(&engine.redis.url(), Duration::ZERO).await;
    let settings = Settings { redis_url: proxy.url(), ..engine.settings(1) };
    let mut worker = engine.start(&settings).await;
    let mut parts = Vec::new();
    until("it is woken", async || engine.is_woken(&mut parts).await.then_some(())).await;
    proxy.silence();
    until("it is woken again", async || engine.is_woken(&mut parts).await.then_some(())).await;
    engine.account(&parts).await;
    engine.assert_each_step_ran_once(&parts);
    worker.assert_runs();
}
