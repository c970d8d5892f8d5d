//! The writes of jobs that can be carried out together: one transaction, and one statement for each kind of row.
//!
//! A batch covers only the usual case: a new order, a change with at most one event, which cannot recur, or an attempt.
//! Any other write, such as that of an order that is already stored, gets no result. Its caller then writes alone with
//! the functions of `orders` and `notifications`, which hold the rules.

use std::collections::HashMap;

use topup_jobs::{EventId, Incident, NotifyCustomer, Timestamp, TopupId, TrackTopup, Tracking};

use super::batches::BatchCall;
use super::database::{Database, Transaction};
use super::statement::{Row, Values};
use super::{events, history, notifications, orders};
use crate::orders::{CardCipher, Change, NewEvent, Notification, NotificationStatus, Order, StoreError};

/// Most batches that run at once on PostgreSQL: while one waits for its commit, another runs. SQLite has one writer.
const MAX_CONCURRENT_ON_POSTGRES: usize = 2;

/// Given orders, one row for each pending notification. `CROSS JOIN` makes SQLite begin with the given orders.
pub(super) const SELECT_CHANGED: &str =
    "SELECT internet_orders.topup_id, internet_orders.card_code IS NOT NULL AS has_card, notifications.outcome,
         notifications.incident, notifications.channel
     FROM (VALUES {rows}) AS new CROSS JOIN internet_orders
     LEFT JOIN notifications ON notifications.topup_id = internet_orders.topup_id AND notifications.status = 'pending'
     WHERE internet_orders.topup_id = new.column1";
pub(super) const SELECT_ATTEMPTS: &str = "SELECT event_id, channel, attempts
     FROM (VALUES {rows}) AS new CROSS JOIN notifications
     WHERE event_id = new.column1 AND channel = new.column2";

/// A write that can be part of a batch.
pub(super) enum Write {
    Track { topup_id: String, order: Values, history: Values },
    Apply(Apply),
    Attempt { key: AttemptKey, number: u32, status: NotificationStatus, row: Values, history: Values },
}

/// A change of an order, see [`Change`].
pub(super) struct Apply {
    topup_id: String,
    status: &'static str,
    card_code: Option<String>,
    row: Values,
    history: Option<Values>,
    event: Option<EventRows>,
}

struct EventRows {
    event_id: String,
    channels: Vec<String>,
    row: Values,
    notifications: Vec<Values>,
}

/// Id of the event, and name of the channel.
type AttemptKey = (String, String);

/// The result of a write.
pub(super) enum Written {
    Order(Box<Order>),
    /// The order's notifications that are still to be sent.
    Applied(Vec<NotifyCustomer>),
    Attempt,
}

impl Write {
    /// A new order. `None` without a message id: only the first job after a message has one.
    pub(super) fn track(request: &TrackTopup, now: Timestamp) -> Option<Self> {
        request.message_id.as_ref()?;
        let handed_over = orders::handed_over(None, &Tracking::new(now));
        Some(Self::Track {
            topup_id: request.topup_id.to_string(),
            order: orders::new_row(request, now),
            history: history::row(&request.topup_id, now, handed_over),
        })
    }

    /// A change. `None` if the order stays the same, or if its event may recur or brings a second one.
    pub(super) fn apply(
        cipher: Option<&CardCipher>,
        change: &Change<'_>,
    ) -> Result<Option<Self>, StoreError> {
        let is_usual = |event: &NewEvent| !event.outcome.recurs() && event.undelivered.is_none();
        if *change.record == change.order.tracking || !change.event.as_ref().is_none_or(is_usual) {
            return Ok(None);
        }
        let topup_id = &change.order.topup_id;
        let card_code = orders::card_code(cipher, change)?;
        Ok(Some(Self::Apply(Apply {
            topup_id: topup_id.to_string(),
            status: change.record.status.as_str(),
            row: orders::update_row(change, card_code.as_deref()),
            card_code,
            history: orders::history_row(change),
            event: change.event.as_ref().map(|event| EventRows {
                event_id: EventId::new(topup_id, event.outcome, Incident::FIRST).to_string(),
                channels: event.channels.clone(),
                row: events::row(topup_id, event, Incident::FIRST),
                notifications: events::notification_rows(topup_id, event, Incident::FIRST),
            }),
        })))
    }

