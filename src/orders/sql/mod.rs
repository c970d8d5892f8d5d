//! The store in a database: one set of statements for SQLite and PostgreSQL.
//!
//! The statements run on `database`, which `sqlite`, `file` and `postgres` open; `schema` checks its tables, and
//! `statement` binds values and reads rows. Every other file holds the statements of one concern. Statements use only
//! SQL that both databases understand, and name every column, because a newer worker may add one at any time.

mod access;
mod batches;
pub(super) mod connections;
mod database;
mod details;
mod events;
pub(super) mod file;
mod history;
pub(super) mod inspect;
mod instruct;
mod marks;
pub(super) mod migrations;
mod note;
mod notifications;
mod orders;
mod place;
pub(super) mod postgres;
mod rehearsal;
mod rekey;
mod retention;
mod reveals;
pub(super) mod schema;
mod search;
pub(super) mod sqlite;
pub(super) mod statement;
mod unchecked;
mod writes;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use secrecy::SecretString;
use topup_jobs::{Card, Instruction, JobName, NotifyCustomer, Timestamp, TopupId, TrackTopup};

use self::batches::Batches;
use self::database::Database;
use self::inspect::Inspector;
use self::notifications::ReadForAttempt;
use self::orders::ReadOrder;
use self::schema::Marks;
use self::writes::{Write, Written};
use super::{
    Applied, Behind, BehindNotification, CardCipher, Change, Deleted, ForAttempt, Found, GivenUpNotification,
    GivenUpOrder, HistoryEntry, Instructed, NewEvent, Notification, Order, OrderStore, Page,
    PendingNotification, Reveal, RevealOutcome, Sample, Search, StoreError, UncheckedOrder,
};

pub use self::access::Access;
pub use self::database::DatabaseKind;
pub use self::rekey::Rekeyed;

/// Time limit of a database call of a job. A job makes up to seven such calls, and one request to a receiver or to the
/// provider. BatchCall they stay below the time limit of the job's handler.
const MAX_CALL: Duration = Duration::from_secs(10);

/// Opens a database and migrates its tables; creates a missing SQLite file. Any number of processes may do so at once.
///
/// # Errors
/// [`StoreError`] if the address is unusable or the database cannot be opened or migrated.
pub async fn open(url: &str, cipher: CardCipher) -> Result<SqlStore, StoreError> {
    Ok(SqlStore::new(Database::open(url).await?, Some(cipher)))
}

/// Migrates the tables of a database, as [`open`] does.
///
/// # Errors
/// As [`open`].
pub async fn migrate(url: &str) -> Result<(), StoreError> {
    Database::open(url).await?.close().await;
    Ok(())
}

/// Opens an existing database; creates and migrates nothing. Without a cipher no card can be read or stored.
///
/// # Errors
/// [`StoreError`] if there is no such database, or its tables are missing, older than this program, or too new for it.
pub async fn open_existing(
    url: &str,
    cipher: Option<CardCipher>,
    access: Access,
) -> Result<SqlStore, StoreError> {
    let mut inspector = Inspector::existing(url).await?;
    let tables = inspector.tables().await;
    inspector.close().await;
    schema::usable_as_it_is(tables?)?;
    Ok(SqlStore::new(Database::connect(url, access).await?, cipher))
}

/// The orders of one SQLite or PostgreSQL database. Clones share the connections.
#[derive(Debug, Clone)]
pub struct SqlStore {
    database: Database,
    writes: Batches<Write>,
    order_reads: Batches<ReadOrder>,
    attempt_reads: Batches<ReadForAttempt>,
    cipher: Option<CardCipher>,
    longest_call: Duration,
    /// The last fault of the whole database, until [`SqlStore::take_fault`] returns it.
    fault: Arc<Mutex<Option<&'static str>>>,
}

impl SqlStore {
    fn new(database: Database, cipher: Option<CardCipher>) -> Self {
        let (writes, order_reads, attempt_reads) =
            (Batches::new(database.clone()), Batches::new(database.clone()), Batches::new(database.clone()));
        Self {
            database,
            writes,
            order_reads,
            attempt_reads,
            cipher,
            longest_call: MAX_CALL,
            fault: Arc::default(),
        }
    }

    fn cipher(&self) -> Result<&CardCipher, StoreError> {
        self.cipher.as_ref().ok_or(StoreError::NoKey)
    }

    /// Whether a card of this order is stored, without decrypting it.
    ///
    /// # Errors
    /// [`StoreError`] if the database fails.
    pub async fn has_card(&self, topup_id: &TopupId) -> Result<bool, StoreError> {
        orders::has_card(&self.database, topup_id).await
    }

