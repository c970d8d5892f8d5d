//! Keeping the leases: the process reports for all its queues at once, whatever its handlers do, and takes
//! over from those that do not report.
//!
//! The same question tells what there is to do, for a job that was scheduled without a word, and whether
//! somebody's lease has run out. So a worker without work asks Redis for nothing else.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::RedisResult;
use tokio::sync::Notify;

use super::connection::{Connection, Steady};
use super::consumer::{LEASE, MOST_CRASHES, Shared};
use super::lease::millis;
use super::scripts;

/// Pause between two reports of a worker that holds jobs.
const HEARTBEAT: Duration = Duration::from_millis(1_500);
/// The same of one that holds none: nothing is at stake, it only looks for what it was not told of.
const IDLE_HEARTBEAT: Duration = Duration::from_secs(3);
const MOST_REAPED: usize = 1_000;

/// What Redis says of one queue.
type Report = (i64, i64, u64);

/// Registers the process in its queues, renews its leases, and gives the jobs of dead workers on.
pub(super) async fn keep_leases(queues: Vec<Arc<Shared>>, connection: Connection, report_now: Arc<Notify>) {
    let mut steady = Steady::default();
    let mut strangers_before = vec![false; queues.len()];
    // They leave one after the other within moments; the leases of the last outlast that.
    while !queues.iter().any(|shared| shared.left.load(Ordering::SeqCst)) {
        match heartbeat(&queues, &connection).await {
            Ok(reports) => {
                connection.answered();
                steady.answered();
                for ((shared, report), before) in queues.iter().zip(reports).zip(&mut strangers_before) {
                    let reap = steady.lasts_for(LEASE);
                    if let Err(error) = attend(shared, report, before, reap).await {
                        connection.failed(&error);
                    }
                }
            }
            Err(error) => {
                connection.failed(&error);
                steady.interrupted();
                // Redis may come back with older data, and so with claims that were settled.
                for shared in &queues {
                    shared.stranded.store(true, Ordering::Relaxed);
                }
            }
        }
        let busy = queues.iter().any(|shared| shared.worker_and_held().1 > 0);
        tokio::select! {
            () = tokio::time::sleep(if busy { HEARTBEAT } else { IDLE_HEARTBEAT }) => {}
            () = report_now.notified() => {}
        }
    }
}

async fn heartbeat(queues: &[Arc<Shared>], connection: &Connection) -> RedisResult<Vec<Report>> {
    let mut call = scripts::HEARTBEAT.prepare_invoke();
    call.arg(millis(LEASE));
    for shared in queues {
        let (worker, held) = shared.worker_and_held();
        call.key(&shared.queue).arg(&*worker).arg(i32::from(held > 0));
    }
    call.invoke_async(&mut connection.get()).await
}

/// Does what the report on a queue asks for.
async fn attend(
    shared: &Shared,
    (claimed, next_due_ms, expired): Report,
    strangers_before: &mut bool,
    reap: bool,
) -> RedisResult<()> {
    let Ok(claimed) = usize::try_from(claimed) else {
        // Frozen or cut off beyond its lease. What it holds runs elsewhere by now.
        tracing::warn!(queue = shared.queue, "this worker was taken for dead and starts under a new name");
        shared.rename();
        shared.wake.notify_one();
        return Ok(());
    };
    // Once is nothing: a claim or a settlement may be under way.
    let strangers = claimed > shared.worker_and_held().1;
    if strangers && *strangers_before {
        shared.stranded.store(true, Ordering::Relaxed);
    }
    *strangers_before = strangers;
    let next_due = u64::try_from(next_due_ms).ok().map(Duration::from_millis);
    if next_due.is_some_and(|due| due < IDLE_HEARTBEAT) || shared.stranded.load(Ordering::Relaxed) {
        shared.wake.notify_one();
    }
    if expired > 0 && reap { take_over(shared).await } else { Ok(()) }
}

async fn take_over(shared: &Shared) -> RedisResult<()> {
    let mut call = scripts::REAP.key(&shared.queue);
    call.arg(millis(LEASE)).arg(MOST_CRASHES).arg(MOST_REAPED);
    let (moved, buried): (u64, Vec<Vec<u8>>) = call.invoke_async(&mut shared.connection.get()).await?;
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
