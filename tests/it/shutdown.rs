//! Stopping: running jobs end, the rest goes back at once, and nothing runs twice because of it.

use std::time::Duration;

use topup_jobs::OrderStatus;
use topup_worker::simulator::{Script, SimulatorSettings};

use crate::support::redis::{TestRedis, free_port};
use crate::support::{Bed, until};

#[tokio::test]
async fn sigterm_under_load_ends_well_and_nothing_runs_twice() {
    let settings = SimulatorSettings { latency_ms: 300, ..SimulatorSettings::default() };
    let mut bed = Bed::on(TestRedis::start().await, 1.0, settings).await;
    bed.set("CONCURRENCY", "16");
    let orders: Vec<String> = (0..200).map(|_| bed.order(Script::fulfilled_after(Duration::ZERO))).collect();
    bed.enqueue(&orders).await;
    let mut worker = bed.worker().await;
    until("it is busy", async || (bed.simulator.total_calls() > 40).then_some(())).await;
    let status = worker.stop().await;
    assert_eq!(status.code(), Some(0), "{}", worker.log());
    assert!(worker.log().contains("stopped=Drained"), "{}", worker.log());
    for job in topup_jobs::JobName::ALL {
        let workers: usize = bed.redis(&["ZCARD", &format!("{{topup}}:{job}:workers")]).await;
        assert_eq!(workers, 0, "it has left {job}");
        let inflight: Vec<String> = bed.redis(&["KEYS", &format!("{{topup}}:{job}:inflight:*")]).await;
        assert_eq!(inflight, Vec::<String>::new());
    }
    let _other = bed.worker().await;
    bed.stored(&orders, OrderStatus::Fulfilled).await;
    bed.idle().await;
    for order in &orders {
        assert_eq!(bed.simulator.calls(order).len(), 1, "{order} was asked for again");
    }
    assert_eq!(bed.sink.received().len(), orders.len(), "nobody was told twice");
}

#[tokio::test]
async fn a_second_signal_gives_running_jobs_back_at_once() {
    let settings = SimulatorSettings { latency_ms: 10_000, ..SimulatorSettings::default() };
    let bed = Bed::on(TestRedis::start().await, 1.0, settings).await;
    let orders: Vec<String> = (0..10).map(|_| bed.order(Script::fulfilled_after(Duration::ZERO))).collect();
    let mut worker = bed.worker().await;
    bed.enqueue(&orders).await;
    // The first request verifies the key; the orders wait in the queue until it has its answer.
    until("one is in flight", async || (bed.simulator.total_calls() > 1).then_some(())).await;
    worker.signal("TERM");
    until("it has heard the first", async || worker.log().contains("asked to stop").then_some(())).await;
    assert_eq!(worker.stop().await.code(), Some(0), "{}", worker.log());
    let inflight: Vec<String> = bed.redis(&["KEYS", "{topup}:poll-topup:inflight:*"]).await;
    assert_eq!(inflight, Vec::<String>::new(), "no lease has to run out");
    let due: usize = bed.redis(&["LLEN", "{topup}:poll-topup:active"]).await;
    let scheduled: usize = bed.redis(&["ZCARD", "{topup}:poll-topup:scheduled"]).await;
    assert!(due > 0, "what ran is due at once");
    assert_eq!(due + scheduled, orders.len(), "they wait for another worker");
}

#[tokio::test]
async fn bad_settings_end_with_status_2_and_name_the_setting() {
    let mut bed = Bed::new(60.0).await;
    bed.set("ONECLICKDZ_MAX_IN_FLIGHT", "2");
    for (name, value, word) in [
        ("ENCRYPTION_KEY", "short", "ENCRYPTION_KEY"),
        ("WEBHOOK_SECRET", "secret", "WEBHOOK_SECRET"),
        ("ONECLICKDZ_API_URL", "https://api.oneclickdz.com", "TIME_SCALE"),
    ] {
        bed.set(name, value);
        let output = bed.program(&["run"]);
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{words}");
        assert!(words.contains(word), "{words}");
        bed.set("ENCRYPTION_KEY", crate::support::ENCRYPTION_KEY);
        bed.set("WEBHOOK_SECRET", crate::support::SECRET);
    }
}

#[tokio::test]
async fn processes_that_meet_at_a_new_database_all_find_its_tables() {
    for _ in 0..3 {
        let bed = std::sync::Arc::new(Bed::new(60.0).await);
        let migrations: Vec<_> = (0..6)
            .map(|_| {
                let bed = std::sync::Arc::clone(&bed);
                tokio::task::spawn_blocking(move || bed.program(&["migrate"]))
            })
            .collect();
        for migration in migrations {
            let output = migration.await.unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

#[tokio::test]
async fn readiness_follows_redis_and_the_signal_to_stop() {
    // Slow answers leave time to see that it stops.
    let settings = SimulatorSettings { latency_ms: 8_000, ..SimulatorSettings::default() };
    let mut bed = Bed::on(TestRedis::start().await, 1.0, settings).await;
    let address = format!("127.0.0.1:{}", free_port());
    bed.set("HTTP_ADDR", &address);
    let order = bed.order(Script::fulfilled_after(Duration::ZERO));
    let mut worker = bed.worker().await;
    let is = async |word: &str| until(word, async || get(&address).await.contains(word).then_some(())).await;
    is("\r\n\r\nready").await;
    bed.redis.kill().await;
    is("not ready: Redis does not answer").await;
    bed.redis.start_again().await;
    is("\r\n\r\nready").await;
    bed.enqueue([&order]).await;
    until("it is asked for", async || (!bed.simulator.calls(&order).is_empty()).then_some(())).await;
    worker.signal("TERM");
    is("not ready: stopping").await;
    assert_eq!(until("it stops", async || worker.ended()).await.code(), Some(0));
}

/// What `GET /readyz` answers, as it comes.
pub(crate) async fn get(address: &str) -> String {
    get_from(address, "/readyz").await
}

/// What `GET` of this path answers, as it comes; nothing where nobody answers.
pub(crate) async fn get_from(address: &str, path: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut answer = String::new();
    if let Ok(mut stream) = tokio::net::TcpStream::connect(address).await {
        let request = format!("GET {path} HTTP/1.1\r\nHost: worker\r\nConnection: close\r\n\r\n");
        if stream.write_all(request.as_bytes()).await.is_ok() {
            let _ = stream.read_to_string(&mut answer).await;
        }
    }
    answer
}
