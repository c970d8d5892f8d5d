//! The store on SQLite: one file, WAL, every commit on the disk before it counts.
//!
//! One connection writes, so that this process never waits for itself; several processes on one machine
//! may share the file. For several machines there is PostgreSQL.

use std::str::FromStr;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::migrate::Migrator;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow, SqliteSynchronous,
};
use sqlx::{Row, SqliteConnection};
use topup_jobs::{
    Card, Event, NotifyCustomer, OrderStatus, Outcome, ProviderOrder, Secret, Timestamp, TopupId, TopupType,
    TrackTopup, Tracking,
};

use super::{
    Applied, CardCipher, Change, NewEvent, Notification, NotificationStatus, Order, OrderStore, StoreError,
};

/// How long a write waits for another process to finish its own.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);
const READERS: u32 = 4;
/// How often opening is tried again, after a pause each.
const OPEN_TRIES: u32 = 10;
const OPEN_PAUSE: Duration = Duration::from_millis(200);

pub(super) static MIGRATOR: Migrator = sqlx::migrate!("src/orders/migrations/sqlite");

/// See the module.
#[derive(Debug, Clone)]
pub struct SqliteStore {
    writer: SqlitePool,
    readers: SqlitePool,
    cipher: CardCipher,
}

impl SqliteStore {
    /// Opens the file (made if missing) and brings its tables up to date.
    ///
    /// # Errors
    /// [`StoreError`] where the address is unusable or the file cannot be opened or migrated.
    pub async fn open(url: &str, cipher: CardCipher) -> Result<Self, StoreError> {
        // Switching a new file to WAL does not wait for another process that does the same.
        let mut tries = 0;
        loop {
            match Self::open_once(url, cipher.clone()).await {
                Err(error) if is_busy(&error) && tries < OPEN_TRIES => tries += 1,
                opened => return opened,
            }
            tokio::time::sleep(OPEN_PAUSE).await;
        }
    }

