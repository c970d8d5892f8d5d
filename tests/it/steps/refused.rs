//! A crash between any two steps of a notification that is refused: it is kept as a dead letter, and the operator is
//! notified once.

use std::time::Duration;

use futures_util::future::join_all;
use topup_jobs::{Incident, Outcome, TopupId};
use topup_worker::orders::{NotificationStatus, OrderStore};
use topup_worker::simulator::Script;

use super::process::SteppedWorker;
use super::{AT_ONCE, SCALE, TOO_MANY, told_alike};
use crate::support::{Bed, SECRET, Sink, until};

#[tokio::test]
async fn a_crash_at_any_step_of_a_refused_notification_leaves_one_dead_letter_and_one_event_for_the_operator()
{
    for first in (1..TOO_MANY).step_by(AT_ONCE as usize) {
        let crashed = join_all((first..first + AT_ONCE).map(crash_at)).await;
        assert!(first > 1 || !crashed.contains(&false), "there are hardly any steps");
        if crashed.contains(&false) {
            return;
        }
    }
    panic!("there are more than {TOO_MANY} steps");
}

/// Whether the worker crashed: it does not where there are fewer steps.
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
    account(&bed, &operator, &order).await;
    crashed
}

/// Waits until the notification is a dead letter and every other one is delivered.
async fn settled(bed: &Bed, order: &str) {
    let store = bed.store().await;
    let id: TopupId = order.parse().expect("an id");
    until("the refusal is settled", async || {
        let told = store.notifications(&id).await.ok()?;
        let left: usize = bed.redis(&["HLEN", "{topup}:notify-customer:data"]).await;
        let dead: usize = bed.redis(&["SCARD", "{topup}:notify-customer:dead"]).await;
        let polled: usize = bed.redis(&["HLEN", "{topup}:poll-topup:data"]).await;
        let pending = told.iter().any(|one| one.status == NotificationStatus::Pending);
        let done = told.len() > 2 && !pending && (left, dead, polled) == (1, 1, 0);
        done.then_some(())
    })
    .await;
}

async fn account(bed: &Bed, operator: &Sink, order: &str) {
    let told = bed.store().await.notifications(&order.parse().expect("an id")).await.expect("it is read");
    let mut all: Vec<(Outcome, &str, NotificationStatus)> =
        told.iter().map(|one| (one.outcome, one.channel.as_str(), one.status)).collect();
    all.sort_by_key(|(outcome, channel, _)| (outcome.as_str(), *channel));
    let expected = [
        (Outcome::Fulfilled, "events", NotificationStatus::Sent),
        (Outcome::Fulfilled, "webhook", NotificationStatus::Refused),
        (Outcome::Undelivered, "events", NotificationStatus::Sent),
        (Outcome::Undelivered, "operator-webhook", NotificationStatus::Sent),
    ];
    assert_eq!(all, expected);
    assert!(told.iter().all(|one| one.incident == Incident::FIRST), "{told:?}");
    let dead: Vec<String> = bed.redis(&["SMEMBERS", "{topup}:notify-customer:dead"]).await;
    assert_eq!(dead, [format!("{order}:fulfilled:webhook")]);
    told_alike(&bed.sink.received(), &format!("evt_{order}_fulfilled"));
    told_alike(&operator.received(), &format!("evt_{order}_undelivered"));
}
