//! A new incident of an order is reported under its own event id. A repeat of an incident is not reported.

use std::collections::HashMap;
use std::time::Duration;

use topup_jobs::OrderStatus;
use topup_worker::orders::OrderStore;
use topup_worker::simulator::{Answer, Script};

use crate::support::{Bed, until};

/// Hands an order over again with `force`, so that it is checked although it is final.
async fn check_again(bed: &Bed, order: &str) {
    let before = bed.simulator.calls(order).len();
    let data = format!(r#"{{"topupId":"{order}"}}"#);
    bed.message(&[(b"name", b"poll-topup"), (b"data", data.as_bytes()), (b"opts", br#"{"force":true}"#)])
        .await;
    until("the order is checked", async || (bed.simulator.calls(order).len() > before).then_some(())).await;
    bed.idle().await;
}

/// The distinct ids of the delivered events with this outcome, in order of delivery.
fn reported(bed: &Bed, outcome: &str) -> Vec<String> {
    let mut ids = Vec::new();
    for received in bed.sink.received() {
        if received.json()["type"] == format!("topup.{outcome}") && !ids.contains(&received.id().to_owned()) {
            ids.push(received.id().to_owned());
        }
    }
    ids
}

#[tokio::test]
async fn an_order_that_is_dead_lettered_again_is_reported_under_a_new_id() {
    let bed = Bed::new(600.0).await;
    let id = "a".repeat(24);
    let _worker = bed.worker().await;
    bed.enqueue([&id]).await;
    bed.delivered(&id, "unresolved").await;
    bed.idle().await;
    let replayed = bed.program(&["dead-letters", "replay", &id]);
    assert!(replayed.status.success(), "{}", String::from_utf8_lossy(&replayed.stderr));
    bed.delivered(&id, "unresolved_2").await;
    bed.idle().await;
    // A producer that hands the order over again has it tracked again, too.
    bed.enqueue([&id]).await;
    bed.delivered(&id, "unresolved_3").await;
    bed.idle().await;
    let first = format!("evt_{id}_unresolved");
    assert_eq!(reported(&bed, "unresolved"), [first.clone(), format!("{first}_2"), format!("{first}_3")]);
    let stream: Vec<(String, HashMap<String, String>)> =
        bed.redis(&["XRANGE", "{topup}:events", "-", "+"]).await;
    assert_eq!(stream.len(), 3, "{stream:?}");
    let shown = bed.shown(&id);
    assert!(shown.contains("unresolved_3 by webhook: sent"), "{shown}");
}

#[tokio::test]
async fn each_contradiction_of_a_final_status_is_reported_once() {
    let bed = Bed::new(600.0).await;
    let id = bed.order(Script::fulfilled_after(Duration::ZERO));
    let _worker = bed.worker().await;
    bed.enqueue([&id]).await;
    bed.delivered(&id, "fulfilled").await;
    bed.idle().await;
    bed.simulator.set_script(&id, Script::refunded_after(Duration::ZERO));
    for _ in 0..3 {
        check_again(&bed, &id).await;
    }
    assert_eq!(reported(&bed, "unresolved"), [format!("evt_{id}_unresolved")]);
    let reason = bed.delivered(&id, "unresolved").await.json()["data"]["reason"].clone();
    assert_eq!(reason, "the provider says REFUNDED, but the order is FULFILLED");
    bed.simulator.set_script(&id, Script::default().then(Duration::ZERO, Answer::Queued));
    for _ in 0..2 {
        check_again(&bed, &id).await;
    }
    bed.simulator.set_script(&id, Script::refunded_after(Duration::ZERO));
    check_again(&bed, &id).await;
    let expected = [format!("evt_{id}_unresolved"), format!("evt_{id}_unresolved_2")];
    assert_eq!(reported(&bed, "unresolved"), expected);
    assert_eq!(reported(&bed, "fulfilled"), [format!("evt_{id}_fulfilled")], "reported once");
    bed.stored(std::slice::from_ref(&id), OrderStatus::Fulfilled).await;
}

#[tokio::test]
async fn another_card_of_a_fulfilled_order_is_reported_once_and_does_not_replace_the_first() {
    let bed = Bed::new(600.0).await;
    let id = bed.order(Script::fulfilled_after(Duration::ZERO));
    let worker = bed.worker().await;
    bed.enqueue([&id]).await;
    let first = bed.simulator.card_code(&id).unwrap();
    bed.delivered(&id, "fulfilled").await;
    bed.idle().await;
    check_again(&bed, &id).await;
    assert_eq!(reported(&bed, "unresolved"), [""; 0], "the same card is not reported");
    bed.simulator.replace_card(&id, "998877665544");
    for _ in 0..2 {
        check_again(&bed, &id).await;
    }
    assert_eq!(reported(&bed, "unresolved"), [format!("evt_{id}_unresolved")]);
    let event = bed.delivered(&id, "unresolved").await.json();
    assert_eq!(event["data"]["reason"], "the provider shows another card than the one that was delivered");
    assert!(!event.to_string().contains("998877665544"), "{event}");
    assert!(!worker.log().contains("998877665544"), "{}", worker.log());
    let stored = bed.store().await.card(&id.parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(stored.card_code.reveal(), first);
}
