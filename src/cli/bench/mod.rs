//! `topup-worker bench`: measures the queue with jobs that do nothing, the use of the provider's rate limit, and orders
//! end to end. A measurement of the queue covers the path of a job: XADD, the intake, the consumer with its leases and
//! scripts, apalis, a handler that reads the payload, and the settlement. Without `--redis-url` the bench starts a private
//! Redis, configured as for production.
//!
//! The bench must not touch a Redis that holds data. It prints figures without a pass or fail, because they depend on
//! the machine. `bench/compare` prints the same figures for other queues.

mod bench_redis;
mod budget;
mod handler;
mod orders;
mod report;
mod sections;
mod worker;

use clap::{Args, ValueEnum};
use secrecy::SecretString;

use self::bench_redis::BenchRedis;
use self::budget::BudgetSettings;
use self::orders::OrdersSettings;
use self::report::Report;
pub(super) use self::worker::{BenchWorkerSettings, bench_job, bench_worker};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Section {
    /// Rate of adding messages with XADD, 500 per pipeline, and of moving them into the queue.
    Add,
    /// Rate of one worker with due jobs that do nothing.
    Noop,
    /// Lateness of 10,000 jobs that become due over 10 s.
    Delayed,
    /// Lateness of 20,000 jobs that become due over 4 s.
    DelayedDense,
    /// Memory of a delayed job in Redis.
    Memory,
    /// A backlog of a million jobs due at once: rate, memory of the worker, and latency for other clients.
    Drain,
    /// Time from the death of a worker until another worker has run its jobs.
    Recovery,
    /// Rate of 1, 2 and 4 worker processes.
    Scaling,
    /// Redis commands and memory of an idle worker.
    Idle,
    /// Number of orders that end per request to the provider, compared with the loop of the provider's guide.
    Budget,
    /// Orders end to end, from the hand-over to the webhook: rate, CPU time, commits, scripts and latency.
    Orders,
}

#[derive(Debug, Args)]
pub(super) struct BenchSettings {
    /// Parts to measure, separated by commas; all by default
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Section>,

    /// Jobs for `add`, `noop` and `scaling`
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(1_000..=10_000_000))]
    jobs: u32,

    /// Jobs for `drain`
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1_000..=10_000_000))]
    backlog: u32,

    /// Jobs that a worker runs at once
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    slots: u32,

    /// URL of an empty Redis, whose keys are deleted at the end; without it a private Redis is started
    #[arg(long)]
    redis_url: Option<SecretString>,

    #[command(flatten)]
    budget: BudgetSettings,

    #[command(flatten)]
    orders: OrdersSettings,

    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

pub(super) async fn bench(settings: BenchSettings) -> anyhow::Result<()> {
    let mut bench = BenchRedis::prepare(settings.redis_url.as_ref()).await?;
    let mut report = Report::default();
    for section in Section::value_variants() {
        if settings.only.is_empty() || settings.only.contains(section) {
            sections::measure(*section, &settings, &mut bench, &mut report).await?;
        }
    }
    bench.clear().await?;
    super::say(if settings.json { report.json()? } else { report.table() })
}
