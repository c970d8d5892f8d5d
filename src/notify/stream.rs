//! The channel `events`: the Redis stream `{topup}:events`, for producers that prefer reading to receiving webhooks.
//!
//! An entry holds ids, type, status and time, for `undelivered` also the failed event's id, channel and reason, but
//! never card, customer or metadata. Old entries are trimmed. An event may appear twice, with the same `id`.

use async_trait::async_trait;
use chrono::SecondsFormat;
use topup_jobs::Outcome;

use super::{CardForm, Channel, ChannelName, Delivery, SendError};
use crate::orders::Order;
use crate::redis::{Connection, Names};

/// Number of events that the stream keeps. It is approximate, because Redis trims the oldest ones in blocks.
const KEPT: usize = 10_000;

/// Adds each event to the stream.
pub struct EventStream {
    connection: Connection,
    key: String,
}

impl EventStream {
    /// Creates the channel to the events stream under this prefix.
    #[must_use]
    pub fn new(connection: Connection, names: &Names) -> Self {
        Self { connection, key: names.events() }
    }
}

#[async_trait]
impl Channel for EventStream {
    fn name(&self) -> &'static str {
        ChannelName::Events.as_str()
    }

    fn wants(&self, _: Outcome, _: &Order) -> bool {
        true
    }

    fn repeat_is_harmless(&self) -> bool {
        true
    }

    fn reaches_receivers(&self) -> bool {
        false
    }

    fn card_form(&self) -> CardForm {
        CardForm::Nothing
    }

    async fn send(&self, delivery: Delivery<'_>) -> Result<(), SendError> {
        let (event, data) = (delivery.event, &delivery.event.data);
        let mut add = redis::cmd("XADD");
        add.arg(&self.key).arg("MAXLEN").arg("~").arg(KEPT).arg("*");
        add.arg("id").arg(delivery.event_id.as_str());
        add.arg("type").arg(&event.kind);
        add.arg("topupId").arg(data.topup_id.as_str());
        add.arg("status").arg(data.status.as_str());
        add.arg("timestamp").arg(event.timestamp.to_rfc3339_opts(SecondsFormat::Millis, true));
        if let Some(reference) = &data.topup_ref {
            add.arg("topupRef").arg(reference);
        }
        if let Some(undelivered) = &data.undelivered {
            add.arg("eventId").arg(&undelivered.event_id);
            add.arg("channel").arg(&undelivered.channel);
            add.arg("reason").arg(&undelivered.reason);
        }
        add.query_async::<()>(&mut self.connection.get()).await.map_err(|error| {
            self.connection.failed(&error);
            SendError::Failed { what: "Redis did not accept the event".to_owned(), retry_after: None }
        })
    }
}
