//! `notify-customer`: notifies of one outcome of an order over one channel. The payload carries ids only: the job reads
//! the event and the card from the store when it runs, so no customer data and no card code waits in Redis.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{EventId, Incident, Outcome, TopupId};

/// Payload of `notify-customer`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NotifyCustomer {
    /// Id of the order.
    pub topup_id: TopupId,
    /// What happened to the order.
    pub outcome: Outcome,
    /// Number of this occurrence of the outcome; 1 if absent.
    #[serde(default, skip_serializing_if = "Incident::is_first")]
    pub incident: Incident,
    /// Name of the channel that sends the event, for example `webhook`.
    pub channel: String,
}

impl NotifyCustomer {
    /// Id of the event that this job delivers, the same for every channel and attempt.
    #[must_use]
    pub fn event_id(&self) -> EventId {
        EventId::new(&self.topup_id, self.outcome, self.incident)
    }

    /// Id of the job in its queue: one per event and channel, so that the queue recognises a repeat.
    #[must_use]
    pub fn job_id(&self) -> String {
        format!("{}:{}{}:{}", self.topup_id, self.outcome, self.incident, self.channel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_incident_has_no_number_in_payload_and_ids() {
        let first = r#"{"topupId":"6901616fe9e88196b4eb64b2","outcome":"unresolved","channel":"webhook"}"#;
        let notification: NotifyCustomer = serde_json::from_str(first).unwrap();
        assert_eq!(notification.incident, Incident::FIRST);
        assert_eq!(serde_json::to_string(&notification).unwrap(), first);
        assert_eq!(notification.job_id(), "6901616fe9e88196b4eb64b2:unresolved:webhook");
        let second = NotifyCustomer { incident: Incident::FIRST.next(), ..notification };
        assert_eq!(second.job_id(), "6901616fe9e88196b4eb64b2:unresolved_2:webhook");
        assert_eq!(second.event_id().as_str(), "evt_6901616fe9e88196b4eb64b2_unresolved_2");
        let json = serde_json::to_string(&second).unwrap();
        assert_eq!(serde_json::from_str::<NotifyCustomer>(&json).unwrap(), second);
    }
}
