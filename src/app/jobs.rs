//! Registers the handler of every job, for this process and for isolated ones. No other module registers jobs.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::task::TaskTracker;
use topup_jobs::JobName;

use super::environment::{budget, environment, open_store_for_job, scaled_clock};
use crate::claim_pause::ClaimPause;
use crate::config::Config;
use crate::deployment::{TimeKeeper, read_patiently};
use crate::handlers::{Environment, NotifyCustomerHandler, PollTopupHandler, RecheckTopupHandler};
use crate::queue::{IsolatedJob, Isolation, Queues, run_isolated};
use crate::redis::{Connection, RedisHealth};
use crate::telemetry::Metrics;

/// Time limit in which an isolated process must reach the database and Redis.
const MAX_SET_UP: Duration = Duration::from_secs(30);

/// Registers the handlers of all jobs. While the budget permits no request, no jobs that check orders are claimed.
pub(super) fn register(queues: Queues, environment: &Environment, budget_pause: ClaimPause) -> Queues {
    queues
        .isolating(Isolation::new(run_job_command))
        .with_slots(NotifyCustomerHandler(environment.clone()), environment.bulkhead.slots())
        .pausing(budget_pause)
        .with(PollTopupHandler(environment.clone()))
        .with(RecheckTopupHandler(environment.clone()))
}

/// Runs suspects (jobs that ran when their worker process died) in this process, for the worker that started it.
pub(crate) async fn run_jobs(config: &Config) -> anyhow::Result<()> {
    // A supervisor may signal all processes of a service. This process ignores the signal and ends with its worker.
    let _deaf = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let connection = Connection::new(&config.redis, &RedisHealth::default());
    let budget = Arc::new(budget(config, &connection).for_suspects());
    // If the database or Redis does not answer, this process ends before it starts a job, and no job is blamed.
    let environment = async {
        let store = open_store_for_job(config).await?;
        let shared = read_patiently(&connection, &config.names).await;
        shared.check(&config.names, Some(&store.id().await?))?;
        let time = TimeKeeper::new(connection.clone(), config.names.clone()).first().await;
        let clock = scaled_clock(config, &connection, time).await?;
        environment(config, &connection, store, budget, Metrics::default(), clock)
    };
    let environment = tokio::time::timeout(MAX_SET_UP, environment).await;
    let environment = environment.context("the database or Redis did not answer in time")??;
    let run = |job: IsolatedJob| {
        // The process may end with the job, so the job waits for its own recordings.
        let recordings = TaskTracker::new();
        let environment = Environment { recordings: recordings.clone(), ..environment.clone() };
        async move {
            let settlement = match job.name {
                JobName::PollTopup => job.run(&PollTopupHandler(environment)).await,
                JobName::RecheckTopup => job.run(&RecheckTopupHandler(environment)).await,
                JobName::NotifyCustomer => job.run(&NotifyCustomerHandler(environment)).await,
            };
            recordings.close();
            recordings.wait().await;
            settlement
        }
    };
    Ok(run_isolated(run).await?)
}

/// The command line of this process with `run-job` instead of `run`.
fn run_job_command() -> tokio::process::Command {
    let mut args = std::env::args_os();
    let called_as = args.next().unwrap_or_default();
    // On Linux this path is the running program, even if an upgrade has replaced the program's file since the start.
    let kept = PathBuf::from("/proc/self/exe");
    let file = || std::env::current_exe().unwrap_or_else(|_| called_as.into());
    let program = if kept.exists() { kept } else { file() };
    let mut command = tokio::process::Command::new(program);
    command.args(args.map(|arg| if arg == "run" { "run-job".into() } else { arg }));
    command
}
