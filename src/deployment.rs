//! What all workers of a deployment must have in common, as recorded in Redis: the layout of the keys in Redis, the
//! database, and encryption keys with which each worker can decrypt the cards of every other worker.
//!
//! Workers that differ would silently damage each other's work: with two databases under one prefix a customer is
//! notified twice, and a worker without the right key cannot read a card. So a worker joins the deployment before it
//! changes anything, checks its membership three times a minute, and stops with an error if it differs from the others.
//! If Redis has lost its data, the running workers write these entries again, and a starting worker waits for that.
//!
//! | key | type | content |
//! |---|---|---|
//! | `{topup}:layout` | string | number of the layout of all keys; raised if an older program must stop |
//! | `{topup}:store` | string | id of the database that the jobs belong to |
//! | `{topup}:keyrings` | sorted set | workers and their keys' fingerprints, scored by the time of the last join |

pub(crate) mod scripts;
mod time_keeper;

use std::time::Duration;

use redis::{RedisResult, pipe};
use tokio::time::{Instant, sleep, timeout};
use topup_jobs::{JobName, Timestamp};

pub(crate) use self::time_keeper::TimeKeeper;
use crate::job::WORKER_IS_GONE_AFTER;
use crate::redis::{Backoff, Connection, Names, millis};

/// Version of the key layout in Redis. A higher version in Redis stops all older workers. Because old and new workers
/// run at once during an upgrade, it is raised only if an old worker could lose or duplicate a job in the new layout.
pub(crate) const LAYOUT: u64 = 1;

/// Pause between two membership checks. A check is one small query. `TIME_SCALE` changes no duration of this file.
const INTERVAL: Duration = Duration::from_secs(20);
/// A worker renews its membership after this number of checks, to show the other workers that it is alive.
const JOINS_ANEW_AFTER: u32 = 30;
/// A worker that has not renewed its membership for this long counts as gone.
const GONE_AFTER: Duration = Duration::from_mins(25);
/// A live worker whose entry was removed, because its keys differ from another worker's, joins again within this time.
pub(crate) const BACK_WITHIN: Duration = Duration::from_secs(26);
/// Pause between two queries while a worker or a command waits for running workers to report or to join again.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// After `join.lua` has woken the running workers, they report to their queues within this time.
const REPORTS_WITHIN: Duration = Duration::from_secs(2);
/// How long a stopping worker waits until Redis has removed its entry from the set of workers.
const LEAVE_WITHIN: Duration = Duration::from_secs(2);

/// Why a worker or a command must not run beside the others.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// A newer program has changed the layout of the keys.
    #[error(
        "a newer topup-worker has changed what stands in Redis under {prefix} (layout {found}; this version knows \
         {LAYOUT}): run the newer version, or give this one a TOPUP_PREFIX of its own"
    )]
    Layout { prefix: String, found: u64 },
    /// The jobs belong to another database.
    #[error(
        "DATABASE_URL cannot be used: the jobs in Redis under {prefix} belong to another database (store {found}; this \
         one is {own}): set it as the other workers have it (a relative path counts from the folder in which the \
         program runs), or give this worker a TOPUP_PREFIX of its own. If this database replaces the other for good, \
         stop every worker and run `topup-worker adopt-store`"
    )]
    Store { prefix: String, found: String, own: String },
    /// Another worker's encryption keys do not fit those of this worker.
    #[error(
        "ENCRYPTION_KEY cannot be used: another worker under {prefix} encrypts cards with the key of fingerprint \
         {theirs}, this one with {own}, and one of them cannot decrypt what the other encrypts: give both the same \
         keys, the current one in ENCRYPTION_KEY and the other in ENCRYPTION_KEYS_PREVIOUS. To change the key, follow \
         docs/operations.md: every worker must be able to decrypt with the new key before one encrypts with it"
    )]
    Keys { prefix: String, theirs: String, own: String },
    /// The database at the address is no longer the one with which this worker started.
    #[error(
        "the database at the address of DATABASE_URL is not the one that this worker started with; restart the worker"
    )]
    Replaced,
}

