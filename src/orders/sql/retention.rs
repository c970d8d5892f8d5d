//! Deletes orders that ended long ago, with all that belongs to them. A card that a receiver did not get is kept until
//! it is delivered or the operator discards its notification; the stream and the log get no card.

use topup_jobs::Timestamp;

use super::database::Database;
use super::statement::sql;
use crate::orders::StoreError;

/// What holds a deletable order's rows, the ones that refer to others first.
const DELETE: [&str; 5] = [
    "DELETE FROM reveals WHERE topup_id = $1",
    "DELETE FROM notifications WHERE topup_id = $1",
    "DELETE FROM events WHERE topup_id = $1",
    "DELETE FROM order_events WHERE topup_id = $1",
    "DELETE FROM internet_orders WHERE topup_id = $1",
];

pub(super) async fn delete_ended(
    database: &Database,
    before: Timestamp,
    now: Timestamp,
    most: u32,
) -> Result<u32, StoreError> {
    // The longest ended first. Every worker finds the same ones; in the order of their ids none waits for
    // another in a circle.
    let select = sql("SELECT topup_id FROM (
             SELECT topup_id FROM internet_orders ended
             WHERE status IN ('FULFILLED', 'REFUNDED') AND coalesce(fulfilled_at, refunded_at) < $1
                 AND NOT EXISTS (SELECT 1 FROM notifications told
                     WHERE told.topup_id = ended.topup_id AND (told.status = 'pending'
                         OR (told.outcome = 'fulfilled' AND told.status IN ('failed', 'refused')
                             AND told.channel NOT IN ('events', 'log'))))
                 AND NOT EXISTS (SELECT 1 FROM reveals
                     WHERE reveals.topup_id = ended.topup_id AND revealed_at IS NULL AND expires_at > $2)
             ORDER BY coalesce(fulfilled_at, refunded_at) LIMIT $3) longest
         ORDER BY topup_id")
    .bind(before)
    .bind(now)
    .bind(most);
    let rows = database.fetch(select).await?;
    if rows.is_empty() {
        return Ok(0);
    }
    let mut transaction = database.begin().await?;
    let mut deleted = 0;
    for row in rows {
        let topup_id: String = row.get("topup_id")?;
        // Takes hold of the order, and looks again: another worker may have deleted it, or had something
        // new to tell of it.
        let claim = sql("UPDATE internet_orders SET version = version + 1
             WHERE topup_id = $1 AND NOT EXISTS (SELECT 1 FROM notifications told
                 WHERE told.topup_id = $1 AND (told.status = 'pending'
                     OR (told.outcome = 'fulfilled' AND told.status IN ('failed', 'refused')
                         AND told.channel NOT IN ('events', 'log'))))");
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
