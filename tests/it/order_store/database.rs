//! A test database and helpers that store orders in it.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection as _, PgConnection, SqliteConnection};
use tempfile::TempDir;
use topup_jobs::{
    Card, Event, EventData, Incident, JobName, NotifyCustomer, OrderStatus, Outcome, ProviderOrder, Secret,
    Timestamp, TopupId, TopupStatus, TopupType, TrackTopup, Tracking,
};
use topup_worker::orders::{
    self, Applied, CardCipher, Change, NewEvent, Notification, NotificationStatus, Order, OrderStore,
    SqlStore, StoreError,
};

use crate::support::ENCRYPTION_KEY;
use crate::support::postgres::TestPostgres;

/// The card of every fulfilled order.
pub(super) const CARD: &str = "123456789012";

/// A SQLite file or a PostgreSQL database that belongs to one test.
pub(super) struct TestDatabase {
    url: String,
    database: Database,
}

enum Database {
    File { _folder: TempDir },
    Server { _server: TestPostgres },
}

impl TestDatabase {
    pub(super) fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("orders.db").display());
        Self { url, database: Database::File { _folder: folder } }
    }

    pub(super) async fn postgres() -> Option<Self> {
        let server = TestPostgres::start()?;
        Some(Self { url: server.database().await, database: Database::Server { _server: server } })
    }

    /// Opens the store, as a worker does.
    pub(super) async fn store(&self) -> SqlStore {
        self.store_with(CardCipher::new(&ENCRYPTION_KEY.into()).unwrap()).await
    }

    pub(super) async fn store_with(&self, cipher: CardCipher) -> SqlStore {
        orders::open(&self.url, cipher).await.unwrap()
    }

    /// Runs a query past the store and returns its only column.
    pub(super) async fn column(&self, statement: &'static str) -> Vec<String> {
        match &self.database {
            Database::File { .. } => {
                let mut connection = SqliteConnection::connect(&self.url).await.unwrap();
                sqlx::query_scalar(statement).fetch_all(&mut connection).await.unwrap()
            }
            Database::Server { .. } => {
                let mut connection = PgConnection::connect(&self.url).await.unwrap();
                sqlx::query_scalar(statement).fetch_all(&mut connection).await.unwrap()
            }
        }
    }

    /// Runs a statement past the store; each database has a text of its own.
    pub(super) async fn execute(&self, sqlite: &str, postgres: &str) {
        match &self.database {
            Database::File { .. } => {
                let mut connection = SqliteConnection::connect(&self.url).await.unwrap();
                sqlx::raw_sql(AssertSqlSafe(sqlite.to_owned())).execute(&mut connection).await.unwrap();
            }
            Database::Server { .. } => {
                let mut connection = PgConnection::connect(&self.url).await.unwrap();
                sqlx::raw_sql(AssertSqlSafe(postgres.to_owned())).execute(&mut connection).await.unwrap();
            }
        }
    }

    /// The `DATABASE_URL` of this database.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Whether a text column can hold U+0000, which PostgreSQL rejects.
    pub(super) fn keeps_nul(&self) -> bool {
        matches!(self.database, Database::File { .. })
    }
}

/// This many seconds after the start of the tests.
pub(super) fn at(seconds: u64) -> Timestamp {
    let start: Timestamp = "2026-11-24T14:00:00.123456Z".parse().unwrap();
    start + Duration::from_secs(seconds)
}

/// The id of the order with this number.
pub(super) fn id(number: u32) -> TopupId {
    format!("{number:024x}").parse().unwrap()
}

/// The notification of this outcome by `sms`.
pub(super) fn by_sms(topup_id: &TopupId, outcome: Outcome) -> NotifyCustomer {
    NotifyCustomer {
        topup_id: topup_id.clone(),
        outcome,
        incident: Incident::FIRST,
        channel: "sms".to_owned(),
    }
}

/// The provider's response for a fulfilled order.
pub(super) fn fulfilled() -> ProviderOrder {
    ProviderOrder {
        status: TopupStatus::Fulfilled,
        topup_ref: Some("order-123456".to_owned()),
        kind: Some(TopupType::Adsl),
        number: Some(Secret::new("036362608")),
        topup_amount: Some(1_000),
        card: Some(Card {
            card_code: Secret::new(CARD),
            num_trans: Some("AT-2025-12345".to_owned()),
            date_traitement: Some("2025-11-01T12:00:45.000Z".to_owned()),
        }),
    }
}

/// An event of this outcome with a pending notification by `sms`.
pub(super) fn event(topup_id: &TopupId, outcome: Outcome, now: Timestamp) -> NewEvent {
    let data = EventData::new(topup_id.clone(), OrderStatus::Fulfilled, "رصيدك جاهز".to_owned());
    NewEvent {
        outcome,
        about: String::new(),
        body: Event { kind: outcome.event_type(), timestamp: now, data },
        channels: vec!["sms".to_owned()],
        undelivered: None,
    }
}

/// Changes the record of an order, as the job `poll-topup` does.
pub(super) async fn change(
    store: &SqlStore,
    topup_id: &TopupId,
    now: Timestamp,
    make: impl FnOnce(&mut Tracking),
) -> Applied {
    let order = store.order(topup_id).await.unwrap().expect("the order is tracked");
    let mut record = order.tracking.clone();
    make(&mut record);
    let change = Change {
        job: JobName::PollTopup,
        at: now,
        order: &order,
        record: &record,
        seen: None,
        given_up: None,
        event: None,
    };
    store.apply(change).await.unwrap().0
}

/// Tracks an order and stores it as fulfilled, with a pending notification by `sms`.
pub(super) async fn fulfill(store: &SqlStore, topup_id: &TopupId, now: Timestamp) {
    let order = store.track(&TrackTopup::new(topup_id.clone()), now).await.unwrap();
    assert_eq!(try_fulfill(store, &order, now).await.unwrap(), Applied::Stored);
}

/// Stores a tracked order as fulfilled, with a pending notification by `sms`.
pub(super) async fn try_fulfill(
    store: &SqlStore,
    order: &Order,
    now: Timestamp,
) -> Result<Applied, StoreError> {
    let record = Tracking {
        status: OrderStatus::Fulfilled,
        next_check_at: None,
        fulfilled_at: Some(now),
        last_checked_at: Some(now),
        polls: 1,
        ..order.tracking.clone()
    };
    let change = Change {
        job: JobName::PollTopup,
        at: now,
        order,
        record: &record,
        seen: Some(&fulfilled()),
        given_up: None,
        event: Some(event(&order.topup_id, Outcome::Fulfilled, now)),
    };
    store.apply(change).await.map(|(applied, _)| applied)
}

/// Records that the notification of the fulfilled order was sent by `sms`.
pub(super) async fn mark_sent(store: &SqlStore, topup_id: &TopupId, now: Timestamp) {
    let sent = Notification {
        outcome: Outcome::Fulfilled,
        incident: Incident::FIRST,
        channel: "sms".to_owned(),
        status: NotificationStatus::Sent,
        attempts: 1,
        next_attempt_at: None,
        sent_at: Some(now),
        last_error: None,
    };
    store.record_attempt(&by_sms(topup_id, Outcome::Fulfilled), &sent, None, now).await.unwrap();
}
