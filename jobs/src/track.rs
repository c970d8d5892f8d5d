//! The order a producer hands over: what `poll-topup` and `recheck-topup` carry.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Customer, RetryPolicy, Secret, TopupId};

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
        }
    }

    /// What the following jobs of this order carry: neither the customer nor the metadata nor the address,
    /// which are in the store once the first job has run.
    #[must_use]
    pub fn follow_up(&self) -> Self {
        Self { retry: self.retry, ..Self::new(self.topup_id.clone()) }
    }
}
