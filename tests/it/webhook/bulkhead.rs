//! An endpoint that hangs or is dead costs nobody else anything, and its own events no attempt.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use topup_jobs::{OrderStatus, Outcome};
use topup_worker::orders::NotificationStatus;
use topup_worker::simulator::Script;

use super::receiver::{Answer, Receiver};
use super::{enqueue_at, source};
use crate::support::{Bed, until};

fn order(bed: &Bed) -> String {
    bed.order(Script::fulfilled_after(Duration::ZERO))
}

#[tokio::test]
async fn an_endpoint_that_hangs_takes_half_of_the_places_and_nobody_waits_for_it() {
    let mut bed = Bed::new(1.0).await;
    bed.set("CALLBACK_ALLOWED_HOSTS", "127.0.0.1");
    bed.set("CONCURRENCY", "4");
    let silent = Receiver::start(|_| Answer::Silence).await;
    let _worker = bed.worker().await;
    for _ in 0..12 {
        enqueue_at(&bed, &order(&bed), &silent.url).await;
    }
    until("it hangs", async || (silent.requests().len() == 2).then_some(())).await;
    let others: Vec<String> = (0..6).map(|_| order(&bed)).collect();
    bed.enqueue(&others).await;
    for id in &others {
        bed.told(id, "fulfilled").await;
    }
    // Those that hang do so for fifteen seconds: all of the others went past them.
    assert_eq!(silent.requests().len(), 2, "everybody was told while the first two hung");
    assert_eq!(silent.most_open(), 2);
}

#[tokio::test]
async fn a_dead_endpoint_is_left_alone_for_a_while_and_no_event_loses_an_attempt() {
    // The circuit is open for half a minute, at this pace three seconds.
    let open = Duration::from_secs(3);
    let mut bed = Bed::new(10.0).await;
    bed.set("CALLBACK_ALLOWED_HOSTS", "127.0.0.1");
    bed.set("CONCURRENCY", "4");
    let alive = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&alive);
    let receiver = Receiver::start(move |_| {
        if asked.load(Ordering::SeqCst) { Answer::status(204) } else { Answer::Bytes(String::new()) }
    })
    .await;
    let orders: Vec<String> = (0..20).map(|_| order(&bed)).collect();
    for id in &orders {
        enqueue_at(&bed, id, &receiver.url).await;
    }
    let worker = bed.worker().await;
    until("the circuit opens", async || worker.log().contains("a receiver does not answer").then_some(()))
        .await;
    assert!(receiver.requests().len() >= 5, "it takes five failures");
    bed.stored(&orders, OrderStatus::Fulfilled).await;
    alive.store(true, Ordering::SeqCst);
    bed.idle().await;
    assert!(worker.log().contains("the receiver answers again"), "{}", worker.log());
    // It opened after the fifth attempt had come, and one more may have been under way by then. However long all of
    // this took, nobody else came while it was open.
    let mut heard: Vec<_> = receiver.requests().iter().map(|request| request.at).collect();
    heard.sort_unstable();
    let tried = heard.iter().filter(|at| **at < heard[4] + open).count();
    assert!(tried <= 6, "{tried} attempts");
    let mut attempts = 0;
    for id in &orders {
        let told = source(&bed, id, Outcome::Fulfilled, "callback").await.unwrap();
        assert_eq!(told.status, NotificationStatus::Sent, "{id}");
        attempts += usize::try_from(told.attempts).unwrap();
    }
    assert_eq!(attempts, receiver.requests().len(), "what is counted was made");
}

#[tokio::test]
async fn endpoints_that_hang_hold_up_no_other_however_many_they_are() {
    let mut bed = Bed::new(1.0).await;
    bed.set("CALLBACK_ALLOWED_HOSTS", "127.0.0.1");
    bed.set("CONCURRENCY", "4");
    // Each at a port of its own, and so an endpoint of its own.
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
        until("it is told", async || (!receiver.requests().is_empty()).then_some(())).await;
    }
    // Those that hang do so for fifteen seconds: all of the others went past them.
    let again = silent.iter().filter(|receiver| receiver.requests().len() > 1).count();
    assert_eq!(again, 0, "everybody was told during the first attempt at those that hang");
}
