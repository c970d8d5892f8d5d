//! Stores, changes, reads and deletes an order in a transaction that is rolled back.
//!
//! An operator may have changed the tables: a trigger, rule, constraint, view or column may refuse, suppress or alter
//! what this program writes, with an error or without. The rehearsal runs the statements of the jobs and compares what
//! it reads with what it wrote, before an order depends on it. A fault of single values or rows may still come later.

use topup_jobs::{
    Card, Customer, Event, EventData, EventId, Incident, JobName, NotifyCustomer, OrderStatus, Outcome,
    ProviderOrder, Secret, Timestamp, TopupId, TopupStatus, TopupType, TrackTopup, Tracking,
};

use super::database::{Database, Transaction};
use super::statement::{Row, sql};
use super::{events, notifications, orders, retention, reveals};
use crate::orders::{
    Applied, CardCipher, Change, NewEvent, Notification, NotificationStatus, Order, StoreError,
};

const CHANNEL: &str = "log";
const TEXT: &str = "rehearsal";

/// Runs the rehearsal and rolls it back. Its order has a card only if there is a cipher.
pub(super) async fn rehearse(database: &Database, cipher: Option<&CardCipher>) -> Result<(), StoreError> {
    let mut open = database.begin().await?;
    let rehearsed = run(database, &mut open, cipher).await.map_err(|error| match error {
        StoreError::Database(sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_)) => {
            StoreError::OtherColumn
        }
        error => error,
    });
    let rolled_back = open.rollback().await;
    rehearsed.and(rolled_back)
}

async fn run(
    database: &Database,
    open: &mut Transaction,
    cipher: Option<&CardCipher>,
) -> Result<(), StoreError> {
    // A new id for each rehearsal: a stored order or another worker's rehearsal must not have it.
    let id = format!("{:024x}", u128::from(ulid::Ulid::generate()) >> 32);
    let topup_id: TopupId = id.parse().map_err(|_| StoreError::Row("id of the rehearsal"))?;
    let now = Timestamp::from_timestamp_micros(1_700_000_000_123_456).unwrap_or_default();
    let order = track(open, &topup_id, now).await?;
    fulfill(open, cipher, &order, now).await?;
    notify(open, &topup_id, now).await?;
    link(open, &topup_id, now).await?;
    let insert = sql("INSERT INTO store_keys (fingerprint) VALUES ($1)");
    open.change("store_keys", insert.bind(id.as_str())).await?;
    let delete = sql("DELETE FROM store_keys WHERE fingerprint = $1");
    open.change("store_keys", delete.bind(id.as_str())).await?;
    open.check_constraints().await?;
    for delete in retention::deletions(database, &[topup_id.to_string()]) {
        open.execute(delete).await?;
    }
    match open.fetch_optional(orders::select(&topup_id)).await? {
        Some(_) => Err(StoreError::NotStored("internet_orders")),
        None => Ok(()),
    }
}

async fn track(open: &mut Transaction, topup_id: &TopupId, now: Timestamp) -> Result<Order, StoreError> {
    let customer = Customer { name: Some(Secret::new("é")), ..Customer::default() };
    let request = TrackTopup {
        customer: Some(customer.clone()),
        callback_url: Some(Secret::new("https://example.dz")),
        ..TrackTopup::new(topup_id.clone())
    };
    orders::insert(open, &request, now).await?;
    let expected = Order {
        customer: Some(customer),
        callback_url: request.callback_url,
        ..Order::new(topup_id.clone(), now)
    };
    must_be(&open.fetch(orders::select(topup_id)).await?, orders::read, &[expected], "internet_orders")?
        .pop()
        .ok_or(StoreError::NotStored("internet_orders"))
}

