//! All workers together keep to the provider's limits, and a refused API key fails no order.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use topup_jobs::OrderStatus;
use topup_worker::simulator::{Answer, Fault, ListCard, RequestKind, Script, SimulatorSettings};

use crate::shutdown::get_from;
use crate::support::redis::TestRedis;
use crate::support::{Bed, until};

const SECOND: Duration = Duration::from_secs(1);
const PRIMARY: &str = "primary-key";
const SECONDARY: &str = "secondary-key";

/// A bed with the default limits.
async fn bed(scale: f64, settings: SimulatorSettings) -> Bed {
    let mut bed = Bed::on(TestRedis::start().await, scale, settings).await;
    bed.set("ONECLICKDZ_RATE_LIMIT", "120");
    bed.set("ONECLICKDZ_MAX_IN_FLIGHT", "2");
    bed
}

/// Orders that are fulfilled after 3 to 45 s, as the documentation says.
fn orders(bed: &Bed, count: u64) -> Vec<String> {
    (0..count).map(|n| bed.order(Script::fulfilled_after(Duration::from_secs(3 + n * 7 % 43)))).collect()
}

#[tokio::test]
async fn four_workers_together_stay_within_the_rate_limit() {
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
    assert!(busiest <= 120, "{busiest} in a minute");
    for mut worker in workers {
        assert!(!worker.log().contains("no order is checked"), "{}", worker.log());
        assert!(worker.stop().await.success());
    }
}

#[tokio::test]
async fn workers_switch_to_the_secondary_key_and_orders_wait_while_both_are_refused() {
    let keys = vec![PRIMARY.to_owned(), SECONDARY.to_owned()];
    let mut bed = bed(600.0, SimulatorSettings { api_keys: keys, ..SimulatorSettings::default() }).await;
    bed.set("ONECLICKDZ_API_KEY", PRIMARY);
    bed.set("ONECLICKDZ_API_KEY_SECONDARY", SECONDARY);
    bed.set("RUST_LOG", "info,topup_worker::topup_api=debug");
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
    assert!(logged("with the other key of this worker") >= 1);

    bed.simulator.revoke_key(SECONDARY);
    let third = orders(&bed, 20);
    bed.enqueue(&third).await;
    for worker in &workers {
        worker.logs("refuses the API key of this worker").await;
    }
    // After each quarter of an hour one request tries a key again. Further refusals are not logged as errors.
    let before = bed.simulator.most_refused_keys_in_a_row();
    until("a key is retried", async || (bed.simulator.most_refused_keys_in_a_row() > before).then_some(()))
        .await;
    assert_eq!(logged("ERROR"), 2, "each worker logs one error");

    bed.simulator.restore_key(PRIMARY);
    bed.stored(&third, OrderStatus::Fulfilled).await;
    for job in ["poll-topup", "recheck-topup"] {
        let dead: usize = bed.redis(&["SCARD", &format!("{{topup}}:{job}:dead")]).await;
        assert_eq!(dead, 0, "{job}: every order waited");
    }
    for worker in &workers {
        assert!(!worker.log().contains("gave no usable answer"), "no attempt was lost: {}", worker.log());
    }
}

#[tokio::test]
async fn an_order_whose_request_is_refused_is_checked_with_the_other_key() {
    let keys = vec![SECONDARY.to_owned()];
    let mut bed = bed(20.0, SimulatorSettings { api_keys: keys, ..SimulatorSettings::default() }).await;
    bed.set("ONECLICKDZ_API_KEY", PRIMARY);
    bed.set("ONECLICKDZ_API_KEY_SECONDARY", SECONDARY);
    let id = bed.order(Script::fulfilled_after(Duration::ZERO));
    let _worker = bed.worker().await;
    bed.enqueue([&id]).await;
    let order = bed.stored(&[id], OrderStatus::Fulfilled).await.remove(0);
    let took = order.tracking.fulfilled_at.unwrap() - order.tracking.tracked_at;
    assert!(took < chrono::TimeDelta::minutes(14), "the order did not wait for the primary key: {took}");
}

#[tokio::test]
async fn a_worker_with_a_new_key_does_not_wait_for_the_pause_of_the_old_key() {
    let mut bed = bed(1.0, SimulatorSettings::default()).await;
    bed.set("ONECLICKDZ_API_KEY", "revoked");
    let address = bed.serve_http();
    let id = bed.order(Script::fulfilled_after(Duration::ZERO));
    let mut worker = bed.starting_worker();
    bed.enqueue([&id]).await;
    worker.logs("refuses the API key of this worker").await;
    let ready = get_from(&address, "/readyz").await;
    assert!(ready.contains("503") && ready.contains("HTTP 401 INVALID_ACCESS_TOKEN"), "{ready}");
    assert!(worker.stop().await.success());
    bed.set("ONECLICKDZ_API_KEY", "sandbox-key");
    let _worker = bed.worker().await;
    bed.stored(&[id], OrderStatus::Fulfilled).await;
}

