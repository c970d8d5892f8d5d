//! A refused or undelivered notification is dead-lettered, reported to the operator and can be replayed.

use std::time::Duration;

use serde_json::{Value, json};
use topup_jobs::{Incident, Outcome};
use topup_worker::clock::real_now;
use topup_worker::orders::{Notification, NotificationStatus, OrderStore};
use topup_worker::simulator::Script;

use crate::shutdown::get_from;
use crate::support::redis::free_port;
use crate::support::smtp::{MailSink, Offer};
use crate::support::{Bed, Received, SECRET, Sink, until};

const GONE: &str = "refused: HTTP 410: the receiver wants no more";

/// A bed with an operator's endpoint, and that endpoint.
async fn bed() -> (Bed, Sink) {
    bed_at(600.0).await
}

async fn bed_at(scale: f64) -> (Bed, Sink) {
    let mut bed = Bed::new(scale).await;
    let operator = Sink::default();
    bed.set("OPERATOR_WEBHOOK_URL", operator.listen().await);
    bed.set("OPERATOR_WEBHOOK_SECRET", SECRET);
    (bed, operator)
}

fn fulfilled(bed: &Bed) -> String {
    bed.order(Script::fulfilled_after(Duration::ZERO))
}

/// Hands an order over for this customer.
async fn enqueue_for(bed: &Bed, topup_id: &str, customer: Value) {
    let data = json!({"topupId": topup_id, "customer": customer}).to_string();
    bed.message(&[(b"name", b"poll-topup"), (b"data", data.as_bytes())]).await;
}

/// Waits until this endpoint has received this event.
async fn received_by(sink: &Sink, id: &str) -> Received {
    until(&format!("{id} is delivered"), async || {
        sink.received().into_iter().find(|received| received.id() == id)
    })
    .await
}

/// Waits until the operator is notified that this channel did not deliver an event, with this reason.
async fn operator_notified(operator: &Sink, order: &str, channel: &str, reason: &str) -> Received {
    let received = received_by(operator, &format!("evt_{order}_undelivered")).await;
    let body = received.json();
    assert_eq!(body["type"], "topup.undelivered");
    assert_eq!(body["data"]["topupId"], *order);
    assert_eq!(body["data"]["undelivered"]["channel"], *channel);
    assert_eq!(body["data"]["undelivered"]["reason"], *reason);
    assert_eq!(body["data"]["cardCode"], Value::Null, "the event has no card");
    received
}

async fn notification(bed: &Bed, order: &str, outcome: Outcome, channel: &str) -> Notification {
    let all = bed.store().await.notifications(&order.parse().unwrap()).await.unwrap();
    all.into_iter().find(|one| one.outcome == outcome && one.channel == channel).expect("it is stored")
}

