//! The outcomes of orders, and the body of their events. An event has one id and body for all channels and attempts.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Customer, OrderStatus, Secret, Timestamp, TopupId, TopupType};

/// What happened to an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The card is available.
    Fulfilled,
    /// The carrier will process the order within 48 hours.
    Scheduled,
    /// The provider cancelled and refunded the order.
    Refunded,
    /// The order was not final when fast polling ended; it is rechecked later.
    Delayed,
    /// The order was given up, or the provider contradicts itself: a person must check it.
    Unresolved,
    /// The order is still not final 72 hours after QUEUED, or 24 hours after tracking began.
    Overdue,
    /// A notification about the order was refused, failed at every attempt, or had no channel.
    Undelivered,
}

/// The text is not the name of an outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no outcome has this name")]
pub struct UnknownOutcome;

impl Outcome {
    /// Every outcome.
    pub const ALL: [Self; 7] = [
        Self::Fulfilled,
        Self::Scheduled,
        Self::Refunded,
        Self::Delayed,
        Self::Unresolved,
        Self::Overdue,
        Self::Undelivered,
    ];

    /// The name in event ids, metrics and the store.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fulfilled => "fulfilled",
            Self::Scheduled => "scheduled",
            Self::Refunded => "refunded",
            Self::Delayed => "delayed",
            Self::Unresolved => "unresolved",
            Self::Overdue => "overdue",
            Self::Undelivered => "undelivered",
        }
    }

    /// The type of the outcome's event, for example `topup.fulfilled`.
    #[must_use]
    pub fn event_type(self) -> String {
        format!("topup.{self}")
    }

    /// Whether the outcome notifies the operator as well as the merchant.
    #[must_use]
    pub const fn concerns_operator(self) -> bool {
        matches!(self, Self::Delayed | Self::Unresolved | Self::Overdue | Self::Undelivered)
    }

    /// Whether an order can have the outcome more than once, each time as an incident with its own event id.
    #[must_use]
    pub const fn recurs(self) -> bool {
        self.concerns_operator()
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Outcome {
    type Err = UnknownOutcome;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|outcome| outcome.as_str() == text).ok_or(UnknownOutcome)
    }
}

/// Body of an event as a webhook carries it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// Event type: `topup.` and the outcome.
    #[serde(rename = "type")]
    pub kind: String,
    /// When the outcome was recorded.
    pub timestamp: Timestamp,
    /// Data of the order at the time when the outcome was recorded.
    pub data: EventData,
}

/// Data of an event's order. Fields that do not apply are `null`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EventData {
    /// The provider's id of the order.
    pub topup_id: TopupId,
    /// The merchant's reference.
    pub topup_ref: Option<String>,
    /// Status in the store.
    pub status: OrderStatus,
    /// Kind of top-up.
    #[serde(rename = "type")]
    pub kind: Option<TopupType>,
    /// The number that was topped up.
    pub number: Option<Secret>,
    /// Amount in dinars.
    pub topup_amount: Option<i64>,
    /// The card code; only in `topup.fulfilled`.
    pub card_code: Option<Secret>,
    /// Proof of purchase; only in `topup.fulfilled`.
    pub num_trans: Option<String>,
    /// When the carrier processed the order; only in `topup.fulfilled`.
    pub date_traitement: Option<String>,
    /// When the order is checked next.
    pub next_check_at: Option<Timestamp>,
    /// Why a person must check the order, in words; only in `topup.unresolved`.
    #[serde(default)]
    pub reason: Option<String>,
    /// The notification that was not delivered; only in `topup.undelivered`.
    #[serde(default)]
    pub undelivered: Option<Undelivered>,
    /// The outcome in the customer's language.
    pub message: String,
    /// The customer, as the producer sent it.
    pub customer: Option<Customer>,
    /// The producer's metadata, unchanged.
    pub metadata: Option<serde_json::Map<String, serde_json::Value>>,
}

impl EventData {
    /// Event data with the fields that every event has. All other fields are `null`.
    #[must_use]
    pub fn new(topup_id: TopupId, status: OrderStatus, message: String) -> Self {
        Self {
            topup_id,
            status,
            message,
            topup_ref: None,
            kind: None,
            number: None,
            topup_amount: None,
            card_code: None,
            num_trans: None,
            date_traitement: None,
            next_check_at: None,
            reason: None,
            undelivered: None,
            customer: None,
            metadata: None,
        }
    }
}

/// A notification that did not reach its receiver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Undelivered {
    /// Id of the event that the notification carried.
    pub event_id: String,
    /// Type of that event, for example `topup.fulfilled`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The channel that failed; `none` if no channel reaches the customer or the merchant of the order.
    pub channel: String,
    /// Why the notification was not delivered, in words without personal data.
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_types_carry_the_outcome() {
        for outcome in Outcome::ALL {
            assert_eq!(outcome.as_str().parse().ok(), Some(outcome));
        }
        assert_eq!(Outcome::Overdue.event_type(), "topup.overdue");
    }
}
