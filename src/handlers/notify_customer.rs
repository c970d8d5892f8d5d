//! `notify-customer`: tell one channel about one outcome of one order.
//!
//! The event is read from the store, the card of a fulfilled order among it, so every attempt carries the
//! same id and the same body. That it was told is stored before the job ends; a crash between the two
//! tells it again, under the same id.
//!
//! A job that finds its receiver's circuit open, or its share of places taken, waits in the queue: it holds
//! no place meanwhile and has made no attempt.
//!
//! A notification that is refused, or fails at its last attempt, ends as a dead letter. The store says so, and holds
//! the event that tells the operator, before the job ends; a job that is repeated after that ends alike and adds
//! nothing.
//!
//! An attempt that was made is not made again because the store cannot note it: how it went stands in the job until the
//! store has it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use topup_jobs::{Event, JobName, NotifyCustomer, Outcome, Timestamp, TrackTopup, notify_wait};

use super::environment::{Environment, TROUBLE_PAUSE, log_store_failure};
use super::undelivered::{give_up, given_up};
use crate::error_chain::chain;
use crate::job::{End, Handler, Job, NextJob, Settlement, encode};
use crate::notify::{CardForm, Channel, ChannelName, Delivery, Outside, Place, SendError, Turned};
use crate::orders::{DecryptionError, Notification, NotificationStatus, Order, StoreError};
use crate::reveal;
use crate::telemetry::UndeliveredReason;

/// A job that waits for a circuit comes back no sooner than this in real time, however fast the clock runs.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);

/// Handler of `notify-customer`.
pub struct NotifyCustomerHandler(pub Environment);

/// What the job carries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Telling {
    #[serde(flatten)]
    told: NotifyCustomer,
    /// An attempt that was made and that the store could not note yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    made: Option<MadeAttempt>,
}

/// An attempt and how it went.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct MadeAttempt {
    /// Number of the attempt; the first is 1.
    number: u32,
    at: Timestamp,
    result: Made,
}

/// How an attempt went; in words without personal data.
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
    type Payload = Telling;
    const NAME: JobName = JobName::NotifyCustomer;

    fn other_id(id: &[u8], payload: &[u8]) -> Option<String> {
        let told: NotifyCustomer = serde_json::from_slice(payload).ok()?;
        Some(told.job_id()).filter(|right| right.as_bytes() != id)
    }

    async fn handle(&self, job: Job<Telling>) -> Settlement {
        tracing::Span::current().record("order.id", job.payload.told.topup_id.as_str());
        let settlement = match tell(&self.0, &job).await {
            Ok(settlement) => settlement,
            Err(error) => {
                log_store_failure(&error);
                return Settlement::new(End::Wait(TROUBLE_PAUSE));
            }
        };
        if job.payload.made.is_some() && settlement.payload.is_none() {
            // It is noted: whatever becomes of the job, its next attempt is a new one.
            let payload = Some(encode(&job.payload.told));
            return Settlement { payload, ..settlement };
        }
        settlement
    }
}

async fn tell(env: &Environment, job: &Job<Telling>) -> Result<Settlement, StoreError> {
    let Telling { told, made } = &job.payload;
    let (stored, order) = tokio::try_join!(env.store.notification(told), env.store.order(&told.topup_id))?;
    let Some(order) = order else {
        return Ok(follow_anew(told));
    };
    let Some(stored) = stored else {
        return Ok(not_stored(env, told));
    };
    match stored.status {
        NotificationStatus::Pending => {}
        NotificationStatus::Sent | NotificationStatus::Discarded => return Ok(Settlement::new(End::Finish)),
        // The process died, or lost its lease, after it had stored that this is given up.
        NotificationStatus::Failed | NotificationStatus::Refused => {
            return given_up(env, &order, &stored).await;
        }
    }
    if let Some(made) = made {
        return Ok(note(env, &order, told, stored, made.clone()).await);
    }
    let channel = env.channels.get(&told.channel);
    let mut place = match enter(env, channel, &order) {
        Ok(place) => place,
        Err(wait) => return Ok(Settlement::new(End::Wait(wait))),
    };
    let event = match read_event(env, told, channel).await {
        Err(StoreError::Decryption(why)) => return no_card(env, &order, job, stored, &why).await,
        event => event?,
    };
    let Some(event) = event else {
        return Ok(not_stored(env, told));
    };
    let now = env.clock.now();
    let link = reveal_link(env, told, channel, &order, now).await?;
    let number = job.attempts_made + 1;
    let wait = notify_wait(number, (env.jitter)());
    let next_attempt_at = Some(now + wait.unwrap_or_default());
    let attempt = Notification { attempts: number, next_attempt_at, ..stored };
    // Stored before it is sent: a store that cannot be written must not have this sent again and again.
    env.store.begin_attempt(told, &attempt, now).await?;
    let event_id = told.event_id();
    let delivery = Delivery {
        event_id: &event_id,
        outcome: told.outcome,
        event: &event,
        order: &order,
        reveal_link: link.as_deref(),
    };
    let sent = match channel {
        Some(channel) => send(channel, delivery, place.as_mut()).await,
        None => {
            Err(SendError::Failed { what: "this worker has no such channel".to_owned(), retry_after: None })
        }
    };
    if let Some(place) = place {
        leave(told, place, &sent);
    }
    let made = MadeAttempt { number, at: env.clock.now(), result: sent.into() };
    Ok(note(env, &order, told, attempt, made).await)
}

