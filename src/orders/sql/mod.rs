//! The store in a database: one set of statements, for SQLite and for PostgreSQL.
//!
//! `database` is what the statements run on, `sqlite`, `file` and `postgres` open it, `schema` judges its tables, `statement`
//! binds and reads.
//! Every other file holds the statements of one concern. They keep to what both databases understand, and name
//! every column they read: a newer worker may add one while this one is running.

mod access;
pub(super) mod connections;
mod database;
mod details;
mod events;
pub(super) mod file;
mod history;
pub(super) mod inspect;
mod instruct;
mod marks;
mod notifications;
mod orders;
mod place;
pub(super) mod postgres;
mod rekey;
mod retention;
mod reveals;
pub(super) mod schema;
mod search;
pub(super) mod sqlite;
pub(super) mod statement;
mod unchecked;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use secrecy::SecretString;
use topup_jobs::{Card, Event, Instruction, JobName, NotifyCustomer, Timestamp, TopupId, TrackTopup};

use self::database::Database;
use self::inspect::Inspector;
use self::schema::Marks;
use super::{
    Applied, Behind, BehindNotification, CardCipher, Change, Deleted, Found, GivenUpNotification,
    GivenUpOrder, HistoryEntry, Instructed, NewEvent, Notification, Order, OrderStore, Page,
    PendingNotification, Reveal, RevealOutcome, Sample, Search, StoreError, UncheckedOrder,
};

pub use self::access::Access;
pub use self::database::DatabaseKind;
pub use self::rekey::Rekeyed;

/// How long one call may take that a job waits for. A job makes up to seven and then sends or asks the provider;
/// together that stays below the time after which its handler is given up.
const MAX_CALL: Duration = Duration::from_secs(10);

/// Opens the database of this address, makes it where it is a file that is missing, and brings its tables up
/// to date. Any number of processes may do so at once.
///
/// # Errors
/// [`StoreError`] where the address is unusable or the database cannot be opened or migrated.
pub async fn open(url: &str, cipher: CardCipher) -> Result<SqlStore, StoreError> {
    Ok(SqlStore::new(Database::open(url).await?, Some(cipher)))
}

/// Brings the tables of this address up to date, as [`open`] does.
///
/// # Errors
/// As [`open`].
pub async fn migrate(url: &str) -> Result<(), StoreError> {
    Database::open(url).await?.close().await;
    Ok(())
}

/// Opens a database that is there and has its tables; makes and migrates nothing. Without a cipher no card can be
/// read or stored.
///
/// # Errors
/// [`StoreError`] says what to do where there is no such database, or where its tables are missing, older than this
/// program, or made for a newer one.
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

/// See the module.
#[derive(Debug, Clone)]
pub struct SqlStore {
    database: Database,
    cipher: Option<CardCipher>,
    longest_call: Duration,
    /// Why calls have failed since this was last read, where the database as a whole is at fault.
    fault: Arc<Mutex<Option<&'static str>>>,
}

impl SqlStore {
    fn new(database: Database, cipher: Option<CardCipher>) -> Self {
        Self { database, cipher, longest_call: MAX_CALL, fault: Arc::default() }
    }

    fn cipher(&self) -> Result<&CardCipher, StoreError> {
        self.cipher.as_ref().ok_or(StoreError::NoKey)
    }

    /// Whether the card of this order is stored. It is not decrypted.
    ///
    /// # Errors
    /// [`StoreError`] where the database fails.
    pub async fn has_card(&self, topup_id: &TopupId) -> Result<bool, StoreError> {
        orders::has_card(&self.database, topup_id).await
    }

    /// Which store this is, whatever its address.
    ///
    /// # Errors
    /// [`StoreError`] where the database fails.
    pub async fn id(&self) -> Result<String, StoreError> {
        Ok(marks::marks(&self.database).await?.store_id)
    }

    /// Refuses keys that do not fit the store. Where it does not know the current one yet, all are tried on some cards.
    ///
    /// # Errors
    /// [`StoreError::Keys`] where the cards may need a key that the cipher does not have.
    pub(crate) async fn try_keys(&self) -> Result<Sample, StoreError> {
        marks::try_keys(&self.database, self.cipher()?).await
    }

