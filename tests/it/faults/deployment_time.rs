//! All workers of a deployment share one time for orders, whatever the clocks of its hosts and of Redis show.
//! The tests with a wrong clock need libfaketime. Without it, they print a line and pass, unless
//! `TOPUP_TEST_REQUIRE_FAKETIME=1` is set.

use std::time::Duration;

use redis::Script;
use redis::aio::MultiplexedConnection;
use topup_jobs::OrderStatus;
use topup_worker::simulator::{Script as Life, SimulatorSettings};

use crate::shutdown::get_from;
use crate::support::faketime::libfaketime;
use crate::support::redis::TestRedis;
use crate::support::{Bed, Received, connect, until};

const PRELUDE: &str = concat!(
    include_str!("../../../src/redis/lua/prelude.lua"),
    include_str!("../../../src/queue/lua/layout.lua")
);
const CLOCK: &str = include_str!("../../../src/deployment/lua/clock.lua");
const KEY: &str = "{topup}:clock";
const HOUR_MS: i64 = 3_600_000;

/// Orders that are fulfilled after this many seconds.
fn orders(bed: &Bed, seconds: u64) -> Vec<String> {
    (0..12).map(|_| bed.order(Life::fulfilled_after(Duration::from_secs(seconds)))).collect()
}

/// Waits until all orders are reported as fulfilled, and checks that none was reported as delayed.
async fn fulfilled_and_not_delayed(bed: &Bed, orders: &[String]) {
    for id in orders {
        bed.delivered(id, "fulfilled").await;
    }
    bed.stored(orders, OrderStatus::Fulfilled).await;
    let received = bed.sink.received();
    let delayed: Vec<_> = received.iter().map(Received::id).filter(|id| id.ends_with("delayed")).collect();
    assert!(delayed.is_empty(), "{delayed:?}");
}

