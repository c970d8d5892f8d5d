//! The same faults with the real program: a job that kills its process, a Redis that is away for a minute or
//! refuses writes, and a Redis in cluster mode.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use tokio::time::sleep;
use topup_jobs::OrderStatus;
use topup_worker::simulator::{Script, SimulatorSettings};

use crate::crash::{SCALE, assert_settled, orders};
use crate::shutdown::get;
use crate::support::redis::{TestRedis, free_port};
use crate::support::{Bed, until};

#[tokio::test]
async fn an_order_whose_process_dies_three_times_is_dead_lettered_and_the_others_are_fulfilled() {
    // Slow answers keep a job in flight until its process is killed.
    let settings = SimulatorSettings { latency_ms: 3_000, ..SimulatorSettings::default() };
    let mut bed = Bed::on(TestRedis::start().await, 1.0, settings).await;
    bed.set("CONCURRENCY", "10");
    let poison = bed.order(Script::fulfilled_after(Duration::ZERO));
    let others: Vec<String> = (0..12).map(|_| bed.order(Script::fulfilled_after(Duration::ZERO))).collect();
    let mut victim = bed.worker().await;
    bed.enqueue([&poison]).await;
    checked(&bed, &poison, 1).await;
    let mut survivor = bed.worker().await;
    victim.kill();
    bed.enqueue(&others).await;
    // The death of the worker does not count as one of the three.
    for crashes in 1..=3 {
        checked(&bed, &poison, crashes + 1).await;
        let children = run_job_children(survivor.pid());
        assert_eq!(children.len(), 1, "only the suspect runs in a process of its own: {children:?}");
        let killed = Command::new("kill").args(["-s", "KILL", &children[0]]).status().expect("`kill` exists");
        assert!(killed.success());
    }
    let dead = until("the order is a dead letter", async || {
        let dead: Vec<String> = bed.redis(&["SMEMBERS", "{topup}:poll-topup:dead"]).await;
        (!dead.is_empty()).then_some(dead)
    })
    .await;
    assert_eq!(dead, std::slice::from_ref(&poison));
    let reason: String = bed.redis(&["HGET", &format!("{{topup}}:poll-topup:meta:{poison}"), "reason"]).await;
    assert_eq!(reason, "poison: the process that ran it died 3 times");
    bed.stored(&others, OrderStatus::Fulfilled).await;
    bed.idle().await;
    assert_eq!(bed.simulator.calls(&poison).len(), 4, "the dead letter is not checked again");
    bed.delivered(&poison, "unresolved").await;
    let shown = bed.shown(&poison);
    assert!(shown.contains("poison: the process that ran it died 3 times"), "{shown}");
    assert_eq!(survivor.ended(), None, "{}", survivor.log());
}

/// Waits until an order has been requested this many times, so that its job is in flight.
async fn checked(bed: &Bed, order: &String, times: usize) {
    let what = format!("{order} is checked, time {times}");
    until(&what, async || (bed.simulator.calls(order).len() >= times).then_some(())).await;
}

/// The pids of the processes in which a worker runs suspects.
fn run_job_children(worker: u32) -> Vec<String> {
    let output = Command::new("ps").args(["-A", "-o", "pid=,ppid=,args="]).output().expect("`ps` exists");
    let processes = String::from_utf8_lossy(&output.stdout).into_owned();
    let child = |line: &str| {
        let mut words = line.split_whitespace();
        let (pid, parent) = (words.next()?, words.next()?);
        (parent == worker.to_string() && words.any(|word| word == "run-job")).then(|| pid.to_owned())
    };
    processes.lines().filter_map(child).collect()
}

