//! The measured program: `topup-worker run`, or a peer. Reads its commits and CPU time; `loads` reads the rest.

use std::time::Instant;

use anyhow::Context;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::process::Command;

use super::super::bench_redis::{BenchRedis, Due};
use super::super::worker::spawn_whole;
use super::OrdersSettings;
use super::endpoints::Endpoints;
use crate::cli::private::Process;

/// Requests per minute, more than the loads need by default, so that the rate limit does not bind.
const NO_RATE_LIMIT: &str = "100000";

pub(super) struct Tracker<'a> {
    pub(super) peer: Option<&'a str>,
    /// The database on PostgreSQL; `None` for a SQLite file.
    pub(super) database: Option<&'a OwnDatabase>,
}

/// A database of PostgreSQL that one load uses alone.
pub(super) struct OwnDatabase {
    server: String,
    name: String,
    url: String,
}

/// Creates a database on this server.
pub(super) async fn database_of_its_own(server: &str) -> anyhow::Result<OwnDatabase> {
    let name = format!("topup_bench_{}", ulid::Ulid::generate().to_string().to_lowercase());
    let mut url: url::Url = server.parse().context("--postgres-url is no URL")?;
    let mut connection = PgConnection::connect(server).await.context("PostgreSQL does not answer")?;
    sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&mut connection).await?;
    url.set_path(&name);
    Ok(OwnDatabase { server: server.to_owned(), name, url: url.into() })
}

impl OwnDatabase {
    /// Number of committed transactions. PostgreSQL counts them late: when a connection is closed or idle.
    pub(super) async fn commits(&self) -> anyhow::Result<i64> {
        let mut connection = PgConnection::connect(&self.server).await?;
        let count = sqlx::query_scalar("SELECT xact_commit FROM pg_stat_database WHERE datname = $1");
        Ok(count.bind(&self.name).fetch_one(&mut connection).await?)
    }

    pub(super) async fn drop(self) -> anyhow::Result<()> {
        let mut connection = PgConnection::connect(&self.server).await?;
        let drop = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        sqlx::query(AssertSqlSafe(drop)).execute(&mut connection).await?;
        Ok(())
    }
}

impl Tracker<'_> {
    /// Starts the program and waits until it is ready.
    pub(super) async fn start(
        &self,
        settings: &OrdersSettings,
        bench: &BenchRedis,
        endpoints: &Endpoints,
    ) -> anyhow::Result<Process> {
        let slots = settings.order_slots.to_string();
        let Some(peer) = self.peer else {
            let name = ulid::Ulid::generate().to_string();
            let mut environment = vec![
                ("ONECLICKDZ_API_URL", endpoints.api_url.clone()),
                ("ONECLICKDZ_API_KEY", "sandbox-key".to_owned()),
                ("ONECLICKDZ_RATE_LIMIT", NO_RATE_LIMIT.to_owned()),
                ("ONECLICKDZ_MAX_IN_FLIGHT", slots.clone()),
                ("LIST_POLLING", "off".to_owned()),
                ("CONCURRENCY", slots),
                ("WEBHOOK_URL", endpoints.webhook_url.clone()),
                ("WEBHOOK_SECRET", format!("whsec_{}", "A".repeat(32))),
                ("ALLOW_INSECURE_WEBHOOKS", "true".to_owned()),
                ("RUST_LOG", "warn".to_owned()),
            ];
            environment.extend(self.database.map(|database| ("DATABASE_URL", database.url.clone())));
            let worker = spawn_whole(bench, "worker", &name, &environment)?;
            let workers = bench.key("workers");
            bench
                .until("the worker runs", async || Ok(bench.number(&["ZCARD", &workers]).await? == 1))
                .await?;
            return Ok(worker);
        };
        let mut command = program(peer);
        command.arg("work").envs([
            ("REDIS_URL", &bench.redis_url),
            ("DATABASE_URL", &self.database.context("a peer needs PostgreSQL")?.url),
            ("API_URL", &endpoints.api_url),
            ("WEBHOOK_URL", &endpoints.webhook_url),
            ("SLOTS", &slots),
        ]);
        let worker = Process::start("peer", command, &bench.folder)?;
        let clients = async || Ok(bench.info("connected_clients").await? > 2);
        bench.until("the peer is connected", clients).await?;
        Ok(worker)
    }

    /// Hands over the orders; returns when the hand-over began.
    pub(super) async fn hand_over(&self, orders: u32, bench: &mut BenchRedis) -> anyhow::Result<Instant> {
        let began = Instant::now();
        match self.peer {
            None => {
                bench.add(orders, Due::Now).await?;
            }
            Some(peer) => {
                let mut command = program(peer);
                command.args(["add", &orders.to_string()]).env("REDIS_URL", &bench.redis_url);
                let added = command.status().await.context("the peer cannot be started")?;
                anyhow::ensure!(added.success(), "the peer could not add orders: {added}");
            }
        }
        Ok(began)
    }
}

fn program(peer: &str) -> Command {
    let mut words = peer.split_whitespace();
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words);
    command
}

/// CPU time that a process has used, in ms; `None` where the system has no `/proc`.
pub(super) fn cpu_ms(process: &Process) -> Option<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", process.pid()?)).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    // utime and stime, in ticks of 10 ms.
    let ticks: u32 = fields.get(11)?.parse::<u32>().ok()? + fields.get(12)?.parse::<u32>().ok()?;
    Some(f64::from(ticks) * 10.0)
}
