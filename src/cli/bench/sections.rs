//! The measurements of the bench, one function each.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use super::bench_redis::{BenchRedis, Due};
use super::handler::BenchHandler;
use super::report::{Report, percentile};
use super::worker::{Worker, end, spawn, spawn_whole};
use super::{BenchSettings, Section, budget, orders};
use crate::cli::private::Process;
use crate::simulator::{Simulator, SimulatorSettings, serve};

/// Time for which the commands of an idle worker are counted.
const IDLE_TIME: Duration = Duration::from_secs(30);
/// Duration of a job in `recovery`, long enough that the worker is killed before the job ends.
const FOR_EVER: Duration = Duration::from_mins(10);
/// Delayed jobs that the worker runs at once. `bench/compare` uses the same number for the other queues it measures.
const DELAYED_SLOTS: u32 = 200;
const DELAYED: u32 = 10_000;
const DELAYED_DENSE: u32 = 20_000;
/// Assumed maximum time to add one message and move it into the queue. `drain` delays its jobs by this time multiplied
/// by their number, so that no job is due before all are in the queue.
const FILLING_TAKES: Duration = Duration::from_micros(60);

pub(super) async fn measure(
    section: Section,
    settings: &BenchSettings,
    bench: &mut BenchRedis,
    report: &mut Report,
) -> anyhow::Result<()> {
    bench.clear().await?;
    match section {
        Section::Add => add(settings, bench, report).await,
        Section::Noop => noop(settings, bench, report).await,
        Section::Delayed => delayed(bench, report, "delayed_10s", DELAYED, Duration::from_secs(10)).await,
        Section::DelayedDense => {
            delayed(bench, report, "delayed_4s", DELAYED_DENSE, Duration::from_secs(4)).await
        }
        Section::Memory => memory(bench, report).await,
        Section::Drain => drain(settings, bench, report).await,
        Section::Recovery => recovery(settings, bench, report).await,
        Section::Scaling => scaling(settings, bench, report).await,
        Section::Idle => idle(bench, report).await,
        Section::Budget => budget::budget(&settings.budget, bench, report).await,
        Section::Orders => orders::orders(settings, bench, report).await,
    }
}

async fn add(settings: &BenchSettings, bench: &mut BenchRedis, report: &mut Report) -> anyhow::Result<()> {
    let took = bench.add(settings.jobs, Due::Now).await?;
    report.add("add_jobs_per_second", rate(settings.jobs, took));
    let took = bench.take_in().await?;
    report.add("intake_jobs_per_second", rate(settings.jobs, took));
    Ok(())
}

async fn noop(settings: &BenchSettings, bench: &mut BenchRedis, report: &mut Report) -> anyhow::Result<()> {
    bench.fill(settings.jobs, Due::Now).await?;
    let (handler, began) = (BenchHandler::default(), Instant::now());
    let worker = Worker::start(bench, settings.slots, handler.clone());
    bench.until_empty().await?;
    report.add("noop_jobs_per_second", rate(settings.jobs, began.elapsed()));
    anyhow::ensure!(handler.done() == u64::from(settings.jobs), "unexpected job count: {}", handler.done());
    worker.stop().await
}

async fn delayed(
    bench: &mut BenchRedis,
    report: &mut Report,
    name: &str,
    jobs: u32,
    window: Duration,
) -> anyhow::Result<()> {
    bench.fill(jobs, Due::Over { lead: Duration::from_secs(5), window }).await?;
    let handler = BenchHandler::default();
    let worker = Worker::start(bench, DELAYED_SLOTS, handler.clone());
    bench.until_empty().await?;
    let lateness = handler.lateness();
    anyhow::ensure!(lateness.len() == jobs as usize, "unexpected job count: {}", lateness.len());
    report.add(format!("{name}_lateness_p50_ms"), percentile(&lateness, 0.5));
    report.add(format!("{name}_lateness_p99_ms"), percentile(&lateness, 0.99));
    report.add(format!("{name}_lateness_max_ms"), percentile(&lateness, 1.0));
    worker.stop().await
}

async fn memory(bench: &mut BenchRedis, report: &mut Report) -> anyhow::Result<()> {
    let before = bench.info("used_memory").await?;
    let lead = Duration::from_hours(1);
    bench.fill(DELAYED, Due::Over { lead, window: Duration::from_hours(1) }).await?;
    let taken = bench.info("used_memory").await?.saturating_sub(before);
    report.add("bytes_per_delayed_job", as_f64(taken) / f64::from(DELAYED));
    Ok(())
}

