//! Handles dead letters whose order or notification is still pending in the store.
//!
//! - The operator's replay of the dead letter was interrupted after it changed the store, before it changed the queue.
//!   This module completes it. Two signs show it: the mark of a replay, or a reason that a handler gave. A handler
//!   stores that it gives up before it dead-letters a job, so only a replay made the order or notification pending.
//! - Otherwise the queue dead-lettered the job: its payload is unreadable, or its process died (poison) or its handler
//!   failed repeatedly. This module marks the order or notification as given up and notifies the operator.

use topup_jobs::JobName;

use super::{Lost, Restore, RestoreError, check_job};
use crate::error_chain::chain;
use crate::handlers::{give_up, give_up_notification, is_by_a_check, is_by_the_handler};
use crate::job::NextJob;
use crate::orders::{PendingNotification, UncheckedOrder};
use crate::queue::{Replayed, resend, scripts};

/// Why a job is a dead letter (empty if it is not one), and whether the dead letter is marked as being replayed.
type Reason = (String, bool);

impl Restore {
    /// Handles the orders whose jobs are dead letters, and returns the other orders.
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
                        tracing::error!(order.id = %id, error, "a dead-lettered order could not be marked as given up");
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
                    "completed an interrupted replay of an order's dead letter; the order's check is due now"
                );
            }
        }
        Ok(())
    }

    /// Handles the notifications whose jobs are dead letters, and returns the other notifications.
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
                            "a dead-lettered notification could not be marked as given up; retry in 20 s"
                        );
                        continue;
                    }
                    jobs => jobs?,
                };
                self.tell(&jobs).await?;
            }
        }
        if !replayed.is_empty() {
            // The replay command marked these notifications as pending in the store, but ended before it changed Redis.
            resend(&self.connection, &self.names, &replayed).await?;
            tracing::warn!(replayed = replayed.len(), "completed an interrupted replay of notifications");
        }
        Ok(others)
    }

    /// Enqueues these notifications.
    async fn tell(&self, jobs: &[NextJob]) -> Result<(), RestoreError> {
        let jobs: Vec<Lost> = jobs.iter().map(|job| (job.clone(), 0)).collect();
        self.put_back(&[JobName::NotifyCustomer], &jobs, None).await?;
        Ok(())
    }

    /// Returns for each of these jobs why it is a dead letter in one of these queues.
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
