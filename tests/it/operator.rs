//! The operator's commands to check orders now, correct them, stop tracking them and find them, and the
//! messages with which a producer does the same.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use topup_jobs::{OrderStatus, TopupId};
use topup_worker::orders::OrderStore;
use topup_worker::simulator::{Script, SimulatorSettings};

use crate::support::redis::TestRedis;
use crate::support::smtp::{MailSink, Offer, PASSWORD, USER};
use crate::support::{Bed, PROGRAM, until};

const NEVER: Duration = Duration::from_hours(10_000);

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Adds a message with this name, data and options to the inbox.
async fn send(bed: &Bed, name: &str, data: Value, opts: Value) {
    let (data, opts) = (data.to_string(), opts.to_string());
    let fields = [("name", name), ("data", &data), ("opts", &opts)];
    bed.message(&fields.map(|(name, value)| (name.as_bytes(), value.as_bytes()))).await;
}

/// A QUEUED order whose recheck is due in a day.
async fn scheduled(bed: &Bed) -> String {
    let order = bed.order(Script::queued_forever());
    bed.enqueue([&order]).await;
    bed.delivered(&order, "scheduled").await;
    until("the recheck is scheduled", async || {
        bed.redis::<Option<f64>>(&["ZSCORE", "{topup}:recheck-topup:scheduled", &order]).await
    })
    .await;
    order
}

