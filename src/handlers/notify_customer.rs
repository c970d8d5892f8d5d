//! `notify-customer`: sends the event of one outcome over one channel. The event stream and the log need this job only if
//! `local_channels` could not send the event.
//!
//! The event comes from the store, so every attempt has the same id and body. The store records the delivery before
//! the job ends. After a crash between delivery and record, the event is sent again. If the store fails after an
//! attempt, the job's payload keeps the result, and the next run stores the result without sending.
//!
//! While the receiver's breaker is open or its slots are taken, the job waits in the queue and loses no attempt. A
//! notification that is refused, or fails at its last attempt, is dead-lettered. The store records that, with the
//! operator's event, before the job ends; a repeated run of the job stores no second event.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use topup_jobs::{Card, Event, JobName, NotifyCustomer, Outcome, Timestamp, TrackTopup, notify_wait};

use super::environment::{Environment, TROUBLE_PAUSE, log_store_failure};
use super::undelivered::{give_up, given_up};
use crate::error_chain::chain;
use crate::job::{Disposition, Handler, Job, NextJob, Settlement, encode};
use crate::notify::{
    CardForm, Channel, ChannelName, Delivery, EndpointSlot, Rejected, SendError, Transition,
};
use crate::orders::{DecryptionError, ForAttempt, Notification, NotificationStatus, Order, StoreError};
use crate::reveal;
use crate::telemetry::UndeliveredReason;

/// Shortest wait of a job whose breaker is open, in real (not scaled) time.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);

/// Handler of `notify-customer`.
pub struct NotifyCustomerHandler(pub Environment);

/// Payload of `notify-customer`: the notification, and possibly an attempt whose result is not stored yet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NotificationJob {
    #[serde(flatten)]
    notification: NotifyCustomer,
    /// An attempt whose result could not be stored, because the store failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    made: Option<MadeAttempt>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct MadeAttempt {
    /// Number of the attempt; the first is 1.
    number: u32,
    at: Timestamp,
    result: Made,
}

/// Result of an attempt. The texts hold no personal data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Made {
    Sent,
    Refused(String),
    Failed { what: String, retry_after: Option<Duration> },
}

impl From<Result<(), SendError>> for Made {
    fn from(sent: Result<(), SendError>) -> Self {
        match sent {
            Ok(()) => Self::Sent,
            Err(SendError::Refused(why)) => Self::Refused(why),
            Err(SendError::Failed { what, retry_after }) => Self::Failed { what, retry_after },
            Err(SendError::Unavailable(what)) => Self::Failed { what, retry_after: None },
        }
    }
}

#[async_trait]
impl Handler for NotifyCustomerHandler {
    type Payload = NotificationJob;
    const NAME: JobName = JobName::NotifyCustomer;

    fn other_id(id: &[u8], payload: &[u8]) -> Option<String> {
        let notification: NotifyCustomer = serde_json::from_slice(payload).ok()?;
        Some(notification.job_id()).filter(|right| right.as_bytes() != id)
    }

    async fn handle(&self, job: Job<NotificationJob>) -> Settlement {
        tracing::Span::current().record("order.id", job.payload.notification.topup_id.as_str());
        let settlement = match notify(&self.0, &job).await {
            Ok(settlement) => settlement,
            Err(error) => {
                log_store_failure(&error);
                return Settlement::new(Disposition::Snooze(TROUBLE_PAUSE));
            }
        };
        if job.payload.made.is_some() && settlement.payload.is_none() {
            // The attempt in the payload is stored now. If it stayed there, the next run would make no new attempt.
            let payload = Some(encode(&job.payload.notification));
            return Settlement { payload, ..settlement };
        }
        settlement
    }
}

