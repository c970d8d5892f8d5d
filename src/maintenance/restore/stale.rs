//! Deletes dead letters whose order is final, cancelled or discarded, or whose notification was sent or discarded.
//!
//! Redis holds them if it was restored from an older file, or if an order became final after its job was dead-lettered.
//! A round scans a part of every queue. It also stores dead-letter reasons that earlier versions left only in Redis.

use topup_jobs::{JobName, NotifyCustomer, TopupId};

use super::{Restore, RestoreError};
use crate::error_chain::chain;
use crate::orders::{NotificationStatus, StoreError};
use crate::queue::DeadLetter;

/// The reason of a dead letter begins with this word if another program pushed the job and its payload is unreadable.
const UNREADABLE: &str = "unreadable";

/// Where the scan of each queue continues.
#[derive(Debug, Default)]
pub(super) struct Stale {
    cursors: [u64; JobName::ALL.len()],
}

impl Restore {
    pub(super) async fn drop_stale_dead_letters(&mut self) -> Result<(), RestoreError> {
        for (n, job) in JobName::ALL.into_iter().enumerate() {
            let (next, letters) = self.letters.scan(job, self.stale.cursors[n]).await?;
            for letter in letters {
                let is_stale = match job {
                    JobName::NotifyCustomer => self.is_stale_notification(&letter).await,
                    _ => self.is_stale_order(&letter).await,
                };
                let is_stale = match is_stale {
                    Err(RestoreError::Store(error)) if error.is_of_one_row() => {
                        let id = letter.id.escape_ascii().to_string();
                        tracing::warn!(
                            job.id = id,
                            error = chain(&error),
                            "a dead letter is kept, because its row in the database cannot be read"
                        );
                        false
                    }
                    is_stale => is_stale?,
                };
                if is_stale && self.letters.discard(job, &letter.id).await? {
                    tracing::info!(
                        job.name = %job,
                        job.id = letter.id.escape_ascii().to_string(),
                        "deleted a dead letter, as its order or notification is final, cancelled, sent or discarded"
                    );
                }
            }
            self.stale.cursors[n] = next;
        }
        Ok(())
    }

    /// Whether the order is final, discarded or cancelled. Gives a given-up order without a reason the letter's reason.
    async fn is_stale_order(&self, letter: &DeadLetter) -> Result<bool, RestoreError> {
        let id = std::str::from_utf8(&letter.id).ok().and_then(|id| id.parse::<TopupId>().ok());
        let Some(topup_id) = id.filter(|_| !letter.reason.starts_with(UNREADABLE)) else { return Ok(false) };
        let store = &self.environment.store;
        let Some(order) = store.order(&topup_id).await? else { return Ok(false) };
        if order.tracking.status.is_final() || order.discarded || order.cancelled_at.is_some() {
            return Ok(true);
        }
        if order.given_up.is_none() && order.tracking.next_check_at.is_none() && !letter.reason.is_empty() {
            let at = letter.dead_at.unwrap_or_else(|| self.environment.clock.now());
            store.note_given_up(&topup_id, &letter.reason, at).await?;
        }
        Ok(false)
    }

    /// Whether the stored notification was sent or discarded.
    async fn is_stale_notification(&self, letter: &DeadLetter) -> Result<bool, RestoreError> {
        let payload = self.letters.payload(letter).await?;
        let notification =
            payload.as_deref().and_then(|payload| serde_json::from_slice::<NotifyCustomer>(payload).ok());
        let Some(notification) = notification else { return Ok(false) };
        let stored: Result<_, StoreError> = self.environment.store.notification(&notification).await;
        let status = stored?.map(|stored| stored.status);
        Ok(matches!(status, Some(NotificationStatus::Sent | NotificationStatus::Discarded)))
    }
}
