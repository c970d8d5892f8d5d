//! Messages that could not be accepted, for an operator: to look at, to put back, to delete.
//!
//! They stand as their producers sent them, whatever personal is in them; only the ids and the reason, which
//! are this service's own words, leave this module.

use redis::{RedisResult, Value};

use super::scripts;
use crate::redis::{Connection, Names};

/// Messages read in one go; each has up to 64 KiB.
const MAX_READ: usize = 50;

/// How much is kept of rejected messages; beyond, the oldest are dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RejectedCap {
    /// Most messages.
    pub messages: u64,
    /// Most bytes of Redis's memory.
    pub bytes: u64,
}

impl Default for RejectedCap {
    fn default() -> Self {
        Self { messages: 10_000, bytes: 64 << 20 }
    }
}

impl RejectedCap {
    /// Drops the oldest rejected messages beyond the cap. Returns how many.
    pub(crate) async fn keep(self, connection: &Connection, names: &Names) -> RedisResult<u64> {
        let mut call = scripts::REJECTED_TRIM.key(names.rejected());
        call.key(names.rejected_dropped()).arg(self.messages).arg(self.bytes);
        call.invoke_async(&mut connection.get()).await
    }
}

/// The stream of rejected messages.
pub(crate) struct RejectedMessages {
    connection: Connection,
    names: Names,
}

/// A message that was rejected.
#[derive(Debug)]
pub(crate) struct Rejected {
    /// Its id among the rejected.
    pub(crate) id: String,
    /// The id it had in the inbox.
    pub(crate) message_id: String,
    /// Why.
    pub(crate) reason: String,
}

/// What became of a message that was to be put back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Returned {
    /// It is in the inbox under this id.
    InInbox(String),
    /// It is not there (any more).
    Gone,
    /// It has so many fields that it can never be accepted.
    Packed,
    /// It was too large, and only its beginning was kept.
    Cut,
}

impl RejectedMessages {
    pub(crate) fn new(connection: Connection, names: Names) -> Self {
        Self { connection, names }
    }

    /// All of them, the oldest first.
    pub(crate) async fn list(&self) -> RedisResult<Vec<Rejected>> {
        let (mut all, mut from) = (Vec::new(), "-".to_owned());
        loop {
            let mut read = redis::cmd("XRANGE");
            read.arg(self.names.rejected()).arg(&from).arg("+").arg("COUNT").arg(MAX_READ);
            let entries: Vec<(String, Vec<Value>)> = read.query_async(&mut self.connection.get()).await?;
            let Some((last, _)) = entries.last() else { return Ok(all) };
            from = format!("({last}");
            all.extend(entries.into_iter().map(|(id, fields)| rejected(id, &fields)));
        }
    }

    /// How many were dropped so far, since there were too many.
    pub(crate) async fn dropped(&self) -> RedisResult<u64> {
        let mut read = redis::cmd("GET");
        let dropped: Option<u64> =
            read.arg(self.names.rejected_dropped()).query_async(&mut self.connection.get()).await?;
        Ok(dropped.unwrap_or(0))
    }

    /// Puts a message back into the inbox as it was sent; it is judged anew there.
    pub(crate) async fn replay(&self, id: &str) -> RedisResult<Returned> {
        let mut call = scripts::REJECTED_REPLAY.key(self.names.inbox());
        call.key(self.names.rejected()).arg(id);
        let result: String = call.invoke_async(&mut self.connection.get()).await?;
        Ok(match result.as_str() {
            "gone" => Returned::Gone,
            "packed" => Returned::Packed,
            "cut" => Returned::Cut,
            _ => Returned::InInbox(result),
        })
    }

    /// Deletes it; returns whether it was there.
    pub(crate) async fn discard(&self, id: &str) -> RedisResult<bool> {
        let mut delete = redis::cmd("XDEL");
        delete.arg(self.names.rejected()).arg(id);
        delete.query_async(&mut self.connection.get()).await
    }
}

/// The first two fields are those that were added when it was rejected.
fn rejected(id: String, fields: &[Value]) -> Rejected {
    let text = |n: usize| match fields.get(n) {
        Some(Value::BulkString(bytes)) => String::from_utf8_lossy(bytes).into_owned(),
        Some(Value::SimpleString(text)) => text.clone(),
        _ => String::new(),
    };
    Rejected { id, message_id: text(1), reason: text(3) }
}
