//! Finds the job of an order for an operator. Workers may move the job before the operator sees the result.

use redis::{RedisResult, Value, pipe};
use topup_jobs::{JobName, Timestamp, TopupId};

use crate::redis::{Connection, Names};

/// Number of orders that one round trip looks up at most.
const MAX_ASKED: usize = 200;
const MAX_READ: usize = 500;
/// Number of messages of a stream that are searched at most; a search of more would take too long.
const MAX_LOOKED_THROUGH: usize = 100_000;

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Whereabouts {
    /// The job is scheduled in this queue for this time.
    Waits(JobName, Timestamp),
    /// The job is due or claimed in this queue.
    UnderWay(JobName),
    /// The job is a dead letter for this reason.
    DeadLetter(String),
    Nowhere,
}

/// What a queue holds of an order: whether a payload, the due time in seconds, whether a dead letter, and its reason.
type Held = (bool, Option<f64>, bool, (Option<String>,));

pub(crate) async fn whereabouts(
    connection: &Connection,
    names: &Names,
    orders: &[TopupId],
) -> RedisResult<Vec<Whereabouts>> {
    let mut all = Vec::with_capacity(orders.len());
    for orders in orders.chunks(MAX_ASKED) {
        let mut ask = pipe();
        for topup_id in orders.iter().map(TopupId::as_str) {
            for queue in JobName::TRACKING.map(|job| names.queue(job)) {
                ask.cmd("HEXISTS").arg(format!("{queue}:data")).arg(topup_id);
                ask.cmd("ZSCORE").arg(format!("{queue}:scheduled")).arg(topup_id);
                ask.cmd("SISMEMBER").arg(format!("{queue}:dead")).arg(topup_id);
                ask.cmd("HMGET").arg(format!("{queue}:meta:{topup_id}")).arg("reason");
            }
        }
        let answers: Vec<Value> = ask.query_async(&mut connection.get()).await?;
        for of_order in answers.chunks(4 * JobName::TRACKING.len()) {
            let held = of_order.chunks(4).map(|held| redis::from_redis_value(Value::Array(held.to_vec())));
            let held = held.collect::<Result<Vec<Held>, _>>()?;
            all.push(judge(held));
        }
    }
    Ok(all)
}

/// Combines the states of an order in its two queues. A job that will run takes precedence over a dead letter.
fn judge(held: Vec<Held>) -> Whereabouts {
    let mut found = Whereabouts::Nowhere;
    for ((payload, due, dead, (reason,)), job) in held.into_iter().zip(JobName::TRACKING) {
        if dead {
            found = Whereabouts::DeadLetter(reason.unwrap_or_default());
        } else if payload {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "milliseconds of this century are far below 2^53"
            )]
            let at = due.and_then(|at| Timestamp::from_timestamp_millis((at * 1000.0) as i64));
            return at.map_or(Whereabouts::UnderWay(job), |at| Whereabouts::Waits(job, at));
        }
    }
    found
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Naming {
    pub(crate) id: String,
    /// Why the message was rejected; `None` for a message in the inbox.
    pub(crate) reason: Option<String>,
}

/// Names and values of the fields of a message.
type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// Returns the first message of a stream (inbox or rejected messages) that names this order.
pub(crate) async fn naming(
    connection: &Connection,
    stream: &str,
    topup_id: &TopupId,
) -> RedisResult<Option<Naming>> {
    let mut from = "-".to_owned();
    for _ in 0..MAX_LOOKED_THROUGH / MAX_READ {
        let mut read = redis::cmd("XRANGE");
        read.arg(stream).arg(&from).arg("+").arg("COUNT").arg(MAX_READ);
        let entries: Vec<(String, Fields)> = read.query_async(&mut connection.get()).await?;
        let Some((last, _)) = entries.last() else { break };
        from = format!("({last}");
        if let Some((id, fields)) = entries.into_iter().find(|(_, fields)| names(fields, topup_id)) {
            let reason = fields.into_iter().find(|(name, _)| name == b"reason");
            let reason = reason.map(|(_, value)| String::from_utf8_lossy(&value).into_owned());
            return Ok(Some(Naming { id, reason }));
        }
    }
    Ok(None)
}

/// Whether the text of the field `data` contains the id, in lower or upper case.
fn names(fields: &[(Vec<u8>, Vec<u8>)], topup_id: &TopupId) -> bool {
    let id = topup_id.as_str().as_bytes();
    let mut data = fields.iter().filter(|(name, _)| name == b"data").map(|(_, value)| value);
    data.any(|data| data.windows(id.len()).any(|part| part.eq_ignore_ascii_case(id)))
}
