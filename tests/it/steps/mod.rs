//! A crash between any two steps of an outcome: the store is correct, every channel is notified at least once, and
//! a repeat carries the same id and the same bytes.
//!
//! For each outcome one worker crashes at its first step, another at its second, and so on to the last; each time a
//! worker that does not crash takes over. The crashing workers are this test binary with the real store, provider
//! client and channels, which count their calls; see `stepped`.

mod process;
mod refused;
mod stepped;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use futures_util::future::join_all;
use topup_jobs::{OrderStatus, TopupId};
use topup_worker::orders::{NotificationStatus, OrderStore};
use topup_worker::simulator::Script;

use self::process::SteppedWorker;
use crate::support::{Bed, Received, SECRET, Sink, until};

/// A minute of the domain passes in a tenth of a second.
const SCALE: f64 = 600.0;
/// Crashes that are tested at the same time; a take-over mostly waits for a lease to expire.
const PARALLEL: u32 = 20;
/// A lower bound: before and after the calls that track, check and store an order, send to the stream, and read, begin,
/// send and record a webhook.
const FEWEST_STEPS: usize = 16;
/// An upper bound, far more steps than an outcome has.
const MAX_STEPS: u32 = 300;

/// The expected end of an order.
#[derive(Clone, Copy)]
struct Expected {
    status: OrderStatus,
    outcome: &'static str,
    /// Whether the operator is notified as well.
    operator: bool,
    /// Jobs that stay in the queues: rechecks of a scheduled order, the dead letter of a given-up order.
    rechecks: usize,
    dead: usize,
    /// The most requests to the provider: only the request that the crash cut short is repeated.
    requests: u64,
}

const FULFILLED: Expected = Expected {
    status: OrderStatus::Fulfilled,
    outcome: "fulfilled",
    operator: false,
    rechecks: 0,
    dead: 0,
    requests: 2 + KEY_CHECKS,
};
/// The most requests that two workers make to verify their key.
const KEY_CHECKS: u64 = 6;

#[tokio::test]
async fn a_crash_at_any_step_of_a_fulfilled_order_leaves_nothing_undone() {
    crash_at_every_step(FULFILLED, |bed| bed.order(Script::fulfilled_after(Duration::ZERO))).await;
}

#[tokio::test]
async fn a_crash_at_any_step_of_a_refunded_order_leaves_nothing_undone() {
    let expected = Expected { status: OrderStatus::Refunded, outcome: "refunded", ..FULFILLED };
    crash_at_every_step(expected, |bed| bed.order(Script::refunded_after(Duration::ZERO))).await;
}

#[tokio::test]
async fn a_crash_at_any_step_of_a_scheduled_order_leaves_nothing_undone() {
    let expected =
        Expected { status: OrderStatus::Scheduled, outcome: "scheduled", rechecks: 1, ..FULFILLED };
    let queued = |bed: &Bed| bed.order(Script::queued_after(Duration::ZERO, Duration::from_hours(10_000)));
    crash_at_every_step(expected, queued).await;
}

#[tokio::test]
async fn a_crash_at_any_step_of_an_unresolved_order_leaves_nothing_undone() {
    let status = OrderStatus::Handling;
    let requests = 13 + 1 + KEY_CHECKS;
    let expected = Expected { status, outcome: "unresolved", operator: true, dead: 1, requests, ..FULFILLED };
    // The worker makes thirteen requests. All checks before the last are alike, so the first crash is at step 81.
    crash_from(81, expected, |_| "aaaaaaaaaaaaaaaaaaaaaaaa".to_owned()).await;
}

async fn crash_at_every_step(expected: Expected, order: impl Fn(&Bed) -> String) {
    crash_from(1, expected, order).await;
}

async fn crash_from(step: u32, expected: Expected, order: impl Fn(&Bed) -> String) {
    for first in (step..MAX_STEPS).step_by(PARALLEL as usize) {
        let runs = (first..first + PARALLEL).map(|step| crash_at(expected, step, &order));
        let crashed = join_all(runs).await;
        let steps = crashed.iter().filter(|crashed| **crashed).count();
        assert!(first > step || steps >= FEWEST_STEPS, "{} has only {steps} steps", expected.outcome);
        if crashed.contains(&false) {
            return;
        }
    }
    panic!("{} has more than {MAX_STEPS} steps", expected.outcome);
}

