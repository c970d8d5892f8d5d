//! What the rows of a page show: it is stored as an answer to `check-id` would be, and the jobs are called.
//!
//! A customer gets all three fields of a card, and the provider's list shows two. So such a row has its order asked for,
//! before those that came later. Only where the merchant prefers a fast card to a complete one, and more cards wait than
//! are asked for soon, the card is delivered as the row shows it. What is stored of a card never changes afterwards: an
//! event has one body.

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

/// A row without all of a card has its order asked for at once no more often than this.
const READY_ONCE: Duration = Duration::from_mins(1);
/// So much waiting is such an order given over others. Not more: orders that no list shows must have their turn too.
const READY_LEAD: Duration = Duration::from_secs(30);
/// A request is free soon if it is within this time.
const SOON: Duration = Duration::from_secs(10);

/// Orders that are asked for to complete their cards.
struct Asked {
    /// Those of which it is known.
    ready: HashSet<String>,
    /// How many more are asked for soon; none where they wait however long it takes.
    room: Option<usize>,
}

impl ListPoller {
    /// Stores what the rows show and has the jobs know.
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
                    tracing::warn!(order.id = %topup_id, error, "a listed order is left out: its stored row cannot be read");
                }
                Err(error) => return Err(error),
            }
        }
        let woken: u64 = call.invoke_async(&mut self.connection.get()).await?;
        tracing::debug!(woken, "a page of the list of orders was read");
        Ok(())
    }

    /// The word for what a row shows, if it is to be passed on.
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

    /// Whether the order is asked for, rather than its card delivered as the row shows it.
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
        // Most rows are of orders that are final, or of other programs: they take no room.
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
        members.arg(format!("{}:ready", self.names.budget()));
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