    async fn open_once(url: &str, cipher: CardCipher) -> Result<Self, StoreError> {
        let options = SqliteConnectOptions::from_str(url)?
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY_TIMEOUT)
            .foreign_keys(true);
        let pool = |connections| SqlitePoolOptions::new().max_connections(connections);
        let writer = pool(1).acquire_timeout(BUSY_TIMEOUT).connect_with(options.clone()).await?;
        // One process at a time: sqlx takes no lock for migrations on SQLite.
        let mut transaction = writer.begin_with("BEGIN IMMEDIATE").await?;
        MIGRATOR.run(&mut *transaction).await?;
        transaction.commit().await?;
        let readers = pool(READERS).connect_with(options).await?;
        Ok(Self { writer, readers, cipher })
    }

    /// Stores an order, adds what the producer told, or takes an order up again that had been given up.
    async fn write(&self, request: &TrackTopup, now: Timestamp) -> Result<(), StoreError> {
        let new = Tracking::new(now);
        let mut transaction = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        sqlx::query(
            "INSERT INTO internet_orders (topup_id, topup_ref, status, customer, metadata, tracked_at,
                 polling_since, polls, next_check_at, delays, not_found, overdue, version, callback_url)
             VALUES (?, ?, ?, ?, ?, ?, ?, 0, ?, 0, 0, 0, 0, ?)
             ON CONFLICT (topup_id) DO UPDATE SET
                 topup_ref = coalesce(topup_ref, excluded.topup_ref),
                 customer = coalesce(customer, excluded.customer),
                 metadata = coalesce(metadata, excluded.metadata),
                 callback_url = coalesce(callback_url, excluded.callback_url)",
        )
        .bind(request.topup_id.as_str())
        .bind(&request.topup_ref)
        .bind(new.status.as_str())
        .bind(request.customer.as_ref().map(json))
        .bind(request.metadata.as_ref().map(json))
        .bind(new.tracked_at)
        .bind(new.polling_since)
        .bind(new.next_check_at)
        .bind(request.callback_url.as_ref().map(Secret::reveal))
        .execute(&mut *transaction)
        .await?;
        sqlx::query(
            "UPDATE internet_orders SET status = 'HANDLING', polling_since = ?, polls = 0, next_check_at = ?,
                 scheduled_at = NULL, delays = 0, not_found = 0, overdue = 0, version = version + 1
             WHERE topup_id = ? AND next_check_at IS NULL AND status NOT IN ('FULFILLED', 'REFUNDED')",
        )
        .bind(new.polling_since)
        .bind(new.next_check_at)
        .bind(request.topup_id.as_str())
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(())
    }

    async fn update(
        &self,
        connection: &mut SqliteConnection,
        order: &Order,
        record: &Tracking,
        seen: Option<&ProviderOrder>,
    ) -> Result<bool, StoreError> {
        let card =
            seen.and_then(|seen| seen.card.as_ref()).filter(|_| record.status == OrderStatus::Fulfilled);
        let done = sqlx::query(
            "UPDATE internet_orders SET
                 topup_ref = coalesce(topup_ref, ?), type = coalesce(type, ?), number = coalesce(number, ?),
                 topup_amount = coalesce(topup_amount, ?), card_code = ?, num_trans = ?, date_traitement = ?,
                 status = ?, polling_since = ?, polls = ?, last_checked_at = ?, next_check_at = ?,
                 scheduled_at = ?, fulfilled_at = ?, refunded_at = ?, delays = ?, not_found = ?, overdue = ?,
                 last_error = ?, version = version + 1
             WHERE topup_id = ? AND version = ? AND status NOT IN ('FULFILLED', 'REFUNDED')",
        )
        .bind(seen.and_then(|seen| seen.topup_ref.as_deref()))
        .bind(seen.and_then(|seen| seen.kind.clone()).map(String::from))
        .bind(seen.and_then(|seen| seen.number.as_ref()).map(Secret::reveal))
        .bind(seen.and_then(|seen| seen.topup_amount))
        .bind(card.map(|card| self.cipher.encrypt(&card.card_code)))
        .bind(card.and_then(|card| card.num_trans.as_deref()))
        .bind(card.and_then(|card| card.date_traitement.as_deref()))
        .bind(record.status.as_str())
        .bind(record.polling_since)
        .bind(record.polls)
        .bind(record.last_checked_at)
        .bind(record.next_check_at)
        .bind(record.scheduled_at)
        .bind(record.fulfilled_at)
        .bind(record.refunded_at)
        .bind(record.delays)
        .bind(record.not_found)
        .bind(record.overdue)
        .bind(&record.last_error)
        .bind(order.topup_id.as_str())
        .bind(order.version)
        .execute(connection)
        .await?;
        Ok(done.rows_affected() == 1)
    }
}

/// Whether another process holds the file right now (`SQLITE_BUSY` in its three forms).
pub(super) fn is_busy(error: &StoreError) -> bool {
    let (StoreError::Database(error) | StoreError::Migration(sqlx::migrate::MigrateError::Execute(error))) =
        error
    else {
        return false;
    };
    error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code)
        .is_some_and(|code| ["5", "261", "517"].contains(&&*code))
}

