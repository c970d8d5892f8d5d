//! The writes of jobs that can be carried out together: one transaction, and one statement for each kind of row.
//!
//! A batch covers only what is usual: a new order, a change with at most one event that cannot recur, an attempt. What
//! turns out otherwise, such as an order that is stored already, is left to its caller, which writes alone by the
//! functions of the other modules. Those decide; this module must not.

use std::collections::HashMap;

use topup_jobs::{EventId, Incident, NotifyCustomer, Timestamp, TopupId, TrackTopup, Tracking};

use super::batches::Together;
use super::database::{Database, Transaction};
use super::statement::{Row, Values};
use super::{events, history, notifications, orders};
use crate::orders::{CardCipher, Change, NewEvent, Notification, NotificationStatus, Order, StoreError};

/// Batches that run at once on PostgreSQL: while the server carries out one, the next is prepared. SQLite has one writer.
const AT_ONCE_ON_POSTGRES: usize = 2;

/// Joins the tables of one order. `CROSS JOIN` makes SQLite begin with the few given orders.
pub(super) const RESULT_OF_CHANGES: &str = "SELECT internet_orders.topup_id, card_code IS NOT NULL AS has_card, outcome, incident, channel
     FROM (VALUES {rows}) AS new CROSS JOIN internet_orders
     LEFT JOIN notifications ON notifications.topup_id = internet_orders.topup_id AND notifications.status = 'pending'
     WHERE internet_orders.topup_id = new.column1";
pub(super) const RESULT_OF_ATTEMPTS: &str = "SELECT event_id, channel, attempts
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
    /// A new order. `None` for a request whose order is probably stored already.
    pub(super) fn track(request: &TrackTopup, now: Timestamp) -> Option<Self> {
        request.message_id.as_ref()?;
        let handed_over = orders::handed_over(None, &Tracking::new(now));
        Some(Self::Track {
            topup_id: request.topup_id.to_string(),
            order: orders::new_row(request, now),
            history: history::row(&request.topup_id, now, handed_over),
        })
    }

    /// A change. `None` if it changes nothing, or its event may recur or is accompanied by another.
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
            row: orders::changed_row(change, card_code.as_deref()),
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

    /// The begin or the result of an attempt to send a notification; `history` is its entry in the history.
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

impl Together for Write {
    type Done = Written;

    fn at_once(database: &Database) -> usize {
        match database {
            Database::Sqlite(_) => 1,
            Database::Postgres(_) => AT_ONCE_ON_POSTGRES,
        }
    }

    async fn carry_out(database: &Database, batch: Vec<Self>) -> Result<Vec<Option<Written>>, StoreError> {
        let mut transaction = database.begin_batch().await?;
        match Batch::new(batch).carry_out(&mut transaction).await {
            Ok(results) => transaction.commit().await.map(|()| results),
            Err(error) => {
                transaction.rollback().await?;
                Err(error)
            }
        }
    }
}

