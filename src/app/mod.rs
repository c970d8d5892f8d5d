//! The composition root: puts the parts together, runs them, and stops them in order.

use std::sync::Arc;

use anyhow::Context;
use secrecy::ExposeSecret;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use topup_jobs::{JobName, Timestamp};

use crate::clock::{Clock, ScaledClock, real_now};
use crate::config::Config;
use crate::handlers::{
    Environment, NotifyCustomerHandler, PollTopupHandler, RecheckTopupHandler, random_jitter,
};
use crate::health::{self, Health};
use crate::intake::Intake;
use crate::notify::{
    Channel, Channels, Circuits, CustomerSettings, Email, EventStream, LogChannel, Sender, Sms, TURN, Webhook,
};
use crate::orders;
use crate::queue::{
    Connection, IsolatedJob, Isolation, Names, Pause, Queues, RedisHealth, Stopped, run_isolated,
};
use crate::restore::Restore;
use crate::retention::Retention;
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

    let connection = Connection::new(&config.redis, &redis_health);
    let environment = tokio::select! {
        environment = environment(&config, &connection) => environment?,
        () = shutdown.requested() => return Ok(Stopped::Drained),
    };
    RedisGate::new(connection.clone(), &config.names).doubt().await;
    let clock = Arc::clone(&environment.clock);
    let retention = config.keep.map(|keep| {
        let (store, clock) = (Arc::clone(&environment.store), Arc::clone(&clock));
        Retention { store, clock, keep }.run(shutdown.clone())
    });
    let restore = Restore { environment: environment.clone(), connection, names: config.names.clone() };
    let callbacks = config.callbacks.map(|callbacks| callbacks.hosts).unwrap_or_default();
    let intake = Intake::new(&config.redis, config.names.clone(), clock, callbacks, &redis_health);
    let queues = Queues::new(config.redis, config.names, config.concurrency, &redis_health)
        .isolating(Isolation::new(run_job_command))
        .with(PollTopupHandler(environment.clone()))
        .with(RecheckTopupHandler(environment.clone()))
        .with(NotifyCustomerHandler(environment));
    let mut intake = tokio::spawn(intake.run(shutdown.clone()));
    let mut restore = tokio::spawn(restore.run(shutdown.clone()));
    let mut retention = tokio::spawn(when_set(retention, shutdown.clone()));
    health.started();
    tracing::info!("ready for work");

    // A task of the pool: the thread that waits for the program to end would be woken for every job.
    let mut working = tokio::spawn(queues.run(shutdown.clone(), config.shutdown_timeout));
    let stopped = tokio::select! {
        stopped = &mut working => stopped?,
        () = died(&shutdown, [&mut intake, &mut restore, &mut retention], &mut serving) => {
            shutdown.ask();
            working.await?;
            Stopped::Failed
        }
    };
    shutdown.ask();
    tracing::info!(?stopped, "stopped");
    Ok(stopped)
}

/// Runs one job in this process, for a worker that suspects it of killing its process.
///
/// # Errors
/// Where there is no such job, or what a handler needs cannot be set up.
pub(crate) async fn run_job(config: &Config) -> anyhow::Result<()> {
    // Whoever stops a service may signal all its processes. This one ends with its worker, and not before.
    let _deaf = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let job = IsolatedJob::receive().context("this command is run by a worker, which says what to run")?;
    let connection = Connection::new(&config.redis, &RedisHealth::default());
    let environment = environment(config, &connection).await?;
    match job.name {
        JobName::PollTopup => run_isolated(&PollTopupHandler(environment), job).await?,
        JobName::RecheckTopup => run_isolated(&RecheckTopupHandler(environment), job).await?,
        JobName::NotifyCustomer => run_isolated(&NotifyCustomerHandler(environment), job).await?,
    }
    Ok(())
}

/// The command line of this process, with `run-job` in the place of `run`.
fn run_job_command() -> tokio::process::Command {
    let mut args = std::env::args_os();
    let called_as = args.next().unwrap_or_default();
    let program = std::env::current_exe().unwrap_or_else(|_| called_as.into());
    let mut command = tokio::process::Command::new(program);
    command.args(args.map(|arg| if arg == "run" { "run-job".into() } else { arg }));
    command
}

/// What the handlers work with.
async fn environment(config: &Config, connection: &Connection) -> anyhow::Result<Environment> {
    let store = orders::open(config.database_url.expose_secret(), config.cipher.clone()).await;
    let store = store.context("the database of DATABASE_URL cannot be opened")?;
    let clock = scaled_clock(connection, &config.names, config.time_scale).await?;
    let stream = EventStream::new(connection.clone(), &config.names);
    Ok(Environment {
        store: Arc::new(store),
        api: Arc::new(Client::new(&config.api_url, &config.api_key)?),
        gate: Arc::new(RedisGate::new(connection.clone(), &config.names)),
        channels: Channels::new(channels(config, stream)?),
        circuits: Circuits::new(config.concurrency, clock.domain(TURN)),
        clock: Arc::new(clock),
        strategy: config.poll_strategy,
        jitter: random_jitter,
    })
}

/// A task of the service that not every deployment has.
async fn when_set(task: Option<impl Future<Output = ()>>, shutdown: Shutdown) {
    match task {
        Some(task) => task.await,
        None => shutdown.requested().await,
    }
}

/// Waits for one of the service's own tasks to end without having been asked.
async fn died(
    shutdown: &Shutdown,
    tasks: [&mut JoinHandle<()>; 3],
    serving: &mut JoinHandle<std::io::Result<()>>,
) {
    let [intake, restore, retention] = tasks;
    tokio::select! {
        _ = intake => {}
        _ = restore => {}
        _ = retention => {}
        _ = serving => {}
    }
    if shutdown.is_requested() {
        std::future::pending::<()>().await;
    }
    tracing::error!("a task of the service ended by itself");
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
        channels.push(Arc::new(Webhook::callback(sender.clone(), hosts, callbacks.secret.clone())));
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
