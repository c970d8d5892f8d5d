//! Inbox → queues: takes the producers' messages in.
//!
//! Every worker reads the stream from its beginning; what has been taken is no longer there. A message is
//! checked here and then moved by one script, which only the worker that deletes it carries out. So there
//! is no consumer group to mend after a crash, and nothing is lost or doubled.
//!
//! A producer may send anything of any size. One read hands over a bounded number of bytes, and of a message that is too
//! large only its size; what is kept of rejected messages is bounded too.

mod arguments;

use std::sync::Arc;
use std::time::Duration;

use redis::RedisResult;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use topup_jobs::{Accepted, JobName, MAX_MESSAGE_BYTES, TopupId, TrackTopup, accept, accept_size};

use crate::clock::Clock;
use crate::notify::{CallbackHosts, CallbackRefused};
use crate::queue::{Arrivals, Connection, Names, Pause, RedisAddress, RedisHealth, RejectedCap, scripts};
use crate::shutdown::Shutdown;
use crate::telemetry::Metrics;

/// Messages read at a time.
const MOST_READ: usize = 256;
/// Bytes of messages read at a time.
const MOST_BYTES: usize = 1 << 20;
/// Longest pause between two looks at the inbox while Redis tells of what arrives, and while it does not.
const LOOKED_AT_EVERY: Duration = Duration::from_secs(15);
const LOOKED_AT_EVERY_UNTOLD: Duration = Duration::from_millis(100);
/// That rejected messages are dropped is logged no more often.
const DROPPED_LOGGED_EVERY: Duration = Duration::from_mins(1);

/// Takes messages in until asked to stop.
pub struct Intake {
    names: Names,
    clock: Arc<dyn Clock>,
    callbacks: CallbackHosts,
    address: RedisAddress,
    moving: Connection,
    rejected_cap: RejectedCap,
    metrics: Metrics,
    dropping: Dropping,
}

/// Rejected messages that were dropped and are not logged yet, and when that was last logged.
#[derive(Default)]
struct Dropping {
    unlogged: u64,
    logged: Option<Instant>,
}

