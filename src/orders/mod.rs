//! The store of orders, events and notifications in the merchant's database.
//!
//! A change of an order is committed before its job is settled. A change based on an outdated read is refused, so two
//! workers that hold the same order by mistake cannot overwrite each other. Nothing overwrites a final status. Card
//! codes are stored encrypted; only [`OrderStore::card`] reads them. Only the module `sql` knows the kind of database.

mod contact;
mod encryption;
mod error;
mod history;
mod reveal;
mod search;
mod sql;
mod withheld;

use std::time::Duration;

use async_trait::async_trait;
use secrecy::SecretString;
use topup_jobs::{
    Card, Customer, Event, Incident, Instruction, JobName, Locale, NotifyCustomer, OrderStatus, Outcome,
    ProviderOrder, RetryPolicy, Secret, Timestamp, TopupId, TopupType, TrackTopup, Tracking,
};

pub use encryption::{CardCipher, DecryptionError, InvalidKey};
pub(crate) use error::NO_ANSWER;
pub use error::{KeysRefused, StoreError};
pub use history::{Attempt, HistoryEntry, Occurrence};
pub use reveal::{Reveal, RevealOutcome};
pub use search::{Found, Search};
pub(crate) use sql::connections::{DEFAULT_CONNECTIONS, MAX_CONNECTIONS};
pub(crate) use sql::inspect::{InspectError, Inspector, Sample, place, rehearse};
pub(crate) use sql::schema::Tables;
pub use sql::{Access, DatabaseKind, Rekeyed, SqlStore, migrate, open, open_existing};

/// A stored order, without its card.
#[derive(Debug, Clone, PartialEq)]
pub struct Order {
    /// The id that the provider gave the order.
    pub topup_id: TopupId,
    /// The merchant's own reference of the order.
    pub topup_ref: Option<String>,
    /// Kind of top-up, once the provider has reported it.
    pub kind: Option<TopupType>,
    /// The number that is topped up, once the provider has reported it.
    pub number: Option<Secret>,
    /// Amount in dinars, once the provider has reported it.
    pub topup_amount: Option<i64>,
    /// The customer that the producer's messages name.
    pub customer: Option<Customer>,
    /// The producer's JSON object, returned in every event.
    pub metadata: Option<serde_json::Map<String, serde_json::Value>>,
    /// The endpoint that gets the events of this order instead of the merchant's. May contain a token.
    pub callback_url: Option<Secret>,
    /// Attempts and backoff of a failing recheck, if the producer set them.
    pub retry: Option<RetryPolicy>,
    /// Tracking state: status, times and counts.
    pub tracking: Tracking,
    /// Why the order is dead-lettered, if it is.
    pub given_up: Option<String>,
    /// Whether the operator has discarded the dead letter.
    pub discarded: bool,
    /// When a message cancelled the order. A cancelled order is not checked and not put back into a queue.
    pub cancelled_at: Option<Timestamp>,
    /// Number of changes so far; a change based on an older version is refused.
    pub version: i64,
}

impl Order {
    /// A new order of which only the id is known.
    #[must_use]
    pub fn new(topup_id: TopupId, now: Timestamp) -> Self {
        Self {
            topup_id,
            topup_ref: None,
            kind: None,
            number: None,
            topup_amount: None,
            customer: None,
            callback_url: None,
            metadata: None,
            retry: None,
            tracking: Tracking::new(now),
            given_up: None,
            discarded: false,
            cancelled_at: None,
            version: 0,
        }
    }

    /// The customer's language; the default language if no customer is stored.
    #[must_use]
    pub fn locale(&self) -> Locale {
        self.customer.as_ref().map(|customer| customer.locale).unwrap_or_default()
    }
}

