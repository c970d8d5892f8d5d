//! The composition root: puts the parts together, runs them, and stops them in order.

mod environment;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use topup_jobs::JobName;

use self::environment::{
    budget, environment, open_store, open_store_for_job, rate_limit, scaled_clock, store_error,
};
pub(crate) use self::environment::{key_fingerprints, wanting};
use crate::admin::endpoints::Endpoints;
use crate::admin::health::Health;
use crate::config::Config;
use crate::deployment::{Membership, TimeKeeper, read_patiently};
use crate::handlers::{Environment, NotifyCustomerHandler, PollTopupHandler, RecheckTopupHandler};
use crate::intake::Intake;
use crate::maintenance::list_poller::ListPoller;
use crate::maintenance::redis_watch::RedisWatch;
use crate::maintenance::restore::Restore;
use crate::maintenance::retention::Retention;
use crate::maintenance::store_watch::{StoreHealth, StoreWatch};
use crate::orders::{NO_ANSWER, SqlStore, StoreError};
use crate::provider::{ApiError, RequestKind};
use crate::queue::{IsolatedJob, Isolation, Queues, Stopped, run_isolated};
use crate::redis::{Backoff, Connection, RedisHealth};
use crate::reveal::RevealPage;
use crate::shutdown::Shutdown;
use crate::telemetry::Metrics;

/// How long a worker that stops waits for the last calls of its database.
const CLOSED_WITHIN: Duration = Duration::from_secs(2);
/// How long the process of one job may take to open the database and to find Redis.
const MAX_SET_UP: Duration = Duration::from_secs(30);

/// Runs a worker until asked to stop.
///
/// # Errors
/// Where the store, the HTTP stack or one of the listeners cannot be set up, or a task of the service died.
pub async fn run(config: Config, shutdown: Shutdown) -> anyhow::Result<Stopped> {
    run_with(config, shutdown, |_| {}).await
}

