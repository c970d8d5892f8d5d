//! Listens for word that a job became due earlier than a worker knows of.
//!
//! One connection a process for all queues. A word that is lost costs a worker the time until its next
//! heartbeat, nothing more. But a connection on which nothing was said may be one on which nothing
//! can be heard any more, so it is asked once in a while, and replaced where it does not answer.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use redis::{RedisError, RedisResult, Value};
use tokio::sync::Notify;
use tokio::time::timeout;

use super::address::RedisAddress;
use super::connection::{ANSWER_TIMEOUT, Pause};

/// Silence after which the connection is asked whether it still is one.
const LONGEST_SILENCE: Duration = Duration::from_secs(20);

/// A queue and whom to wake for it.
pub(super) type Listener = (String, Arc<Notify>);

/// Listens for ever; reconnects whenever the connection ends.
pub(super) async fn listen(address: RedisAddress, listeners: Vec<Listener>) {
    let mut pause = Pause::new();
    loop {
        if listen_once(&address, &listeners).await.is_ok() {
            pause = Pause::new();
        }
        pause.wait().await;
    }
}

async fn listen_once(address: &RedisAddress, listeners: &[Listener]) -> RedisResult<()> {
    let subscribe = async {
        let mut subscription = address.client().await?.get_async_pubsub().await?;
        for (queue, _) in listeners {
            subscription.subscribe(format!("{queue}:wake")).await?;
        }
        RedisResult::Ok(subscription)
    };
    let (mut asking, mut words) = timeout(ANSWER_TIMEOUT, subscribe).await.map_err(unanswered)??.split();
    // Whatever was said before now was not heard.
    for (_, wake) in listeners {
        wake.notify_one();
    }
    loop {
        match timeout(LONGEST_SILENCE, words.next()).await {
            Ok(Some(word)) => {
                let queue = word.get_channel_name().strip_suffix(":wake");
                for (_, wake) in listeners.iter().filter(|(name, _)| Some(name.as_str()) == queue) {
                    wake.notify_one();
                }
            }
            Ok(None) => return Ok(()),
            Err(_silent) => {
                timeout(ANSWER_TIMEOUT, asking.ping::<Value>()).await.map_err(unanswered)??;
            }
        }
    }
}

fn unanswered(_: tokio::time::error::Elapsed) -> RedisError {
    std::io::Error::from(std::io::ErrorKind::TimedOut).into()
}
