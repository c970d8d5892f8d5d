//! A queue under test: a Redis to maltreat, worker processes to kill, scripted jobs, and the account at the end.

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
pub(crate) use script::{Act, Part, mixed};

/// Prefix of all keys.
const PREFIX: &str = "{topup}";
/// The queue that is worked on.
pub(crate) const QUEUE: &str = "{topup}:poll-topup";

/// See the module.
pub(crate) struct Engine {
    pub(crate) redis: TestRedis,
    pub(crate) diary: Arc<Diary>,
    folder: TempDir,
    workers: AtomicUsize,
}

impl Engine {
    /// On a private Redis.
    pub(crate) async fn new() -> Self {
        Self::on(TestRedis::start().await)
    }

    /// On a Redis in a container where there is one, and on a private one elsewhere.
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

    /// How a worker on the Redis itself is started.
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

    /// As [`Engine::worker`], with settings of its own.
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

    /// Lets the jobs behind this gate go on.
    pub(crate) fn open(&self, gate: &str) {
        std::fs::write(self.folder.path().join(gate), "").expect("the gate opens");
    }

    /// Shuts a gate again.
    pub(crate) fn shut(&self, gate: &str) {
        std::fs::remove_file(self.folder.path().join(gate)).expect("the gate was open");
    }

    /// A connection of the test's own.
    pub(crate) async fn connect(&self) -> RedisResult<MultiplexedConnection> {
        connect(&self.redis.url()).await
    }

    /// One command, as `redis-cli` would send it. Redis must be there.
    pub(crate) async fn ask<T: redis::FromRedisValue>(&self, command: &[&str]) -> T {
        let mut call = redis::cmd(command[0]);
        call.arg(&command[1..]);
        let mut connection = self.connect().await.expect("Redis is there");
        call.query_async(&mut connection).await.expect("Redis answers")
    }

    /// Enqueues jobs as a producer of the layout does: payload and id in one step, and a word to the workers.
    pub(crate) async fn push(&self, parts: &[Part]) {
        self.try_push(parts).await.expect("the jobs are in");
    }

    /// As [`Engine::push`], where Redis may refuse.
    pub(crate) async fn try_push(&self, parts: &[Part]) -> RedisResult<()> {
        let mut pipe = redis::pipe();
        pipe.atomic();
        for part in parts {
            pipe.hset(format!("{QUEUE}:data"), &part.id, part.payload()).ignore();
            pipe.rpush(format!("{QUEUE}:active"), &part.id).ignore();
        }
        pipe.publish(format!("{QUEUE}:wake"), "").ignore();
        pipe.exec_async(&mut self.connect().await?).await
    }

    /// Schedules a job for a second of the clock of Redis, as `RedisStorage` does: without a word to anybody.
    pub(crate) async fn schedule(&self, part: &Part, due: f64) {
        let mut pipe = redis::pipe();
        pipe.atomic();
        pipe.hset(format!("{QUEUE}:data"), &part.id, part.payload()).ignore();
        pipe.zadd(format!("{QUEUE}:scheduled"), &part.id, due).ignore();
        let mut connection = self.connect().await.expect("Redis is there");
        pipe.exec_async(&mut connection).await.expect("the job is in");
    }

    /// The clock of Redis, in seconds.
    pub(crate) async fn now(&self) -> f64 {
        let (seconds, micros): (f64, f64) = self.ask(&["TIME"]).await;
        seconds + micros / 1e6
    }

    /// Waits until this many runs have begun, of jobs that this concerns.
    pub(crate) async fn begun(&self, count: usize, of: impl Fn(&diary::Run) -> bool) {
        until(&format!("{count} runs have begun"), async || {
            let runs = self.diary.runs();
            (runs.iter().filter(|run| of(run)).count() >= count).then_some(())
        })
        .await;
    }

    /// Pushes a few jobs one after the other, each once the last has begun, and tells whether a word from Redis
    /// wakes the worker: without it, it looks no more often than every one and a half seconds.
    pub(crate) async fn is_woken(&self, parts: &mut Vec<Part>) -> bool {
        let mut fastest = DEADLINE;
        for _ in 0..4 {
            let number = parts.len().try_into().expect("a few jobs");
            let part = Part::new(number, [Act::Finish.at_once()]);
            let pushed = Instant::now();
            self.push(std::slice::from_ref(&part)).await;
            self.begun(1, |run| run.job == part.id).await;
            fastest = fastest.min(pushed.elapsed());
            parts.push(part);
        }
        fastest < Duration::from_secs(1)
    }
}
