//! Two databases under one Redis prefix.

use std::time::Duration;

use topup_jobs::OrderStatus;
use topup_worker::simulator::Script;

use super::{column, refused, setting, stderr, stops};
use crate::support::{Bed, PROGRAM, until};

const OTHER: &str = "the jobs in Redis under {topup} belong to another database";

/// The database that Redis names as the one of its jobs.
async fn registered_store(bed: &Bed) -> Option<String> {
    bed.redis(&["GET", "{topup}:store"]).await
}

#[tokio::test]
async fn a_worker_with_another_database_refuses_to_start_until_it_is_adopted() {
    let mut bed = Bed::new(600.0).await;
    let mut worker = bed.worker().await;
    let first = registered_store(&bed).await.expect("the worker registered its database");
    assert_eq!(column(&bed, "SELECT store_id FROM topup_store").await, [first.as_str()]);

    let (first_url, folder) = (setting(&bed, "DATABASE_URL").to_owned(), tempfile::tempdir().unwrap());
    let file = folder.path().join("another.db");
    bed.set("DATABASE_URL", format!("sqlite://{}", file.display()));
    let words = refused(&bed, &["run"], 2).await;
    assert!(words.contains("DATABASE_URL") && words.contains(OTHER), "{words}");
    assert!(words.contains("`topup-worker adopt-store`"), "{words}");
    assert!(!file.exists(), "no file was created");

    assert!(bed.program(&["migrate"]).status.success());
    let id = "6901616fe9e88196b4eb64b2";
    for args in [
        &["run"][..],
        &["dead-letters"],
        &["dead-letters", "show", id],
        &["dead-letters", "replay", "--all"],
        &["resend", id],
        &["order", id],
        &["orders"],
        &["check", "--status", "HANDLING"],
        &["rekey"],
    ] {
        let words = refused(&bed, args, 2).await;
        assert!(words.contains(OTHER), "{args:?}: {words}");
    }
    for lost in [false, true] {
        if lost {
            let _: String = bed.redis(&["FLUSHALL"]).await;
        }
        let words = refused(&bed, &["adopt-store"], 1).await;
        assert!(words.contains("1 workers run under {topup}: stop every one of them first"), "{words}");
    }
    until("the worker registers its database again", async || registered_store(&bed).await).await;
    assert_eq!(registered_store(&bed).await.as_deref(), Some(first.as_str()));

    assert!(worker.stop().await.success());
    let done = bed.program(&["adopt-store"]);
    let words = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success() && words.contains(&first), "{done:?}");
    let order = bed.order(Script::fulfilled_after(Duration::ZERO));
    let mut second = bed.worker().await;
    bed.enqueue([&order]).await;
    bed.stored(&[order], OrderStatus::Fulfilled).await;
    assert!(second.stop().await.success());
    bed.set("DATABASE_URL", first_url);
    assert!(refused(&bed, &["run"], 2).await.contains(OTHER), "only one database is accepted");
}

#[tokio::test]
async fn an_order_missing_from_the_database_is_tracked_again_and_keeps_its_event_id() {
    let mut bed = Bed::new(1.0).await;
    let receiver = setting(&bed, "WEBHOOK_URL").to_owned();
    bed.set("WEBHOOK_URL", "http://127.0.0.1:1/");
    let mut worker = bed.worker().await;
    let order = bed.order(Script::fulfilled_after(Duration::ZERO));
    bed.enqueue([&order]).await;
    bed.stored(std::slice::from_ref(&order), OrderStatus::Fulfilled).await;
    worker.logs("a notification was not delivered").await;
    assert!(worker.stop().await.success());

    let folder = tempfile::tempdir().unwrap();
    bed.set("DATABASE_URL", format!("sqlite://{}", folder.path().join("backup.db").display()));
    for command in ["migrate", "adopt-store"] {
        assert!(bed.program(&[command]).status.success(), "{command}");
    }
    bed.set("WEBHOOK_URL", receiver);
    let worker = bed.worker().await;
    let event = bed.delivered(&order, "fulfilled").await;
    assert!(event.json()["data"]["cardCode"].is_string(), "{}", event.json());
    bed.stored(&[order], OrderStatus::Fulfilled).await;
    worker.logs("the order of a notification is not stored; the order is tracked again").await;
    bed.idle().await;
    assert_eq!(bed.redis::<usize>(&["SCARD", "{topup}:notify-customer:dead"]).await, 0);
}

#[tokio::test]
async fn a_worker_restores_its_keys_in_an_emptied_redis_and_stops_at_those_of_another_database() {
    let bed = Bed::new(600.0).await;
    let mut worker = bed.worker().await;
    let anchor = async || bed.redis::<Option<String>>(&["GET", "{topup}:time-anchor"]).await;
    let (store, began) = (registered_store(&bed).await, anchor().await);
    let _: String = bed.redis(&["FLUSHALL"]).await;
    until("the worker registers its database again", async || registered_store(&bed).await).await;
    assert_eq!(registered_store(&bed).await, store);
    until("the worker restores the time anchor", anchor).await;
    assert_eq!(anchor().await, began);
    let layout: Option<String> = bed.redis(&["GET", "{topup}:layout"]).await;
    assert_eq!(layout.as_deref(), Some("1"));
    assert!(worker.stop().await.success());

    // A worker of another database registers first after the loss.
    let register_first = async {
        let _: String = bed.redis(&["FLUSHALL"]).await;
        let _: String = bed.redis(&["SET", "{topup}:store", "0123456789abcdef0123456789abcdef"]).await;
    };
    let words = stops(&bed, register_first, 2).await;
    assert!(words.contains("this worker stops") && words.contains(OTHER), "{words}");
    assert_eq!(registered_store(&bed).await.as_deref(), Some("0123456789abcdef0123456789abcdef"));
}

