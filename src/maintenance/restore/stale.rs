//! Dead letters that Redis holds and the store does not: the order is final or cancelled, or the letter was discarded or
//! delivered since.
//!
//! Redis may come back from an older file, and an order may go on while its dead letter stands. Each round looks at
//! some letters of every queue. It also stores the reasons of those that an earlier version of this program gave up.

use topup_jobs::{JobName, NotifyCustomer, TopupId};

use super::{Restore, RestoreError};
use crate::error_chain::chain;
use crate::orders::{NotificationStatus, StoreError};
use crate::queue::DeadLetter;

/// How the reason begins of a job that another program has written: no order's state says anything about it.
const UNREADABLE: &str = "unreadable";

/// Where the scan of each queue goes on.
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
                            "a dead letter cannot be compared with the database"
                        );
                        false
                    }
                    is_stale => is_stale?,
                };
                if is_stale && self.letters.discard(job, &letter.id).await? {
                    tracing::info!(
                        job.name = %job,
                        job.id = letter.id.escape_ascii().to_string(),
                        "dropped a dead letter: it was discarded, or its order was cancelled or has gone on since"
                    );
                }
            }
            self.stale.cursors[n] = next;
        }
        Ok(())
    }

    /// Whether the store says that this order is no dead letter and has no other job.
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

    /// Whether the store says that this notification was delivered or discarded.
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