    /// The same, and notes the current key as one that cards may be encrypted with, before any is.
    ///
    /// # Errors
    /// As [`SqlStore::try_keys`].
    pub(crate) async fn admit_keys(&self) -> Result<(), StoreError> {
        marks::admit_keys(&self.database, self.cipher()?).await
    }

    /// Asks the database what it is and whether it can be written, and keeps the note of the current key.
    ///
    /// # Errors
    /// [`StoreError`] where it does not answer or cannot be written, or where a newer program has changed it so that this
    /// one must stop.
    pub(crate) async fn look(&self) -> Result<Marks, StoreError> {
        let marks = marks::marks(&self.database).await?;
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

    /// Why calls have failed since this was last asked, where the database as a whole is at fault. A full disk may take
    /// a small change and refuse the next one, so that only those who work with it notice.
    pub(crate) fn take_fault(&self) -> Option<&'static str> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Notes that cards need the current key and no other.
    ///
    /// # Errors
    /// [`StoreError`] where the database fails.
    pub(crate) async fn forget_other_keys(&self) -> Result<(), StoreError> {
        marks::forget_other_keys(&self.database, self.cipher()?).await
    }

    /// The same; on PostgreSQL it uses so many connections at most.
    #[must_use]
    pub fn with_connections(self, most: usize) -> Self {
        self.database.limit_connections(most);
        self
    }

    /// Closes it. Of a SQLite file the last process that does so leaves all of it in the file.
    pub(crate) async fn close(&self) {
        self.database.close().await;
    }

    /// The same, with this limit to the calls that handlers and the page of the cards make. Real time.
    #[must_use]
    pub fn answering_within(self, longest_call: Duration) -> Self {
        Self { longest_call, ..self }
    }

    /// Ends a call that takes too long: a job must not wait for the database so long that it counts as a fault of the
    /// job. A transaction that is cut short is rolled back, unless its commit had reached the database.
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
    /// The next orders that have all this in common, behind this one, the newest first.
    ///
    /// # Errors
    /// [`StoreError`] where the database fails, or a row cannot be read.
    pub async fn search(
        &self,
        search: &Search,
        after: Option<&TopupId>,
        most: u32,
    ) -> Result<Vec<Found>, StoreError> {
        search::search(&self.database, search, after, most).await
    }

    /// How the database would carry out a search, in its own words, a line a step.
    ///
    /// # Errors
    /// [`StoreError`] where the database fails.
    pub async fn explain(&self, search: &Search, most: u32) -> Result<Vec<String>, StoreError> {
        search::explain(&self.database, search, most).await
    }

    /// How many orders have all this in common.
    ///
    /// # Errors
    /// [`StoreError`] where the database fails.
    pub async fn count(&self, search: &Search) -> Result<u64, StoreError> {
        search::count(&self.database, search).await
    }
}

#[async_trait]
impl OrderStore for SqlStore {
    async fn track(&self, request: &TrackTopup, now: Timestamp) -> Result<Order, StoreError> {
        self.in_time(orders::track(&self.database, request, now)).await
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

    async fn apply(&self, change: Change<'_>) -> Result<Applied, StoreError> {
        self.in_time(orders::apply(&self.database, self.cipher.as_ref(), change)).await
    }

    async fn card(&self, topup_id: &TopupId) -> Result<Option<Card>, StoreError> {
        self.in_time(orders::card(&self.database, self.cipher()?, topup_id)).await
    }

    async fn event(&self, notification: &NotifyCustomer) -> Result<Option<Event>, StoreError> {
        self.in_time(events::event(&self.database, notification)).await
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
        self.in_time(notifications::begin_attempt(&self.database, notification, attempt, now)).await
    }

    async fn record_attempt(
        &self,
        notification: &NotifyCustomer,
        attempt: &Notification,
        undelivered: Option<&NewEvent>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        self.in_time(notifications::record_attempt(&self.database, notification, attempt, undelivered, now))
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
    // Invariant: customers, metadata and events have no map with keys other than text.
    serde_json::to_string(value).expect("stored values serialize")
}

fn read_json<T: serde::de::DeserializeOwned>(text: &str, what: &'static str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|_| StoreError::Row(what))
}
