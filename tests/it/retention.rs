//! `RETENTION_DAYS`: what ended longer ago is deleted by a worker, and nothing else.

use std::time::Duration;

use topup_jobs::TopupId;
use topup_worker::orders::OrderStore;
use topup_worker::simulator::Script;

use crate::support::{Bed, until};

/// Some hundred hours in a second.
const SCALE: f64 = 400_000.0;

#[tokio::test]
async fn a_final_order_goes_and_one_that_is_followed_stays() {
    let mut bed = Bed::new(SCALE).await;
    let ended = bed.order(Script::fulfilled_after(Duration::ZERO));
    let tracked = bed.order(Script::queued_after(Duration::ZERO, Duration::from_hours(24 * 365)));
    let mut keeping = bed.worker().await;
    bed.enqueue([&ended, &tracked]).await;
    bed.told(&ended, "fulfilled").await;
    bed.told(&tracked, "scheduled").await;
    // Until everything is told and noted, and the queued order has been given up.
    bed.idle().await;
    assert!(keeping.stop().await.success());
    let ids: [TopupId; 2] = [ended.parse().unwrap(), tracked.parse().unwrap()];
    let store = bed.store().await;
    assert!(store.order(&ids[0]).await.unwrap().is_some(), "without the setting nothing is deleted");

    bed.set("RETENTION_DAYS", "1");
    let mut deleting = [bed.worker().await, bed.worker().await];
    until("the old order is deleted", async || store.order(&ids[0]).await.unwrap().is_none().then_some(()))
        .await;
    assert_eq!(store.history(&ids[0]).await.unwrap(), []);
    assert!(store.order(&ids[1]).await.unwrap().is_some());
    let shown = bed.program(&["order", &ended]);
    assert_eq!(shown.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&shown.stderr).contains("RETENTION_DAYS"));
    for worker in &mut deleting {
        assert!(worker.stop().await.success());
    }
}
