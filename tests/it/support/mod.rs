//! Shared by the tests: a test bed with a Redis, the simulator, a webhook receiver and worker processes.

mod bed;
mod connection;
pub(crate) mod deployment;
pub(crate) mod engine;
pub(crate) mod faketime;
pub(crate) mod postgres;
mod proxy;
pub(crate) mod redis;
mod signal;
mod sink;
pub(crate) mod smtp;
pub(crate) mod worker;

use std::io::Write as _;
use std::time::Duration;

use tokio::time::{Instant, sleep};

pub(crate) use bed::{Bed, ENCRYPTION_KEY};
pub(crate) use connection::{connect, connect_to};
pub(crate) use proxy::{Proxy, from_address};
pub(crate) use sink::{Received, SECRET, Sink};
pub(crate) use worker::PROGRAM;

/// Longest wait of a test, on a machine that is busy with other tests. A test that passes does not reach it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(90);

/// Calls `check` until it returns a value, and fails after [`DEADLINE`].
pub(crate) async fn until<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = check().await {
            return value;
        }
        assert!(Instant::now() < end, "not within {DEADLINE:?}: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Prints that a test is skipped, and why. Fails instead if the environment variable `required_by` is `1`.
pub(crate) fn skip_or_fail(what: &str, why: &str, required_by: &str) {
    let required = std::env::var(required_by).is_ok_and(|value| value == "1");
    assert!(!required, "{required_by}=1, and {what} cannot be tested: {why}");
    let _ = writeln!(std::io::stderr(), "left out: {what}: {why}");
}
