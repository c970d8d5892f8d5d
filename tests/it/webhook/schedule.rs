//! Attempts are made at the specified times for every kind of receiver failure, and all attempts of an event carry
//! one id, the same bytes and a valid signature.

use std::time::Duration;

use topup_jobs::{NOTIFY_WAITS, Outcome};
use topup_worker::orders::NotificationStatus;
use topup_worker::simulator::Script;

use super::receiver::{Answer, Receiver};
use super::{callback_secret, dead_letter, enqueue_at, notification};
use crate::support::redis::free_port;
use crate::support::{Bed, until};

/// Four hours pass in a second, three days in nineteen.
const SCALE: f64 = 4.0 * 3600.0;
/// The delay that a machine busy with other tests may add to a wait.
const TOLERANCE: Duration = Duration::from_secs(4);
/// The real time after which an attempt without an answer ends.
const TIMEOUT: Duration = Duration::from_secs(15);
const OUTCOME: Outcome = Outcome::Fulfilled;

/// Asserts that all attempts arrived at their times, with one id and the same bytes. The first attempt took
/// `answered_after` to fail.
fn assert_as_specified(name: &str, receiver: &Receiver, secret: &str, answered_after: Duration) {
    let requests = receiver.requests();
    assert_eq!(requests.len(), NOTIFY_WAITS.len(), "{name}");
    for (n, request) in requests.iter().enumerate() {
        assert_eq!(request.id(), requests[0].id(), "{name}");
        assert_eq!(request.body, requests[0].body, "{name}: attempt {n} carries other bytes");
        assert!(request.is_signed_with(secret), "{name}: attempt {n}");
    }
    for (n, pair) in requests.windows(2).enumerate() {
        let gap = pair[1].at - pair[0].at;
        let wait = NOTIFY_WAITS[n + 1].div_f64(SCALE);
        let failed_after = if n == 0 { answered_after } else { Duration::ZERO };
        // The receiver sees a request a moment after the sender has begun it.
        let earliest = failed_after.mul_f64(0.95) + wait.mul_f64(0.9);
        let latest = failed_after + wait.mul_f64(1.1) + TOLERANCE;
        assert!((earliest..=latest).contains(&gap), "{name}: attempt {} came after {gap:?}", n + 1);
    }
}

#[tokio::test]
async fn every_failure_has_ten_attempts_at_the_specified_times() {
    let mut bed = Bed::new(SCALE).await;
    bed.set("CALLBACK_ALLOWED_HOSTS", "127.0.0.1");
    let elsewhere = Receiver::start(|_| Answer::status(204)).await;
    let location = format!("location: {}\r\n", elsewhere.url);
    let mut failing = Vec::new();
    for (name, receiver) in [
        ("500", Receiver::start(|_| Answer::status(500)).await),
        ("301", Receiver::start(move |_| Answer::with(301, &location)).await),
        ("429 without a time", Receiver::start(|_| Answer::status(429)).await),
        ("a connection that is closed", Receiver::start(|_| Answer::Bytes(String::new())).await),
        ("half a status line", Receiver::start(|_| Answer::Bytes("HTTP/1.1 2".to_owned())).await),
        ("no HTTP", Receiver::start(|_| Answer::Bytes("220 smtp.example ESMTP\r\n".to_owned())).await),
        ("101", Receiver::start(|_| Answer::Bytes("HTTP/1.1 101 x\r\n\r\n".to_owned())).await),
    ] {
        let id = bed.order(Script::fulfilled_after(Duration::ZERO));
        enqueue_at(&bed, &id, &receiver.url).await;
        failing.push((name, id, receiver));
    }
    let slow = Receiver::start(|n| if n == 0 { Answer::Silence } else { Answer::status(503) }).await;
    let slow_id = bed.order(Script::fulfilled_after(Duration::ZERO));
    enqueue_at(&bed, &slow_id, &slow.url).await;
    let down_id = bed.order(Script::fulfilled_after(Duration::ZERO));
    enqueue_at(&bed, &down_id, &format!("http://127.0.0.1:{}/", free_port())).await;
    let secret = callback_secret(&bed, "127.0.0.1").await;
    let _worker = bed.worker().await;

    for (name, id, receiver) in &failing {
        let reason = dead_letter(&bed, id, OUTCOME, "callback").await;
        assert!(reason.starts_with("undelivered after 10 attempts, last: "), "{name}: {reason}");
        assert_as_specified(name, receiver, &secret, Duration::ZERO);
    }
    assert_eq!(elsewhere.requests().len(), 0, "no redirect is followed");
    let reason = "undelivered after 10 attempts, last: the connection was refused";
    assert_eq!(dead_letter(&bed, &down_id, OUTCOME, "callback").await, reason);
    let down = notification(&bed, &down_id, OUTCOME, "callback").await.unwrap();
    assert_eq!((down.attempts, down.status), (10, NotificationStatus::Failed));
    assert_eq!(down.last_error.as_deref(), Some("the connection was refused"));
    dead_letter(&bed, &slow_id, OUTCOME, "callback").await;
    assert_as_specified("slow", &slow, &secret, TIMEOUT);
    let merchant = bed.sink.received();
    let only_undelivered = merchant.iter().all(|one| one.json()["type"] == "topup.undelivered");
    assert!(only_undelivered, "the merchant's endpoint receives only `topup.undelivered`");
}