    /// The start or result of an attempt to send a notification; `history` is its row in `order_events`.
    pub(super) fn attempt(
        notification: &NotifyCustomer,
        attempt: &Notification,
        history: Values,
        now: Timestamp,
    ) -> Self {
        Self::Attempt {
            key: (notification.event_id().to_string(), notification.channel.clone()),
            number: attempt.attempts,
            status: attempt.status,
            row: notifications::attempt_row(notification, attempt, now),
            history,
        }
    }
}

impl BatchCall for Write {
    type Done = Written;
    type Open = Transaction;

    fn max_concurrent(database: &Database) -> usize {
        match database {
            Database::Sqlite(_) => 1,
            Database::Postgres(_) => MAX_CONCURRENT_ON_POSTGRES,
        }
    }

    async fn open(database: &Database) -> Result<Transaction, StoreError> {
        database.begin_batch().await
    }

    async fn run(open: &mut Transaction, batch: Vec<Self>) -> Result<Vec<Option<Written>>, StoreError> {
        Batch::new(batch).run(open).await
    }

    async fn close(open: Transaction, commit: bool) -> Result<(), StoreError> {
        if commit { open.commit().await } else { open.rollback().await }
    }
}

#[derive(Default)]
struct Batch {
    results: Vec<Option<Written>>,
    /// By id, the index in `results` and what is still needed.
    tracks: HashMap<String, (usize, Values)>,
    applies: HashMap<String, (usize, Apply)>,
    attempts: HashMap<AttemptKey, (usize, u32, NotificationStatus, Values)>,
    orders: Vec<Values>,
    changes: Vec<Values>,
    attempt_rows: Vec<Values>,
}

impl Batch {
    fn new(writes: Vec<Write>) -> Self {
        let mut batch = Self::default();
        for (index, write) in writes.into_iter().enumerate() {
            batch.results.push(None);
            // A second write of the same row is left to its caller.
            match write {
                Write::Track { topup_id, order, history } => {
                    if !batch.tracks.contains_key(&topup_id) {
                        batch.orders.push(order);
                        batch.tracks.insert(topup_id, (index, history));
                    }
                }
                Write::Apply(mut apply) => {
                    if !batch.applies.contains_key(&apply.topup_id) {
                        batch.changes.push(std::mem::take(&mut apply.row));
                        batch.applies.insert(apply.topup_id.clone(), (index, apply));
                    }
                }
                Write::Attempt { key, number, status, row, history } => {
                    if !batch.attempts.contains_key(&key) {
                        batch.attempt_rows.push(row);
                        batch.attempts.insert(key, (index, number, status, history));
                    }
                }
            }
        }
        batch
    }

