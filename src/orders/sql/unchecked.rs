//! The search for orders that should have been looked at. There may be tens of thousands, so it goes on from where it was.

use topup_jobs::{JobName, OrderStatus, Timestamp, TopupId};

use super::database::Database;
use super::statement::{Row, sql};
use crate::orders::{Behind, StoreError, Unchecked};

pub(super) async fn orders(
    database: &Database,
    job: JobName,
    before: Timestamp,
    behind: Option<&Behind>,
    most: u32,
) -> Result<Unchecked, StoreError> {
    // Each has an index of its own, for which the status must stand in the statement.
    let select = sql(match job {
        JobName::PollTopup => {
            "SELECT topup_id, status, next_check_at FROM internet_orders
             WHERE next_check_at IS NOT NULL AND status = 'HANDLING' AND next_check_at < $1
                 AND (next_check_at, topup_id) > ($2, $3)
             ORDER BY next_check_at, topup_id LIMIT $4"
        }
        _ => {
            "SELECT topup_id, status, next_check_at FROM internet_orders
             WHERE next_check_at IS NOT NULL AND status <> 'HANDLING' AND next_check_at < $1
                 AND (next_check_at, topup_id) > ($2, $3)
             ORDER BY next_check_at, topup_id LIMIT $4"
        }
    });
    let (at, topup_id) =
        behind.map_or((Timestamp::UNIX_EPOCH, ""), |behind| (behind.next_check_at, behind.topup_id.as_str()));
    let rows = database.fetch(select.bind(before).bind(at).bind(topup_id).bind(most)).await?;
    let is_full = u32::try_from(rows.len()).is_ok_and(|found| found >= most);
    let behind = rows.last().filter(|_| is_full).map(position).transpose()?;
    let orders =
        rows.iter().filter_map(|row| read(row).map_err(|error| left_out(row, &error)).ok()).collect();
    Ok(Unchecked { orders, behind })
}

fn position(row: &Row) -> Result<Behind, StoreError> {
    Ok(Behind { next_check_at: row.get("next_check_at")?, topup_id: row.get("topup_id")? })
}

fn read(row: &Row) -> Result<(TopupId, OrderStatus), StoreError> {
    Ok((row.parse("topup_id")?, row.parse("status")?))
}

/// Logs that this row is left out. The id is logged only if it is a valid one.
pub(super) fn left_out(row: &Row, error: &StoreError) {
    let topup_id = row.parse::<TopupId>("topup_id").ok();
    let topup_id = topup_id.as_ref().map_or("unknown", TopupId::as_str);
    tracing::warn!(order.id = topup_id, %error, "a row of the database is left out: what it holds cannot be read");
}
