//! Deletes orders that ended long ago, with all their rows. An order with an undelivered notification, or an incident
//! that no receiver has been notified of, is kept until the notification is delivered or the operator discards it.
//!
//! Each call examines the next orders along the index of their end times. Its cursor also passes kept orders, so that
//! kept orders neither block later ones nor are examined again by the next call.

use topup_jobs::Timestamp;

use super::database::Database;
use super::statement::sql;
use super::unchecked::{last, position};
use crate::orders::{Behind, Deleted, StoreError};

const DELETE_ROWS: [&str; 4] = [
    "DELETE FROM reveals WHERE topup_id = $1",
    "DELETE FROM notifications WHERE topup_id = $1",
    "DELETE FROM events WHERE topup_id = $1",
    "DELETE FROM order_events WHERE topup_id = $1",
];
const DELETE_ORDER: &str = "DELETE FROM internet_orders WHERE topup_id = $1";

/// SQL condition: the order `ended` has an undelivered notification, or an incident that no receiver was notified of.
/// Refused and failed notifications count as undelivered, except on the stream and the log, which get no card. The
/// stream notifies no person, so it is not a receiver. An event without a channel has notified no receiver.
macro_rules! unacknowledged {
    () => {
        "(EXISTS (SELECT 1 FROM notifications notification
             WHERE notification.topup_id = ended.topup_id AND (notification.status = 'pending'
                 OR (notification.status IN ('failed', 'refused') AND notification.channel NOT IN ('events', 'log'))))
         OR EXISTS (SELECT 1 FROM events incident
             WHERE incident.topup_id = ended.topup_id AND NOT incident.closed
                 AND (incident.outcome = 'unresolved'
                     OR (incident.outcome = 'undelivered' AND incident.about LIKE '%:none'))
                 AND NOT EXISTS (SELECT 1 FROM notifications notification
                     WHERE notification.event_id = incident.event_id AND notification.channel <> 'events'
                         AND notification.status IN ('sent', 'discarded'))))"
    };
}

/// Selects the next orders by their end time, with `is_kept` for each. The rows are not sorted.
pub(super) const SELECT: &str = concat!(
    "SELECT topup_id, ended_at, (",
    unacknowledged!(),
    " OR EXISTS (SELECT 1 FROM reveals
             WHERE reveals.topup_id = ended.topup_id AND revealed_at IS NULL AND expires_at > $5)) AS is_kept
         FROM (SELECT topup_id, coalesce(fulfilled_at, refunded_at) AS ended_at FROM internet_orders
             WHERE status IN ('FULFILLED', 'REFUNDED') AND coalesce(fulfilled_at, refunded_at) < $1
                 AND coalesce(fulfilled_at, refunded_at) >= $2
                 AND (coalesce(fulfilled_at, refunded_at) > $2 OR topup_id > $3)
             ORDER BY coalesce(fulfilled_at, refunded_at), topup_id LIMIT $4) ended"
);

pub(super) async fn delete_ended(
    database: &Database,
    before: Timestamp,
    now: Timestamp,
    behind: Option<&Behind>,
    most: u32,
) -> Result<Deleted, StoreError> {
    let select = sql(SELECT);
    let (at, topup_id) = position(behind);
    let select = select.bind(before).bind(at).bind(topup_id).bind(most).bind(now);
    let rows = database.fetch(select).await?;
    let is_full = u32::try_from(rows.len()).is_ok_and(|found| found >= most);
    let (mut ids, mut furthest) = (Vec::new(), None);
    for row in &rows {
        let Behind { at, topup_id } = last(row, "ended_at")?;
        furthest = furthest.max(Some((at, topup_id)));
        if !row.get::<bool>("is_kept")? {
            ids.push(row.get::<String>("topup_id")?);
        }
    }
    let behind = furthest.filter(|_| is_full).map(|(at, topup_id)| Behind { at, topup_id });
    // Several workers may delete the same orders. Locking the orders in the sequence of their ids prevents deadlocks.
    ids.sort_unstable();
    let orders = if ids.is_empty() { 0 } else { delete(database, &ids).await? };
    Ok(Deleted { orders, behind })
}

/// Deletes these orders and returns how many. Skips orders deleted meanwhile or kept by a new notification.
async fn delete(database: &Database, ids: &[String]) -> Result<u32, StoreError> {
    let mut transaction = database.begin().await?;
    let mut deleted = 0;
    for topup_id in ids {
        // Locks the order, and checks again that no notification or incident keeps it.
        let claim = sql(concat!(
            "UPDATE internet_orders AS ended SET version = version + 1 WHERE ended.topup_id = $1 AND NOT ",
            unacknowledged!()
        ));
        if transaction.execute(claim.bind(topup_id.as_str())).await? == 0 {
            continue;
        }
        for delete in DELETE_ROWS {
            transaction.execute(sql(delete).bind(topup_id.as_str())).await?;
        }
        transaction.change("internet_orders", sql(DELETE_ORDER).bind(topup_id.as_str())).await?;
        deleted += 1;
    }
    transaction.commit().await?;
    Ok(deleted)
}
