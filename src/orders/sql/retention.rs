//! Deletes orders that ended long ago, with all their rows. An order with an undelivered notification, or an incident
//! that no receiver has been notified of, is kept until the notification is delivered or the operator discards it.
//!
//! Each call examines the next orders along the index of their end times. Its cursor also passes kept orders, so that
//! kept orders neither block later ones nor are examined again by the next call. Every other statement finds its rows
//! by the ids of these orders in an index, even if the statistics of the database are old.

use std::collections::HashSet;

use topup_jobs::Timestamp;

use super::database::{Database, Transaction};
use super::statement::{Statement, sql, sql_built};
use super::unchecked::{last, position};
use crate::orders::{Behind, Deleted, StoreError};

/// Selects the next orders by their end time. The rows are not sorted.
pub(super) const SELECT: &str =
    "SELECT topup_id, coalesce(fulfilled_at, refunded_at) AS ended_at FROM internet_orders
     WHERE status IN ('FULFILLED', 'REFUNDED') AND coalesce(fulfilled_at, refunded_at) < $1
         AND coalesce(fulfilled_at, refunded_at) >= $2
         AND (coalesce(fulfilled_at, refunded_at) > $2 OR topup_id > $3)
     ORDER BY coalesce(fulfilled_at, refunded_at), topup_id LIMIT $4";

/// The tables with rows of an order, each with its index by orders. A table that refers to another one goes first.
const TABLES: [(&str, &str); 5] = [
    ("reveals", "reveals_by_order"),
    ("notifications", "notifications_by_order"),
    ("events", "events_by_order"),
    ("order_events", "order_events_by_order"),
    ("internet_orders", "sqlite_autoindex_internet_orders_1"),
];

/// Condition: the notification is pending, or it has failed or was refused on a channel other than the stream and the
/// log, which get no card. No partial index fits this condition, so the index by orders is used.
const UNDELIVERED: &str =
    "status NOT IN ('sent', 'discarded') AND (status = 'pending' OR channel NOT IN ('events', 'log')) AND ";
/// Condition: the event is an open incident that no receiver was notified of. The stream is not a receiver, because it
/// notifies no person. An incident for which there is no channel meets the condition, because it has no notification.
const UNACKNOWLEDGED: &str =
    "NOT closed AND (outcome = 'unresolved' OR (outcome = 'undelivered' AND about LIKE '%:none'))
         AND NOT EXISTS (SELECT 1 FROM notifications notification
             WHERE notification.event_id = events.event_id AND notification.channel <> 'events'
                 AND notification.status IN ('sent', 'discarded'))
         AND ";
/// Condition: the link can still show the card.
const SHOWN: &str = "revealed_at IS NULL AND expires_at > $1 AND ";

pub(super) async fn delete_ended(
    database: &Database,
    before: Timestamp,
    now: Timestamp,
    behind: Option<&Behind>,
    most: u32,
) -> Result<Deleted, StoreError> {
    let select = sql(SELECT);
    let (at, topup_id) = position(behind);
    let rows = database.fetch(select.bind(before).bind(at).bind(topup_id).bind(most)).await?;
    let is_full = u32::try_from(rows.len()).is_ok_and(|found| found >= most);
    let (mut ids, mut furthest) = (Vec::new(), None);
    for row in &rows {
        let Behind { at, topup_id } = last(row, "ended_at")?;
        ids.push(topup_id.as_str().to_owned());
        furthest = furthest.max(Some((at, topup_id)));
    }
    let behind = furthest.map(|(at, topup_id)| Behind { at, topup_id });
    let orders = if ids.is_empty() { 0 } else { delete(database, ids, now).await? };
    Ok(Deleted { orders, behind, more: is_full })
}

