//! Measures orders end to end: hand-over, checks at the provider, stored changes, and a webhook for each order. The worker,
//! or a peer given by its command, is a separate process; provider and receiver are served by the bench.

mod endpoints;
mod loads;
mod tracker;

use clap::Args;

use self::loads::Load;
use self::tracker::{Tracker, database_of_its_own};
use super::BenchSettings;
use super::bench_redis::BenchRedis;
use super::report::{Report, figure_name};

#[derive(Debug, Clone, Args)]
pub(super) struct OrdersSettings {
    /// Orders of each load, for `orders`; `third-check` has a tenth of them, `alone` 300 at most
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(10..=1_000_000))]
    orders: u32,

    /// Orders that a worker handles at once
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    order_slots: u32,

    /// Loads to measure, separated by commas; all by default
    #[arg(long, value_enum, value_delimiter = ',')]
    loads: Vec<Load>,

    /// URL of a PostgreSQL server, on which each load creates a database and drops it; without it only SQLite is measured
    #[arg(long)]
    postgres_url: Option<String>,

    /// Measure only PostgreSQL
    #[arg(long, requires = "postgres_url")]
    no_sqlite: bool,

    /// Measure this program instead of topup-worker: `<program> work` tracks orders, `<program> add <n>` hands n over
    #[arg(long, requires = "postgres_url")]
    orders_peer: Option<String>,
}

pub(super) async fn orders(
    settings: &BenchSettings,
    bench: &mut BenchRedis,
    report: &mut Report,
) -> anyhow::Result<()> {
    let settings = &settings.orders;
    let mut databases = Vec::new();
    if settings.orders_peer.is_none() && !settings.no_sqlite {
        databases.push(("sqlite", None));
    }
    databases.extend(settings.postgres_url.as_deref().map(|url| ("postgres", Some(url))));
    for load in <Load as clap::ValueEnum>::value_variants() {
        if !settings.loads.is_empty() && !settings.loads.contains(load) {
            continue;
        }
        for (name, server) in &databases {
            if settings.orders_peer.is_some() && !load.suits_a_peer() {
                continue;
            }
            bench.clear().await?;
            let database = match server {
                Some(url) => Some(database_of_its_own(url).await?),
                None => None,
            };
            let tracker = Tracker { peer: settings.orders_peer.as_deref(), database: database.as_ref() };
            let measured = load.measure(settings, &tracker, bench).await?;
            if let Some(database) = database {
                database.drop().await?;
            }
            for (figure, value) in measured {
                report.add(format!("orders_{}_{name}_{figure}", figure_name(load)), value);
            }
        }
    }
    Ok(())
}