    /// The id of the store, which does not depend on its address.
    ///
    /// # Errors
    /// [`StoreError`] if the database fails.
    pub async fn id(&self) -> Result<String, StoreError> {
        Ok(marks::marks(&self.database).await?.store_id)
    }

    /// Refuses keys that do not match the store. If the current key is not recorded, decrypts a sample of the cards.
    ///
    /// # Errors
    /// [`StoreError::Keys`] if the cards may need a key that the cipher does not have.
    pub(crate) async fn try_keys(&self) -> Result<Sample, StoreError> {
        marks::try_keys(&self.database, self.cipher()?).await
    }

    /// Stores, changes, reads and deletes an order as jobs do, and rolls this back.
    pub(crate) async fn rehearse(&self) -> Result<(), StoreError> {
        rehearsal::rehearse(&self.database, self.cipher.as_ref()).await
    }

    /// As [`SqlStore::try_keys`], and records the current key's fingerprint before a card is encrypted with it.
    pub(crate) async fn admit_keys(&self) -> Result<(), StoreError> {
        marks::admit_keys(&self.database, self.cipher()?).await
    }

    /// Reads the [`Marks`], checks that the database can be written, and records the current key if it is missing.
    ///
    /// # Errors
    /// [`StoreError`] if the database does not answer or cannot be written, or a newer program has locked this one out.
    pub(crate) async fn look(&self) -> Result<Marks, StoreError> {
        let marks = marks::marks(&self.database).await;
        if matches!(marks, Err(StoreError::LogRemoved)) {
            self.database.checkpoint().await;
        }
        let marks = marks?;
        self.database.can_be_written().await?;
        if schema::is_too_new(self.database.migrator(), marks.least_migration) {
            return Err(StoreError::TooNew);
        }
        if let Some(cipher) = &self.cipher
            && !marks.keys.iter().any(|noted| noted == cipher.fingerprint())
        {
            marks::note_key(&self.database, cipher).await?;
        }
        Ok(marks)
    }

    /// Returns and clears the last fault of the whole database that a job met. A health check may miss such a fault: a
    /// full disk may accept the small writes of the check and refuse those of the jobs.
    pub(crate) fn take_fault(&self) -> Option<&'static str> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Records that cards need only the current key.
    pub(crate) async fn forget_other_keys(&self) -> Result<(), StoreError> {
        marks::forget_other_keys(&self.database, self.cipher()?).await
    }

    /// Limits the connections to PostgreSQL; no effect on SQLite.
    #[must_use]
    pub fn with_connections(self, most: usize) -> Self {
        self.database.limit_connections(most);
        self
    }

    /// Closes the connections. The last process to close a SQLite file moves its write-ahead log into the file.
    pub(crate) async fn close(&self) {
        self.database.close().await;
    }

    /// Sets the time limit, not scaled, of the calls that handlers and the card page make.
    #[must_use]
    pub fn answering_within(self, longest_call: Duration) -> Self {
        Self { longest_call, ..self }
    }

    /// Ends a call at the time limit, so that a slow database does not count as a fault of the job. The transaction of
    /// an ended call is rolled back, unless its commit has already reached the database or it is that of a batch.
    async fn in_time<T>(&self, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let slow = |_elapsed| Err(StoreError::TooSlow(self.longest_call));
        let done = tokio::time::timeout(self.longest_call, call).await.unwrap_or_else(slow);
        if let Err(error) = &done
            && let Some(fault) = error.fault()
        {
            *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = Some(fault);
        }
        done
    }
}

impl SqlStore {
    /// Finds up to `most` orders that meet all criteria, the newest first. With `after`, begins behind that order.
    ///
    /// # Errors
    /// [`StoreError`] if the database fails or a row cannot be read.
    pub async fn search(
        &self,
        search: &Search,
        after: Option<&TopupId>,
        most: u32,
    ) -> Result<Vec<Found>, StoreError> {
        search::search(&self.database, search, after, most).await
    }

    /// The dead letters of an order and of its notifications.
    ///
    /// # Errors
    /// [`StoreError`] if the database fails or a row cannot be read.
    pub async fn dead_letters_of(
        &self,
        topup_id: &TopupId,
    ) -> Result<(Option<GivenUpOrder>, Vec<GivenUpNotification>), StoreError> {
        let order = unchecked::given_up_order(&self.database, topup_id).await?;
        Ok((order, notifications::given_up_of(&self.database, topup_id).await?))
    }

