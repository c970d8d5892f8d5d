//! Word that a stream has changed, and nothing of what arrived.
//!
//! A blocking `XREAD` would hand over the next message whatever its size, to every worker at once. So Redis is asked
//! to tell of changes of the key alone (`CLIENT TRACKING` in broadcasting mode, over RESP3), and the messages are read
//! by a script that bounds what it hands over. A word that is lost costs the time until the next look, nothing more.

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

/// Silence after which the connection is asked whether it still is one.
const MAX_SILENCE: Duration = Duration::from_mins(1);

/// Changes of a key. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Arrivals {
    changed: Arc<Notify>,
    /// Whether Redis tells of changes now.
    heard: Arc<AtomicBool>,
}

impl Arrivals {
    /// Waits for a change, no longer than `heard` while Redis tells of changes, or than `unheard` otherwise.
    pub(crate) async fn wait(&self, heard: Duration, unheard: Duration) {
        let longest = if self.heard.load(Ordering::Relaxed) { heard } else { unheard };
        drop(timeout(longest, self.changed.notified()).await);
    }

    /// Listens for ever; reconnects whenever the connection ends.
    pub(crate) async fn listen(self, address: RedisAddress, key: String) {
        let (mut backoff, mut told) = (Backoff::new(), false);
        loop {
            match self.listen_once(&address, &key).await {
                Ok(()) => backoff = Backoff::new(),
                Err(error) if matches!(error.code(), Some("NOPERM" | "ERR")) && !told => {
                    told = true;
                    tracing::warn!(
                        error = super::describe(&error),
                        "Redis does not tell of new messages (CLIENT TRACKING); the inbox is looked at ten times a \
                         second instead"
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
        // Whatever changed before now was not heard.
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

/// A connection that hands on what Redis says without having been asked.
async fn connect(client: &Client) -> RedisResult<(MultiplexedConnection, UnboundedReceiver<PushInfo>)> {
    let server = client.get_connection_info().clone();
    let settings = server.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    let (said, words) = unbounded_channel();
    let config = AsyncConnectionConfig::new().set_push_sender(said);
    let client = Client::open(server.set_redis_settings(settings))?;
    let connecting = client.get_multiplexed_async_connection_with_config(&config);
    Ok((in_time(FIND_TIMEOUT, connecting).await?, words))
}