/// Tracks an order with a worker that crashes at this step, and then with one that does not. Returns whether the
/// first worker crashed; it does not if the outcome has fewer steps.
async fn crash_at(expected: Expected, step: u32, order: &impl Fn(&Bed) -> String) -> bool {
    let mut bed = Bed::new(SCALE).await;
    let operator = Sink::default();
    bed.set("OPERATOR_WEBHOOK_URL", operator.listen().await);
    bed.set("OPERATOR_WEBHOOK_SECRET", SECRET);
    bed.set("CONCURRENCY", "4");
    let order = order(&bed);
    bed.enqueue([&order]).await;
    let mut worker = SteppedWorker::start(&bed, step);
    let crashed = tokio::select! {
        biased;
        () = worker.crashes() => true,
        () = settled(&bed, expected, &order) => false,
    };
    if crashed {
        drop(worker);
        let _second = bed.worker().await;
        settled(&bed, expected, &order).await;
    }
    assert_expected(&bed, &operator, expected, &order).await;
    let requests = bed.simulator.total_calls();
    assert!(requests <= expected.requests, "{} crashed at {step}: {requests} requests", expected.outcome);
    crashed
}

/// Waits until the order has its expected status and every notification is sent.
async fn settled(bed: &Bed, expected: Expected, order: &str) {
    let store = bed.store().await;
    let id: TopupId = order.parse().expect("an id");
    until("the order is settled", async || {
        let stored = store.order(&id).await.ok()??;
        let notifications = store.notifications(&id).await.ok()?;
        let done = stored.tracking.status == expected.status
            && !notifications.is_empty()
            && notifications.iter().all(|one| one.status == NotificationStatus::Sent)
            && dead(bed).await == expected.dead
            && jobs(bed, "poll-topup").await == expected.dead
            && jobs(bed, "recheck-topup").await == expected.rechecks
            && jobs(bed, "notify-customer").await == 0;
        done.then_some(())
    })
    .await;
}

/// Jobs of a queue, dead letters included.
async fn jobs(bed: &Bed, job: &str) -> usize {
    bed.redis(&["HLEN", &format!("{{topup}}:{job}:data")]).await
}

async fn dead(bed: &Bed) -> usize {
    bed.redis(&["SCARD", "{topup}:poll-topup:dead"]).await
}

async fn assert_expected(bed: &Bed, operator: &Sink, expected: Expected, order: &str) {
    let store = bed.store().await;
    let id: TopupId = order.parse().expect("an id");
    let notifications = store.notifications(&id).await.expect("the store answers");
    let channels: HashSet<&str> = notifications.iter().map(|one| one.channel.as_str()).collect();
    assert!(notifications.iter().all(|one| one.outcome.as_str() == expected.outcome), "{notifications:?}");
    assert_eq!(channels.contains("operator-webhook"), expected.operator);
    assert!(channels.contains("webhook") && channels.contains("events"));
    assert_eq!(notifications.len(), channels.len(), "each channel once: {notifications:?}");

    let event = format!("evt_{order}_{}", expected.outcome);
    assert_same_event(&bed.sink.received(), &event);
    if expected.operator {
        assert_same_event(&operator.received(), &event);
    } else {
        assert!(operator.received().is_empty());
    }
    let stream: Vec<(String, HashMap<String, String>)> =
        bed.redis(&["XRANGE", "{topup}:events", "-", "+"]).await;
    assert!(!stream.is_empty() && stream.iter().all(|(_, fields)| fields["id"] == event), "{stream:?}");

    let card =
        store.card(&id).await.expect("the card is read").map(|card| card.card_code.reveal().to_owned());
    assert_eq!(card, bed.simulator.card_code(order).filter(|_| expected.outcome == "fulfilled"));
}

/// Asserts that the event was delivered at least once, always with the same bytes.
fn assert_same_event(received: &[Received], event: &str) {
    assert!(!received.is_empty(), "{event} was not delivered");
    for one in received {
        assert_eq!(one.id(), event);
        assert_eq!(one.body, received[0].body, "{event} has two bodies");
    }
}
