//! No log at any level and no command shows secrets or personal data, and Redis keeps none of them.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use topup_jobs::OrderStatus;
use topup_worker::simulator::{Answer, Fault, Script};

use crate::support::{Bed, ENCRYPTION_KEY, SECRET};

/// Name, e-mail address and phone number of the customer of every test order.
const PERSONAL: [&str; 3] = ["Zohra", "zohra.bk@example.dz", "0661998877"];

#[tokio::test]
async fn no_log_and_no_command_shows_secrets_or_personal_data() {
    let mut bed = Bed::new(600.0).await;
    bed.set("RUST_LOG", "trace");
    bed.sink.answer_first([500, 503]);
    let fulfilled = bed.order(Script::fulfilled_after(Duration::from_secs(4)));
    // The first answer is cut off after the card.
    let truncated = bed.order(Script::fulfilled_after(Duration::ZERO).first([
        Answer::Fault(Fault::Truncated),
        Answer::Fault(Fault::NotJson),
        Answer::Fault(Fault::WrongShape),
    ]));
    let queued = bed.order(Script::queued_forever());
    let orders = [fulfilled, truncated, queued];
    let mut worker = bed.worker().await;
    bed.enqueue(&orders).await;
    bed.message(&[
        (b"name", b"poll-topup"),
        (b"data", br#"{"topupId":"0661998877","customer":{"phone":"0661998877"}}"#),
    ])
    .await;
    bed.stored(&orders[..2], OrderStatus::Fulfilled).await;
    bed.delivered(&orders[2], "scheduled").await;
    bed.delivered(&orders[1], "fulfilled").await;
    let mut log = worker.log();
    for order in &orders {
        log.push_str(&bed.shown(order));
    }
    assert!(worker.stop().await.success());
    log.push_str(&worker.log());
    assert!(log.contains("TRACE") || log.contains("DEBUG"), "the log is detailed");
    let cards = orders.iter().filter_map(|order| bed.simulator.card_code(order));
    let secrets = [ENCRYPTION_KEY, SECRET, "sandbox-key", "036362608"].map(str::to_owned);
    for secret in cards.chain(secrets).chain(PERSONAL.map(str::to_owned)) {
        let line = log.lines().find(|line| line.contains(&secret));
        assert_eq!(line, None, "{secret} is in the log");
    }
}

#[tokio::test]
async fn redis_never_receives_a_card_and_keeps_no_customer_data() {
    let bed = Bed::new(600.0).await;
    let seen = record_commands(&bed).await;
    let orders: Vec<String> = (0..20)
        .map(|n| bed.order(Script::fulfilled_after(Duration::from_secs(n))))
        .chain([bed.order(Script::refunded_after(Duration::ZERO))])
        .collect();
    let _worker = bed.worker().await;
    bed.enqueue(&orders).await;
    for order in &orders[..20] {
        bed.delivered(order, "fulfilled").await;
    }
    bed.delivered(&orders[20], "refunded").await;
    bed.idle().await;

    let commands = seen.lock().unwrap().join("\n");
    assert!(commands.contains("zohra.bk@example.dz"), "the producer's messages were recorded");
    for order in &orders {
        let card = bed.simulator.card_code(order).unwrap();
        assert!(!commands.contains(&card), "the card of {order} went to Redis");
    }
    let keys: Vec<String> = bed.redis(&["KEYS", "*"]).await;
    for key in keys {
        let dump: Vec<u8> = bed.redis(&["DUMP", &key]).await;
        let values = format!("{} {}", String::from_utf8_lossy(&dump), value_of(&bed, &key).await);
        for word in PERSONAL.iter().chain(&["036362608"]) {
            assert!(!values.contains(word), "{word} stays in {key}");
        }
    }
}

/// The whole value of a key as text.
async fn value_of(bed: &Bed, key: &str) -> String {
    let kind: String = bed.redis(&["TYPE", key]).await;
    let value: redis::Value = match kind.as_str() {
        "string" => bed.redis(&["GET", key]).await,
        "list" => bed.redis(&["LRANGE", key, "0", "-1"]).await,
        "hash" => bed.redis(&["HGETALL", key]).await,
        "set" => bed.redis(&["SMEMBERS", key]).await,
        "zset" => bed.redis(&["ZRANGE", key, "0", "-1"]).await,
        _ => bed.redis(&["XRANGE", key, "-", "+"]).await,
    };
    format!("{value:?}")
}

/// Records every command that Redis receives from now on.
async fn record_commands(bed: &Bed) -> Arc<Mutex<Vec<String>>> {
    let client = redis::Client::open(bed.redis.url()).unwrap();
    let mut monitor = client.get_async_monitor().await.unwrap().into_on_message::<String>();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let recorded = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Some(command) = monitor.next().await {
            recorded.lock().unwrap().push(command);
        }
    });
    seen
}
