//! Workers whose encryption keys do not fit the stored cards, or each other.

use std::time::Duration;

use topup_worker::simulator::Script;

use super::{column, execute, refused};
use crate::support::{Bed, ENCRYPTION_KEY, SECRET, Sink, until};

super::on_both!(a_worker_that_cannot_read_the_stored_cards_refuses_to_start);

const NEW_KEY: &str = "ffeeddccbbaa99887766554433221100ffeeddccbbaa99887766554433221100";
const NOTED: &str = "SELECT fingerprint FROM store_keys";

/// Starts a worker, delivers one card and stops the worker.
async fn deliver_one(bed: &Bed) -> String {
    let order = bed.order(Script::fulfilled_after(Duration::ZERO));
    let mut worker = bed.worker().await;
    bed.enqueue([&order]).await;
    bed.delivered(&order, "fulfilled").await;
    bed.idle().await;
    assert!(worker.stop().await.success());
    order
}

fn assert_discreet(words: &str) {
    assert!(!words.contains(NEW_KEY) && !words.contains(ENCRYPTION_KEY), "{words}");
}

async fn a_worker_that_cannot_read_the_stored_cards_refuses_to_start(mut bed: Bed) {
    let order = deliver_one(&bed).await;
    let noted = column(&bed, NOTED).await;
    bed.set("ENCRYPTION_KEY", NEW_KEY);
    let words = refused(&bed, &["run"], 2).await;
    assert!(words.contains("ENCRYPTION_KEY cannot be used: cards of this database may be"), "{words}");
    assert!(words.contains(&noted[0]) && words.contains("ENCRYPTION_KEYS_PREVIOUS"), "{words}");
    assert_discreet(&words);

    // A database of an older version has no key noted.
    execute(&bed, "DELETE FROM store_keys").await;
    let words = refused(&bed, &["run"], 2).await;
    assert!(words.contains("none of the 1 stored cards that were tried can be decrypted"), "{words}");
    assert_eq!(column(&bed, NOTED).await, [""; 0], "the key is not noted");
    bed.set("ENCRYPTION_KEYS_PREVIOUS", ENCRYPTION_KEY);
    deliver_one(&bed).await;
    bed.set("ENCRYPTION_KEYS_PREVIOUS", "");
    deliver_one(&bed).await;

    // The old key is lost for good; the command names the order whose card is gone.
    let done = bed.program(&["rekey", "--forget-lost-keys"]);
    let words = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success() && words.contains(&order), "{done:?}");
    assert_eq!(column(&bed, NOTED).await.len(), 1);
}

#[tokio::test]
async fn a_rolling_key_change_is_accepted_only_in_the_right_order() {
    let mut bed = Bed::new(600.0).await;
    let mut old = bed.worker().await;
    bed.set("ENCRYPTION_KEY", NEW_KEY);
    let words = refused(&bed, &["run"], 2).await;
    assert!(words.contains("cards of this database may be encrypted with another key"), "{words}");
    // This worker could read the cards of the other one, but not the reverse.
    bed.set("ENCRYPTION_KEYS_PREVIOUS", ENCRYPTION_KEY);
    let words = refused(&bed, &["run"], 2).await;
    assert!(words.contains("ENCRYPTION_KEY cannot be used: another worker under {topup}"), "{words}");
    assert_discreet(&words);
    assert_eq!(column(&bed, NOTED).await.len(), 1, "the key of a worker that was refused is not noted");
    let words = refused(&bed, &["rekey"], 1).await;
    assert!(
        words.contains("a worker that runs under {topup}") && words.contains("no card was changed"),
        "{words}"
    );
    assert_discreet(&words);

    bed.set("ENCRYPTION_KEY", ENCRYPTION_KEY);
    bed.set("ENCRYPTION_KEYS_PREVIOUS", NEW_KEY);
    let mut prepared = bed.worker().await;
    assert!(old.stop().await.success());
    bed.set("ENCRYPTION_KEY", NEW_KEY);
    bed.set("ENCRYPTION_KEYS_PREVIOUS", ENCRYPTION_KEY);
    let early = bed.program(&["rekey"]);
    assert_eq!(column(&bed, NOTED).await.len(), 2, "a worker without the new key no longer starts");
    let words = String::from_utf8_lossy(&early.stdout);
    assert!(
        words.contains("Keep ENCRYPTION_KEYS_PREVIOUS: a worker still encrypts with another key"),
        "{words}"
    );
    assert_eq!(early.status.code(), Some(1));
    let mut new = bed.worker().await;
    assert!(prepared.stop().await.success());
    let done = bed.program(&["rekey"]);
    let words = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success() && words.contains("ENCRYPTION_KEYS_PREVIOUS may be removed.\n"), "{words}");
    bed.set("ENCRYPTION_KEYS_PREVIOUS", "");
    let _alone = bed.worker().await;
    assert!(new.stop().await.success());
}

