//! The channel of those who have set none: a line in the log, masked.

use async_trait::async_trait;
use topup_jobs::Outcome;

use super::{CardForm, Channel, ChannelName, Delivery, SendError};
use crate::orders::Order;

/// Logs each outcome with its ids, without anything personal and without the card.
#[derive(Debug, Clone, Copy)]
pub struct LogChannel;

#[async_trait]
impl Channel for LogChannel {
    fn name(&self) -> &'static str {
        ChannelName::Log.as_str()
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
        tracing::info!(
            event.id = %delivery.event_id,
            outcome = %delivery.outcome,
            order.status = %delivery.event.data.status,
            "the customer is to be notified; set WEBHOOK_URL to deliver the event"
        );
        Ok(())
    }
}
