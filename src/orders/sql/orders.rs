//! The table `internet_orders`: the orders with their tracking state and encrypted cards.

use std::collections::HashMap;

use topup_jobs::{
    Card, NotifyCustomer, OrderStatus, Secret, Timestamp, TopupId, TopupType, TrackTopup, Tracking,
};

use super::batches::BatchRead;
use super::database::{Database, Transaction};
use super::statement::{Row, Statement, Values, sql, sql_built, sql_with_rows};
use super::{details, events, history, json, notifications, read_json};
use crate::orders::history::HANDED_OVER;
use crate::orders::{Applied, CardCipher, Change, Occurrence, Order, StoreError, contact};

const TABLE: &str = "internet_orders";

pub(super) async fn track(
    database: &Database,
    request: &TrackTopup,
    now: Timestamp,
) -> Result<Order, StoreError> {
    // Only the first job after a message carries the message's id. Later jobs add nothing and need no transaction.
    if request.message_id.is_none()
        && let Some(order) = order(database, &request.topup_id).await?
        && !adds(request, &order)
    {
        return Ok(order);
    }
    let mut transaction = database.begin().await?;
    let order = if let Some(order) = insert(&mut transaction, request, now).await? {
        order
    } else {
        let merged = details::merge(&mut transaction, request).await?;
        take_up_again(&mut transaction, request, merged.newest, now).await?;
        if request.message_id.is_some() {
            begin(&mut transaction, &request.topup_id, now).await?;
        }
        let row = transaction.fetch_optional(select(&request.topup_id)).await?;
        read(&row.ok_or(StoreError::NotStored(TABLE))?)?
    };
    transaction.commit().await?;
    Ok(order)
}

/// Whether a request without a message adds a missing detail to an order, or resumes its tracking.
pub(super) fn adds(request: &TrackTopup, order: &Order) -> bool {
    let adds_details = (order.topup_ref.is_none() && request.topup_ref.is_some())
        || (order.retry.is_none() && request.retry.is_some())
        || (order.customer.is_none() && request.customer.is_some())
        || (order.metadata.is_none() && request.metadata.is_some())
        || (order.callback_url.is_none() && request.callback_url.is_some());
    let given_up = order.tracking.next_check_at.is_none() && !order.tracking.status.is_final();
    let known_given_up = order.given_up.is_some() || order.discarded;
    let repeated = order.cancelled_at.is_some()
        || (known_given_up && request.tracked_at == Some(order.tracking.tracked_at));
    adds_details || (given_up && !repeated)
}

/// Stores the order if it is new, and returns it then.
pub(super) async fn insert(
    open: &mut Transaction,
    request: &TrackTopup,
    now: Timestamp,
) -> Result<Option<Order>, StoreError> {
    let stored =
        sql("SELECT topup_id FROM internet_orders WHERE topup_id = $1").bind(request.topup_id.as_str());
    let insert = sql_with_rows(&insert_text(), vec![new_row(request, now)]);
    let Some(row) = open.insert(TABLE, insert, stored).await? else { return Ok(None) };
    history::add(open, &request.topup_id, now, handed_over(None, &Tracking::new(now))).await?;
    read(&row).map(Some)
}

/// Inserts new orders and returns them in [`COLUMNS`]. Leaves stored orders as they are, and does not return them.
pub(super) fn insert_text() -> String {
    format!(
        "INSERT INTO internet_orders (topup_id, topup_ref, customer, metadata, callback_url, message_id, retry, status,
             tracked_at, polling_since, next_check_at, overdue, contact_email, contact_phone, polls, delays, not_found,
             version)
         VALUES {{rows}} ON CONFLICT (topup_id) DO NOTHING RETURNING {COLUMNS}"
    )
}

