//! Notifications that a stream has changed. A blocking `XREAD` would send each new message to every worker at once,
//! whatever its size. So Redis only reports changes of the key (`CLIENT TRACKING` in broadcasting mode, by RESP3), and
//! a script with limits reads the messages. If a notification is lost, the message waits until the next timed read.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ProtocolVersion, PushInfo, PushKind, RedisResult};
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;

use super::address::RedisAddress;
use super::backoff::Backoff;
use super::in_time::{ANSWER_TIMEOUT, FIND_TIMEOUT, in_time};

/// After this long without a notification, a `PING` checks the connection.
const MAX_SILENCE: Duration = Duration::from_mins(1);

/// Wakes a task when a key changes. Clones share the state.
#[derive(Debug, Clone, Default)]
pub(crate) struct Arrivals {
    changed: Arc<Notify>,
    /// Whether Redis reports changes now.
    heard: Arc<AtomicBool>,
}

impl Arrivals {
    /// Waits for a change: at most for `heard` while Redis reports changes, otherwise at most for `unheard`.
    pub(crate) async fn wait(&self, heard: Duration, unheard: Duration) {
        let longest = if self.heard.load(Ordering::Relaxed) { heard } else { unheard };
        drop(timeout(longest, self.changed.notified()).await);
    }

    pub(crate) async fn listen(self, address: RedisAddress, key: String) {
        let (mut backoff, mut logged) = (Backoff::new(), false);
        loop {
            match self.listen_once(&address, &key).await {
                Ok(()) => backoff = Backoff::new(),
                Err(error) if matches!(error.code(), Some("NOPERM" | "ERR")) && !logged => {
                    logged = true;
                    tracing::warn!(
                        error = super::describe(&error),
                        "Redis refuses to report new messages (CLIENT TRACKING); the inbox is read ten times a second"
                    );
                }
                Err(_) => {}
            }
            self.heard.store(false, Ordering::Relaxed);
            backoff.wait().await;
        }
    }

    async fn listen_once(&self, address: &RedisAddress, key: &str) -> RedisResult<()> {
        let client = in_time(FIND_TIMEOUT, address.client()).await?;
        let (mut asking, mut words) = connect(&client).await?;
        let mut track = redis::cmd("CLIENT");
        track.arg("TRACKING").arg("ON").arg("BCAST").arg("PREFIX").arg(key);
        in_time(ANSWER_TIMEOUT, track.exec_async(&mut asking)).await?;
        self.heard.store(true, Ordering::Relaxed);
        // Changes before the tracking began may have been missed, so the task is woken once.
        self.changed.notify_one();
        loop {
            match timeout(MAX_SILENCE, words.recv()).await {
                Ok(Some(PushInfo { kind: PushKind::Invalidate, .. })) => self.changed.notify_one(),
                Ok(Some(PushInfo { kind: PushKind::Disconnection, .. }) | None) => return Ok(()),
                Ok(Some(_)) => {}
                Err(_silent) => in_time(ANSWER_TIMEOUT, redis::cmd("PING").exec_async(&mut asking)).await?,
            }
        }
    }
}

/// Opens a connection. Also returns the receiver of the messages that Redis pushes on it.
async fn connect(client: &Client) -> RedisResult<(MultiplexedConnection, UnboundedReceiver<PushInfo>)> {
    let server = client.get_connection_info().clone();
    let settings = server.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    let (said, words) = unbounded_channel();
    let config = AsyncConnectionConfig::new().set_push_sender(said);
    let client = Client::open(server.set_redis_settings(settings))?;
    let connecting = client.get_multiplexed_async_connection_with_config(&config);
    Ok((in_time(FIND_TIMEOUT, connecting).await?, words))
}
