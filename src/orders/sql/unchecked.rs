//! Searches for orders that a queue should hold: those with an overdue check, and dead letters. There may be tens of
//! thousands, so each search uses an index and continues from a cursor.

use topup_jobs::{JobName, Timestamp, TopupId};

use super::database::Database;
use super::statement::{Row, sql};
use crate::orders::{Behind, GivenUpOrder, Page, StoreError, UncheckedOrder};

// Each statement has its own partial index, so it must contain the index's condition literally.
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
    page(&rows, most, |row| last(row, "given_up_at"), read_given_up)
}

/// The dead letter of this order.
pub(super) async fn given_up_order(
    database: &Database,
    topup_id: &TopupId,
) -> Result<Option<GivenUpOrder>, StoreError> {
    let select = sql(
        "SELECT topup_id, status, given_up, given_up_at, failed_attempts, last_error FROM internet_orders
         WHERE given_up IS NOT NULL AND topup_id = $1",
    );
    database.fetch_optional(select.bind(topup_id.as_str())).await?.as_ref().map(read_given_up).transpose()
}

fn read_given_up(row: &Row) -> Result<GivenUpOrder, StoreError> {
    Ok(GivenUpOrder {
        topup_id: row.parse("topup_id")?,
        status: row.parse("status")?,
        reason: row.get("given_up")?,
        at: row.get("given_up_at")?,
        failed_attempts: row.count("failed_attempts")?,
        last_error: row.get("last_error")?,
    })
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

/// The values of a cursor; without a cursor, values that sort before all rows.
pub(super) fn position(behind: Option<&Behind>) -> (Timestamp, &str) {
    behind.map_or((Timestamp::UNIX_EPOCH, ""), |behind| (behind.at, behind.topup_id.as_str()))
}

/// The cursor that continues after this row; `at` names the column with the row's time.
pub(super) fn last(row: &Row, at: &'static str) -> Result<Behind, StoreError> {
    Ok(Behind { at: row.get(at)?, topup_id: row.get("topup_id")? })
}

/// Reads the rows into a page. A page of `most` rows gets a cursor, because more rows may follow.
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

/// Logs that a row is skipped. Its order id is logged only if the id is valid.
fn left_out(row: &Row, error: &StoreError) {
    let topup_id = row.parse::<TopupId>("topup_id").ok();
    let topup_id = topup_id.as_ref().map_or("unknown", TopupId::as_str);
    tracing::warn!(order.id = topup_id, %error, "a stored row of this order cannot be read and is skipped");
}
