//! A crash between any two steps of a refused notification: one dead letter, and one event for the operator.

use std::time::Duration;

use futures_util::future::join_all;
use topup_jobs::{Incident, Outcome, TopupId};
use topup_worker::orders::{NotificationStatus, OrderStore};
use topup_worker::simulator::Script;

use super::process::SteppedWorker;
use super::{MAX_STEPS, PARALLEL, SCALE, assert_same_event};
use crate::support::{Bed, SECRET, Sink, until};

#[tokio::test]
async fn a_crash_at_any_step_of_a_refused_notification_leaves_one_dead_letter_and_one_event() {
    for first in (1..MAX_STEPS).step_by(PARALLEL as usize) {
        let crashed = join_all((first..first + PARALLEL).map(crash_at)).await;
        assert!(first > 1 || !crashed.contains(&false), "there are fewer than {PARALLEL} steps");
        if crashed.contains(&false) {
            return;
        }
    }
    panic!("there are more than {MAX_STEPS} steps");
}

/// Returns whether the worker crashed; it does not if there are fewer steps.
async fn crash_at(step: u32) -> bool {
    let mut bed = Bed::new(SCALE).await;
    let operator = Sink::default();
    bed.set("OPERATOR_WEBHOOK_URL", operator.listen().await);
    bed.set("OPERATOR_WEBHOOK_SECRET", SECRET);
    bed.set("CONCURRENCY", "4");
    bed.sink.answer_first([410; 50]);
    let order = bed.order(Script::fulfilled_after(Duration::ZERO));
    bed.enqueue([&order]).await;
    let mut worker = SteppedWorker::start(&bed, step);
    let crashed = tokio::select! {
        biased;
        () = worker.crashes() => true,
        () = settled(&bed, &order) => false,
    };
    if crashed {
        drop(worker);
        let _second = bed.worker().await;
        settled(&bed, &order).await;
    }
    assert_expected(&bed, &operator, &order).await;
    crashed
}

/// Waits until the webhook is a dead letter and every other notification is sent.
async fn settled(bed: &Bed, order: &str) {
    let store = bed.store().await;
    let id: TopupId = order.parse().expect("an id");
    until("the refused notification is settled", async || {
        let stored = store.notifications(&id).await.ok()?;
        let queued: usize = bed.redis(&["HLEN", "{topup}:notify-customer:data"]).await;
        let dead_letters: usize = bed.redis(&["SCARD", "{topup}:notify-customer:dead"]).await;
        let polling: usize = bed.redis(&["HLEN", "{topup}:poll-topup:data"]).await;
        let pending = stored.iter().any(|one| one.status == NotificationStatus::Pending);
        let done = stored.len() > 2 && !pending && (queued, dead_letters, polling) == (1, 1, 0);
        done.then_some(())
    })
    .await;
}

async fn assert_expected(bed: &Bed, operator: &Sink, order: &str) {
    let stored = bed.store().await.notifications(&order.parse().expect("an id")).await.expect("it is read");
    let mut all: Vec<(Outcome, &str, NotificationStatus)> =
        stored.iter().map(|one| (one.outcome, one.channel.as_str(), one.status)).collect();
    all.sort_by_key(|(outcome, channel, _)| (outcome.as_str(), *channel));
    let expected = [
        (Outcome::Fulfilled, "events", NotificationStatus::Sent),
        (Outcome::Fulfilled, "webhook", NotificationStatus::Refused),
        (Outcome::Undelivered, "events", NotificationStatus::Sent),
        (Outcome::Undelivered, "operator-webhook", NotificationStatus::Sent),
    ];
    assert_eq!(all, expected);
    assert!(stored.iter().all(|one| one.incident == Incident::FIRST), "{stored:?}");
    let dead_letters: Vec<String> = bed.redis(&["SMEMBERS", "{topup}:notify-customer:dead"]).await;
    assert_eq!(dead_letters, [format!("{order}:fulfilled:webhook")]);
    assert_same_event(&bed.sink.received(), &format!("evt_{order}_fulfilled"));
    assert_same_event(&operator.received(), &format!("evt_{order}_undelivered"));
}
