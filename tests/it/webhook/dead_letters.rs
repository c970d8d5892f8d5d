//! Dead letters are shown without payloads, replayed from the beginning, and can be deleted for good.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use topup_jobs::{Outcome, PollTopup, TopupId, TrackTopup};
use topup_worker::orders::{NotificationStatus, OrderStore};
use topup_worker::simulator::Script;

use super::receiver::{Answer, Receiver};
use super::{dead_letter, notification};
use crate::support::{Bed, until};

fn output(bed: &Bed, args: &[&str]) -> String {
    let output = bed.program(&[&["dead-letters"], args].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn a_replayed_event_has_all_its_attempts_again_and_the_same_bytes() {
    // Three days pass in a second.
    let mut bed = Bed::new(300_000.0).await;
    let repaired = Arc::new(AtomicBool::new(false));
    let answers = Arc::clone(&repaired);
    // After the repair it fails six more times, more than a single remaining attempt would allow.
    let receiver = Receiver::start(move |n| {
        Answer::status(if answers.load(Ordering::SeqCst) && n >= 16 { 204 } else { 500 })
    })
    .await;
    bed.set("WEBHOOK_URL", receiver.url.clone());
    let id = bed.order(Script::refunded_after(Duration::ZERO));
    let _worker = bed.worker().await;
    bed.enqueue([&id]).await;
    dead_letter(&bed, &id, Outcome::Refunded, "webhook").await;
    assert_eq!(receiver.requests().len(), 10);

    let job = format!("{id}:refunded:webhook");
    let listed = output(&bed, &[]);
    assert!(
        listed.ends_with(&format!("notify-customer  {job}  undelivered after 10 attempts, last: HTTP 500\n")),
        "{listed}"
    );
    assert_eq!(output(&bed, &["list", "--job", "poll-topup"]), "");
    let shown = output(&bed, &["show", &job]);
    for line in ["notification     refunded by webhook", "last error       HTTP 500", "attempts made    9"] {
        assert!(shown.contains(line), "{shown}");
    }
    repaired.store(true, Ordering::SeqCst);
    assert_eq!(output(&bed, &["replay", &job]), format!("notify-customer  {job}  runs again\n"));
    bed.idle().await;
    let requests = receiver.requests();
    assert_eq!(requests.len(), 17, "ten, then six that fail and one that arrives");
    assert!(requests.iter().all(|one| one.id() == requests[0].id() && one.body == requests[0].body));
    let stored = notification(&bed, &id, Outcome::Refunded, "webhook").await.unwrap();
    assert_eq!((stored.status, stored.attempts), (NotificationStatus::Sent, 7));
    assert_eq!(output(&bed, &[]), "");
    assert_eq!(bed.program(&["dead-letters", "replay", &job]).status.code(), Some(1));
}

#[tokio::test]
async fn a_replayed_order_is_tracked_again_and_a_discarded_one_is_not() {
    let bed = Bed::new(600.0).await;
    let (again, gone) = ("a".repeat(24), "b".repeat(24));
    let _worker = bed.worker().await;
    bed.enqueue([&again, &gone]).await;
    let dead_letters = async |count: usize| {
        until("the orders are dead letters", async || {
            let dead: usize = bed.redis(&["SCARD", "{topup}:poll-topup:dead"]).await;
            (dead == count).then_some(())
        })
        .await;
        bed.idle().await;
    };
    dead_letters(2).await;
    let before = bed.simulator.total_calls();
    assert_eq!(output(&bed, &["replay", &again]), format!("poll-topup  {again}  runs again\n"));
    dead_letters(1).await;
    dead_letters(2).await;
    // The replay makes as many requests as the order made at first.
    assert_eq!(bed.simulator.total_calls() - before, before / 2);

    assert_eq!(output(&bed, &["discard", &gone]), format!("poll-topup  {gone}  deleted\n"));
    let order = bed.store().await.order(&gone.parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(order.tracking.next_check_at, None, "a discarded order has no next check");
    let remaining: Vec<String> = bed.redis(&["KEYS", &format!("*{gone}*")]).await;
    assert_eq!(remaining, Vec::<String>::new());
    assert!(output(&bed, &[]).contains(&again));
}

#[tokio::test]
async fn a_replayed_order_of_a_poison_job_is_tracked_from_the_beginning() {
    let bed = Bed::new(600.0).await;
    let order = bed.order(Script::fulfilled_after(Duration::from_mins(3)));
    let store = bed.store().await;
    let topup_id: TopupId = order.parse().unwrap();
    // The state after its process died repeatedly: due long ago, with its five minutes over.
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
    bed.delivered(&order, "fulfilled").await;
    bed.idle().await;
    let events: Vec<String> = bed.sink.received().iter().map(|one| one.id().to_owned()).collect();
    assert_eq!(events, [format!("evt_{order}_fulfilled")], "its five minutes begin again, without a delay");
    assert!(store.order(&topup_id).await.unwrap().unwrap().tracking.polling_since > long_ago);
}

#[tokio::test]
async fn an_unreadable_payload_is_neither_shown_nor_replayed() {
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
    assert_eq!(replayed.matches("not replayed: its payload cannot be read").count(), 2, "{replayed}");
    assert!(output(&bed, &["discard", "odd\\xff"]).contains("deleted"));
    assert_eq!(output(&bed, &[]).lines().count(), 1);
}
