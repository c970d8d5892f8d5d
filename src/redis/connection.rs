//! Connections to Redis. An outage of Redis ends no task: a caller reports its error here, waits and tries again. A
//! connection is replaced if its server does not answer, is no longer the master or no longer has our keys. The server
//! is then searched for again. The client library alone would wait until the kernel closes the connection, or would
//! keep sending commands to a replica.

use std::future::Future;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use redis::aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig};
use redis::{Cmd, ErrorKind, Pipeline, RedisError, RedisFuture, RedisResult, ServerErrorKind, Value};
use tokio::time::Instant;

use super::address::RedisAddress;
use super::health::RedisHealth;
use super::in_time::{ANSWER_TIMEOUT, FIND_TIMEOUT, in_time};
use super::refusal::leaves_connection;
use super::server::Info;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause before the server is searched for again, because a new master takes time to appear.
const FIND_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// While a caller waits for a search, it checks at this interval whether a newer search has replaced that one.
const SEARCH_IS_CHECKED_EVERY: Duration = Duration::from_secs(1);

/// A search for the server, whose result is a connection to it. All waiting callers share the search.
type Found = Shared<BoxFuture<'static, RedisResult<ConnectionManager>>>;

#[derive(Clone)]
struct Current {
    found: Found,
    /// Number of failovers that were known when the search began. After a further one the connection is replaced.
    failover_epoch: u64,
    /// Number of searches before this one.
    number: u64,
}

/// A connection that reconnects by itself. Clones share it.
#[derive(Clone)]
pub struct Connection {
    address: RedisAddress,
    /// How long to wait for the answer to a command. Finding the server first has a timeout of its own.
    answer_timeout: Duration,
    current: Arc<RwLock<Current>>,
    health: RedisHealth,
}

impl Connection {
    /// A connection to this address. Redis need not be reachable yet.
    #[must_use]
    pub fn new(address: &RedisAddress, health: &RedisHealth) -> Self {
        let (found, failover_epoch) = (find(address.clone(), Duration::ZERO), address.failover_epoch());
        let current = Arc::new(RwLock::new(Current { found, failover_epoch, number: 0 }));
        Self { address: address.clone(), answer_timeout: ANSWER_TIMEOUT, current, health: health.clone() }
    }

    pub(crate) fn answering_within(self, answer_timeout: Duration) -> Self {
        Self { answer_timeout, ..self }
    }

    pub(crate) fn get(&self) -> Self {
        self.clone()
    }

    pub(crate) fn answered(&self) {
        self.health.answered();
    }

    /// Reports that a command failed. The connection has already been replaced if necessary.
    pub(crate) fn failed(&self, error: &RedisError) {
        self.health.failed(error, false);
    }

    /// Like [`Self::failed`], for a command that all jobs need: if Redis refuses it, the worker is not ready.
    pub(crate) fn failed_to_work(&self, error: &RedisError) {
        self.health.failed(error, true);
    }

    /// Asks the server for its role, and replaces all connections to this address if it has become a replica. Commands
    /// may not reveal that, because a replica may accept writes. Returns `false` if the server does not tell its role.
    pub(crate) async fn leave_replica(&self) -> bool {
        let command = |mut server: ConnectionManager| async move { role(&mut server).await };
        let role = self.carry_out(command, |_| None).await;
        if matches!(&role, Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly)) {
            self.address.failed_over();
        }
        !matches!(role, Ok(Role::Unknown))
    }

    /// Returns the number of times that the connection was replaced. Each time the server may have changed.
    pub(crate) fn times_left(&self) -> u64 {
        // If the Sentinels have reported a failover, `current` replaces the connection now.
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

    /// Replaces this connection, unless another task has done so. Many commands may fail on the same connection.
    fn leave(&self, left: &Found) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if current.found.ptr_eq(left) {
            let pause = if self.address.is_fixed() { Duration::ZERO } else { FIND_AGAIN_AFTER };
            let (failover_epoch, number) = (self.address.failover_epoch(), current.number + 1);
            *current = Current { found: find(self.address.clone(), pause), failover_epoch, number };
        }
    }

    /// Returns the result of the search for the server. If a newer search replaces it, waits for the newer one. After
    /// [`FIND_TIMEOUT`] in total, stays with the search that is the newest by then, even if that is replaced, too.
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

    /// Sends a command on the current connection, and replaces the connection if the answer shows that it must be.
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
        // Here an error reply of Redis is an `Ok`. An `Err` comes from the connection, the search or the login. After
        // an `Err` the connection is always replaced, because the client library would keep some broken ones forever.
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

/// Returns the error if the answer is an error reply.
fn refusal(answer: &Value) -> Option<RedisError> {
    match answer {
        Value::ServerError(error) => Some(error.clone().into()),
        _ => None,
    }
}

/// Answer of [`role`]. A replica has no value here, because `role` fails for it.
enum Role {
    Master,
    /// The server does not tell it, for example because the user may not run `INFO`.
    Unknown,
}

/// Fails if the server is a replica, even one that accepts writes. The master never gets those writes, so workers that
/// use the master would carry out the same jobs again.
async fn role(server: &mut ConnectionManager) -> RedisResult<Role> {
    let mut ask = redis::cmd("INFO");
    let answer = in_time(ANSWER_TIMEOUT, server.send_packed_command(ask.arg("replication"))).await?;
    match Info::parse(&redis::from_redis_value::<String>(answer).unwrap_or_default()).role() {
        Some("slave") => {
            Err((ErrorKind::Server(ServerErrorKind::ReadOnly), "the server is a replica").into())
        }
        Some(_) => Ok(Role::Master),
        None => Ok(Role::Unknown),
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
        let mut manager = ConnectionManager::new_lazy_with_config(client, config)?;
        role(&mut manager).await?;
        Ok(manager)
    };
    search.boxed().shared()
}
