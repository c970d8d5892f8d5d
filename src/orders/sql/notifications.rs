//! The table `notifications`: the delivery of each event by each of its channels.

use std::collections::HashMap;

use topup_jobs::{NotifyCustomer, Timestamp, TopupId};

use super::batches::BatchRead;
use super::database::{Database, Transaction};
use super::statement::{Row, Statement, Values, sql, sql_with_rows};
use super::unchecked::page;
use super::{events, history, orders};
use crate::orders::history::Attempt;
use crate::orders::{
    BehindNotification, CardCipher, ForAttempt, GivenUpNotification, NewEvent, Notification,
    NotificationStatus, Occurrence, Page, PendingNotification, StoreError,
};

const TABLE: &str = "notifications";
pub(super) const UNTOLD: &str =
    "SELECT topup_id, outcome, incident, channel, attempts, next_attempt_at, event_id FROM notifications
     WHERE status = 'pending' AND next_attempt_at < $1
         AND (next_attempt_at, event_id, channel) > ($2, $3, $4)
     ORDER BY next_attempt_at, event_id, channel LIMIT $5";
pub(super) const GIVEN_UP: &str =
    "SELECT event_id, topup_id, outcome, incident, channel, status, attempts, next_attempt_at, sent_at,
         last_error, given_up_at
     FROM notifications
     WHERE status IN ('failed', 'refused') AND (event_id, channel) > ($1, $2)
     ORDER BY event_id, channel LIMIT $3";

pub(super) async fn pending_notifications(
    database: &Database,
    before: Timestamp,
    behind: Option<&BehindNotification>,
    most: u32,
) -> Result<Page<PendingNotification, BehindNotification>, StoreError> {
    let select = sql(UNTOLD);
    let at = behind.map_or(Timestamp::UNIX_EPOCH, |behind| behind.at);
    let (event_id, channel) = position(behind);
    let rows = database.fetch(select.bind(before).bind(at).bind(event_id).bind(channel).bind(most)).await?;
    let last = |row: &Row| {
        let (at, event_id, channel) =
            (row.get("next_attempt_at")?, row.get("event_id")?, row.get("channel")?);
        Ok(BehindNotification { at, event_id, channel })
    };
    page(&rows, most, last, |row| {
        let notification = NotifyCustomer {
            topup_id: row.parse("topup_id")?,
            outcome: row.parse("outcome")?,
            incident: row.incident("incident")?,
            channel: row.get("channel")?,
        };
        Ok(PendingNotification { notification, attempts: row.count("attempts")? })
    })
}

pub(super) async fn given_up(
    database: &Database,
    behind: Option<&BehindNotification>,
    most: u32,
) -> Result<Page<GivenUpNotification, BehindNotification>, StoreError> {
    let select = sql(GIVEN_UP);
    let (event_id, channel) = position(behind);
    let rows = database.fetch(select.bind(event_id).bind(channel).bind(most)).await?;
    let last = |row: &Row| {
        let (at, event_id, channel) = (Timestamp::UNIX_EPOCH, row.get("event_id")?, row.get("channel")?);
        Ok(BehindNotification { at, event_id, channel })
    };
    page(&rows, most, last, read_given_up)
}

/// The dead letters of this order's notifications.
pub(super) async fn given_up_of(
    database: &Database,
    topup_id: &TopupId,
) -> Result<Vec<GivenUpNotification>, StoreError> {
    let select = sql(
        "SELECT topup_id, outcome, incident, channel, status, attempts, next_attempt_at, sent_at, last_error, given_up_at
         FROM notifications WHERE topup_id = $1 AND status IN ('failed', 'refused')",
    );
    database.fetch(select.bind(topup_id.as_str())).await?.iter().map(read_given_up).collect()
}

fn read_given_up(row: &Row) -> Result<GivenUpNotification, StoreError> {
    let at = row.get("given_up_at")?;
    Ok(GivenUpNotification { topup_id: row.parse("topup_id")?, notification: read(row)?, at })
}

fn position(behind: Option<&BehindNotification>) -> (&str, &str) {
    behind.map_or(("", ""), |behind| (&behind.event_id, &behind.channel))
}

pub(super) async fn of_order(
    database: &Database,
    topup_id: &TopupId,
) -> Result<Vec<Notification>, StoreError> {
    database.fetch(select_of(topup_id)).await?.iter().map(read).collect()
}

