//! After every kind of crash, each order ends as the provider reports it, and no event has two bodies.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::sleep;
use topup_jobs::{OrderStatus, TopupId};
use topup_worker::orders::OrderStore;
use topup_worker::simulator::{Script, SimulatorSettings};

use crate::support::deployment::Deployment;
use crate::support::redis::TestRedis;
use crate::support::{Bed, Proxy, until};

const ORDERS: u64 = 500;
pub(crate) const SCALE: f64 = 30.0;

/// Orders as in the documentation: HANDLING for 3–45 s, then fulfilled, refunded or queued.
pub(crate) fn orders<R: Deployment>(bed: &Bed<R>) -> Vec<String> {
    let script = |n: u64| match n % 10 {
        0 => Script::refunded_after(Duration::from_secs(5 + n % 35)),
        1 => Script::queued_after(Duration::from_secs(5 + n % 25), Duration::from_hours(20)),
        _ => Script::fulfilled_after(Duration::from_secs(3 + n % 42)),
    };
    (0..ORDERS).map(|n| bed.order(script(n))).collect()
}

/// Waits until the orders have settled, and checks the store, the deliveries and the queues.
pub(crate) async fn assert_settled<R: Deployment>(bed: &Bed<R>, orders: &[String]) {
    let store = bed.store().await;
    let mut expected = HashSet::new();
    for (n, id) in orders.iter().enumerate() {
        let (status, outcome) = match n % 10 {
            0 => (OrderStatus::Refunded, "refunded"),
            1 => (OrderStatus::Scheduled, "scheduled"),
            _ => (OrderStatus::Fulfilled, "fulfilled"),
        };
        let stored = bed.stored(std::slice::from_ref(id), status).await.remove(0);
        let event = format!("evt_{id}_{outcome}");
        until(&event, async || bed.sink.received().iter().any(|one| one.id() == event).then_some(())).await;
        expected.insert(event);
        let topup_id: TopupId = id.parse().unwrap();
        until("the store says that the notifications are sent", async || {
            let rows = store.notifications(&topup_id).await.ok()?;
            assert!(
                rows.iter().all(|one| one.outcome.as_str() == outcome || one.outcome.as_str() == "delayed")
            );
            rows.iter().all(|one| one.status.as_str() == "sent").then_some(())
        })
        .await;
        let card = store.card(&topup_id).await.unwrap().map(|card| card.card_code.reveal().to_owned());
        let provider = bed.simulator.card_code(id).filter(|_| status == OrderStatus::Fulfilled);
        assert_eq!(card, provider, "the stored card is the provider's");
        assert_eq!(stored.tracking.fulfilled_at.is_some(), status == OrderStatus::Fulfilled);
    }
    let mut bodies = HashMap::new();
    for received in bed.sink.received() {
        let id = received.id().to_owned();
        let first = bodies.entry(id).or_insert_with(|| received.body.clone());
        assert_eq!(*first, received.body, "{} has two bodies", received.id());
    }
    let delivered: HashSet<String> = bodies.into_keys().filter(|id| !id.ends_with("_delayed")).collect();
    assert_eq!(delivered, expected, "exactly the expected outcomes are delivered");
    // Exactly the scheduled orders are still tracked.
    let tracked: usize = bed.redis(&["ZCARD", "{topup}:recheck-topup:scheduled"]).await;
    assert_eq!(tracked, orders.len() / 10);
    for job in ["poll-topup", "notify-customer"] {
        until("the queue is empty", async || {
            let remaining: usize = bed.redis(&["HLEN", &format!("{{topup}}:{job}:data")]).await;
            (remaining == 0).then_some(())
        })
        .await;
    }
    let dead: usize = bed.redis(&["SCARD", "{topup}:poll-topup:dead"]).await;
    assert_eq!(dead, 0);
}

#[tokio::test]
async fn a_worker_killed_at_any_moment_loses_no_order() {
    // Slow answers and few slots keep the worker busy at each of these moments.
    let settings = SimulatorSettings { latency_ms: 300, ..SimulatorSettings::default() };
    let mut bed = Bed::on(TestRedis::start().await, SCALE, settings).await;
    bed.set("CONCURRENCY", "10");
    let orders = orders(&bed);
    let _steady = bed.worker().await;
    let mut victim = bed.worker().await;
    // Fixed moments, spread over intake, polling and notification.
    let moments_ms = [150, 330, 70, 510, 240];
    let mut interrupted = 0;
    for (pause_ms, batch) in moments_ms.into_iter().zip(orders.chunks(orders.len() / moments_ms.len())) {
        bed.enqueue(batch).await;
        sleep(Duration::from_millis(pause_ms)).await;
        until("the worker holds a job", async || (held(&bed, victim.pid()).await > 0).then_some(())).await;
        victim.kill();
        interrupted += held(&bed, victim.pid()).await;
        victim = bed.worker().await;
    }
    assert!(interrupted > 0, "no kill interrupted a job in flight");
    assert_settled(&bed, &orders).await;
}