#[tokio::test]
async fn a_minute_without_redis_ends_no_worker_and_loses_nothing() {
    let mut bed = Bed::new(SCALE).await;
    let orders = orders(&bed);
    let first = bed.worker().await;
    let address = format!("127.0.0.1:{}", free_port());
    bed.set("HTTP_ADDR", &address);
    let second = bed.worker().await;
    let is = async |word: &str| until(word, async || get(&address).await.contains(word).then_some(())).await;
    is("\r\n\r\nready").await;
    bed.enqueue(&orders).await;
    until("orders are polled", async || (bed.simulator.total_calls() > 100).then_some(())).await;
    bed.redis.kill().await;
    let away = sleep(Duration::from_mins(1));
    is("not ready: Redis does not answer").await;
    away.await;
    is("not ready: Redis does not answer").await;
    bed.redis.start_again().await;
    is("\r\n\r\nready").await;
    assert_settled(&bed, &orders).await;
    for mut worker in [first, second] {
        assert_eq!(worker.ended(), None, "a worker ended: {}", worker.log());
        assert!(worker.log().contains("Redis answers again"), "{}", worker.log());
    }
}

#[tokio::test]
async fn a_stopping_worker_keeps_the_leases_of_its_running_jobs() {
    let settings = SimulatorSettings { latency_ms: 12_000, ..SimulatorSettings::default() };
    let bed = Bed::on(TestRedis::start().await, 1.0, settings).await;
    let order = bed.order(Script::fulfilled_after(Duration::ZERO));
    let mut stopping = bed.worker().await;
    bed.enqueue([&order]).await;
    checked(&bed, &order, 1).await;
    let other = bed.worker().await;
    // Its other queues are idle, and the worker leaves them at once.
    assert!(stopping.stop().await.success());
    assert!(stopping.log().contains("stopped=Drained"), "{}", stopping.log());
    bed.delivered(&order, "fulfilled").await;
    bed.idle().await;
    assert_eq!(bed.simulator.calls(&order).len(), 1, "{}", other.log());
    assert_eq!(bed.sink.received().len(), 1);
    assert!(!other.log().contains("took over"), "{}", other.log());
}

#[tokio::test]
async fn no_job_is_claimed_while_a_full_redis_would_refuse_its_settlement() {
    let settings = SimulatorSettings { latency_ms: 50, ..SimulatorSettings::default() };
    let mut bed = Bed::on(TestRedis::start().await, SCALE, settings).await;
    bed.set("CONCURRENCY", "4");
    let address = format!("127.0.0.1:{}", free_port());
    bed.set("HTTP_ADDR", &address);
    let orders: Vec<String> =
        (0..1_000).map(|_| bed.order(Script::fulfilled_after(Duration::ZERO))).collect();
    let mut worker = bed.worker().await;
    bed.enqueue(&orders).await;
    let due = async || -> usize { bed.redis(&["LLEN", "{topup}:poll-topup:active"]).await };
    until("many orders are due", async || (due().await > 500).then_some(())).await;
    bed.redis::<()>(&["CONFIG", "SET", "maxmemory", "1"]).await;
    until("the worker is not ready", async || get(&address).await.contains("refuses").then_some(())).await;
    let due_then = due().await;
    sleep(Duration::from_secs(3)).await;
    assert_eq!(due().await, due_then, "{}", worker.log());
    bed.redis::<()>(&["CONFIG", "SET", "maxmemory", "0"]).await;
    bed.stored(&orders, OrderStatus::Fulfilled).await;
    assert_eq!(worker.ended(), None, "{}", worker.log());
}

#[tokio::test]
async fn an_idle_worker_sends_redis_at_most_five_commands_a_second() {
    let bed = Bed::new(1.0).await;
    let _worker = bed.worker().await;
    let order = bed.order(Script::fulfilled_after(Duration::ZERO));
    bed.enqueue([&order]).await;
    bed.delivered(&order, "fulfilled").await;
    bed.idle().await;
    // The order is counted as final a moment after its job.
    let counted = async || bed.redis::<bool>(&["EXISTS", "{topup}:budget:completions"]).await.then_some(());
    until("the order is counted", counted).await;
    let mut connection = bed.connection().await;
    let mut processed = async || -> u64 {
        let stats: redis::InfoDict =
            redis::cmd("INFO").arg("stats").query_async(&mut connection).await.unwrap();
        stats.get("total_commands_processed").unwrap()
    };
    let before = processed().await;
    sleep(Duration::from_secs(30)).await;
    let commands = processed().await - before;
    // Five commands a second, and one second of tolerance.
    assert!(commands <= 5 * 31, "{commands} commands in half a minute, including those in scripts");
}

