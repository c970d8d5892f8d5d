//! Harness for one queue: a Redis that the test may break, worker processes that it may kill, and scripted jobs whose
//! settlements are checked at the end.

mod account;
mod diary;
mod process;
mod script;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use redis::RedisResult;
use redis::aio::MultiplexedConnection;
use tempfile::TempDir;
use tokio::time::Instant;

use self::diary::Diary;
use super::redis::TestRedis;
use super::{DEADLINE, until};

pub(crate) use super::connect;
pub(crate) use process::{EngineWorker, Settings};
pub(crate) use script::{Act, TestJob, mixed};

/// Prefix of all keys.
const PREFIX: &str = "{topup}";
/// The queue that the workers consume.
pub(crate) const QUEUE: &str = "{topup}:poll-topup";

/// Redis, diary and worker processes of one test.
pub(crate) struct Engine {
    pub(crate) redis: TestRedis,
    pub(crate) diary: Arc<Diary>,
    folder: TempDir,
    workers: AtomicUsize,
}

impl Engine {
    /// Runs on a private Redis.
    pub(crate) async fn new() -> Self {
        Self::on(TestRedis::start().await)
    }

    /// Runs on a Redis in a container, or on a private one if containers are not available.
    pub(crate) async fn in_container() -> Self {
        match TestRedis::container().await {
            Some(redis) => Self::on(redis),
            None => Self::new().await,
        }
    }

    fn on(redis: TestRedis) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let diary = Arc::new(Diary::open(&folder.path().join(process::DIARY)));
        Self { redis, diary, folder, workers: AtomicUsize::new(0) }
    }

    /// Settings of a worker that connects to the Redis directly.
    pub(crate) fn settings(&self, slots: usize) -> Settings {
        Settings {
            redis_url: self.redis.url(),
            slots,
            receipts: true,
            environment: Vec::new(),
            wrapper: Vec::new(),
        }
    }

    /// Starts a worker and waits until it is registered.
    pub(crate) async fn worker(&self, slots: usize) -> EngineWorker {
        self.start(&self.settings(slots)).await
    }

    /// Starts a worker with these settings and waits until it is registered.
    pub(crate) async fn start(&self, settings: &Settings) -> EngineWorker {
        let number = self.workers.fetch_add(1, Ordering::Relaxed);
        let log = self.folder.path().join(format!("worker-{number}.log"));
        let worker = EngineWorker::start(settings, self.folder.path(), log, &self.diary);
        let pid = format!("-{}-", worker.pid());
        until("the worker is registered", async || {
            let workers: Vec<String> = self.ask(&["ZRANGE", &format!("{QUEUE}:workers"), "0", "-1"]).await;
            workers.iter().any(|name| name.contains(&pid)).then_some(())
        })
        .await;
        worker
    }

    /// Opens a gate: the jobs that wait for it continue.
    pub(crate) fn open(&self, gate: &str) {
        std::fs::write(self.folder.path().join(gate), "").expect("the gate opens");
    }

    /// Shuts a gate again.
    pub(crate) fn shut(&self, gate: &str) {
        std::fs::remove_file(self.folder.path().join(gate)).expect("the gate was open");
    }

    /// Opens a connection for the test.
    pub(crate) async fn connect(&self) -> RedisResult<MultiplexedConnection> {
        connect(&self.redis.url()).await
    }

    /// Sends one command to Redis, which must answer.
    pub(crate) async fn ask<T: redis::FromRedisValue>(&self, command: &[&str]) -> T {
        let mut call = redis::cmd(command[0]);
        call.arg(&command[1..]);
        let mut connection = self.connect().await.expect("Redis accepts the connection");
        call.query_async(&mut connection).await.expect("Redis answers")
    }

    /// Enqueues jobs as other programs do: payload and id in one transaction, then a wake-up to the workers.
    pub(crate) async fn push(&self, jobs: &[TestJob]) {
        self.try_push(jobs).await.expect("the jobs are enqueued");
    }

    /// As [`Engine::push`], but returns an error of Redis.
    pub(crate) async fn try_push(&self, jobs: &[TestJob]) -> RedisResult<()> {
        let mut pipe = redis::pipe();
        pipe.atomic();
        for job in jobs {
            pipe.hset(format!("{QUEUE}:data"), &job.id, job.payload()).ignore();
            pipe.rpush(format!("{QUEUE}:active"), &job.id).ignore();
        }
        pipe.publish(format!("{QUEUE}:wake"), "").ignore();
        pipe.exec_async(&mut self.connect().await?).await
    }

    /// Schedules a job for a second of the clock of Redis, without a wake-up, as `RedisStorage` of apalis does.
    pub(crate) async fn schedule(&self, job: &TestJob, due: f64) {
        let mut pipe = redis::pipe();
        pipe.atomic();
        pipe.hset(format!("{QUEUE}:data"), &job.id, job.payload()).ignore();
        pipe.zadd(format!("{QUEUE}:scheduled"), &job.id, due).ignore();
        let mut connection = self.connect().await.expect("Redis accepts the connection");
        pipe.exec_async(&mut connection).await.expect("the job is scheduled");
    }

    /// Reads the clock of Redis, in seconds.
    pub(crate) async fn now(&self) -> f64 {
        let (seconds, micros): (f64, f64) = self.ask(&["TIME"]).await;
        seconds + micros / 1e6
    }

    /// Waits until `count` runs that match `of` have begun.
    pub(crate) async fn begun(&self, count: usize, of: impl Fn(&diary::Run) -> bool) {
        until(&format!("{count} runs have begun"), async || {
            let runs = self.diary.runs();
            (runs.iter().filter(|run| of(run)).count() >= count).then_some(())
        })
        .await;
    }

    /// Pushes a few jobs one after the other. Returns whether a wake-up started one of them. Without a wake-up the
    /// worker polls Redis at intervals of at least one and a half seconds.
    pub(crate) async fn is_woken(&self, jobs: &mut Vec<TestJob>) -> bool {
        let mut fastest = DEADLINE;
        for _ in 0..4 {
            let number = jobs.len().try_into().expect("a few jobs");
            let job = TestJob::new(number, [Act::Finish.at_once()]);
            let pushed = Instant::now();
            self.push(std::slice::from_ref(&job)).await;
            self.begun(1, |run| run.job == job.id).await;
            fastest = fastest.min(pushed.elapsed());
            jobs.push(job);
        }
        fastest < Duration::from_secs(1)
    }
}
