//! Listens for word that a job became due earlier than a worker knows of.
//!
//! One connection a process for all queues. A word that is lost costs a worker the time until its next
//! heartbeat, nothing more.

use std::sync::Arc;

use redis::RedisResult;
use tokio::sync::Notify;

use crate::redis::{Backoff, RedisAddress, Subscription};

/// A queue and whom to wake for it.
pub(super) type Listener = (String, Arc<Notify>);

/// Listens for ever; reconnects whenever the connection ends.
pub(super) async fn listen(address: RedisAddress, listeners: Vec<Listener>) {
    let mut backoff = Backoff::new();
    loop {
        if listen_once(&address, &listeners).await.is_ok() {
            backoff = Backoff::new();
        }
        backoff.wait().await;
    }
}

async fn listen_once(address: &RedisAddress, listeners: &[Listener]) -> RedisResult<()> {
    let connecting = async { address.client().await?.get_async_pubsub().await };
    let channels: Vec<_> = listeners.iter().map(|(queue, _)| format!("{queue}:wake")).collect();
    let mut words = Subscription::start(connecting, &channels).await?;
    // Whatever was said before now was not heard.
    for (_, wake) in listeners {
        wake.notify_one();
    }
    while let Some(word) = words.next().await? {
        let queue = word.get_channel_name().strip_suffix(":wake");
        for (_, wake) in listeners.iter().filter(|(name, _)| Some(name.as_str()) == queue) {
            wake.notify_one();
        }
    }
    Ok(())
}
