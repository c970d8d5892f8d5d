//! Workers of the bench: in this process, or as processes of their own.

use std::time::Duration;

use anyhow::Context;
use clap::Args;
use secrecy::ExposeSecret;
use tokio::process::Command;
use tokio::task::JoinHandle;

use super::ground::Ground;
use super::handler::BenchHandler;
use crate::cli::private::Process;
use crate::queue::{IsolatedJob, Isolation, Queues, Stopped, run_isolated};
use crate::redis::{Names, RedisAddress, RedisHealth};
use crate::shutdown::Shutdown;

/// How long a worker may take to end its running jobs.
const END_TIME: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(in crate::cli) struct BenchWorkerSettings {
    #[arg(long)]
    redis_url: String,
    #[arg(long)]
    prefix: Names,
    #[arg(long)]
    slots: usize,
    /// How long each job is kept
    #[arg(long, default_value_t = 0)]
    hold_ms: u64,
}

/// A worker in this process.
pub(super) struct Worker {
    stop: Shutdown,
    running: JoinHandle<Stopped>,
}

impl Worker {
    pub(super) fn start(ground: &Ground, slots: u32, handler: BenchHandler) -> Self {
        let (stop, health) = (Shutdown::new(), RedisHealth::default());
        let queues = Queues::new(ground.address.clone(), ground.names.clone(), slots as usize, &health);
        let running = tokio::spawn(queues.with(handler).run(stop.clone(), END_TIME));
        Self { stop, running }
    }

    pub(super) async fn stop(self) -> anyhow::Result<()> {
        self.stop.request();
        let stopped = self.running.await?;
        anyhow::ensure!(stopped == Stopped::Drained, "the worker ended as {stopped:?}");
        Ok(())
    }
}

fn this_program() -> anyhow::Result<Command> {
    Ok(Command::new(std::env::current_exe().context("this program cannot find itself")?))
}

/// Starts a worker as a process of its own.
pub(super) fn spawn(ground: &Ground, name: &str, slots: u32, hold: Duration) -> anyhow::Result<Process> {
    let mut command = this_program()?;
    command.arg("bench-worker").args(["--redis-url", &ground.redis_url]);
    command.args(["--prefix", &ground.names.to_string(), "--slots", &slots.to_string()]);
    command.args(["--hold-ms", &hold.as_millis().to_string()]);
    Process::start(name, command, &ground.folder)
}

/// Starts a worker as `run` does: all queues and the inbox, on a database of this name.
pub(super) fn spawn_whole(
    ground: &Ground,
    name: &str,
    database: &str,
    settings: &[(&str, String)],
) -> anyhow::Result<Process> {
    let mut command = this_program()?;
    command.arg("run").env_clear().envs([
        ("REDIS_URL", ground.redis_url.clone()),
        ("TOPUP_PREFIX", ground.names.to_string()),
        ("DATABASE_URL", database_url(ground, database)),
        ("ENCRYPTION_KEY", ground.encryption_key.expose_secret().to_owned()),
        ("HTTP_ADDR", "127.0.0.1:0".to_owned()),
    ]);
    command.envs(settings.iter().cloned());
    Process::start(name, command, &ground.folder)
}

/// The address of the database of this name.
pub(super) fn database_url(ground: &Ground, database: &str) -> String {
    format!("sqlite://{}", ground.folder.path().join(database).with_extension("db").display())
}

/// Asks a worker to stop and waits.
pub(super) async fn end(worker: Process) -> anyhow::Result<()> {
    worker.ask_to_stop().await;
    worker.stopped().await.context("a worker did not stop")?;
    Ok(())
}

/// The process that [`spawn`] starts: works until it is ended.
pub(in crate::cli) async fn bench_worker(settings: BenchWorkerSettings) -> anyhow::Result<()> {
    let address = RedisAddress::parse(&settings.redis_url, &settings.prefix)?;
    let stop = Shutdown::new();
    stop.on_signals()?;
    let handler = BenchHandler::holding(Duration::from_millis(settings.hold_ms));
    let program = std::env::current_exe().context("this program cannot find itself")?;
    let isolation = Isolation::new(move || {
        let mut command = Command::new(&program);
        command.arg("bench-job");
        command
    });
    let queues = Queues::new(address, settings.prefix, settings.slots, &RedisHealth::default());
    let queues = queues.isolating(isolation).with(handler);
    // On the pool, as `run` does it.
    tokio::spawn(queues.run(stop, END_TIME)).await?;
    Ok(())
}

/// The process in which a worker of the bench runs jobs that were lost with another one.
pub(in crate::cli) async fn bench_job() -> anyhow::Result<()> {
    let run = |job: IsolatedJob| async { job.run(&BenchHandler::default()).await };
    Ok(run_isolated(run).await?)
}
