//! The order a producer hands over: what `poll-topup` and `recheck-topup` carry.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Customer, Instruction, RetryPolicy, Secret, Timestamp, TopupId};

/// An order to follow. Only `topupId` is required; unknown fields are ignored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrackTopup {
    /// The provider's id of the order, from the answer to `POST /v3/internet/send`.
    pub topup_id: TopupId,
    /// The merchant's own reference of the order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topup_ref: Option<String>,
    /// Whom to tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub customer: Option<Customer>,
    /// Any JSON object up to 4 KiB; handed back in every event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<serde_json::Map<String, serde_json::Value>>,
    /// Where the merchant is told of this order instead of at its endpoint: an `https://` address of at most
    /// 2,048 characters on a host that the service allows. May hold a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub callback_url: Option<Secret>,
    /// How rechecks of this order are retried after an error; the default where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<RetryPolicy>,
    /// Ask the provider even though the order is already final.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    /// How long it could not be asked for since what is stored of it. The service's own note from look to look: no
    /// field for a producer, and in no schema.
    #[serde(default, skip_serializing_if = "Waited::is_none")]
    #[schemars(skip)]
    pub waited: Waited,
    /// The message of the inbox that handed the order over; absent in the jobs that follow from it. By it a message
    /// that takes up an order again is known from a repeat of its own job. It is written `id@ms`: the id in the stream, and
    /// when it was taken in, in ms since 1970. The service's own note, as above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(skip)]
    pub message_id: Option<String>,
    /// Since when the order is tracked that this job follows (`Tracking::tracked_at`); absent in a job that hands the
    /// order over. By it a job that is repeated after it gave its order up is known from one that hands the order over
    /// again. The service's own note, as above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(skip)]
    pub tracked_at: Option<Timestamp>,
    /// What is to be done instead of looking at the order, in a job that carries out a message about an order that is
    /// known. The service's own note, as above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(skip)]
    pub instruction: Option<Instruction>,
}

/// Time in which an order could not be asked for, which is no time of its fast polling. It stands in the job, since
/// a look that learns nothing stores nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Waited {
    /// Since when it waits, if it does.
    since: Option<Timestamp>,
    /// How long it did before.
    before_ms: u64,
}

impl Waited {
    /// It waits on, or from now on.
    #[must_use]
    pub fn on(self, now: Timestamp) -> Self {
        Self { since: self.since.or(Some(now)), ..self }
    }

    /// It waits no longer.
    #[must_use]
    pub fn until(self, now: Timestamp) -> Self {
        // Hosts need not agree on the time.
        let last = self.since.map_or(0, |since| (now - since).num_milliseconds().max(0));
        Self { since: None, before_ms: self.before_ms.saturating_add(last.unsigned_abs()) }
    }

    /// How long it did, up to the last time that it waited no longer.
    #[must_use]
    pub fn total(self) -> Duration {
        Duration::from_millis(self.before_ms)
    }

    fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

impl TrackTopup {
    /// An order of which only the id is known.
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

    /// Whether it names anything but the order: its reference, the customer, metadata or a callback URL.
    #[must_use]
    pub const fn names_details(&self) -> bool {
        self.topup_ref.is_some()
            || self.customer.is_some()
            || self.metadata.is_some()
            || self.callback_url.is_some()
    }

    /// What the following jobs of this order, tracked since this time, carry: neither the customer nor the metadata nor
    /// the address, which are in the store once the first job has run.
    #[must_use]
    pub fn continued(&self, tracked_at: Timestamp) -> Self {
        Self { retry: self.retry, tracked_at: Some(tracked_at), ..Self::new(self.topup_id.clone()) }
    }
}