    /// The database's plan for a search, one line per step, in the database's own format.
    ///
    /// # Errors
    /// [`StoreError`] if the database fails.
    pub async fn explain(&self, search: &Search, most: u32) -> Result<Vec<String>, StoreError> {
        search::explain(&self.database, search, most).await
    }

    /// The database's plans for all statements that delete these orders, in the database's own format.
    ///
    /// # Errors
    /// [`StoreError`] if the database fails.
    pub async fn explain_deletion(
        &self,
        before: Timestamp,
        topup_ids: &[String],
    ) -> Result<Vec<String>, StoreError> {
        retention::explain(&self.database, before, topup_ids).await
    }

    /// Number of orders that meet all criteria.
    ///
    /// # Errors
    /// [`StoreError`] if the database fails.
    pub async fn count(&self, search: &Search) -> Result<u64, StoreError> {
        search::count(&self.database, search).await
    }
}

#[async_trait]
impl OrderStore for SqlStore {
    async fn track(&self, request: &TrackTopup, now: Timestamp) -> Result<Order, StoreError> {
        self.in_time(async {
            if let Some(write) = Write::track(request, now)
                && let Some(Written::Order(order)) = self.writes.carry_out(write).await?
            {
                return Ok(*order);
            }
            if request.message_id.is_none()
                && let Some(order) = self.order_reads.carry_out(ReadOrder::of(&request.topup_id)).await?
                && !orders::adds(request, &order)
            {
                return Ok(order);
            }
            orders::track(&self.database, request, now).await
        })
        .await
    }

    async fn instruct(
        &self,
        request: &TrackTopup,
        instruction: Instruction,
        now: Timestamp,
    ) -> Result<Option<Instructed>, StoreError> {
        self.in_time(instruct::instruct(&self.database, request, instruction, now)).await
    }

    async fn order(&self, topup_id: &TopupId) -> Result<Option<Order>, StoreError> {
        self.in_time(orders::order(&self.database, topup_id)).await
    }

    async fn apply(&self, change: Change<'_>) -> Result<(Applied, Vec<NotifyCustomer>), StoreError> {
        self.in_time(async {
            let cipher = self.cipher.as_ref();
            if let Some(write) = Write::apply(cipher, &change)?
                && let Some(Written::Applied(pending)) = self.writes.carry_out(write).await?
            {
                return Ok((Applied::Stored, pending));
            }
            orders::apply(&self.database, cipher, change).await
        })
        .await
    }

    async fn card(&self, topup_id: &TopupId) -> Result<Option<Card>, StoreError> {
        self.in_time(orders::card(&self.database, self.cipher()?, topup_id)).await
    }

    async fn for_attempt(
        &self,
        notification: &NotifyCustomer,
        with_card: bool,
    ) -> Result<Option<ForAttempt>, StoreError> {
        let cipher = if with_card { Some(self.cipher()?) } else { None };
        self.in_time(async {
            if let Some(row) = self.attempt_reads.carry_out(ReadForAttempt::of(notification)).await? {
                return notifications::read_for_attempt(cipher, notification, &row).map(Some);
            }
            notifications::for_attempt(&self.database, cipher, notification).await
        })
        .await
    }

    async fn unchecked_orders(
        &self,
        job: JobName,
        before: Timestamp,
        behind: Option<&Behind>,
        most: u32,
    ) -> Result<Page<UncheckedOrder>, StoreError> {
        unchecked::orders(&self.database, job, before, behind, most).await
    }

    async fn given_up_orders(
        &self,
        behind: Option<&Behind>,
        most: u32,
    ) -> Result<Page<GivenUpOrder>, StoreError> {
        unchecked::given_up(&self.database, behind, most).await
    }

    async fn pending_notifications(
        &self,
        before: Timestamp,
        behind: Option<&BehindNotification>,
        most: u32,
    ) -> Result<Page<PendingNotification, BehindNotification>, StoreError> {
        notifications::pending_notifications(&self.database, before, behind, most).await
    }

    async fn given_up_notifications(
        &self,
        behind: Option<&BehindNotification>,
        most: u32,
    ) -> Result<Page<GivenUpNotification, BehindNotification>, StoreError> {
        notifications::given_up(&self.database, behind, most).await
    }

    async fn replay_order(
        &self,
        topup_id: &TopupId,
        reason: &str,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        orders::replay(&self.database, topup_id, reason, now).await
    }

