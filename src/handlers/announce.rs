//! The event of an outcome, as it is stored.

use topup_jobs::{
    Event, EventData, Incident, NotifyCustomer, OrderStatus, Outcome, ProviderOrder, Timestamp, TopupStatus,
    Tracking,
};

use super::Environment;
use crate::notify::{self, ChannelName};
use crate::orders::{NewEvent, Order};

/// Why an outcome reaches neither customer nor merchant.
const NO_CHANNEL: &str =
    "no channel reaches the customer or the merchant of this order: it names no address that they can use";
/// The reason of the event where the provider shows another card for a fulfilled order.
pub(super) const ANOTHER_CARD: &str = "the provider shows another card than the one that was delivered";

impl Environment {
    /// The event of an outcome for the channels that deliver it, and with it one for the operator where they reach
    /// neither the customer nor the merchant. `seen` is what the provider answered, if that gave rise to it;
    /// `given_up` is why the order is no longer tracked, in words, if it is not.
    pub(super) fn announce(
        &self,
        outcome: Outcome,
        order: &Order,
        seen: Option<&ProviderOrder>,
        record: &Tracking,
        given_up: Option<&str>,
        now: Timestamp,
    ) -> NewEvent {
        let notification = NotifyCustomer {
            topup_id: order.topup_id.clone(),
            outcome,
            incident: Incident::FIRST,
            channel: ChannelName::None.as_str().to_owned(),
        };
        let unreachable = self.channels.reach_no_receiver(outcome, order);
        let undelivered =
            unreachable.then(|| self.undelivered(&notification, order, record, NO_CHANNEL, now)).flatten();
        let about = contradiction(order, seen);
        let mut body = event(outcome, order, seen, record, now);
        if outcome == Outcome::Unresolved {
            let contradicts = || match about.as_str() {
                ANOTHER_CARD => ANOTHER_CARD.to_owned(),
                about => format!("{about}, but the order is {}", order.tracking.status),
            };
            body.data.reason = given_up.map(str::to_owned).or_else(|| (!about.is_empty()).then(contradicts));
        }
        NewEvent {
            outcome,
            about,
            body,
            channels: self.channels.wanting(outcome, order),
            undelivered: undelivered.map(Box::new),
        }
    }
}

/// What the provider says against a final status, or against the card of a fulfilled order; empty where the order was not final. A status that is unknown here
/// is one of a kind, whatever its name.
fn contradiction(order: &Order, seen: Option<&ProviderOrder>) -> String {
    let Some(seen) = seen.filter(|_| order.tracking.status.is_final()) else { return String::new() };
    let status = match &seen.status {
        TopupStatus::Handling => "HANDLING",
        TopupStatus::Queued => "QUEUED",
        TopupStatus::Fulfilled if order.tracking.status == OrderStatus::Fulfilled => {
            return ANOTHER_CARD.to_owned();
        }
        TopupStatus::Fulfilled => "FULFILLED",
        TopupStatus::Refunded => "REFUNDED",
        TopupStatus::Unknown(_) => "unknown",
    };
    format!("the provider says {status}")
}

/// The event as it is stored: everything but the card, which the sender reads when it tells.
pub(super) fn event(
    outcome: Outcome,
    order: &Order,
    seen: Option<&ProviderOrder>,
    record: &Tracking,
    now: Timestamp,
) -> Event {
    let locale = order.locale();
    Event {
        kind: outcome.event_type(),
        timestamp: now,
        data: EventData {
            topup_id: order.topup_id.clone(),
            topup_ref: order.topup_ref.clone().or_else(|| seen?.topup_ref.clone()),
            status: record.status,
            kind: order.kind.clone().or_else(|| seen?.kind.clone()),
            number: order.number.clone().or_else(|| seen?.number.clone()),
            topup_amount: order.topup_amount.or_else(|| seen?.topup_amount),
            card_code: None,
            num_trans: None,
            date_traitement: None,
            next_check_at: record.next_check_at,
            reason: None,
            undelivered: None,
            message: notify::message(outcome, locale).to_owned(),
            customer: order.customer.clone(),
            metadata: order.metadata.clone(),
        },
    }
}
