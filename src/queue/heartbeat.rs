//! Keeping the leases: the process reports for all its queues at once, whatever its handlers do, and takes
//! over from those that do not report.
//!
//! The same question tells what there is to do, for a job that was scheduled without a word, and whether
//! a lease has run out. So a worker without work asks Redis for nothing else.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::RedisResult;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::put_right::put_right;
use super::scripts;
use super::shared::{LEASE, Shared};
use crate::redis::{Backoff, Connection, StableSince, millis};

/// Pause between two reports of a worker that holds jobs.
const HEARTBEAT: Duration = Duration::from_millis(1_500);
/// The same of one that holds none: nothing is at stake, it only looks for what it was not told of.
const IDLE_HEARTBEAT: Duration = Duration::from_secs(3);
/// How long the answer to a report may take. One that hangs must leave the time for another within the lease.
const ANSWER: Duration = Duration::from_secs(2);
/// The clock of Redis may gain or lose so much on ours between two reports before it counts as set.
const CLOCK_MAY_GAIN: Duration = Duration::from_secs(1);
const MAX_REAPED: usize = 1_000;

/// What Redis says of one queue: jobs in flight, ms until the next is due, whether a lease has run out.
type Report = (i64, i64, u64);

/// A queue whose leases are kept.
struct Kept {
    shared: Arc<Shared>,
    /// Whether Redis counted more claims of this worker than the worker knows of at the last report.
    unknown_claims: bool,
    /// Jobs that became suspects when this worker was taken for dead, with its name then.
    wronged: Vec<(Arc<str>, Vec<Vec<u8>>)>,
}

/// Registers the process in its queues, renews its leases, and gives the jobs of dead workers on. A queue that
/// the process has left is left alone; the others have jobs that still run.
pub(super) async fn keep_leases(queues: Vec<Arc<Shared>>, connection: Connection, report_now: Arc<Notify>) {
    let clock_was_set = Arc::new(Notify::new());
    let putting_right = put_right(queues.clone(), connection.clone(), Arc::clone(&clock_was_set));
    let _putting_right = AbortOnDropHandle::new(tokio::spawn(putting_right));
    // It may have been set while no worker ran.
    clock_was_set.notify_one();
    let kept = |shared| Kept { shared, unknown_claims: false, wronged: Vec::new() };
    let mut queues: Vec<_> = queues.into_iter().map(kept).collect();
    let connection = connection.answering_within(ANSWER);
    let mut stable = StableSince::default();
    let mut clock = ClockOfRedis::default();
    let mut times_left = connection.times_left();
    let mut backoff = Backoff::new();
    loop {
        queues.retain(|kept| !kept.shared.left.load(Ordering::SeqCst));
        if queues.is_empty() {
            return;
        }
        let (asked, left_so_far) = (Instant::now(), connection.times_left());
        match heartbeat(&queues, &connection, clock.was_set).await {
            Ok((shows, reports)) => {
                connection.answered();
                backoff = Backoff::new();
                clock.reads(Reading { asked, answered: Instant::now(), shows });
                // Another server, for all we know: it has a clock of its own, and others have yet to find it. What
                // was left while this report was on its way still counts with the next.
                clock.was_set |= connection.times_left() != times_left;
                times_left = left_so_far;
                if clock.was_set {
                    stable.interrupted();
                    clock_was_set.notify_one();
                }
                stable.answered();
                for (kept, report) in queues.iter_mut().zip(reports) {
                    let same_server = connection.times_left() == times_left;
                    if let Err(error) = attend(kept, report, same_server && stable.lasts_for(LEASE)).await {
                        connection.failed(&error);
                    }
                }
            }
            Err(error) => {
                connection.failed_to_work(&error);
                stable.interrupted();
                // Redis may come back with older data, and so with claims that were settled.
                for kept in &queues {
                    kept.shared.orphaned_claims.store(true, Ordering::Relaxed);
                }
                backoff.wait().await;
                continue;
            }
        }
        let busy = queues.iter().any(|kept| kept.shared.worker_and_held().1 > 0);
        tokio::select! {
            () = tokio::time::sleep(if busy { HEARTBEAT } else { IDLE_HEARTBEAT }) => {}
            () = report_now.notified() => {}
        }
    }
}

/// The reports on all queues, and the time by the clock of Redis in ms.
async fn heartbeat(
    queues: &[Kept],
    connection: &Connection,
    clock_was_set: bool,
) -> RedisResult<(i64, Vec<Report>)> {
    let mut call = scripts::HEARTBEAT.prepare_invoke();
    call.arg(millis(LEASE)).arg(i32::from(clock_was_set));
    for Kept { shared, .. } in queues {
        let (worker, held) = shared.worker_and_held();
        call.key(&shared.queue).arg(&*worker).arg(i32::from(held > 0));
    }
    call.invoke_async(&mut connection.get()).await
}

