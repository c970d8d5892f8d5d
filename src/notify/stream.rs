//! The stream `{topup}:events`, for producers who would rather read than receive.
//!
//! It carries ids, type, status and time, and of what was not delivered the id, the channel and the reason: no card, no
//! customer, no metadata. It is capped, and like every
//! channel it tells at least once, a repeat under the same `id`.

use async_trait::async_trait;
use chrono::SecondsFormat;
use topup_jobs::Outcome;

use super::{CardForm, Channel, ChannelName, Delivery, SendError};
use crate::orders::Order;
use crate::redis::{Connection, Names};

/// About this many events are kept.
const KEPT: usize = 10_000;

/// Adds each outcome to the stream.
pub struct EventStream {
    connection: Connection,
    key: String,
}

impl EventStream {
    /// The stream under these names.
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
            SendError::Failed { what: "Redis did not take it".to_owned(), retry_after: None }
        })
    }
}