/// A message as it stands in the stream: its id, its size in bytes, and names and values of its fields one after the
/// other; no fields where it is too large.
type Message = (String, usize, Vec<Vec<u8>>);

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
        Self {
            names,
            clock,
            callbacks,
            address: address.clone(),
            moving: Connection::new(address, health),
            rejected_cap: RejectedCap::default(),
            metrics: Metrics::default(),
            dropping: Dropping::default(),
        }
    }

    /// Keeps so much of rejected messages, and counts them here.
    #[must_use]
    pub fn rejecting(self, rejected_cap: RejectedCap, metrics: Metrics) -> Self {
        Self { rejected_cap, metrics, ..self }
    }

    /// Takes messages in until asked to stop. Redis being away only makes it wait.
    pub async fn run(mut self, shutdown: Shutdown) {
        let arrivals = Arrivals::default();
        let listening = arrivals.clone().listen(self.address.clone(), self.names.inbox());
        let _listening = AbortOnDropHandle::new(tokio::spawn(listening));
        let mut pause = Pause::new();
        while !shutdown.is_requested() {
            let messages = tokio::select! {
                () = shutdown.requested() => return,
                messages = self.read() => messages,
            };
            // A move that has begun is finished; it is one script.
            let taken = match messages {
                Ok(messages) => self.take(messages).await,
                Err(error) => Err(error),
            };
            match taken {
                Ok(0) => tokio::select! {
                    () = shutdown.requested() => return,
                    () = arrivals.wait(LOOKED_AT_EVERY, LOOKED_AT_EVERY_UNTOLD) => pause = Pause::new(),
                },
                Ok(_) => pause = Pause::new(),
                Err(error) => {
                    self.moving.failed(&error);
                    pause.wait().await;
                }
            }
        }
    }

    /// The oldest messages.
    async fn read(&self) -> RedisResult<Vec<Message>> {
        let mut call = scripts::INBOX_READ.key(self.names.inbox());
        call.arg(MOST_READ).arg(MOST_BYTES).arg(MAX_MESSAGE_BYTES);
        call.invoke_async(&mut self.moving.get()).await
    }

    /// The order of a message, or why it cannot be accepted here.
    fn check(&self, bytes: usize, fields: &[Vec<u8>]) -> Result<Accepted, String> {
        let fields: Vec<_> = fields.chunks_exact(2).map(|pair| (&pair[0][..], &pair[1][..])).collect();
        let accepted = accept_size(bytes).and_then(|()| accept(&fields));
        let mut accepted = accepted.map_err(|rejection| rejection.to_string())?;
        let removes = accepted.order.instruction.is_some();
        if let TrackTopup { callback_url: Some(address), .. } = &accepted.order
            && !(removes && address.reveal().is_empty())
        {
            match self.callbacks.check(address) {
                Ok(_) => {}
                // A paid order is followed all the same, and its events go where they go without a callback.
                Err(refused @ CallbackRefused::NoAddress) => {
                    accepted.order.callback_url = None;
                    if removes && !accepted.order.names_details() {
                        return Err(refused.to_string());
                    }
                    accepted.remarks.push(format!("{refused}; it was left out"));
                }
                Err(refused) => return Err(refused.to_string()),
            }
        }
        Ok(accepted)
    }

    /// Takes these messages in and returns how many there are.
    async fn take(&mut self, messages: Vec<Message>) -> RedisResult<usize> {
        if messages.is_empty() {
            // A replica lets itself be read as well: this says nothing of whether Redis can be written.
            return Ok(0);
        }
        let mut call = scripts::INTAKE.prepare_invoke();
        call.key(self.names.inbox()).key(self.names.rejected());
        call.key(self.names.queue(JobName::PollTopup)).key(self.names.queue(JobName::RecheckTopup));
        let mut topup_ids: Vec<Option<TopupId>> = Vec::with_capacity(messages.len());
        for (message_id, bytes, fields) in &messages {
            call.arg(message_id);
            match self.check(*bytes, fields) {
                Ok(accepted) => {
                    for remark in &accepted.remarks {
                        tracing::warn!(
                            order.id = accepted.order.topup_id.as_str(),
                            message.id = message_id,
                            remark,
                            "a message was accepted without a part of it"
                        );
                    }
                    topup_ids.push(Some(accepted.order.topup_id.clone()));
                    arguments::add(&mut call, &self.names, &*self.clock, message_id, accepted);
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
        let mut rejected = 0;
        for (((message_id, ..), topup_id), result) in messages.iter().zip(topup_ids).zip(results) {
            match (topup_id, result.as_str()) {
                (Some(topup_id), result) => arguments::log(topup_id.as_str(), message_id, result),
                (None, "rejected") => {
                    rejected += 1;
                    tracing::warn!(
                        message.id = message_id,
                        "a message was rejected; the reason stands with it"
                    );
                }
                (None, result) => {
                    tracing::debug!(message.id = message_id, result, "a message was left alone");
                }
            }
        }
        if rejected > 0 {
            self.metrics.rejected(rejected);
            self.drop_oldest_rejected().await;
        }
        Ok(messages.len())
    }

    /// Drops the rejected messages beyond the cap, and says so from time to time.
    async fn drop_oldest_rejected(&mut self) {
        let dropped = match self.rejected_cap.keep(&self.moving, &self.names).await {
            Ok(dropped) => dropped,
            // The next message that is rejected has it tried again.
            Err(error) => return self.moving.failed(&error),
        };
        self.metrics.rejected_dropped(dropped);
        self.dropping.unlogged += dropped;
        let logged = self.dropping.logged;
        if self.dropping.unlogged > 0 && logged.is_none_or(|at| at.elapsed() >= DROPPED_LOGGED_EVERY) {
            tracing::warn!(
                dropped = self.dropping.unlogged,
                kept_messages = self.rejected_cap.messages,
                kept_bytes = self.rejected_cap.bytes,
                "the oldest rejected messages were dropped, since there are too many; see `topup-worker rejected` for \
                 the reasons of the others, and REJECTED_MESSAGES and REJECTED_MEGABYTES for how many are kept"
            );
            self.dropping = Dropping { unlogged: 0, logged: Some(Instant::now()) };
        }
    }
}
