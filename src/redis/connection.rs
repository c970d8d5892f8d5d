//! Connections to Redis, and whether it answers.
//!
//! Redis being away is a state, not an error that ends anything: each caller that gets an error reports it here,
//! waits and tries again. The change of state is logged once, whichever task saw it first. A connection
//! that went silent, or leads to a server that has lost its role or its keys, is left for a new one to
//! wherever the address leads by then: the client by itself would wait for the kernel to give it up, or go
//! on asking a replica.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use redis::aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig};
use redis::{Cmd, ErrorKind, Pipeline, RedisError, RedisFuture, RedisResult, ServerErrorKind, Value};
use tokio::time::Instant;

use super::address::RedisAddress;
use super::in_time::{ANSWER_TIMEOUT, FIND_TIMEOUT, in_time};
use super::refusal::{describe, is_read_only, leaves_connection, stops_work};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The pause before the master is looked for again: it is not there at once, and many wait for it.
const FIND_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// The same refusal is logged no more often.
const REFUSAL_LOGGED_EVERY: Duration = Duration::from_secs(30);
/// So long after Redis refused a command in a way that stops work, the worker is not ready. Longer than the
/// pause between two tries of anything.
const REFUSAL_LASTS: Duration = Duration::from_secs(5);

/// How often callers that wait for a search check whether it is still the current one.
const SEARCH_IS_CHECKED_EVERY: Duration = Duration::from_secs(1);

/// The connection to whichever server was found, once it is found; all who wait share the search.
type Found = Shared<BoxFuture<'static, RedisResult<ConnectionManager>>>;

/// Where a connection leads.
#[derive(Clone)]
struct Current {
    found: Found,
    /// How often the server had become another one when the search began.
    failover_epoch: u64,
    /// Searches before this one.
    number: u64,
}

/// A connection that reconnects by itself; clones share it. Commands are sent with it.
#[derive(Clone)]
pub struct Connection {
    address: RedisAddress,
    /// How long an answer may take, once it is known where the server is.
    answer_timeout: Duration,
    current: Arc<RwLock<Current>>,
    health: RedisHealth,
}

impl Connection {
    /// A connection to that Redis. It does not wait for Redis to be there.
    #[must_use]
    pub fn new(address: &RedisAddress, health: &RedisHealth) -> Self {
        let (found, failover_epoch) = (find(address.clone(), Duration::ZERO), address.failover_epoch());
        let current = Arc::new(RwLock::new(Current { found, failover_epoch, number: 0 }));
        Self { address: address.clone(), answer_timeout: ANSWER_TIMEOUT, current, health: health.clone() }
    }

    /// The same connection, for commands whose answers take no longer than this.
    pub(crate) fn answering_within(self, answer_timeout: Duration) -> Self {
        Self { answer_timeout, ..self }
    }

    /// The connection to send a command with.
    pub(crate) fn get(&self) -> Self {
        self.clone()
    }

    /// A command was answered.
    pub(crate) fn answered(&self) {
        self.health.answered();
    }

    /// A command failed. The connection has seen it and was left if need be.
    pub(crate) fn failed(&self, error: &RedisError) {
        self.health.failed(error, false);
    }

    /// The same, of a command without which no work can be done.
    pub(crate) fn failed_to_work(&self, error: &RedisError) {
        self.health.failed(error, true);
    }

    /// How often it was left for another one, which may lead to another server.
    pub(crate) fn times_left(&self) -> u64 {
        // A word of the Sentinels that no command has met yet counts, too.
        self.current().number
    }

    fn read(&self) -> Current {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn current(&self) -> Current {
        let current = self.read();
        if current.failover_epoch == self.address.failover_epoch() {
            return current;
        }
        self.leave(&current.found);
        self.read()
    }

    /// Leaves this connection, unless another task has done so: of the many commands that fail with a
    /// connection, one replaces it.
    fn leave(&self, left: &Found) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if current.found.ptr_eq(left) {
            let pause = if self.address.is_fixed() { Duration::ZERO } else { FIND_AGAIN_AFTER };
            let (failover_epoch, number) = (self.address.failover_epoch(), current.number + 1);
            *current = Current { found: find(self.address.clone(), pause), failover_epoch, number };
        }
    }

    /// The server of now. A search that has been left meanwhile is not waited for, nor is the server used that it
    /// found; unless they are left faster than one is found for as long as finding may take.
    async fn server(&self) -> (Found, RedisResult<ConnectionManager>) {
        let end = Instant::now() + FIND_TIMEOUT;
        while Instant::now() < end {
            let found = self.current().found;
            if let Ok(server) = tokio::time::timeout(SEARCH_IS_CHECKED_EVERY, found.clone()).await
                && (server.is_err() || found.ptr_eq(&self.current().found))
            {
                return (found, server);
            }
        }
        let found = self.current().found;
        (found.clone(), found.await)
    }

    /// Has the connection of now carry out a command, and leaves it where the answer says so.
    async fn carry_out<T, F: Future<Output = RedisResult<T>>>(
        &self,
        command: impl FnOnce(ConnectionManager) -> F,
        refusal: impl FnOnce(&T) -> Option<RedisError>,
    ) -> RedisResult<T> {
        let (found, server) = self.server().await;
        let answer = match server {
            Ok(manager) => in_time(self.answer_timeout, command(manager)).await,
            Err(error) => Err(error),
        };
        // What Redis says of a command is an answer. An error is the connection's own, or that of finding and
        // logging in, and some of those the client would keep for ever.
        let to_leave = match &answer {
            Ok(answer) => refusal(answer).is_some_and(|error| leaves_connection(&error)),
            Err(_) => true,
        };
        if to_leave {
            self.leave(&found);
        }
        answer
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        let command =
            move |mut manager: ConnectionManager| async move { manager.send_packed_command(cmd).await };
        self.carry_out(command, refusal).boxed()
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        let commands = move |mut manager: ConnectionManager| async move {
            manager.send_packed_commands(pipeline, offset, count).await
        };
        self.carry_out(commands, |values: &Vec<Value>| values.iter().find_map(refusal)).boxed()
    }

