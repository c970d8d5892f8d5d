//! Where orders live: the merchant's database, told the truth at every change.
//!
//! The store is committed before the job is settled. A change based on an outdated reading is refused, so
//! two workers that hold the same order by mistake cannot overwrite each other, and nothing overwrites a
//! final state. Card codes are encrypted before they get here and leave only through [`OrderStore::card`].
//!
//! The database is SQLite or PostgreSQL, as the address says; only `sql` knows which.

mod contact;
mod encryption;
mod error;
mod history;
mod reveal;
mod search;
mod sql;

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
pub(crate) use sql::inspect::{InspectError, Inspector, Sample, place};
pub(crate) use sql::schema::Tables;
pub use sql::{Access, DatabaseKind, Rekeyed, SqlStore, migrate, open, open_existing};

/// An order as it is stored, but for its card.
#[derive(Debug, Clone, PartialEq)]
pub struct Order {
    /// The provider's id.
    pub topup_id: TopupId,
    /// The merchant's reference.
    pub topup_ref: Option<String>,
    /// Kind of top-up, once the provider has told it.
    pub kind: Option<TopupType>,
    /// The number, once the provider has told it.
    pub number: Option<Secret>,
    /// Amount in dinars, once the provider has told it.
    pub topup_amount: Option<i64>,
    /// The customer, as the producer told.
    pub customer: Option<Customer>,
    /// The producer's metadata.
    pub metadata: Option<serde_json::Map<String, serde_json::Value>>,
    /// Where events of this order go instead of to the merchant's endpoint. May hold a token.
    pub callback_url: Option<Secret>,
    /// Attempts and backoff of a failing recheck, where the producer set them.
    pub retry: Option<RetryPolicy>,
    /// Status, times and counts.
    pub tracking: Tracking,
    /// Why it is a dead letter, if it is one.
    pub given_up: Option<String>,
    /// Whether the operator has discarded its dead letter.
    pub discarded: bool,
    /// When a message cancelled it; nothing while it is tracked. It is not checked then, and no queue gets it back.
    pub cancelled_at: Option<Timestamp>,
    /// Number of changes so far.
    pub version: i64,
}

impl Order {
    /// An order of which nothing is known but its id.
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

    /// The customer's language.
    #[must_use]
    pub fn locale(&self) -> Locale {
        self.customer.as_ref().map(|customer| customer.locale).unwrap_or_default()
    }
}

/// A change of an order, to be stored as a whole or not at all.
#[derive(Debug, Clone)]
pub struct Change<'a> {
    /// The job that changes it.
    pub job: JobName,
    /// When, in domain time.
    pub at: Timestamp,
    /// The order as it was read.
    pub order: &'a Order,
    /// Its new state.
    pub record: &'a Tracking,
    /// What the provider answered, if it did.
    pub seen: Option<&'a ProviderOrder>,
    /// Why it is no longer tracked, if that is so.
    pub given_up: Option<&'a str>,
    /// The event this gives rise to, and the channels that carry it.
    pub event: Option<NewEvent>,
}

impl Change<'_> {
    /// The reason of the dead letter that this change makes of the order, if it does. An order that is given up without
    /// an event is none: the operator has ended it, and needs no notice of that.
    #[must_use]
    pub fn dead_letter(&self) -> Option<&str> {
        self.given_up.filter(|_| self.event.is_some())
    }
}

/// One part of a search that goes on from where the part before ended. A row that cannot be read is left out, with a
/// warning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T, B = Behind> {
    /// What was found, in the order of the search.
    pub found: Vec<T>,
    /// Where the search goes on; none where there is no more.
    pub behind: Option<B>,
}

/// The last order of a part of a search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Behind {
    pub(crate) at: Timestamp,
    pub(crate) topup_id: String,
}

/// The last notification of a part of a search.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BehindNotification {
    pub(crate) at: Timestamp,
    pub(crate) event_id: String,
    pub(crate) channel: String,
}

