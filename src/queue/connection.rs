//! Connections to Redis, and whether it answers.
//!
//! Redis being away is a state, not an error that ends anything: whoever gets an error reports it here,
//! waits and tries again. The change of state is logged once, whichever task saw it first. A connection
//! that went silent, or leads to a server that has become a replica, is replaced: the client by itself
//! would wait for the kernel to give it up.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::io::tcp::TcpSettings;
use redis::{Client, ErrorKind, IntoConnectionInfo, RedisError, ServerErrorKind};
use tokio::time::Instant;

/// Longest pause between two tries while Redis is away.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection that mends itself; clones share it.
#[derive(Clone)]
pub struct Connection {
    client: Client,
    answer_timeout: Option<Duration>,
    current: Arc<RwLock<ConnectionManager>>,
    health: RedisHealth,
}

impl Connection {
    /// A connection of this client. It does not wait for Redis to be there.
    ///
    /// # Errors
    /// [`RedisError`] where the client's address is unusable.
    pub fn new(client: &Client, health: &RedisHealth) -> Result<Self, RedisError> {
        Self::with(client, health, Some(ANSWER_TIMEOUT))
    }

    /// As [`Connection::new`], for commands that block on the side of Redis.
    ///
    /// # Errors
    /// [`RedisError`] where the client's address is unusable.
    pub(crate) fn blocking(client: &Client, health: &RedisHealth) -> Result<Self, RedisError> {
        Self::with(client, health, None)
    }

    fn with(
        client: &Client,
        health: &RedisHealth,
        answer_timeout: Option<Duration>,
    ) -> Result<Self, RedisError> {
        let settings = TcpSettings::default().set_nodelay(true);
        let info = client.get_connection_info().clone().into_connection_info()?.set_tcp_settings(settings);
        let client = Client::open(info)?;
        let current = Arc::new(RwLock::new(manager(&client, answer_timeout)?));
        Ok(Self { client, answer_timeout, current, health: health.clone() })
    }

    /// The connection to send a command with.
    pub(crate) fn get(&self) -> ConnectionManager {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A command was answered.
    pub(crate) fn answered(&self) {
        self.health.answered();
    }

    /// A command failed.
    pub(crate) fn failed(&self, error: &RedisError) {
        self.health.failed(error);
        let replica = error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly);
        if error.is_timeout() || replica {
            self.replace();
        }
    }

    /// No answer came in time, by the caller's own clock.
    pub(crate) fn went_silent(&self) {
        self.health.down("no answer in time");
        self.replace();
    }

    fn replace(&self) {
        if let Ok(fresh) = manager(&self.client, self.answer_timeout) {
            *self.current.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        }
    }
}

fn manager(client: &Client, answer_timeout: Option<Duration>) -> Result<ConnectionManager, RedisError> {
    let config = ConnectionManagerConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(answer_timeout)
        .set_number_of_retries(1)
        .set_max_delay(Duration::from_millis(100));
    ConnectionManager::new_lazy_with_config(client.clone(), config)
}

/// Whether Redis answers, as seen by all tasks of this process together.
#[derive(Debug, Clone, Default)]
pub struct RedisHealth {
    down: Arc<AtomicBool>,
}

impl RedisHealth {
    /// Whether the last command was answered.
    #[must_use]
    pub fn is_up(&self) -> bool {
        !self.down.load(Ordering::Relaxed)
    }

    fn answered(&self) {
        if self.down.swap(false, Ordering::Relaxed) {
            tracing::info!("Redis answers again");
        }
    }

    fn failed(&self, error: &RedisError) {
        let words = describe(error);
        match error.kind() {
            // Redis is there and refuses this one command: that is no outage, and has to be seen.
            ErrorKind::Server(ServerErrorKind::ResponseError) | ErrorKind::Extension => {
                tracing::error!(error = words, "Redis refuses a command; trying again");
            }
            _ => self.down(&words),
        }
    }

    fn down(&self, why: &str) {
        if !self.down.swap(true, Ordering::Relaxed) {
            tracing::warn!(error = why, "Redis does not answer; trying again until it does");
        }
    }
}

/// The error in words without any argument of the command, which may carry a payload.
fn describe(error: &RedisError) -> String {
    match error.code() {
        Some(code) => format!("{:?} ({code})", error.kind()),
        None => format!("{:?}", error.kind()),
    }
}

/// Growing pauses between tries, from 50 ms to a second.
#[derive(Debug)]
pub(crate) struct Pause {
    next: Duration,
}

impl Pause {
    pub(crate) fn new() -> Self {
        Self { next: Duration::from_millis(50) }
    }

    /// Waits, longer each time.
    pub(crate) async fn wait(&mut self) {
        tokio::time::sleep(self.next).await;
        self.next = (self.next * 2).min(LONGEST_PAUSE);
    }
}

/// Since when every heartbeat has been answered. A worker that was cut off, or whose Redis was, must not
/// take the others for dead before they have had the time to report again.
#[derive(Debug, Default)]
pub(crate) struct Steady {
    since: Option<Instant>,
}

impl Steady {
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
