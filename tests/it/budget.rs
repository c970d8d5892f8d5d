//! What the provider allows is kept by all workers together, and a key that is refused costs no order.

use std::time::Duration;

use topup_jobs::OrderStatus;
use topup_worker::simulator::{Script, SimulatorSettings};

use crate::support::redis::TestRedis;
use crate::support::{Bed, until};

const SECOND: Duration = Duration::from_secs(1);
const PRIMARY: &str = "primary-key";
const SECONDARY: &str = "secondary-key";

/// A bed whose provider counts, with the limits that are the default.
async fn bed(scale: f64, settings: SimulatorSettings) -> Bed {
    let mut bed = Bed::on(TestRedis::start().await, scale, settings).await;
    bed.set("ONECLICKDZ_RATE_LIMIT", "120");
    bed.set("ONECLICKDZ_UNDER_WAY", "2");
    bed
}

/// Orders that live as the documentation says.
fn orders(bed: &Bed, count: u64) -> Vec<String> {
    (0..count).map(|n| bed.order(Script::fulfilled_after(Duration::from_secs(3 + n * 7 % 43)))).collect()
}

#[tokio::test]
async fn four_workers_together_never_ask_more_often_than_allowed() {
    let settings = SimulatorSettings { rate_limit: 120, ..SimulatorSettings::default() };
    let bed = bed(20.0, settings).await;
    let orders = orders(&bed, 150);
    let mut workers = Vec::new();
    for _ in 0..4 {
        workers.push(bed.worker().await);
    }
    bed.enqueue(&orders).await;
    bed.stored(&orders, OrderStatus::Fulfilled).await;
    bed.idle().await;
    let busiest = bed.simulator.busiest_minute();
    assert!((100..=120).contains(&busiest), "the budget is used, and kept: {busiest} in a minute");
    for mut worker in workers {
        assert!(!worker.log().contains("nobody asks"), "{}", worker.log());
        assert!(worker.stop().await.success());
    }
}

#[tokio::test]
async fn the_secondary_key_takes_over_and_both_refused_only_make_orders_wait() {
    let keys = vec![PRIMARY.to_owned(), SECONDARY.to_owned()];
    let mut bed = bed(600.0, SimulatorSettings { api_keys: keys, ..SimulatorSettings::default() }).await;
    bed.set("ONECLICKDZ_API_KEY", PRIMARY);
    bed.set("ONECLICKDZ_API_KEY_SECONDARY", SECONDARY);
    let workers = [bed.worker().await, bed.worker().await];
    let logged =
        |words: &str| workers.iter().map(|worker| worker.log().matches(words).count()).sum::<usize>();
    let first = orders(&bed, 20);
    bed.enqueue(&first).await;
    bed.stored(&first, OrderStatus::Fulfilled).await;

    bed.simulator.revoke_key(PRIMARY);
    let second = orders(&bed, 20);
    bed.enqueue(&second).await;
    bed.stored(&second, OrderStatus::Fulfilled).await;
    assert!(bed.simulator.most_refused_keys_in_a_row() <= 2);
    assert!(logged("the other one is used") >= 1);

    bed.simulator.revoke_key(SECONDARY);
    let third = orders(&bed, 20);
    bed.enqueue(&third).await;
    until("the operator is told", async || (logged("nobody asks the provider") >= 1).then_some(())).await;
    // Closed for a quarter of an hour, a few times over: each time one asks, and the operator is told no more.
    let asked = bed.simulator.total_calls();
    until("it is tried again", async || (bed.simulator.total_calls() >= asked + 2).then_some(())).await;
    assert_eq!(logged("nobody asks the provider"), 1, "told once");
    assert!(bed.simulator.most_refused_keys_in_a_row() < 5, "the address is not locked out");

    bed.simulator.restore_key(PRIMARY);
    bed.stored(&third, OrderStatus::Fulfilled).await;
    for job in ["poll-topup", "recheck-topup"] {
        let dead: usize = bed.redis(&["SCARD", &format!("{{topup}}:{job}:dead")]).await;
        assert_eq!(dead, 0, "{job}: every order has waited");
    }
    for worker in &workers {
        assert!(!worker.log().contains("did not answer usably"), "no attempt was lost: {}", worker.log());
    }
}

#[tokio::test]
async fn an_order_that_waits_in_line_holds_no_slot_and_is_asked_for_in_its_turn() {
    let mut bed = bed(300.0, SimulatorSettings::default()).await;
    bed.set("CONCURRENCY", "2");
    bed.set("ONECLICKDZ_RATE_LIMIT", "600");
    let orders: Vec<String> = (0..1_000).map(|_| bed.order(Script::fulfilled_after(SECOND))).collect();
    let _worker = bed.worker().await;
    bed.enqueue(&orders).await;
    until("all are asked for", async || {
        let asked = orders.iter().filter(|order| !bed.simulator.calls(order).is_empty()).count();
        (asked == orders.len()).then_some(())
    })
    .await;
    bed.stored(&orders, OrderStatus::Fulfilled).await;
    let most = orders.iter().map(|order| bed.simulator.calls(order).len()).max().unwrap_or_default();
    assert!(most <= 3, "nobody is asked for again and again before others are asked for once: {most}");
}