/// An order that should have been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UncheckedOrder {
    /// The provider's id.
    pub topup_id: TopupId,
    /// Its status; of which job it is follows from that.
    pub status: OrderStatus,
    /// Since when it is tracked.
    pub tracked_at: Timestamp,
    /// When it should have been checked.
    pub next_check_at: Timestamp,
    /// Failed attempts of its job in a row.
    pub failed_attempts: u32,
}

/// An order that is a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenUpOrder {
    /// The provider's id.
    pub topup_id: TopupId,
    /// Its status; of which job it is follows from that.
    pub status: OrderStatus,
    /// Why it was given up.
    pub reason: String,
    /// When, in domain time.
    pub at: Timestamp,
    /// Failed attempts of its job in a row before that.
    pub failed_attempts: u32,
    /// What went wrong at the last check.
    pub last_error: Option<String>,
}

/// A notification that is still to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingNotification {
    /// Which one.
    pub notification: NotifyCustomer,
    /// Attempts that have begun.
    pub attempts: u32,
}

/// A notification that was refused, or failed at every attempt, and that the operator has not discarded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenUpNotification {
    /// Its order.
    pub topup_id: TopupId,
    /// The notification.
    pub notification: Notification,
    /// When it was given up, in domain time; unknown where an earlier version of this program did it.
    pub at: Option<Timestamp>,
}

/// What one part of the deletion of old orders did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deleted {
    /// Orders that were deleted.
    pub orders: u32,
    /// Where the search goes on; none where there is no more.
    pub behind: Option<Behind>,
}

/// An event to be stored. A repeat changes nothing: an outcome that does not recur is stored once, and one that does
/// is stored unless the same outcome about the same thing is open.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// What happened.
    pub outcome: Outcome,
    /// What an outcome that recurs is about, where several of its kind can be open side by side: the notification that
    /// was not delivered, the answer that contradicts a final status. Empty for the others.
    pub about: String,
    /// Its body, without the card.
    pub body: Event,
    /// Names of the channels that carry it.
    pub channels: Vec<String>,
    /// The event that notifies the operator that this one reaches neither customer nor merchant. Stored with it.
    pub undelivered: Option<Box<NewEvent>>,
}

/// What became of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// It is stored.
    Stored,
    /// It is stored, but for its event: that is the repeat of one that is stored.
    Repeated,
    /// The order was changed meanwhile by another worker or command; nothing is stored.
    Conflict,
}

/// What came of a message about an order that is known.
#[derive(Debug, Clone, PartialEq)]
pub struct Instructed {
    /// The order as it is stored now.
    pub order: Order,
    /// Whether it is tracked again: it had been cancelled, or given up.
    pub tracked_again: bool,
}

/// How far telling a channel about an event has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    /// What happened.
    pub outcome: Outcome,
    /// Which time it happened.
    pub incident: Incident,
    /// Which channel.
    pub channel: String,
    /// How far.
    pub status: NotificationStatus,
    /// Attempts so far.
    pub attempts: u32,
    /// When it is tried next.
    pub next_attempt_at: Option<Timestamp>,
    /// When it arrived.
    pub sent_at: Option<Timestamp>,
    /// What went wrong at the last attempt.
    pub last_error: Option<String>,
}

impl Notification {
    /// The payload of its job.
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

/// The status of a notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotificationStatus {
    /// Still to be sent.
    Pending,
    /// The channel took it.
    Sent,
    /// Every attempt failed.
    Failed,
    /// The receiver refused it.
    Refused,
    /// It was given up, and the operator has discarded it.
    Discarded,
}

impl NotificationStatus {
    const ALL: [Self; 5] = [Self::Pending, Self::Sent, Self::Failed, Self::Refused, Self::Discarded];

