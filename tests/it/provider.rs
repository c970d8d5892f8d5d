//! Faults of keys, addresses and the provider: a fault of one worker does not affect the others, and no order
//! is dead-lettered for a fault of the provider.

use std::time::Duration;

use topup_jobs::OrderStatus;
use topup_worker::provider::{ApiError, Client, TopupApi};
use topup_worker::simulator::{Fault, RequestKind, Script, SimulatorSettings};

use crate::shutdown::get_from;
use crate::support::redis::TestRedis;
use crate::support::worker::Worker;
use crate::support::{Bed, from_address, until};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);

/// Waits until `/readyz` reports that the worker is not ready for this reason.
async fn not_ready(address: &str, reason: &str) {
    until(reason, async || {
        let answer = get_from(address, "/readyz").await;
        (answer.contains("503") && answer.contains(reason)).then_some(())
    })
    .await;
}

async fn dead_letters(bed: &Bed) -> usize {
    let mut dead = 0;
    for job in ["poll-topup", "recheck-topup"] {
        dead += bed.redis::<usize>(&["SCARD", &format!("{{topup}}:{job}:dead")]).await;
    }
    dead
}

/// Hands orders over in batches while both workers run, and waits until all are delivered.
async fn all_are_delivered(bed: &Bed) {
    for _ in 0..4 {
        let orders: Vec<String> =
            (0..6).map(|n| bed.order(Script::fulfilled_after(Duration::from_secs(n)))).collect();
        bed.enqueue(&orders).await;
        bed.stored(&orders, OrderStatus::Fulfilled).await;
        for order in &orders {
            bed.delivered(order, "fulfilled").await;
        }
    }
    assert_eq!(dead_letters(bed).await, 0);
}

#[tokio::test]
async fn a_worker_with_a_mistyped_key_is_not_ready_and_delays_no_other() {
    let mut bed = Bed::new(1.0).await;
    let _good = bed.worker().await;
    bed.set("ONECLICKDZ_API_KEY", "mistyped-key");
    let address = bed.serve_http();
    let mistyped = bed.starting_worker();
    not_ready(&address, "the provider refuses the API key of this worker: ").await;
    assert!(mistyped.log().contains("ERROR"), "{}", mistyped.log());
    all_are_delivered(&bed).await;
    assert_eq!(bed.simulator.most_refused_keys_in_a_row(), 1, "the key was tried once");
    assert!(!mistyped.log().contains("mistyped-key"), "{}", mistyped.log());
}

/// A good worker, a worker with an IP address of its own, and the address of that worker's HTTP endpoints.
async fn worker_elsewhere(bed: &mut Bed) -> (Worker, Worker, String) {
    let good = bed.worker().await;
    let api = from_address([127, 0, 0, 2], &bed.api_url()).await;
    bed.set("ONECLICKDZ_API_URL", api);
    let address = bed.serve_http();
    (good, bed.starting_worker(), address)
}

#[tokio::test]
async fn a_worker_whose_ip_address_is_not_allowed_is_not_ready_and_delays_no_other() {
    let settings =
        SimulatorSettings { denied_addresses: vec![[127, 0, 0, 2].into()], ..SimulatorSettings::default() };
    let mut bed = Bed::on(TestRedis::start().await, 1.0, settings).await;
    let (_good, _denied, address) = worker_elsewhere(&mut bed).await;
    not_ready(&address, "the provider refuses the address of this host: ").await;
    all_are_delivered(&bed).await;
    assert_eq!(bed.simulator.refused_addresses(), 1, "the address was tried once");
}

