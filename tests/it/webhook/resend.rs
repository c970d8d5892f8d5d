//! `resend` sends an event at once, whether it is pending, dead-lettered or delivered.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use topup_jobs::Outcome;
use topup_worker::orders::NotificationStatus;
use topup_worker::simulator::Script;

use super::receiver::{Answer, Receiver};
use super::{dead_letter, notification};
use crate::support::{Bed, until};

const DAY: f64 = 24.0 * 3600.0;

fn resend(bed: &Bed, args: &[&str]) -> String {
    let output = bed.program(&[&["resend"], args].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A receiver that fails with this response until the flag is set, and then answers 204.
async fn failing(answer: Answer) -> (Receiver, Arc<AtomicBool>) {
    let recovered = Arc::new(AtomicBool::new(false));
    let answers = Arc::clone(&recovered);
    let receiver =
        Receiver::start(
            move |_| {
                if answers.load(Ordering::SeqCst) { Answer::status(204) } else { answer.clone() }
            },
        )
        .await;
    (receiver, recovered)
}

#[tokio::test]
async fn a_retry_after_of_a_year_waits_a_day_and_resend_sends_at_once() {
    let mut bed = Bed::new(1.0).await;
    let (receiver, recovered) = failing(Answer::with(503, "retry-after: 31536000\r\n")).await;
    bed.set("WEBHOOK_URL", receiver.url.clone());
    let id = bed.order(Script::fulfilled_after(Duration::ZERO));
    let _worker = bed.worker().await;
    let time = async || {
        let (seconds, micros): (f64, f64) = bed.redis(&["TIME"]).await;
        seconds + micros / 1e6
    };
    let before = time().await;
    bed.enqueue([&id]).await;
    let job = format!("{id}:fulfilled:webhook");
    let due = until("the next attempt is scheduled", async || {
        bed.redis::<Option<f64>>(&["ZSCORE", "{topup}:notify-customer:scheduled", &job]).await
    })
    .await;
    let after = time().await;
    assert!((before + DAY..=after + DAY).contains(&due), "due at {due}, between {before} and {after}");
    let stored = notification(&bed, &id, Outcome::Fulfilled, "webhook").await.unwrap();
    let stored = stored.next_attempt_at.unwrap().timestamp_micros();
    #[expect(clippy::cast_precision_loss, reason = "microseconds of this century")]
    let stored = stored as f64 / 1e6;
    assert!((before + DAY - 1.0..=after + DAY + 1.0).contains(&stored), "stored as {stored}, due at {due}");

    until("the event stream is recorded", async || {
        let by_stream = notification(&bed, &id, Outcome::Fulfilled, "events").await?;
        (by_stream.status == NotificationStatus::Sent).then_some(())
    })
    .await;
    recovered.store(true, Ordering::SeqCst);
    let shown = resend(&bed, &[&id]);
    assert_eq!(
        shown,
        format!("evt_{id}_fulfilled  webhook           waited for its next attempt: is due now\n")
    );
    bed.idle().await;
    let requests = receiver.requests();
    assert_eq!(requests.len(), 2);
    assert!(requests[0].id() == requests[1].id() && requests[0].body == requests[1].body);
    let sent = notification(&bed, &id, Outcome::Fulfilled, "webhook").await.unwrap();
    assert_eq!((sent.status, sent.attempts), (NotificationStatus::Sent, 2), "the count continues");
    assert!(resend(&bed, &[&id]).starts_with("no notification of order"));
}

#[tokio::test]
async fn a_dead_lettered_and_a_delivered_event_are_resent_under_their_id() {
    let mut bed = Bed::new(600.0).await;
    let (receiver, recovered) = failing(Answer::status(410)).await;
    bed.set("WEBHOOK_URL", receiver.url.clone());
    let id = bed.order(Script::refunded_after(Duration::ZERO));
    let event = format!("evt_{id}_refunded");
    let _worker = bed.worker().await;
    bed.enqueue([&id]).await;
    dead_letter(&bed, &id, Outcome::Refunded, "webhook").await;
    bed.idle().await;
    recovered.store(true, Ordering::SeqCst);
    let shown = resend(&bed, &[&id, "--event", &event, "--channel", "webhook"]);
    assert!(shown.ends_with("was a dead letter: is due now, with all its attempts\n"), "{shown}");
    bed.idle().await;
    assert_eq!(receiver.requests().len(), 2);
    let sent = notification(&bed, &id, Outcome::Refunded, "webhook").await.unwrap();
    assert_eq!((sent.status, sent.attempts), (NotificationStatus::Sent, 1));

    // The event was delivered, and the receiver has lost it.
    let shown = resend(&bed, &[&id, "--event", &event]);
    assert_eq!(shown.matches("was delivered before: is sent again").count(), 2, "both channels: {shown}");
    bed.idle().await;
    let requests = receiver.requests();
    assert_eq!(requests.len(), 3);
    assert!(requests.iter().all(|one| one.id() == event && one.body == requests[0].body));
    assert!(bed.shown(&id).contains("resent by the operator"), "{}", bed.shown(&id));
}

#[tokio::test]
async fn unknown_orders_events_and_channels_are_reported() {
    let bed = Bed::new(600.0).await;
    let id = bed.order(Script::refunded_after(Duration::ZERO));
    let _worker = bed.worker().await;
    bed.enqueue([&id]).await;
    bed.delivered(&id, "refunded").await;
    bed.idle().await;
    let unknown = "b".repeat(24);
    for (args, code, words) in [
        (&["0661998877"][..], 2, "<TOPUP_ID> cannot be used"),
        (&[&unknown], 1, "is stored"),
        (&[&id, "--event", "evt_1"], 1, "has no event evt_1"),
        (&[&id, "--channel", "fax"], 1, "goes by the channel fax"),
    ] {
        let output = bed.program(&[&["resend"], args].concat());
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        assert!(stderr.contains(words), "{stderr}");
    }
    assert_eq!(bed.sink.received().len(), 1);
}
