//! `recheck-topup`: checks an order that was QUEUED or not final after fast polling (`recheckQueue` in the guide).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{TopupId, TrackTopup};

/// Payload of `recheck-topup`: the order to check again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct RecheckTopup(pub TrackTopup);

impl RecheckTopup {
    /// A payload that names the order and nothing else.
    #[must_use]
    pub fn new(topup_id: TopupId) -> Self {
        Self(TrackTopup::new(topup_id))
    }
}
