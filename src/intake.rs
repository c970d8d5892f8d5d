//! Moves the producers' messages from the inbox into the queues.
//!
//! Every worker reads the inbox from its beginning and checks a batch of messages. One script then moves the batch into
//! the queues, unless another worker has already done so. So there is no consumer group to repair after a crash, and no
//! message is lost or doubled. While Redis moves a batch, the worker reads and checks the next one.
//!
//! A producer may send messages of any size. A read therefore returns a limited number of bytes. Of a message that is
//! too large, it returns only the size. The memory for rejected messages is limited, too.

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

/// A rejected message that is put back into the inbox gets a new id. This field of the message holds its original id.
const FIRST_ID: &[u8] = b"first-id";
/// Maximum number of messages in one read.
const MAX_READ: usize = 256;
/// A read of the inbox ends once its messages have this number of bytes.
const MAX_BYTES: usize = 1 << 20;
/// Longest pause between two reads of the inbox while Redis reports changes of it. A report ends the pause.
const LOOKED_AT_EVERY: Duration = Duration::from_secs(15);
/// Longest pause between two reads of the inbox while Redis cannot report changes of it.
const LOOKED_AT_EVERY_UNTOLD: Duration = Duration::from_millis(100);
/// Shortest time between two log lines about dropped rejected messages.
const DROPPED_LOGGED_EVERY: Duration = Duration::from_mins(1);

/// Moves the messages of the inbox into the queues.
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

/// The number of dropped rejected messages that are not logged yet, and the time of the last log line about them.
#[derive(Default)]
struct Dropping {
    unlogged: u64,
    logged: Option<Instant>,
}

/// A message: id, size in bytes, and fields (name, value, name, …). The fields are absent if the message is too large.
type Message = (String, usize, Vec<Vec<u8>>);

/// Consecutive messages of the inbox, and the script call that moves them into the queues.
struct Batch {
    call: ScriptInvocation<'static>,
    messages: Vec<Checked>,
}

/// What is logged about a message after its move.
struct Checked {
    id: String,
    /// The order, or `None` if the message is rejected.
    topup_id: Option<TopupId>,
    /// Remarks on parts of the message that cannot be used and are ignored.
    remarks: Vec<String>,
}

impl Intake {
    /// Builds an intake. `callbacks` are the hosts to which a `callbackUrl` may point.
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

    /// Sets the limits on stored rejected messages, and the metrics that count rejected messages.
    #[must_use]
    pub fn rejecting(self, rejected_cap: RejectedCap, metrics: Metrics) -> Self {
        Self { rejected_cap, metrics, ..self }
    }

    /// Moves messages until a shutdown is requested. Waits while Redis does not answer.
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

    /// Moves messages until the inbox is empty. Each moved batch resets the backoff.
    async fn take_all(&mut self, shutdown: &Shutdown, backoff: &mut Backoff) -> RedisResult<()> {
        let mut batch = tokio::select! {
            () = shutdown.requested() => return Ok(()),
            batch = self.read("") => batch?,
        };
        // A shutdown ends this loop between two batches. It does not interrupt a move, because a move is one script.
        while let Some(moved) = batch
            && !shutdown.is_requested()
        {
            // The next batch is requested before the move, so that its messages arrive while Redis moves this batch.
            let last = moved.messages.last().map_or("", |message| &message.id);
            let (next, results) = tokio::join!(self.read(last), self.carry_out(&moved.call));
            let results = results?;
            *backoff = Backoff::new();
            batch = if results.is_empty() {
                // Another worker moved these messages and perhaps the next, so the inbox is read from its beginning.
                self.read("").await?
            } else {
                self.log(&moved.messages, &results).await;
                next?
            };
        }
        Ok(())
    }

    /// Reads and checks the messages after the id `after`, or the oldest if `after` is empty. `None` if there are none.
    async fn read(&self, after: &str) -> RedisResult<Option<Batch>> {
        let mut call = scripts::INBOX_READ.key(self.names.inbox());
        call.arg(after).arg(MAX_READ).arg(MAX_BYTES).arg(MAX_MESSAGE_BYTES);
        let messages: RedisResult<Vec<Message>> = call.invoke_async(&mut self.reading.get()).await;
        // A success is not reported: it does not prove that Redis works, as a read-only replica answers reads, too.
        let messages = messages.inspect_err(|error| self.reading.failed_to_work(error))?;
        Ok((!messages.is_empty()).then(|| self.batch(messages)))
    }

    /// Checks a message. The error is the reason of the rejection.
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
                // The order is paid. So it is tracked without the callback, and its events go to the usual receivers.
                Err(refused @ (CallbackRefused::NoAddress | CallbackRefused::Blocked(_))) => {
                    accepted.order.callback_url = None;
                    if removes && !accepted.order.names_details() {
                        return Err(refused.to_string());
                    }
                    accepted.remarks.push(format!("{refused}; it is ignored"));
                }
                Err(refused) => return Err(refused.to_string()),
            }
        }
        Ok(accepted)
    }

    /// Checks messages and prepares the script call that moves them into the queues.
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

    /// Moves a batch and returns the result of each message, or no results if another worker has already moved it.
    async fn carry_out(&self, call: &ScriptInvocation<'static>) -> RedisResult<Vec<String>> {
        let results = call.invoke_async(&mut self.moving.get()).await;
        match &results {
            Ok(_) => self.moving.answered(),
            Err(error) => self.moving.failed_to_work(error),
        }
        results
    }

    /// Logs the results of moved messages. Drops the oldest rejected messages if more are stored than the cap allows.
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
                            "accepted a message, but ignored a part of it that cannot be used"
                        );
                    }
                }
                (None, "rejected") => {
                    rejected += 1;
                    tracing::warn!(message.id = id, "rejected a message; `topup-worker rejected` shows why");
                }
                (None, result) => tracing::debug!(message.id = id, result, "invalid message was deleted"),
            }
        }
        if rejected > 0 {
            self.metrics.rejected(rejected);
            self.drop_oldest_rejected().await;
        }
    }

    /// Drops the oldest rejected messages over the cap, and logs the number of dropped ones at most once a minute.
    async fn drop_oldest_rejected(&mut self) {
        let dropped = match self.rejected_cap.keep(&self.moving, &self.names).await {
            Ok(dropped) => dropped,
            // The messages over the cap stay stored. The next rejected message triggers another attempt to drop them.
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
                "the oldest rejected messages were dropped, because REJECTED_MESSAGES or REJECTED_MEGABYTES was \
                 exceeded; `topup-worker rejected` shows the others with the reasons of their rejection"
            );
            self.dropping = Dropping { unlogged: 0, logged: Some(Instant::now()) };
        }
    }
}

/// The original id of a message that was rejected and put back, if it is a valid stream id.
fn first_id(fields: &[Vec<u8>]) -> Option<&str> {
    let pair = fields.chunks_exact(2).find(|pair| pair[0] == FIRST_ID)?;
    let id = std::str::from_utf8(&pair[1]).ok()?;
    let (milliseconds, number) = id.split_once('-')?;
    (milliseconds.parse::<u64>().is_ok() && number.parse::<u64>().is_ok()).then_some(id)
}
