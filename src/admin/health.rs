//! Whether the process can work now.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::maintenance::store_watch::StoreHealth;
use crate::rate_limit::Standing;
use crate::redis::RedisHealth;
use crate::shutdown::Shutdown;

/// What `/readyz` tells.
#[derive(Debug, Clone)]
pub(crate) struct Health {
    redis: RedisHealth,
    store: StoreHealth,
    started: Arc<AtomicBool>,
}

impl Health {
    /// A process that is starting.
    #[must_use]
    pub(crate) fn new(redis: RedisHealth) -> Self {
        Self { redis, store: StoreHealth::default(), started: Arc::default() }
    }

    /// Where it is noted whether the database answers.
    #[must_use]
    pub(crate) fn store(&self) -> StoreHealth {
        self.store.clone()
    }

    /// Everything is set up.
    pub(crate) fn started(&self) {
        self.started.store(true, Ordering::Relaxed);
    }

    /// Whether it can, with the provider's word on this worker.
    ///
    /// # Errors
    /// Why not, in words.
    pub(crate) fn ready(&self, shutdown: &Shutdown, standing: &Standing) -> Result<(), String> {
        if shutdown.is_requested() {
            Err("stopping".to_owned())
        } else {
            // A worker that starts waits for both, too.
            self.redis.check()?;
            self.store.check()?;
            if !self.started.load(Ordering::Relaxed) {
                return Err("starting".to_owned());
            }
            standing.refusal().map_or(Ok(()), Err)
        }
    }
}
