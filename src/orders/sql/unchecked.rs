//! The searches for what a queue should hold: orders that should have been checked, and orders that are dead letters.
//! There may be tens of thousands, so each goes on from where it was, along an index.

use topup_jobs::{JobName, Timestamp, TopupId};

use super::database::Database;
use super::statement::{Row, sql};
use crate::orders::{Behind, GivenUpOrder, Page, StoreError, UncheckedOrder};

// Each has an index of its own, for which the status must stand in the statement.
pub(super) const POLLED: &str =
    "SELECT topup_id, status, tracked_at, next_check_at, failed_attempts FROM internet_orders
     WHERE next_check_at IS NOT NULL AND status = 'HANDLING' AND next_check_at < $1
         AND (next_check_at, topup_id) > ($2, $3)
     ORDER BY next_check_at, topup_id LIMIT $4";
pub(super) const RECHECKED: &str =
    "SELECT topup_id, status, tracked_at, next_check_at, failed_attempts FROM internet_orders
     WHERE next_check_at IS NOT NULL AND status <> 'HANDLING' AND next_check_at < $1
         AND (next_check_at, topup_id) > ($2, $3)
     ORDER BY next_check_at, topup_id LIMIT $4";
pub(super) const GIVEN_UP: &str =
    "SELECT topup_id, status, given_up, given_up_at, failed_attempts, last_error FROM internet_orders
     WHERE given_up IS NOT NULL AND (given_up_at, topup_id) > ($1, $2)
     ORDER BY given_up_at, topup_id LIMIT $3";

pub(super) async fn orders(
    database: &Database,
    job: JobName,
    before: Timestamp,
    behind: Option<&Behind>,
    most: u32,
) -> Result<Page<UncheckedOrder>, StoreError> {
    let select = sql(match job {
        JobName::PollTopup => POLLED,
        _ => RECHECKED,
    });
    let (at, topup_id) = position(behind);
    let rows = database.fetch(select.bind(before).bind(at).bind(topup_id).bind(most)).await?;
    page(&rows, most, |row| last(row, "next_check_at"), unchecked)
}

pub(super) async fn given_up(
    database: &Database,
    behind: Option<&Behind>,
    most: u32,
) -> Result<Page<GivenUpOrder>, StoreError> {
    let select = sql(GIVEN_UP);
    let (at, topup_id) = position(behind);
    let rows = database.fetch(select.bind(at).bind(topup_id).bind(most)).await?;
    page(
        &rows,
        most,
        |row| last(row, "given_up_at"),
        |row| {
            Ok(GivenUpOrder {
                topup_id: row.parse("topup_id")?,
                status: row.parse("status")?,
                reason: row.get("given_up")?,
                at: row.get("given_up_at")?,
                failed_attempts: row.count("failed_attempts")?,
                last_error: row.get("last_error")?,
            })
        },
    )
}

fn unchecked(row: &Row) -> Result<UncheckedOrder, StoreError> {
    Ok(UncheckedOrder {
        topup_id: row.parse("topup_id")?,
        status: row.parse("status")?,
        tracked_at: row.get("tracked_at")?,
        next_check_at: row.get("next_check_at")?,
        failed_attempts: row.count("failed_attempts")?,
    })
}

/// The values behind which a search goes on.
pub(super) fn position(behind: Option<&Behind>) -> (Timestamp, &str) {
    behind.map_or((Timestamp::UNIX_EPOCH, ""), |behind| (behind.at, behind.topup_id.as_str()))
}

/// Where a search goes on that has this time in this column of its last row.
pub(super) fn last(row: &Row, at: &'static str) -> Result<Behind, StoreError> {
    Ok(Behind { at: row.get(at)?, topup_id: row.get("topup_id")? })
}

/// The rows as what they stand for, and where the search goes on where there may be more.
pub(super) fn page<T, B>(
    rows: &[Row],
    most: u32,
    last: impl FnOnce(&Row) -> Result<B, StoreError>,
    read: impl Fn(&Row) -> Result<T, StoreError>,
) -> Result<Page<T, B>, StoreError> {
    let is_full = u32::try_from(rows.len()).is_ok_and(|found| found >= most);
    let behind = rows.last().filter(|_| is_full).map(last).transpose()?;
    let found = rows.iter().filter_map(|row| read(row).map_err(|error| left_out(row, &error)).ok()).collect();
    Ok(Page { found, behind })
}

/// Logs that this row is left out. The id is logged only if it is a valid one.
fn left_out(row: &Row, error: &StoreError) {
    let topup_id = row.parse::<TopupId>("topup_id").ok();
    let topup_id = topup_id.as_ref().map_or("unknown", TopupId::as_str);
    tracing::warn!(order.id = topup_id, %error, "a row of the database is left out: what it holds cannot be read");
}
