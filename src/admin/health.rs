//! Readiness of the process, for `/readyz`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::maintenance::store_watch::StoreHealth;
use crate::rate_limit::Standing;
use crate::redis::RedisHealth;
use crate::shutdown::Shutdown;

#[derive(Debug, Clone)]
pub(crate) struct Health {
    redis: RedisHealth,
    store: StoreHealth,
    started: Arc<AtomicBool>,
}

impl Health {
    #[must_use]
    pub(crate) fn new(redis: RedisHealth) -> Self {
        Self { redis, store: StoreHealth::default(), started: Arc::default() }
    }

    /// The handle through which the database's health is recorded.
    #[must_use]
    pub(crate) fn store(&self) -> StoreHealth {
        self.store.clone()
    }

    pub(crate) fn started(&self) {
        self.started.store(true, Ordering::Relaxed);
    }

    /// `Err` says in words why this worker is not ready. `standing` says whether the provider refuses the worker.
    pub(crate) fn ready(&self, shutdown: &Shutdown, standing: &Standing) -> Result<(), String> {
        if shutdown.is_requested() {
            Err("stopping".to_owned())
        } else {
            // Checked before `started`, so that a starting worker reports which of Redis and the database it waits for.
            self.redis.check()?;
            self.store.check()?;
            if !self.started.load(Ordering::Relaxed) {
                return Err("starting".to_owned());
            }
            standing.refusal().map_or(Ok(()), Err)
        }
    }
}
