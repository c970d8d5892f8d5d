//! Lists, replays, discards and restores dead letters. Each move is one script, so it is safe while workers run. To
//! replay a dead letter, a command marks it, changes the database and makes the job due. If the command dies after the
//! mark, a worker completes the replay. This module must not know what a job means.

use redis::{RedisResult, pipe};
use topup_jobs::{JobName, Timestamp};

use super::scripts;
use crate::handlers::StoredDeadLetter;
use crate::redis::{Connection, Names};

/// Dead letters per round trip.
const MAX_ASKED: usize = 1000;
/// `COUNT` of an `SSCAN` step.
const SCANNED: usize = 100;

#[derive(Clone)]
pub(crate) struct DeadLetters {
    connection: Connection,
    names: Names,
}

#[derive(Debug)]
pub(crate) struct DeadLetter {
    pub(crate) job: JobName,
    /// Raw bytes, as another program may have chosen any id.
    pub(crate) id: Vec<u8>,
    /// Why the job became a dead letter; empty if unknown.
    pub(crate) reason: String,
    pub(crate) dead_at: Option<Timestamp>,
    /// Failed attempts before the job became a dead letter.
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Replayed {
    Due,
    /// The job is not a dead letter any more, because another command was faster.
    Gone,
    /// The job is already in another queue.
    Tracked,
}

/// The history of a dead letter: reason, time in seconds since 1970, failed attempts, last error.
type History = (Option<String>, Option<f64>, Option<u32>, Option<String>);

impl DeadLetters {
    pub(crate) fn new(connection: Connection, names: Names) -> Self {
        Self { connection, names }
    }

    /// All dead letters of a queue, the oldest first.
    pub(crate) async fn list(&self, job: JobName) -> RedisResult<Vec<DeadLetter>> {
        let queue = self.names.queue(job);
        let mut members = redis::cmd("SMEMBERS");
        members.arg(format!("{queue}:dead"));
        let ids: Vec<Vec<u8>> = members.query_async(&mut self.connection.get()).await?;
        let mut letters = self.read(job, &ids).await?;
        letters.sort_by(|one, other| (one.dead_at, &one.id).cmp(&(other.dead_at, &other.id)));
        Ok(letters)
    }

    /// The dead letter with this id.
    pub(crate) async fn find(&self, job: JobName, id: &[u8]) -> RedisResult<Option<DeadLetter>> {
        let mut ask = redis::cmd("SISMEMBER");
        ask.arg(format!("{}:dead", self.names.queue(job))).arg(id);
        if !ask.query_async::<bool>(&mut self.connection.get()).await? {
            return Ok(None);
        }
        Ok(self.read(job, &[id.to_vec()]).await?.pop())
    }

    /// One step of `SSCAN`: the next cursor and some dead letters. The cursor is 0 at the beginning and at the end.
    pub(crate) async fn scan(&self, job: JobName, cursor: u64) -> RedisResult<(u64, Vec<DeadLetter>)> {
        let mut scan = redis::cmd("SSCAN");
        scan.arg(format!("{}:dead", self.names.queue(job))).arg(cursor).arg("COUNT").arg(SCANNED);
        let (next, ids): (u64, Vec<Vec<u8>>) = scan.query_async(&mut self.connection.get()).await?;
        Ok((next, self.read(job, &ids).await?))
    }

    async fn read(&self, job: JobName, ids: &[Vec<u8>]) -> RedisResult<Vec<DeadLetter>> {
        let queue = self.names.queue(job);
        let mut letters = Vec::with_capacity(ids.len());
        for ids in ids.chunks(MAX_ASKED) {
            let mut ask = pipe();
            for id in ids {
                let meta = [format!("{queue}:meta:").as_bytes(), id].concat();
                // If another program stored a value of another type in this key, the history is unknown.
                ask.cmd("HMGET").arg(meta).arg("reason").arg("dead_at").arg("attempts").arg("last_error");
            }
            ask.ignore_errors();
            let answers: Vec<RedisResult<History>> = ask.query_async(&mut self.connection.get()).await?;
            letters.extend(ids.iter().zip(answers).map(|(id, history)| letter(job, id, history.ok())));
        }
        Ok(letters)
    }

    pub(crate) async fn payload(&self, letter: &DeadLetter) -> RedisResult<Option<Vec<u8>>> {
        let mut read = redis::cmd("HMGET");
        read.arg(format!("{}:data", self.names.queue(letter.job))).arg(&letter.id);
        let (payload,) = read.query_async(&mut self.connection.get()).await?;
        Ok(payload)
    }

    /// Restores dead letters whose job is in no queue. Returns for each whether it was restored.
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

    /// Marks a dead letter as being replayed. Returns false if the job is not a dead letter or another queue holds it.
    pub(crate) async fn mark(&self, letter: &DeadLetter) -> RedisResult<bool> {
        let mut call = scripts::DEAD_MARK.key(self.names.queue(letter.job));
        for queue in self.names.siblings(letter.job) {
            call.key(queue);
        }
        let (marked,) = call.arg(&letter.id).invoke_async(&mut self.connection.get()).await?;
        Ok(marked)
    }

    /// Makes a dead letter due as a new job without history, with this payload if one is given.
    pub(crate) async fn replay(
        &self,
        job: JobName,
        id: &[u8],
        payload: Option<&[u8]>,
    ) -> RedisResult<Replayed> {
        let mut call = scripts::DEAD_REPLAY.key(self.names.queue(job));
        for queue in self.names.siblings(job) {
            call.key(queue);
        }
        call.arg(id).arg(payload.unwrap_or_default());
        let result: String = call.invoke_async(&mut self.connection.get()).await?;
        Ok(match result.as_str() {
            "replayed" => Replayed::Due,
            "tracked" => Replayed::Tracked,
            _ => Replayed::Gone,
        })
    }

    /// Deletes a dead letter. Returns whether it existed.
    pub(crate) async fn discard(&self, job: JobName, id: &[u8]) -> RedisResult<bool> {
        let mut call = scripts::DEAD_DISCARD.key(self.names.queue(job));
        call.arg(id).invoke_async(&mut self.connection.get()).await
    }
}

/// The form of a time in Redis: seconds since 1970, with milliseconds.
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
