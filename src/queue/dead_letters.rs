//! Dead letters: to look at, to have run again, to delete, and to put back where Redis has lost them.
//!
//! Every move is one script, so it may be done while workers run. Nothing here knows what a job means. A letter that is
//! replayed is marked before the store is changed, and made due after that: a worker completes what ends in between.

use redis::{RedisResult, pipe};
use topup_jobs::{JobName, Timestamp};

use super::scripts;
use crate::handlers::StoredDeadLetter;
use crate::redis::{Connection, Names};

/// Histories asked for in one go.
const MAX_ASKED: usize = 1000;
/// Letters that one step of a scan is to look at.
const SCANNED: usize = 100;

/// The dead letters of all queues.
#[derive(Clone)]
pub(crate) struct DeadLetters {
    connection: Connection,
    names: Names,
}

/// A dead letter.
#[derive(Debug)]
pub(crate) struct DeadLetter {
    pub(crate) job: JobName,
    /// As it stands in Redis: a foreign program may have chosen any bytes.
    pub(crate) id: Vec<u8>,
    /// Empty where nothing is known of it.
    pub(crate) reason: String,
    pub(crate) dead_at: Option<Timestamp>,
    /// Failed attempts before that.
    pub(crate) attempts_made: Option<u32>,
    pub(crate) last_error: Option<String>,
}

impl From<&StoredDeadLetter> for DeadLetter {
    fn from(stored: &StoredDeadLetter) -> Self {
        Self {
            job: stored.job.job,
            id: stored.job.id.clone().into_bytes(),
            reason: stored.reason.clone(),
            dead_at: stored.at,
            attempts_made: Some(stored.attempts),
            last_error: stored.last_error.clone(),
        }
    }
}

/// What became of a dead letter that was to run again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Replayed {
    /// It is due.
    Due,
    /// Another command was faster.
    Gone,
    /// The order is tracked by another job.
    Tracked,
}

/// What Redis keeps of the history of a job.
type History = (Option<String>, Option<f64>, Option<u32>, Option<String>);

impl DeadLetters {
    pub(crate) fn new(connection: Connection, names: Names) -> Self {
        Self { connection, names }
    }

    /// Those of one queue, the oldest first.
    pub(crate) async fn list(&self, job: JobName) -> RedisResult<Vec<DeadLetter>> {
        let queue = self.names.queue(job);
        let mut members = redis::cmd("SMEMBERS");
        members.arg(format!("{queue}:dead"));
        let ids: Vec<Vec<u8>> = members.query_async(&mut self.connection.get()).await?;
        let mut letters = self.read(job, &ids).await?;
        letters.sort_by(|one, other| (one.dead_at, &one.id).cmp(&(other.dead_at, &other.id)));
        Ok(letters)
    }

    /// Some of one queue, from this cursor of `SSCAN` on, and the next cursor; it is 0 at the beginning and at the end.
    pub(crate) async fn scan(&self, job: JobName, cursor: u64) -> RedisResult<(u64, Vec<DeadLetter>)> {
        let mut scan = redis::cmd("SSCAN");
        scan.arg(format!("{}:dead", self.names.queue(job))).arg(cursor).arg("COUNT").arg(SCANNED);
        let (next, ids): (u64, Vec<Vec<u8>>) = scan.query_async(&mut self.connection.get()).await?;
        Ok((next, self.read(job, &ids).await?))
    }

    /// What is known of these.
    async fn read(&self, job: JobName, ids: &[Vec<u8>]) -> RedisResult<Vec<DeadLetter>> {
        let queue = self.names.queue(job);
        let mut letters = Vec::with_capacity(ids.len());
        for ids in ids.chunks(MAX_ASKED) {
            let mut ask = pipe();
            for id in ids {
                let meta = [format!("{queue}:meta:").as_bytes(), id].concat();
                // Where a foreign program has put something else there, nothing is known.
                ask.cmd("HMGET").arg(meta).arg("reason").arg("dead_at").arg("attempts").arg("last_error");
            }
            ask.ignore_errors();
            let answers: Vec<RedisResult<History>> = ask.query_async(&mut self.connection.get()).await?;
            letters.extend(ids.iter().zip(answers).map(|(id, history)| letter(job, id, history.ok())));
        }
        Ok(letters)
    }