impl Refusal {
    /// Whether a wrong setting is the cause. The error's text then names the setting.
    pub(crate) const fn is_of_a_setting(&self) -> bool {
        matches!(self, Self::Store { .. } | Self::Keys { .. })
    }
}

/// The layout and the database of the deployment, as Redis records them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Shared {
    /// The version of the key layout; 0 until a first worker has joined.
    pub(crate) layout: u64,
    /// The id of the database that the jobs belong to; `None` until a first worker has joined.
    pub(crate) store: Option<String>,
}

impl Shared {
    pub(crate) async fn read(
        connection: &mut impl redis::aio::ConnectionLike,
        names: &Names,
    ) -> RedisResult<Self> {
        let mut read = pipe();
        read.cmd("GET").arg(names.layout_version()).cmd("GET").arg(names.store());
        let (layout, store): (Option<String>, Option<String>) = read.query_async(connection).await?;
        Ok(Self { layout: layout.and_then(|layout| layout.parse().ok()).unwrap_or_default(), store })
    }

    /// Checks that this program and the database with this id fit the jobs in Redis. A database that does not exist yet
    /// has no id. Fails with [`Refusal::Layout`] or [`Refusal::Store`].
    pub(crate) fn check(&self, names: &Names, store: Option<&str>) -> Result<(), Refusal> {
        self.check_layout(names)?;
        self.check_store(names, store)
    }

    pub(crate) fn check_store(&self, names: &Names, store: Option<&str>) -> Result<(), Refusal> {
        match &self.store {
            Some(found) if Some(found.as_str()) != store => Err(Refusal::Store {
                prefix: names.to_string(),
                found: found.clone(),
                own: store.unwrap_or("not there, or has older tables").to_owned(),
            }),
            _ => Ok(()),
        }
    }

    pub(crate) fn check_layout(&self, names: &Names) -> Result<(), Refusal> {
        if self.layout > LAYOUT {
            return Err(Refusal::Layout { prefix: names.to_string(), found: self.layout });
        }
        Ok(())
    }
}

/// Reads the recorded layout and database from Redis. Retries until Redis answers.
pub(crate) async fn read_patiently(connection: &Connection, names: &Names) -> Shared {
    let mut backoff = Backoff::new();
    loop {
        match Shared::read(&mut connection.get(), names).await {
            Ok(shared) => {
                connection.answered();
                return shared;
            }
            Err(error) => {
                connection.failed(&error);
                backoff.wait().await;
            }
        }
    }
}

/// The result of `join.lua`, unless it is a [`Refusal`].
enum Answer {
    /// The worker's layout, database and keys fit. It has joined the deployment, unless it only asked (`look`).
    Fits,
    /// Another worker's encryption keys do not fit. Holds that worker's entry in the set of workers.
    Differs(String),
    /// Redis names no database: it is new or has lost its data. Workers were woken; if one reports, the data was lost.
    Unclaimed,
    /// Redis names no database, although other workers run. One of them will write the database's id again.
    OthersRun,
}

pub(crate) struct Membership {
    connection: Connection,
    names: Names,
    store: String,
    /// Name of the worker, unique for each start.
    worker: String,
    /// Fingerprints of the worker's keys, the current one's first.
    keys: Vec<String>,
    /// When time scaled by `TIME_SCALE` began. Starting workers read it from Redis; this one restores it if it is lost.
    time_anchor: Option<Timestamp>,
}

impl Membership {
    pub(crate) fn new(connection: Connection, names: Names, store: String, keys: &[&str]) -> Self {
        let keys = keys.iter().map(|&key| key.to_owned()).collect();
        let worker = ulid::Ulid::generate().to_string();
        Self { connection, names, store, worker, keys, time_anchor: None }
    }

    /// Makes this worker also restore the time at which scaled time (`TIME_SCALE`) began, if Redis loses it.
    pub(crate) fn keeping_time_anchor(self, time_anchor: Option<Timestamp>) -> Self {
        Self { time_anchor, ..self }
    }

    /// Joins the deployment. Retries until Redis answers. If Redis has lost its data, waits until a running worker has
    /// written the database's id again. If another worker's keys differ, fails unless that worker proves to be gone.
    pub(crate) async fn join(&self) -> Result<(), Refusal> {
        self.join_as("join").await
    }