#[tokio::test]
async fn a_killed_worker_delays_a_new_key_for_seconds_only() {
    let mut bed = Bed::new(600.0).await;
    bed.worker().await.kill();
    bed.set("ENCRYPTION_KEY", NEW_KEY);
    bed.set("ENCRYPTION_KEYS_PREVIOUS", ENCRYPTION_KEY);
    let mut worker = bed.worker().await;
    let waiting = "another worker was registered with other encryption keys; this worker waits and ends if the other one is alive";
    assert!(worker.log().contains(waiting), "{}", worker.log());
    assert!(worker.stop().await.success());
}

#[tokio::test]
async fn an_event_whose_card_no_key_decrypts_is_given_up_and_delivered_once_the_key_is_back() {
    let mut bed = Bed::new(1.0).await;
    let operator = Sink::default();
    bed.set("OPERATOR_WEBHOOK_URL", operator.listen().await);
    bed.set("OPERATOR_WEBHOOK_SECRET", SECRET);
    bed.sink.answer_first([500]);
    let order = bed.order(Script::fulfilled_after(Duration::ZERO));
    let mut worker = bed.worker().await;
    bed.enqueue([&order]).await;
    bed.delivered(&order, "fulfilled").await;
    until("the failure is stored", async || bed.shown(&order).contains("HTTP 500").then_some(())).await;
    assert!(worker.stop().await.success());

    bed.set("ENCRYPTION_KEY", NEW_KEY);
    assert!(bed.program(&["rekey", "--forget-lost-keys"]).status.success());
    // The three days of attempts pass in a second.
    bed.set("TIME_SCALE", "300000");
    let mut worker = bed.worker().await;
    let event = until("the operator is notified", async || {
        let id = format!("evt_{order}_undelivered");
        operator.received().into_iter().find(|received| received.id() == id)
    })
    .await;
    let words = event.json()["data"]["undelivered"]["reason"].as_str().unwrap().to_owned();
    let expected = "undelivered after 10 attempts, last: a stored card code cannot be decrypted";
    assert!(words.starts_with(expected), "{words}");
    assert_eq!(bed.sink.received().len(), 1, "nothing was sent without its card");
    let log = worker.log();
    let named = format!("order.id={order} event.id=evt_{order}_fulfilled channel=\"webhook\" attempts=10");
    assert!(log.contains("a card cannot be decrypted") && log.contains(&named), "{log}");
    assert!(worker.stop().await.success());

    bed.set("ENCRYPTION_KEYS_PREVIOUS", ENCRYPTION_KEY);
    let _worker = bed.worker().await;
    let done = bed.program(&["dead-letters", "replay", &format!("{order}:fulfilled:webhook")]);
    assert!(String::from_utf8_lossy(&done.stdout).ends_with("runs again\n"), "{done:?}");
    until("the event is delivered", async || (bed.sink.received().len() == 2).then_some(())).await;
    let delivered = bed.sink.received()[1].json();
    assert_eq!(delivered["data"]["cardCode"].as_str(), bed.simulator.card_code(&order).as_deref());
}