async fn notify(env: &Environment, job: &Job<NotificationJob>) -> Result<Settlement, StoreError> {
    let NotificationJob { notification, made } = &job.payload;
    let channel = env.channels.get(&notification.channel);
    let Some(read) = env.store.for_attempt(notification, carries_card(notification, channel)).await? else {
        return Ok(track_anew(notification));
    };
    let (event, ForAttempt { order, notification: stored, card, .. }) = (read.event(), read);
    let Some(stored) = stored else {
        return Ok(not_stored(env, notification));
    };
    match stored.status {
        NotificationStatus::Pending => {}
        NotificationStatus::Sent | NotificationStatus::Discarded => {
            return Ok(Settlement::new(Disposition::Complete));
        }
        // A worker stored that the notification is given up, but died or lost its lease before the job was settled.
        NotificationStatus::Failed | NotificationStatus::Refused => {
            return given_up(env, &order, &stored).await;
        }
    }
    if let Some(made) = made {
        return Ok(note(env, &order, notification, stored, made.clone()).await);
    }
    let mut slot = match acquire(env, channel, &order).await {
        Ok(slot) => slot,
        Err(wait) => return Ok(Settlement::new(Disposition::Snooze(wait))),
    };
    let Some(event) = event? else {
        return Ok(not_stored(env, notification));
    };
    let event = match card {
        Ok(card) => with_card(event, card),
        Err(why) => return no_card(env, &order, job, stored, &why).await,
    };
    let now = env.clock.now();
    let link = reveal_link(env, notification, channel, &order, now).await?;
    let number = job.attempts_made + 1;
    let wait = notify_wait(number, (env.jitter)());
    let next_attempt_at = Some(now + wait.unwrap_or_default());
    let attempt = Notification { attempts: number, next_attempt_at, ..stored };
    // The attempt is stored before it is made, so that a store that refuses writes prevents the delivery. A channel whose
    // deliveries may repeat needs no such write.
    if !channel.is_some_and(|channel| channel.repeat_is_harmless()) {
        env.store.begin_attempt(notification, &attempt, now).await?;
    }
    let event_id = notification.event_id();
    let delivery = Delivery {
        event_id: &event_id,
        outcome: notification.outcome,
        event: &event,
        order: &order,
        reveal_link: link.as_deref(),
    };
    let sent = match channel {
        Some(channel) => send(channel, delivery, slot.as_mut()).await,
        None => {
            Err(SendError::Failed { what: "this worker has no such channel".to_owned(), retry_after: None })
        }
    };
    if let Some(slot) = slot {
        leave(notification, slot, &sent);
    }
    let made = MadeAttempt { number, at: env.clock.now(), result: sent.into() };
    Ok(note(env, &order, notification, attempt, made).await)
}

/// Tracks the order again, as the database lacks it (perhaps a backup was restored). Its events get their former ids.
fn track_anew(notification: &NotifyCustomer) -> Settlement {
    tracing::error!(
        event.id = %notification.event_id(),
        channel = notification.channel,
        "the order of a notification is not stored; the order is tracked again, but customer and metadata are lost"
    );
    let order = TrackTopup::new(notification.topup_id.clone());
    let next = vec![NextJob::check(JobName::PollTopup, order, Duration::ZERO)];
    Settlement { next, ..Settlement::new(Disposition::Complete) }
}

/// Dead-letters a notification that the store lacks although it has the order. Without a stored event nothing is sent.
fn not_stored(env: &Environment, notification: &NotifyCustomer) -> Settlement {
    env.metrics.undelivered(ChannelName::of(&notification.channel), UndeliveredReason::NotStored);
    tracing::error!(
        event.id = %notification.event_id(),
        channel = notification.channel,
        "a notification is not stored and cannot be sent; its job is kept as a dead letter"
    );
    Settlement::new(Disposition::DeadLetter("the notification is not stored".to_owned()))
}

/// Stores the result of an attempt. If the store fails, the job waits with the result in its payload.
async fn note(
    env: &Environment,
    order: &Order,
    notification: &NotifyCustomer,
    stored: Notification,
    made: MadeAttempt,
) -> Settlement {
    match record(env, order, notification, stored, &made).await {
        Ok(settlement) => settlement,
        Err(error) => {
            tracing::error!(
                event.id = %notification.event_id(),
                channel = notification.channel,
                error = chain(&error),
                "the store failed after an attempt to notify; the job stores the result later and does not send again"
            );
            let payload = NotificationJob { notification: notification.clone(), made: Some(made) };
            Settlement {
                payload: Some(encode(&payload)),
                ..Settlement::new(Disposition::Snooze(TROUBLE_PAUSE))
            }
        }
    }
}

