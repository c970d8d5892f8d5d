//! The secret is rotated while an event is pending: the receiver can verify every attempt.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use topup_worker::simulator::Script;

use super::receiver::{Answer, Receiver};
use crate::support::{Bed, SECRET, until};

const NEW: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

#[tokio::test]
async fn signatures_are_valid_before_during_and_after_a_rotation() {
    let mut bed = Bed::new(600.0).await;
    let accepting = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&accepting);
    let receiver =
        Receiver::start(move |_| Answer::status(if flag.load(Ordering::SeqCst) { 204 } else { 500 })).await;
    bed.set("WEBHOOK_URL", receiver.url.clone());
    let id = bed.order(Script::fulfilled_after(Duration::ZERO));
    bed.enqueue([&id]).await;

    let mut from = 0;
    for (secrets, valid, invalid) in [
        (SECRET.to_owned(), &[SECRET][..], &[NEW][..]),
        (format!("{NEW} {SECRET}"), &[NEW, SECRET], &[]),
        (NEW.to_owned(), &[NEW], &[SECRET]),
    ] {
        bed.set("WEBHOOK_SECRET", secrets);
        accepting.store(invalid == [SECRET], Ordering::SeqCst);
        let mut worker = bed.worker().await;
        until("an attempt is made", async || (receiver.requests().len() > from).then_some(())).await;
        assert!(worker.stop().await.success());
        for request in &receiver.requests()[from..] {
            assert!(valid.iter().all(|secret| request.is_signed_with(secret)));
            assert!(!invalid.iter().any(|secret| request.is_signed_with(secret)));
        }
        from = receiver.requests().len();
    }
    let requests = receiver.requests();
    assert!(requests.iter().all(|one| one.id() == format!("evt_{id}_fulfilled")));
    assert!(requests.iter().all(|one| one.body == requests[0].body), "the bytes of an event never change");
    assert!(bed.shown(&id).contains("fulfilled by webhook: sent"), "{}", bed.shown(&id));
}
