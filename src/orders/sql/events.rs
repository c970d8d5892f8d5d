//! The table `events`: one row for each order, outcome and incident (occurrence of that outcome).

use topup_jobs::{Event, EventId, Incident, NotifyCustomer, Outcome, TopupId};

use super::database::Transaction;
use super::statement::{Row, Statement, Values, sql, sql_with_rows};
use super::{json, read_json};
use crate::orders::{NewEvent, NotificationStatus, StoreError};

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
    let insert = sql_with_rows(INSERT, vec![row(topup_id, event, incident)]);
    let stored = sql("SELECT event_id FROM events WHERE event_id = $1").bind(event_id.as_str());
    if open.insert("events", insert, stored).await?.is_none() {
        return Ok(false);
    }
    let rows = notification_rows(topup_id, event, incident);
    open.insert_all("notifications", INSERT_NOTIFICATIONS, rows).await?;
    if !event.channels.is_empty() {
        // A trigger may have deleted them again after the insertion, and nothing else would show that.
        let stored = sql("SELECT channel FROM notifications WHERE event_id = $1").bind(event_id.as_str());
        if open.fetch(stored).await?.len() < event.channels.len() {
            return Err(StoreError::NotStored("notifications"));
        }
    }
    Ok(true)
}

/// Inserts events and returns `event_id` of each new one. A stored event stays unchanged.
pub(super) const INSERT: &str =
    "INSERT INTO events (event_id, topup_id, outcome, incident, about, recorded_at, body)
     VALUES {rows} ON CONFLICT (event_id) DO NOTHING RETURNING event_id";
pub(super) const INSERT_NOTIFICATIONS: &str = "INSERT INTO notifications
         (event_id, topup_id, outcome, incident, channel, status, attempts, next_attempt_at)
     VALUES {rows}";

/// The row of an event, for [`INSERT`].
pub(super) fn row(topup_id: &TopupId, event: &NewEvent, incident: Incident) -> Values {
    vec![
        EventId::new(topup_id, event.outcome, incident).as_str().into(),
        topup_id.as_str().into(),
        event.outcome.as_str().into(),
        incident.number().into(),
        event.about.as_str().into(),
        event.body.timestamp.into(),
        json(&event.body).into(),
    ]
}

/// The rows of an event's notifications, for [`INSERT_NOTIFICATIONS`].
pub(super) fn notification_rows(topup_id: &TopupId, event: &NewEvent, incident: Incident) -> Vec<Values> {
    let row = |channel: &String| {
        vec![
            EventId::new(topup_id, event.outcome, incident).as_str().into(),
            topup_id.as_str().into(),
            event.outcome.as_str().into(),
            incident.number().into(),
            channel.as_str().into(),
            NotificationStatus::Pending.as_str().into(),
            0_u32.into(),
            event.body.timestamp.into(),
        ]
    };
    event.channels.iter().map(row).collect()
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