/// The pending ones of an order's notifications, which [`select_of`] has selected.
pub(super) fn pending(topup_id: &TopupId, rows: &[Row]) -> Result<Vec<NotifyCustomer>, StoreError> {
    let all = rows.iter().map(read).collect::<Result<Vec<Notification>, _>>()?;
    let pending = all.iter().filter(|notification| notification.status == NotificationStatus::Pending);
    Ok(pending.map(|notification| notification.payload(topup_id)).collect())
}

/// Selects the notifications of an order for [`read`].
pub(super) fn select_of(topup_id: &TopupId) -> Statement {
    sql(
        "SELECT notification.outcome, notification.incident, notification.channel, notification.status, notification.attempts, notification.next_attempt_at,
             notification.sent_at, notification.last_error
         FROM notifications notification JOIN events ON events.event_id = notification.event_id
         WHERE notification.topup_id = $1 ORDER BY events.recorded_at, notification.outcome, notification.incident, notification.channel",
    )
    .bind(topup_id.as_str())
}

pub(super) fn read(row: &Row) -> Result<Notification, StoreError> {
    Ok(Notification {
        outcome: row.parse("outcome")?,
        incident: row.incident("incident")?,
        channel: row.get("channel")?,
        status: row.parse("status")?,
        attempts: row.count("attempts")?,
        next_attempt_at: row.get("next_attempt_at")?,
        sent_at: row.get("sent_at")?,
        last_error: row.get("last_error")?,
    })
}

/// Reads what attempts to send notifications need, in one statement. `CROSS JOIN` makes SQLite begin with the few given
/// orders.
pub(super) fn for_attempt_text() -> String {
    format!(
        "SELECT new.column2 AS event_id, new.column3 AS channel, {columns}, body, card_code, num_trans, date_traitement,
             notification_status, attempts, next_attempt_at, sent_at, notification_error
         FROM (VALUES {{rows}}) AS new CROSS JOIN internet_orders
         LEFT JOIN (SELECT event_id AS body_of, body FROM events) event ON body_of = new.column2
         LEFT JOIN (SELECT event_id AS notified, channel AS notified_by, status AS notification_status, attempts,
             next_attempt_at, sent_at, last_error AS notification_error FROM notifications) notification
             ON notified = new.column2 AND notified_by = new.column3
         WHERE topup_id = new.column1",
        columns = orders::COLUMNS
    )
}

fn for_attempt_row(notification: &NotifyCustomer) -> Values {
    let event_id = notification.event_id();
    vec![
        notification.topup_id.as_str().into(),
        event_id.as_str().into(),
        notification.channel.as_str().into(),
    ]
}

pub(super) async fn for_attempt(
    database: &Database,
    cipher: Option<&CardCipher>,
    notification: &NotifyCustomer,
) -> Result<Option<ForAttempt>, StoreError> {
    let select = sql_with_rows(&for_attempt_text(), vec![for_attempt_row(notification)]);
    let Some(row) = database.fetch_optional(select).await? else { return Ok(None) };
    read_for_attempt(cipher, notification, &row).map(Some)
}

/// Reads the row of an attempt that [`for_attempt`] or a batch of [`ReadForAttempt`] has selected.
pub(super) fn read_for_attempt(
    cipher: Option<&CardCipher>,
    notification: &NotifyCustomer,
    row: &Row,
) -> Result<ForAttempt, StoreError> {
    let stored = match row.parse_optional("notification_status")? {
        None => None,
        Some(status) => Some(Notification {
            outcome: notification.outcome,
            incident: notification.incident,
            channel: notification.channel.clone(),
            status,
            attempts: row.count("attempts")?,
            next_attempt_at: row.get("next_attempt_at")?,
            sent_at: row.get("sent_at")?,
            last_error: row.get("notification_error")?,
        }),
    };
    let card = match cipher.map(|cipher| orders::read_card(cipher, row)) {
        None => Ok(None),
        Some(Err(StoreError::Decryption(why))) => Err(why),
        Some(read) => Ok(read?),
    };
    Ok(ForAttempt { order: orders::read(row)?, notification: stored, body: row.get("body")?, card })
}

/// One call of [`for_attempt`] in a batch; returns its row.
pub(super) struct ReadForAttempt {
    event_id: String,
    channel: String,
    row: Values,
}

impl ReadForAttempt {
    pub(super) fn of(notification: &NotifyCustomer) -> Self {
        Self {
            event_id: notification.event_id().to_string(),
            channel: notification.channel.clone(),
            row: for_attempt_row(notification),
        }
    }
}

impl BatchRead for ReadForAttempt {
    type Done = Row;