async fn drain(settings: &BenchSettings, bench: &mut BenchRedis, report: &mut Report) -> anyhow::Result<()> {
    // All jobs become due at the same moment. The worker starts later, when the whole backlog is due.
    let lead = Duration::from_secs(5) + FILLING_TAKES * settings.backlog;
    let due = Instant::now() + lead;
    bench.fill(settings.backlog, Due::Over { lead, window: Duration::ZERO }).await?;
    let waiting = bench.number(&["ZCARD", &bench.key("scheduled")]).await?;
    tokio::time::sleep_until((due + Duration::from_secs(1)).into()).await;
    let began = Instant::now();
    let mut worker = spawn(bench, "draining worker", settings.slots, Duration::ZERO)?;
    let (mut pings, mut most_rss_kib) = (Vec::new(), 0);
    let (data, mut asked_rss) = (bench.key("data"), Instant::now());
    while bench.number(&["HLEN", &data]).await? > 0 {
        let asked = Instant::now();
        redis::cmd("PING").exec_async(&mut bench.redis.clone()).await?;
        pings.push(i64::try_from(asked.elapsed().as_micros())?);
        if asked_rss.elapsed() > Duration::from_millis(200) {
            worker.must_run()?;
            most_rss_kib = most_rss_kib.max(rss_kib(&worker).await?);
            asked_rss = Instant::now();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    pings.sort_unstable();
    report.add("drain_backlog_jobs", as_f64(waiting));
    report.add("drain_jobs_per_second", rate(settings.backlog, began.elapsed()));
    report.add("drain_worker_rss_mib", as_f64(most_rss_kib) / 1024.0);
    report.add("drain_ping_p99_ms", percentile(&pings, 0.99) / 1000.0);
    end(worker).await
}

async fn recovery(
    settings: &BenchSettings,
    bench: &mut BenchRedis,
    report: &mut Report,
) -> anyhow::Result<()> {
    let jobs = settings.slots;
    let mut victim = spawn(bench, "victim", settings.slots, FOR_EVER)?;
    bench.add(jobs, Due::Now).await?;
    bench.take_in().await?;
    let active = bench.key("active");
    bench.until("the jobs are claimed", async || Ok(bench.number(&["LLEN", &active]).await? == 0)).await?;
    let heir = spawn(bench, "heir", settings.slots, Duration::ZERO)?;
    let workers = bench.key("workers");
    bench.until("both workers run", async || Ok(bench.number(&["ZCARD", &workers]).await? == 2)).await?;
    // The heir takes over jobs only once it has reported for a whole lease, so it gets that time before the kill.
    tokio::time::sleep(Duration::from_secs(8)).await;
    let killed = Instant::now();
    victim.kill().await?;
    bench.until_empty().await?;
    report.add("recovery_seconds", killed.elapsed().as_secs_f64());
    end(heir).await
}

async fn scaling(
    settings: &BenchSettings,
    bench: &mut BenchRedis,
    report: &mut Report,
) -> anyhow::Result<()> {
    for workers in [1, 2, 4] {
        bench.fill(settings.jobs, Due::Now).await?;
        let began = Instant::now();
        let workers: Vec<Process> = (0..workers)
            .map(|number| spawn(bench, &format!("worker {number}"), settings.slots, Duration::ZERO))
            .collect::<anyhow::Result<_>>()?;
        bench.until_empty().await?;
        let name = format!("scaling_{}_workers_jobs_per_second", workers.len());
        report.add(name, rate(settings.jobs, began.elapsed()));
        for worker in workers {
            end(worker).await?;
        }
    }
    Ok(())
}

async fn idle(bench: &mut BenchRedis, report: &mut Report) -> anyhow::Result<()> {
    // An idle worker verifies its API key once at this simulated provider, and sends no further request.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let provider = format!("http://{}", listener.local_addr()?);
    let simulator = Simulator::new(SimulatorSettings::default(), 1.0);
    let _serving = AbortOnDropHandle::new(tokio::spawn(serve(listener, simulator, std::future::pending())));
    let settings = [("ONECLICKDZ_API_URL", provider), ("ONECLICKDZ_API_KEY", "sandbox-key".to_owned())];
    let worker = spawn_whole(bench, "idle worker", "idle", &settings)?;
    let workers = bench.key("workers");
    bench.until("the worker runs", async || Ok(bench.number(&["ZCARD", &workers]).await? == 1)).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = bench.info("total_commands_processed").await?;
    tokio::time::sleep(IDLE_TIME).await;
    // One command is subtracted, because INFO itself counts as one.
    let asked = bench.info("total_commands_processed").await? - before - 1;
    report.add("idle_commands_per_second", as_f64(asked) / IDLE_TIME.as_secs_f64());
    report.add("idle_worker_rss_mib", as_f64(rss_kib(&worker).await?) / 1024.0);
    end(worker).await
}

/// Resident memory of a process in KiB; this form of `ps` works on Linux and macOS.
pub(super) async fn rss_kib(process: &Process) -> anyhow::Result<u64> {
    let pid = process.pid().context("the worker has ended")?.to_string();
    let output = tokio::process::Command::new("ps").args(["-o", "rss=", "-p", &pid]).output().await?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().parse()?)
}

fn rate(jobs: u32, took: Duration) -> f64 {
    f64::from(jobs) / took.as_secs_f64()
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn as_f64(number: u64) -> f64 {
    number as f64
}
