//! Orders end as the provider reports them, in the store and at the receiver of the webhooks.

use std::process::Command;
use std::time::Duration;

use topup_jobs::OrderStatus;
use topup_worker::simulator::{Answer, Fault, Script};

use crate::support::{Bed, Received, SECRET};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn orders_end_fulfilled_refunded_and_scheduled_then_fulfilled() {
    let bed = Bed::new(3600.0 * 4.0).await;
    let fulfilled = bed.order(Script::fulfilled_after(10 * SECOND));
    let refunded = bed.order(Script::refunded_after(5 * SECOND));
    let scheduled = bed.order(Script::default().then(5 * SECOND, Answer::Queued));
    let _worker = bed.worker().await;
    bed.enqueue([&fulfilled, &refunded, &scheduled]).await;
    bed.delivered(&scheduled, "scheduled").await;
    bed.simulator.set_script(&scheduled, Script::fulfilled_after(Duration::ZERO));

    for (id, outcome) in [
        (&fulfilled, "fulfilled"),
        (&refunded, "refunded"),
        (&scheduled, "scheduled"),
        (&scheduled, "fulfilled"),
    ] {
        let received = bed.delivered(id, outcome).await;
        verify(&received);
        let body = received.json();
        assert_eq!(body["type"], format!("topup.{outcome}"));
        assert_eq!(body["data"]["topupId"], **id);
        assert_eq!(body["data"]["metadata"]["cart"], "c-1");
        assert_eq!(body["data"]["customer"]["phone"], "0661998877");
        let card = bed.simulator.card_code(id);
        let delivered = body["data"]["cardCode"].as_str().map(str::to_owned);
        assert_eq!(delivered, card.filter(|_| outcome == "fulfilled"), "{outcome}");
    }
    bed.idle().await;
    for (id, status) in [(&fulfilled, "FULFILLED"), (&refunded, "REFUNDED"), (&scheduled, "FULFILLED")] {
        let shown = bed.shown(id);
        assert!(shown.contains(&format!("status           {status}\n")), "{shown}");
    }
    let events: usize = bed.redis(&["XLEN", "{topup}:events"]).await;
    assert_eq!(events, 4);
}

/// Checks a signature with another implementation, the Python package of Standard Webhooks.
fn verify(received: &Received) {
    let Some(python) = std::env::var_os("TOPUP_TEST_PYTHON") else {
        eprintln!("left out: the signature is not checked by Python (TOPUP_TEST_PYTHON is not set)");
        return;
    };
    let headers: serde_json::Map<_, _> = ["webhook-id", "webhook-timestamp", "webhook-signature"]
        .into_iter()
        .map(|name| (name.to_owned(), received.header(name).into()))
        .collect();
    let script = "import sys, json; from standardwebhooks import Webhook; \
                  Webhook(sys.argv[1]).verify(sys.argv[2], json.loads(sys.argv[3]))";
    let body = String::from_utf8_lossy(&received.body).into_owned();
    let headers = serde_json::Value::Object(headers).to_string();
    let verified = Command::new(&python).args(["-c", script, SECRET, &body, &headers]).output().unwrap();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    let forged = body.replace("topup.", "topup,");
    let refused = Command::new(&python).args(["-c", script, SECRET, &forged, &headers]).output().unwrap();
    assert!(!refused.status.success(), "a forged body passes");
}

#[tokio::test]
async fn a_failed_delivery_is_repeated_with_the_same_bytes() {
    let bed = Bed::new(600.0).await;
    let id = bed.order(Script::fulfilled_after(Duration::ZERO));
    bed.sink.answer_first([500, 302, 429]);
    let _worker = bed.worker().await;
    bed.enqueue([&id]).await;
    bed.stored(std::slice::from_ref(&id), OrderStatus::Fulfilled).await;
    bed.idle().await;
    let received = bed.sink.received();
    assert_eq!(received.len(), 4, "the first, and retries after 5 s, 5 min and 30 min");
    assert!(received.iter().all(|one| one.body == received[0].body && one.id() == received[0].id()));
    assert!(bed.shown(&id).contains("fulfilled by webhook: sent"), "{}", bed.shown(&id));
    assert!(bed.shown(&id).contains("4 attempts"), "{}", bed.shown(&id));
}

#[tokio::test]
async fn a_receiver_that_answers_410_gets_no_further_attempt() {
    let bed = Bed::new(600.0).await;
    let id = bed.order(Script::refunded_after(Duration::ZERO));
    bed.sink.answer_first([410]);
    let _worker = bed.worker().await;
    bed.enqueue([&id]).await;
    bed.delivered(&id, "refunded").await;
    bed.idle().await;
    assert_eq!(bed.sink.received().len(), 1);
    assert!(bed.shown(&id).contains("refunded by webhook: refused"), "{}", bed.shown(&id));
}