/// A change of an order, stored as a whole or not at all.
#[derive(Debug, Clone)]
pub struct Change<'a> {
    /// The job that changes the order.
    pub job: JobName,
    /// Time of the change, in domain time.
    pub at: Timestamp,
    /// The order as it was read before the change.
    pub order: &'a Order,
    /// The tracking state to store.
    pub record: &'a Tracking,
    /// The provider's answer, if there was one.
    pub seen: Option<&'a ProviderOrder>,
    /// Why the order is no longer tracked, if the change ends its tracking.
    pub given_up: Option<&'a str>,
    /// The event that the change causes, with its channels.
    pub event: Option<NewEvent>,
}

impl Change<'_> {
    /// The reason, if this change dead-letters the order. The event of the change notifies the operator of that.
    #[must_use]
    pub fn dead_letter(&self) -> Option<&str> {
        self.given_up.filter(|_| self.event.is_some())
    }
}

/// One page of a search. A row that cannot be read is skipped with a warning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T, B = Behind> {
    /// The results of the page, sorted as the search defines.
    pub found: Vec<T>,
    /// Cursor for the next page; `None` after the last one.
    pub behind: Option<B>,
}

/// Cursor of a search for orders: the last order of a page, after which the next page begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Behind {
    pub(crate) at: Timestamp,
    pub(crate) topup_id: String,
}

/// Cursor of a search for notifications: the last notification of a page, after which the next page begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BehindNotification {
    pub(crate) at: Timestamp,
    pub(crate) event_id: String,
    pub(crate) channel: String,
}

/// An order whose next check is overdue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UncheckedOrder {
    /// The id that the provider gave the order.
    pub topup_id: TopupId,
    /// Status of the order, which determines its job: poll or recheck.
    pub status: OrderStatus,
    /// Start of the tracking.
    pub tracked_at: Timestamp,
    /// Time at which the check was due.
    pub next_check_at: Timestamp,
    /// Consecutive failed attempts of the order's job.
    pub failed_attempts: u32,
}

/// A dead-lettered order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenUpOrder {
    /// The id that the provider gave the order.
    pub topup_id: TopupId,
    /// Status of the order, which determines its job: poll or recheck.
    pub status: OrderStatus,
    /// Why the order was given up.
    pub reason: String,
    /// When the order was given up, in domain time.
    pub at: Timestamp,
    /// Consecutive failed attempts of the order's job before the order was given up.
    pub failed_attempts: u32,
    /// Error of the last check.
    pub last_error: Option<String>,
}

/// A notification that is still to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingNotification {
    /// Payload of the job that sends it.
    pub notification: NotifyCustomer,
    /// Attempts begun so far.
    pub attempts: u32,
}

/// A dead-lettered notification: refused, or failed at every attempt, and not discarded by the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenUpNotification {
    /// The order that the event is about.
    pub topup_id: TopupId,
    /// The notification as it is stored.
    pub notification: Notification,
    /// When the notification was given up, in domain time; `None` if an earlier version of this program gave it up.
    pub at: Option<Timestamp>,
}

/// What an attempt to send a notification needs.
#[derive(Debug, Clone)]
pub struct ForAttempt {
    /// The order of the notification.
    pub order: Order,
    /// The notification; `None` if it is not stored.
    pub notification: Option<Notification>,
    /// The body of the event as it is stored, without the card; `None` if the event is not stored.
    body: Option<String>,
    /// The card, if it was asked for and is stored.
    pub card: Result<Option<Card>, DecryptionError>,
}

impl ForAttempt {
    /// The event, without the card; `None` if it is not stored.
    ///
    /// # Errors
    /// [`StoreError::Row`] if the stored body cannot be read.
    pub fn event(&self) -> Result<Option<Event>, StoreError> {
        let read = |body: &String| serde_json::from_str(body).map_err(|_| StoreError::Row("event"));
        self.body.as_ref().map(read).transpose()
    }
}

/// The pause after a batch of a long series of writes: twice as long as the batch, so that other writes find room.
#[must_use]
pub(crate) fn pause_after(batch: Duration) -> Duration {
    (batch * 2).clamp(Duration::from_millis(20), Duration::from_secs(2))
}

/// Result of deleting one page of old orders.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deleted {
    /// Number of deleted orders.
    pub orders: u32,
    /// Cursor behind the last examined order; `None` if there was none.
    pub behind: Option<Behind>,
    /// Whether more orders may follow.
    pub more: bool,
}

