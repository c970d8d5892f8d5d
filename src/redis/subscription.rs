//! A subscription that sends a ping if no message has arrived for a while, as the connection may be dead.

use std::time::Duration;

use futures_util::StreamExt;
use redis::aio::{PubSub, PubSubSink, PubSubStream};
use redis::{Msg, RedisResult};
use tokio::time::timeout;

use super::in_time::{ANSWER_TIMEOUT, FIND_TIMEOUT, in_time};

/// After this long without a message, a ping checks the connection.
const MAX_SILENCE: Duration = Duration::from_secs(20);

pub(crate) struct Subscription {
    asking: PubSubSink,
    words: PubSubStream,
}

impl Subscription {
    /// Connects within a timeout and subscribes to these channels.
    pub(crate) async fn start(
        connecting: impl Future<Output = RedisResult<PubSub>>,
        channels: &[String],
    ) -> RedisResult<Self> {
        let mut subscribing = in_time(FIND_TIMEOUT, connecting).await?;
        for channel in channels {
            in_time(ANSWER_TIMEOUT, subscribing.subscribe(channel)).await?;
        }
        let (asking, words) = subscribing.split();
        Ok(Self { asking, words })
    }

    /// Waits for the next message. Returns `None` if the connection has ended.
    ///
    /// # Errors
    /// [`redis::RedisError`] if a ping is not answered.
    pub(crate) async fn next(&mut self) -> RedisResult<Option<Msg>> {
        loop {
            match timeout(MAX_SILENCE, self.words.next()).await {
                Ok(word) => return Ok(word),
                Err(_silent) => in_time(ANSWER_TIMEOUT, self.asking.ping()).await?,
            }
        }
    }
}