/// Deletes these orders, except those that must be kept or that another worker is deleting. Returns how many.
async fn delete(database: &Database, mut ids: Vec<String>, now: Timestamp) -> Result<u32, StoreError> {
    let mut open = database.begin().await?;
    remove_kept(database, &mut open, &mut ids, now).await?;
    if ids.is_empty() {
        return Ok(0);
    }
    let locked = open.fetch(lock(database, &ids)).await?;
    ids = locked.iter().map(|row| row.get("topup_id")).collect::<Result<_, _>>()?;
    // Between the first check and the lock, an order may have got a notification.
    remove_kept(database, &mut open, &mut ids, now).await?;
    if ids.is_empty() {
        return Ok(0);
    }
    let mut deleted = 0;
    for delete in deletions(database, &ids) {
        deleted = open.execute(delete).await?;
    }
    let deleted = u32::try_from(deleted).unwrap_or(u32::MAX);
    if usize::try_from(deleted).is_ok_and(|deleted| deleted < ids.len()) {
        return Err(StoreError::NotStored("internet_orders"));
    }
    open.commit().await?;
    Ok(deleted)
}

/// Locks orders. SQLite excludes all other writers anyway. On PostgreSQL an order that another worker has locked is
/// skipped.
fn lock(database: &Database, ids: &[String]) -> Statement {
    let statement = of_orders(database, "SELECT topup_id FROM", "internet_orders", "", None, ids);
    match database {
        Database::Sqlite(_) => statement,
        Database::Postgres(_) => statement.followed_by(" FOR UPDATE SKIP LOCKED"),
    }
}

async fn remove_kept(
    database: &Database,
    open: &mut Transaction,
    ids: &mut Vec<String>,
    now: Timestamp,
) -> Result<(), StoreError> {
    if ids.is_empty() {
        return Ok(());
    }
    for select in keeps(database, ids, now) {
        let mut kept = HashSet::new();
        for row in open.fetch(select).await? {
            kept.insert(row.get::<String>("topup_id")?);
        }
        ids.retain(|topup_id| !kept.contains(topup_id));
    }
    Ok(())
}

/// Statements that select, from these orders, the ones that must be kept.
fn keeps(database: &Database, ids: &[String], now: Timestamp) -> [Statement; 3] {
    let select =
        |table, condition, now| of_orders(database, "SELECT topup_id FROM", table, condition, now, ids);
    [
        select("notifications", UNDELIVERED, None),
        select("events", UNACKNOWLEDGED, None),
        select("reveals", SHOWN, Some(now)),
    ]
}

pub(super) fn deletions(database: &Database, ids: &[String]) -> [Statement; 5] {
    TABLES.map(|(table, _)| of_orders(database, "DELETE FROM", table, "", None, ids))
}

/// A statement about the rows of these orders. `condition` is empty or ends with `AND`; `now` is the value of its `$1`,
/// if it has one. For SQLite the statement names the index, because SQLite would read the whole table if its statistics
/// are older than most rows.
fn of_orders(
    database: &Database,
    action: &str,
    table: &str,
    condition: &str,
    now: Option<Timestamp>,
    ids: &[String],
) -> Statement {
    let first = 1 + usize::from(now.is_some());
    let places: Vec<String> = (first..first + ids.len()).map(|number| format!("${number}")).collect();
    let index = TABLES.iter().find(|(known, _)| *known == table).map(|(_, index)| *index);
    let indexed = match (database, index) {
        (Database::Sqlite(_), Some(index)) => format!(" INDEXED BY {index}"),
        _ => String::new(),
    };
    let text = format!("{action} {table}{indexed} WHERE {condition}topup_id IN ({})", places.join(", "));
    let statement = now.into_iter().fold(sql_built(text), Statement::bind);
    ids.iter().fold(statement, |statement, topup_id| statement.bind(topup_id.as_str()))
}

/// The query plans, in the database's own format, of all statements that select and delete a page of these orders.
pub(super) async fn explain(
    database: &Database,
    before: Timestamp,
    ids: &[String],
) -> Result<Vec<String>, StoreError> {
    let select = sql(SELECT).bind(before).bind(Timestamp::UNIX_EPOCH).bind("").bind(100_u32);
    let mut statements = vec![select, lock(database, ids)];
    statements.extend(keeps(database, ids, before));
    statements.extend(deletions(database, ids));
    let mut plans = Vec::new();
    for statement in statements {
        plans.extend(database.explain(statement).await?);
    }
    Ok(plans)
}