#[tokio::test]
async fn a_retry_after_is_real_time_and_kept_in_full() {
    let mut bed = Bed::new(SCALE).await;
    bed.set("CALLBACK_ALLOWED_HOSTS", "127.0.0.1");
    // Unit tests cover the date form, which needs a clock.
    let receiver = Receiver::start(|_| Answer::with(429, "retry-after: 120\r\n")).await;
    let id = bed.order(Script::fulfilled_after(Duration::ZERO));
    let witness = Receiver::start(|_| Answer::status(500)).await;
    let witness_id = bed.order(Script::fulfilled_after(Duration::ZERO));
    let _worker = bed.worker().await;
    let time = async || {
        let (seconds, micros): (f64, f64) = bed.redis(&["TIME"]).await;
        seconds + micros / 1e6
    };
    let before = time().await;
    enqueue_at(&bed, &id, &receiver.url).await;
    let job = format!("{id}:fulfilled:callback");
    let due = until("the next attempt is scheduled", async || {
        bed.redis::<Option<f64>>(&["ZSCORE", "{topup}:notify-customer:scheduled", &job]).await
    })
    .await;
    // The receiver answered and the retry was scheduled between these two moments.
    let (earliest, latest) = (before + 120.0, time().await + 120.0);
    assert!((earliest..=latest).contains(&due), "due at {due}, and not from {earliest} to {latest}");
    let stored = notification(&bed, &id, OUTCOME, "callback").await.unwrap();
    assert_eq!((stored.attempts, stored.last_error.as_deref()), (1, Some("HTTP 429")));

    // While another event makes all its ten attempts, this receiver gets no further request.
    enqueue_at(&bed, &witness_id, &witness.url).await;
    dead_letter(&bed, &witness_id, OUTCOME, "callback").await;
    assert_eq!((witness.requests().len(), receiver.requests().len()), (10, 1));
}

#[tokio::test]
async fn the_body_of_a_2xx_response_is_ignored() {
    let mut bed = Bed::new(SCALE).await;
    bed.set("CALLBACK_ALLOWED_HOSTS", "127.0.0.1");
    let chunks = format!("HTTP/1.1 200 x\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{}", "not a chunk");
    let mut orders = Vec::new();
    for (answer, code) in [
        (Answer::Bytes("HTTP/1.1 200 x\r\ncontent-length: 5000\r\n\r\nhalf a bo".to_owned()), 200),
        (Answer::Bytes(chunks), 200),
        (Answer::Bytes("HTTP/1.1 202 x\r\n\r\nuntil it closes".to_owned()), 202),
        (Answer::status(410), 410),
    ] {
        let receiver = Receiver::start(move |_| answer.clone()).await;
        let id = bed.order(Script::fulfilled_after(Duration::ZERO));
        enqueue_at(&bed, &id, &receiver.url).await;
        orders.push((id, receiver, code));
    }
    let _worker = bed.worker().await;
    bed.stored(
        &orders.iter().map(|(id, ..)| id.clone()).collect::<Vec<_>>(),
        topup_jobs::OrderStatus::Fulfilled,
    )
    .await;
    bed.idle().await;
    for (id, receiver, code) in orders {
        let stored = notification(&bed, &id, OUTCOME, "callback").await.unwrap();
        let expected = if code == 410 { NotificationStatus::Refused } else { NotificationStatus::Sent };
        assert_eq!((stored.status, stored.attempts, receiver.requests().len()), (expected, 1, 1), "{code}");
    }
}