/// The clock of Redis beside our own. It may be set, or be another one after a fail-over; then leases seem to have
/// run out, or to run on for as long as the two differ.
struct ClockOfRedis {
    read: Option<Reading>,
    /// Whether it was set between the last two readings, or may be another one. Unknown at the start.
    was_set: bool,
}

/// What it showed, in ms, and when it was asked and had answered.
#[derive(Clone, Copy)]
struct Reading {
    asked: Instant,
    answered: Instant,
    shows: i64,
}

impl Default for ClockOfRedis {
    fn default() -> Self {
        Self { read: None, was_set: true }
    }
}

impl ClockOfRedis {
    fn reads(&mut self, now: Reading) {
        let ms = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        self.was_set = self.read.is_some_and(|before| {
            let least = ms(now.asked.saturating_duration_since(before.answered));
            let most = ms(now.answered.duration_since(before.asked));
            // Less than nothing where it was set back.
            let passed = now.shows - before.shows;
            passed > most + ms(CLOCK_MAY_GAIN) || passed + ms(CLOCK_MAY_GAIN) < least
        });
        self.read = Some(now);
    }
}

/// Does what the report on a queue asks for.
async fn attend(kept: &mut Kept, (claimed, next_due_ms, expired): Report, reap: bool) -> RedisResult<()> {
    let shared = &kept.shared;
    let Ok(claimed) = usize::try_from(claimed) else {
        // Frozen or cut off beyond its lease. What it holds runs elsewhere by now.
        tracing::warn!(queue = shared.queue, "this worker was taken for dead and starts under a new name");
        kept.wronged.push(shared.rename());
        shared.wake.notify_one();
        return acquit(kept).await;
    };
    acquit(kept).await?;
    let shared = &kept.shared;
    // Once is nothing: a claim or a settlement may be under way.
    let unknown_claims = claimed > shared.worker_and_held().1;
    if unknown_claims && kept.unknown_claims {
        shared.orphaned_claims.store(true, Ordering::Relaxed);
    }
    kept.unknown_claims = unknown_claims;
    shared.some_wait.store(next_due_ms >= 0, Ordering::Relaxed);
    let next_due = u64::try_from(next_due_ms).ok().map(Duration::from_millis);
    if next_due.is_some_and(|due| due < IDLE_HEARTBEAT) || shared.orphaned_claims.load(Ordering::Relaxed) {
        shared.wake.notify_one();
    }
    if expired > 0 && reap { take_over(shared).await } else { Ok(()) }
}

/// Takes back the suspicion against the jobs of a worker that lives.
async fn acquit(kept: &mut Kept) -> RedisResult<()> {
    let Kept { shared, wronged, .. } = kept;
    while let Some((worker, ids)) = wronged.last_mut() {
        let some = ids.split_off(ids.len().saturating_sub(MAX_REAPED));
        if some.is_empty() {
            wronged.pop();
            continue;
        }
        let mut call = scripts::ACQUIT.key(&shared.queue);
        call.arg(&**worker).arg(&some);
        let acquitted = call.invoke_async::<u64>(&mut shared.connection.get()).await;
        // As long as it is not answered it is tried again.
        let acquitted = acquitted.inspect_err(|_| ids.extend(some))?;
        tracing::info!(
            queue = shared.queue,
            acquitted,
            "jobs of this worker are suspects no longer: it has not died"
        );
    }
    Ok(())
}

async fn take_over(shared: &Shared) -> RedisResult<()> {
    let mut call = scripts::REAP.key(&shared.queue);
    call.arg(millis(LEASE)).arg(MAX_REAPED);
    let moved: u64 = call.invoke_async(&mut shared.connection.get()).await?;
    if moved > 0 {
        tracing::warn!(queue = shared.queue, moved, "took over the jobs of a dead worker");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_was_set_is_noticed_and_a_slow_answer_is_none() {
        let start = Instant::now();
        let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
        // Asked, answered, and what the clock showed, in seconds; then whether it was set since.
        let readings = [
            (0.0, 0.1, 100.0, false),
            (1.5, 1.6, 101.5, false),
            (3.0, 4.9, 104.9, false),
            (4.9, 5.0, 105.0, false),
            (6.5, 6.6, 110.6, true),
            (8.0, 8.1, 112.0, false),
            (9.5, 9.6, 50.0, true),
            (11.0, 11.1, 51.5, false),
            (14.0, 14.1, 52.0, true),
            // Soon after one another, and set back by more than that.
            (14.2, 14.2, 40.0, true),
            (14.4, 14.4, 40.2, false),
        ];
        let mut clock = ClockOfRedis::default();
        assert!(clock.was_set, "it is unknown at the start");
        for (asked, answered, seconds, was_set) in readings {
            let shows = Duration::from_secs_f64(seconds).as_millis().try_into().unwrap();
            clock.reads(Reading { asked: at(asked), answered: at(answered), shows });
            assert_eq!(clock.was_set, was_set, "at {asked}");
        }
    }
}