/// The database is older than Redis, such as a backup that was brought back: it has lost the order of this notification.
/// The order is followed anew, and its outcome is sent under the same event id.
fn follow_anew(told: &NotifyCustomer) -> Settlement {
    tracing::error!(
        event.id = %told.event_id(),
        channel = told.channel,
        "the order of a notification is not stored; it is followed anew, without what its producer said of it"
    );
    let order = TrackTopup::new(told.topup_id.clone());
    let next = vec![NextJob::look(JobName::PollTopup, order, Duration::ZERO)];
    Settlement { next, ..Settlement::new(End::Finish) }
}

/// The order is stored and this notification of it is not: nothing says what to send.
fn not_stored(env: &Environment, told: &NotifyCustomer) -> Settlement {
    env.metrics.undelivered(ChannelName::of(&told.channel), UndeliveredReason::NotStored);
    tracing::error!(
        event.id = %told.event_id(),
        channel = told.channel,
        "a notification is not stored and cannot be sent; its job is kept as a dead letter"
    );
    Settlement::new(End::DeadLetter("the notification is not stored".to_owned()))
}

/// Stores how an attempt went and says what becomes of the job. Where the store fails, the job waits and carries that.
async fn note(
    env: &Environment,
    order: &Order,
    told: &NotifyCustomer,
    stored: Notification,
    made: MadeAttempt,
) -> Settlement {
    match record(env, order, told, stored, &made).await {
        Ok(settlement) => settlement,
        Err(error) => {
            tracing::error!(
                event.id = %told.event_id(),
                channel = told.channel,
                error = chain(&error),
                "the store failed after an attempt to send a notification; the attempt is noted later and not repeated"
            );
            let payload = Telling { told: told.clone(), made: Some(made) };
            Settlement { payload: Some(encode(&payload)), ..Settlement::new(End::Wait(TROUBLE_PAUSE)) }
        }
    }
}

/// A place at the receiver, if it needs one, or how long to wait for it, in real time.
fn enter(
    env: &Environment,
    channel: Option<&Arc<dyn Channel>>,
    order: &Order,
) -> Result<Option<Place>, Duration> {
    let Some(endpoint) = channel.and_then(|channel| channel.endpoint(order)) else { return Ok(None) };
    env.circuits.enter(endpoint, Instant::now()).map(Some).map_err(|outside| match outside {
        Outside::Busy(wait) => wait,
        // Never before it closes, and not all at once.
        Outside::Open(wait) => (env.jitter)().apply(wait.mul_f64(1.2)).max(SHORTEST_PAUSE),
    })
}

/// Sends it; what takes long is noticed while it does.
async fn send(
    channel: &Arc<dyn Channel>,
    delivery: Delivery<'_>,
    place: Option<&mut Place>,
) -> Result<(), SendError> {
    let sending = channel.send(delivery);
    match place {
        Some(place) => place.watch(sending).await,
        None => sending.await,
    }
}

/// Gives the place back and tells the circuit how the attempt went.
fn leave(told: &NotifyCustomer, place: Place, sent: &Result<(), SendError>) {
    let Some(answered) = answered(sent) else { return };
    match place.ended(answered, Instant::now()) {
        Some(Turned::Opened) => {
            tracing::warn!(channel = told.channel, "a receiver does not answer; its events wait");
        }
        Some(Turned::Closed) => tracing::info!(channel = told.channel, "the receiver answers again"),
        None => {}
    }
}

/// Whether the receiver answered; nothing of a refusal, since some come about before anybody is reached.
const fn answered(sent: &Result<(), SendError>) -> Option<bool> {
    match sent {
        Ok(()) | Err(SendError::Failed { .. }) => Some(true),
        Err(SendError::Unavailable(_)) => Some(false),
        Err(SendError::Refused(_)) => None,
    }
}

/// Counts an attempt at which the card could not be decrypted. It may succeed later, with the key back in the settings;
/// after the last attempt it is given up as any other notification, and the operator is notified.
async fn no_card(
    env: &Environment,
    order: &Order,
    job: &Job<Telling>,
    stored: Notification,
    why: &DecryptionError,
) -> Result<Settlement, StoreError> {
    let told = &job.payload.told;
    let attempts = job.attempts_made + 1;
    tracing::error!(
        order.id = %told.topup_id,
        event.id = %told.event_id(),
        channel = told.channel,
        attempts,
        error = %why,
        "a card cannot be decrypted, so its event is not sent; set the key that it was encrypted with"
    );
    let wait = notify_wait(attempts, (env.jitter)());
    let now = env.clock.now();
    let attempt = Notification { attempts, next_attempt_at: Some(now + wait.unwrap_or_default()), ..stored };
    env.store.begin_attempt(told, &attempt, now).await?;
    let result = Made::Failed { what: why.to_string(), retry_after: None };
    Ok(note(env, order, told, attempt, MadeAttempt { number: attempts, at: now, result }).await)
}

