//! With `RETENTION_DAYS`, workers delete orders that ended longer ago, and nothing else.

use std::time::Duration;

use topup_jobs::TopupId;
use topup_worker::orders::OrderStore;
use topup_worker::simulator::Script;

use crate::support::{Bed, until};

/// About a hundred hours pass in a second.
const SCALE: f64 = 400_000.0;

#[tokio::test]
async fn a_final_order_is_deleted_and_a_tracked_one_is_kept() {
    let mut bed = Bed::new(SCALE).await;
    let ended = bed.order(Script::fulfilled_after(Duration::ZERO));
    let tracked = bed.order(Script::queued_after(Duration::ZERO, Duration::from_hours(24 * 365)));
    let mut without_retention = bed.worker().await;
    bed.enqueue([&ended, &tracked]).await;
    bed.delivered(&ended, "fulfilled").await;
    bed.delivered(&tracked, "scheduled").await;
    // Afterwards every notification is delivered and stored, and the queued order is dead-lettered.
    bed.idle().await;
    assert!(without_retention.stop().await.success());
    let ids: [TopupId; 2] = [ended.parse().unwrap(), tracked.parse().unwrap()];
    let store = bed.store().await;
    assert!(store.order(&ids[0]).await.unwrap().is_some(), "without the setting nothing is deleted");

    bed.set("RETENTION_DAYS", "1");
    let mut with_retention = [bed.worker().await, bed.worker().await];
    until("the old order is deleted", async || store.order(&ids[0]).await.unwrap().is_none().then_some(()))
        .await;
    assert_eq!(store.history(&ids[0]).await.unwrap(), []);
    assert!(store.order(&ids[1]).await.unwrap().is_some());
    let shown = bed.program(&["order", &ended]);
    assert_eq!(shown.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&shown.stderr).contains("RETENTION_DAYS"));
    for worker in &mut with_retention {
        assert!(worker.stop().await.success());
    }
}
