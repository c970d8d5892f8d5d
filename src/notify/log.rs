//! The channel `log`: one log line for each outcome, in deployments without `WEBHOOK_URL`, e-mail and SMS.

use async_trait::async_trait;
use topup_jobs::Outcome;

use super::{CardForm, Channel, ChannelName, Delivery, SendError};
use crate::orders::Order;

/// Logs each outcome with event id and status, without personal data and without the card.
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
        tracing::info!(
            event.id = %delivery.event_id,
            outcome = %delivery.outcome,
            order.status = %delivery.event.data.status,
            "an event was recorded in the log only; set WEBHOOK_URL to deliver events"
        );
        Ok(())
    }
}