/// Acquires a slot at the receiver's endpoint, if the channel has one. `Err` is the wait in real (not scaled) time.
async fn acquire(
    env: &Environment,
    channel: Option<&Arc<dyn Channel>>,
    order: &Order,
) -> Result<Option<EndpointSlot>, Duration> {
    let Some(endpoint) = channel.and_then(|channel| channel.endpoint(order)) else { return Ok(None) };
    env.bulkhead.acquire(endpoint).await.map(Some).map_err(|rejected| match rejected {
        Rejected::Busy(wait) => wait,
        // The breaker's own wait, lengthened by 20 % and varied by a tenth, so that the jobs do not all run at once.
        Rejected::Open(wait) => (env.jitter)().apply(wait.mul_f64(1.2)).max(SHORTEST_PAUSE),
    })
}

/// Sends the event. A slow delivery moves from its regular slot to a spare one, so that the regular slot is free again.
async fn send(
    channel: &Arc<dyn Channel>,
    delivery: Delivery<'_>,
    slot: Option<&mut EndpointSlot>,
) -> Result<(), SendError> {
    let sending = channel.send(delivery);
    match slot {
        Some(slot) => slot.watch(sending).await,
        None => sending.await,
    }
}

/// Releases the slot and reports to the breaker whether the receiver answered.
fn leave(notification: &NotifyCustomer, slot: EndpointSlot, sent: &Result<(), SendError>) {
    let Some(answered) = answered(sent) else { return };
    match slot.ended(answered, Instant::now()) {
        Some(Transition::Opened) => {
            tracing::warn!(channel = notification.channel, "a receiver does not answer; its events wait");
        }
        Some(Transition::Closed) => {
            tracing::info!(channel = notification.channel, "the receiver answers again; its events are sent");
        }
        None => {}
    }
}

/// Whether the receiver answered; `None` for a refusal, because some refusals happen before a request is made.
const fn answered(sent: &Result<(), SendError>) -> Option<bool> {
    match sent {
        Ok(()) | Err(SendError::Failed { .. }) => Some(true),
        Err(SendError::Unavailable(_)) => Some(false),
        Err(SendError::Refused(_)) => None,
    }
}

/// Records a failed attempt without sending: the card cannot be decrypted until its key is back in the settings.
async fn no_card(
    env: &Environment,
    order: &Order,
    job: &Job<NotificationJob>,
    stored: Notification,
    why: &DecryptionError,
) -> Result<Settlement, StoreError> {
    let notification = &job.payload.notification;
    let attempts = job.attempts_made + 1;
    tracing::error!(
        order.id = %notification.topup_id,
        event.id = %notification.event_id(),
        channel = notification.channel,
        attempts,
        error = %why,
        "a card cannot be decrypted, so its event is not sent; set the key that it was encrypted with"
    );
    let wait = notify_wait(attempts, (env.jitter)());
    let now = env.clock.now();
    let attempt = Notification { attempts, next_attempt_at: Some(now + wait.unwrap_or_default()), ..stored };
    env.store.begin_attempt(notification, &attempt, now).await?;
    let result = Made::Failed { what: why.to_string(), retry_after: None };
    Ok(note(env, order, notification, attempt, MadeAttempt { number: attempts, at: now, result }).await)
}

/// Whether this channel sends the code of the card.
fn carries_card(notification: &NotifyCustomer, channel: Option<&Arc<dyn Channel>>) -> bool {
    notification.outcome == Outcome::Fulfilled
        && channel.is_some_and(|channel| channel.card_form() == CardForm::Code)
}

fn with_card(mut event: Event, card: Option<Card>) -> Event {
    if let Some(card) = card {
        event.data.card_code = Some(card.card_code);
        event.data.num_trans = card.num_trans;
        event.data.date_traitement = card.date_traitement;
    }
    event
}