fn dead_letters(bed: &Bed, args: &[&str]) -> String {
    let output = bed.program(&[&["dead-letters"], args].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn resend(bed: &Bed, args: &[&str]) -> String {
    let output = bed.program(&[&["resend"], args].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn a_notification_missing_in_the_database_is_dead_lettered_and_counted() {
    let mut bed = Bed::new(1.0).await;
    bed.set("WEBHOOK_URL", "http://127.0.0.1:1/");
    let address = bed.serve_http();
    let worker = bed.worker().await;
    let order = fulfilled(&bed);
    bed.enqueue([&order]).await;
    worker.logs("a notification was not delivered").await;
    bed.database("DELETE FROM notifications WHERE topup_id = ?", &order).await;
    worker.logs("a notification is not stored and cannot be sent").await;
    let listed = until("its job is a dead letter", async || {
        let listed = String::from_utf8(bed.program(&["dead-letters"]).stdout).unwrap();
        (!listed.is_empty()).then_some(listed)
    })
    .await;
    assert!(
        listed.contains("fulfilled:webhook") && listed.contains("the notification is not stored"),
        "{listed}"
    );
    let counted = "topup_notifications_undelivered_total{channel=\"webhook\",why=\"not-stored\"} 1";
    assert!(get_from(&address, "/metrics").await.contains(counted));
}

#[tokio::test]
async fn a_webhook_that_answers_410_for_a_while_loses_no_card() {
    let (mut bed, operator) = bed().await;
    let address = format!("127.0.0.1:{}", free_port());
    bed.set("HTTP_ADDR", &address);
    bed.sink.answer_first([410, 410]);
    let id = fulfilled(&bed);
    let event = format!("evt_{id}_fulfilled");
    let worker = bed.worker().await;
    bed.enqueue([&id]).await;

    let body = operator_notified(&operator, &id, "webhook", GONE).await.json();
    assert_eq!(body["data"]["undelivered"]["eventId"], *event);
    assert_eq!(body["data"]["undelivered"]["type"], "topup.fulfilled");
    bed.idle().await;
    let job = format!("{id}:fulfilled:webhook");
    assert!(dead_letters(&bed, &[]).ends_with(&format!("  {job}  {GONE}\n")), "{}", dead_letters(&bed, &[]));
    assert_eq!(bed.sink.received().len(), 1, "the endpoint that failed gets no event about itself");
    let counted = r#"topup_notifications_undelivered_total{channel="webhook",why="refused"} 1"#;
    assert!(get_from(&address, "/metrics").await.lines().any(|line| line == counted));
    let stream: Vec<(String, std::collections::HashMap<String, String>)> =
        bed.redis(&["XRANGE", "{topup}:events", "-", "+"]).await;
    let undelivered = stream.iter().find(|(_, fields)| fields["type"] == "topup.undelivered").unwrap();
    assert_eq!((&*undelivered.1["eventId"], &*undelivered.1["channel"]), (&*event, "webhook"));

    // The endpoint answers 410 once more, which is a new incident, and then accepts the event.
    assert!(dead_letters(&bed, &["replay", &job]).ends_with("runs again\n"));
    received_by(&operator, &format!("evt_{id}_undelivered_2")).await;
    bed.idle().await;
    assert!(dead_letters(&bed, &["replay", &job]).ends_with("runs again\n"));
    bed.idle().await;
    let received = bed.sink.received();
    assert_eq!(received.len(), 3);
    assert!(received.iter().all(|one| one.id() == event && one.body == received[0].body));
    assert_eq!(received[2].json()["data"]["cardCode"].as_str(), bed.simulator.card_code(&id).as_deref());
    assert_eq!(notification(&bed, &id, Outcome::Fulfilled, "webhook").await.status, NotificationStatus::Sent);
    assert_eq!(dead_letters(&bed, &[]), "");
    let log = worker.log();
    assert!(log.contains("a notification is given up; it is kept as a dead letter"), "{log}");
}

#[tokio::test]
async fn the_operator_is_notified_when_all_attempts_failed() {
    // Three days pass in a second.
    let (bed, operator) = bed_at(300_000.0).await;
    bed.sink.answer_first([500; 10]);
    let id = fulfilled(&bed);
    let _worker = bed.worker().await;
    bed.enqueue([&id]).await;
    operator_notified(&operator, &id, "webhook", "undelivered after 10 attempts, last: HTTP 500").await;
    bed.idle().await;
    assert_eq!(bed.sink.received().len(), 10);
}

#[tokio::test]
async fn an_undelivered_event_that_is_refused_causes_no_further_event() {
    let (bed, operator) = bed().await;
    bed.sink.answer_first([410; 5]);
    operator.answer_first([410; 5]);
    let id = fulfilled(&bed);
    let worker = bed.worker().await;
    bed.enqueue([&id]).await;
    operator_notified(&operator, &id, "webhook", GONE).await;
    bed.idle().await;
    assert_eq!((bed.sink.received().len(), operator.received().len()), (1, 1));
    let letters = dead_letters(&bed, &[]);
    assert_eq!(letters.lines().count(), 2, "{letters}");
    assert!(letters.contains(&format!("{id}:undelivered:operator-webhook  {GONE}")), "{letters}");
    let all = bed.store().await.notifications(&id.parse().unwrap()).await.unwrap();
    assert!(all.iter().all(|one| one.incident == Incident::FIRST), "{all:?}");
    let log = worker.log();
    let errors = log.lines().filter(|line| line.contains("ERROR") && line.contains("is given up")).count();
    assert_eq!(errors, 2, "{log}");
    // This dead letter can be replayed as any other.
    assert!(
        dead_letters(&bed, &["replay", &format!("{id}:undelivered:operator-webhook")]).contains("runs again")
    );
}

#[tokio::test]
async fn a_replay_that_stopped_between_the_database_and_redis_is_completed() {
    let (bed, _operator) = bed().await;
    bed.sink.answer_first([410]);
    let id = fulfilled(&bed);
    let _worker = bed.worker().await;
    bed.enqueue([&id]).await;
    bed.idle().await;
    assert!(dead_letters(&bed, &[]).contains(GONE));
    let stored = notification(&bed, &id, Outcome::Fulfilled, "webhook").await.payload(&id.parse().unwrap());
    // `replay` and `resend` store this first. Here the process died before it reached Redis.
    let then = real_now() - chrono::TimeDelta::hours(1);
    assert!(bed.store().await.notify_again(&stored, "replayed by the operator", false, then).await.unwrap());
    bed.delivered(&id, "fulfilled").await;
    until("it is stored as sent", async || {
        let status = notification(&bed, &id, Outcome::Fulfilled, "webhook").await.status;
        (status == NotificationStatus::Sent).then_some(())
    })
    .await;
    assert_eq!(bed.sink.received().len(), 2);
    assert_eq!(dead_letters(&bed, &[]), "");
}

/// A bed that sends mail through this server.
async fn bed_with_mail(mails: &MailSink) -> (Bed, Sink) {
    let (mut bed, operator) = bed().await;
    bed.set("SMTP_URL", format!("smtp://127.0.0.1:{}", mails.listen().await));
    bed.set("ALLOW_INSECURE_SMTP", "true");
    bed.set("EMAIL_FROM", "Boutique <topup@shop.example>");
    (bed, operator)
}

#[tokio::test]
async fn a_mail_refused_at_data_is_dead_lettered_and_sent_by_a_replay() {
    let mails = MailSink::new(Offer::default());
    let (bed, operator) = bed_with_mail(&mails).await;
    mails.answer_first([("DATA", "550 not now"), (".", "552 5.2.2 mailbox full")]);
    let id = fulfilled(&bed);
    let _worker = bed.worker().await;
    bed.enqueue([&id]).await;
    operator_notified(&operator, &id, "email", "refused: SMTP 550 to the mail").await;
    bed.idle().await;
    let job = format!("{id}:fulfilled:email");
    assert!(dead_letters(&bed, &["replay", &job]).contains("runs again"));
    bed.idle().await;
    assert!(dead_letters(&bed, &[]).contains(&format!("{job}  refused: SMTP 552 to the mail")));
    assert!(dead_letters(&bed, &["replay", &job]).contains("runs again"));
    bed.idle().await;
    let sent = mails.mails();
    assert_eq!(sent.len(), 2, "one mail was refused after its text, and one was accepted");
    assert_eq!(sent[0].bytes, sent[1].bytes);
    assert_eq!(notification(&bed, &id, Outcome::Fulfilled, "email").await.status, NotificationStatus::Sent);
}

#[tokio::test]
async fn an_invalid_email_address_is_reported_to_merchant_and_operator() {
    let mails = MailSink::new(Offer::default());
    let (bed, operator) = bed_with_mail(&mails).await;
    let id = fulfilled(&bed);
    let worker = bed.worker().await;
    enqueue_for(&bed, &id, json!({"email": "zohra.bk@@example.dz"})).await;
    let reason = "refused: the customer has no valid e-mail address";
    operator_notified(&operator, &id, "email", reason).await;
    bed.delivered(&id, "undelivered").await;
    bed.idle().await;
    assert!(dead_letters(&bed, &[]).contains(reason));

    // The order is final. Handed over again with the right address, its event can be sent.
    enqueue_for(&bed, &id, json!({"email": "zohra.bk@example.dz"})).await;
    bed.idle().await;
    let event = format!("evt_{id}_fulfilled");
    let printed = resend(&bed, &[&id, "--event", &event, "--channel", "email"]);
    assert!(
        printed.ends_with("email             was a dead letter: is due now, with all its attempts\n"),
        "{printed}"
    );
    bed.idle().await;
    let sent = mails.mails();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].to, ["zohra.bk@example.dz"]);
    assert_eq!(notification(&bed, &id, Outcome::Fulfilled, "email").await.status, NotificationStatus::Sent);
    assert!(!worker.log().contains("zohra.bk"), "{}", worker.log());
}

#[tokio::test]
async fn an_undelivered_event_is_not_reported_to_the_callback_of_its_order() {
    let (mails, shop) = (MailSink::new(Offer::default()), Sink::default());
    let (mut bed, operator) = bed_with_mail(&mails).await;
    bed.set("CALLBACK_ALLOWED_HOSTS", "127.0.0.1");
    let id = fulfilled(&bed);
    let _worker = bed.worker().await;
    let callback = shop.listen().await;
    let data = json!({"topupId": id, "customer": {"email": "zohra.bk"}, "callbackUrl": callback}).to_string();
    bed.message(&[(b"name", b"poll-topup"), (b"data", data.as_bytes())]).await;
    received_by(&operator, &format!("evt_{id}_undelivered")).await;
    bed.delivered(&id, "undelivered").await;
    bed.idle().await;
    let ids: Vec<String> = shop.received().iter().map(|one| one.id().to_owned()).collect();
    assert_eq!(ids, [format!("evt_{id}_fulfilled")]);
}

#[tokio::test]
async fn an_sms_that_a_gateway_refuses_is_reported_and_replayed() {
    let gateway = Sink::default();
    let (mut bed, operator) = bed().await;
    bed.set("SMS_REFUSED_IF", "status 400");
    bed.set("SMS_URL", gateway.listen().await);
    bed.set("SMS_BODY", r#"{"to":{{ phone | tojson }},"text":{{ text | tojson }}}"#);
    bed.set("ALLOW_INSECURE_SMS", "true");
    gateway.answer_first([400]);
    let id = fulfilled(&bed);
    let _worker = bed.worker().await;
    bed.enqueue([&id]).await;
    operator_notified(&operator, &id, "sms", "refused: HTTP 400: the gateway refuses the message").await;
    bed.idle().await;
    assert!(dead_letters(&bed, &["replay", "--all", "--job", "notify-customer"]).contains("runs again"));
    bed.idle().await;
    let requests = gateway.received();
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[0].body, requests[1].body);
    assert_eq!(notification(&bed, &id, Outcome::Fulfilled, "sms").await.status, NotificationStatus::Sent);
}

#[tokio::test]
async fn an_order_that_no_channel_can_deliver_is_reported_to_the_operator() {
    let mails = MailSink::new(Offer::default());
    let (mut bed, operator) = bed_with_mail(&mails).await;
    bed.set("WEBHOOK_URL", "");
    let address = format!("127.0.0.1:{}", free_port());
    bed.set("HTTP_ADDR", &address);
    let (with, without) = (fulfilled(&bed), fulfilled(&bed));
    let slow = bed.order(Script::handling_forever());
    let _worker = bed.worker().await;
    enqueue_for(&bed, &without, json!({"phone": "0661998877"})).await;
    enqueue_for(&bed, &slow, json!({"phone": "0661998877"})).await;
    bed.enqueue([&with]).await;
    let reason = "no channel reaches the customer or the merchant of this order: it names no address that they can use";
    let body = operator_notified(&operator, &without, "none", reason).await.json();
    assert_eq!(body["data"]["undelivered"]["eventId"], format!("evt_{without}_fulfilled"));
    received_by(&operator, &format!("evt_{slow}_delayed")).await;
    until("the other customer has a mail", async || (!mails.mails().is_empty()).then_some(())).await;
    let ids: Vec<String> = operator.received().iter().map(|one| one.id().to_owned()).collect();
    assert_eq!(ids.iter().filter(|id| id.contains("undelivered")).count(), 1, "{ids:?}");
    let counted = r#"topup_notifications_undelivered_total{channel="none",why="no-channel"} 1"#;
    assert!(get_from(&address, "/metrics").await.lines().any(|line| line == counted));

    // Handed over again with an address, its event can be sent to the customer.
    let event = format!("evt_{without}_fulfilled");
    let refused = bed.program(&["resend", &without, "--event", &event, "--channel", "email"]);
    assert_eq!(refused.status.code(), Some(1), "no address is stored yet");
    enqueue_for(&bed, &without, json!({"email": "zohra.bk@example.dz"})).await;
    let store = bed.store().await;
    until("the address is stored", async || {
        let order = store.order(&without.parse().unwrap()).await.unwrap().unwrap();
        order.customer.is_some_and(|customer| customer.email.is_some()).then_some(())
    })
    .await;
    let printed = resend(&bed, &[&without, "--event", &event]);
    let added = format!("{event}  email             could not be sent by this channel before: is due now\n");
    assert!(printed.contains(&added), "{printed}");
    let sent =
        until("the mail is delivered", async || Some(mails.mails()).filter(|sent| sent.len() == 2)).await;
    assert_eq!(sent[1].to, ["zohra.bk@example.dz"]);
}

#[tokio::test]
async fn a_deployment_without_channels_to_receivers_gets_no_undelivered_event() {
    let (mut bed, operator) = bed().await;
    bed.set("WEBHOOK_URL", "");
    let id = fulfilled(&bed);
    let _worker = bed.worker().await;
    bed.enqueue([&id]).await;
    until("the stream has the outcome", async || {
        (bed.redis::<usize>(&["XLEN", "{topup}:events"]).await == 1).then_some(())
    })
    .await;
    bed.idle().await;
    assert_eq!(bed.redis::<usize>(&["XLEN", "{topup}:events"]).await, 1);
    assert!(operator.received().is_empty());
}
