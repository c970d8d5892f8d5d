//! The workers of the bench, in this process or as separate processes.

use std::time::Duration;

use anyhow::Context;
use clap::Args;
use secrecy::ExposeSecret;
use tokio::process::Command;
use tokio::task::JoinHandle;

use super::bench_redis::BenchRedis;
use super::handler::BenchHandler;
use crate::cli::private::Process;
use crate::queue::{IsolatedJob, Isolation, Queues, Stopped, run_isolated};
use crate::redis::{Names, RedisAddress, RedisHealth};
use crate::shutdown::Shutdown;

/// Time that a worker gets to finish its running jobs when it is asked to stop.
const END_TIME: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(in crate::cli) struct BenchWorkerSettings {
    #[arg(long)]
    redis_url: String,
    #[arg(long)]
    prefix: Names,
    #[arg(long)]
    slots: usize,
    /// Milliseconds for which each job is held
    #[arg(long, default_value_t = 0)]
    hold_ms: u64,
}

/// A worker that runs inside the process of the bench.
pub(super) struct Worker {
    stop: Shutdown,
    running: JoinHandle<Stopped>,
}

impl Worker {
    pub(super) fn start(bench: &BenchRedis, slots: u32, handler: BenchHandler) -> Self {
        let (stop, health) = (Shutdown::new(), RedisHealth::default());
        let queues = Queues::new(bench.address.clone(), bench.names.clone(), slots as usize, &health);
        let running = tokio::spawn(queues.with(handler).run(stop.clone(), END_TIME));
        Self { stop, running }
    }

    pub(super) async fn stop(self) -> anyhow::Result<()> {
        self.stop.request();
        let stopped = self.running.await?;
        anyhow::ensure!(stopped == Stopped::Drained, "the worker did not drain: {stopped:?}");
        Ok(())
    }
}

fn this_program() -> anyhow::Result<Command> {
    Ok(Command::new(std::env::current_exe().context("the path of this program is unknown")?))
}

/// Starts `topup-worker bench-worker`, a worker in a separate process.
pub(super) fn spawn(bench: &BenchRedis, name: &str, slots: u32, hold: Duration) -> anyhow::Result<Process> {
    let mut command = this_program()?;
    command.arg("bench-worker").args(["--redis-url", &bench.redis_url]);
    command.args(["--prefix", &bench.names.to_string(), "--slots", &slots.to_string()]);
    command.args(["--hold-ms", &hold.as_millis().to_string()]);
    Process::start(name, command, &bench.folder)
}

/// Starts `topup-worker run`, which serves all queues and the inbox. `database` is the name of its database file.
pub(super) fn spawn_whole(
    bench: &BenchRedis,
    name: &str,
    database: &str,
    settings: &[(&str, String)],
) -> anyhow::Result<Process> {
    let mut command = this_program()?;
    command.arg("run").env_clear().envs([
        ("REDIS_URL", bench.redis_url.clone()),
        ("TOPUP_PREFIX", bench.names.to_string()),
        ("DATABASE_URL", database_url(bench, database)),
        ("ENCRYPTION_KEY", bench.encryption_key.expose_secret().to_owned()),
        ("HTTP_ADDR", "127.0.0.1:0".to_owned()),
    ]);
    command.envs(settings.iter().cloned());
    Process::start(name, command, &bench.folder)
}

pub(super) fn database_url(bench: &BenchRedis, database: &str) -> String {
    format!("sqlite://{}", bench.folder.path().join(database).with_extension("db").display())
}

pub(super) async fn end(worker: Process) -> anyhow::Result<()> {
    worker.ask_to_stop().await;
    worker.stopped().await.context("a worker did not stop in time")?;
    Ok(())
}

/// Runs a worker until it is asked to stop, in the process that [`spawn`] starts.
pub(in crate::cli) async fn bench_worker(settings: BenchWorkerSettings) -> anyhow::Result<()> {
    let address = RedisAddress::parse(&settings.redis_url, &settings.prefix)?;
    let stop = Shutdown::new();
    stop.on_signals()?;
    let handler = BenchHandler::holding(Duration::from_millis(settings.hold_ms));
    let program = std::env::current_exe().context("the path of this program is unknown")?;
    let isolation = Isolation::new(move || {
        let mut command = Command::new(&program);
        command.arg("bench-job");
        command
    });
    let queues = Queues::new(address, settings.prefix, settings.slots, &RedisHealth::default());
    let queues = queues.isolating(isolation).with(handler);
    // Spawned, so that the worker runs on the runtime's thread pool as in `run`.
    tokio::spawn(queues.run(stop, END_TIME)).await?;
    Ok(())
}

/// Runs inside the separate process in which a worker of the bench executes the jobs of a dead worker.
pub(in crate::cli) async fn bench_job() -> anyhow::Result<()> {
    let run = |job: IsolatedJob| async { job.run(&BenchHandler::default()).await };
    Ok(run_isolated(run).await?)
}
