//! Notifications that do not reach their receiver become dead letters and are counted, and the operator is notified.
//!
//! The operator's event is stored in the transaction that gives the notification up, so that a crash can neither lose
//! nor duplicate it. An operator's event that is not delivered causes no further event.

use std::time::Duration;

use topup_jobs::{Jitter, NotifyCustomer, Outcome, Timestamp, Tracking, Undelivered, notify_wait};

use super::Environment;
use super::announce::event;
use crate::job::{Disposition, NextJob, Settlement};
use crate::notify::ChannelName;
use crate::orders::{NewEvent, Notification, NotificationStatus, Order, StoreError};
use crate::telemetry::UndeliveredReason;

impl Environment {
    /// The event that notifies the operator of an undelivered notification. It goes to every channel that wants it
    /// except the one that failed. `None` if the notification was such an event itself.
    pub(crate) fn undelivered(
        &self,
        notification: &NotifyCustomer,
        order: &Order,
        record: &Tracking,
        reason: &str,
        now: Timestamp,
    ) -> Option<NewEvent> {
        let outcome = Outcome::Undelivered;
        if notification.outcome == outcome {
            return None;
        }
        let mut body = event(outcome, order, None, record, now);
        body.data.undelivered = Some(Undelivered {
            event_id: notification.event_id().to_string(),
            kind: notification.outcome.event_type(),
            channel: notification.channel.clone(),
            reason: reason.to_owned(),
        });
        let mut channels = self.channels.wanting(outcome, order);
        channels.retain(|channel| *channel != notification.channel);
        Some(NewEvent { outcome, about: notification.job_id(), body, channels, undelivered: None })
    }

    /// Counts and logs an outcome that no channel delivers to customer or merchant. Called after the event is stored.
    pub(super) fn report_unreachable(&self, order: &Order, event: &NewEvent) {
        if let Some(undelivered) = event.undelivered.as_deref() {
            self.metrics.undelivered(ChannelName::None, UndeliveredReason::NoChannel);
            tracing::error!(
                order.id = %order.topup_id,
                outcome = %event.outcome,
                operator_notified_by = notified_by(&undelivered.channels),
                "no channel reaches the customer or the merchant of this order, so the event is not delivered to them"
            );
        }
    }
}

/// The names, for the log, of those channels that notify the operator or the merchant.
fn notified_by(channels: &[String]) -> String {
    let notifying = [ChannelName::OperatorWebhook, ChannelName::OperatorEmail, ChannelName::Webhook];
    let notifying = notifying.map(ChannelName::as_str);
    let there: Vec<&str> =
        notifying.into_iter().filter(|name| channels.iter().any(|it| it == name)).collect();
    if there.is_empty() { "no channel".to_owned() } else { there.join(", ") }
}

/// Stores that a notification is refused or failed for good, together with the operator's event.
pub(super) async fn give_up(
    env: &Environment,
    order: &Order,
    notification: &NotifyCustomer,
    ended: Notification,
) -> Result<Settlement, StoreError> {
    let now = env.clock.now();
    let ended = Notification { next_attempt_at: None, ..ended };
    let reason = reason(&ended);
    let undelivered = env.undelivered(notification, order, &order.tracking, &reason, now);
    if env.store.record_attempt(notification, &ended, undelivered.as_ref(), now).await? {
        let why = match ended.status {
            NotificationStatus::Refused => UndeliveredReason::Refused,
            _ => UndeliveredReason::Exhausted,
        };
        env.metrics.undelivered(ChannelName::of(&notification.channel), why);
        tracing::error!(
            event.id = %notification.event_id(),
            channel = notification.channel,
            reason,
            error = ended.last_error,
            operator_notified_by = notified_by(undelivered.as_ref().map_or(&[], |event| &event.channels)),
            "a notification is given up; it is kept as a dead letter and can be replayed"
        );
        return given_up(env, order, &ended).await;
    }
    // The notification got a final status during this attempt. The job runs again at once and acts on that status.
    Ok(Settlement::new(Disposition::Snooze(Duration::ZERO)))
}