async fn insert_event(
    connection: &mut SqliteConnection,
    topup_id: &TopupId,
    event: &NewEvent,
) -> Result<(), StoreError> {
    let event_id = topup_jobs::EventId::new(topup_id, event.outcome);
    let done = sqlx::query(
        "INSERT INTO events (event_id, topup_id, outcome, recorded_at, body) VALUES (?, ?, ?, ?, ?)
         ON CONFLICT (event_id) DO NOTHING",
    )
    .bind(event_id.as_str())
    .bind(topup_id.as_str())
    .bind(event.outcome.as_str())
    .bind(event.body.timestamp)
    .bind(json(&event.body))
    .execute(&mut *connection)
    .await?;
    if done.rows_affected() == 0 {
        return Ok(());
    }
    for channel in &event.channels {
        sqlx::query(
            "INSERT INTO notifications (event_id, topup_id, outcome, channel, status, attempts, next_attempt_at)
             VALUES (?, ?, ?, ?, 'pending', 0, ?)",
        )
        .bind(event_id.as_str())
        .bind(topup_id.as_str())
        .bind(event.outcome.as_str())
        .bind(channel)
        .bind(event.body.timestamp)
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}

#[async_trait]
impl OrderStore for SqliteStore {
    async fn track(&self, request: &TrackTopup, now: Timestamp) -> Result<Order, StoreError> {
        if let Some(order) = self.order(&request.topup_id).await? {
            let told_more = (order.topup_ref.is_none() && request.topup_ref.is_some())
                || (order.customer.is_none() && request.customer.is_some())
                || (order.metadata.is_none() && request.metadata.is_some())
                || (order.callback_url.is_none() && request.callback_url.is_some());
            let given_up = order.tracking.next_check_at.is_none() && !order.tracking.status.is_final();
            if !told_more && !given_up {
                return Ok(order);
            }
        }
        self.write(request, now).await?;
        self.order(&request.topup_id).await?.ok_or(StoreError::Row("order"))
    }

    async fn order(&self, topup_id: &TopupId) -> Result<Option<Order>, StoreError> {
        let row = sqlx::query("SELECT * FROM internet_orders WHERE topup_id = ?")
            .bind(topup_id.as_str())
            .fetch_optional(&self.readers)
            .await?;
        row.map(|row| read_order(&row)).transpose()
    }

    async fn apply(&self, change: Change<'_>) -> Result<Applied, StoreError> {
        let unchanged = *change.record == change.order.tracking;
        if unchanged && change.event.is_none() {
            return Ok(Applied::Stored);
        }
        let mut transaction = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        if !unchanged && !self.update(&mut transaction, change.order, change.record, change.seen).await? {
            return Ok(Applied::Outdated);
        }
        if let Some(event) = &change.event {
            insert_event(&mut transaction, &change.order.topup_id, event).await?;
        }
        transaction.commit().await?;
        Ok(Applied::Stored)
    }

    async fn unchecked_orders(
        &self,
        before: Timestamp,
        most: u32,
    ) -> Result<Vec<(TopupId, OrderStatus)>, StoreError> {
        let rows = sqlx::query(
            "SELECT topup_id, status FROM internet_orders
             WHERE next_check_at IS NOT NULL AND next_check_at < ? ORDER BY random() LIMIT ?",
        );
        let rows = rows.bind(before).bind(most).fetch_all(&self.readers).await?;
        rows.iter().map(|row| Ok((read_topup_id(row)?, read_status(row)?))).collect()
    }

    async fn untold(&self, before: Timestamp, most: u32) -> Result<Vec<NotifyCustomer>, StoreError> {
        let rows = sqlx::query(
            "SELECT * FROM notifications
             WHERE status = 'pending' AND next_attempt_at < ? ORDER BY random() LIMIT ?",
        );
        let rows = rows.bind(before).bind(most).fetch_all(&self.readers).await?;
        let read = |row| {
            let told = read_notification(row)?;
            Ok(NotifyCustomer { topup_id: read_topup_id(row)?, outcome: told.outcome, channel: told.channel })
        };
        rows.iter().map(read).collect()
    }

    async fn card(&self, topup_id: &TopupId) -> Result<Option<Card>, StoreError> {
        let row = sqlx::query(
            "SELECT card_code, num_trans, date_traitement FROM internet_orders WHERE topup_id = ?",
        )
        .bind(topup_id.as_str())
        .fetch_optional(&self.readers)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let Some(sealed) = row.try_get::<Option<String>, _>("card_code")? else { return Ok(None) };
        Ok(Some(Card {
            card_code: self.cipher.decrypt(&sealed)?,
            num_trans: row.try_get("num_trans")?,
            date_traitement: row.try_get("date_traitement")?,
        }))
    }

    async fn event(&self, notification: &NotifyCustomer) -> Result<Option<Event>, StoreError> {
        let body: Option<String> = sqlx::query_scalar("SELECT body FROM events WHERE event_id = ?")
            .bind(notification.event_id().as_str())
            .fetch_optional(&self.readers)
            .await?;
        body.map(|body| read_json(&body, "event")).transpose()
    }

    async fn notifications(&self, topup_id: &TopupId) -> Result<Vec<Notification>, StoreError> {
        let rows = sqlx::query("SELECT * FROM notifications WHERE topup_id = ? ORDER BY rowid")
            .bind(topup_id.as_str())
            .fetch_all(&self.readers)
            .await?;
        rows.iter().map(read_notification).collect()
    }

    async fn record_attempt(&self, told: &NotifyCustomer, attempt: &Notification) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE notifications SET status = ?, attempts = ?, next_attempt_at = ?, sent_at = ?, last_error = ?
             WHERE event_id = ? AND channel = ? AND status <> 'sent'",
        )
        .bind(attempt.status.as_str())
        .bind(attempt.attempts)
        .bind(attempt.next_attempt_at)
        .bind(attempt.sent_at)
        .bind(&attempt.last_error)
        .bind(told.event_id().as_str())
        .bind(&told.channel)
        .execute(&self.writer)
        .await?;
        Ok(())
    }
}