    fn get_db(&self) -> i64 {
        self.address.database()
    }
}

/// A refusal comes as an answer like any other.
fn refusal(answer: &Value) -> Option<RedisError> {
    match answer {
        Value::ServerError(error) => Some(error.clone().into()),
        _ => None,
    }
}

fn find(address: RedisAddress, pause: Duration) -> Found {
    let search = async move {
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        let client = in_time(FIND_TIMEOUT, address.client()).await?;
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(None)
            .set_number_of_retries(1)
            .set_max_delay(Duration::from_millis(100));
        ConnectionManager::new_lazy_with_config(client, config)
    };
    search.boxed().shared()
}

/// Whether Redis answers, as seen by all tasks of this process together.
#[derive(Debug, Clone, Default)]
pub struct RedisHealth {
    down: Arc<AtomicBool>,
    /// Whether it was logged, since it was last answered, that the login is refused.
    login_refused: Arc<AtomicBool>,
    refusal: Arc<Mutex<Option<Refusal>>>,
}

/// Redis is there and refuses a command.
#[derive(Debug)]
struct Refusal {
    words: String,
    logged: Instant,
    /// When it last did so in a way that stops work.
    stopped: Option<Instant>,
}

impl RedisHealth {
    /// Whether the last command was answered, and none is refused that work cannot do without.
    ///
    /// # Errors
    /// Why not, in words.
    pub fn check(&self) -> Result<(), &'static str> {
        let refusal = self.refusal.lock().unwrap_or_else(PoisonError::into_inner);
        let stopped = refusal.as_ref().and_then(|refusal| refusal.stopped);
        if self.down.load(Ordering::Relaxed) {
            Err("Redis does not answer")
        } else if stopped.is_some_and(|at| at.elapsed() < REFUSAL_LASTS) {
            Err("Redis refuses commands")
        } else {
            Ok(())
        }
    }

    fn answered(&self) {
        if self.down.swap(false, Ordering::Relaxed) {
            self.login_refused.store(false, Ordering::Relaxed);
            tracing::info!("Redis answers again");
        }
    }

    fn failed(&self, error: &RedisError, is_needed: bool) {
        let words = describe(error);
        match error.kind() {
            // It may have begun with a connection that was cut.
            ErrorKind::AuthenticationFailed if self.down.load(Ordering::Relaxed) => {
                if !self.login_refused.swap(true, Ordering::Relaxed) {
                    tracing::error!(error = words, "Redis does not let this worker in; trying again");
                }
            }
            _ if stops_work(error) => self.refused(words, true),
            _ if is_read_only(error) => self.down(&words),
            // Redis is there and refuses this one command: that is no outage, and has to be seen.
            ErrorKind::Server(ServerErrorKind::ResponseError) | ErrorKind::Extension => {
                self.refused(words, is_needed);
            }
            _ => self.down(&words),
        }
    }

    fn refused(&self, words: String, stops_work: bool) {
        let mut refusal = self.refusal.lock().unwrap_or_else(PoisonError::into_inner);
        let known = refusal.as_ref().filter(|known| known.words == words).map(|known| known.logged);
        let due = known.is_none_or(|logged| logged.elapsed() >= REFUSAL_LOGGED_EVERY);
        if due {
            tracing::error!(error = words, "Redis refuses a command; trying again");
        }
        let now = Instant::now();
        let before = refusal.as_ref().and_then(|before| before.stopped);
        *refusal = Some(Refusal {
            words,
            logged: known.filter(|_| !due).unwrap_or(now),
            stopped: if stops_work { Some(now) } else { before },
        });
    }

    fn down(&self, why: &str) {
        if !self.down.swap(true, Ordering::Relaxed) {
            tracing::warn!(error = why, "Redis does not answer; trying again until it does");
        }
    }
}

/// Since when every heartbeat has been answered, by the same server for all we know. A worker that was cut off, or
/// whose Redis was, must not take the others for dead before they have had the time to report again.
#[derive(Debug, Default)]
pub(crate) struct StableSince {
    since: Option<Instant>,
}

impl StableSince {
    pub(crate) fn answered(&mut self) {
        self.since.get_or_insert_with(Instant::now);
    }

    pub(crate) fn interrupted(&mut self) {
        self.since = None;
    }

    pub(crate) fn lasts_for(&self, duration: Duration) -> bool {
        self.since.is_some_and(|since| since.elapsed() >= duration)
    }
}

#[cfg(test)]
mod tests {
    use redis::ServerError;

    use super::*;

    #[test]
    fn a_refusal_that_is_not_known_stops_a_worker_only_where_it_can_do_nothing_without_the_command() {
        let Value::ServerError(error) =
            redis::parse_redis_value(b"-ERR the plan allows no more\r\n").unwrap()
        else {
            panic!("it is an error");
        };
        let (error, health) = (ServerError::into(error), RedisHealth::default());
        health.failed(&error, false);
        assert_eq!(health.check(), Ok(()));
        health.failed(&error, true);
        assert_eq!(health.check(), Err("Redis refuses commands"));
    }
}