async fn fulfill(
    open: &mut Transaction,
    cipher: Option<&CardCipher>,
    order: &Order,
    now: Timestamp,
) -> Result<(), StoreError> {
    let topup_id = &order.topup_id;
    let card = Card { card_code: Secret::new("0"), num_trans: Some(TEXT.to_owned()), date_traitement: None };
    let seen = ProviderOrder {
        status: TopupStatus::Fulfilled,
        topup_ref: Some(TEXT.to_owned()),
        kind: Some(TopupType::Adsl),
        number: Some(Secret::new("0")),
        topup_amount: Some(1),
        card: cipher.map(|_| card.clone()),
    };
    let record = Tracking {
        status: OrderStatus::Fulfilled,
        polls: 1,
        last_checked_at: Some(now),
        next_check_at: None,
        scheduled_at: Some(now),
        fulfilled_at: Some(now),
        delays: 1,
        not_found: 1,
        overdue: true,
        last_error: Some(TEXT.to_owned()),
        ..order.tracking.clone()
    };
    let outcome = Outcome::Fulfilled;
    let data = EventData::new(topup_id.clone(), OrderStatus::Fulfilled, String::new());
    let event = NewEvent {
        outcome,
        about: String::new(),
        body: Event { kind: outcome.event_type(), timestamp: now, data },
        channels: vec![CHANNEL.to_owned()],
        undelivered: None,
    };
    let body = event.body.clone();
    let change = Change {
        job: JobName::PollTopup,
        at: now,
        order,
        record: &record,
        seen: Some(&seen),
        given_up: None,
        event: Some(event),
    };
    if orders::apply_in(open, cipher, change).await? != Applied::Stored {
        return Err(StoreError::NotStored("events"));
    }
    let expected = Order {
        topup_ref: seen.topup_ref,
        kind: seen.kind,
        number: seen.number,
        topup_amount: seen.topup_amount,
        tracking: record,
        version: order.version + 1,
        ..order.clone()
    };
    must_be(&open.fetch(orders::select(topup_id)).await?, orders::read, &[expected], "internet_orders")?;
    if let Some(cipher) = cipher {
        let rows = open.fetch(orders::select_card(topup_id)).await?;
        must_be(&rows, |row| orders::read_card(cipher, row), &[Some(card)], "internet_orders")?;
    }
    let event_id = EventId::new(topup_id, outcome, Incident::FIRST);
    must_be(&open.fetch(events::select(event_id.as_str())).await?, events::read, &[body], "events")?;
    Ok(())
}

async fn notify(open: &mut Transaction, topup_id: &TopupId, now: Timestamp) -> Result<(), StoreError> {
    let pending = Notification {
        outcome: Outcome::Fulfilled,
        incident: Incident::FIRST,
        channel: CHANNEL.to_owned(),
        status: NotificationStatus::Pending,
        attempts: 0,
        next_attempt_at: Some(now),
        sent_at: None,
        last_error: None,
    };
    let table = "notifications";
    must_be(
        &open.fetch(notifications::select_of(topup_id)).await?,
        notifications::read,
        std::slice::from_ref(&pending),
        table,
    )?;
    let sent = Notification {
        status: NotificationStatus::Sent,
        attempts: 1,
        next_attempt_at: None,
        sent_at: Some(now),
        last_error: Some(TEXT.to_owned()),
        ..pending
    };
    notifications::update(open, &sent.payload(topup_id), &sent, now).await?;
    must_be(&open.fetch(notifications::select_of(topup_id)).await?, notifications::read, &[sent], table)?;
    Ok(())
}

async fn link(open: &mut Transaction, topup_id: &TopupId, now: Timestamp) -> Result<(), StoreError> {
    let notification = NotifyCustomer {
        topup_id: topup_id.clone(),
        outcome: Outcome::Fulfilled,
        incident: Incident::FIRST,
        channel: CHANNEL.to_owned(),
    };
    let token_hash = topup_id.as_str();
    reveals::insert(open, token_hash, &notification, now, now).await?;
    let count = sql("UPDATE reveals SET tries = tries + 1, revealed_at = $1 WHERE token_hash = $2");
    open.change("reveals", count.bind(now).bind(token_hash)).await?;
    let read = |row: &Row| reveals::read(row).map(|link| (link.expires_at, link.tries, link.revealed_at));
    must_be(
        &open.fetch(reveals::select(token_hash.to_owned())).await?,
        read,
        &[(now, 1, Some(now))],
        "reveals",
    )?;
    Ok(())
}

/// Reads rows of a table and returns them; fails if they are not those that were written.
fn must_be<T: PartialEq>(
    rows: &[Row],
    read: impl Fn(&Row) -> Result<T, StoreError>,
    written: &[T],
    table: &'static str,
) -> Result<Vec<T>, StoreError> {
    let found = rows.iter().map(read).collect::<Result<Vec<T>, _>>();
    match found {
        Ok(found) if found == written => Ok(found),
        // What was written is of the right form, so a value of another form is not what was written.
        Ok(_) | Err(StoreError::Row(_) | StoreError::Decryption(_)) => Err(StoreError::NotStored(table)),
        Err(error) => Err(error),
    }
}
