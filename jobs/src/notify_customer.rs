//! `notify-customer`: tell one channel about one outcome of one order.
//!
//! The payload carries ids only. What is told, the card among it, is read from the store when the job
//! runs, so nothing of the customer and no card code ever waits in Redis.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{EventId, Outcome, TopupId};

/// Payload of `notify-customer`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NotifyCustomer {
    /// The order.
    pub topup_id: TopupId,
    /// What happened to it.
    pub outcome: Outcome,
    /// Name of the channel that is to tell it, for example `webhook`.
    pub channel: String,
}

impl NotifyCustomer {
    /// Id of the event this job delivers: the same for every channel and every attempt.
    #[must_use]
    pub fn event_id(&self) -> EventId {
        EventId::new(&self.topup_id, self.outcome)
    }

    /// Id of the job in its queue: one per order, outcome and channel, so that a repeat finds itself.
    #[must_use]
    pub fn job_id(&self) -> String {
        format!("{}:{}:{}", self.topup_id, self.outcome, self.channel)
    }
}
