//! `poll-topup`: checks an order at the fast pace until it is final or scheduled, or five minutes have passed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{TopupId, TrackTopup};

/// Payload of `poll-topup`: the order to track.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct PollTopup(pub TrackTopup);

impl PollTopup {
    /// A payload that names the order and nothing else.
    #[must_use]
    pub fn new(topup_id: TopupId) -> Self {
        Self(TrackTopup::new(topup_id))
    }
}
