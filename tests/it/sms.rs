//! Customers get SMS through a gateway that the merchant describes in the settings.

use std::time::Duration;

use topup_jobs::OrderStatus;
use topup_worker::simulator::Script;

use crate::support::{Bed, Received, Sink, until};

const PHONE: &str = "0661998877";

/// A bed that sends SMS through this gateway.
async fn bed(gateway: &Sink) -> Bed {
    let mut bed = Bed::new(600.0).await;
    bed.set("SMS_URL", gateway.listen().await + "?account=account-of-mine");
    bed.set("SMS_HEADERS", "Authorization: Bearer token-of-mine\nX-Shop: Boutique");
    bed.set("SMS_BODY", r#"{"to":{{ phone | tojson }},"text":{{ text | tojson }},"id":"{{ event_id }}"}"#);
    bed.set("ALLOW_INSECURE_SMS", "true");
    bed
}

/// Waits until the gateway has received this many requests.
async fn requests(gateway: &Sink, count: usize) -> Vec<Received> {
    until(&format!("the gateway has received {count} requests"), async || {
        let received = gateway.received();
        (received.len() >= count).then_some(received)
    })
    .await
}

#[tokio::test]
async fn customers_get_an_sms_in_their_language_and_without_the_code() {
    let gateway = Sink::default();
    let bed = bed(&gateway).await;
    let orders = [
        bed.order(Script::fulfilled_after(Duration::ZERO)),
        bed.order(Script::refunded_after(Duration::ZERO)),
    ];
    let worker = bed.worker().await;
    bed.enqueue(&orders).await;
    let received = requests(&gateway, 2).await;
    bed.idle().await;
    assert_eq!(gateway.received().len(), 2);
    for (order, outcome, words) in [(&orders[0], "fulfilled", "جاهزة"), (&orders[1], "refunded", "تعذر")]
    {
        let id = format!("evt_{order}_{outcome}");
        let sms = received.iter().find(|one| one.json()["id"] == id).unwrap();
        assert_eq!(sms.json()["to"], PHONE);
        let text = sms.json()["text"].as_str().unwrap().to_owned();
        assert!(text.contains(words), "{text}");
        assert_eq!(sms.header("authorization"), "Bearer token-of-mine");
        assert_eq!(sms.header("x-shop"), "Boutique");
        assert_eq!(sms.header("content-type"), "application/json");
        let code = bed.simulator.card_code(order);
        assert!(code.is_none_or(|code| !text.contains(&code)), "{text}");
    }
    let log = worker.log();
    for secret in ["token-of-mine", "account-of-mine", PHONE] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}

#[tokio::test]
async fn a_failed_request_to_the_gateway_is_repeated_with_the_same_body() {
    let gateway = Sink::default();
    let mut bed = bed(&gateway).await;
    bed.set("SMS_CARD", "code");
    gateway.answer_first([500, 429, 400, 422]);
    let id = bed.order(Script::fulfilled_after(Duration::ZERO));
    let _worker = bed.worker().await;
    bed.enqueue([&id]).await;
    let received = requests(&gateway, 5).await;
    bed.idle().await;
    assert_eq!(gateway.received().len(), 5);
    assert!(received.iter().all(|one| one.body == received[0].body));
    let code = bed.simulator.card_code(&id).unwrap();
    assert!(received[0].json()["text"].as_str().unwrap().contains(&code));
    assert!(bed.shown(&id).contains("fulfilled by sms: sent"), "{}", bed.shown(&id));
}

#[tokio::test]
async fn a_refusal_that_matches_sms_refused_if_ends_the_delivery() {
    let gateway = Sink::default();
    let mut bed = bed(&gateway).await;
    bed.set("SMS_REFUSED_IF", "no such number, status 422");
    gateway.answer_first([422]);
    let id = bed.order(Script::refunded_after(Duration::ZERO));
    let _worker = bed.worker().await;
    bed.enqueue([&id]).await;
    requests(&gateway, 1).await;
    bed.idle().await;
    assert_eq!(gateway.received().len(), 1);
    let shown = bed.shown(&id);
    assert!(shown.contains("refunded by sms: refused") && shown.contains("HTTP 422"), "{shown}");
}

#[tokio::test]
async fn a_customer_without_a_phone_number_gets_no_sms() {
    let gateway = Sink::default();
    let bed = bed(&gateway).await;
    let id = bed.order(Script::refunded_after(Duration::ZERO));
    let _worker = bed.worker().await;
    let data = format!(r#"{{"topupId":"{id}","customer":{{"email":"zohra.bk@example.dz"}}}}"#);
    bed.message(&[(b"name", b"poll-topup"), (b"data", data.as_bytes())]).await;
    bed.stored(std::slice::from_ref(&id), OrderStatus::Refunded).await;
    bed.delivered(&id, "refunded").await;
    bed.idle().await;
    assert_eq!(gateway.received().len(), 0);
    assert!(!bed.shown(&id).contains("by sms"), "{}", bed.shown(&id));
}
