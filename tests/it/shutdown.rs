//! A worker that stops finishes its running jobs and returns the others to the queue, and no job runs twice.

use std::time::Duration;

use topup_jobs::OrderStatus;
use topup_worker::simulator::{Script, SimulatorSettings};

use crate::support::redis::{TestRedis, free_port};
use crate::support::{Bed, until};

#[tokio::test]
async fn sigterm_under_load_drains_the_worker_and_no_job_runs_twice() {
    let settings = SimulatorSettings { latency_ms: 300, ..SimulatorSettings::default() };
    let mut bed = Bed::on(TestRedis::start().await, 1.0, settings).await;
    bed.set("CONCURRENCY", "16");
    let orders: Vec<String> = (0..200).map(|_| bed.order(Script::fulfilled_after(Duration::ZERO))).collect();
    bed.enqueue(&orders).await;
    let mut worker = bed.worker().await;
    until("the worker is busy", async || (bed.simulator.total_calls() > 40).then_some(())).await;
    let status = worker.stop().await;
    assert_eq!(status.code(), Some(0), "{}", worker.log());
    assert!(worker.log().contains("stopped=Drained"), "{}", worker.log());
    for job in topup_jobs::JobName::ALL {
        let workers: usize = bed.redis(&["ZCARD", &format!("{{topup}}:{job}:workers")]).await;
        assert_eq!(workers, 0, "the worker is no longer registered in {job}");
        let inflight: Vec<String> = bed.redis(&["KEYS", &format!("{{topup}}:{job}:inflight:*")]).await;
        assert_eq!(inflight, Vec::<String>::new());
    }
    let _other = bed.worker().await;
    bed.stored(&orders, OrderStatus::Fulfilled).await;
    bed.idle().await;
    for order in &orders {
        assert_eq!(bed.simulator.calls(order).len(), 1, "{order} was checked again");
    }
    assert_eq!(bed.sink.received().len(), orders.len(), "no order was notified twice");
}

#[tokio::test]
async fn a_second_signal_returns_running_jobs_to_the_queue_at_once() {
    let settings = SimulatorSettings { latency_ms: 10_000, ..SimulatorSettings::default() };
    let bed = Bed::on(TestRedis::start().await, 1.0, settings).await;
    let orders: Vec<String> = (0..10).map(|_| bed.order(Script::fulfilled_after(Duration::ZERO))).collect();
    let mut worker = bed.worker().await;
    bed.enqueue(&orders).await;
    // The first request verifies the key. The orders wait in the queue until its answer arrives.
    until("a check is in flight", async || (bed.simulator.total_calls() > 1).then_some(())).await;
    worker.signal("TERM");
    until("the first signal is handled", async || worker.log().contains("asked to stop").then_some(())).await;
    assert_eq!(worker.stop().await.code(), Some(0), "{}", worker.log());
    let inflight: Vec<String> = bed.redis(&["KEYS", "{topup}:poll-topup:inflight:*"]).await;
    assert_eq!(inflight, Vec::<String>::new(), "the jobs need not wait for the end of a lease");
    let due: usize = bed.redis(&["LLEN", "{topup}:poll-topup:active"]).await;
    let scheduled: usize = bed.redis(&["ZCARD", "{topup}:poll-topup:scheduled"]).await;
    assert!(due > 0, "interrupted jobs are due at once");
    assert_eq!(due + scheduled, orders.len(), "all jobs wait for another worker");
}

#[tokio::test]
async fn invalid_settings_exit_with_status_2_and_name_the_setting() {
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
async fn concurrent_migrations_of_a_new_database_all_succeed() {
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
async fn readiness_depends_on_redis_and_the_stop_signal() {
    // Slow answers keep the worker stopping for a while.
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
    until("the order is checked", async || (!bed.simulator.calls(&order).is_empty()).then_some(())).await;
    worker.signal("TERM");
    is("not ready: stopping").await;
    assert_eq!(until("the worker stops", async || worker.ended()).await.code(), Some(0));
}

/// The raw response to `GET /readyz`.
pub(crate) async fn get(address: &str) -> String {
    get_from(address, "/readyz").await
}

/// The raw response to `GET` of this path. Empty without a response.
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