#[tokio::test]
async fn an_order_that_the_provider_does_not_know_is_dead_lettered_and_reported() {
    let bed = Bed::new(600.0).await;
    let id = "aaaaaaaaaaaaaaaaaaaaaaaa".to_owned();
    let _worker = bed.worker().await;
    bed.enqueue([&id]).await;
    let received = bed.delivered(&id, "unresolved").await;
    assert_eq!(received.json()["type"], "topup.unresolved");
    bed.idle().await;
    let dead: Vec<String> = bed.redis(&["SMEMBERS", "{topup}:poll-topup:dead"]).await;
    assert_eq!(dead, std::slice::from_ref(&id));
    let reason: String = bed.redis(&["HGET", &format!("{{topup}}:poll-topup:meta:{id}"), "reason"]).await;
    assert_eq!(reason, "not-found");
}

#[tokio::test]
async fn an_open_breaker_makes_every_order_wait_without_losing_attempts() {
    let bed = Bed::new(60.0).await;
    let limited = Answer::Fault(Fault::RateLimited429 { retry_after: Some(60) });
    let first = bed.order(Script::fulfilled_after(Duration::ZERO).first([limited]));
    let second = bed.order(Script::fulfilled_after(Duration::ZERO));
    let _worker = bed.worker().await;
    bed.enqueue([&first]).await;
    crate::support::until("the breaker opens", async || {
        (bed.redis::<usize>(&["EXISTS", &bed.budget_key("breaker")]).await == 1).then_some(())
    })
    .await;
    bed.enqueue([&second]).await;
    bed.stored(&[first.clone(), second.clone()], OrderStatus::Fulfilled).await;
    let calls = bed.simulator.calls(&first);
    assert!(calls[1].at >= calls[0].at + 59 * SECOND, "{calls:?}");
    assert_eq!(calls.len(), 2);
    assert_eq!(bed.simulator.calls(&second).len(), 1, "no request was made while the breaker was open");
}

#[tokio::test]
async fn an_order_handed_over_twice_is_tracked_once_and_a_final_one_not_at_all() {
    let bed = Bed::new(60.0).await;
    let id = bed.order(Script::fulfilled_after(20 * SECOND));
    let _worker = bed.worker().await;
    bed.enqueue([&id, &id, &id]).await;
    bed.delivered(&id, "fulfilled").await;
    bed.idle().await;
    let calls = bed.simulator.calls(&id).len();
    assert!(calls <= 9, "one sequence of polls: {calls}");
    bed.enqueue([&id]).await;
    bed.idle().await;
    assert_eq!(bed.simulator.calls(&id).len(), calls, "a final order is not checked");
    assert_eq!(bed.sink.received().len(), 1);
}

#[tokio::test]
async fn a_rust_producer_can_push_with_apalis_redis() {
    use apalis::prelude::TaskSink;
    use apalis_redis::{Config, RedisStorage};
    use topup_jobs::PollTopup;

    let bed = Bed::new(60.0).await;
    let _worker = bed.worker().await;
    let id = bed.order(Script::fulfilled_after(5 * SECOND));
    let config = Config::default().queue("{topup}:poll-topup");
    let mut storage = RedisStorage::<PollTopup, _>::new(bed.connection().await).with_config(config);
    storage.push(PollTopup::new(id.parse().unwrap())).await.unwrap();
    bed.delivered(&id, "fulfilled").await;
    bed.idle().await;
}

#[tokio::test]
async fn a_revoked_key_is_tried_by_one_order_after_each_pause() {
    let mut bed = Bed::new(600.0).await;
    bed.set("ONECLICKDZ_API_KEY", "revoked-key");
    let orders: Vec<String> = (0..50).map(|_| bed.order(Script::fulfilled_after(Duration::ZERO))).collect();
    let mut worker = bed.worker().await;
    bed.enqueue(&orders).await;
    // Two pauses of 15 minutes: after the first one, only one order is checked.
    crate::support::until("the second request is refused", async || {
        let closed: usize = bed.redis(&["EXISTS", &bed.budget_key("refused")]).await;
        (bed.simulator.total_calls() >= 2 && closed == 1).then_some(())
    })
    .await;
    assert_eq!(bed.simulator.total_calls(), 2, "one request for each pause");
    let logged = worker.log().matches("refuses the API key of this worker").count();
    assert_eq!(logged, 1, "logged once: {}", worker.log());
    assert!(worker.stop().await.success());
    bed.set("ONECLICKDZ_API_KEY", "sandbox-key");
    let _worker = bed.worker().await;
    bed.stored(&orders, OrderStatus::Fulfilled).await;
    let dead: usize = bed.redis(&["SCARD", "{topup}:poll-topup:dead"]).await;
    assert_eq!(dead, 0, "every order waited");
}
