//! Sends the results of jobs to Redis in batches, and keeps them while Redis is unreachable.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::RedisResult;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::Instant;

use super::lease::Settling;
use super::scripts;
use super::shared::{MAX_CRASHES, Shared};
use crate::pace::{Pace, rest};
use crate::redis::Backoff;

pub(super) const MAX_SETTLED: usize = 256;

/// Least time between two batches of several jobs.
const INTERVAL: Duration = Duration::from_millis(2);

/// Sends settlements to Redis in batches until no lease is left, then removes the worker from the queue.
pub(super) async fn settle_all(shared: Arc<Shared>, mut settlings: UnboundedReceiver<Settling>) {
    let mut received = Vec::with_capacity(MAX_SETTLED);
    let (mut number, mut pace) = (0_u64, Pace::default());
    loop {
        if settlings.len() < MAX_SETTLED / 2 {
            rest(pace.wait(INTERVAL, Instant::now())).await;
        }
        if settlings.recv_many(&mut received, MAX_SETTLED).await == 0 {
            break;
        }
        pace.called(received.len(), Instant::now());
        // A job is settled under the worker name under which it was claimed.
        for batch in received.chunk_by(|one, other| one.worker == other.worker) {
            number += 1;
            settle_surely(&shared, number, batch).await;
        }
        for settled in received.drain(..) {
            shared.forget(&settled.worker, &settled.id);
        }
    }
    shared.left.store(true, Ordering::SeqCst);
    let mut connection = shared.connection.get();
    let mut leave = scripts::LEAVE.key(&shared.queue);
    leave.key(&shared.last_batch).arg(&*shared.worker());
    if let Err(error) = leave.invoke_async::<u64>(&mut connection).await {
        shared.connection.failed_to_work(&error);
    }
}

/// Settles a batch, and tries again until Redis has answered.
async fn settle_surely(shared: &Shared, number: u64, batch: &[Settling]) {
    let mut backoff = Backoff::new();
    let lost = loop {
        match settle(shared, number, batch).await {
            Ok(lost) => break lost,
            Err(error) => {
                shared.connection.failed_to_work(&error);
                backoff.wait().await;
            }
        }
    };
    shared.connection.answered();
    if lost > 0 {
        let queue = &shared.queue;
        tracing::warn!(queue, lost, "other workers took over jobs of this worker; its results are dropped");
    }
}

/// Settles a batch. Returns the number of settlements that Redis dropped.
async fn settle(shared: &Shared, number: u64, batch: &[Settling]) -> RedisResult<u64> {
    let mut call = scripts::SETTLE.prepare_invoke();
    call.key(&shared.queue).key(&shared.last_batch).arg(number);
    call.arg(batch.first().map_or("", |settling| &*settling.worker)).arg(MAX_CRASHES);
    let (finished, others): (Vec<_>, Vec<_>) = batch.iter().partition(|settling| settling.only_finishes());
    call.arg(finished.len());
    for settling in finished {
        call.arg(settling.id.as_slice());
    }
    for settling in others {
        settling.write_args(&shared.names, &mut call);
    }
    call.invoke_async(&mut shared.connection.get()).await
}