    async fn read(database: &Database, batch: Vec<Self>) -> Result<Vec<Option<Row>>, StoreError> {
        let (keys, rows): (Vec<_>, _) =
            batch.into_iter().map(|read| ((read.event_id, read.channel), read.row)).unzip();
        let mut found = HashMap::new();
        for row in database.fetch_rows(&for_attempt_text(), rows).await? {
            found.insert((row.get::<String>("event_id")?, row.get::<String>("channel")?), row);
        }
        Ok(keys.iter().map(|key| found.remove(key)).collect())
    }
}

pub(super) async fn begin_attempt(
    database: &Database,
    notification: &NotifyCustomer,
    attempt: &Notification,
    now: Timestamp,
) -> Result<(), StoreError> {
    let mut transaction = database.begin().await?;
    if update(&mut transaction, notification, attempt, now).await? {
        // A trigger may have undone the update after it. The attempts would then not be counted, and never end.
        let stored =
            sql("SELECT event_id FROM notifications WHERE event_id = $1 AND channel = $2 AND attempts = $3")
                .bind(notification.event_id().as_str())
                .bind(notification.channel.as_str())
                .bind(attempt.attempts);
        if transaction.fetch_optional(stored).await?.is_none() {
            return Err(StoreError::NotStored(TABLE));
        }
    }
    history::add_all(&mut transaction, vec![begun_history_row(notification, attempt, now)]).await?;
    transaction.commit().await
}

/// The history entry of an attempt that begins. It has no error, because `last_error` belongs to the previous attempt.
pub(super) fn begun_history_row(
    notification: &NotifyCustomer,
    attempt: &Notification,
    now: Timestamp,
) -> Values {
    history_row(notification, (attempt.attempts, Attempt::Begun), None, now)
}

/// The history entry of an attempt that was made.
pub(super) fn made_history_row(
    notification: &NotifyCustomer,
    attempt: &Notification,
    now: Timestamp,
) -> Values {
    let made = (attempt.attempts, attempt.status.into());
    history_row(notification, made, attempt.last_error.clone(), now)
}

pub(super) async fn record_attempt(
    database: &Database,
    notification: &NotifyCustomer,
    attempt: &Notification,
    undelivered: Option<&NewEvent>,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let mut transaction = database.begin().await?;
    let stands = update(&mut transaction, notification, attempt, now).await?;
    // The history records every attempt, even if its result is not stored because the notification had ended before.
    history::add_all(&mut transaction, vec![made_history_row(notification, attempt, now)]).await?;
    if let Some(event) = undelivered.filter(|_| stands) {
        events::insert(&mut transaction, &notification.topup_id, event).await?;
    }
    transaction.commit().await?;
    Ok(stands)
}

/// Updates pending notifications, and returns `event_id`, `channel`, `status` and `attempts` of each updated one. `sent`
/// also replaces a final state, because the event has been delivered.
pub(super) const UPDATE: &str = "UPDATE notifications
     SET status = new.column1, attempts = new.column2, next_attempt_at = new.column3, sent_at = new.column4,
         last_error = new.column5, given_up_at = new.column6
     FROM (VALUES {rows}) AS new
     WHERE event_id = new.column7 AND channel = new.column8
         AND (status = 'pending' OR (new.column1 = 'sent' AND status <> 'sent'))
     RETURNING event_id, channel, status, attempts";

/// The row of an attempt, for [`UPDATE`].
pub(super) fn attempt_row(notification: &NotifyCustomer, attempt: &Notification, now: Timestamp) -> Values {
    let given_up = matches!(attempt.status, NotificationStatus::Failed | NotificationStatus::Refused);
    vec![
        attempt.status.as_str().into(),
        attempt.attempts.into(),
        attempt.next_attempt_at.into(),
        attempt.sent_at.into(),
        attempt.last_error.as_deref().into(),
        given_up.then_some(now).into(),
        notification.event_id().as_str().into(),
        notification.channel.as_str().into(),
    ]
}

pub(super) async fn update(
    open: &mut Transaction,
    notification: &NotifyCustomer,
    attempt: &Notification,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let update = sql_with_rows(UPDATE, vec![attempt_row(notification, attempt, now)]);
    let unchanged = sql(
        "SELECT event_id FROM notifications
         WHERE event_id = $1 AND channel = $2 AND (status = 'pending' OR ($3 = 'sent' AND status <> 'sent'))",
    )
    .bind(notification.event_id().as_str())
    .bind(notification.channel.as_str())
    .bind(attempt.status.as_str());
    let Some(row) = open.change_if(TABLE, update, unchanged).await? else { return Ok(false) };
    must_be_updated(&row, attempt.status, attempt.attempts)?;
    Ok(true)
}

