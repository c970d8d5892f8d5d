//! Settling: results go to Redis in batches and are held while it is away.

use std::sync::Arc;

use redis::RedisResult;
use tokio::sync::mpsc::UnboundedReceiver;

use super::connection::Pause;
use super::consumer::Shared;
use super::lease::Settling;
use super::scripts;

const MOST_SETTLED: usize = 128;

/// Hands settlements to Redis in batches until every lease is gone, then leaves the queue.
pub(super) async fn settle_all(shared: Arc<Shared>, mut settlings: UnboundedReceiver<Settling>) {
    let mut batch = Vec::with_capacity(MOST_SETTLED);
    let mut number = 0_u64;
    while settlings.recv_many(&mut batch, MOST_SETTLED).await > 0 {
        number += 1;
        let mut pause = Pause::new();
        let owned = loop {
            match settle(&shared, number, &batch).await {
                Ok(owned) => break owned,
                Err(error) => {
                    shared.connection.failed(&error);
                    pause.wait().await;
                }
            }
        };
        shared.connection.answered();
        let lost = owned.iter().filter(|owned| !**owned).count();
        if lost > 0 {
            let queue = &shared.queue;
            tracing::warn!(queue, lost, "jobs of this worker had been taken over; their results are dropped");
        }
        for settled in batch.drain(..) {
            shared.forget(&settled.id);
        }
    }
    let mut connection = shared.connection.get();
    let worker = shared.worker();
    let mut leave = scripts::LEAVE.key(&shared.queue);
    leave.key(&shared.last_batch).arg(&*worker);
    if let Err(error) = leave.invoke_async::<u64>(&mut connection).await {
        shared.connection.failed(&error);
    }
}

async fn settle(shared: &Shared, number: u64, batch: &[Settling]) -> RedisResult<Vec<bool>> {
    let mut call = scripts::SETTLE.prepare_invoke();
    call.key(&shared.queue).key(&shared.last_batch).arg(number);
    for settling in batch {
        settling.write_args(&shared.names, &mut call);
    }
    let mut connection = shared.connection.get();
    call.invoke_async(&mut connection).await
}
