//! An endpoint that hangs or is dead delays no other endpoint, and its own events lose no attempt.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use topup_jobs::{OrderStatus, Outcome};
use topup_worker::orders::NotificationStatus;
use topup_worker::simulator::Script;

use super::receiver::{Answer, Receiver};
use super::{enqueue_at, notification};
use crate::support::{Bed, until};

fn order(bed: &Bed) -> String {
    bed.order(Script::fulfilled_after(Duration::ZERO))
}

#[tokio::test]
async fn a_hanging_endpoint_takes_half_of_the_slots_and_delays_no_other() {
    let mut bed = Bed::new(1.0).await;
    bed.set("CALLBACK_ALLOWED_HOSTS", "127.0.0.1");
    bed.set("CONCURRENCY", "4");
    let silent = Receiver::start(|_| Answer::Silence).await;
    let _worker = bed.worker().await;
    for _ in 0..12 {
        enqueue_at(&bed, &order(&bed), &silent.url).await;
    }
    until("two requests hang", async || (silent.requests().len() == 2).then_some(())).await;
    let others: Vec<String> = (0..6).map(|_| order(&bed)).collect();
    bed.enqueue(&others).await;
    for id in &others {
        bed.delivered(id, "fulfilled").await;
    }
    // A hanging request lasts fifteen seconds, so all others were delivered meanwhile.
    assert_eq!(silent.requests().len(), 2, "the others were delivered while the first two hung");
    assert_eq!(silent.max_open(), 2);
}

#[tokio::test]
async fn a_dead_endpoint_opens_its_breaker_and_no_event_loses_an_attempt() {
    // The breaker is open for half a minute, which is three seconds at this scale.
    let open = Duration::from_secs(3);
    let mut bed = Bed::new(10.0).await;
    bed.set("CALLBACK_ALLOWED_HOSTS", "127.0.0.1");
    bed.set("CONCURRENCY", "4");
    let alive = Arc::new(AtomicBool::new(false));
    let answers = Arc::clone(&alive);
    let receiver = Receiver::start(move |_| {
        if answers.load(Ordering::SeqCst) { Answer::status(204) } else { Answer::Bytes(String::new()) }
    })
    .await;
    let orders: Vec<String> = (0..20).map(|_| order(&bed)).collect();
    for id in &orders {
        enqueue_at(&bed, id, &receiver.url).await;
    }
    let worker = bed.worker().await;
    until("the breaker opens", async || worker.log().contains("a receiver does not answer").then_some(()))
        .await;
    assert!(receiver.requests().len() >= 5, "five failures open the breaker");
    bed.stored(&orders, OrderStatus::Fulfilled).await;
    alive.store(true, Ordering::SeqCst);
    bed.idle().await;
    assert!(worker.log().contains("the receiver answers again"), "{}", worker.log());
    // The breaker opens after the fifth attempt; one more may be in flight then. While it is open, no other may arrive.
    let mut arrivals: Vec<_> = receiver.requests().iter().map(|request| request.at).collect();
    arrivals.sort_unstable();
    let early = arrivals.iter().filter(|at| **at < arrivals[4] + open).count();
    assert!(early <= 6, "{early} attempts");
    let mut attempts = 0;
    for id in &orders {
        let stored = notification(&bed, id, Outcome::Fulfilled, "callback").await.unwrap();
        assert_eq!(stored.status, NotificationStatus::Sent, "{id}");
        attempts += usize::try_from(stored.attempts).unwrap();
    }
    assert_eq!(attempts, receiver.requests().len(), "every counted attempt was made");
}

#[tokio::test]
async fn many_hanging_endpoints_delay_no_other() {
    let mut bed = Bed::new(1.0).await;
    bed.set("CALLBACK_ALLOWED_HOSTS", "127.0.0.1");
    bed.set("CONCURRENCY", "4");
    // Each has a port of its own and so is an endpoint of its own.
    let mut silent = Vec::new();
    for _ in 0..16 {
        silent.push(Receiver::start(|_| Answer::Silence).await);
    }
    let _worker = bed.worker().await;
    for receiver in &silent {
        enqueue_at(&bed, &order(&bed), &receiver.url).await;
    }
    until("more of them hang than there are slots", async || {
        let hanging = silent.iter().filter(|receiver| !receiver.requests().is_empty()).count();
        (hanging > 4).then_some(())
    })
    .await;
    let mut others = Vec::new();
    for _ in 0..8 {
        let (id, receiver) = (order(&bed), Receiver::start(|_| Answer::status(204)).await);
        enqueue_at(&bed, &id, &receiver.url).await;
        others.push(receiver);
    }
    for receiver in &others {
        until("the event is delivered", async || (!receiver.requests().is_empty()).then_some(())).await;
    }
    // A hanging request lasts fifteen seconds, so all others were delivered meanwhile.
    let again = silent.iter().filter(|receiver| receiver.requests().len() > 1).count();
    assert_eq!(again, 0, "the others were delivered during the first hanging attempts");
}
