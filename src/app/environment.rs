//! Builds from the settings what the handlers use: the store, the provider's clients, the budget, channels and a clock.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use secrecy::ExposeSecret;
use tokio_util::task::TaskTracker;
use topup_jobs::{Outcome, Timestamp};

use crate::clock::{Clock, ScaledClock, SharedTime};
use crate::config::{Config, SettingsError};
use crate::deployment::read_patiently;
use crate::handlers::{Environment, random_jitter};
use crate::maintenance::store_watch::StoreHealth;
use crate::notify::{
    Bulkhead, Channel, Channels, CustomerSettings, Email, EventStream, LogChannel, Sender, Sms, Webhook,
};
use crate::orders::{self, Access, Order, Sample, SqlStore, StoreError};
use crate::provider::{Client, KeyFingerprint, TopupApi};
use crate::rate_limit::{RateLimit, RedisBudget};
use crate::redis::{Backoff, Connection};
use crate::slots::Slots;
use crate::telemetry::Metrics;

/// Maximum number of spare slots. A job that waits for the answer of a slow endpoint runs in a spare slot.
const MAX_SPARE_SLOTS: usize = 512;

/// Opens a worker's database, creates it if it is missing, and migrates its tables. Changes nothing if the jobs in
/// Redis belong to another database, or if this worker's encryption keys do not fit the stored cards.
pub(super) async fn open_store(
    config: &Config,
    connection: &Connection,
    health: &StoreHealth,
) -> anyhow::Result<SqlStore> {
    let url = config.database_url.expose_secret();
    let shared = read_patiently(connection, &config.names).await;
    shared.check_layout(&config.names)?;
    if shared.store.is_some() {
        shared.check(&config.names, health.at_start(store_id(url)).await?.as_deref())?;
    }
    let store = health.at_start(orders::open(url, config.cipher.clone())).await.map_err(store_error)?;
    let store = store.with_connections(config.database_connections);
    let Sample { cards, unreadable, .. } = health.at_start(store.try_keys()).await.map_err(store_error)?;
    if unreadable > 0 {
        tracing::error!(
            tried = cards,
            unreadable,
            "some stored cards cannot be decrypted and are not sent: add their key to ENCRYPTION_KEYS_PREVIOUS; \
             `topup-worker rekey` names their orders"
        );
    }
    Ok(store)
}

/// Opens the existing database, without a migration, in a process for suspects (jobs that ran when their worker died).
pub(super) async fn open_store_for_job(config: &Config) -> anyhow::Result<SqlStore> {
    let (url, cipher) = (config.database_url.expose_secret(), config.cipher.clone());
    let store = orders::open_existing(url, Some(cipher), Access::Write).await.map_err(store_error)?;
    Ok(store.with_connections(config.database_connections))
}

/// Reads the id of the database at this address. `None` if it does not exist, or if its tables are not migrated.
async fn store_id(url: &str) -> anyhow::Result<Option<String>> {
    match orders::open_existing(url, None, Access::Read).await {
        Ok(store) => Ok(Some(store.id().await.map_err(store_error)?)),
        Err(StoreError::Missing(_) | StoreError::NotMigrated) => Ok(None),
        Err(error) => Err(store_error(error)),
    }
}

/// Names the setting that a store error is about: `ENCRYPTION_KEY` if the keys do not fit, otherwise `DATABASE_URL`.
pub(super) fn store_error(error: StoreError) -> anyhow::Error {
    match error {
        StoreError::Keys(why) => {
            SettingsError::Unusable { name: "ENCRYPTION_KEY", why: why.to_string() }.into()
        }
        error => anyhow::Error::from(error).context("the database of DATABASE_URL cannot be used"),
    }
}

pub(super) fn environment(
    config: &Config,
    connection: &Connection,
    store: SqlStore,
    budget: Arc<RedisBudget>,
    metrics: Metrics,
    clock: ScaledClock,
) -> anyhow::Result<Environment> {
    let stream = EventStream::new(connection.clone(), &config.names);
    Ok(Environment {
        store: Arc::new(store),
        apis: apis(config)?,
        budget,
        metrics,
        channels: Channels::new(channels(config, stream)?),
        bulkhead: Bulkhead::new(sending_slots(config.concurrency), |wait| clock.real(wait)),
        clock: Arc::new(clock),
        strategy: config.poll_strategy,
        links: config.reveal.as_ref().map(|reveal| reveal.links.clone()),
        jitter: random_jitter,
        recordings: TaskTracker::new(),
    })
}

