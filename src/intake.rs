//! Inbox → queues: takes the producers' messages in.
//!
//! Every worker reads the stream from its beginning; what has been taken is no longer there. Messages are checked here
//! and then moved by one script, as long as no other worker was faster. So there is no consumer group to repair after a
//! crash, and nothing is lost or doubled. While Redis moves a batch, the next one is read and checked.
//!
//! A producer may send anything of any size. One read hands over a bounded number of bytes, and of a message that is too
//! large only its size; what is kept of rejected messages is bounded too.

mod arguments;

use std::sync::Arc;
use std::time::Duration;

use redis::{RedisResult, ScriptInvocation};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use topup_jobs::{Accepted, JobName, MAX_MESSAGE_BYTES, TopupId, TrackTopup, accept, accept_size};

use crate::clock::Clock;
use crate::notify::{CallbackHosts, CallbackRefused};
use crate::queue::{RejectedCap, scripts};
use crate::redis::{Arrivals, Backoff, Connection, Names, RedisAddress, RedisHealth};
use crate::shutdown::Shutdown;
use crate::telemetry::Metrics;

/// The field with the id that a message had at first, where it was rejected and put back.
const FIRST_ID: &[u8] = b"first-id";
/// Messages read at a time.
const MAX_READ: usize = 256;
/// Bytes of messages read at a time.
const MAX_BYTES: usize = 1 << 20;
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
    reading: Connection,
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

/// Messages that stand one after the other in the inbox, and the call that moves them.
struct Batch {
    call: ScriptInvocation<'static>,
    messages: Vec<Checked>,
}

/// What is said of a message once it is moved.
struct Checked {
    id: String,
    /// The order; none where the message is rejected.
    topup_id: Option<TopupId>,
    /// What of it is left out, in words.
    remarks: Vec<String>,
}

impl Intake {
    /// An intake of the inbox under these names, for orders with a `callbackUrl` on one of these hosts.
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
            reading: Connection::new(address, health),
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
        let mut backoff = Backoff::new();
        while !shutdown.is_requested() {
            match self.take_all(&shutdown, &mut backoff).await {
                Ok(()) => tokio::select! {
                    () = shutdown.requested() => return,
                    () = arrivals.wait(LOOKED_AT_EVERY, LOOKED_AT_EVERY_UNTOLD) => backoff = Backoff::new(),
                },
                Err(_) => backoff.wait().await,
            }
        }
    }

    /// Takes in what there is, until asked to stop. Each batch that is moved begins the pause anew.
    async fn take_all(&mut self, shutdown: &Shutdown, backoff: &mut Backoff) -> RedisResult<()> {
        let mut batch = tokio::select! {
            () = shutdown.requested() => return Ok(()),
            batch = self.read("") => batch?,
        };
        // A move that has begun is finished; it is one script.
        while let Some(moved) = batch
            && !shutdown.is_requested()
        {
            // In this order: the answer to the first is there while Redis carries out the second.
            let last = moved.messages.last().map_or("", |message| &message.id);
            let (next, results) = tokio::join!(self.read(last), self.carry_out(&moved.call));
            let results = results?;
            *backoff = Backoff::new();
            batch = if results.is_empty() {
                // Another worker was faster.
                self.read("").await?
            } else {
                self.log(&moved.messages, &results).await;
                next?
            };
        }
        Ok(())
    }

    /// The messages behind the one of this id, or the oldest, checked; none where there are none.
    async fn read(&self, after: &str) -> RedisResult<Option<Batch>> {
        let mut call = scripts::INBOX_READ.key(self.names.inbox());
        call.arg(after).arg(MAX_READ).arg(MAX_BYTES).arg(MAX_MESSAGE_BYTES);
        let messages: RedisResult<Vec<Message>> = call.invoke_async(&mut self.reading.get()).await;
        // That it answers says nothing of whether it can be written: a replica lets itself be read as well.
        let messages = messages.inspect_err(|error| self.reading.failed_to_work(error))?;
        Ok((!messages.is_empty()).then(|| self.batch(messages)))
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
                // A paid order is tracked all the same, and its events go where they go without a callback.
                Err(refused @ (CallbackRefused::NoAddress | CallbackRefused::Blocked(_))) => {
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

    /// Checks these messages and prepares their move.
    fn batch(&self, read: Vec<Message>) -> Batch {
        let mut call = scripts::INTAKE.prepare_invoke();
        call.key(self.names.inbox()).key(self.names.rejected());
        call.key(self.names.queue(JobName::PollTopup)).key(self.names.queue(JobName::RecheckTopup));
        let mut messages = Vec::with_capacity(read.len());
        for (id, bytes, fields) in read {
            call.arg(&id);
            let (topup_id, remarks) = match self.check(bytes, &fields) {
                Ok(mut accepted) => {
                    let said = (Some(accepted.order.topup_id.clone()), std::mem::take(&mut accepted.remarks));
                    arguments::add(&mut call, &self.names, &*self.clock, &id, first_id(&fields), accepted);
                    said
                }
                Err(reason) => {
                    call.arg("reject").arg(reason);
                    (None, Vec::new())
                }
            };
            messages.push(Checked { id, topup_id, remarks });
        }
        Batch { call, messages }
    }

    /// Moves the messages of a batch and returns what became of each; nothing where another worker was faster.
    async fn carry_out(&self, call: &ScriptInvocation<'static>) -> RedisResult<Vec<String>> {
        let results = call.invoke_async(&mut self.moving.get()).await;
        match &results {
            Ok(_) => self.moving.answered(),
            Err(error) => self.moving.failed_to_work(error),
        }
        results
    }

    /// Logs what became of these messages, and drops rejected ones where there are too many.
    async fn log(&mut self, messages: &[Checked], results: &[String]) {
        let mut rejected = 0;
        for (Checked { id, topup_id, remarks }, result) in messages.iter().zip(results) {
            match (topup_id, result.as_str()) {
                (Some(topup_id), result) => {
                    arguments::log(topup_id.as_str(), id, result);
                    for remark in remarks {
                        tracing::warn!(
                            order.id = topup_id.as_str(),
                            message.id = id,
                            remark,
                            "a message was accepted without a part of it"
                        );
                    }
                }
                (None, "rejected") => {
                    rejected += 1;
                    tracing::warn!(message.id = id, "a message was rejected; the reason stands with it");
                }
                (None, result) => tracing::debug!(message.id = id, result, "a message was left alone"),
            }
        }
        if rejected > 0 {
            self.metrics.rejected(rejected);
            self.drop_oldest_rejected().await;
        }
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

/// The id that a message had at first, of one that was rejected and put back.
fn first_id(fields: &[Vec<u8>]) -> Option<&str> {
    let pair = fields.chunks_exact(2).find(|pair| pair[0] == FIRST_ID)?;
    let id = std::str::from_utf8(&pair[1]).ok()?;
    let (milliseconds, number) = id.split_once('-')?;
    (milliseconds.parse::<u64>().is_ok() && number.parse::<u64>().is_ok()).then_some(id)
}
