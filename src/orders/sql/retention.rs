//! Deletes orders that ended long ago, with all that belongs to them. What was not delivered, and what no receiver
//! knows of, is kept until it is delivered or the operator discards it.
//!
//! The search goes along the index of the ends of orders and looks at so many orders a call, whether they may be
//! deleted or not: orders that are kept neither hide those behind them nor are all looked at again and again.

use topup_jobs::Timestamp;

use super::database::Database;
use super::statement::sql;
use super::unchecked::{last, position};
use crate::orders::{Behind, Deleted, StoreError};

/// What holds a deletable order's rows, the ones that refer to others first.
const DELETE: [&str; 5] = [
    "DELETE FROM reveals WHERE topup_id = $1",
    "DELETE FROM notifications WHERE topup_id = $1",
    "DELETE FROM events WHERE topup_id = $1",
    "DELETE FROM order_events WHERE topup_id = $1",
    "DELETE FROM internet_orders WHERE topup_id = $1",
];

/// Whether something of the order `ended` is still to be delivered or acknowledged. Notifications that were refused
/// or failed are dead letters, except those of the stream and the log, which get no card. An incident that
/// only the stream reported counts too: no person has seen it. So does an event that no channel could deliver: it has
/// no notification that could.
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

/// The next ones of the longest ended orders, in no order, and whether they are kept.
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
    // Every worker finds the same ones; in the order of their ids none waits for another in a circle.
    ids.sort_unstable();
    let orders = if ids.is_empty() { 0 } else { delete(database, &ids).await? };
    Ok(Deleted { orders, behind })
}

/// Deletes these orders, unless they are gone, or one has a pending notification by now.
async fn delete(database: &Database, ids: &[String]) -> Result<u32, StoreError> {
    let mut transaction = database.begin().await?;
    let mut deleted = 0;
    for topup_id in ids {
        // Takes hold of the order, and looks again.
        let claim = sql(concat!(
            "UPDATE internet_orders AS ended SET version = version + 1 WHERE ended.topup_id = $1 AND NOT ",
            unacknowledged!()
        ));
        if transaction.execute(claim.bind(topup_id.as_str())).await? == 0 {
            continue;
        }
        for delete in DELETE {
            transaction.execute(sql(delete).bind(topup_id.as_str())).await?;
        }
        deleted += 1;
    }
    transaction.commit().await?;
    Ok(deleted)
}
