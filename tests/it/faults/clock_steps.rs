//! The clock of Redis is set while orders are tracked: none waits for longer than it was meant to, and nothing that is
//! written by a wrong clock outlives its correction. Needs libfaketime, as `clocks`.

use std::time::Duration;

use topup_jobs::OrderStatus;
use topup_worker::simulator::{Script, SimulatorSettings};

use crate::support::faketime::libfaketime;
use crate::support::redis::TestRedis;
use crate::support::{Bed, until};

const HOUR_SECONDS: i64 = 3_600;

async fn bed() -> Option<Bed> {
    let library = libfaketime("a clock of Redis that is set")?;
    let redis = TestRedis::start_with_clock(&library).await;
    Some(Bed::on(redis, 1.0, SimulatorSettings::default()).await)
}

/// Waits until the provider has been asked this often for each of these orders.
async fn asked(bed: &Bed, orders: &[String], times: usize) {
    until(&format!("each order is asked for {times} times"), async || {
        orders.iter().all(|order| bed.simulator.calls(order).len() >= times).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_clock_that_is_an_hour_ahead_for_a_while_keeps_no_order_waiting_for_an_hour() {
    let Some(bed) = bed().await else { return };
    let polled: Vec<String> =
        (0..12).map(|_| bed.order(Script::fulfilled_after(Duration::from_secs(15)))).collect();
    let told: Vec<String> = (0..4).map(|_| bed.order(Script::fulfilled_after(Duration::ZERO))).collect();
    let _workers = [bed.worker().await, bed.worker().await];
    bed.enqueue(&polled).await;
    asked(&bed, &polled, 1).await;

    bed.redis.set_clock(HOUR_SECONDS);
    // Each of them is scheduled by the wrong clock: polls, a first look that is to wait, and attempts that failed.
    let polls = bed.simulator.calls(&polled[0]).len();
    let delayed = bed.order(Script::fulfilled_after(Duration::ZERO));
    let data = format!(r#"{{"topupId":"{delayed}"}}"#);
    bed.message(&[(b"name", b"poll-topup"), (b"data", data.as_bytes()), (b"opts", br#"{"delay":4000}"#)])
        .await;
    bed.sink.answer_first([503; 4]);
    bed.enqueue(&told).await;
    asked(&bed, &polled, polls + 1).await;
    until("four attempts have failed", async || (bed.sink.received().len() >= 4).then_some(())).await;
    bed.redis.set_clock(0);

    bed.stored(&polled, OrderStatus::Fulfilled).await;
    for order in polled.iter().chain(&told).chain([&delayed]) {
        bed.told(order, "fulfilled").await;
    }
    bed.idle().await;
}

#[tokio::test]
async fn a_clock_that_is_set_back_an_hour_keeps_no_order_waiting_for_an_hour() {
    let Some(bed) = bed().await else { return };
    let orders: Vec<String> =
        (0..12).map(|_| bed.order(Script::fulfilled_after(Duration::from_secs(15)))).collect();
    let workers = [bed.worker().await, bed.worker().await];
    bed.enqueue(&orders).await;
    asked(&bed, &orders, 2).await;
    bed.redis.set_clock(-HOUR_SECONDS);
    for order in &orders {
        bed.told(order, "fulfilled").await;
    }
    bed.idle().await;
    for worker in &workers {
        assert!(!worker.log().contains("taken for dead"), "{}", worker.log());
    }
}

#[tokio::test]
async fn a_recheck_that_the_queue_holds_for_later_than_the_store_says_is_made_when_the_store_says() {
    // A day passes in 24 seconds.
    let bed = Bed::new(3_600.0).await;
    let order = bed.order(Script::queued_after(Duration::ZERO, Duration::from_hours(20)));
    let worker = bed.worker().await;
    bed.enqueue([&order]).await;
    bed.told(&order, "scheduled").await;
    let (seconds, _): (u64, u64) = bed.redis(&["TIME"]).await;
    let later = (seconds + 3_600).to_string();
    // Nothing but the store says that this is too late: another program may have scheduled it.
    let moved: u64 =
        bed.redis(&["ZADD", "{topup}:recheck-topup:scheduled", "XX", "CH", &later, &order]).await;
    assert_eq!(moved, 1);
    bed.told(&order, "fulfilled").await;
    assert!(worker.log().contains("late by the store"), "{}", worker.log());
}
