//! The clock of Redis is set while orders are tracked. No order waits longer than planned, and times written
//! by a wrong clock are corrected with the clock. Needs libfaketime, as `clocks`.

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

/// Waits until each of these orders has been checked this many times.
async fn checked(bed: &Bed, orders: &[String], times: usize) {
    until(&format!("each order is checked {times} times"), async || {
        orders.iter().all(|order| bed.simulator.calls(order).len() >= times).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_clock_that_is_an_hour_ahead_for_a_while_delays_no_order_by_an_hour() {
    let Some(bed) = bed().await else { return };
    let polled: Vec<String> =
        (0..12).map(|_| bed.order(Script::fulfilled_after(Duration::from_secs(15)))).collect();
    let notified: Vec<String> = (0..4).map(|_| bed.order(Script::fulfilled_after(Duration::ZERO))).collect();
    let _workers = [bed.worker().await, bed.worker().await];
    bed.enqueue(&polled).await;
    checked(&bed, &polled, 1).await;

    bed.redis.set_clock(HOUR_SECONDS);
    // The wrong clock schedules polls, a delayed first check, and retries of failed deliveries.
    let polls = bed.simulator.calls(&polled[0]).len();
    let delayed = bed.order(Script::fulfilled_after(Duration::ZERO));
    let data = format!(r#"{{"topupId":"{delayed}"}}"#);
    bed.message(&[(b"name", b"poll-topup"), (b"data", data.as_bytes()), (b"opts", br#"{"delay":4000}"#)])
        .await;
    bed.sink.answer_first([503; 4]);
    bed.enqueue(&notified).await;
    checked(&bed, &polled, polls + 1).await;
    until("four attempts have failed", async || (bed.sink.received().len() >= 4).then_some(())).await;
    bed.redis.set_clock(0);

    bed.stored(&polled, OrderStatus::Fulfilled).await;
    for order in polled.iter().chain(&notified).chain([&delayed]) {
        bed.delivered(order, "fulfilled").await;
    }
    bed.idle().await;
}

#[tokio::test]
async fn a_clock_that_is_set_back_an_hour_delays_no_order_by_an_hour() {
    let Some(bed) = bed().await else { return };
    let orders: Vec<String> =
        (0..12).map(|_| bed.order(Script::fulfilled_after(Duration::from_secs(15)))).collect();
    let workers = [bed.worker().await, bed.worker().await];
    bed.enqueue(&orders).await;
    checked(&bed, &orders, 2).await;
    bed.redis.set_clock(-HOUR_SECONDS);
    for order in &orders {
        bed.delivered(order, "fulfilled").await;
    }
    bed.idle().await;
    for worker in &workers {
        assert!(!worker.log().contains("presumed dead"), "{}", worker.log());
    }
}

#[tokio::test]
async fn a_recheck_that_the_queue_schedules_too_late_runs_at_the_time_in_the_store() {
    // A day passes in 24 seconds.
    let bed = Bed::new(3_600.0).await;
    let order = bed.order(Script::queued_after(Duration::ZERO, Duration::from_hours(20)));
    let worker = bed.worker().await;
    bed.enqueue([&order]).await;
    bed.delivered(&order, "scheduled").await;
    let (seconds, _): (u64, u64) = bed.redis(&["TIME"]).await;
    let later = (seconds + 3_600).to_string();
    // Only the store shows that this is too late, because another program may have scheduled the recheck.
    let moved: u64 =
        bed.redis(&["ZADD", "{topup}:recheck-topup:scheduled", "XX", "CH", &later, &order]).await;
    assert_eq!(moved, 1);
    bed.delivered(&order, "fulfilled").await;
    assert!(worker.log().contains("had scheduled them for much later"), "{}", worker.log());
}
