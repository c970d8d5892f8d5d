//! A subscription on which silence is not taken for health: nothing was said, or nothing can be heard any more.

use std::time::Duration;

use futures_util::StreamExt;
use redis::aio::{PubSub, PubSubSink, PubSubStream};
use redis::{Msg, RedisResult};
use tokio::time::timeout;

use super::in_time::{ANSWER_TIMEOUT, FIND_TIMEOUT, in_time};

/// Silence after which the connection is asked whether it still is one.
const MAX_SILENCE: Duration = Duration::from_secs(20);

/// See the module.
pub(crate) struct Subscription {
    asking: PubSubSink,
    words: PubSubStream,
}

impl Subscription {
    /// Subscribes to these channels, at the first server that answers in time.
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

    /// The next word. Nothing once the connection has ended.
    ///
    /// # Errors
    /// [`redis::RedisError`] where it is silent and does not answer.
    pub(crate) async fn next(&mut self) -> RedisResult<Option<Msg>> {
        loop {
            match timeout(MAX_SILENCE, self.words.next()).await {
                Ok(word) => return Ok(word),
                Err(_silent) => in_time(ANSWER_TIMEOUT, self.asking.ping()).await?,
            }
        }
    }
}
