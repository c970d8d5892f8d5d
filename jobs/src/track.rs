//! The order that a producer hands over, as `poll-topup` and `recheck-topup` carry it.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Customer, Instruction, RetryPolicy, Secret, Timestamp, TopupId};

/// An order to track. Only `topupId` is required; unknown fields are ignored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrackTopup {
    /// The provider's id of the order, from the answer to `POST /v3/internet/send`.
    pub topup_id: TopupId,
    /// The merchant's own reference of the order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topup_ref: Option<String>,
    /// The customer to notify.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub customer: Option<Customer>,
    /// Any JSON object up to 4 KiB; returned in every event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<serde_json::Map<String, serde_json::Value>>,
    /// The endpoint for events of this order, in place of the merchant's: an `https://` address of at most 2,048
    /// characters on a host that the service allows. May hold a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub callback_url: Option<Secret>,
    /// How failed rechecks of this order are retried; the default if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetryPolicy>,
    /// Ask the provider even if the order is already final.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    /// How long the order has waited for permits to ask the provider since its last stored change. Internal.
    #[serde(default, skip_serializing_if = "Waited::is_none")]
    #[schemars(skip)]
    pub waited: Waited,
    /// The inbox message that handed the order over, as `id@ms`: id in the stream, and time of the intake in ms since
    /// 1970. Absent in follow-up jobs. Distinguishes a new hand-over from a repeat of the same job. Internal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(skip)]
    pub message_id: Option<String>,
    /// When tracking of the order began (`Tracking::tracked_at`); absent in a job that hands the order over.
    /// With it, a repeat of the job that gave the order up is not taken for a new hand-over. Internal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(skip)]
    pub tracked_at: Option<Timestamp>,
    /// The instruction to apply instead of a check, in a job for a message about a known order. Internal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(skip)]
    pub instruction: Option<Instruction>,
}

/// How long an order has waited for permits (each request to the provider needs one). That time is not part of fast
/// polling. It is in the job's payload and not in the store, because a check without a permit stores nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Waited {
    /// Start of the present wait for a permit, if there is one.
    since: Option<Timestamp>,
    /// Total length of the earlier waits for permits.
    before_ms: u64,
}

impl Waited {
    /// Begins a wait for a permit, or continues the present one.
    #[must_use]
    pub fn on(self, now: Timestamp) -> Self {
        Self { since: self.since.or(Some(now)), ..self }
    }

    /// Ends the present wait.
    #[must_use]
    pub fn until(self, now: Timestamp) -> Self {
        // The clocks of two hosts may differ, so the difference may be negative.
        let last = self.since.map_or(0, |since| (now - since).num_milliseconds().max(0));
        Self { since: None, before_ms: self.before_ms.saturating_add(last.unsigned_abs()) }
    }

    /// Length of all waits that have ended.
    #[must_use]
    pub fn total(self) -> Duration {
        Duration::from_millis(self.before_ms)
    }

    fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

impl TrackTopup {
    /// An order with this id and no other field.
    #[must_use]
    pub fn new(topup_id: TopupId) -> Self {
        Self {
            topup_id,
            topup_ref: None,
            customer: None,
            metadata: None,
            callback_url: None,
            retry: None,
            force: false,
            waited: Waited::default(),
            message_id: None,
            tracked_at: None,
            instruction: None,
        }
    }

    /// Whether the reference, the customer, the metadata or the callback URL is present.
    #[must_use]
    pub const fn names_details(&self) -> bool {
        self.topup_ref.is_some()
            || self.customer.is_some()
            || self.metadata.is_some()
            || self.callback_url.is_some()
    }

    /// The payload of a follow-up job. It omits customer, metadata and callback URL: the store has them by then.
    #[must_use]
    pub fn continued(&self, tracked_at: Timestamp) -> Self {
        Self { retry: self.retry, tracked_at: Some(tracked_at), ..Self::new(self.topup_id.clone()) }
    }
}