    async fn join_as(&self, mut what: &'static str) -> Result<(), Refusal> {
        let mut is_logged = false;
        loop {
            match self.ask(what).await? {
                Answer::Fits => return Ok(()),
                Answer::Unclaimed => {
                    sleep(REPORTS_WITHIN).await;
                    what = "claim";
                }
                Answer::OthersRun => {
                    if !is_logged {
                        is_logged = true;
                        tracing::info!(
                            "Redis has lost its data; this worker starts once a running worker has registered again"
                        );
                    }
                    sleep(LOOK_AGAIN).await;
                }
                // The script has removed the entries of workers whose keys differ. If one is alive, it joins again.
                Answer::Differs(_) => {
                    tracing::warn!(
                        "another worker was registered with other encryption keys; this worker waits and ends if the other one is alive"
                    );
                    let end = Instant::now() + BACK_WITHIN;
                    while Instant::now() < end {
                        sleep(LOOK_AGAIN).await;
                        if let Answer::Differs(other) = self.ask("look").await? {
                            return Err(self.differ(&other));
                        }
                    }
                }
            }
        }
    }

    /// Keeps this worker a member until it is refused, and returns the reason.
    pub(crate) async fn stay(&self) -> Refusal {
        loop {
            for _ in 0..JOINS_ANEW_AFTER {
                sleep(INTERVAL).await;
                if !self.stands().await {
                    break;
                }
            }
            if let Err(refusal) = self.join_as("stay").await {
                return refusal;
            }
            self.put_back_time_anchor().await;
        }
    }

    async fn put_back_time_anchor(&self) {
        let Some(anchor) = self.time_anchor else { return };
        let mut put = redis::cmd("SETNX");
        put.arg(self.names.time_anchor()).arg(anchor.timestamp_millis());
        if let Err(error) = put.query_async::<()>(&mut self.connection.get()).await {
            self.connection.failed(&error);
        }
    }

    /// Whether the set of workers still has this worker's entry. Redis may have lost it, or a worker removed it.
    async fn stands(&self) -> bool {
        let mut look = redis::cmd("ZSCORE");
        look.arg(self.names.keyrings()).arg(self.member());
        match look.query_async::<Option<f64>>(&mut self.connection.get()).await {
            Ok(score) => score.is_some(),
            Err(error) => {
                self.connection.failed(&error);
                true
            }
        }
    }

    /// Leaves the set of workers, so that a worker with other keys may start at once.
    pub(crate) async fn leave(&self) {
        let mut remove = redis::cmd("ZREM");
        remove.arg(self.names.keyrings()).arg(self.member());
        let mut connection = self.connection.get();
        // If Redis does not answer, the entry stays until it expires (`GONE_AFTER`).
        drop(timeout(LEAVE_WITHIN, remove.query_async::<()>(&mut connection)).await);
    }

    async fn ask(&self, what: &str) -> Result<Answer, Refusal> {
        let mut backoff = Backoff::new();
        let (word, detail): (String, String) = loop {
            let mut call = scripts::JOIN.prepare_invoke();
            call.key(self.names.layout_version()).key(self.names.store()).key(self.names.keyrings());
            for job in JobName::ALL {
                call.key(self.names.queue(job));
            }
            call.arg(LAYOUT).arg(&self.store).arg(millis(GONE_AFTER)).arg(millis(WORKER_IS_GONE_AFTER));
            call.arg(&self.worker).arg(what);
            call.arg(self.keys.len()).arg(&self.keys);
            match call.invoke_async(&mut self.connection.get()).await {
                Ok(answer) => {
                    self.connection.answered();
                    break answer;
                }
                Err(error) => {
                    self.connection.failed(&error);
                    backoff.wait().await;
                }
            }
        };
        let prefix = self.names.to_string();
        match word.as_str() {
            "layout" => Err(Refusal::Layout { prefix, found: detail.parse().unwrap_or(u64::MAX) }),
            "store" => Err(Refusal::Store { prefix, found: detail, own: self.store.clone() }),
            "keys" => Ok(Answer::Differs(detail)),
            "unclaimed" => Ok(Answer::Unclaimed),
            "others" => Ok(Answer::OthersRun),
            _ => Ok(Answer::Fits),
        }
    }

