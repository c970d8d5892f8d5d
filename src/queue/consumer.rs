//! A worker's consumer of one queue. Two tasks run concurrently, so that neither waits for the other or for a handler.
//! *Claim* takes as many due jobs as there are free slots, and sleeps until the next one is due. *Settle* sends results
//! to Redis in batches, and keeps them while Redis is unreachable. No error of Redis ends either task.
//!
//! If the answer of a script is lost, the worker cannot know whether the script has run. So each batch of settlements
//! has a number, and Redis applies it only once. Claimed jobs that did not reach the worker go back to the queue.

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

    /// Stops claiming. Jobs that were claimed before still run.
    pub(super) fn stop(&self) {
        self.stop.cancel();
    }

    /// Waits until the receiver and all leases are dropped, all jobs are settled, and the worker has left the queue.
    pub(super) async fn leave(self) {
        self.stop.cancel();
        for task in [self.claim, self.settle] {
            if let Err(error) = task.await {
                tracing::error!(%error, "a task that claims or settles jobs died; unfinished jobs run again");
            }
        }
    }

    /// Whether the claim and settle tasks run. After [`Consumer::stop`] the claim task is allowed to end.
    pub(super) fn is_alive(&self) -> bool {
        let claims = self.stop.is_cancelled() || !self.claim.is_finished();
        claims && !self.settle.is_finished()
    }
}
