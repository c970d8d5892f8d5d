//! `events` and `notifications`: what is told of an order, to whom, and how far that has come.

use topup_jobs::{Event, EventId, NotifyCustomer, Timestamp, TopupId};

use super::database::{Database, Transaction};
use super::statement::{Row, sql};
use super::unchecked::left_out;
use super::{history, json, read_json};
use crate::orders::history::Attempt;
use crate::orders::{NewEvent, Notification, Occurrence, StoreError};

/// Stores an event and whom it is to be told. One that is stored already stays as it is.
pub(super) async fn insert_event(
    open: &mut Transaction,
    topup_id: &TopupId,
    event: &NewEvent,
) -> Result<(), StoreError> {
    let event_id = EventId::new(topup_id, event.outcome);
    let insert = sql("INSERT INTO events (event_id, topup_id, outcome, recorded_at, body)
         VALUES ($1, $2, $3, $4, $5) ON CONFLICT (event_id) DO NOTHING")
    .bind(event_id.as_str())
    .bind(topup_id.as_str())
    .bind(event.outcome.as_str())
    .bind(event.body.timestamp)
    .bind(json(&event.body));
    if open.execute(insert).await? == 0 {
        return Ok(());
    }
    for channel in &event.channels {
        let insert = sql("INSERT INTO notifications
                 (event_id, topup_id, outcome, channel, status, attempts, next_attempt_at)
             VALUES ($1, $2, $3, $4, 'pending', 0, $5)")
        .bind(event_id.as_str())
        .bind(topup_id.as_str())
        .bind(event.outcome.as_str())
        .bind(channel.as_str())
        .bind(event.body.timestamp);
        open.execute(insert).await?;
    }
    Ok(())
}

pub(super) async fn event(
    database: &Database,
    notification: &NotifyCustomer,
) -> Result<Option<Event>, StoreError> {
    let select = sql("SELECT body FROM events WHERE event_id = $1");
    let row = database.fetch_optional(select.bind(notification.event_id().as_str())).await?;
    row.map(|row| read_json(&row.get::<String>("body")?, "event")).transpose()
}

pub(super) async fn untold(
    database: &Database,
    before: Timestamp,
    most: u32,
) -> Result<Vec<NotifyCustomer>, StoreError> {
    let select = sql("SELECT topup_id, outcome, channel FROM notifications
         WHERE status = 'pending' AND next_attempt_at < $1 ORDER BY random() LIMIT $2");
    let rows = database.fetch(select.bind(before).bind(most)).await?;
    let read = |row: &Row| {
        let channel = row.get("channel")?;
        Ok(NotifyCustomer { topup_id: row.parse("topup_id")?, outcome: row.parse("outcome")?, channel })
    };
    Ok(rows.iter().filter_map(|row| read(row).map_err(|error| left_out(row, &error)).ok()).collect())
}

/// The oldest event first.
pub(super) async fn of_order(
    database: &Database,
    topup_id: &TopupId,
) -> Result<Vec<Notification>, StoreError> {
    let select = sql(
        "SELECT told.outcome, told.channel, told.status, told.attempts, told.next_attempt_at, told.sent_at,
             told.last_error
         FROM notifications told JOIN events ON events.event_id = told.event_id
         WHERE told.topup_id = $1 ORDER BY events.recorded_at, told.outcome, told.channel",
    );
    let rows = database.fetch(select.bind(topup_id.as_str())).await?;
    rows.iter().map(read).collect()
}

fn read(row: &Row) -> Result<Notification, StoreError> {
    Ok(Notification {
        outcome: row.parse("outcome")?,
        channel: row.get("channel")?,
        status: row.parse("status")?,
        attempts: row.count("attempts")?,
        next_attempt_at: row.get("next_attempt_at")?,
        sent_at: row.get("sent_at")?,
        last_error: row.get("last_error")?,
    })
}

pub(super) async fn begin_attempt(
    database: &Database,
    told: &NotifyCustomer,
    attempt: &Notification,
    now: Timestamp,
) -> Result<(), StoreError> {
    // What went wrong before is no news of this attempt.
    note(database, told, attempt, now, Attempt::Begun, None).await
}

pub(super) async fn record_attempt(
    database: &Database,
    told: &NotifyCustomer,
    attempt: &Notification,
    now: Timestamp,
) -> Result<(), StoreError> {
    note(database, told, attempt, now, attempt.status.into(), attempt.last_error.clone()).await
}

async fn note(
    database: &Database,
    told: &NotifyCustomer,
    attempt: &Notification,
    now: Timestamp,
    result: Attempt,
    error: Option<String>,
) -> Result<(), StoreError> {
    let mut transaction = database.begin().await?;
    let update = sql("UPDATE notifications
         SET status = $1, attempts = $2, next_attempt_at = $3, sent_at = $4, last_error = $5
         WHERE event_id = $6 AND channel = $7 AND status <> 'sent'")
    .bind(attempt.status.as_str())
    .bind(attempt.attempts)
    .bind(attempt.next_attempt_at)
    .bind(attempt.sent_at)
    .bind(attempt.last_error.as_deref())
    .bind(told.event_id().as_str())
    .bind(told.channel.as_str());
    transaction.execute(update).await?;
    // Even where somebody else has told it meanwhile: this attempt was made, too.
    let (outcome, channel) = (told.outcome, told.channel.clone());
    let what = Occurrence::Told { outcome, channel, attempt: attempt.attempts, result, error };
    history::add(&mut transaction, &told.topup_id, now, what).await?;
    transaction.commit().await
}
