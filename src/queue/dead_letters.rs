//! Dead letters, for an operator: to look at, to have run again, to delete.
//!
//! Every move is one script, so it may be done while workers run. Nothing here knows what a job means: what the
//! store must be told goes before it, and a crash in between leaves the letter where it was.

use redis::{RedisResult, pipe};
use topup_jobs::{JobName, Timestamp};

use super::{Connection, Names, scripts};

/// Histories asked for in one go.
const MOST_ASKED: usize = 1000;

/// The dead letters of all queues.
pub(crate) struct DeadLetters {
    connection: Connection,
    names: Names,
}

/// A job that was kept aside.
#[derive(Debug)]
pub(crate) struct DeadLetter {
    pub(crate) job: JobName,
    /// As it stands in Redis: a foreign program may have chosen any bytes.
    pub(crate) id: Vec<u8>,
    /// Empty where nothing is known of it.
    pub(crate) reason: String,
    pub(crate) dead_at: Option<Timestamp>,
    /// Failed attempts before it was kept aside.
    pub(crate) attempts_made: Option<u32>,
    pub(crate) last_error: Option<String>,
}

/// What became of a dead letter that was to run again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Replayed {
    /// It is due.
    Due,
    /// Somebody was faster.
    Gone,
    /// The order is followed by another job.
    Followed,
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
        let mut letters = Vec::with_capacity(ids.len());
        for ids in ids.chunks(MOST_ASKED) {
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
        letters.sort_by(|one, other| (one.dead_at, &one.id).cmp(&(other.dead_at, &other.id)));
        Ok(letters)
    }

    /// What the job carries.
    pub(crate) async fn payload(&self, letter: &DeadLetter) -> RedisResult<Option<Vec<u8>>> {
        let mut read = redis::cmd("HMGET");
        read.arg(format!("{}:data", self.names.queue(letter.job))).arg(&letter.id);
        let (payload,) = read.query_async(&mut self.connection.get()).await?;
        Ok(payload)
    }

    /// Whether it is one still, and no other queue has the job at work.
    pub(crate) async fn is_dead(&self, letter: &DeadLetter) -> RedisResult<bool> {
        let mut call = scripts::BURIED.key(self.names.queue(letter.job));
        self.siblings(letter).for_each(|queue| {
            call.key(queue);
        });
        let (reason,): (String,) = call.arg(&letter.id).invoke_async(&mut self.connection.get()).await?;
        Ok(!reason.is_empty())
    }

    /// The other queues in which the same job may be: an order is followed by one of two.
    fn siblings(&self, letter: &DeadLetter) -> impl Iterator<Item = String> {
        let job = letter.job;
        let following = JobName::FOLLOWING.into_iter();
        following
            .filter(move |other| job != JobName::NotifyCustomer && *other != job)
            .map(|job| self.names.queue(job))
    }

    /// Has it run again at once, as a job to which nothing has happened yet.
    pub(crate) async fn replay(&self, letter: &DeadLetter) -> RedisResult<Replayed> {
        let mut call = scripts::DEAD_REPLAY.key(self.names.queue(letter.job));
        self.siblings(letter).for_each(|queue| {
            call.key(queue);
        });
        let result: String = call.arg(&letter.id).invoke_async(&mut self.connection.get()).await?;
        Ok(match result.as_str() {
            "replayed" => Replayed::Due,
            "followed" => Replayed::Followed,
            _ => Replayed::Gone,
        })
    }

    /// Deletes it; returns whether it was there.
    pub(crate) async fn discard(&self, letter: &DeadLetter) -> RedisResult<bool> {
        let mut call = scripts::DEAD_DISCARD.key(self.names.queue(letter.job));
        call.arg(&letter.id).invoke_async(&mut self.connection.get()).await
    }
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
