//! What the handlers work with, put together from the settings.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use secrecy::ExposeSecret;
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

/// Most spare slots for notifications that wait for an answer.
const MAX_SPARE_SLOTS: usize = 512;

/// Opens the store for a worker: makes it where it is missing and brings its tables up to date. A database that the jobs
/// in Redis do not belong to is left as it is, and so is one whose cards this worker's keys do not fit.
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
            cards,
            unreadable,
            "stored cards cannot be decrypted with ENCRYPTION_KEY or ENCRYPTION_KEYS_PREVIOUS; `topup-worker rekey` names \
             their orders"
        );
    }
    Ok(store)
}

/// Opens the store as it is, for one job of a worker that runs.
pub(super) async fn open_store_for_job(config: &Config) -> anyhow::Result<SqlStore> {
    let (url, cipher) = (config.database_url.expose_secret(), config.cipher.clone());
    orders::open_existing(url, Some(cipher), Access::Write).await.map_err(store_error)
}

/// Which store there is at this address; nothing where there is none, or one without tables.
async fn store_id(url: &str) -> anyhow::Result<Option<String>> {
    match orders::open_existing(url, None, Access::Read).await {
        Ok(store) => Ok(Some(store.id().await.map_err(store_error)?)),
        Err(StoreError::Missing(_) | StoreError::NotMigrated) => Ok(None),
        Err(error) => Err(store_error(error)),
    }
}

/// Keys that do not fit are the fault of a setting.
pub(super) fn store_error(error: StoreError) -> anyhow::Error {
    match error {
        StoreError::Keys(why) => {
            SettingsError::Unusable { name: "ENCRYPTION_KEY", why: why.to_string() }.into()
        }
        error => anyhow::Error::from(error).context("the database of DATABASE_URL cannot be used"),
    }
}

/// What the handlers work with.
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
    })
}

/// The slots in which notifications are sent. A spare one costs an open connection: there are more than endpoints are
/// likely to hang at once, and fewer than a process may have files open.
fn sending_slots(concurrency: usize) -> Slots {
    Slots::new(concurrency, (concurrency * 8).min(MAX_SPARE_SLOTS))
}

/// The provider, asked with each of the keys.
fn apis(config: &Config) -> anyhow::Result<Vec<Arc<dyn TopupApi>>> {
    let primary = Client::new(&config.api_url, &config.api_key)?;
    let secondary =
        config.secondary_api_key.as_ref().map(|key| primary.with_secondary_key(key)).transpose()?;
    let apis = std::iter::once(primary).chain(secondary);
    Ok(apis.map(|api| Arc::new(api) as Arc<dyn TopupApi>).collect())
}

/// What the provider allows.
pub(super) fn budget(config: &Config, connection: &Connection) -> RedisBudget {
    RedisBudget::new(connection.clone(), &config.names, rate_limit(config), key_fingerprints(config))
}

/// Of the primary key and, if there is one, of the secondary key.
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

/// Names of the channels of these settings that want this outcome of this order.
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

/// The clock of this deployment. Where it is scaled, its beginning stands in Redis, so that all workers
/// agree on the time.
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
    let anchor = Timestamp::from_timestamp_millis(anchor).context("the time anchor in Redis is no time")?;
    Ok(ScaledClock::new(time, scale, anchor))
}
