//! Listens for word that a job became due earlier than a worker knows of.
//!
//! One connection a process for all queues. A word that is lost costs a worker the second it waits
//! between two looks, nothing more.

use std::sync::Arc;

use futures_util::StreamExt;
use redis::RedisResult;
use tokio::sync::Notify;

use super::address::RedisAddress;
use super::connection::Pause;

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
    let mut subscription = address.client().await?.get_async_pubsub().await?;
    for (queue, _) in listeners {
        subscription.subscribe(format!("{queue}:wake")).await?;
    }
    // Whatever was said before now was not heard.
    for (_, wake) in listeners {
        wake.notify_one();
    }
    let mut words = subscription.on_message();
    while let Some(word) = words.next().await {
        let queue = word.get_channel_name().strip_suffix(":wake");
        for (_, wake) in listeners.iter().filter(|(name, _)| Some(name.as_str()) == queue) {
            wake.notify_one();
        }
    }
    Ok(())
}
