//! What the provider allows is kept by all workers together, and a key that is refused costs no order.

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

/// A bed whose provider counts, with the limits that are the default.
async fn bed(scale: f64, settings: SimulatorSettings) -> Bed {
    let mut bed = Bed::on(TestRedis::start().await, scale, settings).await;
    bed.set("ONECLICKDZ_RATE_LIMIT", "120");
    bed.set("ONECLICKDZ_MAX_IN_FLIGHT", "2");
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
    assert!(busiest <= 120, "{busiest} in a minute");
    for mut worker in workers {
        assert!(!worker.log().contains("no order is checked"), "{}", worker.log());
        assert!(worker.stop().await.success());
    }
}

#[tokio::test]
async fn the_secondary_key_takes_over_and_both_refused_only_make_orders_wait() {
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
    // Refused for a quarter of an hour, again and again: each time one request is made, and no more is logged.
    let before = bed.simulator.most_refused_keys_in_a_row();
    until("it is tried again", async || (bed.simulator.most_refused_keys_in_a_row() > before).then_some(()))
        .await;
    assert_eq!(logged("ERROR"), 2, "once for each worker");

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
async fn the_order_that_finds_a_key_refused_is_asked_for_with_the_other() {
    let keys = vec![SECONDARY.to_owned()];
    let mut bed = bed(20.0, SimulatorSettings { api_keys: keys, ..SimulatorSettings::default() }).await;
    bed.set("ONECLICKDZ_API_KEY", PRIMARY);
    bed.set("ONECLICKDZ_API_KEY_SECONDARY", SECONDARY);
    let id = bed.order(Script::fulfilled_after(Duration::ZERO));
    let _worker = bed.worker().await;
    bed.enqueue([&id]).await;
    let order = bed.stored(&[id], OrderStatus::Fulfilled).await.remove(0);
    let took = order.tracking.fulfilled_at.unwrap() - order.tracking.tracked_at;
    assert!(took < chrono::TimeDelta::minutes(14), "it did not wait until the key is tried again: {took}");
}

#[tokio::test]
async fn a_worker_with_another_key_does_not_wait_out_what_the_old_one_brought_about() {
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
async fn who_is_not_there_to_ask_holds_up_nobody() {
    let bed = bed(1.0, SimulatorSettings::default()).await;
    // As orders leave it that were told to come back later, and as a clock does that was set back.
    let (now, _): (u64, u64) = bed.redis(&["TIME"]).await;
    let (before, later) = ((now - 60) * 1000, ((now + 3_600) * 1000).to_string());
    for n in 0..40 {
        let absent = format!("{n:024x}");
        bed.redis::<()>(&["ZADD", "{topup}:budget:waiting-new", &before.to_string(), &absent]).await;
        bed.redis::<()>(&["ZADD", "{topup}:budget:eligible-at", &later, &absent]).await;
    }
    bed.redis::<()>(&["SET", &bed.of_api_key("next-slot-at"), &later]).await;
    bed.redis::<()>(&["ZADD", &bed.of_api_key("in-flight"), &later, "one", &later, "two"]).await;
    let id = bed.order(Script::fulfilled_after(Duration::ZERO));
    let _worker = bed.worker().await;
    bed.enqueue([&id]).await;
    bed.stored(&[id], OrderStatus::Fulfilled).await;
}

#[tokio::test]
async fn an_api_that_is_down_is_left_alone_and_asked_again_by_one() {
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
async fn an_order_that_waits_in_line_holds_no_slot_and_is_asked_for_in_its_turn() {
    let mut bed = bed(300.0, SimulatorSettings::default()).await;
    bed.set("CONCURRENCY", "2");
    bed.set("ONECLICKDZ_RATE_LIMIT", "600");
    let orders: Vec<String> = (0..300).map(|_| bed.order(Script::fulfilled_after(SECOND))).collect();
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

#[tokio::test]
async fn many_orders_at_once_hold_no_slots_and_all_come_to_their_end() {
    const MANY: usize = 500;
    let settings =
        SimulatorSettings { rate_limit: 120, list_card: ListCard::Complete, ..SimulatorSettings::default() };
    let mut bed = bed(10.0, settings).await;
    bed.set("CONCURRENCY", "8");
    let orders = orders(&bed, MANY as u64);
    let _workers = [bed.worker().await, bed.worker().await];
    bed.enqueue(&orders).await;
    // Sixteen slots could not have so many wait if one that waits kept its slot.
    until("many wait for a request or for the list", async || {
        let waiting: usize = bed.redis(&["HLEN", "{topup}:budget:created-at"]).await;
        (waiting > MANY / 4).then_some(())
    })
    .await;
    bed.stored(&orders, OrderStatus::Fulfilled).await;
    bed.idle().await;
    let told: HashSet<String> = bed.sink.received().iter().map(|one| one.id().to_owned()).collect();
    for id in &orders {
        assert!(told.contains(&format!("evt_{id}_fulfilled")), "nobody was told of {id}");
    }
    for job in ["poll-topup", "recheck-topup", "notify-customer"] {
        let dead: usize = bed.redis(&["SCARD", &format!("{{topup}}:{job}:dead")]).await;
        assert_eq!(dead, 0, "{job}");
    }
    assert!(bed.simulator.busiest_minute() <= 120);
}

/// What a rush came to.
struct Rush {
    pages: u64,
    asked: u64,
    orders: u64,
    /// Cards that were delivered without their date.
    undated: usize,
}

/// As many orders as in a rush: several times what can be asked for one by one. Each receiver's first answer is a failure,
/// so that every event is sent twice at least.
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
        bed.told(id, if refunded.contains(id) { "refunded" } else { "fulfilled" }).await;
        let shown = bed.sink.received().into_iter().find(|one| one.id().contains(id.as_str())).unwrap();
        let card = shown.json()["data"]["cardCode"].as_str().map(str::to_owned);
        assert_eq!(card, bed.simulator.card_code(id).filter(|_| !refunded.contains(id)));
        assert!(shown.json()["data"]["topupAmount"].as_u64().is_some(), "what the row shows is stored");
    }
    bed.told(&queued, "scheduled").await;
    let rechecks: usize = bed.redis(&["ZCARD", "{topup}:recheck-topup:scheduled"]).await;
    assert_eq!(rechecks, 1, "the scheduled order is looked at again in a day");
    assert!(bed.simulator.busiest_minute() <= 120);
    for worker in &workers {
        assert!(!worker.log().contains("does not show those that wait"), "{}", worker.log());
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
    let (pages, asked) = (count(RequestKind::List), count(RequestKind::CheckId));
    Rush { pages, asked, orders: orders.len() as u64, undated }
}

#[tokio::test]
async fn orders_are_found_in_the_list_however_late_they_are_handed_over() {
    const SCALE: f64 = 10.0;
    let began = Instant::now();
    let settings =
        SimulatorSettings { rate_limit: 120, list_card: ListCard::Complete, ..SimulatorSettings::default() };
    let bed = bed(SCALE, settings).await;
    let worker = bed.worker().await;
    // The worker's clock runs fast since it has started, the provider's since before that.
    let late = began.elapsed().mul_f64(SCALE) + Duration::from_mins(1);
    let orders: Vec<String> = (0..180).map(|_| bed.order(Script::fulfilled_after(SECOND))).collect();
    until("they have been final for long", async || {
        bed.simulator.decided_for(&orders[0]).is_some_and(|since| since > late).then_some(())
    })
    .await;
    bed.enqueue(&orders).await;
    bed.stored(&orders, OrderStatus::Fulfilled).await;
    let [pages, asked] = [RequestKind::List, RequestKind::CheckId].map(|kind| bed.simulator.requests(kind));
    assert!(pages > 0 && pages + asked < 180, "{pages} pages and {asked} requests for 180 orders");
    assert!(!worker.log().contains("does not show those that wait"), "{}", worker.log());
}

#[tokio::test]
async fn a_list_with_complete_cards_answers_for_all() {
    let Rush { pages, asked, orders, undated } = rush(ListCard::Complete, "complete").await;
    assert!(pages > 0 && pages + asked < orders, "{pages} pages and {asked} requests for {orders} orders");
    assert_eq!(undated, 0);
}

#[tokio::test]
async fn a_list_without_a_part_of_the_card_leaves_one_request_for_each_fulfilled_order() {
    for list_card in [ListCard::Documented, ListCard::None] {
        let Rush { pages, asked, orders, undated } = rush(list_card, "complete").await;
        assert!(pages > 0 && asked >= orders, "the card is asked for");
        assert!(pages + asked < orders * 2, "{pages} pages and {asked} requests for {orders} orders");
        assert_eq!(undated, 0, "every card has all three fields");
    }
}

#[tokio::test]
async fn where_a_fast_card_is_wanted_it_is_delivered_as_the_list_shows_it_and_stays_as_it_was_delivered() {
    let Rush { pages, asked, orders, undated } = rush(ListCard::Documented, "fast").await;
    assert!(pages > 0 && pages + asked < orders, "{pages} pages and {asked} requests for {orders} orders");
    assert!(undated > 0, "more cards come than can be asked for");
    assert!(undated < 180, "what can be asked for soon is complete");
}