#[tokio::test]
async fn orders_that_never_return_to_the_wait_queue_delay_no_other() {
    let bed = bed(1.0, SimulatorSettings::default()).await;
    // Orders that wait and never return, and times that date from before the clock was set back.
    let (now, _): (u64, u64) = bed.redis(&["TIME"]).await;
    let (before, later) = ((now - 60) * 1000, ((now + 3_600) * 1000).to_string());
    for n in 0..40 {
        let absent = format!("{n:024x}");
        bed.redis::<()>(&["ZADD", "{topup}:budget:waiting-new", &before.to_string(), &absent]).await;
        bed.redis::<()>(&["ZADD", "{topup}:budget:eligible-at", &later, &absent]).await;
    }
    bed.redis::<()>(&["SET", &bed.budget_key("next-slot-at"), &later]).await;
    bed.redis::<()>(&["ZADD", &bed.budget_key("in-flight"), &later, "one", &later, "two"]).await;
    let id = bed.order(Script::fulfilled_after(Duration::ZERO));
    let _worker = bed.worker().await;
    bed.enqueue([&id]).await;
    bed.stored(&[id], OrderStatus::Fulfilled).await;
}

#[tokio::test]
async fn a_failing_api_opens_the_breaker_and_no_order_is_dead_lettered() {
    let bed = bed(60.0, SimulatorSettings::default()).await;
    let down = |_| Answer::Fault(Fault::InternalError500);
    let orders: Vec<String> =
        (0..30).map(|_| bed.order(Script::fulfilled_after(Duration::ZERO).first((0..2).map(down)))).collect();
    let worker = bed.worker().await;
    bed.enqueue(&orders).await;
    worker.logs("no order is checked for a while").await;
    bed.stored(&orders, OrderStatus::Fulfilled).await;
    let dead: usize = bed.redis(&["SCARD", "{topup}:poll-topup:dead"]).await;
    assert_eq!(dead, 0);
}

#[tokio::test]
async fn an_order_in_the_wait_queue_holds_no_slot_and_is_checked_in_its_turn() {
    let mut bed = bed(300.0, SimulatorSettings::default()).await;
    bed.set("CONCURRENCY", "2");
    bed.set("ONECLICKDZ_RATE_LIMIT", "600");
    let orders: Vec<String> = (0..300).map(|_| bed.order(Script::fulfilled_after(SECOND))).collect();
    let _worker = bed.worker().await;
    bed.enqueue(&orders).await;
    until("each order has been checked", async || {
        let checked = orders.iter().filter(|order| !bed.simulator.calls(order).is_empty()).count();
        (checked == orders.len()).then_some(())
    })
    .await;
    bed.stored(&orders, OrderStatus::Fulfilled).await;
    let most = orders.iter().map(|order| bed.simulator.calls(order).len()).max().unwrap_or_default();
    assert!(most <= 3, "no order is checked repeatedly before the others are checked once: {most}");
}

#[tokio::test]
async fn many_waiting_orders_hold_no_slots_and_all_are_fulfilled() {
    const MANY: usize = 500;
    let settings =
        SimulatorSettings { rate_limit: 120, list_card: ListCard::Complete, ..SimulatorSettings::default() };
    let mut bed = bed(10.0, settings).await;
    bed.set("CONCURRENCY", "8");
    let orders = orders(&bed, MANY as u64);
    let _workers = [bed.worker().await, bed.worker().await];
    bed.enqueue(&orders).await;
    // There are sixteen slots, so this many orders can wait only if a waiting order holds no slot.
    until("many orders wait for a permit or for the list", async || {
        let waiting: usize = bed.redis(&["HLEN", "{topup}:budget:created-at"]).await;
        (waiting > MANY / 4).then_some(())
    })
    .await;
    bed.stored(&orders, OrderStatus::Fulfilled).await;
    bed.idle().await;
    let notified: HashSet<String> = bed.sink.received().iter().map(|one| one.id().to_owned()).collect();
    for id in &orders {
        assert!(notified.contains(&format!("evt_{id}_fulfilled")), "no receiver was notified of {id}");
    }
    for job in ["poll-topup", "recheck-topup", "notify-customer"] {
        let dead: usize = bed.redis(&["SCARD", &format!("{{topup}}:{job}:dead")]).await;
        assert_eq!(dead, 0, "{job}");
    }
    assert!(bed.simulator.busiest_minute() <= 120);
}

struct Rush {
    pages: u64,
    checks: u64,
    orders: u64,
    /// Number of cards that were delivered without their date.
    undated: usize,
}