/// The row of a new order, for [`insert_text`].
pub(super) fn new_row(request: &TrackTopup, now: Timestamp) -> Values {
    let new = Tracking::new(now);
    let (email, phone) = contact::of(request.customer.as_ref());
    vec![
        request.topup_id.as_str().into(),
        request.topup_ref.as_deref().into(),
        request.customer.as_ref().map(json).into(),
        request.metadata.as_ref().map(json).into(),
        request.callback_url.as_ref().map(Secret::reveal).into(),
        request.message_id.as_deref().into(),
        request.retry.as_ref().map(json).into(),
        new.status.as_str().into(),
        new.tracked_at.into(),
        new.polling_since.into(),
        new.next_check_at.into(),
        new.overdue.into(),
        email.into(),
        phone.into(),
        0_u32.into(),
        0_u32.into(),
        0_u32.into(),
        0_u32.into(),
    ]
}

/// If the order was never checked, sets the start of its tracking to `now`, as it may have been stored long before.
async fn begin(open: &mut Transaction, topup_id: &TopupId, now: Timestamp) -> Result<(), StoreError> {
    let update = sql("UPDATE internet_orders SET tracked_at = $1, polling_since = $1, next_check_at = $1
         WHERE topup_id = $2 AND next_check_at IS NOT NULL AND last_checked_at IS NULL AND last_error IS NULL
             AND polls = 0 AND delays = 0 AND not_found = 0");
    open.execute(update.bind(now).bind(topup_id.as_str())).await.map(drop)
}

/// Tracks a given-up or cancelled order from the beginning again; returns whether it did. A cancelled order needs a
/// newer message. For a given-up order, the job that gave it up changes nothing if it runs again because it was not
/// settled. But if an earlier version of this program gave the order up, that job is not recognised and tracks it anew.
/// Only a newer message closes incidents; otherwise they stay open, so that no outcome is reported twice.
pub(super) async fn take_up_again(
    open: &mut Transaction,
    request: &TrackTopup,
    by_a_newer_message: bool,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let select = sql("SELECT status, tracked_at, given_up, discarded, cancelled_at FROM internet_orders
         WHERE topup_id = $1 AND next_check_at IS NULL AND status NOT IN ('FULFILLED', 'REFUNDED')");
    let select = select.bind(request.topup_id.as_str());
    let Some(row) = open.fetch_optional(select).await? else { return Ok(false) };
    let known_given_up = row.get::<Option<String>>("given_up")?.is_some() || row.get::<bool>("discarded")?;
    let of_its_message = request.message_id.is_some() && !by_a_newer_message;
    let of_this_tracking = request.tracked_at == Some(row.get("tracked_at")?);
    let is_cancelled = row.get::<Option<Timestamp>>("cancelled_at")?.is_some();
    if (known_given_up && (of_its_message || of_this_tracking)) || (is_cancelled && !by_a_newer_message) {
        return Ok(false);
    }
    let before = row.parse("status")?;
    let new = Tracking::new(now);
    begin_again(open, &request.topup_id, before, &new).await?;
    if by_a_newer_message {
        events::close_incidents(open, &request.topup_id).await?;
    }
    history::add(open, &request.topup_id, now, handed_over(Some(before), &new)).await?;
    Ok(true)
}

/// Resets the tracking of an order that the transaction has locked; `before` is the order's status.
async fn begin_again(
    open: &mut Transaction,
    topup_id: &TopupId,
    before: OrderStatus,
    new: &Tracking,
) -> Result<(), StoreError> {
    let update = sql(
        "UPDATE internet_orders SET status = $1, tracked_at = $2, polling_since = $2, next_check_at = $3,
             overdue = $4, polls = 0, scheduled_at = NULL, delays = 0, not_found = 0, failed_attempts = 0,
             given_up = NULL, given_up_at = NULL, discarded = $5, cancelled_at = NULL, version = version + 1
         WHERE topup_id = $6 AND status = $7",
    )
    .bind(new.status.as_str())
    .bind(new.polling_since)
    .bind(new.next_check_at)
    .bind(new.overdue)
    .bind(false)
    .bind(topup_id.as_str())
    .bind(before.as_str());
    open.change(TABLE, update).await
}

pub(super) async fn replay(
    database: &Database,
    topup_id: &TopupId,
    reason: &str,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let mut transaction = database.begin().await?;
    let Some(before) = not_final(&mut transaction, topup_id).await? else { return Ok(false) };
    let new = Tracking::new(now);
    begin_again(&mut transaction, topup_id, before, &new).await?;
    events::close_incidents(&mut transaction, topup_id).await?;
    let occurrence = changed(reason, Some(before), &new, None);
    history::add(&mut transaction, topup_id, now, occurrence).await?;
    transaction.commit().await?;
    Ok(true)
}

pub(super) async fn discard(
    database: &Database,
    topup_id: &TopupId,
    reason: &str,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let mut transaction = database.begin().await?;
    let Some(before) = not_final(&mut transaction, topup_id).await? else { return Ok(false) };
    let update = sql("UPDATE internet_orders SET next_check_at = NULL, given_up = NULL, given_up_at = NULL,
             discarded = $1, version = version + 1
         WHERE topup_id = $2 AND status = $3 AND NOT discarded AND cancelled_at IS NULL")
    .bind(true)
    .bind(topup_id.as_str())
    .bind(before.as_str());
    if transaction.execute(update).await? == 0 {
        return Ok(false);
    }
    let record = Tracking { status: before, next_check_at: None, ..Tracking::new(now) };
    history::add(&mut transaction, topup_id, now, changed(reason, Some(before), &record, None)).await?;
    transaction.commit().await?;
    Ok(true)
}

/// Locks an order and returns its status; `None` if the order is final or unknown.
async fn not_final(open: &mut Transaction, topup_id: &TopupId) -> Result<Option<OrderStatus>, StoreError> {
    let hold = sql("UPDATE internet_orders SET topup_id = topup_id
         WHERE topup_id = $1 AND status NOT IN ('FULFILLED', 'REFUNDED') RETURNING status");
    let row = open.fetch_optional(hold.bind(topup_id.as_str())).await?;
    row.map(|row| row.parse("status")).transpose()
}

pub(super) async fn note_given_up(
    database: &Database,
    topup_id: &TopupId,
    reason: &str,
    at: Timestamp,
) -> Result<bool, StoreError> {
    let update = sql("UPDATE internet_orders SET given_up = $1, given_up_at = $2, version = version + 1
         WHERE topup_id = $3 AND next_check_at IS NULL AND status NOT IN ('FULFILLED', 'REFUNDED')
             AND given_up IS NULL AND NOT discarded AND cancelled_at IS NULL")
    .bind(reason)
    .bind(at)
    .bind(topup_id.as_str());
    let mut transaction = database.begin().await?;
    let noted = transaction.execute(update).await? > 0;
    transaction.commit().await?;
    Ok(noted)
}

pub(super) fn handed_over(before: Option<OrderStatus>, record: &Tracking) -> Occurrence {
    changed(HANDED_OVER, before, record, None)
}

fn changed(
    cause: &str,
    before: Option<OrderStatus>,
    record: &Tracking,
    given_up: Option<&str>,
) -> Occurrence {
    Occurrence::Changed {
        cause: cause.to_owned(),
        before,
        after: record.status,
        next_check_at: record.next_check_at,
        polls: record.polls,
        given_up: given_up.map(str::to_owned),
        error: record.last_error.clone(),
    }
}

pub(super) async fn order(database: &Database, topup_id: &TopupId) -> Result<Option<Order>, StoreError> {
    database.fetch_optional(select(topup_id)).await?.map(|row| read(&row)).transpose()
}

/// Selects orders for [`read`]. `CROSS JOIN` makes SQLite begin with the few given orders.
pub(super) fn select_text() -> String {
    format!(
        "SELECT {COLUMNS} FROM (VALUES {{rows}}) AS new CROSS JOIN internet_orders WHERE topup_id = new.column1"
    )
}

/// A read of an order in a batch.
pub(super) struct ReadOrder(TopupId);

impl ReadOrder {
    pub(super) fn of(topup_id: &TopupId) -> Self {
        Self(topup_id.clone())
    }
}

impl BatchRead for ReadOrder {
    type Done = Order;

    async fn read(database: &Database, batch: Vec<Self>) -> Result<Vec<Option<Order>>, StoreError> {
        let rows = batch.iter().map(|read| vec![read.0.as_str().into()]).collect();
        // A row that cannot be read is read again alone by its caller, which gets the error.
        let found = database.fetch_rows(&select_text(), rows).await?;
        let mut found: HashMap<TopupId, Order> = found
            .iter()
            .filter_map(|row| read(row).ok())
            .map(|order| (order.topup_id.clone(), order))
            .collect();
        Ok(batch.iter().map(|read| found.remove(&read.0)).collect())
    }
}

/// Selects an order for [`read`].
pub(super) fn select(topup_id: &TopupId) -> Statement {
    let select = sql_built(format!("SELECT {COLUMNS} FROM internet_orders WHERE topup_id = $1"));
    select.bind(topup_id.as_str())
}

/// The columns that [`read`] reads.
pub(super) const COLUMNS: &str = "topup_id, topup_ref, type, number, topup_amount, customer, metadata, callback_url,
     retry, status, tracked_at, polling_since, polls, last_checked_at, next_check_at, scheduled_at, fulfilled_at, refunded_at,
     delays, not_found, overdue, failed_attempts, last_error, given_up, discarded, cancelled_at, version";

/// Reads an order from a row with [`COLUMNS`].
pub(super) fn read(row: &Row) -> Result<Order, StoreError> {
    let text = |column| row.get::<Option<String>>(column);
    Ok(Order {
        topup_id: row.parse("topup_id")?,
        topup_ref: text("topup_ref")?,
        kind: text("type")?.map(TopupType::from),
        number: text("number")?.map(Secret::new),
        topup_amount: row.get("topup_amount")?,
        customer: text("customer")?.map(|text| read_json(&text, "customer")).transpose()?,
        metadata: text("metadata")?.map(|text| read_json(&text, "metadata")).transpose()?,
        callback_url: text("callback_url")?.map(Secret::new),
        retry: text("retry")?.map(|text| read_json(&text, "retry")).transpose()?,
        tracking: Tracking {
            status: row.parse("status")?,
            tracked_at: row.get("tracked_at")?,
            polling_since: row.get("polling_since")?,
            polls: row.count("polls")?,
            last_checked_at: row.get("last_checked_at")?,
            next_check_at: row.get("next_check_at")?,
            scheduled_at: row.get("scheduled_at")?,
            fulfilled_at: row.get("fulfilled_at")?,
            refunded_at: row.get("refunded_at")?,
            delays: row.count("delays")?,
            not_found: row.count("not_found")?,
            overdue: row.get("overdue")?,
            failed_attempts: row.count("failed_attempts")?,
            last_error: text("last_error")?,
        },
        given_up: text("given_up")?,
        discarded: row.get("discarded")?,
        cancelled_at: row.get("cancelled_at")?,
        version: row.get("version")?,
    })
}

/// Applies a change; also returns the order's pending notifications.
pub(super) async fn apply(
    database: &Database,
    cipher: Option<&CardCipher>,
    change: Change<'_>,
) -> Result<(Applied, Vec<NotifyCustomer>), StoreError> {
    let order = change.order;
    let topup_id = &order.topup_id;
    if *change.record == change.order.tracking && change.event.is_none() {
        let rows = database.fetch(notifications::select_of(topup_id)).await?;
        return Ok((Applied::Stored, notifications::pending(topup_id, &rows)?));
    }
    let mut transaction = database.begin().await?;
    let applied = apply_in(&mut transaction, cipher, change).await?;
    if applied == Applied::Conflict {
        return Ok((applied, Vec::new()));
    }
    let rows = transaction.fetch(notifications::select_of(topup_id)).await?;
    let pending = notifications::pending(topup_id, &rows)?;
    transaction.commit().await?;
    Ok((applied, pending))
}

/// As [`apply`], in an open transaction.
pub(super) async fn apply_in(
    transaction: &mut Transaction,
    cipher: Option<&CardCipher>,
    change: Change<'_>,
) -> Result<Applied, StoreError> {
    let (before, record) = (&change.order.tracking, change.record);
    let topup_id = &change.order.topup_id;
    if record != before {
        let unchanged = sql("SELECT topup_id FROM internet_orders
             WHERE topup_id = $1 AND version = $2 AND status NOT IN ('FULFILLED', 'REFUNDED')");
        let unchanged = unchanged.bind(topup_id.as_str()).bind(change.order.version);
        let card_code = card_code(cipher, &change)?;
        let update = sql_with_rows(UPDATE, vec![update_row(&change, card_code.as_deref())]);
        let Some(row) = transaction.change_if(TABLE, update, unchanged).await? else {
            return Ok(Applied::Conflict);
        };
        must_be_updated(&row, record.status.as_str(), card_code.as_deref())?;
        history::add_all(transaction, history_row(&change).into_iter().collect()).await?;
    }
    let Some(event) = &change.event else { return Ok(Applied::Stored) };
    if !events::insert(transaction, topup_id, event).await? {
        return Ok(Applied::Repeated);
    }
    // `RETURNING` does not show what a trigger does after the statement. An event must not be sent without its card.
    if card_of(&change).is_some() && !has_card_in(transaction, topup_id).await? {
        return Err(StoreError::NotStored(TABLE));
    }
    Ok(Applied::Stored)
}

/// Whether the history records this change. Fast polls that only move the next check are not recorded.
fn is_recorded(before: &Tracking, record: &Tracking) -> bool {
    let rescheduled = before.next_check_at != record.next_check_at;
    let polled = record.status == OrderStatus::Handling && record.next_check_at.is_some();
    before.status != record.status || (rescheduled && !polled)
}

pub(super) fn card_of<'a>(change: &Change<'a>) -> Option<&'a Card> {
    let card = change.seen.and_then(|seen| seen.card.as_ref());
    card.filter(|_| change.record.status == OrderStatus::Fulfilled)
}

pub(super) fn card_code(
    cipher: Option<&CardCipher>,
    change: &Change<'_>,
) -> Result<Option<String>, StoreError> {
    let Some(card) = card_of(change) else { return Ok(None) };
    Ok(Some(cipher.ok_or(StoreError::NoKey)?.encrypt(&card.card_code)))
}

/// Changes orders, and returns `topup_id`, `status` and `card_code` of each changed one.
pub(super) const UPDATE: &str = "UPDATE internet_orders SET
         topup_ref = coalesce(topup_ref, new.column1), type = coalesce(type, new.column2),
         number = coalesce(number, new.column3), topup_amount = coalesce(topup_amount, new.column4),
         card_code = new.column5, num_trans = new.column6, date_traitement = new.column7, status = new.column8,
         polling_since = new.column9, polls = new.column10, last_checked_at = new.column11,
         next_check_at = new.column12, scheduled_at = new.column13, fulfilled_at = new.column14,
         refunded_at = new.column15, delays = new.column16, not_found = new.column17, overdue = new.column18,
         last_error = new.column19, failed_attempts = new.column20, given_up = new.column21,
         given_up_at = new.column22, version = version + 1
     FROM (VALUES {rows}) AS new
     WHERE topup_id = new.column23 AND version = new.column24 AND status NOT IN ('FULFILLED', 'REFUNDED')
     RETURNING topup_id, status, card_code";

/// Fails unless a row that [`UPDATE`] returns holds this status and card.
pub(super) fn must_be_updated(row: &Row, status: &str, card_code: Option<&str>) -> Result<(), StoreError> {
    let (stored, stored_card) = (row.get::<String>("status")?, row.get::<Option<String>>("card_code")?);
    let is_stored = stored == status && stored_card.as_deref() == card_code;
    if is_stored { Ok(()) } else { Err(StoreError::NotStored(TABLE)) }
}

/// The row of a change, for [`UPDATE`].
pub(super) fn update_row(change: &Change<'_>, card_code: Option<&str>) -> Values {
    let (order, record, seen) = (change.order, change.record, change.seen);
    let card = card_of(change);
    vec![
        seen.and_then(|seen| seen.topup_ref.as_deref()).into(),
        seen.and_then(|seen| seen.kind.clone()).map(String::from).into(),
        seen.and_then(|seen| seen.number.as_ref()).map(Secret::reveal).into(),
        seen.and_then(|seen| seen.topup_amount).into(),
        card_code.into(),
        card.and_then(|card| card.num_trans.as_deref()).into(),
        card.and_then(|card| card.date_traitement.as_deref()).into(),
        record.status.as_str().into(),
        record.polling_since.into(),
        record.polls.into(),
        record.last_checked_at.into(),
        record.next_check_at.into(),
        record.scheduled_at.into(),
        record.fulfilled_at.into(),
        record.refunded_at.into(),
        record.delays.into(),
        record.not_found.into(),
        record.overdue.into(),
        record.last_error.as_deref().into(),
        record.failed_attempts.into(),
        change.dead_letter().into(),
        change.dead_letter().map(|_| change.at).into(),
        order.topup_id.as_str().into(),
        order.version.into(),
    ]
}

/// The history entry of a change; `None` if the history does not record it.
pub(super) fn history_row(change: &Change<'_>) -> Option<Values> {
    let (before, record) = (&change.order.tracking, change.record);
    let what = || changed(change.job.as_str(), Some(before.status), record, change.given_up);
    is_recorded(before, record).then(|| history::row(&change.order.topup_id, change.at, what()))
}

pub(super) async fn has_card(database: &Database, topup_id: &TopupId) -> Result<bool, StoreError> {
    Ok(database.fetch_optional(select_with_card(topup_id)).await?.is_some())
}

async fn has_card_in(open: &mut Transaction, topup_id: &TopupId) -> Result<bool, StoreError> {
    Ok(open.fetch_optional(select_with_card(topup_id)).await?.is_some())
}

fn select_with_card(topup_id: &TopupId) -> Statement {
    sql("SELECT topup_id FROM internet_orders WHERE topup_id = $1 AND card_code IS NOT NULL")
        .bind(topup_id.as_str())
}

pub(super) async fn card(
    database: &Database,
    cipher: &CardCipher,
    topup_id: &TopupId,
) -> Result<Option<Card>, StoreError> {
    let Some(row) = database.fetch_optional(select_card(topup_id)).await? else { return Ok(None) };
    read_card(cipher, &row)
}

/// Selects the card of an order for [`read_card`].
pub(super) fn select_card(topup_id: &TopupId) -> Statement {
    sql("SELECT card_code, num_trans, date_traitement FROM internet_orders WHERE topup_id = $1")
        .bind(topup_id.as_str())
}

pub(super) fn read_card(cipher: &CardCipher, row: &Row) -> Result<Option<Card>, StoreError> {
    let Some(sealed) = row.get::<Option<String>>("card_code")? else { return Ok(None) };
    Ok(Some(Card {
        card_code: cipher.decrypt(&sealed)?,
        num_trans: row.get("num_trans")?,
        date_traitement: row.get("date_traitement")?,
    }))
}
