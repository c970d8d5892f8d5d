//! Heartbeats renew the leases of a worker. The process reports for all its queues at once, whatever its handlers do,
//! and takes over the jobs of workers that stopped reporting. The answer shows when a lease expires, and when the next
//! job is due (a message on `:wake` may be lost). So an idle worker sends no other command to Redis.

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

/// Longest pause between two reports of a worker that holds jobs.
const HEARTBEAT: Duration = Duration::from_millis(1_500);
/// Longest pause between two reports of a worker without jobs, which has no lease to renew.
const IDLE_HEARTBEAT: Duration = Duration::from_secs(3);
/// Timeout of a report, short enough for a second try before the lease expires.
const ANSWER: Duration = Duration::from_secs(2);
/// If the clock of Redis gains or loses more than this against ours between two reports, that clock counts as changed.
const CLOCK_MAY_GAIN: Duration = Duration::from_secs(1);
const MAX_REAPED: usize = 1_000;

/// The answer of `heartbeat.lua` for one queue: jobs in flight, ms until the next job is due, ms until a lease expires.
type Report = (i64, i64, i64);

struct Kept {
    shared: Arc<Shared>,
    /// Whether Redis counted more claims than the worker has leases, at the last report.
    unknown_claims: bool,
    /// Jobs that became suspects because this worker was presumed dead, and the worker's name at that time.
    wronged: Vec<(Arc<str>, Vec<Vec<u8>>)>,
}

/// Renews the leases of this process in all its queues and takes over jobs of dead workers, until it leaves the queues.
pub(super) async fn keep_leases(queues: Vec<Arc<Shared>>, connection: Connection, report_now: Arc<Notify>) {
    let clock_was_set = Arc::new(Notify::new());
    let putting_right = put_right(queues.clone(), connection.clone(), Arc::clone(&clock_was_set));
    let _putting_right = AbortOnDropHandle::new(tokio::spawn(putting_right));
    // The clock may have been changed while no worker ran.
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
        let pause;
        match heartbeat(&queues, &connection, clock.was_set).await {
            Ok((shows, reports)) => {
                connection.answered();
                backoff = Backoff::new();
                clock.reads(Reading { asked, answered: Instant::now(), shows });
                // A reconnect may lead to another server, whose clock may differ and to which other workers may not
                // report yet. So it counts as a change of the clock; one during this report counts at the next too.
                clock.was_set |= connection.times_left() != times_left;
                times_left = left_so_far;
                if clock.was_set {
                    stable.interrupted();
                    clock_was_set.notify_one();
                }
                stable.answered();
                // A report right after a lease expires lets its jobs run again without delay.
                let expiries = reports.iter().filter_map(|(.., expires_ms)| u64::try_from(*expires_ms).ok());
                let soonest = expiries.filter(|ms| *ms > 0).min();
                pause = soonest.map_or(IDLE_HEARTBEAT, |ms| Duration::from_millis(ms + 1));
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
                // Redis may have lost settlements and still count those jobs as claimed. The next claim returns them.
                for kept in &queues {
                    kept.shared.orphaned_claims.store(true, Ordering::Relaxed);
                }
                backoff.wait().await;
                continue;
            }
        }
        let busy = queues.iter().any(|kept| kept.shared.worker_and_held().1 > 0);
        tokio::select! {
            () = tokio::time::sleep(pause.min(if busy { HEARTBEAT } else { IDLE_HEARTBEAT })) => {}
            () = report_now.notified() => {}
        }
    }
}

/// Reports for all queues. Returns the time by the clock of Redis in ms, and the answer for each queue.
async fn heartbeat(
    queues: &[Kept],
    connection: &Connection,
    clock_was_set: bool,
) -> RedisResult<(i64, Vec<Report>)> {
    let mut call = scripts::HEARTBEAT.prepare_invoke();
    call.arg(millis(LEASE)).arg(millis(IDLE_HEARTBEAT)).arg(i32::from(clock_was_set));
    for Kept { shared, .. } in queues {
        let (worker, held) = shared.worker_and_held();
        call.key(&shared.queue).arg(&*worker).arg(i32::from(held > 0));
    }
    call.invoke_async(&mut connection.get()).await
}

/// Notices if the clock of Redis is set, or if a failover leads to a server with another clock. Leases then seem to
/// expire too early or too late, so this worker takes over no jobs for the time of a lease.
struct ClockOfRedis {
    read: Option<Reading>,
    /// Whether the clock was changed between the last two reports, or may be another server's. Initially true.
    was_set: bool,
}

/// The time that the clock of Redis showed, in ms, and the times of the request and of the answer by our clock.
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
            // Negative if the clock was moved back.
            let passed = now.shows - before.shows;
            passed > most + ms(CLOCK_MAY_GAIN) || passed + ms(CLOCK_MAY_GAIN) < least
        });
        self.read = Some(now);
    }
}

/// Acts on the answer for a queue. Jobs of dead workers are taken over only if `reap` is set.
async fn attend(kept: &mut Kept, (claimed, next_due_ms, expires_ms): Report, reap: bool) -> RedisResult<()> {
    let shared = &kept.shared;
    let Ok(claimed) = usize::try_from(claimed) else {
        // The worker was frozen or cut off for longer than its lease, and other workers may have taken over its jobs.
        tracing::warn!(queue = shared.queue, "this worker was presumed dead; it continues under a new name");
        kept.wronged.push(shared.rename());
        shared.wake.notify_one();
        return acquit(kept).await;
    };
    acquit(kept).await?;
    let shared = &kept.shared;
    // During a claim or a settlement Redis may count more claims than the worker holds, but not twice in a row.
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
    if expires_ms == 0 && reap { take_over(shared).await } else { Ok(()) }
}

/// Clears the jobs that became suspects because this worker was presumed dead: it is alive, so they did not kill it.
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
        // On an error the ids are kept for the next try.
        let acquitted = acquitted.inspect_err(|_| ids.extend(some))?;
        tracing::info!(
            queue = shared.queue,
            jobs = acquitted,
            "this worker was presumed dead but is alive; its jobs are no longer suspected of ending a process, and run as usual"
        );
    }
    Ok(())
}

async fn take_over(shared: &Shared) -> RedisResult<()> {
    let mut call = scripts::REAP.key(&shared.queue);
    call.arg(millis(LEASE)).arg(MAX_REAPED);
    let moved: u64 = call.invoke_async(&mut shared.connection.get()).await?;
    if moved > 0 {
        tracing::warn!(queue = shared.queue, moved, "took over the jobs of workers that stopped reporting");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_clock_is_noticed_and_a_slow_answer_is_not_mistaken_for_one() {
        let start = Instant::now();
        let at = |seconds: f64| start + Duration::from_secs_f64(seconds);
        // Seconds of request and answer by our clock, and by the clock of Redis; whether that clock counts as changed.
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
            // The clock is moved back between two reports that are close together.
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
