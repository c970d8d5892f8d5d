//! The composition root: puts the parts together, runs them, and stops them in order.

use std::sync::Arc;

use anyhow::Context;
use tokio::task::JoinHandle;
use topup_jobs::Timestamp;

use crate::clock::{Clock, ScaledClock, real_now};
use crate::config::Config;
use crate::handlers::{
    Environment, NotifyCustomerHandler, PollTopupHandler, RecheckTopupHandler, random_jitter,
};
use crate::health::{self, Health};
use crate::intake::Intake;
use crate::notify::{Channel, Channels, EventStream, LogChannel, Webhook, WebhookSecret};
use crate::orders::{OrderStore, SqliteStore};
use crate::queue::{Connection, Names, Pause, Queues, RedisHealth, Stopped};
use crate::restore::Restore;
use crate::shutdown::Shutdown;
use crate::topup_api::{Client, RedisGate};

/// Runs a worker until asked to stop.
///
/// # Errors
/// Where the store, the HTTP stack or the health endpoint cannot be set up, or a task of the service died.
pub(crate) async fn run(config: Config, shutdown: Shutdown) -> anyhow::Result<Stopped> {
    let redis_health = RedisHealth::default();
    let health = Health::new(redis_health.clone());
    let listener = tokio::net::TcpListener::bind(config.http_addr)
        .await
        .with_context(|| format!("HTTP_ADDR {} cannot be listened on", config.http_addr))?;
    // Ends with the process: it answers to the last.
    let mut serving = tokio::spawn(health::serve(listener, health.clone(), shutdown.clone()));

    let connection = Connection::new(&config.redis, &redis_health).context("REDIS_URL cannot be used")?;
    let opening = async {
        let store = SqliteStore::open(&config.database_url, config.cipher).await;
        let store = store.context("the database of DATABASE_URL cannot be opened")?;
        anyhow::Ok((store, scaled_clock(&connection, &config.names, config.time_scale).await?))
    };
    let (store, clock) = tokio::select! {
        opened = opening => opened?,
        () = shutdown.requested() => return Ok(Stopped::Drained),
    };
    let store: Arc<dyn OrderStore> = Arc::new(store);
    let clock: Arc<dyn Clock> = Arc::new(clock);
    let gate = RedisGate::new(connection.clone(), &config.names);
    gate.doubt().await;
    let environment = Environment {
        store: Arc::clone(&store),
        api: Arc::new(Client::new(&config.api_url, &config.api_key)?),
        gate: Arc::new(gate),
        channels: Channels::new(channels(
            config.webhook,
            config.operator_webhook,
            EventStream::new(connection.clone(), &config.names),
        )?),
        clock: Arc::clone(&clock),
        strategy: config.poll_strategy,
        jitter: random_jitter,
    };
    let names = config.names.clone();
    let restore = Restore { store, clock: Arc::clone(&clock), connection, names };
    let intake = Intake::new(&config.redis, config.names.clone(), clock, &redis_health)?;
    let queues = Queues::new(config.redis, config.names, config.concurrency, &redis_health)?
        .with(PollTopupHandler(environment.clone()))
        .with(RecheckTopupHandler(environment.clone()))
        .with(NotifyCustomerHandler(environment));
    let mut intake = tokio::spawn(intake.run(shutdown.clone()));
    let mut restore = tokio::spawn(restore.run(shutdown.clone()));
    health.started();
    tracing::info!("ready for work");

    let mut working = std::pin::pin!(queues.run(shutdown.clone(), config.shutdown_timeout));
    let stopped = tokio::select! {
        stopped = &mut working => stopped,
        () = died(&shutdown, [&mut intake, &mut restore], &mut serving) => {
            shutdown.ask();
            working.await;
            Stopped::Failed
        }
    };
    shutdown.ask();
    tracing::info!(?stopped, "stopped");
    Ok(stopped)
}

/// Waits for one of the service's own tasks to end without having been asked.
async fn died(
    shutdown: &Shutdown,
    tasks: [&mut JoinHandle<()>; 2],
    serving: &mut JoinHandle<std::io::Result<()>>,
) {
    let [intake, restore] = tasks;
    tokio::select! {
        _ = intake => {}
        _ = restore => {}
        _ = serving => {}
    }
    if shutdown.is_requested() {
        std::future::pending::<()>().await;
    }
    tracing::error!("a task of the service ended by itself");
}

type Endpoint = Option<(url::Url, WebhookSecret)>;

fn channels(
    merchant: Endpoint,
    operator: Endpoint,
    stream: EventStream,
) -> anyhow::Result<Vec<Arc<dyn Channel>>> {
    let mut channels: Vec<Arc<dyn Channel>> = vec![Arc::new(stream)];
    channels.push(match merchant {
        Some((url, secret)) => Arc::new(Webhook::merchant(url, secret)?),
        None => Arc::new(LogChannel),
    });
    if let Some((url, secret)) = operator {
        channels.push(Arc::new(Webhook::operator(url, secret)?));
    }
    Ok(channels)
}

/// The clock of this deployment. Where it is scaled, its beginning stands in Redis, so that all workers
/// agree on the time.
async fn scaled_clock(connection: &Connection, names: &Names, scale: f64) -> anyhow::Result<ScaledClock> {
    if (scale - 1.0).abs() < f64::EPSILON {
        return Ok(ScaledClock::real_time());
    }
    let mut pause = Pause::new();
    let (_, anchor): (redis::Value, i64) = loop {
        let mut read = redis::pipe();
        read.cmd("SETNX").arg(names.time_anchor()).arg(real_now().timestamp_millis());
        read.cmd("GET").arg(names.time_anchor());
        match read.query_async(&mut connection.get()).await {
            Ok(read) => break read,
            Err(error) => {
                connection.failed(&error);
                pause.wait().await;
            }
        }
    };
    connection.answered();
    let anchor = Timestamp::from_timestamp_millis(anchor).context("the time anchor in Redis is no time")?;
    Ok(ScaledClock::new(scale, anchor))
}
