//! Claims as many due jobs as the worker has free slots, and none in advance.
//!
//! While claims leave due jobs over, a second claim is on its way when the first one's jobs begin to run. A job waits at
//! Redis until a slot is free, whichever claim takes it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::{RedisResult, Value};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::{Mutex, RwLock, Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::lease::{ClaimedJob, Lease, Settling, Slot};
use super::scripts;
use super::shared::Shared;
use crate::claim_pause::ClaimPause;
use crate::pace::Pace;
use crate::redis::Backoff;

/// Longest sleep between two claims. A message on `:wake` or a heartbeat ends the sleep if a job is due.
const MAX_SLEEP: Duration = Duration::from_mins(10);
/// Least time between two claims of several jobs, if no job is left over.
const INTERVAL: Duration = Duration::from_millis(2);
pub(super) const MAX_CLAIMED: usize = 256;

pub(super) struct Claim {
    pub(super) shared: Arc<Shared>,
    /// Limits the jobs that run at once.
    pub(super) slots: Arc<Semaphore>,
    /// Limits the jobs that run or wait to be settled.
    pub(super) unsettled: Arc<Semaphore>,
    pub(super) jobs: UnboundedSender<ClaimedJob>,
    /// Receives the settlements of claimed jobs.
    pub(super) settle: UnboundedSender<Settling>,
    pub(super) pauses: Vec<ClaimPause>,
    /// A quarter of the slots, see [`Claim::free_slots`].
    pub(super) quarter: u32,
    pub(super) overlap: Overlap,
}

/// Lets two claims overlap while due jobs are left over, so that Redis works on one while the jobs of the other run.
#[derive(Default)]
pub(super) struct Overlap {
    /// Held while a claim gathers its slots.
    gathering: Mutex<()>,
    /// A claim holds it for reading. Orphaned claims are given back only while no claim runs.
    claiming: RwLock<()>,
    running: watch::Sender<usize>,
    /// Whether the last claim left due jobs over.
    backlog: watch::Sender<bool>,
}

/// The result of `claim.lua`: ms until the next scheduled job or -1, number of due jobs left, ids, payloads, counts.
type Answer = (i64, u64, Vec<Vec<u8>>, Vec<Option<Vec<u8>>>, Vec<Value>);

struct Claimed {
    jobs: usize,
    waiting: u64,
    next_due: Option<Duration>,
}

impl Claim {
    pub(super) async fn run(self, stop: CancellationToken) {
        tokio::join!(self.claim_all(&stop), self.claim_backlog(&stop));
    }

    /// Claims jobs until `stop`, and sleeps while no job is due.
    async fn claim_all(&self, stop: &CancellationToken) {
        let (mut backoff, mut pace) = (Backoff::new(), Pace::default());
        while let Some(slots) = self.free_slots(stop).await {
            let asked = slots.len();
            match self.claim(slots, stop).await {
                Some(claimed) => {
                    backoff = Backoff::new();
                    // While due jobs are left, claims again at once: even the shortest sleep takes a millisecond.
                    let more = claimed.waiting > 0 || claimed.next_due == Some(Duration::ZERO);
                    pace.called(claimed.jobs, Instant::now());
                    if claimed.waiting == 0 && (claimed.jobs < asked || !more) {
                        let was_woken = self.sleep(claimed.next_due, stop).await;
                        // New jobs come in a row, so more will be due in a moment.
                        let wait =
                            if was_woken { pace.wait(INTERVAL, Instant::now()) } else { Duration::ZERO };
                        if !wait.is_zero() {
                            tokio::time::sleep(wait).await;
                        }
                    }
                }
                None => backoff.wait().await,
            }
        }
    }

