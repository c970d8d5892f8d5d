//! Notifications of customers, merchants and operators: outcomes and the body of an event.
//!
//! One event has one id and one body, whatever the channel and the attempt.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Customer, OrderStatus, Secret, Timestamp, TopupId, TopupType};

/// What happened to an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The card is there.
    Fulfilled,
    /// The operator will process it within 48 hours.
    Scheduled,
    /// The provider cancelled and refunded it.
    Refunded,
    /// It outlived fast polling and is rechecked later.
    Delayed,
    /// It is no longer tracked, or the provider contradicts itself: a human must look.
    Unresolved,
    /// It is not final for much longer than usual: 72 hours after QUEUED, 24 hours otherwise.
    Overdue,
    /// A notification about it was refused, failed at every attempt, or had no channel to go by.
    Undelivered,
}

/// The text names no outcome.
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

    /// The name as it stands in event ids, metrics and the store.
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

    /// The type of its event, for example `topup.fulfilled`.
    #[must_use]
    pub fn event_type(self) -> String {
        format!("topup.{self}")
    }

    /// Whether the operator is notified as well as the merchant.
    #[must_use]
    pub const fn concerns_operator(self) -> bool {
        matches!(self, Self::Delayed | Self::Unresolved | Self::Overdue | Self::Undelivered)
    }

    /// Whether it can happen to one order more than once, each time as an incident with an id of its own. The other
    /// outcomes have one event each, for ever.
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
    /// `topup.` and the outcome.
    #[serde(rename = "type")]
    pub kind: String,
    /// When the outcome was recorded.
    pub timestamp: Timestamp,
    /// The order at that moment.
    pub data: EventData,
}

/// The order of an event. Fields that do not apply are `null`.
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
    /// When the operator processed it; only in `topup.fulfilled`.
    pub date_traitement: Option<String>,
    /// When the order is looked at next.
    pub next_check_at: Option<Timestamp>,
    /// Why a person must look at the order, in words; only in `topup.unresolved`.
    #[serde(default)]
    pub reason: Option<String>,
    /// What was not delivered; only in `topup.undelivered`.
    #[serde(default)]
    pub undelivered: Option<Undelivered>,
    /// The outcome in the customer's language.
    pub message: String,
    /// The customer, as the producer told.
    pub customer: Option<Customer>,
    /// The producer's metadata, as it came.
    pub metadata: Option<serde_json::Map<String, serde_json::Value>>,
}

/// A notification that did not reach its receiver.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Undelivered {
    /// Id of the event that it carried.
    pub event_id: String,
    /// Type of that event, for example `topup.fulfilled`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The channel that did not deliver it; `none` where no channel tells this order's customer or merchant.
    pub channel: String,
    /// Why, in words without personal data.
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