    /// The status as it is stored.
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

/// Stores orders, events and notifications.
#[async_trait]
pub trait OrderStore: Send + Sync + 'static {
    /// The order of this id, stored first if it is new. A message that is newer than the last one of this order
    /// replaces the customer, the metadata and the callback URL where it names them; any other request adds only what
    /// is missing. An order that had been given up (it is not final and has no next look) is tracked from the
    /// beginning again; where a newer message hands it over, its incidents are closed. It stays given up where the
    /// request is of the job that gave it up: it carries a message that is not newer, or the time since when the order
    /// is tracked. One that was cancelled is tracked again only where a newer message hands it over.
    async fn track(&self, request: &TrackTopup, now: Timestamp) -> Result<Order, StoreError>;

    /// Carries out what a message about a known order asks for, and returns what came of it; nothing where no order of
    /// this id is stored. Messages may be carried out in any order: each detail stands as the newest message that names
    /// it says.
    async fn instruct(
        &self,
        request: &TrackTopup,
        instruction: Instruction,
        now: Timestamp,
    ) -> Result<Option<Instructed>, StoreError>;

    /// The order of this id, if it is known.
    async fn order(&self, topup_id: &TopupId) -> Result<Option<Order>, StoreError>;

    /// Stores a change.
    async fn apply(&self, change: Change<'_>) -> Result<Applied, StoreError>;

    /// The card of a fulfilled order, decrypted.
    async fn card(&self, topup_id: &TopupId) -> Result<Option<Card>, StoreError>;

    /// The body of an event, without the card.
    async fn event(&self, notification: &NotifyCustomer) -> Result<Option<Event>, StoreError>;

    /// Orders that this job should have looked at before this time, the oldest first, from behind the last one that
    /// was found before.
    async fn unchecked_orders(
        &self,
        job: JobName,
        before: Timestamp,
        behind: Option<&Behind>,
        most: u32,
    ) -> Result<Page<UncheckedOrder>, StoreError>;

    /// Orders that are dead letters, those given up first first.
    async fn given_up_orders(
        &self,
        behind: Option<&Behind>,
        most: u32,
    ) -> Result<Page<GivenUpOrder>, StoreError>;

    /// Notifications that should have been sent before this time, the oldest first.
    async fn pending_notifications(
        &self,
        before: Timestamp,
        behind: Option<&BehindNotification>,
        most: u32,
    ) -> Result<Page<PendingNotification, BehindNotification>, StoreError>;

    /// Notifications that are dead letters, in the order of their events' ids. Those begin with the time when the
    /// provider created the order.
    async fn given_up_notifications(
        &self,
        behind: Option<&BehindNotification>,
        most: u32,
    ) -> Result<Page<GivenUpNotification, BehindNotification>, StoreError>;

    /// Has an order that is not final tracked from the beginning again, and closes its incidents, since the operator
    /// has replayed its dead letter; returns whether it was changed.
    async fn replay_order(
        &self,
        topup_id: &TopupId,
        reason: &str,
        now: Timestamp,
    ) -> Result<bool, StoreError>;

    /// Stores that the operator has discarded the dead letter of an order that is not final: it is not tracked any
    /// more; returns whether it was changed.
    async fn discard_order(
        &self,
        topup_id: &TopupId,
        reason: &str,
        now: Timestamp,
    ) -> Result<bool, StoreError>;

    /// Stores the reason of the dead letter of an order that an earlier version of this program gave up without
    /// storing it; returns whether it was missing.
    async fn note_given_up(
        &self,
        topup_id: &TopupId,
        reason: &str,
        at: Timestamp,
    ) -> Result<bool, StoreError>;

    /// The notifications of the order's events, and their status.
    async fn notifications(&self, topup_id: &TopupId) -> Result<Vec<Notification>, StoreError>;

    /// The status of one notification, if there is one.
    async fn notification(&self, notification: &NotifyCustomer) -> Result<Option<Notification>, StoreError> {
        let mut of_order = self.notifications(&notification.topup_id).await?.into_iter();
        Ok(of_order.find(|stored| stored.payload(&notification.topup_id) == *notification))
    }

    /// Stores that this is not told any more, for this reason, and with it the event that notifies the
    /// operator; returns whether it was pending.
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

    /// Stores that the operator has discarded a notification that was not delivered: it is not sent any more, and does
    /// not keep its order from being deleted. One that was delivered is left as it is.
    async fn discard(
        &self,
        notification: &NotifyCustomer,
        reason: &str,
        now: Timestamp,
    ) -> Result<(), StoreError>;

    /// Makes this notification pending again with all its attempts, for this reason; returns whether it was changed.
    /// One that was delivered is changed only with `sent_too`. A further failure is a new incident.
    async fn notify_again(
        &self,
        notification: &NotifyCustomer,
        reason: &str,
        sent_too: bool,
        now: Timestamp,
    ) -> Result<bool, StoreError>;

    /// Adds a notification of a stored event, due now, for a channel that has none of it; returns whether it was added.
    async fn add_notification(
        &self,
        notification: &NotifyCustomer,
        reason: &str,
        now: Timestamp,
    ) -> Result<bool, StoreError>;

    /// Makes a pending notification due now; returns whether it is pending.
    async fn hasten(&self, notification: &NotifyCustomer, now: Timestamp) -> Result<bool, StoreError>;

    /// Closes the open incidents of an order that is tracked anew: what happens to it from now on is news. What a
    /// provider said against a final status, and what was not delivered, stays open.
    async fn close_incidents(&self, topup_id: &TopupId) -> Result<(), StoreError>;

    /// Stores that an attempt to tell a channel begins.
    async fn begin_attempt(
        &self,
        notification: &NotifyCustomer,
        attempt: &Notification,
        now: Timestamp,
    ) -> Result<(), StoreError>;

    /// Stores how an attempt to tell a channel went and, where that was the end of it, the event that notifies the
    /// operator. Returns whether that is what stands now: a slower worker changes nothing that has ended, except that
    /// what it delivered is delivered.
    async fn record_attempt(
        &self,
        notification: &NotifyCustomer,
        attempt: &Notification,
        undelivered: Option<&NewEvent>,
        now: Timestamp,
    ) -> Result<bool, StoreError>;

    /// What became of an order, from its beginning on.
    async fn history(&self, topup_id: &TopupId) -> Result<Vec<HistoryEntry>, StoreError>;

    /// The token of the link by which this channel lets its receiver see the card once, up to `expires_at`.
    /// Every attempt of one event gets the same token, and the time of the last stands.
    async fn reveal_token(
        &self,
        notification: &NotifyCustomer,
        now: Timestamp,
        expires_at: Timestamp,
    ) -> Result<SecretString, StoreError>;

    /// The link of this token, if there is one.
    async fn reveal(&self, token: &str) -> Result<Option<Reveal>, StoreError>;

    /// Counts a try to see the card, `right` or wrong, and decides it: of any number of right tries at the
    /// same time, one is [`RevealOutcome::Shown`]. It is returned once: the caller reads the card before.
    async fn try_reveal(
        &self,
        token: &str,
        right: bool,
        most_tries: u32,
        now: Timestamp,
    ) -> Result<RevealOutcome, StoreError>;

    /// Deletes final orders that became so before this time, with all that belongs to them: of so many, from behind
    /// the last one of the call before, those that may go. An order stays while one of its notifications is pending,
    /// refused or failed; while a link still shows its card; and while it has an incident that no receiver knows of.
    /// The stream and the log get no card, so that a failure there keeps nothing.
    async fn delete_ended(
        &self,
        before: Timestamp,
        now: Timestamp,
        behind: Option<&Behind>,
        most: u32,
    ) -> Result<Deleted, StoreError>;

    /// Encrypts stored cards with the current key, the next ones behind this id.
    async fn rekey(&self, behind: Option<&TopupId>, most: u32) -> Result<Rekeyed, StoreError>;

    /// How many links that a previous key has made are still to be sent again.
    async fn links_of_previous_keys(&self) -> Result<u64, StoreError>;
}