/// The one-time link to the card, if this channel carries a link and the page can ask for something that only the
/// customer knows. Without a link the message says only that the card is ready.
async fn reveal_link(
    env: &Environment,
    notification: &NotifyCustomer,
    channel: Option<&Arc<dyn Channel>>,
    order: &Order,
    now: Timestamp,
) -> Result<Option<String>, StoreError> {
    let carried = notification.outcome == Outcome::Fulfilled
        && channel.is_some_and(|channel| channel.card_form() == CardForm::Link)
        && reveal::can_ask(order);
    let Some(links) = env.links.as_ref().filter(|_| carried) else { return Ok(None) };
    let token = env.store.reveal_token(notification, now, now + links.lifetime).await?;
    Ok(Some(links.to(&token)))
}

/// Stores the result of an attempt and returns how the job is settled.
async fn record(
    env: &Environment,
    order: &Order,
    notification: &NotifyCustomer,
    stored: Notification,
    made: &MadeAttempt,
) -> Result<Settlement, StoreError> {
    let now = env.clock.now();
    let attempt = Notification { attempts: made.number, next_attempt_at: None, last_error: None, ..stored };
    let (what, retry_after) = match &made.result {
        Made::Sent => {
            let sent = Notification { status: NotificationStatus::Sent, sent_at: Some(made.at), ..attempt };
            env.store.record_attempt(notification, &sent, None, now).await?;
            return Ok(Settlement::new(Disposition::Complete));
        }
        Made::Refused(why) => {
            let (status, last_error) = (NotificationStatus::Refused, Some(why.clone()));
            return give_up(env, order, notification, Notification { status, last_error, ..attempt }).await;
        }
        Made::Failed { what, retry_after } => (what.clone(), *retry_after),
    };
    let last_error = Some(what.clone());
    let Some(wait) = notify_wait(made.number, (env.jitter)()) else {
        let status = NotificationStatus::Failed;
        return give_up(env, order, notification, Notification { status, last_error, ..attempt }).await;
    };
    // `Retry-After` is real time, whatever the scale of the clock.
    let real = env.clock.real(wait).max(retry_after.unwrap_or_default());
    let next_attempt_at = Some(now + env.clock.domain(real));
    let failed = Notification { next_attempt_at, last_error, ..attempt };
    env.store.record_attempt(notification, &failed, None, now).await?;
    let wait_ms = real.as_millis();
    tracing::warn!(
        event.id = %notification.event_id(),
        channel = notification.channel,
        error = what,
        wait_ms,
        "a notification was not delivered; the next attempt follows after wait_ms"
    );
    Ok(Settlement::new(Disposition::Retry(real, what)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_with_an_attempt_still_parses_as_a_plain_notification() {
        let notification: NotifyCustomer = serde_json::from_value(serde_json::json!({
            "topupId": "6901616fe9e88196b4eb64b2", "outcome": "unresolved", "incident": 2, "channel": "webhook"
        }))
        .unwrap();
        let plain: NotificationJob = serde_json::from_slice(&encode(&notification)).unwrap();
        assert_eq!(plain, NotificationJob { notification: notification.clone(), made: None });
        let failed =
            SendError::Failed { what: "HTTP 503".to_owned(), retry_after: Some(Duration::from_secs(7)) };
        let made = MadeAttempt { number: 3, at: Timestamp::UNIX_EPOCH, result: Err(failed).into() };
        let carrying = NotificationJob { made: Some(made), ..plain };
        let payload = encode(&carrying);
        assert_eq!(serde_json::from_slice::<NotificationJob>(&payload).unwrap(), carrying);
        assert_eq!(serde_json::from_slice::<NotifyCustomer>(&payload).unwrap(), notification);
    }

    #[test]
    fn a_refusal_neither_opens_nor_closes_a_breaker() {
        let what = || "what".to_owned();
        assert_eq!(answered(&Ok(())), Some(true));
        assert_eq!(answered(&Err(SendError::Failed { what: what(), retry_after: None })), Some(true));
        assert_eq!(answered(&Err(SendError::Unavailable(what()))), Some(false));
        assert_eq!(answered(&Err(SendError::Refused(what()))), None);
    }
}
