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

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use topup_jobs::{Event, JobName, NotifyCustomer, Outcome, Timestamp, notify_wait};

use super::environment::{Environment, TROUBLE_PAUSE, chain};
use super::undelivered::{give_up, given_up};
use super::{End, Handler, Job, Settlement};
use crate::notify::{CardForm, Channel, Delivery, Outside, Place, SendError, Turned};
use crate::orders::{Notification, NotificationStatus, Order, StoreError};
use crate::reveal;

/// A job that waits for a circuit comes back no sooner than this in real time, however fast the clock runs.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);

/// Handler of `notify-customer`.
pub struct NotifyCustomerHandler(pub Environment);

#[async_trait]
impl Handler for NotifyCustomerHandler {
    type Payload = NotifyCustomer;
    const NAME: JobName = JobName::NotifyCustomer;

    fn id_of(payload: &[u8]) -> Option<String> {
        Some(serde_json::from_slice::<NotifyCustomer>(payload).ok()?.job_id())
    }

    async fn handle(&self, job: Job<NotifyCustomer>) -> Settlement {
        tracing::Span::current().record("order.id", job.payload.topup_id.as_str());
        match tell(&self.0, &job).await {
            Ok(settlement) => settlement,
            Err(error) => {
                tracing::error!(error = chain(&error), "the store failed; the job waits");
                Settlement::new(End::Wait(TROUBLE_PAUSE))
            }
        }
    }
}

async fn tell(env: &Environment, job: &Job<NotifyCustomer>) -> Result<Settlement, StoreError> {
    let unknown = |what: &str| Ok(Settlement::new(End::DeadLetter(format!("the store knows of {what}"))));
    let told = &job.payload;
    let Some(stored) = env.store.notification(told).await? else {
        return unknown("nothing to tell");
    };
    let Some(order) = env.store.order(&told.topup_id).await? else {
        return unknown("no such order");
    };
    match stored.status {
        NotificationStatus::Pending => {}
        NotificationStatus::Sent | NotificationStatus::Discarded => return Ok(Settlement::new(End::Finish)),
        // The process died, or lost its lease, after it had stored that this is given up.
        NotificationStatus::Failed | NotificationStatus::Refused => {
            return given_up(env, &order, &stored).await;
        }
    }
    let channel = env.channels.get(&told.channel);
    let place = match enter(env, channel, &order) {
        Ok(place) => place,
        Err(wait) => return Ok(Settlement::new(End::Wait(wait))),
    };
    let Some(event) = read_event(env, told, channel).await? else {
        return unknown("no such event");
    };
    let now = env.clock.now();
    let link = reveal_link(env, told, channel, &order, now).await?;
    let attempts = job.attempts_made + 1;
    let wait = notify_wait(attempts, (env.jitter)());
    let next_attempt_at = Some(now + wait.unwrap_or_default());
    let attempt = Notification { attempts, next_attempt_at, ..stored };
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
        Some(channel) => channel.send(delivery).await,
        None => {
            Err(SendError::Failed { what: "this worker has no such channel".to_owned(), retry_after: None })
        }
    };
    if let Some(place) = place {
        leave(env, told, place, &sent);
    }
    record(env, &order, told, attempt, wait, sent).await
}

/// A place at the receiver, if it needs one, or how long to wait for it, in real time.
fn enter(
    env: &Environment,
    channel: Option<&Arc<dyn Channel>>,
    order: &Order,
) -> Result<Option<Place>, Duration> {
    let Some(endpoint) = channel.and_then(|channel| channel.endpoint(order)) else { return Ok(None) };
    env.circuits.enter(endpoint, env.clock.now()).map(Some).map_err(|outside| match outside {
        Outside::Busy(wait) => env.clock.real(wait),
        // Never before it closes, and not all at once.
        Outside::Open(wait) => (env.jitter)().apply(env.clock.real(wait).mul_f64(1.2)).max(SHORTEST_PAUSE),
    })
}

/// Gives the place back and tells the circuit how the attempt went.
fn leave(env: &Environment, told: &NotifyCustomer, place: Place, sent: &Result<(), SendError>) {
    let Some(answered) = answered(sent) else { return };
    match place.ended(answered, env.clock.now()) {
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

/// Stores how the attempt went and says what becomes of the job; `wait` is that before the next attempt,
/// in domain time, if there is to be one.
async fn record(
    env: &Environment,
    order: &Order,
    told: &NotifyCustomer,
    attempt: Notification,
    wait: Option<Duration>,
    sent: Result<(), SendError>,
) -> Result<Settlement, StoreError> {
    let now = env.clock.now();
    let (what, retry_after) = match sent {
        Ok(()) => {
            let (status, sent_at) = (NotificationStatus::Sent, Some(now));
            let sent = Notification { status, sent_at, next_attempt_at: None, last_error: None, ..attempt };
            env.store.record_attempt(told, &sent, None, now).await?;
            return Ok(Settlement::new(End::Finish));
        }
        Err(SendError::Refused(why)) => {
            let status = NotificationStatus::Refused;
            return give_up(env, order, told, Notification { status, last_error: Some(why), ..attempt })
                .await;
        }
        Err(SendError::Failed { what, retry_after }) => (what, retry_after),
        Err(SendError::Unavailable(what)) => (what, None),
    };
    let last_error = Some(what.clone());
    let Some(wait) = wait else {
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
    fn a_refusal_neither_opens_nor_closes_a_circuit() {
        let what = || "what".to_owned();
        assert_eq!(answered(&Ok(())), Some(true));
        assert_eq!(answered(&Err(SendError::Failed { what: what(), retry_after: None })), Some(true));
        assert_eq!(answered(&Err(SendError::Unavailable(what()))), Some(false));
        assert_eq!(answered(&Err(SendError::Refused(what()))), None);
    }
}