    /// What the job carries.
    pub(crate) async fn payload(&self, letter: &DeadLetter) -> RedisResult<Option<Vec<u8>>> {
        let mut read = redis::cmd("HMGET");
        read.arg(format!("{}:data", self.names.queue(letter.job))).arg(&letter.id);
        let (payload,) = read.query_async(&mut self.connection.get()).await?;
        Ok(payload)
    }

    /// Puts letters back that no queue holds; says for each whether that was so.
    pub(crate) async fn put_back(&self, letters: &[StoredDeadLetter]) -> RedisResult<Vec<bool>> {
        let mut put_back = Vec::with_capacity(letters.len());
        for letters in letters.chunks(MAX_ASKED) {
            let mut call = scripts::DEAD_RESTORE.prepare_invoke();
            for job in JobName::ALL {
                call.key(self.names.queue(job));
            }
            for letter in letters {
                call.arg(self.names.queue(letter.job.job)).arg(&letter.job.id).arg(&letter.job.payload);
                call.arg(&letter.reason)
                    .arg(letter.at.map_or_else(String::new, seconds))
                    .arg(letter.attempts);
                call.arg(letter.last_error.as_deref().unwrap_or_default());
            }
            let of_these: Vec<bool> = call.invoke_async(&mut self.connection.get()).await?;
            put_back.extend(of_these);
        }
        Ok(put_back)
    }

    /// Marks it as one that is being replayed. Returns false where it is none any more, or another queue has the job at
    /// work.
    pub(crate) async fn mark(&self, letter: &DeadLetter) -> RedisResult<bool> {
        let mut call = scripts::DEAD_MARK.key(self.names.queue(letter.job));
        self.siblings(letter.job).for_each(|queue| {
            call.key(queue);
        });
        let (marked,) = call.arg(&letter.id).invoke_async(&mut self.connection.get()).await?;
        Ok(marked)
    }

    /// The other queues in which the same job may be: an order is tracked by one of two.
    fn siblings(&self, job: JobName) -> impl Iterator<Item = String> {
        let following = JobName::TRACKING.into_iter();
        following
            .filter(move |other| job != JobName::NotifyCustomer && *other != job)
            .map(|job| self.names.queue(job))
    }

    /// Has it run again at once, as a job to which nothing has happened yet; with this payload, if there is one.
    pub(crate) async fn replay(
        &self,
        job: JobName,
        id: &[u8],
        payload: Option<&[u8]>,
    ) -> RedisResult<Replayed> {
        let mut call = scripts::DEAD_REPLAY.key(self.names.queue(job));
        self.siblings(job).for_each(|queue| {
            call.key(queue);
        });
        call.arg(id).arg(payload.unwrap_or_default());
        let result: String = call.invoke_async(&mut self.connection.get()).await?;
        Ok(match result.as_str() {
            "replayed" => Replayed::Due,
            "tracked" => Replayed::Tracked,
            _ => Replayed::Gone,
        })
    }

    /// Deletes it; returns whether it was there.
    pub(crate) async fn discard(&self, job: JobName, id: &[u8]) -> RedisResult<bool> {
        let mut call = scripts::DEAD_DISCARD.key(self.names.queue(job));
        call.arg(id).invoke_async(&mut self.connection.get()).await
    }
}

/// As it stands in Redis: seconds since 1970 with fractions.
fn seconds(at: Timestamp) -> String {
    let ms = at.timestamp_millis();
    format!("{}.{:03}", ms.div_euclid(1000), ms.rem_euclid(1000))
}

fn letter(job: JobName, id: &[u8], history: Option<History>) -> DeadLetter {
    let (reason, dead_at, attempts_made, last_error) = history.unwrap_or_default();
    #[expect(clippy::cast_possible_truncation, reason = "milliseconds of this century are far below 2^53")]
    let dead_at = dead_at.and_then(|at| Timestamp::from_timestamp_millis((at * 1000.0) as i64));
    DeadLetter {
        job,
        id: id.to_vec(),
        reason: reason.unwrap_or_default(),
        dead_at,
        attempts_made,
        last_error,
    }
}