/// As [`run`], with changes to what the handlers work with: for tests that make one of the edges fail.
///
/// # Errors
/// As [`run`].
pub async fn run_with(
    config: Config,
    shutdown: Shutdown,
    change: impl FnOnce(&mut Environment),
) -> anyhow::Result<Stopped> {
    crate::open_files::raise_limit();
    let redis_health = RedisHealth::default();
    let health = Health::new(redis_health.clone());
    let metrics = Metrics::default();
    let connection = Connection::new(&config.redis, &redis_health);
    let budget = Arc::new(budget(&config, &connection));
    // They end with the process: the endpoints answer to the last.
    let mut tasks = JoinSet::new();
    let listener = listen("HTTP_ADDR", config.http_addr).await?;
    let endpoints = Endpoints {
        health: health.clone(),
        shutdown: shutdown.clone(),
        metrics: metrics.clone(),
        budget: Arc::clone(&budget),
    };
    tasks.spawn(endpoints.serve(listener));

    let time_keeper = TimeKeeper::new(connection.clone(), config.names.clone());
    let time = tokio::select! {
        time = time_keeper.first() => time,
        () = shutdown.requested() => return Ok(Stopped::Drained),
    };
    tasks.spawn(time_keeper.keep(time.clone(), metrics.clone(), shutdown.clone()));
    let starting = Box::pin(async {
        let (membership, watch) = take_part(&config, &connection, &health.store()).await?;
        let opened = watch.store.clone();
        let clock = scaled_clock(&config, &connection, time).await?;
        let membership = membership.keeping_time_anchor(clock.anchor());
        let environment = environment(&config, &connection, opened, Arc::clone(&budget), metrics, clock)?;
        anyhow::Ok((membership, watch, environment))
    });
    let (membership, watch, mut environment) = tokio::select! {
        started = starting => started?,
        () = shutdown.requested() => return Ok(Stopped::Drained),
    };
    change(&mut environment);
    let (store, clock) = (Arc::clone(&environment.store), Arc::clone(&environment.clock));
    let database = watch.store.clone();
    if let Some(reveal) = &config.reveal {
        let listener = listen("REVEAL_ADDR", reveal.addr).await?;
        tasks.spawn(RevealPage::new(Arc::clone(&store), Arc::clone(&clock)).serve(listener));
    }
    if let Some(keep) = config.keep {
        let clock = Arc::clone(&clock);
        tasks.spawn(Retention { store, clock, keep }.run(shutdown.clone()));
    }
    if config.list_polling {
        let coalescer = ListPoller {
            environment: environment.clone(),
            rate_limit: rate_limit(&config),
            keys: key_fingerprints(&config),
            card_details: config.card_details,
            connection: connection.clone(),
            names: config.names.clone(),
        };
        tasks.spawn(coalescer.run(shutdown.clone()));
    }
    let redis_watch = RedisWatch::new(connection.clone(), environment.metrics.clone());
    tasks.spawn(redis_watch.run(shutdown.clone()));
    let restore = Restore::new(environment.clone(), rate_limit(&config), connection, config.names.clone());
    let callbacks = config.callbacks.map(|callbacks| callbacks.hosts).unwrap_or_default();
    let intake = Intake::new(&config.redis, config.names.clone(), clock, callbacks, &redis_health)
        .rejecting(config.rejected_cap, environment.metrics.clone());
    let queues = Queues::new(config.redis, config.names, config.concurrency, &redis_health)
        .isolating(Isolation::new(run_job_command))
        .pausing(watch.claim_pause())
        .with_slots(NotifyCustomerHandler(environment.clone()), environment.bulkhead.slots())
        .pausing(budget.claim_pause())
        .with(PollTopupHandler(environment.clone()))
        .with(RecheckTopupHandler(environment.clone()));
    let metrics = environment.metrics;
    let requested = move |error: Option<&ApiError>| metrics.requested(RequestKind::List, error);
    tasks.spawn(budget.keep_standing(environment.apis, requested, shutdown.clone()));
    tasks.spawn(intake.run(shutdown.clone()));
    tasks.spawn(restore.run(shutdown.clone()));
    health.started();
    tracing::info!("ready for work");

    // A task of the pool: the thread that waits for the program to end would be woken for every job.
    let mut working = tokio::spawn(queues.run(shutdown.clone(), config.shutdown_timeout));
    let mut refusal = None;
    let stopped = tokio::select! {
        stopped = &mut working => stopped?,
        () = died(&shutdown, &mut tasks) => {
            shutdown.request();
            working.await?;
            Stopped::Failed
        }
        why = refused(&membership, watch, &shutdown) => {
            tracing::error!("{why:#}; this worker stops");
            shutdown.request();
            refusal = Some(why);
            working.await?
        }
    };
    shutdown.request();
    end(&membership, &database).await;
    if let Some(why) = refusal {
        return Err(why);
    }
    tracing::info!(?stopped, "stopped");
    Ok(stopped)
}

/// Leaves the other workers and the database. What still uses that ends with the process.
async fn end(membership: &Membership, database: &SqlStore) {
    membership.leave().await;
    drop(tokio::time::timeout(CLOSED_WITHIN, database.close()).await);
}

/// Opens the store and joins the other workers. A database that cannot be used now is waited for, as Redis is.
async fn take_part(
    config: &Config,
    connection: &Connection,
    health: &StoreHealth,
) -> anyhow::Result<(Membership, StoreWatch)> {
    let mut backoff = Backoff::new();
    loop {
        match Box::pin(take_part_now(config, connection, health)).await {
            Ok(taken) => {
                health.answered();
                return Ok(taken);
            }
            Err(error) => {
                let passing = error.downcast_ref().filter(|why: &&StoreError| why.may_pass());
                let Some(fault) = passing.map(|why| why.fault().unwrap_or(NO_ANSWER)) else {
                    return Err(error);
                };
                health.failed(fault, &format!("{error:#}"));
                backoff.wait().await;
            }
        }
    }
}

