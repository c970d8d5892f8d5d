//! Inbox → queues: takes the producers' messages in.
//!
//! Every worker reads the stream from its beginning; what has been taken is no longer there. A message is
//! checked here and then moved by one script, which only the worker that deletes it carries out. So there
//! is no consumer group to mend after a crash, and nothing is lost or doubled.

mod arguments;

use std::sync::Arc;
use std::time::Duration;

use redis::{RedisResult, Value};
use topup_jobs::{Accepted, JobName, TopupId, TrackTopup, accept};

use crate::clock::Clock;
use crate::notify::CallbackHosts;
use crate::queue::{Connection, Names, Pause, RedisAddress, RedisHealth, millis, scripts};
use crate::shutdown::Shutdown;

/// Messages read at a time. The largest accepted has 16 KiB; what is larger is read once to be refused.
const MOST_READ: usize = 256;
/// How long one read waits on the side of Redis for a message.
const BLOCK: Duration = Duration::from_secs(5);

/// Takes messages in until asked to stop.
pub struct Intake {
    names: Names,
    clock: Arc<dyn Clock>,
    callbacks: CallbackHosts,
    reading: Connection,
    moving: Connection,
}

/// A message as it stands in the stream: its id, and names and values of its fields.
struct Message {
    id: String,
    fields: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Intake {
    /// An intake of the inbox under these names, for orders that may be told on these hosts.
    #[must_use]
    pub fn new(
        address: &RedisAddress,
        names: Names,
        clock: Arc<dyn Clock>,
        callbacks: CallbackHosts,
        health: &RedisHealth,
    ) -> Self {
        let moving = Connection::new(address, health);
        // Redis itself ends the read in time; a connection that does not has died silently.
        let reading = Connection::new(address, health).answering_within(BLOCK * 2);
        Self { names, clock, callbacks, reading, moving }
    }

    /// Takes messages in until asked to stop. Redis being away only makes it wait.
    pub async fn run(self, shutdown: Shutdown) {
        let mut pause = Pause::new();
        while !shutdown.is_requested() {
            let messages = tokio::select! {
                () = shutdown.requested() => return,
                messages = self.read() => messages,
            };
            let Some(messages) = messages else {
                pause.wait().await;
                continue;
            };
            // A move that has begun is finished; it is one script.
            match self.take(messages).await {
                Ok(()) => pause = Pause::new(),
                Err(error) => {
                    self.moving.failed(&error);
                    pause.wait().await;
                }
            }
        }
    }

    /// Waits for messages. Nothing where Redis did not answer.
    async fn read(&self) -> Option<Vec<Message>> {
        let mut read = redis::cmd("XREAD");
        read.arg("COUNT").arg(MOST_READ).arg("BLOCK").arg(millis(BLOCK));
        read.arg("STREAMS").arg(self.names.inbox()).arg(0);
        let mut connection = self.reading.get();
        match read.query_async(&mut connection).await {
            Ok(answer) => Some(messages(answer)),
            Err(error) => {
                self.reading.failed(&error);
                None
            }
        }
    }

    /// The order of a message, or why it cannot be accepted here.
    fn check(&self, fields: &[(&[u8], &[u8])]) -> Result<Accepted, String> {
        let accepted = accept(fields).map_err(|rejection| rejection.to_string())?;
        let removes = accepted.order.instruction.is_some();
        if let TrackTopup { callback_url: Some(address), .. } = &accepted.order
            && !(removes && address.reveal().is_empty())
        {
            self.callbacks.check(address).map_err(|refused| refused.to_string())?;
        }
        Ok(accepted)
    }

    async fn take(&self, messages: Vec<Message>) -> RedisResult<()> {
        if messages.is_empty() {
            return Ok(());
        }
        let mut call = scripts::INTAKE.prepare_invoke();
        call.key(self.names.inbox()).key(self.names.rejected());
        call.key(self.names.queue(JobName::PollTopup)).key(self.names.queue(JobName::RecheckTopup));
        let mut topup_ids: Vec<Option<TopupId>> = Vec::with_capacity(messages.len());
        for message in &messages {
            call.arg(&message.id);
            let fields = message.fields.iter().map(|(name, value)| (name.as_slice(), value.as_slice()));
            match self.check(&fields.collect::<Vec<_>>()) {
                Ok(accepted) => {
                    topup_ids.push(Some(accepted.order.topup_id.clone()));
                    arguments::add(&mut call, &self.names, &*self.clock, &message.id, accepted);
                }
                Err(reason) => {
                    topup_ids.push(None);
                    call.arg("reject").arg(reason);
                }
            }
        }
        let results: Vec<String> = call.invoke_async(&mut self.moving.get()).await?;
        // Not before: a replica lets itself be read.
        self.moving.answered();
        for ((message, topup_id), result) in messages.iter().zip(topup_ids).zip(results) {
            match topup_id {
                None => tracing::warn!(
                    message.id,
                    result,
                    "a message cannot be accepted; the reason stands with it"
                ),
                Some(topup_id) => arguments::log(topup_id.as_str(), &message.id, &result),
            }
        }
        Ok(())
    }
}

/// The messages in an answer to XREAD: `[[stream, [[id, [name, value, …]], …]]]`, or nothing.
fn messages(answer: Value) -> Vec<Message> {
    let array = |value| match value {
        Value::Array(values) => values,
        _ => Vec::new(),
    };
    let streams = match answer {
        Value::Map(mut streams) => streams.pop().map(|(_, entries)| entries),
        streams => array(streams).pop().and_then(|stream| array(stream).into_iter().nth(1)),
    };
    let entries = streams.map(array).unwrap_or_default();
    let message = |entry| {
        let mut parts = array(entry).into_iter();
        let id = redis::from_redis_value(parts.next()?).ok()?;
        let fields = array(parts.next()?).into_iter().map(|part| match part {
            Value::BulkString(bytes) => bytes,
            _ => Vec::new(),
        });
        let flat: Vec<Vec<u8>> = fields.collect();
        let pairs = flat.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone()));
        Some(Message { id, fields: pairs.collect() })
    };
    entries.into_iter().filter_map(message).collect()
}
