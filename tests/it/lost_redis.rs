//! After Redis lost its data, or after a command ended halfway, every dead letter is listed, and no dead
//! letter returns that the operator has discarded or replayed.

use std::time::Duration;

use serde_json::json;
use topup_jobs::{OrderStatus, PollTopup, Timestamp, TopupId, TrackTopup};
use topup_worker::orders::OrderStore;
use topup_worker::simulator::{Answer, Fault, Script};

use crate::restore::track_lost_order;
use crate::support::{Bed, until};

const GONE: &str = "refused: HTTP 410: the receiver wants no more";

/// Deletes everything in Redis but the shared clock of this deployment.
async fn lose_everything(bed: &Bed) {
    let anchor: String = bed.redis(&["GET", "{topup}:time-anchor"]).await;
    bed.redis::<()>(&["FLUSHALL"]).await;
    bed.redis::<()>(&["SET", "{topup}:time-anchor", &anchor]).await;
}

fn dead_letters(bed: &Bed, args: &[&str]) -> String {
    let output = bed.program(&[&["dead-letters"], args].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The listed dead letters: job, id and reason of each.
fn listed(bed: &Bed) -> Vec<String> {
    let mut lines: Vec<String> = dead_letters(bed, &[])
        .lines()
        .map(|line| line.split_whitespace().skip(1).collect::<Vec<_>>().join(" "))
        .collect();
    lines.sort();
    lines
}

/// The ids of the dead letters of this queue in Redis.
async fn held(bed: &Bed, job: &str) -> Vec<String> {
    let mut ids: Vec<String> = bed.redis(&["SMEMBERS", &format!("{{topup}}:{job}:dead")]).await;
    ids.sort();
    ids
}

#[tokio::test]
async fn dead_letters_that_redis_lost_can_be_listed_replayed_and_discarded() {
    let bed = Bed::new(600.0).await;
    bed.sink.answer_first([410]);
    let refused = bed.order(Script::fulfilled_after(Duration::ZERO));
    let [kept, gone, replayed] = ["a", "c", "d"].map(|digit| digit.repeat(24));
    let mut worker = bed.worker().await;
    bed.enqueue([&refused]).await;
    let letter = format!("{refused}:fulfilled:webhook");
    until("the webhook is refused", async || {
        (held(&bed, "notify-customer").await == [letter.clone()]).then_some(())
    })
    .await;
    bed.enqueue([&kept, &gone, &replayed]).await;
    until("all are dead letters", async || (held(&bed, "poll-topup").await.len() == 3).then_some(())).await;
    bed.idle().await;
    let before = listed(&bed);
    assert!(before.contains(&format!("poll-topup {kept} not-found")), "{before:?}");
    assert!(before.contains(&format!("notify-customer {letter} {GONE}")), "{before:?}");
    assert!(worker.stop().await.success());

    // No worker runs, so only the store has the dead letters.
    lose_everything(&bed).await;
    assert_eq!(listed(&bed), before);
    assert!(dead_letters(&bed, &["show", &gone]).contains("reason           not-found"));
    let shown = dead_letters(&bed, &["show", &letter]);
    for line in ["notification     fulfilled by webhook", "attempts made    0"] {
        assert!(shown.contains(line), "{shown}");
    }
    assert_eq!(dead_letters(&bed, &["list", "--job", "recheck-topup"]), "");
    assert_eq!(dead_letters(&bed, &["discard", &gone]), format!("poll-topup  {gone}  deleted\n"));
    assert_eq!(dead_letters(&bed, &["replay", &replayed]), format!("poll-topup  {replayed}  runs again\n"));
    lose_everything(&bed).await;

    // A worker restores the dead letters and tracks the replayed order again.
    let worker = bed.worker().await;
    until("the dead letters are restored", async || {
        let restored = held(&bed, "poll-topup").await.contains(&kept);
        (restored && held(&bed, "notify-customer").await == [letter.clone()]).then_some(())
    })
    .await;
    worker.logs("put back dead letters that Redis had lost").await;
    bed.delivered(&replayed, "unresolved_2").await;
    until("both are dead letters", async || {
        (held(&bed, "poll-topup").await == [kept.clone(), replayed.clone()]).then_some(())
    })
    .await;
    let listed = listed(&bed);
    assert_eq!(listed, before.into_iter().filter(|line| !line.contains(&gone)).collect::<Vec<_>>());
    let remaining: Vec<String> = bed.redis(&["KEYS", &format!("*{gone}*")]).await;
    assert_eq!(remaining, Vec::<String>::new(), "a discarded dead letter is not restored");
    assert!(dead_letters(&bed, &["replay", &letter]).ends_with("runs again\n"));
    bed.delivered(&refused, "fulfilled").await;
    until("the event is sent", async || held(&bed, "notify-customer").await.is_empty().then_some(())).await;
    let ids: Vec<String> = bed.sink.received().iter().map(|one| one.id().to_owned()).collect();
    assert!(!ids.contains(&format!("evt_{kept}_unresolved_2")), "{ids:?}");
}

#[tokio::test]
async fn an_older_redis_file_restores_no_discarded_or_outdated_dead_letter() {
    let bed = Bed::new(600.0).await;
    let [gone, earlier] = ["b", "e"].map(|digit| digit.repeat(24));
    let fulfilled = bed.order(Script::fulfilled_after(Duration::ZERO));
    let _worker = bed.worker().await;
    bed.enqueue([&gone, &earlier, &fulfilled]).await;
    until("all are dead letters", async || (held(&bed, "poll-topup").await.len() == 2).then_some(())).await;
    bed.idle().await;
    assert!(dead_letters(&bed, &["discard", &gone]).contains("deleted"));
    // An older Redis file holds a discarded dead letter and the dead letter of a fulfilled order.
    let queue = "{topup}:poll-topup";
    let mut pipe = redis::pipe();
    for (id, reason) in [(&gone, "not-found"), (&fulfilled, "poison: the process that ran it died 3 times")] {
        pipe.cmd("HSET").arg(format!("{queue}:data")).arg(id).arg(json!({"topupId": id}).to_string());
        pipe.cmd("SADD").arg(format!("{queue}:dead")).arg(id);
        pipe.cmd("HSET").arg(format!("{queue}:meta:{id}")).arg("reason").arg(reason);
    }
    pipe.exec_async(&mut bed.connection().await).await.unwrap();
    // An earlier version stored the reason of a dead letter only in Redis.
    bed.database(
        "UPDATE internet_orders SET given_up = NULL, given_up_at = NULL WHERE topup_id = ?",
        &earlier,
    )
    .await;
    until("both are deleted", async || (held(&bed, "poll-topup").await == [earlier.clone()]).then_some(()))
        .await;
    let store = bed.store().await;
    let stored = store.order(&earlier.parse().unwrap()).await.unwrap().unwrap();
    assert_eq!(stored.given_up.as_deref(), Some("not-found"));
    bed.stored(&[fulfilled], OrderStatus::Fulfilled).await;
}

/// Runs a replay that ends between the store and Redis, because its Redis user may not run the last script.
async fn replay_halfway(bed: &mut Bed, letter: &str) {
    let url = bed.redis.url();
    let user = ["ACL", "SETUSER", "halfway", "reset", "on", ">secret", "~*", "&*", "+@all", "-srem"];
    bed.redis::<()>(&user).await;
    bed.set("REDIS_URL", url.replace("redis://", "redis://halfway:secret@"));
    let output = bed.program(&["dead-letters", "replay", letter]);
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
    bed.set("REDIS_URL", url);
}

#[tokio::test]
async fn an_interrupted_replay_is_completed_and_not_dead_lettered_again() {
    const POISON: &str = "poison: the process that ran it died 3 times";
    let mut bed = Bed::new(600.0).await;
    bed.sink.answer_first([410]);
    let refused = bed.order(Script::refunded_after(Duration::ZERO));
    let mut worker = bed.worker().await;
    bed.enqueue([&refused]).await;
    let letter = format!("{refused}:refunded:webhook");
    until("it is refused", async || (held(&bed, "notify-customer").await == [letter.clone()]).then_some(()))
        .await;
    bed.idle().await;
    assert!(worker.stop().await.success());
    // Both are dead-lettered by the queue, and the store does not hold the order's dead letter yet.
    bed.redis::<()>(&["HSET", &format!("{{topup}}:notify-customer:meta:{letter}"), "reason", POISON]).await;
    let poison = bed.order(Script::fulfilled_after(Duration::ZERO));
    let topup_id: TopupId = poison.parse().unwrap();
    let store = bed.store().await;
    store.track(&TrackTopup::new(topup_id.clone()), Timestamp::UNIX_EPOCH).await.unwrap();
    let payload = serde_json::to_string(&PollTopup::new(topup_id)).unwrap();
    let queue = "{topup}:poll-topup";
    let mut pipe = redis::pipe();
    pipe.cmd("HSET").arg(format!("{queue}:data")).arg(&poison).arg(payload);
    pipe.cmd("SADD").arg(format!("{queue}:dead")).arg(&poison);
    pipe.cmd("HSET").arg(format!("{queue}:meta:{poison}")).arg("reason").arg(POISON);
    pipe.exec_async(&mut bed.connection().await).await.unwrap();

    replay_halfway(&mut bed, &letter).await;
    replay_halfway(&mut bed, &poison).await;
    assert_eq!(held(&bed, "poll-topup").await, [poison.as_str()]);
    let _worker = bed.worker().await;
    bed.delivered(&poison, "fulfilled").await;
    until("the notification is delivered", async || {
        held(&bed, "notify-customer").await.is_empty().then_some(())
    })
    .await;
    bed.idle().await;
    let events: Vec<String> = bed.sink.received().iter().map(|one| one.id().to_owned()).collect();
    let expected = [
        format!("evt_{refused}_refunded"),
        format!("evt_{refused}_refunded"),
        format!("evt_{poison}_fulfilled"),
    ];
    let mut sorted = events.clone();
    sorted.sort();
    let mut expected = expected.to_vec();
    expected.sort();
    assert_eq!(sorted, expected, "no order is unresolved and no event undelivered");
    assert_eq!(listed(&bed), Vec::<String>::new());
}

#[tokio::test]
async fn restored_orders_keep_their_failed_attempts_and_their_polling_time() {
    let bed = Bed::new(600.0).await;
    let store = bed.store().await;
    let waiting =
        bed.order(Script::fulfilled_after(Duration::ZERO).first([Answer::Handling, Answer::Handling]));
    let failing = bed.order(Script::handling_forever());
    let mut worker = bed.worker().await;
    let data = json!({"topupId": failing}).to_string();
    let opts = br#"{"attempts":2,"backoff":{"type":"fixed","delay":3600000}}"#;
    bed.message(&[(b"name", b"poll-topup"), (b"data", data.as_bytes()), (b"opts", opts)]).await;
    bed.stored(std::slice::from_ref(&failing), OrderStatus::Delayed).await;
    bed.simulator.set_script(&failing, Script::always(Answer::Fault(Fault::InternalError500)));
    let before = bed.simulator.calls(&failing).len();
    until("a recheck has failed", async || {
        let meta = format!("{{topup}}:recheck-topup:meta:{failing}");
        bed.redis::<Option<String>>(&["HGET", &meta, "attempts"]).await
    })
    .await;
    assert!(worker.stop().await.success());
    // Redis lost this polled order an hour before it is restored.
    let hour_ago = topup_worker::clock::real_now() - chrono::TimeDelta::hours(1);
    track_lost_order(&store, &waiting, OrderStatus::Handling, hour_ago).await;
    lose_everything(&bed).await;

    let _worker = bed.worker().await;
    bed.delivered(&waiting, "fulfilled").await;
    until("the recheck is dead-lettered", async || {
        held(&bed, "recheck-topup").await.contains(&failing).then_some(())
    })
    .await;
    assert!(listed(&bed).contains(&format!("recheck-topup {failing} recheck-exhausted")));
    let failed = bed.simulator.calls(&failing).len() - before;
    assert_eq!(failed, 2, "two attempts were allowed, and one was made before");
    let sent = store.notifications(&waiting.parse().unwrap()).await.unwrap();
    assert!(sent.iter().all(|one| one.outcome.as_str() == "fulfilled"), "it was not delayed: {sent:?}");
}
