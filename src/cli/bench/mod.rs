//! `topup-worker bench`: the queue measured on this machine with jobs that do nothing, and the provider's budget
//! with orders that are tracked to their end.
//!
//! What is measured of the queue is the whole way of a job through the real parts: a producer's XADD, the intake, the
//! consumer with its leases and scripts, apalis, a handler that reads the payload, and the settling. Without
//! `--redis-url` a private Redis is started, set up as production should be.
//!
//! It must not touch a Redis that holds anything, and it judges nothing: figures depend on the machine.
//! `bench/compare` puts those of other queues beside them.

mod budget;
mod ground;
mod handler;
mod report;
mod sections;
mod worker;

use clap::{Args, ValueEnum};
use secrecy::SecretString;

use self::budget::BudgetSettings;
use self::ground::Ground;
use self::report::Report;
pub(super) use self::worker::{BenchWorkerSettings, bench_job, bench_worker};

/// What can be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Section {
    /// Messages added by XADD, 500 a call, and taken into the queue.
    Add,
    /// Jobs that do nothing, all due, run by one worker.
    Noop,
    /// 10,000 jobs due over 10 s: how late they start.
    Delayed,
    /// 20,000 jobs due over 4 s: how late they start.
    DelayedDense,
    /// What a job that waits takes in Redis.
    Memory,
    /// A backlog of a million, all due at once: rate, memory of the worker, what other clients feel.
    Drain,
    /// How long the jobs of a killed worker wait until another has run them.
    Recovery,
    /// The rate of 1, 2 and 4 worker processes.
    Scaling,
    /// What a worker without work asks of Redis.
    Idle,
    /// Orders that a request of the provider's budget follows to their end, beside the loop of its guide.
    Budget,
}

#[derive(Debug, Args)]
pub(super) struct BenchSettings {
    /// Only these parts, separated by commas; all where it is not given
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

    /// An empty Redis to use, emptied again at the end; a private one is started where it is not given
    #[arg(long)]
    redis_url: Option<SecretString>,

    #[command(flatten)]
    budget: BudgetSettings,

    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

pub(super) async fn bench(settings: BenchSettings) -> anyhow::Result<()> {
    let mut ground = Ground::prepare(settings.redis_url.as_ref()).await?;
    let mut report = Report::default();
    for section in Section::value_variants() {
        if settings.only.is_empty() || settings.only.contains(section) {
            sections::measure(*section, &settings, &mut ground, &mut report).await?;
        }
    }
    ground.clear().await?;
    super::say(if settings.json { report.json()? } else { report.table() })
}
