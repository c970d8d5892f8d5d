//! The composition root: builds the parts of a worker, runs them, and stops them in order.

mod environment;
mod jobs;
mod join;
mod supervise;

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use self::environment::{budget, environment, rate_limit, scaled_clock};
pub(crate) use self::environment::{key_fingerprints, wanting};
pub(crate) use self::jobs::run_jobs;
use crate::admin::endpoints::Endpoints;
use crate::admin::health::Health;
use crate::config::Config;
use crate::deployment::{Membership, TimeKeeper};
use crate::handlers::Environment;
use crate::intake::Intake;
use crate::maintenance::list_poller::ListPoller;
use crate::maintenance::redis_watch::RedisWatch;
use crate::maintenance::restore::Restore;
use crate::maintenance::retention::Retention;
use crate::maintenance::store_watch::StoreWatch;
use crate::provider::{ApiError, RequestKind};
use crate::queue::{Queues, Stopped};
use crate::rate_limit::RedisBudget;
use crate::redis::{Connection, RedisHealth};
use crate::reveal::RevealPage;
use crate::shutdown::Shutdown;
use crate::telemetry::Metrics;

/// Runs a worker until asked to stop.
///
/// # Errors
/// If the store, the HTTP stack or a listener cannot be set up, or if the worker differs from the running ones.
pub async fn run(config: Config, shutdown: Shutdown) -> anyhow::Result<Stopped> {
    run_with(config, shutdown, |_| {}).await
}

/// Like [`run`], but applies `change` to the handlers' environment. Tests replace a part by one that fails.
///
/// # Errors
/// As [`run`].
pub async fn run_with(
    config: Config,
    shutdown: Shutdown,
    change: impl FnOnce(&mut Environment),
) -> anyhow::Result<Stopped> {
    crate::open_files::raise_limit();
    let base = Base::new(&config);
    // These tasks run until the process ends, so that the HTTP endpoints also answer during a shutdown.
    let mut tasks = JoinSet::new();
    tasks.spawn(base.endpoints(&shutdown).serve(listen("HTTP_ADDR", config.http_addr).await?));
    let Some(mut parts) = Box::pin(base.build(&config, &mut tasks, &shutdown)).await? else {
        return Ok(Stopped::Drained);
    };
    change(&mut parts.environment);
    let Parts { membership, watch, environment } = parts;
    let recordings = environment.recordings.clone();
    let shutdown_timeout = config.shutdown_timeout;
    let queues = Box::pin(base.spawn(config, environment, &watch, &mut tasks, &shutdown)).await?;
    base.health.started();
    tracing::info!("the worker is ready for work");
    // The queues run on a thread of the pool, because the main thread would have to be woken for every job.
    let queues = tokio::spawn(queues.run(shutdown.clone(), shutdown_timeout));
    Box::pin(supervise::supervise(queues, tasks, recordings, membership, watch, &shutdown)).await
}

/// Parts of a worker that can be built while Redis and the database do not answer.
struct Base {
    redis_health: RedisHealth,
    health: Health,
    metrics: Metrics,
    connection: Connection,
    budget: Arc<RedisBudget>,
}

/// Parts of a worker that has joined its deployment.
struct Parts {
    membership: Membership,
    watch: StoreWatch,
    environment: Environment,
}

impl Base {
    fn new(config: &Config) -> Self {
        let redis_health = RedisHealth::default();
        let connection = Connection::new(&config.redis, &redis_health);
        Self {
            health: Health::new(redis_health.clone()),
            metrics: Metrics::default(),
            budget: Arc::new(budget(config, &connection)),
            redis_health,
            connection,
        }
    }

    fn endpoints(&self, shutdown: &Shutdown) -> Endpoints {
        Endpoints {
            health: self.health.clone(),
            shutdown: shutdown.clone(),
            metrics: self.metrics.clone(),
            budget: Arc::clone(&self.budget),
        }
    }

    /// Waits for Redis and the database and builds what the handlers need. Returns `None` after a request to stop.
    async fn build(
        &self,
        config: &Config,
        tasks: &mut JoinSet<()>,
        shutdown: &Shutdown,
    ) -> anyhow::Result<Option<Parts>> {
        let time_keeper = TimeKeeper::new(self.connection.clone(), config.names.clone());
        let time = tokio::select! {
            time = time_keeper.first() => time,
            () = shutdown.requested() => return Ok(None),
        };
        tasks.spawn(time_keeper.keep(time.clone(), self.metrics.clone(), shutdown.clone()));
        let building = Box::pin(async {
            let (membership, watch) = join::join(config, &self.connection, &self.health.store()).await?;
            let clock = scaled_clock(config, &self.connection, time).await?;
            let membership = membership.keeping_time_anchor(clock.anchor());
            let (store, budget) = (watch.store.clone(), Arc::clone(&self.budget));
            let environment =
                environment(config, &self.connection, store, budget, self.metrics.clone(), clock)?;
            anyhow::Ok(Parts { membership, watch, environment })
        });
        tokio::select! {
            parts = building => parts.map(Some),
            () = shutdown.requested() => Ok(None),
        }
    }

    /// Spawns the background loops, and returns the queues with a handler for each job.
    async fn spawn(
        &self,
        config: Config,
        environment: Environment,
        watch: &StoreWatch,
        tasks: &mut JoinSet<()>,
        shutdown: &Shutdown,
    ) -> anyhow::Result<Queues> {
        let (store, clock) = (Arc::clone(&environment.store), Arc::clone(&environment.clock));
        let (connection, metrics) = (self.connection.clone(), self.metrics.clone());
        if let Some(reveal) = &config.reveal {
            let listener = listen("REVEAL_ADDR", reveal.addr).await?;
            tasks.spawn(RevealPage::new(Arc::clone(&store), Arc::clone(&clock)).serve(listener));
        }
        if let Some(keep) = config.keep {
            tasks.spawn(Retention { store, clock: Arc::clone(&clock), keep }.run(shutdown.clone()));
        }
        if config.list_polling {
            let list_poller = ListPoller {
                environment: environment.clone(),
                rate_limit: rate_limit(&config),
                keys: key_fingerprints(&config),
                card_details: config.card_details,
                connection: connection.clone(),
                names: config.names.clone(),
            };
            tasks.spawn(list_poller.run(shutdown.clone()));
        }
        tasks.spawn(RedisWatch::new(connection.clone(), metrics.clone()).run(shutdown.clone()));
        let restore =
            Restore::new(environment.clone(), rate_limit(&config), connection, config.names.clone());
        tasks.spawn(restore.run(shutdown.clone()));
        let callbacks = config.callbacks.map(|callbacks| callbacks.hosts).unwrap_or_default();
        let intake = Intake::new(&config.redis, config.names.clone(), clock, callbacks, &self.redis_health)
            .rejecting(config.rejected_cap, metrics.clone());
        tasks.spawn(intake.run(shutdown.clone()));
        let queues = Queues::new(config.redis, config.names, config.concurrency, &self.redis_health)
            .pausing(watch.claim_pause());
        let queues = jobs::register(queues, &environment, self.budget.claim_pause());
        let requested = move |error: Option<&ApiError>| metrics.requested(RequestKind::List, error);
        let budget = Arc::clone(&self.budget);
        tasks.spawn(budget.keep_standing(environment.apis, requested, shutdown.clone()));
        Ok(queues)
    }
}

async fn listen(setting: &str, addr: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(addr).await.with_context(|| format!("{setting} {addr} cannot be listened on"))
}
