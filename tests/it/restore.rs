//! After Redis lost its data, no more orders are restored than can be checked in minutes, new ones first.

use std::collections::BTreeSet;

use chrono::TimeDelta;
use topup_jobs::{JobName, OrderStatus, Timestamp, TopupId, TrackTopup, Tracking};
use topup_worker::clock::real_now;
use topup_worker::orders::{Applied, Change, OrderStore};
use topup_worker::simulator::{Script, SimulatorSettings};

use crate::support::redis::TestRedis;
use crate::support::{Bed, until};

/// Stores an order whose next check was due at this time, and that no queue holds.
pub(crate) async fn track_lost_order(
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
    assert_eq!(store.apply(change).await.unwrap().0, Applied::Stored);
}

#[tokio::test]
async fn no_more_orders_are_restored_than_can_be_checked_in_minutes_oldest_first() {
    const LOST: usize = 700;
    let mut bed = Bed::on(TestRedis::start().await, 1.0, SimulatorSettings::default()).await;
    bed.set("ONECLICKDZ_RATE_LIMIT", "120");
    bed.set("ONECLICKDZ_MAX_IN_FLIGHT", "2");
    let store = bed.store().await;
    let hour_ago = real_now() - TimeDelta::hours(1);
    let rechecks: Vec<String> = (0..LOST).map(|_| bed.order(Script::queued_forever())).collect();
    for (n, id) in (0..).zip(&rechecks) {
        track_lost_order(&store, id, OrderStatus::Scheduled, hour_ago + TimeDelta::seconds(n)).await;
    }
    // This order is still polled and newer than all others.
    let polled = bed.order(Script::fulfilled_after(std::time::Duration::ZERO));
    track_lost_order(&store, &polled, OrderStatus::Handling, real_now() - TimeDelta::minutes(1)).await;
    let _worker = bed.worker().await;
    let restored = until("orders are restored", async || {
        let restored: BTreeSet<String> = bed.redis(&["HKEYS", "{topup}:recheck-topup:data"]).await;
        (!restored.is_empty()).then_some(restored)
    })
    .await;
    assert_eq!(restored, rechecks[..240].iter().cloned().collect(), "two minutes' worth, the oldest");
    bed.delivered(&polled, "fulfilled").await;
    let restored: usize = bed.redis(&["HLEN", "{topup}:recheck-topup:data"]).await;
    assert!(restored < LOST, "{restored} rechecks are in the queue");
}

#[tokio::test]
async fn an_unreadable_row_keeps_no_other_order_from_being_restored() {
    let bed = Bed::new(60.0).await;
    let store = bed.store().await;
    let hour_ago = real_now() - TimeDelta::hours(1);
    let [garbled, good] = [0, 1].map(|_| bed.order(Script::fulfilled_after(std::time::Duration::ZERO)));
    track_lost_order(&store, &garbled, OrderStatus::Delayed, hour_ago).await;
    track_lost_order(&store, &good, OrderStatus::Delayed, hour_ago).await;
    bed.database("UPDATE internet_orders SET status = 'HALF-DONE' WHERE topup_id = ?", &garbled).await;
    let worker = bed.worker().await;
    bed.delivered(&good, "fulfilled").await;
    let warned = format!("order.id=\"{garbled}\"");
    assert!(worker.log().contains(&warned), "{}", worker.log());
}