#[tokio::test]
async fn a_redis_that_refuses_writes_is_reported_and_no_order_is_lost() {
    let mut bed = Bed::new(SCALE).await;
    let address = format!("127.0.0.1:{}", free_port());
    bed.set("HTTP_ADDR", &address);
    let mut worker = bed.worker().await;
    let is = async |word: &str| until(word, async || get(&address).await.contains(word).then_some(())).await;
    let orders = orders(&bed);
    bed.enqueue(&orders).await;
    until("orders are polled", async || (bed.simulator.total_calls() > 100).then_some(())).await;
    for (setting, to, back, words) in [
        ("maxmemory", "1", "0", "Redis is full (OOM): raise its maxmemory"),
        ("min-replicas-to-write", "1", "0", "Redis has fewer replicas in step"),
    ] {
        bed.redis::<()>(&["CONFIG", "SET", setting, to]).await;
        is("not ready: Redis refuses commands").await;
        assert!(worker.log().contains(words), "{}", worker.log());
        bed.redis::<()>(&["CONFIG", "SET", setting, back]).await;
        is("\r\n\r\nready").await;
    }
    assert_settled(&bed, &orders).await;
    assert_eq!(worker.ended(), None, "the worker ended: {}", worker.log());
}

#[tokio::test]
async fn everything_works_on_a_redis_in_cluster_mode_and_stays_in_one_slot() {
    let redis = TestRedis::start_with(|_| ["--cluster-enabled", "yes"].map(str::to_owned).to_vec()).await;
    let bed = Bed::on(redis, 600.0, SimulatorSettings::default()).await;
    let slots: Vec<String> = (0..16_384).map(|slot: u32| slot.to_string()).collect();
    let mut take_all = vec!["CLUSTER", "ADDSLOTS"];
    take_all.extend(slots.iter().map(String::as_str));
    bed.redis::<()>(&take_all).await;
    until("the cluster is up", async || {
        let state: String = bed.redis(&["CLUSTER", "INFO"]).await;
        state.contains("cluster_state:ok").then_some(())
    })
    .await;
    let worker = bed.worker().await;
    let fulfilled = bed.order(Script::fulfilled_after(Duration::from_secs(10)));
    let tracked = bed.order(Script::queued_after(Duration::from_secs(5), Duration::from_hours(1_000)));
    let unknown = "aaaaaaaaaaaaaaaaaaaaaaaa".to_owned();
    bed.enqueue([&fulfilled, &tracked, &unknown]).await;
    bed.message(&[(b"name", b"no such job")]).await;
    for (order, outcome) in [(&fulfilled, "fulfilled"), (&tracked, "scheduled"), (&unknown, "unresolved")] {
        bed.delivered(order, outcome).await;
    }
    // The keys of streams, queues, dead letters, workers, the breaker and the clock.
    let keys: Vec<String> = bed.redis(&["KEYS", "*"]).await;
    assert!(keys.len() >= 8, "{keys:?}");
    let mut used = BTreeSet::new();
    for key in &keys {
        used.insert(bed.redis::<u32>(&["CLUSTER", "KEYSLOT", key]).await);
    }
    assert_eq!(used.len(), 1, "{keys:?} are in the slots {used:?}");
    assert!(!worker.log().contains("refuses"), "{}", worker.log());
}

#[tokio::test]
async fn an_order_that_is_handed_over_again_is_one_job() {
    let settings = SimulatorSettings { latency_ms: 2_000, ..SimulatorSettings::default() };
    let bed = Bed::on(TestRedis::start().await, 1.0, settings).await;
    let order = bed.order(Script::fulfilled_after(Duration::ZERO));
    let _worker = bed.worker().await;
    bed.enqueue([&order, &order]).await;
    checked(&bed, &order, 1).await;
    bed.enqueue([&order, &order]).await;
    bed.stored(std::slice::from_ref(&order), OrderStatus::Fulfilled).await;
    bed.idle().await;
    assert_eq!(bed.simulator.calls(&order).len(), 1);
    assert_eq!(bed.sink.received().len(), 1);
}
