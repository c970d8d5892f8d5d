//! Dead letters are shown without payloads, run again from the beginning, and can be deleted for good.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use topup_jobs::{Outcome, PollTopup, TopupId, TrackTopup};
use topup_worker::orders::{NotificationStatus, OrderStore};
use topup_worker::simulator::Script;

use super::receiver::{Answer, Receiver};
use super::{dead, source};
use crate::support::{Bed, until};

fn output(bed: &Bed, args: &[&str]) -> String {
    let output = bed.program(&[&["dead-letters"], args].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn an_event_that_is_replayed_gets_all_its_attempts_again_and_the_same_bytes() {
    // Three days pass in a second.
    let mut bed = Bed::new(300_000.0).await;
    let mended = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&mended);
    // Once mended it fails six more times: more than the one attempt that would be left.
    let receiver = Receiver::start(move |n| {
        Answer::status(if asked.load(Ordering::SeqCst) && n >= 16 { 204 } else { 500 })
    })
    .await;
    bed.set("WEBHOOK_URL", receiver.url.clone());
    let id = bed.order(Script::refunded_after(Duration::ZERO));
    let _worker = bed.worker().await;
    bed.enqueue([&id]).await;
    dead(&bed, &id, Outcome::Refunded, "webhook").await;
    assert_eq!(receiver.requests().len(), 10);

    let job = format!("{id}:refunded:webhook");
    let listed = output(&bed, &[]);
    assert!(
        listed.ends_with(&format!("notify-customer  {job}  undelivered after 10 attempts, last: HTTP 500\n")),
        "{listed}"
    );
    assert_eq!(output(&bed, &["list", "--job", "poll-topup"]), "");
    let shown = output(&bed, &["show", &job]);
    for line in ["to tell          refunded by webhook", "last error       HTTP 500", "attempts made    9"] {
        assert!(shown.contains(line), "{shown}");
    }
    mended.store(true, Ordering::SeqCst);
    assert_eq!(output(&bed, &["replay", &job]), format!("notify-customer  {job}  runs again\n"));
    bed.idle().await;
    let requests = receiver.requests();
    assert_eq!(requests.len(), 17, "ten, then six that fail and one that arrives");
    assert!(requests.iter().all(|one| one.id() == requests[0].id() && one.body == requests[0].body));
    let told = source(&bed, &id, Outcome::Refunded, "webhook").await.unwrap();
    assert_eq!((told.status, told.attempts), (NotificationStatus::Sent, 7));
    assert_eq!(output(&bed, &[]), "");
    assert_eq!(bed.program(&["dead-letters", "replay", &job]).status.code(), Some(1));
}

#[tokio::test]
async fn an_order_that_is_replayed_is_followed_anew_and_one_that_is_discarded_not_at_all() {
    let bed = Bed::new(600.0).await;
    let (again, gone) = ("a".repeat(24), "b".repeat(24));
    let _worker = bed.worker().await;
    bed.enqueue([&again, &gone]).await;
    let dead_ones = async |count: usize| {
        until("they are dead letters", async || {
            let dead: usize = bed.redis(&["SCARD", "{topup}:poll-topup:dead"]).await;
            (dead == count).then_some(())
        })
        .await;
        bed.idle().await;
    };
    dead_ones(2).await;
    let before = bed.simulator.total_calls();
    assert_eq!(output(&bed, &["replay", &again]), format!("poll-topup  {again}  runs again\n"));
    dead_ones(1).await;
    dead_ones(2).await;
    // As often as each was asked for at first.
    assert_eq!(bed.simulator.total_calls() - before, before / 2);

    assert_eq!(output(&bed, &["discard", &gone]), format!("poll-topup  {gone}  deleted\n"));
    let order = bed.store().await.order(&gone.parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(order.tracking.next_check_at, None, "the store does not have it put back");
    let left: Vec<String> = bed.redis(&["KEYS", &format!("*{gone}*")]).await;
    assert_eq!(left, Vec::<String>::new());
    assert!(output(&bed, &[]).contains(&again));
}

#[tokio::test]
async fn an_order_whose_job_was_poison_is_followed_from_the_beginning_too() {
    let bed = Bed::new(600.0).await;
    let order = bed.order(Script::fulfilled_after(Duration::from_mins(3)));
    let store = bed.store().await;
    let topup_id: TopupId = order.parse().unwrap();
    // So it stands when its process has died again and again: due long ago, with its five minutes over.
    let long_ago = topup_jobs::Timestamp::UNIX_EPOCH;
    store.track(&TrackTopup::new(topup_id.clone()), long_ago).await.unwrap();
    let payload = serde_json::to_string(&PollTopup::new(topup_id.clone())).unwrap();
    let queue = "{topup}:poll-topup";
    let mut pipe = redis::pipe();
    pipe.cmd("HSET").arg(format!("{queue}:data")).arg(&order).arg(payload);
    pipe.cmd("SADD").arg(format!("{queue}:dead")).arg(&order);
    pipe.exec_async(&mut bed.connection().await).await.unwrap();
    assert_eq!(output(&bed, &["replay", "--all"]), format!("poll-topup  {order}  runs again\n"));
    let _worker = bed.worker().await;
    bed.told(&order, "fulfilled").await;
    bed.idle().await;
    let events: Vec<String> = bed.sink.received().iter().map(|one| one.id().to_owned()).collect();
    assert_eq!(events, [format!("evt_{order}_fulfilled")], "it had its five minutes and was not delayed");
    assert!(store.order(&topup_id).await.unwrap().unwrap().tracking.polling_since > long_ago);
}

#[tokio::test]
async fn a_payload_of_another_program_is_not_shown_and_not_run_again() {
    let bed = Bed::new(600.0).await;
    let queue = "{topup}:poll-topup";
    let mut pipe = redis::pipe();
    for (id, payload) in [(&b"odd\xff"[..], &b"{\"topupId\":[\"0661998877\"]}"[..]), (b"none", b"Zohra")] {
        pipe.cmd("HSET").arg(format!("{queue}:data")).arg(id).arg(payload);
        pipe.cmd("RPUSH").arg(format!("{queue}:active")).arg(id);
    }
    pipe.exec_async(&mut bed.connection().await).await.unwrap();
    let _worker = bed.worker().await;
    until("both are dead letters", async || {
        (bed.redis::<usize>(&["SCARD", &format!("{queue}:dead")]).await == 2).then_some(())
    })
    .await;
    let shown =
        [output(&bed, &[]), output(&bed, &["show", "odd\\xff"]), output(&bed, &["show", "none"])].concat();
    assert!(shown.contains("odd\\xff  unreadable: its payload has a wrong or missing field"), "{shown}");
    assert!(shown.contains("payload          26 bytes") && shown.contains("order            –"), "{shown}");
    for word in ["0661998877", "Zohra"] {
        assert!(!shown.contains(word), "{shown}");
    }
    let replayed = output(&bed, &["replay", "--all", "--job", "poll-topup"]);
    assert_eq!(replayed.matches("left: its payload cannot be read").count(), 2, "{replayed}");
    assert!(output(&bed, &["discard", "odd\\xff"]).contains("deleted"));
    assert_eq!(output(&bed, &[]).lines().count(), 1);
}
