//! Listens on the channel `:wake` of each queue, on one connection. A message means that a job is due earlier than the
//! claim task knows, and wakes this task. If a message is lost, the job waits until the next heartbeat.

use std::sync::Arc;

use redis::{ErrorKind, RedisResult, ServerErrorKind};
use tokio::sync::Notify;

use crate::redis::{Backoff, RedisAddress, Subscription, describe};

/// The name of a queue, and the notifier that wakes its claim task.
pub(super) type Listener = (String, Arc<Notify>);

pub(super) async fn listen(address: RedisAddress, listeners: Vec<Listener>) {
    let (mut backoff, mut refused) = (Backoff::new(), false);
    loop {
        match listen_once(&address, &listeners).await {
            Ok(()) => (backoff, refused) = (Backoff::new(), false),
            // Only this error is logged: others are outages, which the commands of the queues log.
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm) => {
                if !std::mem::replace(&mut refused, true) {
                    let error = describe(&error);
                    tracing::warn!(
                        error,
                        "Redis does not permit this worker to subscribe to news of new jobs; jobs start up to 3 s late"
                    );
                }
            }
            Err(_) => {}
        }
        backoff.wait().await;
    }
}

async fn listen_once(address: &RedisAddress, listeners: &[Listener]) -> RedisResult<()> {
    let connecting = async { address.client().await?.get_async_pubsub().await };
    let channels: Vec<_> = listeners.iter().map(|(queue, _)| format!("{queue}:wake")).collect();
    let mut words = Subscription::start(connecting, &channels).await?;
    // Messages before this subscription may have been missed, so each claim task is woken once.
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
