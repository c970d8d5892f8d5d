//! Notifications that do not reach their receiver: kept as dead letters, counted, and the operator is notified.
//!
//! The event that notifies the operator is stored in the transaction in which the notification is given up, so that a crash
//! can neither lose it nor make a second one. It never causes another of its kind.

use std::time::Duration;

use topup_jobs::{NotifyCustomer, Outcome, Timestamp, Tracking, Undelivered};

use super::announce::event;
use super::{End, Environment, NextJob, Settlement};
use crate::notify::ChannelName;
use crate::orders::{NewEvent, Notification, NotificationStatus, Order, StoreError};
use crate::telemetry::UndeliveredReason;

impl Environment {
    /// The event that notifies the operator of what was not delivered, and why. It goes by every channel that wants it
    /// except the one that failed. Nothing where that was such an event itself.
    pub(crate) fn undelivered(
        &self,
        told: &NotifyCustomer,
        order: &Order,
        record: &Tracking,
        reason: &str,
        now: Timestamp,
    ) -> Option<NewEvent> {
        let outcome = Outcome::Undelivered;
        if told.outcome == outcome {
            return None;
        }
        let mut body = event(outcome, order, None, record, now);
        body.data.undelivered = Some(Undelivered {
            event_id: told.event_id().to_string(),
            kind: told.outcome.event_type(),
            channel: told.channel.clone(),
            reason: reason.to_owned(),
        });
        let mut channels = self.channels.wanting(outcome, order);
        channels.retain(|channel| *channel != told.channel);
        Some(NewEvent { outcome, about: told.job_id(), body, channels, undelivered: None })
    }

    /// Counts and logs an outcome that reaches neither customer nor merchant, once it is stored.
    pub(super) fn report_unreachable(&self, order: &Order, event: &NewEvent) {
        if event.undelivered.is_some() {
            self.metrics.undelivered(ChannelName::None, UndeliveredReason::NoChannel);
            tracing::error!(
                order.id = %order.topup_id,
                outcome = %event.outcome,
                "no channel reaches the customer or the merchant of this order; the operator is notified"
            );
        }
    }
}

/// Stores that a notification is refused or failed for good, and with it the event that notifies the operator.
pub(super) async fn give_up(
    env: &Environment,
    order: &Order,
    told: &NotifyCustomer,
    ended: Notification,
) -> Result<Settlement, StoreError> {
    let now = env.clock.now();
    let ended = Notification { next_attempt_at: None, ..ended };
    let reason = reason(&ended);
    let undelivered = env.undelivered(told, order, &order.tracking, &reason, now);
    if env.store.record_attempt(told, &ended, undelivered.as_ref(), now).await? {
        let why = match ended.status {
            NotificationStatus::Refused => UndeliveredReason::Refused,
            _ => UndeliveredReason::Exhausted,
        };
        env.metrics.undelivered(ChannelName::of(&told.channel), why);
        tracing::error!(
            event.id = %told.event_id(),
            channel = told.channel,
            reason,
            error = ended.last_error,
            operator_notified = undelivered.is_some(),
            "a notification is given up; it is kept as a dead letter and can be replayed"
        );
        return given_up(env, order, &ended).await;
    }
    // Another worker has ended it meanwhile: the next look settles the job as the store says.
    Ok(Settlement::new(End::Wait(Duration::ZERO)))
}

/// Stores that a notification is given up whose job the queue has buried by itself, in these words, and returns the jobs
/// that notify the operator. One that has ended already is left as it is.
pub(crate) async fn give_up_telling(
    env: &Environment,
    told: &NotifyCustomer,
    reason: &str,
) -> Result<Vec<NextJob>, StoreError> {
    let Some(order) = env.store.order(&told.topup_id).await? else { return Ok(Vec::new()) };
    let now = env.clock.now();
    let undelivered = env.undelivered(told, &order, &order.tracking, reason, now);
    if !env.store.give_up_telling(told, reason, undelivered.as_ref(), now).await? {
        return Ok(Vec::new());
    }
    env.metrics.undelivered(ChannelName::of(&told.channel), UndeliveredReason::Buried);
    tracing::error!(
        event.id = %told.event_id(),
        channel = told.channel,
        reason,
        operator_notified = undelivered.is_some(),
        "a notification is given up: its job is a dead letter and can be replayed"
    );
    env.jobs_to_tell(&order).await
}

/// What becomes of the job of a notification that is given up. The operator is notified in the same step.
pub(super) async fn given_up(
    env: &Environment,
    order: &Order,
    ended: &Notification,
) -> Result<Settlement, StoreError> {
    let next = env.jobs_to_tell(order).await?;
    Ok(Settlement { next, ..Settlement::new(End::DeadLetter(reason(ended))) })
}

/// Why a notification was given up, as it stands in the dead letters.
fn reason(ended: &Notification) -> String {
    match (ended.status, &ended.last_error) {
        (NotificationStatus::Refused, Some(why)) => format!("refused: {why}"),
        (NotificationStatus::Refused, None) => "refused".to_owned(),
        _ => format!("undelivered after {} attempts", ended.attempts),
    }
}