/// An event to be stored. An outcome that cannot recur is stored once per order. Each occurrence of a recurring outcome
/// is an incident. While an incident is open, no further one with the same outcome and `about` is stored.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// What happened to the order.
    pub outcome: Outcome,
    /// Subject of an outcome that can have several open incidents: the undelivered notification, or the answer that
    /// contradicts a final status. Empty for all other outcomes.
    pub about: String,
    /// Body of the event, without the card.
    pub body: Event,
    /// Names of the channels that deliver the event.
    pub channels: Vec<String>,
    /// A second event, if the channels of this one reach neither customer nor merchant: it tells the operator so.
    pub undelivered: Option<Box<NewEvent>>,
}

/// Result of [`OrderStore::apply`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// The change is stored.
    Stored,
    /// The change is stored without its event, because the event repeats a stored one.
    Repeated,
    /// Another worker or command has changed the order meanwhile; nothing is stored.
    Conflict,
}

/// Result of a message about a known order.
#[derive(Debug, Clone, PartialEq)]
pub struct Instructed {
    /// The order after the message.
    pub order: Order,
    /// Whether the message resumed the tracking of a cancelled or given-up order.
    pub tracked_again: bool,
}

/// The delivery of one event by one channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    /// Outcome that the event reports.
    pub outcome: Outcome,
    /// Number of the incident, counted from 1, because the outcome may occur several times.
    pub incident: Incident,
    /// Name of the channel.
    pub channel: String,
    /// State of the delivery.
    pub status: NotificationStatus,
    /// Attempts so far.
    pub attempts: u32,
    /// Time of the next attempt.
    pub next_attempt_at: Option<Timestamp>,
    /// When the channel accepted the event.
    pub sent_at: Option<Timestamp>,
    /// Error of the last attempt.
    pub last_error: Option<String>,
}

impl Notification {
    /// The payload of the job that sends this notification.
    #[must_use]
    pub fn payload(&self, topup_id: &TopupId) -> NotifyCustomer {
        NotifyCustomer {
            topup_id: topup_id.clone(),
            outcome: self.outcome,
            incident: self.incident,
            channel: self.channel.clone(),
        }
    }
}

/// State of a delivery, as it is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotificationStatus {
    /// Still to be sent.
    Pending,
    /// The channel accepted the event.
    Sent,
    /// Every attempt failed.
    Failed,
    /// The receiver refused the event.
    Refused,
    /// The operator has discarded the notification.
    Discarded,
}

impl NotificationStatus {
    const ALL: [Self; 5] = [Self::Pending, Self::Sent, Self::Failed, Self::Refused, Self::Discarded];

    /// The stored word of this status.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Sent => "sent",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Discarded => "discarded",
        }
    }
}

impl std::str::FromStr for NotificationStatus {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let status = Self::ALL.into_iter().find(|status| status.as_str() == text);
        status.ok_or(StoreError::Row("notification status"))
    }
}