/// The number of orders that the worker of this pid is polling.
async fn held(bed: &Bed, pid: u32) -> usize {
    let sets: Vec<String> = bed.redis(&["KEYS", &format!("{{topup}}:poll-topup:inflight:*-{pid}-*")]).await;
    let mut held = 0;
    for set in sets {
        held += bed.redis::<usize>(&["SCARD", &set]).await;
    }
    held
}

#[tokio::test]
async fn a_restart_of_redis_under_load_loses_no_order_and_ends_no_worker() {
    let redis = match TestRedis::container().await {
        Some(redis) => redis,
        None => TestRedis::start().await,
    };
    let mut bed = Bed::on(redis, SCALE, SimulatorSettings::default()).await;
    let orders = orders(&bed);
    let mut workers = [bed.worker().await, bed.worker().await];
    bed.enqueue(&orders).await;
    for pause_ms in [200, 400] {
        sleep(Duration::from_millis(pause_ms)).await;
        bed.redis.kill().await;
        sleep(Duration::from_millis(700)).await;
        bed.redis.start_again().await;
    }
    assert_settled(&bed, &orders).await;
    for worker in &mut workers {
        assert_eq!(worker.ended(), None, "a worker ended: {}", worker.log());
        assert!(worker.log().contains("Redis answers again"), "{}", worker.log());
    }
}

#[tokio::test]
async fn a_frozen_worker_settles_no_job_that_another_worker_took_over() {
    let mut bed = Bed::on(
        TestRedis::start().await,
        SCALE,
        // Slow answers keep jobs in flight at the moment of freezing.
        SimulatorSettings { latency_ms: 400, ..SimulatorSettings::default() },
    )
    .await;
    bed.set("CONCURRENCY", "40");
    let orders = orders(&bed);
    let frozen = bed.worker().await;
    bed.enqueue(&orders).await;
    until("jobs are in flight", async || (bed.simulator.total_calls() > 20).then_some(())).await;
    // A worker frozen during a write would hold SQLite's lock and block every other worker.
    loop {
        frozen.freeze();
        if bed.database_is_free().await {
            break;
        }
        frozen.signal("CONT");
        sleep(Duration::from_millis(3)).await;
    }
    let _other = bed.worker().await;
    until("the frozen worker is presumed dead", async || {
        let workers: Vec<String> = bed.redis(&["ZRANGE", "{topup}:poll-topup:workers", "0", "-1"]).await;
        let frozen_name = format!("-{}-", frozen.pid());
        (!workers.is_empty() && workers.iter().all(|name| !name.contains(&frozen_name))).then_some(())
    })
    .await;
    frozen.signal("CONT");
    until("the worker notices that it was presumed dead", async || {
        frozen.log().contains("continues under a new name").then_some(())
    })
    .await;
    assert_settled(&bed, &orders).await;
}

#[tokio::test]
async fn lost_answers_of_redis_strand_no_job() {
    let mut bed = Bed::new(SCALE).await;
    let orders = orders(&bed);
    let proxy = Proxy::start(&bed.redis.url(), Duration::from_millis(20)).await;
    bed.set("REDIS_URL", proxy.url());
    let mut worker = bed.worker().await;
    bed.enqueue(&orders).await;
    for _ in 0..25 {
        sleep(Duration::from_millis(170)).await;
        proxy.cut();
    }
    assert_settled(&bed, &orders).await;
    assert_eq!(worker.ended(), None);
    assert!(!worker.log().contains("presumed dead"), "{}", worker.log());
}

#[tokio::test]
async fn a_silent_connection_to_redis_is_replaced() {
    let mut bed = Bed::new(SCALE).await;
    let orders = orders(&bed);
    let proxy = Proxy::start(&bed.redis.url(), Duration::ZERO).await;
    bed.set("REDIS_URL", proxy.url());
    let worker = bed.worker().await;
    bed.enqueue(&orders[..250]).await;
    until("orders are polled", async || (bed.simulator.total_calls() > 100).then_some(())).await;
    proxy.silence();
    bed.enqueue(&orders[250..]).await;
    assert_settled(&bed, &orders).await;
    assert!(worker.log().contains("Redis answers again"), "{}", worker.log());
}

#[tokio::test]
async fn an_order_that_redis_lost_is_restored_from_the_store() {
    let bed = Bed::new(SCALE).await;
    let order = bed.order(Script::handling_forever());
    let mut worker = bed.worker().await;
    bed.enqueue([&order]).await;
    bed.stored(std::slice::from_ref(&order), OrderStatus::Handling).await;
    // Redis loses everything but the shared clock of this deployment.
    let anchor: String = bed.redis(&["GET", "{topup}:time-anchor"]).await;
    bed.redis::<()>(&["FLUSHALL"]).await;
    bed.redis::<()>(&["SET", "{topup}:time-anchor", &anchor]).await;
    bed.simulator.set_script(&order, Script::fulfilled_after(Duration::ZERO));
    bed.delivered(&order, "fulfilled").await;
    assert_eq!(worker.ended(), None);
    assert!(worker.log().contains("put back jobs that no queue held"), "{}", worker.log());
}
