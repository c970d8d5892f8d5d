//! The store in a database: one set of statements, for SQLite and for PostgreSQL.
//!
//! `database` is what the statements run on, `sqlite` and `postgres` open it, `statement` binds and reads.
//! Every other file holds the statements of one concern. They keep to what both databases understand, and name
//! every column they read: a newer worker may add one while this one is running.

mod database;
mod details;
mod events;
mod history;
mod instruct;
mod notifications;
mod orders;
pub(super) mod postgres;
mod rekey;
mod retention;
mod reveals;
mod search;
pub(super) mod sqlite;
pub(super) mod statement;
mod unchecked;

use async_trait::async_trait;
use secrecy::SecretString;
use topup_jobs::{Card, Event, Instruction, JobName, NotifyCustomer, Timestamp, TopupId, TrackTopup};

use self::database::Database;
use super::{
    Applied, Behind, CardCipher, Change, Found, HistoryEntry, Instructed, NewEvent, Notification, Order,
    OrderStore, Reveal, RevealOutcome, Search, StoreError, Unchecked,
};

pub use self::database::DatabaseKind;
pub use self::rekey::Rekeyed;

/// Opens the database of this address, makes it where it is a file that is missing, and brings its tables up
/// to date. Any number of processes may do so at once.
///
/// # Errors
/// [`StoreError`] where the address is unusable or the database cannot be opened or migrated.
pub async fn open(url: &str, cipher: CardCipher) -> Result<SqlStore, StoreError> {
    Ok(SqlStore { database: Database::open(url).await?, cipher })
}

/// See the module.
#[derive(Debug, Clone)]
pub struct SqlStore {
    database: Database,
    cipher: CardCipher,
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
        orders::track(&self.database, request, now).await
    }

    async fn instruct(
        &self,
        request: &TrackTopup,
        instruction: Instruction,
        now: Timestamp,
    ) -> Result<Option<Instructed>, StoreError> {
        instruct::instruct(&self.database, request, instruction, now).await
    }

    async fn order(&self, topup_id: &TopupId) -> Result<Option<Order>, StoreError> {
        orders::order(&self.database, topup_id).await
    }

    async fn apply(&self, change: Change<'_>) -> Result<Applied, StoreError> {
        orders::apply(&self.database, &self.cipher, change).await
    }

    async fn card(&self, topup_id: &TopupId) -> Result<Option<Card>, StoreError> {
        orders::card(&self.database, &self.cipher, topup_id).await
    }

    async fn event(&self, notification: &NotifyCustomer) -> Result<Option<Event>, StoreError> {
        events::event(&self.database, notification).await
    }

    async fn unchecked_orders(
        &self,
        job: JobName,
        before: Timestamp,
        behind: Option<&Behind>,
        most: u32,
    ) -> Result<Unchecked, StoreError> {
        unchecked::orders(&self.database, job, before, behind, most).await
    }

    async fn untold(&self, before: Timestamp, most: u32) -> Result<Vec<NotifyCustomer>, StoreError> {
        notifications::untold(&self.database, before, most).await
    }

    async fn notifications(&self, topup_id: &TopupId) -> Result<Vec<Notification>, StoreError> {
        notifications::of_order(&self.database, topup_id).await
    }

    async fn begin_attempt(
        &self,
        told: &NotifyCustomer,
        attempt: &Notification,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        notifications::begin_attempt(&self.database, told, attempt, now).await
    }

    async fn record_attempt(
        &self,
        told: &NotifyCustomer,
        attempt: &Notification,
        undelivered: Option<&NewEvent>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        notifications::record_attempt(&self.database, told, attempt, undelivered, now).await
    }

    async fn tell_again(
        &self,
        told: &NotifyCustomer,
        reason: &str,
        sent_too: bool,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        notifications::tell_again(&self.database, told, reason, sent_too, now).await
    }

    async fn discard(&self, told: &NotifyCustomer, reason: &str, now: Timestamp) -> Result<(), StoreError> {
        notifications::discard(&self.database, told, reason, now).await
    }

    async fn add_notification(
        &self,
        told: &NotifyCustomer,
        reason: &str,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        notifications::add(&self.database, told, reason, now).await
    }

    async fn hasten(&self, told: &NotifyCustomer, now: Timestamp) -> Result<bool, StoreError> {
        notifications::hasten(&self.database, told, now).await
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
        told: &NotifyCustomer,
        now: Timestamp,
        expires_at: Timestamp,
    ) -> Result<SecretString, StoreError> {
        reveals::token(&self.database, &self.cipher, told, now, expires_at).await
    }

    async fn reveal(&self, token: &str) -> Result<Option<Reveal>, StoreError> {
        reveals::reveal(&self.database, token).await
    }

    async fn try_reveal(
        &self,
        token: &str,
        right: bool,
        most_tries: u32,
        now: Timestamp,
    ) -> Result<RevealOutcome, StoreError> {
        reveals::try_reveal(&self.database, token, right, most_tries, now).await
    }

    async fn delete_ended(&self, before: Timestamp, now: Timestamp, most: u32) -> Result<u32, StoreError> {
        retention::delete_ended(&self.database, before, now, most).await
    }

    async fn rekey(&self, behind: Option<&TopupId>, most: u32) -> Result<Rekeyed, StoreError> {
        rekey::rekey(&self.database, &self.cipher, behind, most).await
    }

    async fn links_of_previous_keys(&self) -> Result<u64, StoreError> {
        rekey::links_of_previous_keys(&self.database, &self.cipher).await
    }
}

fn json(value: &impl serde::Serialize) -> String {
    // Invariant: customers, metadata and events have no map with keys other than text.
    serde_json::to_string(value).expect("stored values serialize")
}

fn read_json<T: serde::de::DeserializeOwned>(text: &str, what: &'static str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|_| StoreError::Row(what))
}
