//! The gate in Redis: closed for a time, then proven by one before it opens for all.
//!
//! If everybody who waited asked at once when the time is over, a key that is still refused would be
//! refused dozens of times, and the provider locks an address out after five.

use std::time::Duration;

use async_trait::async_trait;
use redis::RedisResult;

use super::{Gate, Passage};
use crate::queue::{Connection, Names, millis, scripts};

/// A probe that has not come back after this long is given up and another one sent.
const PROBE: Duration = Duration::from_secs(20);
/// How long the others wait before they look whether the probe has come back.
const PROBE_LOOK: Duration = Duration::from_millis(200);
/// How long to wait where Redis cannot say whether the gate is open.
const UNKNOWN: Duration = Duration::from_secs(1);

/// The gate of one deployment.
#[derive(Clone)]
pub struct RedisGate {
    connection: Connection,
    keys: [String; 3],
}

impl RedisGate {
    /// The gate under these names.
    #[must_use]
    pub fn new(connection: Connection, names: &Names) -> Self {
        Self { connection, keys: names.gate() }
    }

    /// Has the next one ask alone, as after a closure. At its start a worker does not know whether its key
    /// is any good.
    pub async fn doubt(&self) {
        let mut doubt = redis::cmd("SET");
        doubt.arg(&self.keys[1]).arg(1);
        self.heard(doubt.query_async::<()>(&mut self.connection.get()).await);
    }

    fn heard<T>(&self, answer: RedisResult<T>) -> Option<T> {
        answer.inspect_err(|error| self.connection.failed(error)).ok()
    }
}

#[async_trait]
impl Gate for RedisGate {
    async fn pass(&self) -> Passage {
        let mut call = scripts::GATE_ASK.prepare_invoke();
        call.key(&self.keys).arg(millis(PROBE)).arg(millis(PROBE_LOOK));
        match self.heard(call.invoke_async::<(u64, bool)>(&mut self.connection.get()).await) {
            Some((0, probe)) => Passage::Open { probe },
            Some((left_ms, _)) => Passage::Closed(Duration::from_millis(left_ms)),
            None => Passage::Closed(UNKNOWN),
        }
    }

    async fn close(&self, wait: Duration) {
        let mut call = scripts::GATE_CLOSE.prepare_invoke();
        call.key(&self.keys).arg(millis(wait).max(1));
        self.heard(call.invoke_async::<()>(&mut self.connection.get()).await);
    }

    async fn proven(&self) {
        let mut forget = redis::cmd("DEL");
        forget.arg(&self.keys[1..]);
        self.heard(forget.query_async::<()>(&mut self.connection.get()).await);
    }
}
