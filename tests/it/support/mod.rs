//! What the tests share: a bed with a Redis, the simulator, a recording receiver and worker processes.

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

/// How long anything may take on a machine that is busy with other tests. A test that works never waits for it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(90);

/// Asks until the answer is there.
pub(crate) async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < end, "waited {DEADLINE:?} in vain: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Prints that something is left out, and why; fails instead where this variable of the environment is `1`, which
/// says that what it needs must be there.
pub(crate) fn leave_out(what: &str, why: &str, required_by: &str) {
    let required = std::env::var(required_by).is_ok_and(|value| value == "1");
    assert!(!required, "{required_by}=1, and {what} cannot be tested: {why}");
    let _ = writeln!(std::io::stderr(), "left out: {what}: {why}");
}