    async fn run(mut self, open: &mut Transaction) -> Result<Vec<Option<Written>>, StoreError> {
        let mut entries = Vec::new();
        for row in open.fetch_rows(&orders::insert_text(), std::mem::take(&mut self.orders)).await? {
            let order = orders::read(&row)?;
            let (index, history) = self
                .tracks
                .remove(order.topup_id.as_str())
                .ok_or(StoreError::NotStored("internet_orders"))?;
            entries.push(history);
            self.results[index] = Some(Written::Order(Box::new(order)));
        }
        let (mut applied, mut event_rows, mut notification_rows) = (HashMap::new(), Vec::new(), Vec::new());
        for row in open.fetch_rows(orders::UPDATE, std::mem::take(&mut self.changes)).await? {
            let topup_id: String = row.get("topup_id")?;
            let (index, mut apply) =
                self.applies.remove(&topup_id).ok_or(StoreError::NotStored("internet_orders"))?;
            orders::must_be_updated(&row, apply.status, apply.card_code.as_deref())?;
            entries.extend(apply.history.take());
            if let Some(event) = &mut apply.event {
                event_rows.push(std::mem::take(&mut event.row));
                notification_rows.append(&mut event.notifications);
            }
            applied.insert(topup_id, (index, apply));
        }
        let mut begun = HashMap::new();
        for row in open.fetch_rows(notifications::UPDATE, std::mem::take(&mut self.attempt_rows)).await? {
            let key = key_of(&row)?;
            let (index, number, status, history) =
                self.attempts.remove(&key).ok_or(StoreError::NotStored("notifications"))?;
            notifications::must_be_updated(&row, status, number)?;
            entries.push(history);
            self.results[index] = Some(Written::Attempt);
            if status == NotificationStatus::Pending {
                begun.insert(key, number);
            }
        }
        let events = event_rows.len();
        if open.fetch_rows(events::INSERT, event_rows).await?.len() != events {
            return Err(StoreError::NotStored("events"));
        }
        open.insert_all("notifications", events::INSERT_NOTIFICATIONS, notification_rows).await?;
        history::add_all(open, entries).await?;
        check_attempts_stored(open, begun).await?;
        for (index, pending) in check_changes_stored(open, applied).await? {
            self.results[index] = Some(Written::Applied(pending));
        }
        Ok(self.results)
    }
}

/// Reads the changed orders again: a trigger may have deleted an order, its card or its notifications since. Returns, by
/// the index in `results`, the pending notifications of each order.
async fn check_changes_stored(
    open: &mut Transaction,
    applied: HashMap<String, (usize, Apply)>,
) -> Result<Vec<(usize, Vec<NotifyCustomer>)>, StoreError> {
    let ids = applied.keys().map(|topup_id| vec![topup_id.as_str().into()]).collect();
    let mut pending: HashMap<String, Vec<NotifyCustomer>> = HashMap::new();
    for row in open.fetch_rows(SELECT_CHANGED, ids).await? {
        let topup_id: TopupId = row.parse("topup_id")?;
        let Some((_, apply)) = applied.get(topup_id.as_str()) else { continue };
        if apply.event.is_some() && apply.card_code.is_some() && !row.get::<bool>("has_card")? {
            return Err(StoreError::NotStored("internet_orders"));
        }
        let of_order = pending.entry(topup_id.to_string()).or_default();
        if let Some(outcome) = row.parse_optional("outcome")? {
            let (incident, channel) = (row.incident("incident")?, row.get("channel")?);
            of_order.push(NotifyCustomer { topup_id, outcome, incident, channel });
        }
    }
    let result = |(topup_id, (index, apply)): (String, (usize, Apply))| {
        let pending = pending.remove(&topup_id).ok_or(StoreError::NotStored("internet_orders"))?;
        let is_pending = |event: &EventRows, channel: &String| {
            pending.iter().any(|it| it.channel == *channel && it.event_id().as_str() == event.event_id)
        };
        let all =
            apply.event.iter().all(|event| event.channels.iter().all(|channel| is_pending(event, channel)));
        if all { Ok((index, pending)) } else { Err(StoreError::NotStored("notifications")) }
    };
    applied.into_iter().map(result).collect()
}

/// Checks that the count of each attempt is stored. If a trigger undid it, the notification would be tried without end.
async fn check_attempts_stored(
    open: &mut Transaction,
    mut begun: HashMap<AttemptKey, u32>,
) -> Result<(), StoreError> {
    let keys =
        begun.keys().map(|(event_id, channel)| vec![event_id.as_str().into(), channel.as_str().into()]);
    for row in open.fetch_rows(SELECT_ATTEMPTS, keys.collect()).await? {
        if begun.remove(&key_of(&row)?) != Some(row.count("attempts")?) {
            return Err(StoreError::NotStored("notifications"));
        }
    }
    if begun.is_empty() { Ok(()) } else { Err(StoreError::NotStored("notifications")) }
}

fn key_of(row: &Row) -> Result<AttemptKey, StoreError> {
    Ok((row.get("event_id")?, row.get("channel")?))
}
