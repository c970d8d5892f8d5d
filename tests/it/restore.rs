//! What is put back after Redis has lost its data: as much as the provider answers for in minutes, and new orders first.

use std::collections::BTreeSet;

use chrono::TimeDelta;
use topup_jobs::{JobName, OrderStatus, Timestamp, TopupId, TrackTopup, Tracking};
use topup_worker::clock::real_now;
use topup_worker::orders::{Applied, Change, OrderStore};
use topup_worker::simulator::{Script, SimulatorSettings};

use crate::support::redis::TestRedis;
use crate::support::{Bed, until};

/// An order in the store that was to be looked at then, and that no queue holds.
pub(crate) async fn lost(
    store: &impl OrderStore,
    topup_id: &str,
    status: OrderStatus,
    next_check_at: Timestamp,
) {
    let topup_id: TopupId = topup_id.parse().unwrap();
    let order = store.track(&TrackTopup::new(topup_id), next_check_at).await.unwrap();
    let scheduled_at = (status == OrderStatus::Scheduled).then_some(next_check_at);
    let next_check_at = Some(next_check_at + TimeDelta::milliseconds(1));
    let record = Tracking { status, scheduled_at, next_check_at, ..order.tracking.clone() };
    let change = Change {
        job: JobName::PollTopup,
        at: order.tracking.tracked_at,
        order: &order,
        record: &record,
        seen: None,
        given_up: None,
        event: None,
    };
    assert_eq!(store.apply(change).await.unwrap(), Applied::Stored);
}

#[tokio::test]
async fn no_more_is_put_back_than_is_answered_for_in_minutes_and_the_oldest_first() {
    const LOST: usize = 700;
    let mut bed = Bed::on(TestRedis::start().await, 1.0, SimulatorSettings::default()).await;
    bed.set("ONECLICKDZ_RATE_LIMIT", "120");
    bed.set("ONECLICKDZ_MAX_IN_FLIGHT", "2");
    let store = bed.store().await;
    let hour_ago = real_now() - TimeDelta::hours(1);
    let rechecks: Vec<String> = (0..LOST).map(|_| bed.order(Script::queued_forever())).collect();
    for (n, id) in (0..).zip(&rechecks) {
        lost(&store, id, OrderStatus::Scheduled, hour_ago + TimeDelta::seconds(n)).await;
    }
    // A customer waits for this one: it is polled, and younger than all others.
    let polled = bed.order(Script::fulfilled_after(std::time::Duration::ZERO));
    lost(&store, &polled, OrderStatus::Handling, real_now() - TimeDelta::minutes(1)).await;
    let _worker = bed.worker().await;
    let held = until("orders are put back", async || {
        let held: BTreeSet<String> = bed.redis(&["HKEYS", "{topup}:recheck-topup:data"]).await;
        (!held.is_empty()).then_some(held)
    })
    .await;
    assert_eq!(held, rechecks[..240].iter().cloned().collect(), "those of two minutes, the oldest");
    bed.told(&polled, "fulfilled").await;
    let held: usize = bed.redis(&["HLEN", "{topup}:recheck-topup:data"]).await;
    assert!(held < LOST, "{held} are in the queue");
}

#[tokio::test]
async fn a_row_that_cannot_be_read_keeps_no_other_order_from_being_put_back() {
    let bed = Bed::new(60.0).await;
    let store = bed.store().await;
    let hour_ago = real_now() - TimeDelta::hours(1);
    let [garbled, good] = [0, 1].map(|_| bed.order(Script::fulfilled_after(std::time::Duration::ZERO)));
    lost(&store, &garbled, OrderStatus::Delayed, hour_ago).await;
    lost(&store, &good, OrderStatus::Delayed, hour_ago).await;
    bed.database("UPDATE internet_orders SET status = 'HALF-DONE' WHERE topup_id = ?", &garbled).await;
    let worker = bed.worker().await;
    bed.told(&good, "fulfilled").await;
    let warned = format!("order.id=\"{garbled}\"");
    assert!(worker.log().contains(&warned), "{}", worker.log());
}
