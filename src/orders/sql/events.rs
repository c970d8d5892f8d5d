//! The table `events`: one row for each order, outcome and incident (occurrence of that outcome).

use topup_jobs::{Event, EventId, Incident, NotifyCustomer, Outcome, TopupId};

use super::database::Transaction;
use super::statement::{Row, Statement, sql};
use super::{json, read_json};
use crate::orders::{NewEvent, StoreError};

/// Stands for the channel's name if no channel delivers an event.
const NO_CHANNEL: &str = "none";

/// Stores an event with its notifications; returns whether it is new. A stored event stays unchanged.
pub(super) async fn insert(
    open: &mut Transaction,
    topup_id: &TopupId,
    event: &NewEvent,
) -> Result<bool, StoreError> {
    let new = insert_one(open, topup_id, event).await?;
    if new && let Some(undelivered) = &event.undelivered {
        insert_one(open, topup_id, undelivered).await?;
    }
    Ok(new)
}

async fn insert_one(
    open: &mut Transaction,
    topup_id: &TopupId,
    event: &NewEvent,
) -> Result<bool, StoreError> {
    let Some(incident) = incident(open, topup_id, event).await? else { return Ok(false) };
    let event_id = EventId::new(topup_id, event.outcome, incident);
    let insert = sql("INSERT INTO events (event_id, topup_id, outcome, incident, about, recorded_at, body)
         VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (event_id) DO NOTHING RETURNING event_id")
    .bind(event_id.as_str())
    .bind(topup_id.as_str())
    .bind(event.outcome.as_str())
    .bind(incident.number())
    .bind(event.about.as_str())
    .bind(event.body.timestamp)
    .bind(json(&event.body));
    let stored = sql("SELECT event_id FROM events WHERE event_id = $1").bind(event_id.as_str());
    if open.insert("events", insert, stored).await?.is_none() {
        return Ok(false);
    }
    for channel in &event.channels {
        let insert = sql("INSERT INTO notifications
                 (event_id, topup_id, outcome, incident, channel, status, attempts, next_attempt_at)
             VALUES ($1, $2, $3, $4, $5, 'pending', 0, $6)")
        .bind(event_id.as_str())
        .bind(topup_id.as_str())
        .bind(event.outcome.as_str())
        .bind(incident.number())
        .bind(channel.as_str())
        .bind(event.body.timestamp);
        open.change("notifications", insert).await?;
    }
    if !event.channels.is_empty() {
        // A trigger may have deleted them again after the insertion, and nothing else would show that.
        let stored = sql("SELECT channel FROM notifications WHERE event_id = $1").bind(event_id.as_str());
        if open.fetch(stored).await?.len() < event.channels.len() {
            return Err(StoreError::NotStored("notifications"));
        }
    }
    Ok(true)
}

/// The number for a new incident; `None` if the order is unknown, or has an open incident of this outcome and subject.
async fn incident(
    open: &mut Transaction,
    topup_id: &TopupId,
    event: &NewEvent,
) -> Result<Option<Incident>, StoreError> {
    if !event.outcome.recurs() {
        return Ok(Some(Incident::FIRST));
    }
    // Locks the order, so that concurrent transactions do not use the same number.
    let hold = sql("UPDATE internet_orders SET topup_id = topup_id WHERE topup_id = $1");
    if open.execute(hold.bind(topup_id.as_str())).await? == 0 {
        return Ok(None);
    }
    let select = sql("SELECT incident, about, closed FROM events WHERE topup_id = $1 AND outcome = $2");
    let select = select.bind(topup_id.as_str()).bind(event.outcome.as_str());
    let mut incident = Incident::FIRST;
    for row in open.fetch(select).await? {
        if !row.get::<bool>("closed")? && row.get::<String>("about")? == event.about {
            return Ok(None);
        }
        incident = incident.max(row.incident("incident")?.next());
    }
    Ok(Some(incident))
}

/// Closes the order's incidents without a subject (empty `about`).
pub(super) async fn close_incidents(open: &mut Transaction, topup_id: &TopupId) -> Result<(), StoreError> {
    let close = sql("UPDATE events SET closed = $1 WHERE topup_id = $2 AND about = ''");
    open.execute(close.bind(true).bind(topup_id.as_str())).await.map(drop)
}

/// Closes the incident of an event that no channel could deliver to customer or merchant.
pub(super) async fn close_unreachable(
    open: &mut Transaction,
    notification: &NotifyCustomer,
) -> Result<(), StoreError> {
    let by_none = NotifyCustomer { channel: NO_CHANNEL.to_owned(), ..notification.clone() };
    close_undelivered(open, &by_none).await
}

pub(super) async fn close_undelivered(
    open: &mut Transaction,
    notification: &NotifyCustomer,
) -> Result<(), StoreError> {
    let close = sql("UPDATE events SET closed = $1 WHERE topup_id = $2 AND outcome = $3 AND about = $4")
        .bind(true)
        .bind(notification.topup_id.as_str())
        .bind(Outcome::Undelivered.as_str())
        .bind(notification.job_id());
    open.execute(close).await.map(drop)
}

/// Selects an event for [`read`].
pub(super) fn select(event_id: &str) -> Statement {
    sql("SELECT body FROM events WHERE event_id = $1").bind(event_id)
}

pub(super) fn read(row: &Row) -> Result<Event, StoreError> {
    read_json(&row.get::<String>("body")?, "event")
}
