//! Builds the event that reports an outcome of an order (such as fulfilled or delayed), in the form that is stored.

use topup_jobs::{
    Event, EventData, Incident, NotifyCustomer, OrderStatus, Outcome, ProviderOrder, Timestamp, TopupStatus,
    Tracking,
};

use super::Environment;
use crate::notify::{self, ChannelName};
use crate::orders::{NewEvent, Order};

/// Reason of an `undelivered` event if no channel reaches the customer or the merchant.
const NO_CHANNEL: &str =
    "no channel reaches the customer or the merchant of this order: it names no address that they can use";
/// Reason of an `unresolved` event if the provider shows another card for a fulfilled order.
pub(super) const ANOTHER_CARD: &str = "the provider shows another card than the one that was delivered";

impl Environment {
    /// The event of an outcome, with the channels that deliver it. If no channel reaches the customer or the merchant,
    /// the event also holds a second event, which notifies the operator. `seen` is the provider's answer, if an answer
    /// caused the outcome; `given_up` is the reason, in words, if the order was given up.
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

/// How the provider's answer contradicts the order's final status or card; empty if the order is not final. Each text
/// is an incident of its own. All unknown statuses share one text, so that they are reported once.
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

/// The event as it is stored, without the card: `notify-customer` adds the card when it sends.
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
            topup_ref: order.topup_ref.clone().or_else(|| seen?.topup_ref.clone()),
            kind: order.kind.clone().or_else(|| seen?.kind.clone()),
            number: order.number.clone().or_else(|| seen?.number.clone()),
            topup_amount: order.topup_amount.or_else(|| seen?.topup_amount),
            next_check_at: record.next_check_at,
            customer: order.customer.clone(),
            metadata: order.metadata.clone(),
            ..EventData::new(
                order.topup_id.clone(),
                record.status,
                notify::message(outcome, locale).to_owned(),
            )
        },
    }
}