    /// Claims jobs as well while claims leave due jobs over.
    async fn claim_backlog(&self, stop: &CancellationToken) {
        let mut backlog = self.overlap.backlog.subscribe();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = backlog.wait_for(|left_over| *left_over) => {}
            }
            let Some(slots) = self.free_slots(stop).await else { return };
            self.claim(slots, stop).await;
        }
    }

    /// Waits for a free slot and takes all free slots, up to [`MAX_CLAIMED`]. Returns `None` on `stop`. While another
    /// claim runs, waits until a quarter of the slots is free, because many small claims cost more than a few large ones.
    async fn free_slots(&self, stop: &CancellationToken) -> Option<Vec<Slot>> {
        let gather = async {
            let _gathering = self.overlap.gathering.lock().await;
            for pause in &self.pauses {
                pause.over().await;
            }
            let mut slots = self.wait_for_slots(1).await?;
            let mut running = self.overlap.running.subscribe();
            tokio::select! {
                biased;
                more = self.wait_for_slots(self.quarter) => slots.extend(more?),
                _ = running.wait_for(|running| *running == 0) => {}
            }
            while slots.len() < MAX_CLAIMED
                && let Ok(running) = Arc::clone(&self.slots).try_acquire_owned()
                && let Ok(unsettled) = Arc::clone(&self.unsettled).try_acquire_owned()
            {
                slots.push(Slot { _running: running, unsettled });
            }
            Some(slots)
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => None,
            slots = gather => slots,
        }
    }

    async fn wait_for_slots(&self, number: u32) -> Option<Vec<Slot>> {
        let mut unsettled = Arc::clone(&self.unsettled).acquire_many_owned(number).await.ok()?;
        let mut running = Arc::clone(&self.slots).acquire_many_owned(number).await.ok()?;
        let slots =
            std::iter::from_fn(|| Some(Slot { _running: running.split(1)?, unsettled: unsettled.split(1)? }));
        Some(slots.collect())
    }

    /// Sleeps until the next job is due. Returns whether a message woke it earlier.
    async fn sleep(&self, next_due: Option<Duration>, stop: &CancellationToken) -> bool {
        let wait = next_due.unwrap_or(MAX_SLEEP).min(MAX_SLEEP);
        tokio::select! {
            () = stop.cancelled() => false,
            () = self.shared.wake.notified() => true,
            () = tokio::time::sleep(wait) => false,
        }
    }

    /// Claims up to one job per slot. Returns `None` if Redis fails, or if the worker was presumed dead.
    async fn claim(&self, slots: Vec<Slot>, stop: &CancellationToken) -> Option<Claimed> {
        let shared = &self.shared;
        self.overlap.running.send_modify(|running| *running += 1);
        let claimed = self.try_claim(slots, stop).await;
        self.overlap.running.send_modify(|running| *running -= 1);
        match &claimed {
            Ok(Some(_)) => shared.connection.answered(),
            Ok(None) => shared.report_now.notify_one(),
            Err(error) => {
                shared.connection.failed_to_work(error);
                shared.orphaned_claims.store(true, Ordering::Relaxed);
            }
        }
        let claimed = claimed.ok().flatten();
        let left_over = claimed.as_ref().is_some_and(|claimed| claimed.waiting > 0);
        self.overlap.backlog.send_if_modified(|backlog| std::mem::replace(backlog, left_over) != left_over);
        claimed
    }

    async fn try_claim(&self, slots: Vec<Slot>, stop: &CancellationToken) -> RedisResult<Option<Claimed>> {
        let (worker, held) = self.shared.worker_and_held();
        let mut connection = self.shared.connection.get();
        if self.shared.orphaned_claims.load(Ordering::Relaxed) {
            let _alone = self.overlap.claiming.write().await;
            give_back(&self.shared, &worker).await?;
            self.shared.orphaned_claims.store(false, Ordering::Relaxed);
        }
        let _claiming = self.overlap.claiming.read().await;
        let answer: Option<Answer> = scripts::CLAIM
            .key(&self.shared.queue)
            .arg(&*worker)
            .arg(slots.len())
            .arg(i32::from(held > 0))
            .invoke_async(&mut connection)
            .await?;
        let Some((next_due_ms, waiting, ids, payloads, counts)) = answer else { return Ok(None) };
        let claimed = Claimed {
            jobs: ids.len(),
            waiting,
            next_due: u64::try_from(next_due_ms).ok().map(Duration::from_millis),
        };
        let mut counts = counts.into_iter().map(|count| redis::from_redis_value(count).unwrap_or(0));
        let mut misnamed = Vec::new();
        for ((id, payload), slot) in ids.into_iter().zip(payloads).zip(slots) {
            let mut count = || counts.next().unwrap_or(0);
            let (attempts_made, faults, crashes, suspect) = (count(), count(), count(), count() > 0);
            let other_id = |payload| (self.shared.other_id)(&id, payload);
            if let Some(right) = payload.as_deref().and_then(other_id) {
                misnamed.push((id, right));
                continue;
            }
            let current = self.shared.hold(&worker, &id);
            let lease = Lease {
                worker: Arc::clone(&worker),
                id: id.clone(),
                settle: self.settle.clone(),
                slot: Some(slot),
            };
            if !current || stop.is_cancelled() {
                // The worker was presumed dead during the claim, or it stops. The dropped lease gives the job back.
                continue;
            }
            // If the receiver is gone, the dropped lease gives the job back.
            drop(self.jobs.send(ClaimedJob {
                id,
                payload,
                attempts_made,
                faults,
                crashes,
                suspect,
                lease: Some(lease),
            }));
        }
        self.identify(&worker, misnamed).await?;
        Ok(Some(claimed))
    }

    /// Gives jobs of other programs the ids that their payloads require. If this fails, they go back to their queue.
    async fn identify(&self, worker: &str, misnamed: Vec<(Vec<u8>, String)>) -> RedisResult<()> {
        if misnamed.is_empty() {
            return Ok(());
        }
        let (shared, jobs) = (&self.shared, misnamed.len());
        let mut call = scripts::IDENTIFY.key(&shared.queue);
        for sibling in &shared.siblings {
            call.key(sibling);
        }
        call.arg(worker);
        for (id, right) in misnamed {
            call.arg(id).arg(right);
        }
        let dropped: u64 = call.invoke_async(&mut shared.connection.get()).await?;
        tracing::info!(
            queue = shared.queue,
            jobs,
            dropped,
            "jobs that a program pushed into the queue got the ids of their orders; those of orders tracked already were dropped"
        );
        Ok(())
    }
}

