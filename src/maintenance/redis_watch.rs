//! Looks every few minutes whether Redis is set up so that it keeps the orders, and says where it is not.
//!
//! Nothing is refused for it: the order that waits is better tracked than not. The judgement is that of
//! `topup-worker doctor`, which says more.

use std::collections::HashMap;
use std::time::Duration;

use crate::check::{Check, Verdict};
use crate::redis::Connection;
use crate::redis::server::{self, Info};
use crate::shutdown::Shutdown;
use crate::telemetry::Metrics;

/// How often to look. Real time.
const INTERVAL: Duration = Duration::from_mins(5);

/// Watches how Redis is set up, see the module.
pub(crate) struct RedisWatch {
    connection: Connection,
    metrics: Metrics,
    /// What was found when it was last looked at.
    found: HashMap<&'static str, Verdict>,
}

impl RedisWatch {
    pub(crate) fn new(connection: Connection, metrics: Metrics) -> Self {
        Self { connection, metrics, found: HashMap::new() }
    }

    /// Looks until asked to stop.
    pub(crate) async fn run(mut self, shutdown: Shutdown) {
        loop {
            for check in self.look().await {
                self.note(&check);
            }
            tokio::select! {
                () = shutdown.requested() => return,
                () = tokio::time::sleep(INTERVAL) => {}
            }
        }
    }

    /// What Redis lets be known of its set-up; nothing where its user may not ask.
    async fn look(&self) -> Vec<Check> {
        let mut connection = self.connection.get();
        let Ok(info) = redis::cmd("INFO").query_async::<String>(&mut connection).await else {
            return Vec::new();
        };
        let appendfsync = server::appendfsync(&mut connection).await;
        server::known(&Info::parse(&info), appendfsync.as_deref())
    }

    /// Says what has changed.
    fn note(&mut self, check: &Check) {
        let is_ok = check.verdict == Verdict::Ok;
        self.metrics.redis_check(check.name, is_ok);
        let before = self.found.insert(check.name, check.verdict);
        if before == Some(check.verdict) {
            return;
        }
        match (is_ok, before) {
            (false, _) => tracing::warn!(
                check = check.name,
                found = check.found,
                advice = check.advice,
                "Redis is not set up so that it keeps every order"
            ),
            (true, Some(_)) => {
                tracing::info!(check = check.name, found = check.found, "Redis is set up right again");
            }
            (true, None) => {}
        }
    }
}
