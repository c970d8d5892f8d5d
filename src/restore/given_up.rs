//! Dead letters that the store knows of and Redis has lost: they come back into every list.
//!
//! Orders come in the order in which they were given up, notifications in that of their events' ids. A round looks at
//! some of them, and at many more while Redis turns out to have lost what it looks at.

use std::collections::HashSet;

use super::{MOST, MOST_READ, Restore, RestoreError};
use crate::handlers::StoredDeadLetter;
use crate::orders::{Behind, BehindNotification};

/// Dead letters of a kind that a round looks at where Redis has lost none of them.
const LOOKED_AT: u32 = 4 * MOST;

/// Where the two searches go on.
#[derive(Debug, Default)]
pub(super) struct GivenUp {
    order: Option<Behind>,
    notification: Option<BehindNotification>,
}

impl Restore {
    pub(super) async fn restore_dead_letters(&mut self) -> Result<(), RestoreError> {
        let restored = self.restore_given_up_orders().await? + self.restore_given_up_notifications().await?;
        if restored > 0 {
            tracing::warn!(restored, "put back dead letters that Redis had lost");
        }
        Ok(())
    }

    async fn restore_given_up_orders(&mut self) -> Result<usize, RestoreError> {
        let (mut restored, mut read, mut found) = (0, 0, 0);
        while goes_on(read, found) {
            let behind = self.given_up.order.take();
            let page = self.environment.store.given_up_orders(behind.as_ref(), MOST).await?;
            let lost = self.put_back_dead_letters(letters(page.found)).await?;
            if !lost.is_empty() {
                let still = self.environment.store.given_up_orders(behind.as_ref(), MOST).await?;
                self.take_back(&lost, letters(still.found)).await?;
            }
            (found, read) = (lost.len(), read + MOST);
            restored += found;
            self.given_up.order = page.behind;
            if self.given_up.order.is_none() {
                break;
            }
        }
        Ok(restored)
    }

    async fn restore_given_up_notifications(&mut self) -> Result<usize, RestoreError> {
        let (mut restored, mut read, mut found) = (0, 0, 0);
        while goes_on(read, found) {
            let behind = self.given_up.notification.take();
            let page = self.environment.store.given_up_notifications(behind.as_ref(), MOST).await?;
            let lost = self.put_back_dead_letters(letters(page.found)).await?;
            if !lost.is_empty() {
                let still = self.environment.store.given_up_notifications(behind.as_ref(), MOST).await?;
                self.take_back(&lost, letters(still.found)).await?;
            }
            (found, read) = (lost.len(), read + MOST);
            restored += found;
            self.given_up.notification = page.behind;
            if self.given_up.notification.is_none() {
                break;
            }
        }
        Ok(restored)
    }

    /// Puts back those of these dead letters that no queue holds, and returns them.
    async fn put_back_dead_letters(
        &self,
        mut letters: Vec<StoredDeadLetter>,
    ) -> Result<Vec<StoredDeadLetter>, RestoreError> {
        let mut put_back = self.letters.put_back(&letters).await?.into_iter();
        letters.retain(|_| put_back.next().unwrap_or(false));
        Ok(letters)
    }

    /// Deletes those dead letters again that were replayed or discarded between the reading and Redis.
    async fn take_back(
        &self,
        put_back: &[StoredDeadLetter],
        still: Vec<StoredDeadLetter>,
    ) -> Result<(), RestoreError> {
        let still: HashSet<String> = still.into_iter().map(|letter| letter.job.id).collect();
        for letter in put_back.iter().filter(|letter| !still.contains(&letter.job.id)) {
            self.letters.discard(letter.job.job, letter.job.id.as_bytes()).await?;
        }
        Ok(())
    }
}

/// Whether a round looks at more letters, after so many, of which it has just put so many back.
const fn goes_on(read: u32, found: usize) -> bool {
    read < LOOKED_AT || (found > 0 && read < MOST_READ)
}

fn letters<T: Into<StoredDeadLetter>>(found: Vec<T>) -> Vec<StoredDeadLetter> {
    found.into_iter().map(Into::into).collect()
}
