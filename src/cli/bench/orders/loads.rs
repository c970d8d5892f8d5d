//! The loads: what the provider answers, when the receiver accepts, and which figures result.

use std::time::{Duration, Instant};

use anyhow::Context;
use clap::ValueEnum;

use super::super::bench_redis::BenchRedis;
use super::super::report::percentile;
use super::super::sections::rss_kib;
use super::super::worker::end;
use super::OrdersSettings;
use super::endpoints::{Answers, Endpoints};
use super::tracker::{Tracker, cpu_ms};
use crate::cli::private::Process;

/// Longest wait for the webhooks of a load, or for one order.
const PATIENCE: Duration = Duration::from_mins(10);
/// Most orders of the load `alone`.
const ALONE: u32 = 300;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Load {
    /// Orders that are FULFILLED at the first check.
    Fulfilled,
    /// Orders that are QUEUED at the first check.
    Queued,
    /// Orders that are FULFILLED at the third check; a tenth of `--orders`.
    ThirdCheck,
    /// The receiver refuses connections until the webhooks wait for it. The rate is that from the first webhook on. It
    /// leaves out the last hundredth of the orders, because a job that has probed the receiver in vain waits minutes.
    Waiting,
    /// One order at a time.
    Alone,
}

type Figures = Vec<(&'static str, f64)>;

impl Load {
    /// Whether a peer does the same work. It does not retry webhooks, and it hands over orders only in bulk.
    pub(super) fn suits_a_peer(self) -> bool {
        !matches!(self, Self::Waiting | Self::Alone)
    }

    pub(super) async fn measure(
        self,
        settings: &OrdersSettings,
        tracker: &Tracker<'_>,
        bench: &mut BenchRedis,
    ) -> anyhow::Result<Figures> {
        let (handling, then) = match self {
            Self::Queued => (0, "QUEUED"),
            Self::ThirdCheck => (2, "FULFILLED"),
            Self::Fulfilled | Self::Waiting | Self::Alone => (0, "FULFILLED"),
        };
        let mut endpoints = Endpoints::serve(Answers { handling, then }).await?;
        if self != Self::Waiting {
            endpoints.listen()?;
        }
        let mut worker = tracker.start(settings, bench, &endpoints).await?;
        let commits_before = commits(tracker).await?;
        let orders = match self {
            Self::ThirdCheck => settings.orders.div_ceil(10),
            Self::Alone => ALONE.min(settings.orders),
            _ => settings.orders,
        };
        let mut figures = if self == Self::Alone {
            alone(orders, &endpoints, bench).await?
        } else {
            self.together(orders, tracker, &mut endpoints, bench, &mut worker).await?
        };
        end(worker).await?;
        if let (Some(before), Some(now)) = (commits_before, commits(tracker).await?) {
            let commits = i32::try_from(now - before)?;
            figures.push(("commits_per_order", f64::from(commits) / f64::from(orders)));
        }
        Ok(figures)
    }

    async fn together(
        self,
        orders: u32,
        tracker: &Tracker<'_>,
        endpoints: &mut Endpoints,
        bench: &mut BenchRedis,
        worker: &mut Process,
    ) -> anyhow::Result<Figures> {
        let scripts_before = scripts(bench).await?;
        let mut cpu_before = cpu_ms(worker);
        let began = tracker.hand_over(orders, bench).await?;
        let counted = if self == Self::Waiting { orders - orders / 100 } else { orders };
        if self == Self::Waiting {
            until(worker, async || endpoints.answered() >= orders as usize).await?;
            let scheduled = format!("{}:scheduled", bench.names.queue(topup_jobs::JobName::NotifyCustomer));
            let waiting =
                async || bench.number(&["ZCARD", &scheduled]).await.is_ok_and(|n| n >= u64::from(counted));
            until(worker, waiting).await?;
            cpu_before = cpu_ms(worker);
            endpoints.listen()?;
        }
        let rss_kib = until(worker, async || endpoints.notified() >= counted as usize).await?;
        let cpu = cpu_before.zip(cpu_ms(worker)).map(|(before, now)| now - before);
        let scripts = scripts(bench).await?.saturating_sub(scripts_before);
        let mut times = endpoints.notified_times().into_iter().take(counted as usize);
        let first = times.next().context("there was no order")?;
        let last = times.next_back().unwrap_or(first);
        let began = if self == Self::Waiting { first } else { began };
        let after = endpoints.notified_after_us();
        let per_order = |value: f64| value / f64::from(orders);
        let mut figures = vec![
            ("orders_per_second", f64::from(counted) / (last - began).as_secs_f64()),
            ("worker_rss_mib", f64::from(u32::try_from(rss_kib)?) / 1024.0),
            ("scripts_per_order", per_order(f64::from(u32::try_from(scripts)?))),
            ("answer_to_webhook_p50_ms", percentile(&after, 0.5) / 1000.0),
            ("answer_to_webhook_p99_ms", percentile(&after, 0.99) / 1000.0),
        ];
        figures.extend(cpu.map(|ms| ("worker_cpu_ms_per_order", per_order(ms))));
        Ok(figures)
    }
}

/// Hands over each order when the previous one has its webhook.
async fn alone(orders: u32, endpoints: &Endpoints, bench: &mut BenchRedis) -> anyhow::Result<Figures> {
    let inbox = bench.names.inbox();
    let mut all = Vec::new();
    for order in 1..=orders {
        let topup_id = format!("{order:024x}");
        let data = format!(r#"{{"topupId":"{topup_id}"}}"#);
        let began = Instant::now();
        let mut add = redis::cmd("XADD");
        add.arg(&inbox).arg("*").arg("name").arg("poll-topup").arg("data").arg(data);
        add.exec_async(&mut bench.redis).await?;
        let notified = loop {
            if let Some(at) = endpoints.notified_at(&topup_id) {
                break at;
            }
            anyhow::ensure!(began.elapsed() < PATIENCE, "the order {topup_id} got no webhook");
            tokio::time::sleep(Duration::from_millis(1)).await;
        };
        all.push(i64::try_from((notified - began).as_micros())?);
        // The order's job is settled before the next one begins.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    all.sort_unstable();
    let after = endpoints.notified_after_us();
    Ok(vec![
        ("xadd_to_webhook_p50_ms", percentile(&all, 0.5) / 1000.0),
        ("xadd_to_webhook_p99_ms", percentile(&all, 0.99) / 1000.0),
        ("answer_to_webhook_p50_ms", percentile(&after, 0.5) / 1000.0),
        ("answer_to_webhook_p99_ms", percentile(&after, 0.99) / 1000.0),
    ])
}

/// Waits for a condition; returns the worker's largest resident memory meanwhile, in KiB.
async fn until(worker: &mut Process, mut done: impl AsyncFnMut() -> bool) -> anyhow::Result<u64> {
    let (end, mut most, mut asked) = (Instant::now() + PATIENCE, 0, None::<Instant>);
    while !done().await {
        anyhow::ensure!(Instant::now() < end, "the bench waited {PATIENCE:?} for the webhooks of a load");
        if asked.is_none_or(|asked| asked.elapsed() > Duration::from_millis(500)) {
            worker.must_run()?;
            most = most.max(rss_kib(worker).await?);
            asked = Some(Instant::now());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(most.max(rss_kib(worker).await?))
}

async fn commits(tracker: &Tracker<'_>) -> anyhow::Result<Option<i64>> {
    Ok(match tracker.database {
        Some(database) => Some(database.commits().await?),
        None => None,
    })
}

/// Number of scripts that Redis has run.
async fn scripts(bench: &BenchRedis) -> anyhow::Result<u64> {
    let stats: String = redis::cmd("INFO").arg("commandstats").query_async(&mut bench.redis.clone()).await?;
    let calls = |line: &str| {
        let (name, figures) = line.split_once(":calls=")?;
        matches!(name, "cmdstat_evalsha" | "cmdstat_eval" | "cmdstat_fcall")
            .then(|| figures.split(',').next()?.parse::<u64>().ok())
            .flatten()
    };
    Ok(stats.lines().filter_map(calls).sum())
}
