//! BullMQ's own Rust port, doing what `topup-worker bench` does. Figures are printed as one JSON object.
//!
//! `peer-bullmq-official noop JOBS SLOTS | delayed JOBS WINDOW_MS | fill JOBS | fill-now JOBS | work SLOTS
//! HOLD_MS`; the Redis of `REDIS_URL` must be empty.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bullmq::options::{JobOptions, RedisConnectionOptions};
use bullmq::types::RemoveOnFinish;
use bullmq::worker::{CancellationToken, ProcessorFn};
use bullmq::{BulkJob, Job, Queue, QueueOptions, Worker, WorkerOptions};
use serde_json::{Value, json};

const QUEUE: &str = "poll-topup";
/// Jobs in one call.
const CALL: usize = 500;
const LEAD_MS: u64 = 5_000;
const DELAYED_SLOTS: usize = 200;

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

fn connection() -> RedisConnectionOptions {
    RedisConnectionOptions::default().url(&std::env::var("REDIS_URL").expect("REDIS_URL is set"))
}

/// Adds jobs, due as `due` says; returns the rate.
async fn add(jobs: usize, due: impl Fn(usize) -> Option<u64>) -> bullmq::Result<f64> {
    let mut options = QueueOptions::default();
    options.connection = connection();
    let queue = Queue::with_options(QUEUE, options).await?;
    let began = Instant::now();
    for first in (0..jobs).step_by(CALL) {
        let call = (first..jobs.min(first + CALL)).map(|job| {
            let mut options = JobOptions::default();
            options.remove_on_complete = Some(RemoveOnFinish::Bool(true));
            let mut data = json!({ "topupId": format!("6901616fe9e88196{job:08x}") });
            if let Some(due) = due(job) {
                options.delay = Some(due.saturating_sub(now_ms()));
                options.attempts = Some(3);
                data["due"] = due.into();
            }
            BulkJob::with_options(QUEUE, data, options)
        });
        queue.add_bulk(call.collect()).await?;
    }
    Ok(jobs as f64 / began.elapsed().as_secs_f64())
}

/// Runs jobs until so many are done; returns how late they were and how long it took.
async fn work(slots: usize, jobs: usize, hold: Duration) -> bullmq::Result<(Vec<i64>, Duration)> {
    let done = Arc::new(AtomicUsize::new(0));
    let lateness = Arc::new(Mutex::new(Vec::new()));
    let (counted, noted) = (Arc::clone(&done), Arc::clone(&lateness));
    let handler: ProcessorFn = Arc::new(move |job: Job, _: CancellationToken| {
        let (counted, noted) = (Arc::clone(&counted), Arc::clone(&noted));
        Box::pin(async move {
            if let Some(due) = job.data()["due"].as_u64() {
                noted.lock().unwrap().push(now_ms() as i64 - due as i64);
            }
            if !hold.is_zero() {
                tokio::time::sleep(hold).await;
            }
            counted.fetch_add(1, Ordering::Relaxed);
            Ok(Value::Null)
        })
    });
    let mut options = WorkerOptions::default();
    options.connection = connection();
    options.concurrency = slots;
    let began = Instant::now();
    let worker = Worker::with_options(QUEUE, handler, options).await?;
    while done.load(Ordering::Relaxed) < jobs {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let took = began.elapsed();
    let mut lateness = lateness.lock().unwrap().clone();
    lateness.sort_unstable();
    let _ = worker.close(2000).await;
    Ok((lateness, took))
}

#[tokio::main]
async fn main() -> bullmq::Result<()> {
    let args: Vec<String> = std::env::args().collect();
    let number = |n: usize| args.get(n).and_then(|text| text.parse::<usize>().ok()).unwrap_or(0);
    let (first, second) = (number(2), number(3));
    let figures = match args[1].as_str() {
        "noop" => {
            let added = add(first, |_| None).await?;
            let (_, took) = work(second, first, Duration::ZERO).await?;
            json!({ "add_jobs_per_second": added, "noop_jobs_per_second": first as f64 / took.as_secs_f64() })
        }
        "delayed" => {
            let base = now_ms() + LEAD_MS;
            add(first, |job| Some(base + (job * second / first) as u64)).await?;
            let (lateness, _) = work(DELAYED_SLOTS, first, Duration::ZERO).await?;
            let at = |share: f64| lateness[((first as f64 * share) as usize).min(first - 1)];
            json!({ "lateness_p50_ms": at(0.5), "lateness_p99_ms": at(0.99), "lateness_max_ms": at(1.0) })
        }
        "fill" => {
            let base = now_ms() + 3_600_000;
            add(first, |job| Some(base + job as u64)).await?;
            json!({})
        }
        "fill-now" => {
            add(first, |_| None).await?;
            json!({})
        }
        _ => {
            work(first, usize::MAX, Duration::from_millis(second as u64)).await?;
            json!({})
        }
    };
    println!("{figures}");
    Ok(())
}
