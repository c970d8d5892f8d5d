//! Writes to every table in a transaction that is rolled back.
//!
//! A trigger, rule or constraint that an operator has added may refuse or suppress rows. The rehearsal finds that before
//! the first real order. It cannot find a trigger or constraint that refuses only certain values of real orders.

use topup_jobs::{Timestamp, TopupId, TrackTopup};

use super::database::Database;
use super::orders;
use super::statement::sql;
use crate::orders::StoreError;

/// The order of the rehearsal. The provider gives no such id, because an id begins with the time of its order.
const ORDER: &str = "000000000000000000000000";

/// The changes that follow the insertion of the order and its history, each with its table, as foreign keys allow them.
const CHANGES: [(&str, &str); 14] = [
    (
        "events",
        "INSERT INTO events (event_id, topup_id, outcome, incident, about, recorded_at, body)
         SELECT 'rehearsal', topup_id, 'delayed', 1, '', tracked_at, '{}' FROM internet_orders WHERE topup_id = $1",
    ),
    (
        "notifications",
        "INSERT INTO notifications (event_id, topup_id, outcome, incident, channel, status, attempts, next_attempt_at)
         SELECT event_id, topup_id, outcome, 1, 'log', 'pending', 0, recorded_at FROM events
         WHERE event_id = 'rehearsal' AND topup_id = $1",
    ),
    (
        "reveals",
        "INSERT INTO reveals (token_hash, topup_id, channel, created_at, expires_at, tries)
         SELECT 'rehearsal', topup_id, 'log', tracked_at, tracked_at, 0 FROM internet_orders WHERE topup_id = $1",
    ),
    ("store_keys", "INSERT INTO store_keys (fingerprint) SELECT $1"),
    ("internet_orders", "UPDATE internet_orders SET status = 'QUEUED', version = version + 1 WHERE topup_id = $1"),
    ("events", "UPDATE events SET closed = NOT closed WHERE topup_id = $1"),
    ("notifications", "UPDATE notifications SET status = 'sent', attempts = 1 WHERE topup_id = $1"),
    ("reveals", "UPDATE reveals SET tries = tries + 1 WHERE topup_id = $1"),
    ("store_keys", "DELETE FROM store_keys WHERE fingerprint = $1"),
    ("reveals", "DELETE FROM reveals WHERE topup_id = $1"),
    ("notifications", "DELETE FROM notifications WHERE topup_id = $1"),
    ("events", "DELETE FROM events WHERE topup_id = $1"),
    ("order_events", "DELETE FROM order_events WHERE topup_id = $1"),
    ("internet_orders", "DELETE FROM internet_orders WHERE topup_id = $1"),
];

pub(super) async fn rehearse(database: &Database) -> Result<(), StoreError> {
    let topup_id: TopupId = ORDER.parse().map_err(|_| StoreError::Row("id of the rehearsal"))?;
    let mut open = database.begin().await?;
    orders::insert(&mut open, &TrackTopup::new(topup_id), Timestamp::UNIX_EPOCH).await?;
    for (table, change) in CHANGES {
        open.change(table, sql(change).bind(ORDER)).await?;
    }
    open.rollback().await
}