#[derive(Default)]
struct Batch {
    results: Vec<Option<Written>>,
    /// By id, the place in `results`.
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
        for (place, write) in writes.into_iter().enumerate() {
            batch.results.push(None);
            // A second write of the same row is left to its caller.
            match write {
                Write::Track { topup_id, order, history } => {
                    if !batch.tracks.contains_key(&topup_id) {
                        batch.orders.push(order);
                        batch.tracks.insert(topup_id, (place, history));
                    }
                }
                Write::Apply(mut apply) => {
                    if !batch.applies.contains_key(&apply.topup_id) {
                        batch.changes.push(std::mem::take(&mut apply.row));
                        batch.applies.insert(apply.topup_id.clone(), (place, apply));
                    }
                }
                Write::Attempt { key, number, status, row, history } => {
                    if !batch.attempts.contains_key(&key) {
                        batch.attempt_rows.push(row);
                        batch.attempts.insert(key, (place, number, status, history));
                    }
                }
            }
        }
        batch
    }

    async fn carry_out(mut self, open: &mut Transaction) -> Result<Vec<Option<Written>>, StoreError> {
        let mut entries = Vec::new();
        for row in open.fetch_of(&orders::insert_text(), std::mem::take(&mut self.orders)).await? {
            let order = orders::read(&row)?;
            let (place, history) =
                self.tracks.remove(order.topup_id.as_str()).ok_or(other("internet_orders"))?;
            entries.push(history);
            self.results[place] = Some(Written::Order(Box::new(order)));
        }
        let (mut applied, mut event_rows, mut notification_rows) = (HashMap::new(), Vec::new(), Vec::new());
        for row in open.fetch_of(orders::UPDATE, std::mem::take(&mut self.changes)).await? {
            let topup_id: String = row.get("topup_id")?;
            let (place, mut apply) = self.applies.remove(&topup_id).ok_or(other("internet_orders"))?;
            if row.get::<String>("status")? != apply.status
                || row.get::<Option<String>>("card_code")? != apply.card_code
            {
                return Err(other("internet_orders"));
            }
            entries.extend(apply.history.take());
            if let Some(event) = &mut apply.event {
                event_rows.push(std::mem::take(&mut event.row));
                notification_rows.append(&mut event.notifications);
            }
            applied.insert(topup_id, (place, apply));
        }
        let mut begun = HashMap::new();
        for row in open.fetch_of(notifications::UPDATE, std::mem::take(&mut self.attempt_rows)).await? {
            let key = key_of(&row)?;
            let (place, number, status, history) =
                self.attempts.remove(&key).ok_or(other("notifications"))?;
            if row.get::<String>("status")? != status.as_str() || row.count("attempts")? != number {
                return Err(other("notifications"));
            }
            entries.push(history);
            self.results[place] = Some(Written::Attempt);
            if status == NotificationStatus::Pending {
                begun.insert(key, number);
            }
        }
        let events = event_rows.len();
        if open.fetch_of(events::INSERT, event_rows).await?.len() != events {
            return Err(other("events"));
        }
        open.insert_all("notifications", events::INSERT_NOTIFICATIONS, notification_rows).await?;
        history::add_all(open, entries).await?;
        must_be_begun(open, begun).await?;
        for (place, pending) in must_be_applied(open, applied).await? {
            self.results[place] = Some(Written::Applied(pending));
        }
        Ok(self.results)
    }
}

/// Reads the changed orders again: a trigger may have undone what the statements returned, or deleted notifications.
/// Returns, with the place of each change, the notifications of its order that are to be sent.
async fn must_be_applied(
    open: &mut Transaction,
    applied: HashMap<String, (usize, Apply)>,
) -> Result<Vec<(usize, Vec<NotifyCustomer>)>, StoreError> {
    let ids = applied.keys().map(|topup_id| vec![topup_id.as_str().into()]).collect();
    let mut pending: HashMap<String, Vec<NotifyCustomer>> = HashMap::new();
    for row in open.fetch_of(RESULT_OF_CHANGES, ids).await? {
        let topup_id: TopupId = row.parse("topup_id")?;
        let Some((_, apply)) = applied.get(topup_id.as_str()) else { continue };
        if apply.event.is_some() && apply.card_code.is_some() && !row.get::<bool>("has_card")? {
            return Err(other("internet_orders"));
        }
        let of_order = pending.entry(topup_id.to_string()).or_default();
        if let Some(outcome) = row.parse_optional("outcome")? {
            let (incident, channel) = (row.incident("incident")?, row.get("channel")?);
            of_order.push(NotifyCustomer { topup_id, outcome, incident, channel });
        }
    }
    let result = |(topup_id, (place, apply)): (String, (usize, Apply))| {
        let pending = pending.remove(&topup_id).ok_or(other("internet_orders"))?;
        let is_pending = |event: &EventRows, channel: &String| {
            pending.iter().any(|it| it.channel == *channel && it.event_id().as_str() == event.event_id)
        };
        let all =
            apply.event.iter().all(|event| event.channels.iter().all(|channel| is_pending(event, channel)));
        if all { Ok((place, pending)) } else { Err(other("notifications")) }
    };
    applied.into_iter().map(result).collect()
}

/// Reads the begun attempts again: if a trigger had undone an update, its attempts would not be counted, and never end.
async fn must_be_begun(
    open: &mut Transaction,
    mut begun: HashMap<AttemptKey, u32>,
) -> Result<(), StoreError> {
    let keys =
        begun.keys().map(|(event_id, channel)| vec![event_id.as_str().into(), channel.as_str().into()]);
    for row in open.fetch_of(RESULT_OF_ATTEMPTS, keys.collect()).await? {
        if begun.remove(&key_of(&row)?) != Some(row.count("attempts")?) {
            return Err(other("notifications"));
        }
    }
    if begun.is_empty() { Ok(()) } else { Err(other("notifications")) }
}

fn key_of(row: &Row) -> Result<AttemptKey, StoreError> {
    Ok((row.get("event_id")?, row.get("channel")?))
}

/// The database returned something else than was written to this table.
fn other(table: &'static str) -> StoreError {
    StoreError::NotStored(table)
}
