//! The store in a database: one set of statements, for SQLite and for PostgreSQL.
//!
//! `database` is what the statements run on, `sqlite` and `postgres` open it, `statement` binds and reads.
//! Every other file holds the statements of one concern. They keep to what both databases understand, and name
//! every column they read: a newer worker may add one while this one is running.

mod database;
mod events;
mod history;
mod notifications;
mod orders;
pub(super) mod postgres;
mod rekey;
mod retention;
mod reveals;
pub(super) mod sqlite;
pub(super) mod statement;
mod unchecked;

use std::time::Duration;

use async_trait::async_trait;
use secrecy::SecretString;
use topup_jobs::{Card, Event, JobName, NotifyCustomer, Timestamp, TopupId, TrackTopup};

use self::database::Database;
use super::{
    Applied, Behind, BehindNotification, CardCipher, Change, Deleted, GivenUpNotification, GivenUpOrder,
    HistoryEntry, NewEvent, Notification, Order, OrderStore, Page, PendingNotification, Reveal,
    RevealOutcome, StoreError, UncheckedOrder,
};

pub use self::database::DatabaseKind;
pub use self::rekey::Rekeyed;

/// How long one call may take that a job waits for. A job makes up to seven and then sends or asks the provider;
/// together that stays below the time after which its handler is given up.
const LONGEST_CALL: Duration = Duration::from_secs(10);

/// Opens the database of this address, makes it where it is a file that is missing, and brings its tables up
/// to date. Any number of processes may do so at once.
///
/// # Errors
/// [`StoreError`] where the address is unusable or the database cannot be opened or migrated.
pub async fn open(url: &str, cipher: CardCipher) -> Result<SqlStore, StoreError> {
    Ok(SqlStore { database: Database::open(url).await?, cipher, longest_call: LONGEST_CALL })
}

/// See the module.
#[derive(Debug, Clone)]
pub struct SqlStore {
    database: Database,
    cipher: CardCipher,
    longest_call: Duration,
}

impl SqlStore {
    /// The same, with this limit to the calls that handlers and the page of the cards make. Real time.
    #[must_use]
    pub fn answering_within(self, longest_call: Duration) -> Self {
        Self { longest_call, ..self }
    }

    /// Ends a call that takes too long: a job must not wait for the database so long that it counts as a fault of the
    /// job. A transaction that is cut short is rolled back, unless its commit had reached the database.
    async fn in_time<T>(&self, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let slow = |_elapsed| Err(StoreError::TooSlow(self.longest_call));
        tokio::time::timeout(self.longest_call, call).await.unwrap_or_else(slow)
    }
}

#[async_trait]
impl OrderStore for SqlStore {
    async fn track(&self, request: &TrackTopup, now: Timestamp) -> Result<Order, StoreError> {
        self.in_time(orders::track(&self.database, request, now)).await
    }

    async fn order(&self, topup_id: &TopupId) -> Result<Option<Order>, StoreError> {
        self.in_time(orders::order(&self.database, topup_id)).await
    }

    async fn apply(&self, change: Change<'_>) -> Result<Applied, StoreError> {
        self.in_time(orders::apply(&self.database, &self.cipher, change)).await
    }

    async fn card(&self, topup_id: &TopupId) -> Result<Option<Card>, StoreError> {
        self.in_time(orders::card(&self.database, &self.cipher, topup_id)).await
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

    async fn untold(
        &self,
        before: Timestamp,
        behind: Option<&BehindNotification>,
        most: u32,
    ) -> Result<Page<PendingNotification, BehindNotification>, StoreError> {
        notifications::untold(&self.database, before, behind, most).await
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
        told: &NotifyCustomer,
        attempt: &Notification,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        self.in_time(notifications::begin_attempt(&self.database, told, attempt, now)).await
    }

    async fn record_attempt(
        &self,
        told: &NotifyCustomer,
        attempt: &Notification,
        undelivered: Option<&NewEvent>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        self.in_time(notifications::record_attempt(&self.database, told, attempt, undelivered, now)).await
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
        self.in_time(reveals::token(&self.database, &self.cipher, told, now, expires_at)).await
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
        rekey::rekey(&self.database, &self.cipher, behind, most).await
    }

    async fn links_of_previous_keys(&self) -> Result<u64, StoreError> {
        rekey::links_of_previous_keys(&self.database, &self.cipher).await
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
