//! Stores the rows of a page like answers to `check-id`, and wakes the orders' jobs.
//!
//! A card has three fields, of which the provider's list shows two. So an order with an incomplete card is checked by
//! id, ahead of newer orders. With `CARD_DETAILS=fast`, if more cards wait than can be checked soon, the card is
//! delivered as the row shows it. Once stored, a card never changes, because every attempt sends the same event.

use std::collections::HashSet;
use std::time::Duration;

use topup_jobs::{JobName, ProviderOrder, TopupId, TopupStatus};

use super::scripts;
use super::{LEASE, ListPoller, ListingError};
use crate::error_chain::chain;
use crate::handlers::seen_in_list;
use crate::maintenance::list_poller::CardDetails;
use crate::provider::ListedOrder;
use crate::redis::millis;

/// An order whose row lacks part of the card is made due, for a check of the whole card, at most once in this time.
const READY_ONCE: Duration = Duration::from_mins(1);
/// Head start in the wait queue of an order without its whole card. It is short, so that other orders get a turn, too.
const READY_LEAD: Duration = Duration::from_secs(30);
/// An order can be checked soon if it gets a permit within this time.
const SOON: Duration = Duration::from_secs(10);

/// The orders that are checked by id, because the list shows only a part of their cards.
struct Asked {
    /// Orders that already wait for a check by id.
    ready: HashSet<String>,
    /// Number of further orders that can be checked soon. `None` with `CARD_DETAILS=complete`: then all are checked.
    room: Option<usize>,
}

impl ListPoller {
    pub(super) async fn seen(&self, rows: Vec<ListedOrder>) -> Result<(), ListingError> {
        let mut asked = self.asked().await?;
        let mut call = scripts::LIST_SEEN.prepare_invoke();
        call.key(self.names.budget());
        for job in JobName::TRACKING {
            call.key(self.names.queue(job));
        }
        let real_ms = |wait| self.rate_limit.real_ms(wait);
        call.arg(millis(LEASE)).arg(real_ms(READY_ONCE)).arg(real_ms(READY_LEAD));
        for ListedOrder { topup_id, order, .. } in rows {
            match self.seen_order(&topup_id, order, &mut asked).await {
                Ok(Some(what)) => {
                    call.arg(topup_id.as_str()).arg(what);
                }
                Ok(None) => {}
                Err(ListingError::Store(error)) if error.is_of_one_row() => {
                    let error = chain(&error);
                    tracing::warn!(
                        order.id = %topup_id,
                        error,
                        "a listed order is skipped, because its row in the database cannot be read"
                    );
                }
                Err(error) => return Err(error),
            }
        }
        let woken: u64 = call.invoke_async(&mut self.connection.get()).await?;
        tracing::debug!(woken, "stored a page of the provider's list and woke its orders' jobs");
        Ok(())
    }

    /// The word that tells `list_seen.lua` what a row showed, or `None` if there is nothing to do for the order.
    async fn seen_order(
        &self,
        topup_id: &TopupId,
        order: ProviderOrder,
        asked: &mut Asked,
    ) -> Result<Option<&'static str>, ListingError> {
        Ok(match &order.status {
            TopupStatus::Handling => Some("handling"),
            TopupStatus::Unknown(_) => None,
            TopupStatus::Fulfilled if self.is_asked_for(topup_id, &order, asked).await? => Some("ready"),
            _ => seen_in_list(&self.environment, topup_id, order).await?.then_some("decided"),
        })
    }

    /// Whether the FULFILLED order of a row is checked by id. If not, `seen_in_list` stores the card as the row shows
    /// it, but nothing for an order that is final, cancelled or unknown.
    async fn is_asked_for(
        &self,
        topup_id: &TopupId,
        order: &ProviderOrder,
        asked: &mut Asked,
    ) -> Result<bool, ListingError> {
        let Some(card) = &order.card else { return Ok(true) };
        if card.is_complete() {
            return Ok(false);
        }
        let Some(room) = &mut asked.room else { return Ok(true) };
        if asked.ready.contains(topup_id.as_str()) {
            return Ok(true);
        }
        // Most orders of the list are final or of other programs. They need no check, so they take no `room`.
        let stored = self.environment.store.order(topup_id).await?;
        if stored.is_none_or(|order| order.tracking.status.is_final()) {
            return Ok(false);
        }
        let is_room = *room > 0;
        *room = room.saturating_sub(1);
        Ok(is_room)
    }

    async fn asked(&self) -> Result<Asked, ListingError> {
        if self.card_details == CardDetails::Complete {
            return Ok(Asked { ready: HashSet::new(), room: None });
        }
        let mut members = redis::cmd("SMEMBERS");
        members.arg(self.names.details_missing());
        let ready: HashSet<String> = members.query_async(&mut self.connection.get()).await?;
        let soon = self
            .rate_limit
            .requests_per_minute
            .saturating_mul(u32::try_from(SOON.as_secs()).unwrap_or(u32::MAX))
            / 60;
        let room = usize::try_from(soon).unwrap_or(usize::MAX).saturating_sub(ready.len());
        Ok(Asked { ready, room: Some(room) })
    }
}
