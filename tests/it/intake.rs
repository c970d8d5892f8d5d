//! Messages of producers: good ones run, bad ones are rejected with a reason, and none stops a worker.

use std::time::Duration;

use topup_jobs::OrderStatus;
use topup_worker::simulator::{Script, SimulatorSettings};

use crate::support::redis::TestRedis;
use crate::support::{Bed, until};

/// Names and values of the fields of a message in a stream.
type Fields = Vec<(Vec<u8>, Vec<u8>)>;
/// Part of the expected reason, and the fields of the rejected message.
type Bad<'a> = (&'a str, Vec<(&'a [u8], &'a [u8])>);

const ID: &str = r#"{"topupId":"6901616fe9e88196b4eb64b2"}"#;

/// Fields of `data` beside `topupId`, the field `opts`, and the expected log text or `""`.
const ODD: [(&str, &str, &str); 11] = [
    (r#","metadata":[],"customer":[]"#, "[]", ""),
    (r#","topupRef":1042,"customer":{"phone":213661223344,"locale":"fr-FR"}"#, r#"{"jobId":42}"#, ""),
    (r#","callbackUrl":"""#, r#"{"delay":5000.0,"attempts":"3","backoff":5000}"#, ""),
    (
        r#","customer":{"name":"Amina \ud83d"}"#,
        "",
        "the field \\\"data\\\": a text contains half a character",
    ),
    (r#","customer":{"locale":"kab"}"#, "", "\\\"data.customer.locale\\\" is none of"),
    (r#","callbackUrl":"shop.example.dz/hook""#, "", "\\\"data.callbackUrl\\\" is not a URL"),
    (r#","callbackUrl":"mailto:a@b.dz""#, "", "\\\"data.callbackUrl\\\" is not a URL"),
    (
        r#","callbackUrl":"https://amina:secret@shop.example.dz/hook""#,
        "",
        "a user or a password is in the address",
    ),
    (r#","metadata":"none""#, "", "\\\"data.metadata\\\" is a text and was left out"),
    ("", r#"{"delay":-5}"#, "\\\"opts.delay\\\" is not a whole number"),
    ("", "later", "the field \\\"opts\\\" is not JSON"),
];

#[tokio::test]
async fn an_order_is_tracked_despite_unusable_fields_and_what_is_ignored_is_logged() {
    let mut bed = Bed::new(600.0).await;
    bed.set("CALLBACK_ALLOWED_HOSTS", "shop.example.dz");
    let worker = bed.worker().await;
    let orders: Vec<String> =
        ODD.iter().map(|_| bed.order(Script::fulfilled_after(Duration::ZERO))).collect();
    for (order, (data, opts, _)) in orders.iter().zip(ODD) {
        let data = format!(r#"{{"topupId":"{order}"{data}}}"#);
        bed.message(&[(b"name", b"poll-topup"), (b"data", data.as_bytes()), (b"opts", opts.as_bytes())])
            .await;
    }
    bed.stored(&orders, OrderStatus::Fulfilled).await;
    assert_eq!(bed.redis::<usize>(&["XLEN", "{topup}:rejected"]).await, 0);
    let log = worker.log();
    for (order, (_, _, remark)) in orders.iter().zip(ODD) {
        let lines: Vec<&str> = log
            .lines()
            .filter(|line| line.contains("ignored a part of it") && line.contains(order))
            .collect();
        assert_eq!(lines.len(), usize::from(!remark.is_empty()), "{lines:?}");
        assert!(lines.iter().all(|line| line.contains(remark)), "{lines:?} should say {remark}");
    }
}

#[tokio::test]
async fn bad_messages_are_rejected_with_a_reason_and_good_ones_beside_them_run() {
    let bed = Bed::new(60.0).await;
    let huge = vec![b'x'; 1 << 20];
    let many: Vec<(Vec<u8>, Vec<u8>)> =
        (0..9_000).map(|n| (format!("f{n}").into_bytes(), b"v".to_vec())).collect();
    let many: Vec<(&[u8], &[u8])> = many.iter().map(|(name, value)| (&name[..], &value[..])).collect();
    let bad: [Bad<'_>; 12] = [
        ("not JSON", vec![(b"name", b"poll-topup"), (b"data", b"topupId=1")]),
        ("\"data.topupId\" is missing", vec![(b"name", b"poll-topup"), (b"data", b"{}")]),
        ("a number; send a text", vec![(b"name", b"poll-topup"), (b"data", br#"{"topupId":12}"#)]),
        ("24 hexadecimal", vec![(b"name", b"poll-topup"), (b"data", br#"{"topupId":"12"}"#)]),
        ("an array; send a JSON object", vec![(b"name", b"poll-topup"), (b"data", b"[1]")]),
        ("at most 16384", vec![(b"name", b"poll-topup"), (b"data", &huge)]),
        ("neither \"poll-topup\"", vec![(b"name", b"sell-topup"), (b"data", ID.as_bytes())]),
        (
            "a text; send a JSON object",
            vec![(b"name", b"poll-topup"), (b"data", br#""6901616fe9e88196b4eb64b2""#)],
        ),
        ("not JSON", vec![(b"name", b"poll-topup"), (b"data", b"\xff\xfe\x00\x01")]),
        ("\"name\" is missing", vec![(b"\x00\xff", b"\xfe")]),
        ("\"data\" is missing", vec![(b"name", b"recheck-topup")]),
        ("at most 16384", many),
    ];
    let good: Vec<String> = (0..20).map(|_| bed.order(Script::fulfilled_after(Duration::ZERO))).collect();
    for (n, (_, fields)) in bad.iter().enumerate() {
        bed.message(fields).await;
        bed.enqueue([&good[n]]).await;
    }
    bed.enqueue(&good[bad.len()..]).await;
    let _worker = bed.worker().await;
    bed.stored(&good, OrderStatus::Fulfilled).await;
    bed.idle().await;

    let mut connection = bed.connection().await;
    let rejected: Vec<(String, Fields)> = redis::cmd("XRANGE")
        .arg("{topup}:rejected")
        .arg("-")
        .arg("+")
        .query_async(&mut connection)
        .await
        .unwrap();
    assert_eq!(rejected.len(), bad.len());
    for ((_, entry), (words, fields)) in rejected.iter().zip(&bad) {
        let value =
            |field: &[u8]| entry.iter().find(|(name, _)| name == field).map(|(_, value)| value.as_slice());
        let reason = String::from_utf8_lossy(value(b"reason").unwrap());
        assert!(reason.contains(words), "{reason:?} should say {words:?}");
        assert!(value(b"id").is_some_and(|id| id.contains(&b'-')));
        if fields.iter().any(|(_, sent)| sent.len() > 65_536) {
            assert!(value(b"cut-from-bytes").is_some(), "only its beginning is kept");
            let kept: usize = entry.iter().map(|(name, value)| name.len() + value.len()).sum();
            assert!(kept < 40_000, "{kept}");
        } else if fields.len() < 100 {
            assert!(fields.iter().all(|(name, sent)| value(name) == Some(*sent)), "the fields are kept");
        } else {
            assert!(value(b"fields").unwrap().len() > 9_000 * 5, "all fields are kept");
        }
    }
}

/// The peak memory of a process, in MiB.
fn peak_memory(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() / 1024
}

#[tokio::test]
async fn huge_messages_cost_the_worker_no_memory_and_delay_no_other_order() {
    const LARGE: usize = 32 << 20;
    let bed = Bed::new(60.0).await;
    let worker = bed.worker().await;
    let before = peak_memory(worker.pid());
    let large = vec![b'x'; LARGE];
    // One message reaches a running worker, the others arrive while the worker is frozen.
    bed.message(&[(b"name", b"poll-topup"), (b"data", &large)]).await;
    let id = bed.order(Script::fulfilled_after(Duration::ZERO));
    bed.enqueue([&id]).await;
    bed.delivered(&id, "fulfilled").await;
    worker.freeze();
    for _ in 0..4 {
        bed.message(&[(b"name", b"poll-topup"), (b"data", &large)]).await;
    }
    let id = bed.order(Script::fulfilled_after(Duration::ZERO));
    bed.enqueue([&id]).await;
    worker.signal("CONT");
    bed.delivered(&id, "fulfilled").await;
    bed.idle().await;
    let growth = peak_memory(worker.pid()) - before;
    assert!(growth < (LARGE >> 20), "the memory of the worker grew by {growth} MiB");
    let rejected = bed.program(&["rejected"]);
    let rejected = String::from_utf8_lossy(&rejected.stdout).into_owned();
    assert_eq!(rejected.matches("the message has 33554450 bytes; at most 16384").count(), 5, "{rejected}");
    let replayed = bed.program(&["rejected", "replay", "--all"]);
    let replayed = String::from_utf8_lossy(&replayed.stdout).into_owned();
    assert_eq!(replayed.matches("not replayed: it is too large and was cut").count(), 5, "{replayed}");
}

#[tokio::test]
async fn the_newest_rejected_messages_are_kept_and_the_dropped_ones_are_counted() {
    let mut bed = Bed::new(60.0).await;
    bed.set("REJECTED_MESSAGES", "40");
    bed.set("REJECTED_MEGABYTES", "1");
    let address = bed.serve_http();
    let worker = bed.worker().await;
    let kept = async || bed.redis::<usize>(&["XLEN", "{topup}:rejected"]).await;
    let dropped = async || {
        let dropped: Option<usize> = bed.redis(&["GET", "{topup}:rejected-dropped"]).await;
        dropped.unwrap_or(0)
    };
    for n in 0..100 {
        bed.message(&[(b"name", format!("bad-{n}").as_bytes())]).await;
    }
    until("the oldest are dropped", async || (kept().await + dropped().await == 100).then_some(())).await;
    assert_eq!(kept().await, 40);
    // Each of these is kept in full, and forty of them would take twice the allowed memory.
    let large = vec![b'x'; 60_000];
    for _ in 0..40 {
        bed.message(&[(b"name", b"poll-topup"), (b"data", &large)]).await;
    }
    until("the oldest are dropped", async || (kept().await + dropped().await == 140).then_some(())).await;
    let memory: usize = bed.redis(&["MEMORY", "USAGE", "{topup}:rejected", "SAMPLES", "0"]).await;
    assert!(memory <= 1 << 20 && kept().await >= 8, "{} messages take {memory} bytes", kept().await);
    assert!(worker.log().contains("the oldest rejected messages were dropped"), "{}", worker.log());
    let metrics = crate::shutdown::get_from(&address, "/metrics").await;
    let counted = format!("topup_messages_rejected_dropped_total {}", dropped().await);
    assert!(metrics.contains(&counted) && metrics.contains("topup_messages_rejected_total 140"), "{metrics}");
    let shown = bed.program(&["rejected"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(
        shown.ends_with(&format!(
            "{} older rejected messages were deleted to keep to REJECTED_MESSAGES and REJECTED_MEGABYTES\n",
            dropped().await
        )),
        "{shown}"
    );
}

#[tokio::test]
async fn foreign_bytes_in_a_queue_are_dead_lettered_and_the_other_jobs_run() {
    let bed = Bed::new(60.0).await;
    let good: Vec<String> = (0..5).map(|_| bed.order(Script::refunded_after(Duration::ZERO))).collect();
    let queue = "{topup}:poll-topup";
    let mut pipe = redis::pipe();
    for (id, payload) in [
        (&b"binary"[..], &b"\xff\x00\xfe"[..]),
        (b"\xde\xad\xbe\xef", b"{}"),
        (b"wrong-types", br#"{"topupId":["0661998877"]}"#),
        (b"empty", b""),
    ] {
        pipe.cmd("HSET").arg(format!("{queue}:data")).arg(id).arg(payload);
        pipe.cmd("RPUSH").arg(format!("{queue}:active")).arg(id);
    }
    // An id without a payload, one whose meta key is of another type, and one that was pushed twice.
    pipe.cmd("RPUSH").arg(format!("{queue}:active")).arg("no-payload").arg("odd-meta").arg("binary");
    pipe.cmd("SET").arg(format!("{queue}:meta:odd-meta")).arg("text");
    pipe.cmd("HSET").arg(format!("{queue}:data")).arg("odd-meta").arg("nonsense");
    pipe.exec_async(&mut bed.connection().await).await.unwrap();
    bed.enqueue(&good).await;
    let mut worker = bed.worker().await;
    bed.stored(&good, OrderStatus::Refunded).await;

    let dead = until("all six are dead letters", async || {
        let mut connection = bed.connection().await;
        let dead: Vec<Vec<u8>> =
            redis::cmd("SMEMBERS").arg(format!("{queue}:dead")).query_async(&mut connection).await.unwrap();
        (dead.len() == 6).then_some(dead)
    })
    .await;
    assert!(dead.contains(&b"\xde\xad\xbe\xef".to_vec()));
    let payload: Vec<u8> = bed.redis(&["HGET", &format!("{queue}:data"), "binary"]).await;
    assert_eq!(payload, b"\xff\x00\xfe", "the raw payload is kept");
    let reason: String = bed.redis(&["HGET", &format!("{queue}:meta:wrong-types"), "reason"]).await;
    assert!(reason.starts_with("unreadable: its payload has a wrong or missing field"), "{reason}");
    assert!(!reason.contains("0661998877"), "{reason}");
    assert_eq!(worker.ended(), None);
}

#[tokio::test]
async fn twenty_thousand_due_jobs_waiting_for_the_first_worker_all_run() {
    use apalis::prelude::TaskSink;
    use apalis_redis::{Config, RedisStorage};
    use topup_jobs::PollTopup;

    const JOBS: usize = 20_000;
    let bed = Bed::new(1.0).await;
    // Many jobs of few orders: the first job of each order checks it, and the others find it final.
    let orders: Vec<String> = (0..50).map(|_| bed.order(Script::refunded_after(Duration::ZERO))).collect();
    let config = Config::default().queue("{topup}:poll-topup");
    let mut storage = RedisStorage::<PollTopup, _>::new(bed.connection().await).with_config(config);
    for _ in 0..JOBS / 500 {
        let jobs = (0..500).map(|n| PollTopup::new(orders[n % orders.len()].parse().unwrap()));
        storage.push_bulk(jobs.collect()).await.unwrap();
    }
    let waiting: usize = bed.redis(&["ZCARD", "{topup}:poll-topup:scheduled"]).await;
    assert_eq!(waiting, JOBS);
    let mut worker = bed.worker().await;
    bed.idle().await;
    bed.stored(&orders, OrderStatus::Refunded).await;
    assert_eq!(worker.ended(), None);
    let dead: usize = bed.redis(&["SCARD", "{topup}:poll-topup:dead"]).await;
    assert_eq!(dead, 0);
    let meta: Vec<String> = bed.redis(&["KEYS", "{topup}:*:meta:*"]).await;
    assert_eq!(meta, Vec::<String>::new(), "finished jobs leave no keys");
}

#[tokio::test]
async fn an_order_that_apalis_redis_pushes_repeatedly_is_tracked_once() {
    use apalis::prelude::TaskSink;
    use apalis_redis::{Config, RedisStorage};
    use topup_jobs::{PollTopup, RecheckTopup};

    let settings = SimulatorSettings { latency_ms: 1_500, ..SimulatorSettings::default() };
    let bed = Bed::on(TestRedis::start().await, 1.0, settings).await;
    let order = bed.order(Script::fulfilled_after(Duration::ZERO));
    let config = |queue| Config::default().queue(queue);
    let connection = bed.connection().await;
    let mut polls =
        RedisStorage::<PollTopup, _>::new(connection.clone()).with_config(config("{topup}:poll-topup"));
    let mut rechecks =
        RedisStorage::<RecheckTopup, _>::new(connection).with_config(config("{topup}:recheck-topup"));
    // Each job has its own id.
    for _ in 0..3 {
        polls.push(PollTopup::new(order.parse().unwrap())).await.unwrap();
    }
    rechecks.push(RecheckTopup::new(order.parse().unwrap())).await.unwrap();
    let _worker = bed.worker().await;
    bed.enqueue([&order]).await;
    until("the order is checked", async || (!bed.simulator.calls(&order).is_empty()).then_some(())).await;
    let ids: Vec<String> = bed.redis(&["HKEYS", "{topup}:poll-topup:data"]).await;
    assert!(ids.iter().all(|id| *id == order), "{ids:?}");
    bed.delivered(&order, "fulfilled").await;
    bed.idle().await;
    assert_eq!(bed.simulator.calls(&order).len(), 1, "one job tracked the order");
    assert_eq!(bed.sink.received().len(), 1);
}