/// Stores that a notification is given up, after the queue has dead-lettered its job. Returns the jobs that notify the
/// operator; none if the notification had ended already.
pub(crate) async fn give_up_notification(
    env: &Environment,
    notification: &NotifyCustomer,
    reason: &str,
) -> Result<Vec<NextJob>, StoreError> {
    let Some(order) = env.store.order(&notification.topup_id).await? else { return Ok(Vec::new()) };
    let now = env.clock.now();
    let undelivered = env.undelivered(notification, &order, &order.tracking, reason, now);
    if !env.store.give_up_notification(notification, reason, undelivered.as_ref(), now).await? {
        return Ok(Vec::new());
    }
    env.metrics.undelivered(ChannelName::of(&notification.channel), UndeliveredReason::DeadLettered);
    tracing::error!(
        event.id = %notification.event_id(),
        channel = notification.channel,
        reason,
        operator_notified_by = notified_by(undelivered.as_ref().map_or(&[], |event| &event.channels)),
        "the job of a notification is a dead letter; the notification is given up and can be replayed"
    );
    env.jobs_to_notify(&order).await
}

/// Dead-letters the job of a given-up notification, and enqueues the operator's event in the same step. If the operator
/// has replayed the notification meanwhile, it is pending in the store, so a worker later enqueues its job again.
pub(super) async fn given_up(
    env: &Environment,
    order: &Order,
    ended: &Notification,
) -> Result<Settlement, StoreError> {
    let notification = ended.payload(&order.topup_id);
    let mut next = env.jobs_to_notify(order).await?;
    next.retain(|job| job.id != notification.job_id());
    Ok(Settlement { next, ..Settlement::new(Disposition::DeadLetter(reason(ended))) })
}

/// Beginning of the dead-letter reason if the receiver refused the notification.
const REFUSED: &str = "refused";
/// Beginning of the dead-letter reason if every attempt failed.
const EXHAUSTED: &str = "undelivered after";

/// The dead-letter reason of a notification, without personal data. A notification that failed although attempts were
/// left was given up by the queue, whose reason is then stored as the last error.
pub(super) fn reason(ended: &Notification) -> String {
    if let (NotificationStatus::Failed, Some(why), Some(_)) =
        (ended.status, &ended.last_error, notify_wait(ended.attempts, Jitter::NONE))
    {
        return why.clone();
    }
    let words = match ended.status {
        NotificationStatus::Refused => REFUSED.to_owned(),
        _ => format!("{EXHAUSTED} {} attempts", ended.attempts),
    };
    match (ended.status, &ended.last_error) {
        (_, None) => words,
        (NotificationStatus::Refused, Some(why)) => format!("{words}: {why}"),
        (_, Some(last)) => format!("{words}, last: {last}"),
    }
}

/// Whether this dead-letter reason is the handler's. The handler first stores that the notification is given up, and
/// then dead-letters its job. So a notification with such a reason that is pending again was replayed by the operator.
pub(crate) fn is_by_the_handler(reason: &str) -> bool {
    [REFUSED, EXHAUSTED].iter().any(|beginning| reason.starts_with(beginning))
}

#[cfg(test)]
mod tests {
    use topup_jobs::Incident;

    use super::*;

    fn ended(status: NotificationStatus, last_error: Option<&str>) -> Notification {
        Notification {
            outcome: Outcome::Fulfilled,
            incident: Incident::FIRST,
            channel: "webhook".to_owned(),
            status,
            attempts: 10,
            next_attempt_at: None,
            sent_at: None,
            last_error: last_error.map(str::to_owned),
        }
    }

    #[test]
    fn the_reason_of_a_dead_letter_holds_the_last_error() {
        for (status, last_error, expected) in [
            (NotificationStatus::Refused, Some("HTTP 410"), "refused: HTTP 410"),
            (NotificationStatus::Refused, None, "refused"),
            (NotificationStatus::Failed, Some("HTTP 503"), "undelivered after 10 attempts, last: HTTP 503"),
            (NotificationStatus::Failed, None, "undelivered after 10 attempts"),
        ] {
            let reason = reason(&ended(status, last_error));
            assert_eq!(reason, expected);
            assert!(is_by_the_handler(&reason));
        }
        let poison = "poison: the process that ran it died 3 times";
        let dead_lettered = Notification { attempts: 2, ..ended(NotificationStatus::Failed, Some(poison)) };
        assert_eq!(reason(&dead_lettered), poison);
        assert!(!is_by_the_handler(poison));
    }

    #[test]
    fn the_log_names_the_channels_that_notify_the_operator() {
        let by =
            |channels: &[&str]| notified_by(&channels.iter().map(|&it| it.to_owned()).collect::<Vec<_>>());
        assert_eq!(by(&["events", "operator-email", "webhook"]), "operator-email, webhook");
        assert_eq!(by(&["events", "log"]), "no channel");
        assert_eq!(by(&[]), "no channel");
    }
}
