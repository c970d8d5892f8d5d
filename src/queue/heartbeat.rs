//! Keeping the lease: the worker reports, whatever its handlers do, and takes over from those that do not.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::RedisResult;

use super::connection::Steady;
use super::consumer::{LEASE, Shared};
use super::lease::millis;
use super::scripts;

const HEARTBEAT: Duration = Duration::from_millis(1_500);
/// A job whose worker died this often while running it is poison.
const MOST_CRASHES: u32 = 3;
const MOST_REAPED: usize = 1_000;

/// Registers the worker, renews its lease, and gives the jobs of dead workers on.
pub(super) async fn keep_lease(shared: Arc<Shared>) {
    let mut steady = Steady::default();
    let mut registered = false;
    let mut unknown_before = false;
    let mut tick = tokio::time::interval(HEARTBEAT);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = shared.register.notified() => {}
        }
        let claimed = match heartbeat(&shared, !registered).await {
            Ok(claimed) => claimed,
            Err(error) => {
                shared.connection.failed(&error);
                steady.interrupted();
                continue;
            }
        };
        let Ok(claimed) = usize::try_from(claimed) else {
            // Frozen or cut off beyond its lease. What it holds runs elsewhere by now.
            tracing::warn!(
                queue = shared.queue,
                "this worker was taken for dead and starts under a new name"
            );
            shared.rename();
            registered = false;
            shared.register.notify_one();
            continue;
        };
        shared.connection.answered();
        steady.answered();
        if !registered {
            registered = true;
            shared.wake.notify_one();
        }
        // Once is nothing: a claim or a settlement may be under way.
        let unknown = claimed > shared.held().values().sum();
        if unknown && unknown_before {
            shared.stranded.store(true, Ordering::Relaxed);
        }
        unknown_before = unknown;
        if steady.lasts_for(LEASE)
            && let Err(error) = reap(&shared).await
        {
            shared.connection.failed(&error);
        }
    }
}

async fn heartbeat(shared: &Shared, register: bool) -> RedisResult<i64> {
    let mut connection = shared.connection.get();
    let mut call = scripts::HEARTBEAT.key(&shared.queue);
    call.arg(&*shared.worker()).arg(i32::from(register)).invoke_async(&mut connection).await
}

async fn reap(shared: &Shared) -> RedisResult<()> {
    let mut connection = shared.connection.get();
    let mut call = scripts::REAP.key(&shared.queue);
    call.arg(millis(LEASE)).arg(MOST_CRASHES).arg(MOST_REAPED);
    let (moved, buried): (u64, Vec<Vec<u8>>) = call.invoke_async(&mut connection).await?;
    if moved > 0 {
        tracing::warn!(queue = shared.queue, moved, "took over the jobs of a dead worker");
    }
    for id in buried {
        let id = String::from_utf8_lossy(&id).into_owned();
        tracing::error!(
            queue = shared.queue,
            job.id = id,
            "a job goes to the dead letters: its workers died"
        );
    }
    Ok(())
}
