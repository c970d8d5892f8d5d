//! The environment of the bench: an empty Redis, and a producer that fills it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use secrecy::{ExposeSecret, SecretString};
use topup_jobs::JobName;

use super::handler::DUE;
use crate::cli::private::{Folder, Process, redis_server};
use crate::clock::{ScaledClock, real_now};
use crate::intake::Intake;
use crate::notify::CallbackHosts;
use crate::orders::CardCipher;
use crate::redis::{Names, RedisAddress, RedisHealth};
use crate::shutdown::Shutdown;

/// Messages per pipeline. `bench/compare` uses the same number for the other queues that it measures.
const CALL: u32 = 500;
/// Longest wait for a condition or a reply of Redis.
const PATIENCE: Duration = Duration::from_mins(10);

/// The Redis of one run of the bench, the names of its keys, and the folder of the run.
pub(super) struct BenchRedis {
    pub(super) redis_url: String,
    pub(super) address: RedisAddress,
    pub(super) redis: MultiplexedConnection,
    pub(super) names: Names,
    /// Encryption key of the stored cards, shared by all workers.
    pub(super) encryption_key: SecretString,
    /// Declared before `folder`, so that the server is stopped before its data is deleted.
    _server: Option<Process>,
    pub(super) folder: Folder,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Due {
    /// All jobs are due at once.
    Now,
    /// The jobs become due evenly over `window`, which begins when `lead` has passed since the first XADD.
    Over { lead: Duration, window: Duration },
}

impl BenchRedis {
    /// Connects to the Redis at `redis_url`, which must be empty. Without a URL, starts a private Redis.
    pub(super) async fn prepare(redis_url: Option<&SecretString>) -> anyhow::Result<Self> {
        let folder = Folder::make()?;
        let (server, redis_url) = if let Some(url) = redis_url {
            (None, url.expose_secret().to_owned())
        } else {
            let (server, url) = redis_server::start(&redis_server::find()?, &folder).await?;
            (Some(server), url)
        };
        let names: Names = "{topup-bench}".parse()?;
        let address = RedisAddress::parse(&redis_url, &names)?;
        let client = address.client().await.context("Redis does not answer")?;
        // A long time-out, because Redis needs a while to delete a million jobs.
        let patient = AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE));
        let connecting = client.get_multiplexed_async_connection_with_config(&patient);
        let mut redis = connecting.await.context("Redis does not answer")?;
        let keys: u64 = redis::cmd("DBSIZE").query_async(&mut redis).await?;
        anyhow::ensure!(keys == 0, "the Redis of --redis-url holds {keys} keys; give the bench an empty one");
        let encryption_key = CardCipher::generate_key();
        Ok(Self { redis_url, address, redis, names, encryption_key, _server: server, folder })
    }

    pub(super) async fn clear(&mut self) -> anyhow::Result<()> {
        Ok(redis::cmd("FLUSHDB").exec_async(&mut self.redis).await?)
    }

    pub(super) fn key(&self, suffix: &str) -> String {
        format!("{}:{suffix}", self.names.queue(JobName::PollTopup))
    }

    /// Runs a command whose reply is one number.
    pub(super) async fn number(&self, command: &[&str]) -> anyhow::Result<u64> {
        let mut call = redis::cmd(command[0]);
        Ok(call.arg(&command[1..]).query_async(&mut self.redis.clone()).await?)
    }

    pub(super) async fn info(&self, field: &str) -> anyhow::Result<u64> {
        let info: redis::InfoDict = redis::cmd("INFO").query_async(&mut self.redis.clone()).await?;
        info.get(field).with_context(|| format!("INFO has no {field}"))
    }

    /// Adds messages to the inbox as a producer does, [`CALL`] per pipeline. Returns how long this took.
    pub(super) async fn add(&mut self, jobs: u32, due: Due) -> anyhow::Result<Duration> {
        let inbox = self.names.inbox();
        let began = Instant::now();
        let first_due = real_now().timestamp_millis();
        for first in (0..jobs).step_by(CALL as usize) {
            let mut call = redis::pipe();
            for job in first..jobs.min(first + CALL) {
                let add = call.cmd("XADD").arg(&inbox).arg("*").arg("name").arg("poll-topup").arg("data");
                match due {
                    Due::Now => {
                        add.arg(format!(r#"{{"topupId":"{}"}}"#, topup_id(job)));
                    }
                    Due::Over { lead, window } => {
                        let due_ms = first_due + millis(lead + window * job / jobs);
                        let delay_ms = (due_ms - real_now().timestamp_millis()).max(0);
                        add.arg(format!(
                            r#"{{"topupId":"{}","metadata":{{"{DUE}":{due_ms}}}}}"#,
                            topup_id(job)
                        ));
                        add.arg("opts").arg(format!(r#"{{"delay":{delay_ms}}}"#));
                    }
                }
                add.ignore();
            }
            call.exec_async(&mut self.redis).await?;
        }
        Ok(began.elapsed())
    }

    /// Runs an [`Intake`] and no worker until all messages of the inbox are in the queue. Returns how long this took.
    pub(super) async fn take_in(&self) -> anyhow::Result<Duration> {
        let health = RedisHealth::default();
        let clock = Arc::new(ScaledClock::real_time());
        let intake = Intake::new(&self.address, self.names.clone(), clock, CallbackHosts::default(), &health);
        let (stop, began) = (Shutdown::new(), Instant::now());
        let taking = tokio::spawn(intake.run(stop.clone()));
        let inbox = self.names.inbox();
        self.until("the inbox is taken in", async || Ok(self.number(&["XLEN", &inbox]).await? == 0)).await?;
        let took = began.elapsed();
        stop.request();
        taking.await?;
        Ok(took)
    }

    /// Deletes all keys, then fills the queue with `jobs` jobs.
    pub(super) async fn fill(&mut self, jobs: u32, due: Due) -> anyhow::Result<()> {
        self.clear().await?;
        self.add(jobs, due).await?;
        self.take_in().await?;
        Ok(())
    }

    pub(super) async fn until_empty(&self) -> anyhow::Result<()> {
        let data = self.key("data");
        self.until("the queue is empty", async || Ok(self.number(&["HLEN", &data]).await? == 0)).await
    }

    /// Calls `ask` every 2 ms until it returns true; fails after [`PATIENCE`].
    pub(super) async fn until(
        &self,
        what: &str,
        mut ask: impl AsyncFnMut() -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let end = Instant::now() + PATIENCE;
        while !ask().await? {
            anyhow::ensure!(Instant::now() < end, "the bench waited {PATIENCE:?} until {what}, and gave up");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(())
    }
}

fn topup_id(job: u32) -> String {
    format!("6901616fe9e88196{job:08x}")
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
