//! Read-only access to the workers' store. The connection cannot write, because the demo must not repair what it
//! compares. The queries must read neither cards nor customer data.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions};
use sqlx::{ConnectOptions, Row};

pub(super) struct Ledger {
    pool: SqlitePool,
}

/// Counts read from the store at one moment: orders by status, events and notifications.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) orders: BTreeMap<String, u64>,
    pub(super) events: u64,
    /// Notifications that are not delivered yet.
    pub(super) pending: u64,
    /// FULFILLED orders that were SCHEDULED before.
    pub(super) fulfilled_later: u64,
}

pub(super) struct Entry {
    pub(super) status: String,
    pub(super) was_scheduled: bool,
    pub(super) was_delayed: bool,
}

/// All orders and events in the store, which the verdict compares with the provider and the shop.
pub(super) struct Books {
    /// Keyed by `topupId`.
    pub(super) orders: BTreeMap<String, Entry>,
    /// Event ids, which are also the `webhook-id`s.
    pub(super) events: BTreeSet<String>,
}

impl Counts {
    pub(super) fn of(&self, status: &str) -> u64 {
        self.orders.get(status).copied().unwrap_or(0)
    }

    pub(super) fn settled(&self) -> u64 {
        self.of("FULFILLED") + self.of("REFUNDED")
    }
}

impl Ledger {
    /// Opens the store that a worker has created.
    pub(super) async fn open(url: &str) -> anyhow::Result<Self> {
        let options = SqliteConnectOptions::from_str(url)?.read_only(true).disable_statement_logging();
        Ok(Self { pool: SqlitePoolOptions::new().max_connections(1).connect_with(options).await? })
    }

    pub(super) async fn counts(&self) -> anyhow::Result<Counts> {
        let mut reading = self.pool.begin().await?;
        let rows = sqlx::query("SELECT status, count(*) AS orders FROM internet_orders GROUP BY status")
            .fetch_all(&mut *reading)
            .await?;
        let mut counts = Counts::default();
        for row in rows {
            counts.orders.insert(row.try_get("status")?, row.try_get("orders")?);
        }
        let row = sqlx::query(
            "SELECT (SELECT count(*) FROM events) AS events,
                 (SELECT count(*) FROM notifications WHERE status <> 'sent') AS pending,
                 (SELECT count(*) FROM internet_orders
                  WHERE status = 'FULFILLED' AND scheduled_at IS NOT NULL) AS fulfilled_later",
        )
        .fetch_one(&mut *reading)
        .await?;
        counts.events = row.try_get("events")?;
        counts.pending = row.try_get("pending")?;
        counts.fulfilled_later = row.try_get("fulfilled_later")?;
        Ok(counts)
    }

    pub(super) async fn books(&self) -> anyhow::Result<Books> {
        let mut reading = self.pool.begin().await?;
        let rows = sqlx::query(
            "SELECT topup_id, status, scheduled_at IS NOT NULL AS was_scheduled, delays > 0 AS was_delayed
             FROM internet_orders",
        )
        .fetch_all(&mut *reading)
        .await?;
        let mut orders = BTreeMap::new();
        for row in rows {
            let entry = Entry {
                status: row.try_get("status")?,
                was_scheduled: row.try_get("was_scheduled")?,
                was_delayed: row.try_get("was_delayed")?,
            };
            orders.insert(row.try_get("topup_id")?, entry);
        }
        let events: Vec<String> =
            sqlx::query_scalar("SELECT event_id FROM events").fetch_all(&mut *reading).await?;
        Ok(Books { orders, events: events.into_iter().collect() })
    }
}
