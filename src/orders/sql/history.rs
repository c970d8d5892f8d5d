//! The table `order_events`: the history of the orders. Its rows are never changed, and are deleted with their order.

use topup_jobs::{Incident, OrderStatus, Timestamp, TopupId};

use super::database::{Database, Transaction};
use super::statement::{Row, Value, Values, sql};
use crate::orders::{HistoryEntry, Occurrence, StoreError};

const TABLE: &str = "order_events";
const INSERT: &str =
    "INSERT INTO order_events (topup_id, recorded_at, kind, cause, status_before, status_after,
         next_check_at, polls, outcome, incident, channel, attempt, result, error)
     VALUES {rows}";

/// Adds an entry, in the transaction of the change that it records.
pub(super) async fn add(
    open: &mut Transaction,
    topup_id: &TopupId,
    at: Timestamp,
    what: Occurrence,
) -> Result<(), StoreError> {
    add_all(open, vec![row(topup_id, at, what)]).await
}

/// Adds entries of any orders.
pub(super) async fn add_all(open: &mut Transaction, rows: Vec<Values>) -> Result<(), StoreError> {
    open.insert_all(TABLE, INSERT, rows).await
}

/// The row of an entry, for [`add_all`].
pub(super) fn row(topup_id: &TopupId, at: Timestamp, what: Occurrence) -> Values {
    let none = || Value::Text(None);
    // The column is NOT NULL, and 1 where there is no incident.
    let first = || Incident::FIRST.number().into();
    let what: [Value; 12] = match what {
        Occurrence::Changed { cause, before, after, next_check_at, polls, given_up, error } => [
            "order".into(),
            cause.into(),
            before.map(OrderStatus::as_str).into(),
            after.as_str().into(),
            next_check_at.into(),
            polls.into(),
            none(),
            first(),
            none(),
            Value::Integer(None),
            given_up.into(),
            error.into(),
        ],
        Occurrence::NotificationAttempt { outcome, incident, channel, attempt, result, error } => [
            "notification".into(),
            none(),
            none(),
            none(),
            Value::Time(None),
            Value::Integer(None),
            outcome.as_str().into(),
            incident.number().into(),
            channel.into(),
            attempt.into(),
            result.as_str().into(),
            error.into(),
        ],
        Occurrence::Asked { channel, tries, result } => [
            "reveal".into(),
            none(),
            none(),
            none(),
            Value::Time(None),
            Value::Integer(None),
            none(),
            first(),
            channel.into(),
            tries.into(),
            result.into(),
            none(),
        ],
    };
    let order: [Value; 2] = [topup_id.as_str().into(), at.into()];
    order.into_iter().chain(what).collect()
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