/// Runs two workers, one of them on a host whose clock is off by this much.
async fn one_host_is_off(by: &str, ahead: &str) {
    let Some(library) = libfaketime("a host whose clock is wrong") else { return };
    let mut bed = Bed::new(1.0).await;
    bed.set("LD_PRELOAD", library);
    // Only the wall clock is wrong. The monotonic clock is right on every host.
    bed.set("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    bed.set("FAKETIME", "+0");
    let right = bed.worker().await;
    bed.set("FAKETIME", by);
    let address = bed.serve_http();
    let off = bed.worker().await;
    let orders = orders(&bed, 7);
    bed.enqueue(&orders).await;
    fulfilled_and_not_delayed(&bed, &orders).await;
    off.logs("the clock of this host differs from that of Redis").await;
    assert!(!right.log().contains("the clock of this host"), "{}", right.log());
    let metrics = get_from(&address, "/metrics").await;
    assert!(metrics.contains(&format!("topup_clock_ahead_seconds {ahead}")), "{metrics}");
}

#[tokio::test]
async fn a_host_whose_clock_is_ahead_reports_no_order_as_delayed() {
    one_host_is_off("+330", "3").await;
}

#[tokio::test]
async fn a_host_whose_clock_is_behind_reports_no_order_as_delayed() {
    one_host_is_off("-330", "-3").await;
}

#[tokio::test]
async fn a_redis_clock_set_an_hour_ahead_makes_no_order_delayed() {
    let Some(library) = libfaketime("a Redis whose clock is set") else { return };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("time");
    std::fs::write(&file, "+0\n").unwrap();
    let environment = [
        // The C library's allocator is preloaded: jemalloc reads the time before libfaketime is ready.
        ("LD_PRELOAD", format!("{library}:libc.so.6")),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ("FAKETIME_NO_CACHE", "1".to_owned()),
        ("FAKETIME_TIMESTAMP_FILE", file.display().to_string()),
    ];
    let redis = TestRedis::start_in(&environment).await;
    let bed = Bed::on(redis, 1.0, SimulatorSettings::default()).await;
    let before = bed.worker().await;
    let tracked = orders(&bed, 12);
    bed.enqueue(&tracked).await;
    until("a worker has confirmed the time", async || {
        bed.redis::<Option<String>>(&["HGET", KEY, "agreed"]).await
    })
    .await;
    std::fs::write(&file, "+3600\n").unwrap();
    before.logs("the clock of Redis was set").await;
    // A worker that starts later uses the same time.
    let _after = bed.worker().await;
    let later = orders(&bed, 5);
    bed.enqueue(&later).await;
    fulfilled_and_not_delayed(&bed, &tracked).await;
    fulfilled_and_not_delayed(&bed, &later).await;
    let offset: i64 = bed.redis(&["HGET", KEY, "offset"]).await;
    assert!((offset + HOUR_MS).abs() < 60_000, "{offset}");
}

/// Runs the script for a worker whose time is this many ms ahead of the clock of Redis, or unknown. Returns
/// by how many ms the deployment is ahead of that clock, and the verdict.
async fn call(
    redis: &mut MultiplexedConnection,
    ahead: Option<i64>,
    expected_late_by: Option<i64>,
) -> (i64, String) {
    let (seconds, micros): (i64, i64) = redis::cmd("TIME").query_async(redis).await.unwrap();
    let time = seconds * 1000 + micros / 1000;
    let text = |ms: Option<i64>| ms.map(|ms| (time + ms).to_string()).unwrap_or_default();
    let script = Script::new(&[PRELUDE, CLOCK].concat());
    let mut call = script.key(KEY);
    call.arg(text(ahead)).arg(text(expected_late_by));
    let (redis_ms, deployment_ms, verdict): (i64, i64, String) = call.invoke_async(redis).await.unwrap();
    (deployment_ms - redis_ms, verdict)
}

fn is_near(left: i64, right: i64) -> bool {
    (left - right).abs() <= 500
}

#[tokio::test]
async fn the_first_worker_that_notices_a_clock_step_keeps_the_time_and_an_outlier_follows() {
    let server = TestRedis::start().await;
    let mut redis = connect(&server.url()).await.unwrap();
    // At first the time is that of Redis, and a worker that only reads the time confirms nothing.
    assert_eq!(call(&mut redis, None, None).await, (0, "alone".to_owned()));
    assert_eq!(call(&mut redis, Some(300), None).await.1, "agrees");
    // A worker that was paused disagrees, but another one has just confirmed the time.
    assert_eq!(call(&mut redis, Some(-60_000), Some(0)).await, (0, "others-agree".to_owned()));
    // Simulates that the clock of Redis was set an hour ahead since then.
    let ago = |ms: i64| format!("redis.call('HSET', KEYS[1], 'agreed', redis.call('TIME')[1] * 1000 - {ms})");
    let an_hour_passes = Script::new(&ago(HOUR_MS));
    an_hour_passes.key(KEY).invoke_async::<()>(&mut redis).await.unwrap();
    assert_eq!(call(&mut redis, Some(-HOUR_MS), None).await, (0, "alone".to_owned()), "a first report");
    let late = call(&mut redis, Some(-HOUR_MS), Some(-5_000)).await;
    assert_eq!(late, (0, "alone".to_owned()), "a delayed call is outdated");
    let (offset, verdict) = call(&mut redis, Some(-HOUR_MS), Some(0)).await;
    assert!(is_near(offset, -HOUR_MS) && verdict == "agrees", "{offset} {verdict}");
    // A second worker that notices the change gets its own time, and so does a worker that starts.
    assert_eq!(call(&mut redis, Some(-HOUR_MS), Some(0)).await.1, "agrees");
    let (offset, _) = call(&mut redis, None, None).await;
    assert!(is_near(offset, -HOUR_MS), "{offset}");
    // The clock is set back again, so the last confirmation lies in the future.
    Script::new(&ago(-HOUR_MS)).key(KEY).invoke_async::<()>(&mut redis).await.unwrap();
    let (offset, verdict) = call(&mut redis, Some(0), Some(0)).await;
    assert!(is_near(offset, 0) && verdict == "agrees", "{offset} {verdict}");
}

#[tokio::test]
async fn the_time_of_the_deployment_converges_to_that_of_redis() {
    let server = TestRedis::start().await;
    let mut redis = connect(&server.url()).await.unwrap();
    for offset in [-HOUR_MS, HOUR_MS] {
        let set = Script::new(
            "redis.call('HSET', KEYS[1], 'offset', ARGV[1], 'at', redis.call('TIME')[1] * 1000 - ARGV[2])",
        );
        for (passed, left) in [(0, offset), (50 * HOUR_MS, offset / 2), (200 * HOUR_MS, 0)] {
            set.key(KEY).arg(offset).arg(passed).invoke_async::<()>(&mut redis).await.unwrap();
            let (found, _) = call(&mut redis, None, None).await;
            assert!(is_near(found, left), "{found} of {left}");
        }
    }
}