/// Hands over several times more orders than can be checked one by one. The first hundred deliveries fail.
async fn rush(list_card: ListCard, card_details: &str) -> Rush {
    let settings = SimulatorSettings { rate_limit: 120, list_card, ..SimulatorSettings::default() };
    let mut bed = bed(10.0, settings).await;
    bed.set("CARD_DETAILS", card_details);
    bed.sink.answer_first([500; 100]);
    let mut orders: Vec<String> = orders(&bed, 180);
    orders.push(bed.order(Script::refunded_after(10 * SECOND)));
    let queued = bed.order(Script::queued_after(10 * SECOND, Duration::from_hours(10_000)));
    let workers = [bed.worker().await, bed.worker().await];
    bed.enqueue(orders.iter().chain([&queued])).await;
    let refunded = orders.split_off(180);
    bed.stored(&orders, OrderStatus::Fulfilled).await;
    bed.stored(&refunded, OrderStatus::Refunded).await;
    bed.stored(std::slice::from_ref(&queued), OrderStatus::Scheduled).await;
    for id in orders.iter().chain(&refunded) {
        bed.delivered(id, if refunded.contains(id) { "refunded" } else { "fulfilled" }).await;
        let shown = bed.sink.received().into_iter().find(|one| one.id().contains(id.as_str())).unwrap();
        let card = shown.json()["data"]["cardCode"].as_str().map(str::to_owned);
        assert_eq!(card, bed.simulator.card_code(id).filter(|_| !refunded.contains(id)));
        assert!(shown.json()["data"]["topupAmount"].as_u64().is_some(), "the row's amount is stored");
    }
    bed.delivered(&queued, "scheduled").await;
    let rechecks: usize = bed.redis(&["ZCARD", "{topup}:recheck-topup:scheduled"]).await;
    assert_eq!(rechecks, 1, "the scheduled order is rechecked in a day");
    assert!(bed.simulator.busiest_minute() <= 120);
    for worker in &workers {
        assert!(!worker.log().contains("does not show the waiting orders"), "{}", worker.log());
    }
    let mut bodies = HashMap::new();
    for received in bed.sink.received() {
        let first = bodies.entry(received.id().to_owned()).or_insert_with(|| received.body.clone());
        assert_eq!(*first, received.body, "{} was sent with two bodies", received.id());
    }
    let cards: Vec<serde_json::Value> =
        bodies.values().map(|body| serde_json::from_slice(body).unwrap()).collect();
    let cards = || cards.iter().map(|event| &event["data"]).filter(|data| data["status"] == "FULFILLED");
    assert!(cards().all(|data| data["numTrans"].is_string()));
    let undated = cards().filter(|data| data["dateTraitement"].is_null()).count();
    let count = |kind| bed.simulator.requests(kind);
    let (pages, checks) = (count(RequestKind::List), count(RequestKind::CheckId));
    Rush { pages, checks, orders: orders.len() as u64, undated }
}

#[tokio::test]
async fn orders_handed_over_late_are_found_in_the_list() {
    const SCALE: f64 = 10.0;
    let began = Instant::now();
    let settings =
        SimulatorSettings { rate_limit: 120, list_card: ListCard::Complete, ..SimulatorSettings::default() };
    let bed = bed(SCALE, settings).await;
    let worker = bed.worker().await;
    // The provider's accelerated clock started before the worker's.
    let late = began.elapsed().mul_f64(SCALE) + Duration::from_mins(1);
    let orders: Vec<String> = (0..180).map(|_| bed.order(Script::fulfilled_after(SECOND))).collect();
    until("the orders have long been final", async || {
        bed.simulator.decided_for(&orders[0]).is_some_and(|since| since > late).then_some(())
    })
    .await;
    bed.enqueue(&orders).await;
    bed.stored(&orders, OrderStatus::Fulfilled).await;
    let [pages, checks] = [RequestKind::List, RequestKind::CheckId].map(|kind| bed.simulator.requests(kind));
    assert!(pages > 0 && pages + checks < 180, "{pages} pages and {checks} requests for 180 orders");
    assert!(!worker.log().contains("does not show the waiting orders"), "{}", worker.log());
}

#[tokio::test]
async fn a_list_with_complete_cards_replaces_most_checks() {
    let Rush { pages, checks, orders, undated } = rush(ListCard::Complete, "complete").await;
    assert!(pages > 0 && pages + checks < orders, "{pages} pages and {checks} requests for {orders} orders");
    assert_eq!(undated, 0);
}

#[tokio::test]
async fn a_list_without_a_part_of_the_card_costs_one_check_for_each_fulfilled_order() {
    for list_card in [ListCard::Documented, ListCard::None] {
        let Rush { pages, checks, orders, undated } = rush(list_card, "complete").await;
        assert!(pages > 0 && checks >= orders, "each card is requested");
        assert!(pages + checks < orders * 2, "{pages} pages and {checks} requests for {orders} orders");
        assert_eq!(undated, 0, "every card has its date");
    }
}

#[tokio::test]
async fn with_fast_card_details_a_card_is_delivered_as_the_list_shows_it_and_stays_unchanged() {
    let Rush { pages, checks, orders, undated } = rush(ListCard::Documented, "fast").await;
    assert!(pages > 0 && pages + checks < orders, "{pages} pages and {checks} requests for {orders} orders");
    assert!(undated > 0, "more cards arrive than can be requested");
    assert!(undated < 180, "a card that can be requested soon is complete");
}