async fn take_part_now(
    config: &Config,
    connection: &Connection,
    health: &StoreHealth,
) -> anyhow::Result<(Membership, StoreWatch)> {
    let store = open_store(config, connection, health).await?;
    let store_id = health.at_start(store.id()).await.map_err(store_error)?;
    let keys = config.cipher.fingerprints();
    let membership = Membership::new(connection.clone(), config.names.clone(), store_id.clone(), &keys);
    membership.join().await?;
    // Only now: the key of a worker that the others refuse must not be noted.
    if let Err(error) = health.at_start(store.admit_keys()).await {
        membership.leave().await;
        return Err(store_error(error));
    }
    Ok((membership, StoreWatch::new(store, store_id, health.clone())))
}

/// Waits until this worker must not go on beside the others, or with its database, and says why.
async fn refused(membership: &Membership, watch: StoreWatch, shutdown: &Shutdown) -> anyhow::Error {
    let why = tokio::select! {
        why = membership.stay() => why.into(),
        why = watch.run() => why,
    };
    if shutdown.is_requested() {
        std::future::pending::<()>().await;
    }
    why
}

async fn listen(setting: &str, addr: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(addr).await.with_context(|| format!("{setting} {addr} cannot be listened on"))
}

/// Waits for one of the service's own tasks to end without having been asked.
async fn died(shutdown: &Shutdown, tasks: &mut JoinSet<()>) {
    tasks.join_next().await;
    if shutdown.is_requested() {
        std::future::pending::<()>().await;
    }
    tracing::error!("a task of the service ended by itself");
}

/// Runs jobs in this process, for a worker that suspects them of killing their process.
///
/// # Errors
/// Where what it is sent is no job, or what a handler needs cannot be set up.
pub(crate) async fn run_jobs(config: &Config) -> anyhow::Result<()> {
    // A supervisor may signal all processes of a service. This one ends with its worker, and not before.
    let _deaf = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let connection = Connection::new(&config.redis, &RedisHealth::default());
    let budget = Arc::new(budget(config, &connection).for_suspects());
    // A database that does not answer is no fault of a job: this process ends before it has begun with one.
    let environment = async {
        let store = open_store_for_job(config).await?;
        let shared = read_patiently(&connection, &config.names).await;
        shared.check(&config.names, Some(&store.id().await?))?;
        let time = TimeKeeper::new(connection.clone(), config.names.clone()).first().await;
        let clock = scaled_clock(config, &connection, time).await?;
        environment(config, &connection, store, budget, Metrics::default(), clock)
    };
    let environment = tokio::time::timeout(MAX_SET_UP, environment).await;
    let environment = environment.context("the database and Redis did not answer in time")??;
    let run = |job: IsolatedJob| {
        let environment = environment.clone();
        async move {
            match job.name {
                JobName::PollTopup => job.run(&PollTopupHandler(environment)).await,
                JobName::RecheckTopup => job.run(&RecheckTopupHandler(environment)).await,
                JobName::NotifyCustomer => job.run(&NotifyCustomerHandler(environment)).await,
            }
        }
    };
    Ok(run_isolated(run).await?)
}

/// The command line of this process, with `run-job` in the place of `run`.
fn run_job_command() -> tokio::process::Command {
    let mut args = std::env::args_os();
    let called_as = args.next().unwrap_or_default();
    // The program as it was started, which the system keeps though the file may have been replaced since.
    let kept = PathBuf::from("/proc/self/exe");
    let file = || std::env::current_exe().unwrap_or_else(|_| called_as.into());
    let program = if kept.exists() { kept } else { file() };
    let mut command = tokio::process::Command::new(program);
    command.args(args.map(|arg| if arg == "run" { "run-job".into() } else { arg }));
    command
}