/// Stores orders, events and notifications. Each method returns [`StoreError`] if the database fails.
#[async_trait]
pub trait OrderStore: Send + Sync + 'static {
    /// Stores the order if it is new, and returns it. In a stored order, each detail (customer, metadata, callback URL)
    /// gets the value from the newest message that names it; a request without a message only adds missing details. A
    /// given-up order (not final, no next check) is tracked from the beginning again, unless the request is of the job
    /// that gave it up: then its message is not newer, or its `tracked_at` is that of the order. A cancelled order is
    /// resumed only by a newer message. A newer message that resumes an order also closes its incidents.
    async fn track(&self, request: &TrackTopup, now: Timestamp) -> Result<Order, StoreError>;

    /// Applies a message about a known order. Returns `None` if no order of this id is stored. The sequence of the
    /// calls does not matter, because each detail keeps the value from the newest message that names it.
    async fn instruct(
        &self,
        request: &TrackTopup,
        instruction: Instruction,
        now: Timestamp,
    ) -> Result<Option<Instructed>, StoreError>;

    /// Reads an order; `None` if it is unknown.
    async fn order(&self, topup_id: &TopupId) -> Result<Option<Order>, StoreError>;

    /// Stores a change with its event, unless the order has changed since it was read. Also returns the order's pending
    /// notifications; none after a conflict.
    async fn apply(&self, change: Change<'_>) -> Result<(Applied, Vec<NotifyCustomer>), StoreError>;

    /// The decrypted card of a fulfilled order; `None` if no card is stored.
    async fn card(&self, topup_id: &TopupId) -> Result<Option<Card>, StoreError>;

    /// Reads at once what an attempt to send this notification needs; `None` if the order is not stored. The card is
    /// decrypted only if `with_card` is set.
    async fn for_attempt(
        &self,
        notification: &NotifyCustomer,
        with_card: bool,
    ) -> Result<Option<ForAttempt>, StoreError>;

    /// Returns up to `most` orders after the cursor whose check by `job` was due before `before`, the earliest first.
    async fn unchecked_orders(
        &self,
        job: JobName,
        before: Timestamp,
        behind: Option<&Behind>,
        most: u32,
    ) -> Result<Page<UncheckedOrder>, StoreError>;

    /// Dead-lettered orders, sorted by the time at which they were given up.
    async fn given_up_orders(
        &self,
        behind: Option<&Behind>,
        most: u32,
    ) -> Result<Page<GivenUpOrder>, StoreError>;

    /// Pending notifications that were due before `before`, the earliest first.
    async fn pending_notifications(
        &self,
        before: Timestamp,
        behind: Option<&BehindNotification>,
        most: u32,
    ) -> Result<Page<PendingNotification, BehindNotification>, StoreError>;

    /// Dead-lettered notifications, sorted by event id and so by the time at which the provider created their orders.
    async fn given_up_notifications(
        &self,
        behind: Option<&BehindNotification>,
        most: u32,
    ) -> Result<Page<GivenUpNotification, BehindNotification>, StoreError>;

    /// Replays a dead letter: tracks the order from the start and closes its incidents. False if the order is final.
    async fn replay_order(
        &self,
        topup_id: &TopupId,
        reason: &str,
        now: Timestamp,
    ) -> Result<bool, StoreError>;

    /// Discards the dead letter of a non-final order, and ends the order's tracking. Returns whether the order changed.
    async fn discard_order(
        &self,
        topup_id: &TopupId,
        reason: &str,
        now: Timestamp,
    ) -> Result<bool, StoreError>;

    /// Adds the reason of a given-up order if an earlier version did not store it. Returns whether it was missing.
    async fn note_given_up(
        &self,
        topup_id: &TopupId,
        reason: &str,
        at: Timestamp,
    ) -> Result<bool, StoreError>;

    /// All notifications of an order, the oldest event first.
    async fn notifications(&self, topup_id: &TopupId) -> Result<Vec<Notification>, StoreError>;

    /// Reads one notification; `None` if it is not stored.
    async fn notification(&self, notification: &NotifyCustomer) -> Result<Option<Notification>, StoreError> {
        let mut of_order = self.notifications(&notification.topup_id).await?.into_iter();
        Ok(of_order.find(|stored| stored.payload(&notification.topup_id) == *notification))
    }

    /// Gives up a notification and stores the event for the operator. Returns false if the notification is not pending.
    async fn give_up_notification(
        &self,
        notification: &NotifyCustomer,
        reason: &str,
        undelivered: Option<&NewEvent>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let stored = self.notification(notification).await?;
        let Some(stored) = stored.filter(|stored| stored.status == NotificationStatus::Pending) else {
            return Ok(false);
        };
        let (status, last_error) = (NotificationStatus::Failed, Some(reason.to_owned()));
        let given_up = Notification { status, next_attempt_at: None, last_error, ..stored };
        self.record_attempt(notification, &given_up, undelivered, now).await
    }

    /// Discards a notification that was not delivered: the notification is not sent any more and no longer keeps its
    /// order from being deleted. A delivered notification stays unchanged.
    async fn discard(
        &self,
        notification: &NotifyCustomer,
        reason: &str,
        now: Timestamp,
    ) -> Result<(), StoreError>;

    /// Makes a notification pending again, with no attempt used; a delivered one only if `sent_too` is set. A later
    /// failure is reported to the operator as a new incident. Returns whether the notification was changed.
    async fn notify_again(
        &self,
        notification: &NotifyCustomer,
        reason: &str,
        sent_too: bool,
        now: Timestamp,
    ) -> Result<bool, StoreError>;

    /// Adds a notification, due now, of a stored event, if its channel has none yet. Returns whether one was added.
    async fn add_notification(
        &self,
        notification: &NotifyCustomer,
        reason: &str,
        now: Timestamp,
    ) -> Result<bool, StoreError>;

    /// Makes a pending notification due now. Returns whether the notification is pending.
    async fn hasten(&self, notification: &NotifyCustomer, now: Timestamp) -> Result<bool, StoreError>;

    /// Closes the open incidents of an order that is tracked again, so that new ones are reported again. Incidents
    /// about a contradicted final status or an undelivered notification stay open.
    async fn close_incidents(&self, topup_id: &TopupId) -> Result<(), StoreError>;

    /// Stores that an attempt to notify begins.
    async fn begin_attempt(
        &self,
        notification: &NotifyCustomer,
        attempt: &Notification,
        now: Timestamp,
    ) -> Result<(), StoreError>;

    /// Stores the result of an attempt and, if the notification is given up, the event that notifies the operator.
    /// Returns whether the result was accepted: a notification that is no longer pending changes only to `Sent`.
    async fn record_attempt(
        &self,
        notification: &NotifyCustomer,
        attempt: &Notification,
        undelivered: Option<&NewEvent>,
        now: Timestamp,
    ) -> Result<bool, StoreError>;

    /// The history of an order, the oldest entry first.
    async fn history(&self, topup_id: &TopupId) -> Result<Vec<HistoryEntry>, StoreError>;

    /// The token of the link that shows the card once, until `expires_at`. Every attempt of a notification gets the
    /// same token; a later attempt extends the expiry of a link that has not shown the card yet.
    async fn reveal_token(
        &self,
        notification: &NotifyCustomer,
        now: Timestamp,
        expires_at: Timestamp,
    ) -> Result<SecretString, StoreError>;

    /// Reads the link of a token; `None` if the token is unknown.
    async fn reveal(&self, token: &str) -> Result<Option<Reveal>, StoreError>;

    /// Counts a try to see the card; `right` says whether the digits were correct. Of several concurrent right tries
    /// exactly one is [`RevealOutcome::Shown`]. The caller must read the card before, as `Shown` is returned only once.
    async fn try_reveal(
        &self,
        token: &str,
        right: bool,
        most_tries: u32,
        now: Timestamp,
    ) -> Result<RevealOutcome, StoreError>;

    /// Deletes orders that became final before `before`, with all their rows. Each call examines the next `most` of
    /// these orders. An order is kept while one of its notifications is pending, refused or failed, while a link can
    /// still show its card, and while it has an incident that no receiver has been notified of. Refused or failed
    /// notifications of the stream and the log do not keep an order, because these channels carry no card.
    async fn delete_ended(
        &self,
        before: Timestamp,
        now: Timestamp,
        behind: Option<&Behind>,
        most: u32,
    ) -> Result<Deleted, StoreError>;

    /// Returns some unused pages of a SQLite file to the file system, if many are unused. Returns whether more remain.
    async fn release_space(&self) -> Result<bool, StoreError>;

    /// Encrypts the next `most` stored cards, from after the order id `behind`, with the current key.
    async fn rekey(&self, behind: Option<&TopupId>, most: u32) -> Result<Rekeyed, StoreError>;

    /// Number of pending notifications whose link was made with a previous key.
    async fn links_of_previous_keys(&self) -> Result<u64, StoreError>;
}
