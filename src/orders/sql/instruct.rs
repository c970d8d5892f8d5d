//! Applies messages about known orders: update, check, correct and cancel.

use topup_jobs::{Instruction, InstructionKind, OrderStatus, Timestamp, TrackTopup};

use super::database::{Database, Transaction};
use super::statement::sql;
use super::{details, history, orders};
use crate::orders::history::{CANCELLED, CORRECTED};
use crate::orders::{Instructed, Occurrence, StoreError};

/// Applies an instruction; `None` if the order is not stored.
pub(super) async fn instruct(
    database: &Database,
    request: &TrackTopup,
    instruction: Instruction,
    now: Timestamp,
) -> Result<Option<Instructed>, StoreError> {
    let topup_id = &request.topup_id;
    let mut transaction = database.begin().await?;
    if instruction.tracked {
        // The order's own job was in a queue when the message arrived. It stores the order, but may not have run yet.
        orders::insert(&mut transaction, &TrackTopup::new(topup_id.clone()), now).await?;
    }
    let merged = details::merge(&mut transaction, request).await?;
    if !merged.changed.is_empty() {
        note(&mut transaction, request, &format!("{CORRECTED}: {}", merged.changed.join(", ")), now).await?;
    }
    let mut tracked_again = false;
    match instruction.kind {
        InstructionKind::Cancel if merged.newest => cancel(&mut transaction, request, now).await?,
        // Not for a correction (`tracks` is false), so a correction does not resume the tracking of an order.
        kind if kind.tracks() && merged.newest => {
            tracked_again = orders::take_up_again(&mut transaction, request, true, now).await?;
        }
        _ => {}
    }
    transaction.commit().await?;
    let order = orders::order(database, topup_id).await?;
    Ok(order.map(|order| Instructed { order, tracked_again }))
}

/// Ends the tracking of an order; a final or given-up order is not tracked and stays unchanged.
async fn cancel(open: &mut Transaction, request: &TrackTopup, now: Timestamp) -> Result<(), StoreError> {
    let update =
        sql("UPDATE internet_orders SET next_check_at = NULL, cancelled_at = $1, version = version + 1
         WHERE topup_id = $2 AND next_check_at IS NOT NULL AND status NOT IN ('FULFILLED', 'REFUNDED')
         RETURNING topup_id");
    let tracked = sql("SELECT topup_id FROM internet_orders
         WHERE topup_id = $1 AND next_check_at IS NOT NULL AND status NOT IN ('FULFILLED', 'REFUNDED')");
    let tracked = tracked.bind(request.topup_id.as_str());
    let update = update.bind(now).bind(request.topup_id.as_str());
    if open.change_if("internet_orders", update, tracked).await?.is_some() {
        note(open, request, CANCELLED, now).await?;
    }
    Ok(())
}

/// Adds a message's effect to the history: the cancellation, or the names of the changed details without their values.
async fn note(
    open: &mut Transaction,
    request: &TrackTopup,
    cause: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    let select = sql("SELECT status, next_check_at FROM internet_orders WHERE topup_id = $1");
    let Some(row) = open.fetch_optional(select.bind(request.topup_id.as_str())).await? else { return Ok(()) };
    let status: OrderStatus = row.parse("status")?;
    let what = Occurrence::Changed {
        cause: cause.to_owned(),
        before: Some(status),
        after: status,
        next_check_at: row.get("next_check_at")?,
        polls: 0,
        given_up: None,
        error: None,
    };
    history::add(open, &request.topup_id, now, what).await
}
