//! The processes of the demo: one Redis, and workers that are real `topup-worker run` processes. The workers get their
//! settings from environment variables, as in production. Of the user's own variables they inherit only [`KEPT`]. The
//! demo observes the workers only through the store and Redis, as any outsider could.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;
use tokio::process::Command;
use topup_jobs::JobName;

use crate::cli::private::Folder;
use crate::cli::private::Process;
use crate::redis::Names;

/// Maximum real time (not scaled) from the start of a worker to its registration in Redis.
const START_TIME: Duration = Duration::from_secs(15);
pub(super) const QUEUES: [JobName; 3] = [JobName::PollTopup, JobName::RecheckTopup, JobName::NotifyCustomer];
/// Variables that a worker inherits from the user. Only `RUST_LOG`, the log level, is a setting of the service.
const KEPT: [&str; 4] = ["PATH", "RUST_BACKTRACE", "RUST_LOG", "TMPDIR"];

pub(super) struct Stage {
    redis: Option<Process>,
    workers: Vec<Process>,
    started: usize,
}

/// The workers' program and settings, and the demo's access to Redis.
pub(super) struct Casting {
    pub(super) program: PathBuf,
    pub(super) settings: Vec<(&'static str, String)>,
    pub(super) names: Names,
    pub(super) redis: MultiplexedConnection,
}

impl Stage {
    pub(super) fn new() -> Self {
        Self { redis: None, workers: Vec::new(), started: 0 }
    }

    pub(super) fn redis_runs(&mut self, redis: Process) {
        self.redis = Some(redis);
    }

    /// Starts `count` workers at once and waits until each has registered in Redis.
    pub(super) async fn start_workers(
        &mut self,
        count: usize,
        casting: &mut Casting,
        folder: &Folder,
    ) -> anyhow::Result<()> {
        let first = self.workers.len();
        for _ in 0..count {
            self.started += 1;
            let mut command = Command::new(&casting.program);
            command.arg("run").env_clear().envs(kept()).envs(casting.settings.iter().cloned());
            self.workers.push(Process::start(&format!("worker {}", self.started), command, folder)?);
        }
        let signing_on = async {
            loop {
                self.must_run()?;
                let mut ready = true;
                for worker in &self.workers[first..] {
                    ready &= !signed_on(worker, JobName::NotifyCustomer, casting).await?.is_empty();
                }
                if ready {
                    return Ok(());
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(START_TIME, signing_on).await.context("the workers did not register in Redis")?
    }

    pub(super) fn first_worker(&self) -> &str {
        self.workers.first().map_or("no worker", |worker| worker.name.as_str())
    }

    /// Whether the first worker has claimed a notify-customer job and not finished it.
    pub(super) async fn first_is_telling(&self, casting: &mut Casting) -> anyhow::Result<bool> {
        let Some(worker) = self.workers.first() else { return Ok(false) };
        let keys = in_flight(worker, &[JobName::NotifyCustomer], casting).await?;
        Ok(count(&keys, casting).await? > 0)
    }

    /// Kills the first worker with SIGKILL, like a crash, and returns how many jobs the worker held. They can be
    /// counted after the kill, because no other worker takes them over before the killed worker's lease has expired.
    pub(super) async fn kill_first(&mut self, casting: &mut Casting) -> anyhow::Result<usize> {
        anyhow::ensure!(!self.workers.is_empty(), "there is no worker to kill");
        let mut worker = self.workers.remove(0);
        let keys = in_flight(&worker, &QUEUES, casting).await?;
        worker.kill().await?;
        count(&keys, casting).await
    }

    /// Fails if a process has ended unexpectedly.
    pub(super) fn must_run(&mut self) -> anyhow::Result<()> {
        self.redis.iter_mut().chain(&mut self.workers).try_for_each(Process::must_run)
    }

    /// Stops the workers. Returns a description of each that failed or did not stop in time.
    pub(super) async fn stop_workers(&mut self) -> Vec<String> {
        // Workers that ended by themselves are skipped, because `must_run` has already reported them.
        self.workers.retain(|worker| worker.pid().is_some());
        for worker in &self.workers {
            worker.ask_to_stop().await;
        }
        let mut bad = Vec::new();
        for worker in self.workers.drain(..) {
            let name = worker.name.clone();
            match worker.stopped().await {
                Some(status) if status.success() => {}
                Some(status) => bad.push(format!("{name} was asked to stop and failed ({status})")),
                None => bad.push(format!("{name} was asked to stop and did not stop in time")),
            }
        }
        bad
    }

    /// Stops the workers, then Redis.
    pub(super) async fn clear(&mut self) {
        for worker in self.stop_workers().await {
            tracing::warn!("the demo could not end a worker properly: {worker}");
        }
        if let Some(redis) = self.redis.take() {
            redis.ask_to_stop().await;
            redis.stopped().await;
        }
    }
}

fn kept() -> impl Iterator<Item = (&'static str, OsString)> {
    KEPT.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?)))
}

/// Keys of the Redis sets with the jobs that this process has claimed from `queues`.
async fn in_flight(
    worker: &Process,
    queues: &[JobName],
    casting: &mut Casting,
) -> anyhow::Result<Vec<String>> {
    let mut keys = Vec::new();
    for &queue in queues {
        let names = signed_on(worker, queue, casting).await?;
        let queue = casting.names.queue(queue);
        keys.extend(names.into_iter().map(|name| format!("{queue}:inflight:{name}")));
    }
    Ok(keys)
}

async fn count(keys: &[String], casting: &mut Casting) -> anyhow::Result<usize> {
    let mut jobs = 0;
    for key in keys {
        jobs += casting.redis.scard::<_, usize>(key).await?;
    }
    Ok(jobs)
}

/// The names (`host-pid-ulid`) under which this process is registered in a queue: one for each time it registered.
async fn signed_on(worker: &Process, queue: JobName, casting: &mut Casting) -> anyhow::Result<Vec<String>> {
    let Some(pid) = worker.pid() else { return Ok(Vec::new()) };
    let key = format!("{}:workers", casting.names.queue(queue));
    let mut names: Vec<String> = casting.redis.zrange(key, 0, -1).await?;
    names.retain(|name| name.rsplit('-').nth(1) == Some(pid.to_string().as_str()));
    Ok(names)
}
