//! One worker's side of one queue: claim, keep the lease, settle.
//!
//! Two tasks, so that neither waits for the other or for a handler: *claim* takes as many due jobs as there
//! are free slots and sleeps until the next one is due; *settle* hands results to Redis in batches and holds
//! them while Redis is away. The leases of all queues are kept by one task of the process. None of them ends
//! because of Redis.
//!
//! An answer of Redis may be lost after its script has run. So a batch of settlements carries a number
//! under which it is carried out once, and jobs that stand as claimed by this worker while it holds no
//! lease on them are given back.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::claim::Claim;
use super::lease::ClaimedJob;
use super::settle::{MAX_SETTLED, settle_all};
use super::shared::{Identity, Shared};
use crate::claim_pause::ClaimPause;
use crate::job::Handler;
use crate::redis::{Connection, Names};
use crate::slots::Slots;

/// The tasks of one consumer.
pub(super) struct Consumer {
    pub(super) shared: Arc<Shared>,
    stop: CancellationToken,
    claim: JoinHandle<()>,
    settle: JoinHandle<()>,
}

impl Consumer {
    /// Starts consuming the queue of this handler; claimed jobs arrive at the receiver.
    pub(super) fn start<H: Handler>(
        names: Names,
        slots: &Slots,
        connection: Connection,
        wake: Arc<Notify>,
        report_now: Arc<Notify>,
        pauses: Vec<ClaimPause>,
    ) -> (Self, UnboundedReceiver<ClaimedJob>) {
        let worker = super::worker_name();
        let queue = names.queue(H::NAME);
        let siblings = names.siblings(H::NAME);
        let shared = Arc::new(Shared {
            names,
            last_batch: format!("{queue}:settled:{worker}"),
            queue,
            siblings,
            other_id: H::other_id,
            connection,
            wake,
            report_now,
            identity: Mutex::new(Identity::new(worker)),
            orphaned_claims: AtomicBool::new(false),
            some_wait: AtomicBool::new(false),
            left: AtomicBool::new(false),
        });
        let stop = CancellationToken::new();
        let (jobs, received) = unbounded_channel();
        let (settle, settlings) = unbounded_channel();
        let claim = Claim {
            shared: Arc::clone(&shared),
            slots: slots.running(),
            unsettled: Arc::new(Semaphore::new(slots.most() + MAX_SETTLED)),
            jobs,
            settle,
            pauses,
        };
        let consumer = Self {
            claim: tokio::spawn(claim.run(stop.clone())),
            settle: tokio::spawn(settle_all(Arc::clone(&shared), settlings)),
            stop,
            shared,
        };
        (consumer, received)
    }

    /// Claims nothing more; what is claimed goes on.
    pub(super) fn stop(&self) {
        self.stop.cancel();
    }

    /// Waits until everything claimed is settled or given back, then leaves the queue. The receiver and
    /// all leases must be gone, or going.
    pub(super) async fn leave(self) {
        self.stop.cancel();
        for task in [self.claim, self.settle] {
            if let Err(error) = task.await {
                tracing::error!(%error, "a task of the queue died");
            }
        }
    }

    /// Whether all tasks run.
    pub(super) fn is_alive(&self) -> bool {
        let claims = self.stop.is_cancelled() || !self.claim.is_finished();
        claims && !self.settle.is_finished()
    }
}