/// Fails unless a row that [`UPDATE`] returns holds this status and number of attempts.
pub(super) fn must_be_updated(
    row: &Row,
    status: NotificationStatus,
    attempts: u32,
) -> Result<(), StoreError> {
    let is_stored = row.get::<String>("status")? == status.as_str() && row.count("attempts")? == attempts;
    if is_stored { Ok(()) } else { Err(StoreError::NotStored(TABLE)) }
}

pub(super) async fn notify_again(
    database: &Database,
    notification: &NotifyCustomer,
    reason: &str,
    sent_too: bool,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let mut transaction = database.begin().await?;
    // `next_attempt_at` is set, because a job that Redis loses is restored from the store only after that time.
    let update = sql("UPDATE notifications
         SET status = 'pending', attempts = 0, next_attempt_at = $1, sent_at = NULL, last_error = $2,
             given_up_at = NULL
         WHERE event_id = $3 AND channel = $4 AND ($5 OR status <> 'sent')")
    .bind(now)
    .bind(reason)
    .bind(notification.event_id().as_str())
    .bind(notification.channel.as_str())
    .bind(sent_too);
    if transaction.execute(update).await? == 0 {
        return Ok(false);
    }
    events::close_undelivered(&mut transaction, notification).await?;
    note(&mut transaction, notification, (0, Attempt::Retry), Some(reason.to_owned()), now).await?;
    transaction.commit().await?;
    Ok(true)
}

pub(super) async fn discard(
    database: &Database,
    notification: &NotifyCustomer,
    reason: &str,
    now: Timestamp,
) -> Result<(), StoreError> {
    let mut transaction = database.begin().await?;
    let update = sql("UPDATE notifications SET status = 'discarded', next_attempt_at = NULL
         WHERE event_id = $1 AND channel = $2 AND status NOT IN ('sent', 'discarded')
         RETURNING attempts")
    .bind(notification.event_id().as_str())
    .bind(notification.channel.as_str());
    let Some(row) = transaction.fetch_optional(update).await? else { return Ok(()) };
    let made = (row.count("attempts")?, Attempt::Discarded);
    note(&mut transaction, notification, made, Some(reason.to_owned()), now).await?;
    transaction.commit().await
}

pub(super) async fn add(
    database: &Database,
    notification: &NotifyCustomer,
    reason: &str,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let mut transaction = database.begin().await?;
    let insert = sql("INSERT INTO notifications
             (event_id, topup_id, outcome, incident, channel, status, attempts, next_attempt_at, last_error)
         SELECT event_id, topup_id, outcome, incident, $1, 'pending', 0, $2, $3 FROM events WHERE event_id = $4
         ON CONFLICT DO NOTHING")
    .bind(notification.channel.as_str())
    .bind(now)
    .bind(reason)
    .bind(notification.event_id().as_str());
    if transaction.execute(insert).await? == 0 {
        return Ok(false);
    }
    events::close_unreachable(&mut transaction, notification).await?;
    note(&mut transaction, notification, (0, Attempt::Retry), Some(reason.to_owned()), now).await?;
    transaction.commit().await?;
    Ok(true)
}

pub(super) async fn hasten(
    database: &Database,
    notification: &NotifyCustomer,
    now: Timestamp,
) -> Result<bool, StoreError> {
    let mut transaction = database.begin().await?;
    let update = sql("UPDATE notifications SET next_attempt_at = $1
         WHERE event_id = $2 AND channel = $3 AND status = 'pending'")
    .bind(now)
    .bind(notification.event_id().as_str())
    .bind(notification.channel.as_str());
    let pending = transaction.execute(update).await? > 0;
    transaction.commit().await?;
    Ok(pending)
}

async fn note(
    open: &mut Transaction,
    notification: &NotifyCustomer,
    made: (u32, Attempt),
    error: Option<String>,
    now: Timestamp,
) -> Result<(), StoreError> {
    history::add_all(open, vec![history_row(notification, made, error, now)]).await
}

/// The history entry of an attempt.
fn history_row(
    notification: &NotifyCustomer,
    (attempt, result): (u32, Attempt),
    error: Option<String>,
    now: Timestamp,
) -> Values {
    let (outcome, incident, channel) =
        (notification.outcome, notification.incident, notification.channel.clone());
    let what = Occurrence::NotificationAttempt { outcome, incident, channel, attempt, result, error };
    history::row(&notification.topup_id, now, what)
}
