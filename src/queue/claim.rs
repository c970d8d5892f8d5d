//! Claims as many due jobs as the worker has free slots, and none in advance.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use redis::{RedisResult, Value};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::lease::{ClaimedJob, Lease, Settling, Slot};
use super::scripts;
use super::shared::Shared;
use crate::claim_pause::ClaimPause;
use crate::pace::{Pace, rest};
use crate::redis::Backoff;

/// Longest sleep between two claims. A message on `:wake` or a heartbeat ends the sleep if a job is due.
const MAX_SLEEP: Duration = Duration::from_mins(10);
/// Least time between two claims of several jobs, if no job is left over.
const INTERVAL: Duration = Duration::from_millis(2);
const MAX_CLAIMED: usize = 256;

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
        let (mut backoff, mut pace) = (Backoff::new(), Pace::default());
        while let Some(slots) = self.free_slots(&stop).await {
            let asked = slots.len();
            match self.claim(slots, &stop).await {
                Ok(Some(claimed)) => {
                    self.shared.connection.answered();
                    backoff = Backoff::new();
                    // While due jobs are left, claims again at once: even the shortest sleep takes a millisecond.
                    let more = claimed.waiting > 0 || claimed.next_due == Some(Duration::ZERO);
                    pace.called(claimed.jobs, Instant::now());
                    let none_left = claimed.waiting == 0 && (claimed.jobs < asked || !more);
                    if none_left && self.sleep(claimed.next_due, &stop).await {
                        // New jobs come in a row, so more will be due in a moment.
                        rest(pace.wait(INTERVAL, Instant::now())).await;
                    }
                }
                Ok(None) => {
                    self.shared.report_now.notify_one();
                    backoff.wait().await;
                }
                Err(error) => {
                    self.shared.connection.failed_to_work(&error);
                    self.shared.orphaned_claims.store(true, Ordering::Relaxed);
                    backoff.wait().await;
                }
            }
        }
    }

    /// Waits for a free slot and takes all free slots, up to [`MAX_CLAIMED`]. Returns `None` on `stop`.
    async fn free_slots(&self, stop: &CancellationToken) -> Option<Vec<Slot>> {
        let permits = async {
            let unsettled = Arc::clone(&self.unsettled).acquire_owned().await.ok()?;
            let running = Arc::clone(&self.slots).acquire_owned().await.ok()?;
            Some(Slot { _running: running, unsettled })
        };
        let free = async {
            for pause in &self.pauses {
                pause.over().await;
            }
            permits.await
        };
        let first = tokio::select! {
            biased;
            () = stop.cancelled() => return None,
            slot = free => slot?,
        };
        let mut slots = vec![first];
        while slots.len() < MAX_CLAIMED
            && let Ok(running) = Arc::clone(&self.slots).try_acquire_owned()
            && let Ok(unsettled) = Arc::clone(&self.unsettled).try_acquire_owned()
        {
            slots.push(Slot { _running: running, unsettled });
        }
        Some(slots)
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

    /// Claims up to one job per slot. Returns `None` if the worker was presumed dead.
    async fn claim(&self, slots: Vec<Slot>, stop: &CancellationToken) -> RedisResult<Option<Claimed>> {
        let (worker, held) = self.shared.worker_and_held();
        let mut connection = self.shared.connection.get();
        if self.shared.orphaned_claims.load(Ordering::Relaxed) {
            give_back(&self.shared, &worker).await?;
            self.shared.orphaned_claims.store(false, Ordering::Relaxed);
        }
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
