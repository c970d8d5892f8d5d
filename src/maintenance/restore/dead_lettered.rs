//! Dead letters of which the store says that they are to be done.
//!
//! A dead letter that the queue made by itself (poison, a handler that panics) is news to the store: no handler was
//! there to say so. The operator is notified, and the store waits for it no longer. Where a handler made it, or where it
//! is marked, an operator has replayed it and the command ended before it had changed Redis. That is completed here.

use topup_jobs::JobName;

use super::{Lost, Restore, RestoreError, check_job};
use crate::error_chain::chain;
use crate::handlers::{give_up, give_up_notification, is_by_a_check, is_by_the_handler};
use crate::job::NextJob;
use crate::orders::{PendingNotification, UncheckedOrder};
use crate::queue::{Replayed, resend, scripts};

/// Why a job is a dead letter, and whether a command is replaying it; an empty text where it is none.
type Reason = (String, bool);

impl Restore {
    /// Deals with the orders that are dead letters and returns the others.
    pub(super) async fn give_up_dead_orders(
        &self,
        orders: Vec<UncheckedOrder>,
    ) -> Result<Vec<UncheckedOrder>, RestoreError> {
        let ids = orders.iter().map(|order| order.topup_id.to_string());
        let reasons = self.dead_reasons(&JobName::TRACKING, ids).await?;
        let mut others = Vec::new();
        for (order, (reason, replaying)) in orders.into_iter().zip(reasons) {
            if reason.is_empty() {
                others.push(order);
            } else if replaying || is_by_a_check(&reason) {
                self.complete_replay(order).await?;
            } else {
                let notification = match give_up(&self.environment, &order.topup_id, &reason).await {
                    Err(error) if error.is_of_one_row() => {
                        let (id, error) = (&order.topup_id, chain(&error));
                        tracing::error!(order.id = %id, error, "a dead-lettered order cannot be given up; others are");
                        continue;
                    }
                    notification => notification?,
                };
                self.tell(&notification).await?;
            }
        }
        Ok(others)
    }

    async fn complete_replay(&self, order: UncheckedOrder) -> Result<(), RestoreError> {
        let (NextJob { id, payload, .. }, _) = check_job(order);
        for job in JobName::TRACKING {
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
    pub(super) async fn give_up_dead_notifications(
        &self,
        pending: Vec<PendingNotification>,
    ) -> Result<Vec<PendingNotification>, RestoreError> {
        let ids = pending.iter().map(|pending| pending.notification.job_id());
        let reasons = self.dead_reasons(&[JobName::NotifyCustomer], ids).await?;
        let mut others = Vec::new();
        let mut replayed = Vec::new();
        for (pending, (reason, replaying)) in pending.into_iter().zip(reasons) {
            let notification = &pending.notification;
            if reason.is_empty() {
                others.push(pending);
            } else if replaying || is_by_the_handler(&reason) {
                replayed.push(pending.notification);
            } else {
                let jobs = match give_up_notification(&self.environment, notification, &reason).await {
                    Err(error) if error.is_of_one_row() => {
                        let (id, error) = (notification.event_id(), chain(&error));
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
    async fn dead_reasons(
        &self,
        queues: &[JobName],
        ids: impl Iterator<Item = String>,
    ) -> Result<Vec<Reason>, RestoreError> {
        let ids: Vec<String> = ids.collect();
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut call = scripts::DEAD_REASONS.prepare_invoke();
        for job in queues {
            call.key(self.names.queue(*job));
        }
        for id in ids {
            call.arg(id);
        }
        Ok(call.invoke_async(&mut self.connection.get()).await?)
    }
}