    fn differ(&self, other: &str) -> Refusal {
        Refusal::Keys {
            prefix: self.names.to_string(),
            theirs: other.split(' ').nth(1).unwrap_or_default().to_owned(),
            own: self.keys.first().cloned().unwrap_or_default(),
        }
    }

    fn member(&self) -> String {
        format!("{} {}", self.worker, self.keys.join(" "))
    }
}

/// The key fingerprints of every running worker, with the current key's first.
pub(crate) async fn keyrings(
    connection: &mut impl redis::aio::ConnectionLike,
    names: &Names,
) -> RedisResult<Vec<Vec<String>>> {
    Ok(members(connection, names).await?.iter().map(|member| keys_of(member)).collect())
}

/// Looks for a running worker whose key fingerprints `suits` rejects, and returns them. A killed worker may have left
/// its entry, so rejected entries are removed. One counts only if its worker adds it again within half a minute.
pub(crate) async fn unsuited(
    connection: &Connection,
    names: &Names,
    suits: impl Fn(&[String]) -> bool,
) -> RedisResult<Option<Vec<String>>> {
    let mut connection = connection.get();
    let differs = |member: &String| !suits(&keys_of(member));
    let found: Vec<String> = members(&mut connection, names).await?.into_iter().filter(&differs).collect();
    if found.is_empty() {
        return Ok(None);
    }
    redis::cmd("ZREM").arg(names.keyrings()).arg(&found).query_async::<()>(&mut connection).await?;
    let end = Instant::now() + BACK_WITHIN;
    while Instant::now() < end {
        sleep(LOOK_AGAIN).await;
        if let Some(back) = members(&mut connection, names).await?.iter().find(|member| differs(member)) {
            return Ok(Some(keys_of(back)));
        }
    }
    Ok(None)
}

/// Reads the entries of the running workers. An entry is a worker's name and the fingerprints of its keys.
async fn members(
    connection: &mut impl redis::aio::ConnectionLike,
    names: &Names,
) -> RedisResult<Vec<String>> {
    let mut read = pipe();
    read.cmd("TIME").cmd("ZRANGE").arg(names.keyrings()).arg(0).arg(-1).arg("WITHSCORES");
    let ((now, _), members): ((f64, u64), Vec<(String, f64)>) = read.query_async(connection).await?;
    let alive = members.into_iter().filter(|(_, seen)| *seen >= now - GONE_AFTER.as_secs_f64());
    Ok(alive.map(|(member, _)| member).collect())
}

fn keys_of(member: &str) -> Vec<String> {
    member.split(' ').skip(1).map(str::to_owned).collect()
}

/// What [`adopt`] did with the jobs in Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Adopted {
    /// Workers are running, so nothing was changed. Holds their number.
    InUse(u64),
    /// The jobs now belong to the new database. If they belonged to another one before, holds the id of that one.
    Done(Option<String>),
}

/// Assigns the jobs in Redis to the database with the id `store`, unless a worker is running. Redis may have lost the
/// last reports of running workers, so they first get some seconds to report again.
pub(crate) async fn adopt(connection: &Connection, names: &Names, store: &str) -> RedisResult<Adopted> {
    let end = Instant::now() + WORKER_IS_GONE_AFTER;
    loop {
        let last = Instant::now() >= end;
        let mut call = scripts::ADOPT.prepare_invoke();
        call.key(names.store());
        for job in JobName::ALL {
            call.key(names.queue(job));
        }
        call.arg(store).arg(millis(WORKER_IS_GONE_AFTER)).arg(if last { "adopt" } else { "look" });
        let (running, before): (u64, String) = call.invoke_async(&mut connection.get()).await?;
        if running > 0 {
            return Ok(Adopted::InUse(running));
        }
        if last {
            return Ok(Adopted::Done(Some(before).filter(|before| !before.is_empty() && before != store)));
        }
        sleep(LOOK_AGAIN).await;
    }
}
