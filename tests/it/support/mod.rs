//! What the tests share: a bed with a Redis, the simulator, a recording receiver and worker processes.

mod bed;
pub(crate) mod deployment;
pub(crate) mod engine;
pub(crate) mod postgres;
mod proxy;
pub(crate) mod redis;
mod sink;
pub(crate) mod smtp;
mod worker;

use std::time::Duration;

use tokio::time::{Instant, sleep};

pub(crate) use bed::{Bed, ENCRYPTION_KEY};
pub(crate) use proxy::Proxy;
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