/// Waits until neither the queues of orders nor the inbox hold this order.
async fn released(bed: &Bed, order: &str) {
    until("no queue holds the order", async || {
        let mut ids: Vec<String> = bed.redis(&["HKEYS", "{topup}:poll-topup:data"]).await;
        ids.extend(bed.redis::<Vec<String>>(&["HKEYS", "{topup}:recheck-topup:data"]).await);
        let inbox: usize = bed.redis(&["XLEN", "{topup}:inbox"]).await;
        (inbox == 0 && ids.iter().all(|id| !id.starts_with(order))).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_order_that_would_wait_for_hours_can_be_checked_now() {
    let bed = Bed::new(1.0).await;
    let _worker = bed.worker().await;
    let by_message = scheduled(&bed).await;
    let by_command = scheduled(&bed).await;
    let by_filter = scheduled(&bed).await;
    for order in [&by_message, &by_command, &by_filter] {
        bed.simulator.set_script(order, Script::fulfilled_after(Duration::ZERO));
    }
    send(&bed, "poll-topup", json!({"topupId": by_message}), json!({"force": true})).await;
    bed.delivered(&by_message, "fulfilled").await;
    let printed = stdout(&bed.program(&["check", &by_command]));
    assert!(printed.contains("the order waited in recheck-topup, and is checked now"), "{printed}");
    bed.delivered(&by_command, "fulfilled").await;
    let counted = stdout(&bed.program(&["check", "--status", "QUEUED"]));
    assert_eq!(counted, "1 orders match; repeat with --yes to check each of them now\n");
    assert_eq!(bed.simulator.calls(&by_filter).len(), 1, "counting makes no request");
    let printed = stdout(&bed.program(&["check", "--status", "QUEUED", "--yes"]));
    assert_eq!(printed, "1 orders are checked now, at the pace that the provider allows\n");
    bed.delivered(&by_filter, "fulfilled").await;
    for order in [&by_message, &by_command, &by_filter] {
        assert_eq!(bed.simulator.calls(order).len(), 2, "each order is checked once more");
    }
    // A final order is checked once more and not notified again.
    let printed = stdout(&bed.program(&["check", &by_command]));
    assert!(printed.contains("the order is in no queue"), "{printed}");
    until("it is checked", async || (bed.simulator.calls(&by_command).len() == 3).then_some(())).await;
    bed.idle().await;
    let sent = bed.sink.received().into_iter().filter(|it| it.id() == format!("evt_{by_command}_fulfilled"));
    assert_eq!(sent.count(), 1);
}

#[tokio::test]
async fn a_later_message_corrects_an_order_and_a_repeat_changes_nothing() {
    let bed = Bed::new(1.0).await;
    let order = scheduled_with_customer(&bed).await;
    let calls = bed.simulator.calls(&order).len();
    let (_worker, id) = (bed.worker().await, order.parse::<TopupId>().unwrap());
    let data = json!({"topupId": order, "metadata": {"cart": "c-2"}});
    send(&bed, "poll-topup", data, json!({})).await;
    stdout(&bed.program(&["correct", &order, "--email", "right@example.dz", "--locale", "en"]));
    let store = bed.store().await;
    let stored = until("the order is corrected", async || {
        let stored = store.order(&id).await.unwrap()?;
        let email = stored.customer.as_ref()?.email.as_ref()?.reveal() == "right@example.dz";
        (email && stored.metadata.as_ref()?["cart"] == "c-2").then_some(stored)
    })
    .await;
    assert_eq!(stored.tracking.status, OrderStatus::Scheduled);
    assert_eq!(bed.simulator.calls(&order).len(), calls, "a correction makes no request");
    // A repeat without changes leaves no job behind, under any message name.
    send(&bed, "recheck-topup", json!({"topupId": order}), json!({"attempts": 3})).await;
    messages_processed(&bed, &order).await;

    bed.simulator.set_script(&order, Script::fulfilled_after(Duration::ZERO));
    stdout(&bed.program(&["check", &order]));
    let event = bed.delivered(&order, "fulfilled").await.json();
    let customer =
        json!({"name": "Zohra", "email": "right@example.dz", "phone": "0661998877", "locale": "en"});
    assert_eq!(
        (&event["data"]["customer"], &event["data"]["metadata"]),
        (&customer, &json!({"cart": "c-2"}))
    );
    let shown = bed.shown(&order);
    assert!(shown.contains("corrected: customer") && !shown.contains("right@"), "{shown}");
}

/// An order that is rechecked in a day and whose customer has a wrong address. Its worker has stopped.
async fn scheduled_with_customer(bed: &Bed) -> String {
    let order = bed.order(Script::queued_forever());
    let customer =
        json!({"name": "Zohra", "email": "wrong@example.dz", "phone": "0661998877", "locale": "ar"});
    send(bed, "poll-topup", json!({"topupId": order, "customer": customer}), json!({})).await;
    let mut worker = bed.worker().await;
    bed.delivered(&order, "scheduled").await;
    assert!(worker.stop().await.success());
    order
}

/// Waits until every message is processed, and checks that the order still waits.
async fn messages_processed(bed: &Bed, order: &str) {
    until("no queue holds the job of a message", async || {
        let ids: Vec<String> = bed.redis(&["HKEYS", "{topup}:poll-topup:data"]).await;
        let inbox: usize = bed.redis(&["XLEN", "{topup}:inbox"]).await;
        (inbox == 0 && ids.iter().all(|id| !id.contains('#'))).then_some(())
    })
    .await;
    let held: bool = bed.redis(&["HEXISTS", "{topup}:recheck-topup:data", order]).await;
    assert!(held, "the order waits for its recheck");
}

#[tokio::test]
async fn an_undelivered_mail_goes_to_the_corrected_address() {
    let (sink, folder) =
        (MailSink::new(Offer { smtps: false, starttls: true, auth: true }), tempfile::tempdir().unwrap());
    let mut bed = Bed::new(1.0).await;
    let ca_file = folder.path().join("mail.pem");
    std::fs::write(&ca_file, &sink.certificate).unwrap();
    bed.set("SMTP_URL", format!("smtp://{USER}:{PASSWORD}@localhost:{}", sink.listen().await));
    bed.set("SMTP_CA_FILE", ca_file.display().to_string());
    bed.set("EMAIL_FROM", "Boutique <topup@shop.example>");
    // The third attempt would be made after five minutes.
    let full = ("RCPT", "452 4.2.2 mailbox full");
    sink.answer_first([full, full]);
    let order = bed.order(Script::fulfilled_after(Duration::ZERO));
    let worker = bed.worker().await;
    bed.enqueue([&order]).await;
    until("two attempts have failed", async || bed.shown(&order).contains("attempt 2: retry").then_some(()))
        .await;
    stdout(&bed.program(&["correct", &order, "--email", "right@example.dz"]));
    until("it is corrected", async || bed.shown(&order).contains("corrected: customer").then_some(())).await;
    let printed = stdout(&bed.program(&["resend", &order]));
    until("the third attempt has ended", async || {
        let shown = bed.shown(&order);
        (shown.contains("by email: sent") || shown.contains("attempt 3: retry")).then_some(())
    })
    .await;
    let mail =
        sink.mails().pop().unwrap_or_else(|| panic!("{printed}\n{}\n{}", bed.shown(&order), worker.log()));
    assert_eq!(mail.to, ["right@example.dz"]);
}

#[tokio::test]
async fn a_stopped_order_is_neither_tracked_nor_notified_until_it_is_checked_again() {
    // A check takes a second, so one is in flight when the order is stopped.
    let settings = SimulatorSettings { latency_ms: 1_000, ..SimulatorSettings::default() };
    let bed = Bed::on(TestRedis::start().await, 1.0, settings).await;
    let worker = bed.worker().await;
    let polled = bed.order(Script::fulfilled_after(NEVER));
    bed.enqueue([&polled]).await;
    until("a check is in flight", async || (!bed.simulator.calls(&polled).is_empty()).then_some(())).await;
    let rechecked = scheduled(&bed).await;
    let delayed = bed.order(Script::fulfilled_after(Duration::ZERO));
    send(
        &bed,
        "poll-topup",
        json!({"topupId": delayed, "metadata": {"cart": 1}}),
        json!({"delay": 86_400_000}),
    )
    .await;
    until("the first check is scheduled", async || {
        bed.redis::<Option<f64>>(&["ZSCORE", "{topup}:poll-topup:scheduled", &delayed]).await
    })
    .await;
    let orders = [&polled, &rechecked, &delayed];
    let printed = stdout(&bed.program(&["stop", &polled, &rechecked, &delayed]));
    assert_eq!(printed.matches("the order is no longer tracked").count(), 3, "{printed}");
    for order in orders {
        released(&bed, order).await;
        let shown = bed.shown(order);
        let first = shown.lines().next().unwrap();
        assert!(
            first.starts_with("CANCELLED since ") && first.contains(&format!("check {order}")),
            "{shown}"
        );
        bed.simulator.set_script(order, Script::fulfilled_after(Duration::ZERO));
    }
    let calls: usize = orders.iter().map(|order| bed.simulator.calls(order).len()).sum();
    let count = stdout(&bed.program(&["orders", "--cancelled"])).lines().count();
    assert_eq!(count, 3);
    // Lost orders are restored within half a minute, but cancelled ones are not.
    drop(worker);
    bed.redis::<()>(&["FLUSHALL"]).await;
    let lost = bed.order(Script::fulfilled_after(Duration::ZERO));
    let store = bed.store().await;
    store
        .track(&topup_jobs::TrackTopup::new(lost.parse().unwrap()), topup_worker::clock::real_now())
        .await
        .unwrap();
    let _worker = bed.worker().await;
    bed.delivered(&lost, "fulfilled").await;
    assert_eq!(orders.iter().map(|order| bed.simulator.calls(order).len()).sum::<usize>(), calls);
    assert!(bed.sink.received().iter().all(|it| !it.id().ends_with("unresolved")));
    assert_eq!(stdout(&bed.program(&["dead-letters"])), "");

    stdout(&bed.program(&["check", &polled]));
    bed.delivered(&polled, "fulfilled").await;
    // Another message of the producer also resumes tracking.
    bed.enqueue([&rechecked, &delayed]).await;
    bed.delivered(&rechecked, "fulfilled").await;
    bed.delivered(&delayed, "fulfilled").await;
}

#[tokio::test]
async fn a_plain_message_after_a_cancellation_resumes_tracking() {
    let bed = Bed::new(1.0).await;
    let _worker = bed.worker().await;
    let order = scheduled(&bed).await;
    bed.simulator.set_script(&order, Script::fulfilled_after(Duration::ZERO));
    send(&bed, "cancel-topup", json!({"topupId": order}), json!({})).await;
    send(&bed, "poll-topup", json!({"topupId": order}), json!({})).await;
    bed.delivered(&order, "fulfilled").await;
}

#[tokio::test]
async fn a_mistyped_id_is_dead_lettered_and_never_tracked() {
    let bed = Bed::new(600.0).await;
    let _worker = bed.worker().await;
    let unknown = "a".repeat(24);
    for command in
        [&["check", &unknown][..], &["stop", &unknown], &["correct", &unknown, "--phone", "0661998877"]]
    {
        let text = stdout(&bed.program(command));
        assert!(text.contains("in no queue. If it is stored") && text.contains("dead letter"), "{text}");
    }
    let listed = until("the three are dead letters", async || {
        let listed = stdout(&bed.program(&["dead-letters"]));
        (listed.lines().count() == 3).then_some(listed)
    })
    .await;
    assert_eq!(listed.matches("the store knows of no such order").count(), 3, "{listed}");
    assert!(!listed.contains("0661998877"));
    assert!(bed.simulator.total_calls() <= 1, "only the request that verifies the key is allowed");
    // Once the order is stored, a replay of the dead letter corrects it.
    let id: TopupId = unknown.parse().unwrap();
    let store = bed.store().await;
    store.track(&topup_jobs::TrackTopup::new(id.clone()), topup_worker::clock::real_now()).await.unwrap();
    stdout(&bed.program(&["dead-letters", "replay", "--all"]));
    until("the order is corrected", async || store.order(&id).await.unwrap()?.customer).await;
}

#[tokio::test]
async fn ids_are_read_from_standard_input_and_one_bad_id_rejects_all() {
    let bed = Bed::new(1.0).await;
    // A worker that has run leaves this key.
    let _: String = bed.redis(&["SET", "{topup}:store", "0123456789abcdef0123456789abcdef"]).await;
    let run = |words: &str| {
        let mut command = Command::new(PROGRAM);
        command.args(["check", "-"]).envs(bed.settings().iter().map(|(name, value)| (*name, value)));
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(words.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    };
    let ids: Vec<String> = (1..=600).map(|n| format!("{n:024x}")).collect();
    let wrong = run(&format!("{}\n0661998877\n", ids.join(",")));
    assert_eq!(wrong.status.code(), Some(2));
    let words = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert!(words.contains("1 of 601 words are not ids, the first at 601"), "{words}");
    assert!(!words.contains("0661998877"), "{words}");
    assert_eq!(bed.redis::<usize>(&["XLEN", "{topup}:inbox"]).await, 0);
    let printed = stdout(&run(&ids.join("\n")));
    assert_eq!(printed.lines().count(), 600);
    assert_eq!(bed.redis::<usize>(&["XLEN", "{topup}:inbox"]).await, 600);
}

#[tokio::test]
async fn orders_are_listed_as_text_json_and_csv_without_customer_data() {
    let mut bed = Bed::new(600.0).await;
    bed.set("RUST_LOG", "trace");
    let (fulfilled, unknown) = (bed.order(Script::fulfilled_after(Duration::ZERO)), "b".repeat(24));
    let _worker = bed.worker().await;
    let data = json!({"topupId": fulfilled, "topupRef": "a \"b\", c\nd", "customer": {"name": "Zohra",
        "email": "zohra.bk@example.dz", "phone": "0661998877"}});
    send(&bed, "poll-topup", data, json!({})).await;
    bed.delivered(&fulfilled, "fulfilled").await;
    send(&bed, "poll-topup", json!({"topupId": unknown}), json!({})).await;
    bed.delivered(&unknown, "unresolved").await;
    bed.idle().await;

    let text = stdout(&bed.program(&["orders"]));
    assert!(
        text.lines().any(|line| line.contains(&unknown) && line.contains("dead letter: not-found")),
        "{text}"
    );
    let json = stdout(&bed.program(&["orders", "--phone", "+213 661 99 88 77", "--json"]));
    let row: Value = serde_json::from_str(json.trim()).unwrap();
    assert_eq!((&row["topupId"], &row["status"]), (&json!(fulfilled), &json!("FULFILLED")));
    assert_eq!(row["customerEmail"], "z•••@example.dz");
    let output = bed.program(&["orders", "--csv", "--status", "FULFILLED"]);
    let csv = stdout(&output);
    assert!(csv.starts_with("topupId,topupRef,status,") && csv.contains("\"a \"\"b\"\", c\nd\""), "{csv}");
    let card = bed.simulator.card_code(&fulfilled).unwrap();
    for secret in ["Zohra", "zohra.bk", "0661998877", "036362608", &card] {
        assert!(![&text, &json, &csv].iter().any(|shown| shown.contains(secret)), "{secret} is shown");
        assert!(!String::from_utf8_lossy(&output.stderr).contains(secret), "{secret} is logged");
    }
    let full = stdout(&bed.program(&["orders", "--email", "ZOHRA.bk@example.dz", "--show-customer"]));
    assert!(full.contains("0661998877") && !full.contains(&card), "{full}");

    let first = bed.program(&["orders", "--limit", "1"]);
    let (_, after) =
        std::str::from_utf8(&first.stderr).unwrap().split_once("more orders match: --after ").unwrap();
    let second = stdout(&bed.program(&["orders", "--limit", "1", "--after", after.trim()]));
    assert_eq!(stdout(&first) + &second, text);
    assert_eq!(bed.program(&["orders", "--status", "LOST"]).status.code(), Some(2));
}

#[tokio::test]
async fn the_order_command_first_shows_what_is_wrong_and_what_to_do() {
    let bed = Bed::new(600.0).await;
    let id = "c".repeat(24);
    let first_line = || bed.shown(&id).lines().next().unwrap_or_default().to_owned();
    send(&bed, "poll-topup", json!({"topupId": id.to_uppercase()}), json!({"delay": 3_600_000})).await;
    assert!(first_line().contains(&format!("order {id} is in the inbox as message")), "{}", first_line());
    let worker = bed.worker().await;
    until("it is enqueued", async || first_line().contains("waits in poll-topup until").then_some(())).await;
    stdout(&bed.program(&["check", &id]));
    bed.delivered(&id, "unresolved").await;
    bed.idle().await;
    let rejected = "d".repeat(24);
    let elsewhere = json!({"topupId": rejected, "callbackUrl": "https://not-allowed.example/told"});
    send(&bed, "poll-topup", elsewhere, json!({})).await;
    until("the message is rejected", async || {
        bed.shown(&rejected).contains(&format!("order {rejected} was rejected: ")).then_some(())
    })
    .await;
    let unknown = bed.program(&["order", &"e".repeat(24)]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("in no queue and no message"));
    let expected = format!(
        "DEAD LETTER: it is not checked: not-found; `topup-worker dead-letters replay {id}` resumes its tracking"
    );
    assert_eq!(first_line(), expected);
    // Redis has lost the dead letter, so the command reads the database. No worker restores it.
    drop(worker);
    bed.redis::<()>(&["FLUSHALL"]).await;
    assert_eq!(first_line(), expected);
    stdout(&bed.program(&["dead-letters", "discard", &id]));
    assert!(first_line().starts_with("DISCARDED: it is not checked"), "{}", first_line());
    assert_eq!(stdout(&bed.program(&["orders", "--dead-letter"])), "");
}

#[tokio::test]
async fn a_command_sends_no_message_that_no_worker_would_read() {
    let mut bed = Bed::new(600.0).await;
    let order = "6901616fe9e88196b4eb64b2";
    let commands = [&["check", order][..], &["stop", order], &["correct", order, "--phone", "0661998877"]];
    for command in commands {
        let refused = bed.program(command);
        let words = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(1), "{command:?}: {words}");
        assert!(words.contains("nothing was sent: no worker has run under {topup}"), "{command:?}: {words}");
    }
    // A producer may send messages before the first worker runs.
    let enqueued = bed.program(&["enqueue", order]);
    let words = String::from_utf8_lossy(&enqueued.stderr);
    assert!(enqueued.status.success() && words.contains("the message waits in the inbox for one"), "{words}");
    assert_eq!(bed.redis::<usize>(&["XLEN", "{topup}:inbox"]).await, 1, "the other commands sent nothing");

    let mut worker = bed.worker().await;
    bed.idle().await;
    assert!(worker.stop().await.success());
    let _: String = bed.redis(&["CONFIG", "SET", "maxmemory", "1"]).await;
    for command in commands {
        let refused = bed.program(command);
        let words = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(1), "{command:?}: {words}");
        assert!(words.contains("Redis is full (OOM): raise its maxmemory"), "{command:?}: {words}");
    }
    // A Redis user that may only send messages suffices.
    let _: String = bed.redis(&["CONFIG", "SET", "maxmemory", "0"]).await;
    let user = ["ACL", "SETUSER", "producer", "on", ">secret", "~{topup}:inbox", "+xadd", "+ping"];
    let _: String = bed.redis(&user).await;
    bed.set("REDIS_URL", bed.redis.url().replace("redis://", "redis://producer:secret@"));
    for command in commands {
        stdout(&bed.program(command));
    }
}

#[tokio::test]
async fn a_mistyped_value_is_refused_and_a_mistyped_reason_lists_the_known_ones() {
    let bed = Bed::new(600.0).await;
    let order = "6901616fe9e88196b4eb64b2".to_owned();
    for (flag, value, why) in [
        ("--email", "amina@", "--email cannot be used: it is not an e-mail address"),
        ("--phone", "none", "--phone cannot be used: it holds no digit"),
        ("--callback-url", "shop.example", "--callback-url cannot be used: it is not an https:// address"),
    ] {
        let refused = bed.program(&["correct", &order, flag, value]);
        let words = String::from_utf8_lossy(&refused.stderr);
        assert!(refused.status.code() == Some(2) && words.contains(why), "{words}");
        assert!(!words.contains(value), "{words}");
    }

    assert!(bed.program(&["migrate"]).status.success());
    let search = |reason: &str| {
        let found = bed.program(&["orders", "--dead-letter", reason]);
        assert!(found.status.success() && found.stdout.is_empty(), "{found:?}");
        String::from_utf8_lossy(&found.stderr).into_owned()
    };
    let words = search("not-fuond");
    assert!(words.contains("no order matches\nno order and no notification was given up"), "{words}");
    // The provider does not know this order.
    let _worker = bed.worker().await;
    bed.enqueue([&order]).await;
    until("it is dead-lettered", async || bed.shown(&order).contains("DEAD LETTER").then_some(())).await;
    let words = search("not-fuond");
    assert!(words.contains("notifications were given up for these reasons:\n  not-found"), "{words}");
}