#[tokio::test]
async fn a_refused_notification_of_an_order_missing_from_the_database_is_replayed() {
    let mut bed = Bed::new(1.0).await;
    bed.sink.answer_first([410]);
    let mut worker = bed.worker().await;
    let order = bed.order(Script::fulfilled_after(Duration::ZERO));
    bed.enqueue([&order]).await;
    let letter = format!("{order}:fulfilled:webhook");
    until("the webhook is refused", async || {
        let dead: Vec<String> = bed.redis(&["SMEMBERS", "{topup}:notify-customer:dead"]).await;
        (dead == [letter.as_str()]).then_some(())
    })
    .await;
    bed.idle().await;
    assert!(worker.stop().await.success());
    let folder = tempfile::tempdir().unwrap();
    bed.set("DATABASE_URL", format!("sqlite://{}", folder.path().join("backup.db").display()));
    for command in [&["migrate"][..], &["adopt-store"], &["dead-letters", "replay", "--all"]] {
        let done = bed.program(command);
        let stdout = String::from_utf8_lossy(&done.stdout);
        assert!(done.status.success() && !stdout.contains("not replayed"), "{done:?}");
    }
    let _worker = bed.worker().await;
    until("the card is delivered", async || (bed.sink.received().len() == 2).then_some(())).await;
    let received = bed.sink.received();
    assert_eq!(received[0].id(), received[1].id());
    assert!(received[1].json()["data"]["cardCode"].is_string());
}

#[tokio::test]
async fn a_worker_of_another_database_does_not_take_over_an_emptied_redis() {
    let mut bed = Bed::new(1.0).await;
    let mut rightful = bed.worker().await;
    let first = registered_store(&bed).await;
    let folder = tempfile::tempdir().unwrap();
    let own = setting(&bed, "DATABASE_URL").to_owned();
    bed.set("DATABASE_URL", format!("sqlite://{}", folder.path().join("another.db").display()));
    assert!(bed.program(&["migrate"]).status.success());
    for _ in 0..2 {
        let _: String = bed.redis(&["FLUSHALL"]).await;
        let words = refused(&bed, &["run"], 2).await;
        assert!(words.contains(OTHER) && !words.contains("ready for work"), "{words}");
        assert_eq!(registered_store(&bed).await, first);
    }
    bed.set("DATABASE_URL", own);
    let order = bed.order(Script::fulfilled_after(Duration::ZERO));
    bed.enqueue([&order]).await;
    bed.delivered(&order, "fulfilled").await;
    assert!(rightful.stop().await.success());
}

#[tokio::test]
async fn one_of_two_databases_that_start_at_once_wins() {
    let bed = Bed::new(600.0).await;
    let folder = tempfile::tempdir().unwrap();
    let worker = |database: &str| {
        let mut command = tokio::process::Command::new(PROGRAM);
        command.arg("run").envs(bed.settings().iter().map(|(name, value)| (*name, value))).kill_on_drop(true);
        command.env("DATABASE_URL", format!("sqlite://{}", folder.path().join(database).display())).output()
    };
    let mut workers = [Box::pin(worker("one.db")), Box::pin(worker("another.db"))];
    let [one, another] = &mut workers;
    let (loser, output) = tokio::select! {
        output = one => ("one.db", output),
        output = another => ("another.db", output),
    };
    let words = stderr(&output.unwrap(), &["run"], 2);
    assert!(words.contains(OTHER) && !words.contains("ready for work"), "{loser}: {words}");
    until("the other worker has joined", async || {
        let members: u64 = bed.redis(&["ZCARD", "{topup}:keyrings"]).await;
        (members == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_reading_command_reports_a_missing_database_and_an_unreachable_redis() {
    let mut bed = Bed::new(600.0).await;
    assert!(bed.program(&["migrate"]).status.success());
    let own = setting(&bed, "DATABASE_URL").to_owned();
    bed.set("DATABASE_URL", "sqlite://nowhere/orders.db");
    for args in [&["dead-letters"][..], &["orders"], &["rekey"], &["check", "--undelivered"]] {
        let words = refused(&bed, args, 1).await;
        assert!(
            words.contains("there is no database") && words.contains("nowhere/orders.db"),
            "{args:?}: {words}"
        );
    }
    bed.set("DATABASE_URL", own);
    bed.set("REDIS_URL", "redis://127.0.0.1:1");
    let listed = bed.program(&["orders"]);
    let words = String::from_utf8_lossy(&listed.stderr);
    assert!(listed.status.success() && words.contains("Redis could not be read"), "{words}");
}
