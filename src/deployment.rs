//! What all workers of one deployment must share, held in Redis: the layout of the keys there, the database, and
//! encryption keys with which each decrypts what another encrypts.
//!
//! Workers that differ would destroy each other's work in silence: two databases under one prefix tell one order twice
//! and know nothing of each other's failures, and a card that one worker encrypts is lost to another that lacks the key.
//! So a worker joins before it changes anything, looks again three times a minute, and stops where it differs, in words.
//! After Redis has lost its data, the running workers write all of it again, and a worker that starts waits for them.
//!
//! | key | type | content |
//! |---|---|---|
//! | `{topup}:layout` | string | number of the layout of all keys; raised where an older program cannot work on |
//! | `{topup}:store` | string | id of the database that the jobs belong to |
//! | `{topup}:keyrings` | sorted set | workers with the fingerprints of their keys, scored by when they last joined |

pub(crate) mod scripts;
mod time_keeper;

use std::time::Duration;

use redis::{RedisResult, pipe};
use tokio::time::{Instant, sleep, timeout};
use topup_jobs::{JobName, Timestamp};

pub(crate) use self::time_keeper::TimeKeeper;
use crate::job::WORKER_IS_GONE_AFTER;
use crate::redis::{Backoff, Connection, Names, millis};

/// The layout of the keys in Redis that this program knows. It is raised with a change beside which an older worker
/// could lose or double a job, and with no other: workers of two versions run side by side during an upgrade.
pub(crate) const LAYOUT: u64 = 1;

/// How often a worker looks whether it still stands among the others. Real time. One small question: it is what an idle
/// worker asks of Redis, too.
const INTERVAL: Duration = Duration::from_secs(20);
/// After so many looks a worker joins anew, which says that it lives.
const JOINS_ANEW_AFTER: u32 = 30;
/// A worker that has not joined again within this time counts as gone. Real time.
const GONE_AFTER: Duration = Duration::from_mins(25);
/// A worker whose keys differ was removed from the set, and stands there again within this time if it lives. Real time.
pub(crate) const BACK_WITHIN: Duration = Duration::from_secs(26);
/// Pause between two looks at that.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// A worker that runs reports within this time, at the latest with its next look at a queue. Real time.
const REPORTS_WITHIN: Duration = Duration::from_secs(2);
/// How long a worker that stops waits for Redis to take note.
const LEAVE_WITHIN: Duration = Duration::from_secs(2);

/// Why a worker or a command must not work beside the others.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// A newer program has laid out the keys.
    #[error(
        "a newer topup-worker has changed what stands in Redis under {prefix} (layout {found}; this version knows \
         {LAYOUT}): run the newer version, or give this one a TOPUP_PREFIX of its own"
    )]
    Layout { prefix: String, found: u64 },
    /// The jobs belong to another database.
    #[error(
        "DATABASE_URL cannot be used: the jobs in Redis under {prefix} belong to another database (store {found}; this \
         one is {own}): set it as the other workers have it (a relative path counts from the folder in which the \
         program runs), or give this worker a TOPUP_PREFIX of its own. If this database takes the other's place for good, stop \
         every worker and run `topup-worker adopt-store`"
    )]
    Store { prefix: String, found: String, own: String },
    /// Another worker has other keys.
    #[error(
        "ENCRYPTION_KEY cannot be used: another worker under {prefix} encrypts cards with the key of fingerprint \
         {theirs}, this one with {own}, and one of them cannot decrypt what the other encrypts: give both the same \
         keys, the current one in ENCRYPTION_KEY and the other in ENCRYPTION_KEYS_PREVIOUS. To change the key, follow \
         docs/operations.md: every worker must be able to decrypt with the new key before one encrypts with it"
    )]
    Keys { prefix: String, theirs: String, own: String },
    /// The database at the address is another one than at the start.
    #[error(
        "the database at the address of DATABASE_URL is not the one that this worker started with; start it again"
    )]
    Replaced,
}

impl Refusal {
    /// Whether a setting is at fault; the words name it.
    pub(crate) const fn is_of_a_setting(&self) -> bool {
        matches!(self, Self::Store { .. } | Self::Keys { .. })
    }
}

/// What stands in Redis.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Shared {
    /// The layout; 0 where no worker has run yet.
    pub(crate) layout: u64,
    /// The database that the jobs belong to, once a worker has run.
    pub(crate) store: Option<String>,
}

impl Shared {
    /// Reads it.
    ///
    /// # Errors
    /// Where Redis does not answer.
    pub(crate) async fn read(
        connection: &mut impl redis::aio::ConnectionLike,
        names: &Names,
    ) -> RedisResult<Self> {
        let mut read = pipe();
        read.cmd("GET").arg(names.layout_version()).cmd("GET").arg(names.store());
        let (layout, store): (Option<String>, Option<String>) = read.query_async(connection).await?;
        Ok(Self { layout: layout.and_then(|layout| layout.parse().ok()).unwrap_or_default(), store })
    }