    async fn discard_order(
        &self,
        topup_id: &TopupId,
        reason: &str,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        orders::discard(&self.database, topup_id, reason, now).await
    }

    async fn note_given_up(
        &self,
        topup_id: &TopupId,
        reason: &str,
        at: Timestamp,
    ) -> Result<bool, StoreError> {
        orders::note_given_up(&self.database, topup_id, reason, at).await
    }

    async fn notifications(&self, topup_id: &TopupId) -> Result<Vec<Notification>, StoreError> {
        self.in_time(notifications::of_order(&self.database, topup_id)).await
    }

    async fn begin_attempt(
        &self,
        notification: &NotifyCustomer,
        attempt: &Notification,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.in_time(async {
            let write = Write::attempt(
                notification,
                attempt,
                notifications::begun_history_row(notification, attempt, now),
                now,
            );
            if self.writes.carry_out(write).await?.is_some() {
                return Ok(());
            }
            notifications::begin_attempt(&self.database, notification, attempt, now).await
        })
        .await
    }

    async fn record_attempt(
        &self,
        notification: &NotifyCustomer,
        attempt: &Notification,
        undelivered: Option<&NewEvent>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        self.in_time(async {
            if undelivered.is_none() {
                let made = notifications::made_history_row(notification, attempt, now);
                if self.writes.carry_out(Write::attempt(notification, attempt, made, now)).await?.is_some() {
                    return Ok(true);
                }
            }
            notifications::record_attempt(&self.database, notification, attempt, undelivered, now).await
        })
        .await
    }

    async fn notify_again(
        &self,
        notification: &NotifyCustomer,
        reason: &str,
        sent_too: bool,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        notifications::notify_again(&self.database, notification, reason, sent_too, now).await
    }

    async fn discard(
        &self,
        notification: &NotifyCustomer,
        reason: &str,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        notifications::discard(&self.database, notification, reason, now).await
    }

    async fn add_notification(
        &self,
        notification: &NotifyCustomer,
        reason: &str,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        notifications::add(&self.database, notification, reason, now).await
    }

    async fn hasten(&self, notification: &NotifyCustomer, now: Timestamp) -> Result<bool, StoreError> {
        notifications::hasten(&self.database, notification, now).await
    }

    async fn close_incidents(&self, topup_id: &TopupId) -> Result<(), StoreError> {
        let mut transaction = self.database.begin().await?;
        events::close_incidents(&mut transaction, topup_id).await?;
        transaction.commit().await
    }

    async fn history(&self, topup_id: &TopupId) -> Result<Vec<HistoryEntry>, StoreError> {
        history::of_order(&self.database, topup_id).await
    }

    async fn reveal_token(
        &self,
        notification: &NotifyCustomer,
        now: Timestamp,
        expires_at: Timestamp,
    ) -> Result<SecretString, StoreError> {
        self.in_time(reveals::token(&self.database, self.cipher()?, notification, now, expires_at)).await
    }

    async fn reveal(&self, token: &str) -> Result<Option<Reveal>, StoreError> {
        self.in_time(reveals::reveal(&self.database, token)).await
    }

    async fn try_reveal(
        &self,
        token: &str,
        right: bool,
        most_tries: u32,
        now: Timestamp,
    ) -> Result<RevealOutcome, StoreError> {
        self.in_time(reveals::try_reveal(&self.database, token, right, most_tries, now)).await
    }

    async fn delete_ended(
        &self,
        before: Timestamp,
        now: Timestamp,
        behind: Option<&Behind>,
        most: u32,
    ) -> Result<Deleted, StoreError> {
        retention::delete_ended(&self.database, before, now, behind, most).await
    }

    async fn release_space(&self) -> Result<bool, StoreError> {
        self.database.release_space().await
    }

    async fn rekey(&self, behind: Option<&TopupId>, most: u32) -> Result<Rekeyed, StoreError> {
        rekey::rekey(&self.database, self.cipher()?, behind, most).await
    }

    async fn links_of_previous_keys(&self) -> Result<u64, StoreError> {
        rekey::links_of_previous_keys(&self.database, self.cipher()?).await
    }
}

#[cfg(test)]
#[path = "plans_tests.rs"]
mod plans;

fn json(value: &impl serde::Serialize) -> String {
    // Cannot fail: the keys of all maps in customers, metadata and events are texts, as JSON requires.
    serde_json::to_string(value).expect("stored values serialize")
}

fn read_json<T: serde::de::DeserializeOwned>(text: &str, what: &'static str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|_| StoreError::Row(what))
}
