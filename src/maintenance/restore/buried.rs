//! Dead letters of which the store says that they are to be done.
//!
//! A dead letter that the queue made by itself (poison, a handler that panics) is news to the store: no handler was
//! there to say so. The operator is told, and the store waits for it no longer. Where a handler made it, or where it
//! is marked, an operator has replayed it and the command ended before it had changed Redis. That is completed here.

use topup_jobs::JobName;

use super::{Lost, Restore, RestoreError, look};
use crate::error_chain::chain;
use crate::handlers::{give_up, give_up_telling, is_by_a_look, is_by_the_handler};
use crate::job::NextJob;
use crate::orders::{PendingNotification, UncheckedOrder};
use crate::queue::{Replayed, resend, scripts};

/// Why a job is a dead letter, and whether a command is replaying it; an empty text where it is none.
type Reason = (String, bool);

impl Restore {
    /// Deals with the orders that are dead letters and returns the others.
    pub(super) async fn give_up_buried(
        &self,
        orders: Vec<UncheckedOrder>,
    ) -> Result<Vec<UncheckedOrder>, RestoreError> {
        let ids = orders.iter().map(|order| order.topup_id.to_string());
        let reasons = self.buried(&JobName::FOLLOWING, ids).await?;
        let mut others = Vec::new();
        for (order, (reason, replaying)) in orders.into_iter().zip(reasons) {
            if reason.is_empty() {
                others.push(order);
            } else if replaying || is_by_a_look(&reason) {
                self.complete_replay(order).await?;
            } else {
                let told = match give_up(&self.environment, &order.topup_id, &reason).await {
                    Err(error) if error.is_of_one_row() => {
                        let (id, error) = (&order.topup_id, chain(&error));
                        tracing::error!(order.id = %id, error, "a buried order cannot be given up; others are");
                        continue;
                    }
                    told => told?,
                };
                self.tell(&told).await?;
            }
        }
        Ok(others)
    }

    async fn complete_replay(&self, order: UncheckedOrder) -> Result<(), RestoreError> {
        let (NextJob { id, payload, .. }, _) = look(order);
        for job in JobName::FOLLOWING {
            if self.letters.replay(job, id.as_bytes(), Some(&payload)).await? == Replayed::Due {
                tracing::warn!(
                    order.id = id,
                    "the order's dead letter was replayed by the operator and is due now"
                );
            }
        }
        Ok(())
    }

    /// Deals with the notifications that are dead letters and returns the others.
    pub(super) async fn give_up_telling_buried(
        &self,
        pending: Vec<PendingNotification>,
    ) -> Result<Vec<PendingNotification>, RestoreError> {
        let ids = pending.iter().map(|pending| pending.told.job_id());
        let reasons = self.buried(&[JobName::NotifyCustomer], ids).await?;
        let mut others = Vec::new();
        let mut replayed = Vec::new();
        for (pending, (reason, replaying)) in pending.into_iter().zip(reasons) {
            let told = &pending.told;
            if reason.is_empty() {
                others.push(pending);
            } else if replaying || is_by_the_handler(&reason) {
                replayed.push(pending.told);
            } else {
                let jobs = match give_up_telling(&self.environment, told, &reason).await {
                    Err(error) if error.is_of_one_row() => {
                        let (id, error) = (told.event_id(), chain(&error));
                        tracing::error!(
                            event.id = %id,
                            error,
                            "a notification that is a dead letter cannot be given up; others are"
                        );
                        continue;
                    }
                    jobs => jobs?,
                };
                self.tell(&jobs).await?;
            }
        }
        if !replayed.is_empty() {
            // The command that replayed them ended between the store and Redis.
            resend(&self.connection, &self.names, &replayed).await?;
            tracing::warn!(replayed = replayed.len(), "dead letters that the operator replayed are due now");
        }
        Ok(others)
    }

    /// Has these notifications sent.
    async fn tell(&self, jobs: &[NextJob]) -> Result<(), RestoreError> {
        let jobs: Vec<Lost> = jobs.iter().map(|job| (job.clone(), 0)).collect();
        self.put_back(&[JobName::NotifyCustomer], &jobs, None).await?;
        Ok(())
    }

    /// Why each of these jobs is a dead letter in these queues.
    async fn buried(
        &self,
        queues: &[JobName],
        ids: impl Iterator<Item = String>,
    ) -> Result<Vec<Reason>, RestoreError> {
        let ids: Vec<String> = ids.collect();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut call = scripts::BURIED.prepare_invoke();
        for job in queues {
            call.key(self.names.queue(*job));
        }
        for id in ids {
            call.arg(id);
        }
        Ok(call.invoke_async(&mut self.connection.get()).await?)
    }
}