    /// Refuses a program that must not work with the keys, or with this database beside them. A database that does not
    /// exist yet has no id.
    ///
    /// # Errors
    /// [`Refusal`] says why.
    pub(crate) fn check(&self, names: &Names, store: Option<&str>) -> Result<(), Refusal> {
        self.check_layout(names)?;
        self.check_store(names, store)
    }

    /// Refuses a database that the jobs do not belong to.
    ///
    /// # Errors
    /// [`Refusal::Store`].
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

    /// Refuses a program that is too old for the keys.
    ///
    /// # Errors
    /// [`Refusal::Layout`].
    pub(crate) fn check_layout(&self, names: &Names) -> Result<(), Refusal> {
        if self.layout > LAYOUT {
            return Err(Refusal::Layout { prefix: names.to_string(), found: self.layout });
        }
        Ok(())
    }
}

/// What stands in Redis, once it answers.
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

/// What Redis says to a worker that asks whether it may be among the others.
enum Answer {
    /// It may, and is where it joins.
    Fits,
    /// A worker has other keys; as it stands in Redis.
    Differs(String),
    /// Redis knows of no database. Others that run have been called upon to report.
    Unclaimed,
    /// Redis knows of no database, and others run.
    OthersRun,
}

/// One worker's place among the others.
pub(crate) struct Membership {
    connection: Connection,
    names: Names,
    store: String,
    /// Name of this start of the worker.
    worker: String,
    /// Fingerprints of its keys, the current one's first.
    keys: Vec<String>,
    /// Beginning of the scaled time, where time is scaled: Redis may lose it, and a worker that starts asks for it there.
    time_anchor: Option<Timestamp>,
}

impl Membership {
    /// The place of a worker with this database and these keys.
    pub(crate) fn new(connection: Connection, names: Names, store: String, keys: &[&str]) -> Self {
        let keys = keys.iter().map(|&key| key.to_owned()).collect();
        let worker = ulid::Ulid::generate().to_string();
        Self { connection, names, store, worker, keys, time_anchor: None }
    }

    /// The same, which keeps the beginning of the scaled time for the others.
    pub(crate) fn keeping_time_anchor(self, time_anchor: Option<Timestamp>) -> Self {
        Self { time_anchor, ..self }
    }

    /// Joins the others. Waits for Redis; where Redis knows of no database, for workers that run and have not noted theirs
    /// again; and where another worker's keys differ, for as long as it may be alive.
    ///
    /// # Errors
    /// [`Refusal`] says why this worker must not run.
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
                            "Redis has lost its data; waiting for a running worker to note its database"
                        );
                    }
                    sleep(LOOK_AGAIN).await;
                }
                // Those that differ are removed by that, and come back if they live.
                Answer::Differs(_) => {
                    tracing::warn!("a worker has other encryption keys; looking whether it still runs");
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

    /// Stays among the others until that is refused.
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

    /// Redis may have lost it.
    async fn put_back_time_anchor(&self) {
        let Some(anchor) = self.time_anchor else { return };
        let mut put = redis::cmd("SETNX");
        put.arg(self.names.time_anchor()).arg(anchor.timestamp_millis());
        if let Err(error) = put.query_async::<()>(&mut self.connection.get()).await {
            self.connection.failed(&error);
        }
    }

    /// Whether this worker still stands among the others. It does not where Redis has lost its data, or where another
    /// worker asks whether it lives.
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

    /// Leaves, so that a worker with other keys may start at once.
    pub(crate) async fn leave(&self) {
        let mut remove = redis::cmd("ZREM");
        remove.arg(self.names.keyrings()).arg(self.member());
        let mut connection = self.connection.get();
        // Where Redis is away, it finds out by itself.
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

/// The fingerprints of the keys of every worker that runs, the current one's first.
///
/// # Errors
/// Where Redis does not answer.
pub(crate) async fn keyrings(
    connection: &mut impl redis::aio::ConnectionLike,
    names: &Names,
) -> RedisResult<Vec<Vec<String>>> {
    Ok(members(connection, names).await?.iter().map(|member| keys_of(member)).collect())
}

/// The keys of a worker that runs and does not suit, as [`keyrings`] gives them. Those that do not suit are asked whether
/// they still run, which takes up to half a minute where one was killed.
///
/// # Errors
/// Where Redis does not answer.
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
    // One that lives notices that it was removed, and comes back.
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

/// The workers that run, as they stand in Redis: a name, and the fingerprints of keys.
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

/// What became of an adoption.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Adopted {
    /// So many workers run; nothing was changed.
    InUse(u64),
    /// The jobs in Redis belong to this database now; they belonged to another one if that is named.
    Done(Option<String>),
}

/// Has the jobs in Redis belong to this database, unless a worker runs. Takes some seconds: a worker has the time to
/// report, also where Redis has just lost its data.
///
/// # Errors
/// Where Redis does not answer.
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