/// Gives back the jobs that Redis counts as claimed by this worker but that have no lease here. Call it only between
/// two claims, as jobs of a claim in progress have no lease yet.
async fn give_back(shared: &Shared, worker: &str) -> RedisResult<()> {
    let mut connection = shared.connection.get();
    let inflight = format!("{}:inflight:{worker}", shared.queue);
    let mut claimed: Vec<Vec<u8>> = redis::cmd("SMEMBERS").arg(inflight).query_async(&mut connection).await?;
    claimed.retain(|id| !shared.holds(id));
    if claimed.is_empty() {
        return Ok(());
    }
    let mut call = scripts::GIVE_BACK.key(&shared.queue);
    let given: u64 = call.arg(worker).arg(claimed).invoke_async(&mut connection).await?;
    tracing::info!(queue = shared.queue, given, "gave back claimed jobs that this worker does not hold");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex as StdMutex;
    use std::sync::atomic::AtomicBool;

    use tokio::sync::Notify;
    use tokio::sync::mpsc::unbounded_channel;
    use topup_jobs::JobName;

    use super::*;
    use crate::queue::shared::Identity;
    use crate::redis::{Connection, Names, RedisAddress, RedisHealth};

    /// A claim task with eight slots, which never connects.
    fn claim() -> Claim {
        let names: Names = "{topup}".parse().unwrap();
        let address = RedisAddress::parse("redis://127.0.0.1:1", &names).unwrap();
        let shared = Shared {
            queue: names.queue(JobName::PollTopup),
            siblings: Vec::new(),
            other_id: |_, _| None,
            last_batch: String::new(),
            connection: Connection::new(&address, &RedisHealth::default()),
            wake: Arc::default(),
            report_now: Arc::new(Notify::new()),
            identity: StdMutex::new(Identity::new("worker".into())),
            orphaned_claims: AtomicBool::new(false),
            some_wait: AtomicBool::new(false),
            left: AtomicBool::new(false),
            names,
        };
        Claim {
            shared: Arc::new(shared),
            slots: Arc::new(Semaphore::new(8)),
            unsettled: Arc::new(Semaphore::new(100)),
            jobs: unbounded_channel().0,
            settle: unbounded_channel().0,
            pauses: Vec::new(),
            quarter: 2,
            overlap: Overlap::default(),
        }
    }

    #[tokio::test]
    async fn a_second_claim_begins_when_a_quarter_of_the_slots_is_free_or_the_first_has_ended() {
        let (claim, stop) = (claim(), CancellationToken::new());
        let mut held = claim.free_slots(&stop).await.unwrap();
        assert_eq!(held.len(), 8, "no other claim runs");
        let soon = Duration::from_millis(20);
        claim.overlap.running.send_replace(1);
        for (freed, gathered) in [(1, None), (2, None), (3, Some(3)), (5, Some(5))] {
            let free: Vec<Slot> = held.drain(..freed).collect();
            drop(free);
            let patience = if gathered.is_some() { Duration::from_secs(10) } else { soon };
            let slots = tokio::time::timeout(patience, claim.free_slots(&stop)).await.ok().flatten();
            assert_eq!(slots.as_ref().map(Vec::len), gathered, "{freed} free");
            held.extend(slots.unwrap_or_default());
            // Slots that were not gathered are taken again.
            while held.len() < 8 {
                held.extend(claim.wait_for_slots(1).await.unwrap());
            }
        }
        held.pop();
        let (slots, ()) = tokio::join!(claim.free_slots(&stop), async {
            tokio::time::sleep(soon).await;
            claim.overlap.running.send_replace(0);
        });
        assert_eq!(slots.unwrap().len(), 1, "the first claim has ended");
        assert_eq!(claim.unsettled.available_permits(), 100 - held.len());
    }

    #[tokio::test]
    async fn the_backlog_is_claimed_only_while_jobs_are_left_over() {
        let (claim, stop) = (claim(), CancellationToken::new());
        let wait = Duration::from_millis(20);
        assert!(tokio::time::timeout(wait, claim.claim_backlog(&stop)).await.is_err());
        assert_eq!(claim.slots.available_permits(), 8);
        assert_eq!(*claim.overlap.running.borrow(), 0);
        stop.cancel();
        claim.claim_backlog(&stop).await;
    }
}
