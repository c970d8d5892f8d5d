//! Lists, replays and discards rejected messages for an operator. Redis keeps these messages as sent, with any personal
//! data in them. So only the ids and the reason, which this service wrote, may leave this module.

use redis::{RedisResult, Value};

use super::scripts;
use crate::redis::{Connection, Names};

/// Messages per read; each has up to 64 KiB.
const MAX_READ: usize = 50;

/// Limits of the rejected messages that Redis keeps. If a limit is passed, the oldest messages are dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RejectedCap {
    /// Maximum number of messages.
    pub messages: u64,
    /// Maximum bytes of memory that Redis uses for these messages.
    pub bytes: u64,
}

impl Default for RejectedCap {
    fn default() -> Self {
        Self { messages: 10_000, bytes: 64 << 20 }
    }
}

impl RejectedCap {
    /// Drops the oldest rejected messages beyond the limits. Returns the number of dropped messages.
    pub(crate) async fn keep(self, connection: &Connection, names: &Names) -> RedisResult<u64> {
        let mut call = scripts::REJECTED_TRIM.key(names.rejected());
        call.key(names.rejected_dropped()).arg(self.messages).arg(self.bytes);
        call.invoke_async(&mut connection.get()).await
    }
}

pub(crate) struct RejectedMessages {
    connection: Connection,
    names: Names,
}

#[derive(Debug)]
pub(crate) struct Rejected {
    /// Id in the stream of rejected messages.
    pub(crate) id: String,
    /// Id of the message in the inbox.
    pub(crate) message_id: String,
    pub(crate) reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Returned {
    /// The message is in the inbox under this id.
    InInbox(String),
    /// There is no message of this id. It may have been replayed, discarded or dropped before.
    Gone,
    /// The message has so many fields that it can never be accepted.
    Packed,
    /// The message was too large, and only its beginning was kept.
    Cut,
}

impl RejectedMessages {
    pub(crate) fn new(connection: Connection, names: Names) -> Self {
        Self { connection, names }
    }

    /// All rejected messages, the oldest first.
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

    /// Returns the number of messages that were dropped so far because of the limits.
    pub(crate) async fn dropped(&self) -> RedisResult<u64> {
        let mut read = redis::cmd("GET");
        let dropped: Option<u64> =
            read.arg(self.names.rejected_dropped()).query_async(&mut self.connection.get()).await?;
        Ok(dropped.unwrap_or(0))
    }

    /// Puts a message back into the inbox as its producer sent it. The intake then checks the message again.
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

    /// Deletes a message. Returns whether it existed.
    pub(crate) async fn discard(&self, id: &str) -> RedisResult<bool> {
        let mut delete = redis::cmd("XDEL");
        delete.arg(self.names.rejected()).arg(id);
        delete.query_async(&mut self.connection.get()).await
    }
}

/// Reads an entry. Its first two fields, id and reason, were added on rejection.
fn rejected(id: String, fields: &[Value]) -> Rejected {
    let text = |n: usize| match fields.get(n) {
        Some(Value::BulkString(bytes)) => String::from_utf8_lossy(bytes).into_owned(),
        Some(Value::SimpleString(text)) => text.clone(),
        _ => String::new(),
    };
    Rejected { id, message_id: text(1), reason: text(3) }
}
