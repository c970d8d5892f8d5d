//! Restores dead letters that the store knows of and Redis has lost.
//!
//! A round examines a limited number of orders, sorted by the time at which they were given up, and of notifications,
//! sorted by event id. The limit is higher while the round finds dead letters that Redis has lost.

use std::collections::HashSet;
use std::mem;

use futures_util::future::BoxFuture;

use super::{MAX_READ, MOST, Restore, RestoreError};
use crate::handlers::StoredDeadLetter;
use crate::orders::{Behind, BehindNotification, OrderStore, Page, StoreError};

/// Number of dead letters of each kind that a round examines, if it finds none that Redis has lost.
const LOOKED_AT: u32 = 4 * MOST;

/// Where the next round continues the two searches.
#[derive(Debug, Default)]
pub(super) struct GivenUp {
    order: Option<Behind>,
    notification: Option<BehindNotification>,
}

impl Restore {
    pub(super) async fn restore_dead_letters(&mut self) -> Result<(), RestoreError> {
        let GivenUp { order, notification } = mem::take(&mut self.given_up);
        let of_orders = self.restore_given_up(order, |store, behind| store.given_up_orders(behind, MOST));
        let (orders, order) = of_orders.await?;
        let of_notifications =
            self.restore_given_up(notification, |store, behind| store.given_up_notifications(behind, MOST));
        let (notifications, notification) = of_notifications.await?;
        self.given_up = GivenUp { order, notification };
        let restored = orders + notifications;
        if restored > 0 {
            tracing::warn!(restored, "put back dead letters that Redis had lost");
        }
        Ok(())
    }

    /// Puts back lost dead letters of one kind, page by page. Returns how many, and where the next round continues.
    async fn restore_given_up<T: Into<StoredDeadLetter>, B>(
        &self,
        mut behind: Option<B>,
        read: impl for<'b> Fn(&'b dyn OrderStore, Option<&'b B>) -> BoxFuture<'b, Result<Page<T, B>, StoreError>>,
    ) -> Result<(usize, Option<B>), RestoreError> {
        let store = &*self.environment.store;
        let (mut restored, mut looked_at, mut found) = (0, 0, 0);
        while goes_on(looked_at, found) {
            let page = read(store, behind.as_ref()).await?;
            let lost = self.put_back_dead_letters(letters(page.found)).await?;
            if !lost.is_empty() {
                let still = read(store, behind.as_ref()).await?;
                self.take_back(&lost, letters(still.found)).await?;
            }
            (found, looked_at) = (lost.len(), looked_at + MOST);
            restored += found;
            behind = page.behind;
            if behind.is_none() {
                break;
            }
        }
        Ok((restored, behind))
    }

    /// Puts back those dead letters that no queue holds, and returns them.
    async fn put_back_dead_letters(
        &self,
        mut letters: Vec<StoredDeadLetter>,
    ) -> Result<Vec<StoredDeadLetter>, RestoreError> {
        let mut put_back = self.letters.put_back(&letters).await?.into_iter();
        letters.retain(|_| put_back.next().unwrap_or(false));
        Ok(letters)
    }

    /// Deletes those restored dead letters that were replayed or discarded after the page was read.
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

/// Whether a round examines another page, after `looked_at` dead letters. Redis had lost `found` of the last page.
const fn goes_on(looked_at: u32, found: usize) -> bool {
    looked_at < LOOKED_AT || (found > 0 && looked_at < MAX_READ)
}

fn letters<T: Into<StoredDeadLetter>>(found: Vec<T>) -> Vec<StoredDeadLetter> {
    found.into_iter().map(Into::into).collect()
}