/// The event as this channel gets it: with the card only where it carries the code.
async fn read_event(
    env: &Environment,
    told: &NotifyCustomer,
    channel: Option<&Arc<dyn Channel>>,
) -> Result<Option<Event>, StoreError> {
    let Some(mut event) = env.store.event(told).await? else { return Ok(None) };
    if told.outcome == Outcome::Fulfilled
        && channel.is_some_and(|channel| channel.card_form() == CardForm::Code)
        && let Some(card) = env.store.card(&told.topup_id).await?
    {
        event.data.card_code = Some(card.card_code);
        event.data.num_trans = card.num_trans;
        event.data.date_traitement = card.date_traitement;
    }
    Ok(Some(event))
}

/// The link to the card, where this channel carries it and the page can ask its reader something. Without one the
/// message says that the card is ready, and no more.
async fn reveal_link(
    env: &Environment,
    told: &NotifyCustomer,
    channel: Option<&Arc<dyn Channel>>,
    order: &Order,
    now: Timestamp,
) -> Result<Option<String>, StoreError> {
    let carried = told.outcome == Outcome::Fulfilled
        && channel.is_some_and(|channel| channel.card_form() == CardForm::Link)
        && reveal::can_ask(order);
    let Some(links) = env.links.as_ref().filter(|_| carried) else { return Ok(None) };
    let token = env.store.reveal_token(told, now, now + links.lifetime).await?;
    Ok(Some(links.to(&token)))
}

/// Stores how the attempt went and says what becomes of the job.
async fn record(
    env: &Environment,
    order: &Order,
    told: &NotifyCustomer,
    stored: Notification,
    made: &MadeAttempt,
) -> Result<Settlement, StoreError> {
    let now = env.clock.now();
    let attempt = Notification { attempts: made.number, next_attempt_at: None, last_error: None, ..stored };
    let (what, retry_after) = match &made.result {
        Made::Sent => {
            let sent = Notification { status: NotificationStatus::Sent, sent_at: Some(made.at), ..attempt };
            env.store.record_attempt(told, &sent, None, now).await?;
            return Ok(Settlement::new(End::Finish));
        }
        Made::Refused(why) => {
            let (status, last_error) = (NotificationStatus::Refused, Some(why.clone()));
            return give_up(env, order, told, Notification { status, last_error, ..attempt }).await;
        }
        Made::Failed { what, retry_after } => (what.clone(), *retry_after),
    };
    let last_error = Some(what.clone());
    let Some(wait) = notify_wait(made.number, (env.jitter)()) else {
        let status = NotificationStatus::Failed;
        return give_up(env, order, told, Notification { status, last_error, ..attempt }).await;
    };
    // What the receiver asks for is real time, whatever the clock's scale.
    let real = env.clock.real(wait).max(retry_after.unwrap_or_default());
    let next_attempt_at = Some(now + env.clock.domain(real));
    let failed = Notification { next_attempt_at, last_error, ..attempt };
    env.store.record_attempt(told, &failed, None, now).await?;
    let wait_ms = real.as_millis();
    tracing::warn!(
        event.id = %told.event_id(),
        channel = told.channel,
        error = what,
        wait_ms,
        "a notification was not delivered; it is tried again after the wait"
    );
    Ok(Settlement::new(End::Retry(real, what)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_carries_an_attempt_is_read_as_one_that_carries_none() {
        let told: NotifyCustomer = serde_json::from_value(serde_json::json!({
            "topupId": "6901616fe9e88196b4eb64b2", "outcome": "unresolved", "incident": 2, "channel": "webhook"
        }))
        .unwrap();
        let plain: Telling = serde_json::from_slice(&encode(&told)).unwrap();
        assert_eq!(plain, Telling { told: told.clone(), made: None });
        let failed =
            SendError::Failed { what: "HTTP 503".to_owned(), retry_after: Some(Duration::from_secs(7)) };
        let made = MadeAttempt { number: 3, at: Timestamp::UNIX_EPOCH, result: Err(failed).into() };
        let carrying = Telling { made: Some(made), ..plain };
        let payload = encode(&carrying);
        assert_eq!(serde_json::from_slice::<Telling>(&payload).unwrap(), carrying);
        assert_eq!(serde_json::from_slice::<NotifyCustomer>(&payload).unwrap(), told);
    }

    #[test]
    fn a_refusal_neither_opens_nor_closes_a_circuit() {
        let what = || "what".to_owned();
        assert_eq!(answered(&Ok(())), Some(true));
        assert_eq!(answered(&Err(SendError::Failed { what: what(), retry_after: None })), Some(true));
        assert_eq!(answered(&Err(SendError::Unavailable(what()))), Some(false));
        assert_eq!(answered(&Err(SendError::Refused(what()))), None);
    }
}
