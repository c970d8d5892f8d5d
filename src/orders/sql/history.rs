//! The table `order_events`: the history of the orders. Its rows are never changed, and are deleted with their order.

use topup_jobs::{Timestamp, TopupId};

use super::database::{Database, Transaction};
use super::statement::{Row, Statement, sql};
use crate::orders::{HistoryEntry, Occurrence, StoreError};

/// Adds an entry, in the transaction of the change that it records.
pub(super) async fn add(
    open: &mut Transaction,
    topup_id: &TopupId,
    at: Timestamp,
    what: Occurrence,
) -> Result<(), StoreError> {
    let statement = match what {
        Occurrence::Changed { cause, before, after, next_check_at, polls, given_up, error } => insert(
            "INSERT INTO order_events (topup_id, recorded_at, kind, cause, status_before, status_after,
                 next_check_at, polls, result, error)
             VALUES ($1, $2, 'order', $3, $4, $5, $6, $7, $8, $9)",
            topup_id,
            at,
        )
        .bind(cause)
        .bind(before.map(topup_jobs::OrderStatus::as_str))
        .bind(after.as_str())
        .bind(next_check_at)
        .bind(polls)
        .bind(given_up)
        .bind(error),
        Occurrence::NotificationAttempt { outcome, incident, channel, attempt, result, error } => insert(
            "INSERT INTO order_events (topup_id, recorded_at, kind, outcome, incident, channel, attempt, result, error)
             VALUES ($1, $2, 'notification', $3, $4, $5, $6, $7, $8)",
            topup_id,
            at,
        )
        .bind(outcome.as_str())
        .bind(incident.number())
        .bind(channel)
        .bind(attempt)
        .bind(result.as_str())
        .bind(error),
        Occurrence::Asked { channel, tries, result } => insert(
            "INSERT INTO order_events (topup_id, recorded_at, kind, channel, attempt, result)
             VALUES ($1, $2, 'reveal', $3, $4, $5)",
            topup_id,
            at,
        )
        .bind(channel)
        .bind(tries)
        .bind(result),
    };
    open.change("order_events", statement).await
}

fn insert(text: &'static str, topup_id: &TopupId, at: Timestamp) -> Statement {
    sql(text).bind(topup_id.as_str()).bind(at)
}

pub(super) async fn of_order(
    database: &Database,
    topup_id: &TopupId,
) -> Result<Vec<HistoryEntry>, StoreError> {
    let select = sql("SELECT recorded_at, kind, cause, status_before, status_after, next_check_at, polls,
             outcome, incident, channel, attempt, result, error
         FROM order_events WHERE topup_id = $1 ORDER BY recorded_at, id");
    let rows = database.fetch(select.bind(topup_id.as_str())).await?;
    rows.iter().map(read).collect()
}

fn read(row: &Row) -> Result<HistoryEntry, StoreError> {
    let what = match row.get::<String>("kind")?.as_str() {
        "order" => Occurrence::Changed {
            cause: row.get("cause")?,
            before: row.parse_optional("status_before")?,
            after: row.parse("status_after")?,
            next_check_at: row.get("next_check_at")?,
            polls: row.count("polls")?,
            given_up: row.get("result")?,
            error: row.get("error")?,
        },
        "notification" => Occurrence::NotificationAttempt {
            outcome: row.parse("outcome")?,
            incident: row.incident("incident")?,
            channel: row.get("channel")?,
            attempt: row.count("attempt")?,
            result: row.parse("result")?,
            error: row.get("error")?,
        },
        "reveal" => Occurrence::Asked {
            channel: row.get("channel")?,
            tries: row.count("attempt")?,
            result: row.get("result")?,
        },
        _ => return Err(StoreError::Row("kind of an order event")),
    };
    Ok(HistoryEntry { at: row.get("recorded_at")?, what })
}