/// The slots of notification jobs. A job whose endpoint hangs gets a spare slot; spare slots outnumber the endpoints
/// likely to hang at once. A slot may hold an open connection, so there are fewer slots than files a process may open.
fn sending_slots(concurrency: usize) -> Slots {
    Slots::new(concurrency, (concurrency * 8).min(MAX_SPARE_SLOTS))
}

/// One client of the provider for each API key, the primary one first.
fn apis(config: &Config) -> anyhow::Result<Vec<Arc<dyn TopupApi>>> {
    let primary = Client::new(&config.api_url, &config.api_key)?;
    let secondary =
        config.secondary_api_key.as_ref().map(|key| primary.with_secondary_key(key)).transpose()?;
    let apis = std::iter::once(primary).chain(secondary);
    Ok(apis.map(|api| Arc::new(api) as Arc<dyn TopupApi>).collect())
}

pub(super) fn budget(config: &Config, connection: &Connection) -> RedisBudget {
    RedisBudget::new(connection.clone(), &config.names, rate_limit(config), key_fingerprints(config))
}

/// The fingerprints of the primary API key and, if there is one, of the secondary key.
pub(crate) fn key_fingerprints(config: &Config) -> Vec<KeyFingerprint> {
    std::iter::once(&config.api_key).chain(&config.secondary_api_key).map(KeyFingerprint::new).collect()
}

pub(super) fn rate_limit(config: &Config) -> RateLimit {
    RateLimit {
        requests_per_minute: config.rate_limit,
        max_in_flight: config.max_in_flight,
        minute: Duration::from_mins(1).div_f64(config.time_scale),
        list_polling: config.list_polling,
    }
}

/// Names of the configured channels that send a notification about this outcome of the order.
pub(crate) fn wanting(
    config: &Config,
    connection: &Connection,
    outcome: Outcome,
    order: &Order,
) -> anyhow::Result<Vec<String>> {
    let stream = EventStream::new(connection.clone(), &config.names);
    Ok(Channels::new(channels(config, stream)?).wanting(outcome, order))
}

fn channels(config: &Config, stream: EventStream) -> anyhow::Result<Vec<Arc<dyn Channel>>> {
    let sender = Sender::new(config.webhook_guard.clone())?;
    let callbacks = config.callbacks.as_ref();
    let hosts = callbacks.map(|callbacks| callbacks.hosts.clone()).unwrap_or_default();
    let customers = |card| CustomerSettings { card, delayed: config.customer_delayed };
    let mut channels: Vec<Arc<dyn Channel>> = vec![Arc::new(stream)];
    if let Some(endpoint) = &config.webhook {
        channels.push(Arc::new(Webhook::merchant(sender.clone(), endpoint.clone(), hosts.clone())));
    } else if config.email.is_none() && config.sms.is_none() {
        channels.push(Arc::new(LogChannel));
    }
    if let Some(callbacks) = callbacks {
        channels.push(Arc::new(Webhook::callback(sender.clone(), hosts, callbacks.secrets.clone())));
    }
    if let Some(endpoint) = &config.operator_webhook {
        channels.push(Arc::new(Webhook::operator(sender, endpoint.clone())));
    }
    if let Some(email) = &config.email {
        let templates = config.templates.clone();
        channels.push(Arc::new(Email::customers(email, templates.clone(), customers(email.card))));
        if !email.operator.is_empty() {
            channels.push(Arc::new(Email::operator(email, templates)));
        }
    }
    if let Some(gateway) = &config.sms {
        let sms = Sms::new(gateway.clone(), config.templates.clone(), customers(config.sms_card))?;
        channels.push(Arc::new(sms));
    }
    Ok(channels)
}

/// Builds the clock. If time is scaled, all workers count from one beginning, which the first worker stores in Redis.
pub(super) async fn scaled_clock(
    config: &Config,
    connection: &Connection,
    time: SharedTime,
) -> anyhow::Result<ScaledClock> {
    let (names, scale) = (&config.names, config.time_scale);
    if (scale - 1.0).abs() < f64::EPSILON {
        return Ok(ScaledClock::new(time, scale, Timestamp::UNIX_EPOCH));
    }
    let mut backoff = Backoff::new();
    let (_, anchor): (redis::Value, i64) = loop {
        let mut read = redis::pipe();
        read.cmd("SETNX").arg(names.time_anchor()).arg(time.now().timestamp_millis());
        read.cmd("GET").arg(names.time_anchor());
        match read.query_async(&mut connection.get()).await {
            Ok(read) => break read,
            Err(error) => {
                connection.failed(&error);
                backoff.wait().await;
            }
        }
    };
    connection.answered();
    let anchor = Timestamp::from_timestamp_millis(anchor).context("the time anchor in Redis is invalid")?;
    Ok(ScaledClock::new(time, scale, anchor))
}