fn json(value: &impl serde::Serialize) -> String {
    // Invariant: customers, metadata and events have no map with keys other than text.
    serde_json::to_string(value).expect("stored values serialize")
}

fn read_json<T: serde::de::DeserializeOwned>(text: &str, what: &'static str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|_| StoreError::Row(what))
}

fn read_topup_id(row: &SqliteRow) -> Result<TopupId, StoreError> {
    row.try_get::<String, _>("topup_id")?.parse().map_err(|_| StoreError::Row("topup_id"))
}

fn read_status(row: &SqliteRow) -> Result<OrderStatus, StoreError> {
    row.try_get::<String, _>("status")?.parse().map_err(|_| StoreError::Row("status"))
}

fn read_order(row: &SqliteRow) -> Result<Order, StoreError> {
    let optional_json = |column| row.try_get::<Option<String>, _>(column);
    Ok(Order {
        topup_id: read_topup_id(row)?,
        topup_ref: row.try_get("topup_ref")?,
        kind: row.try_get::<Option<String>, _>("type")?.map(TopupType::from),
        number: row.try_get::<Option<String>, _>("number")?.map(Secret::new),
        topup_amount: row.try_get("topup_amount")?,
        customer: optional_json("customer")?.map(|text| read_json(&text, "customer")).transpose()?,
        metadata: optional_json("metadata")?.map(|text| read_json(&text, "metadata")).transpose()?,
        callback_url: row.try_get::<Option<String>, _>("callback_url")?.map(Secret::new),
        tracking: Tracking {
            status: read_status(row)?,
            tracked_at: row.try_get("tracked_at")?,
            polling_since: row.try_get("polling_since")?,
            polls: row.try_get("polls")?,
            last_checked_at: row.try_get("last_checked_at")?,
            next_check_at: row.try_get("next_check_at")?,
            scheduled_at: row.try_get("scheduled_at")?,
            fulfilled_at: row.try_get("fulfilled_at")?,
            refunded_at: row.try_get("refunded_at")?,
            delays: row.try_get("delays")?,
            not_found: row.try_get("not_found")?,
            overdue: row.try_get("overdue")?,
            last_error: row.try_get("last_error")?,
        },
        version: row.try_get("version")?,
    })
}

fn read_notification(row: &SqliteRow) -> Result<Notification, StoreError> {
    let (outcome, status): (String, String) = (row.try_get("outcome")?, row.try_get("status")?);
    Ok(Notification {
        outcome: outcome.parse::<Outcome>().map_err(|_| StoreError::Row("outcome"))?,
        channel: row.try_get("channel")?,
        status: NotificationStatus::ALL
            .into_iter()
            .find(|known| known.as_str() == status)
            .ok_or(StoreError::Row("notification status"))?,
        attempts: row.try_get("attempts")?,
        next_attempt_at: row.try_get("next_attempt_at")?,
        sent_at: row.try_get("sent_at")?,
        last_error: row.try_get("last_error")?,
    })
}