#[tokio::test]
async fn the_list_is_still_read_beside_a_worker_whose_ip_address_is_refused() {
    let denied_addresses = vec![[127, 0, 0, 2].into()];
    let settings = SimulatorSettings { denied_addresses, rate_limit: 120, ..SimulatorSettings::default() };
    let mut bed = Bed::on(TestRedis::start().await, 10.0, settings).await;
    bed.set("ONECLICKDZ_RATE_LIMIT", "120");
    bed.set("ONECLICKDZ_MAX_IN_FLIGHT", "2");
    let (_good, _denied, address) = worker_elsewhere(&mut bed).await;
    not_ready(&address, "the provider refuses the address of this host: ").await;
    let orders: Vec<String> =
        (0..120).map(|n| bed.order(Script::fulfilled_after(Duration::from_secs(3 + n * 7 % 43)))).collect();
    bed.enqueue(&orders).await;
    bed.stored(&orders, OrderStatus::Fulfilled).await;
    assert!(bed.simulator.requests(RequestKind::List) > 3, "the list was read");
    assert_eq!(bed.simulator.refused_addresses(), 1, "the address was tried once");
    let disabled: usize = bed.redis(&["EXISTS", "{topup}:budget:list-disabled"]).await;
    assert_eq!(disabled, 0, "the list is still read");
}

#[tokio::test]
async fn a_locked_out_ip_address_sends_no_request_that_prolongs_the_lockout() {
    // A lockout of the address lasts 3 s.
    let mut bed = Bed::new(300.0).await;
    let elsewhere = from_address([127, 0, 0, 2], &bed.api_url()).await.parse().unwrap();
    let guess = Client::new(&elsewhere, &"guess".into()).unwrap();
    for _ in 0..5 {
        assert!(matches!(guess.verify().await, Err(ApiError::Unauthorized(_))));
    }
    let (_good, _blocked, address) = worker_elsewhere(&mut bed).await;
    let order = bed.order(Script::fulfilled_after(SECOND));
    bed.enqueue([&order]).await;
    bed.stored(&[order], OrderStatus::Fulfilled).await;
    until("the worker is ready", async || get_from(&address, "/readyz").await.contains("200").then_some(()))
        .await;
    assert!(bed.simulator.refused_addresses() <= 1, "no request prolongs the lockout");
}

#[tokio::test]
async fn known_orders_survive_minutes_in_which_the_provider_answers_404() {
    let mut bed = Bed::new(20.0).await;
    bed.set("LIST_POLLING", "off");
    let orders: Vec<String> = (0..20).map(|_| bed.order(Script::fulfilled_after(3 * MINUTE))).collect();
    let worker = bed.worker().await;
    bed.enqueue(&orders).await;
    until("the provider has answered for each order", async || {
        orders.iter().all(|order| !bed.simulator.calls(order).is_empty()).then_some(())
    })
    .await;
    bed.simulator.fail(Some(Fault::NotFound404));
    worker.logs("the provider knows none of several orders").await;
    until("two minutes have passed", async || bed.simulator.decided_for(&orders[0])).await;
    bed.simulator.fail(None);
    bed.stored(&orders, OrderStatus::Fulfilled).await;
    assert_eq!(dead_letters(&bed).await, 0);
    assert_eq!(worker.log().matches("knows none of several orders").count(), 1, "{}", worker.log());
}

#[tokio::test]
async fn an_outage_costs_a_recheck_no_attempt() {
    let mut bed = Bed::new(600.0).await;
    bed.set("LIST_POLLING", "off");
    let orders: Vec<String> = (0..3).map(|_| bed.order(Script::handling_forever())).collect();
    let worker = bed.worker().await;
    bed.enqueue(&orders).await;
    bed.stored(&orders, OrderStatus::Delayed).await;
    bed.simulator.fail(Some(Fault::InternalError500));
    worker.logs("the recheck waits and loses no attempt").await;
    // Each recheck has failed and waits again, or waits for the breaker.
    bed.stored(&orders, OrderStatus::Delayed).await;
    for order in &orders {
        until("the recheck waits", async || {
            let due: Option<f64> = bed.redis(&["ZSCORE", "{topup}:recheck-topup:scheduled", order]).await;
            due
        })
        .await;
        let attempts: Option<u32> =
            bed.redis(&["HGET", &format!("{{topup}}:recheck-topup:meta:{order}"), "attempts"]).await;
        assert_eq!(attempts.unwrap_or_default(), 0);
        bed.simulator.set_script(order, Script::fulfilled_after(Duration::ZERO));
    }
    bed.simulator.fail(None);
    bed.stored(&orders, OrderStatus::Fulfilled).await;
    assert_eq!(dead_letters(&bed).await, 0);
}
