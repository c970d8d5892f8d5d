//! Checks every few minutes whether Redis is set up to keep every order, and logs what is wrong. Checks every few
//! seconds whether the server has become a replica. A replica must not be used, so the worker connects again.
//!
//! After any other failed check the worker continues, because tracking an order at a risk is better than letting it
//! wait. The command `topup-worker doctor` makes these checks and more.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::interval;

use crate::check::{Check, Verdict};
use crate::redis::Connection;
use crate::redis::server::{self, Info};
use crate::shutdown::Shutdown;
use crate::telemetry::Metrics;

/// Interval of the rounds of checks, in real time.
const INTERVAL: Duration = Duration::from_mins(5);
/// Interval at which the role of the server is checked, in real time.
const ROLE_INTERVAL: Duration = Duration::from_secs(15);

pub(crate) struct RedisWatch {
    connection: Connection,
    metrics: Metrics,
    /// The last result of each check, by its name.
    found: HashMap<&'static str, Verdict>,
}

impl RedisWatch {
    pub(crate) fn new(connection: Connection, metrics: Metrics) -> Self {
        Self { connection, metrics, found: HashMap::new() }
    }

    pub(crate) async fn run(mut self, shutdown: Shutdown) {
        let (mut rounds, mut role) = (interval(INTERVAL), interval(ROLE_INTERVAL));
        let mut tells_role = true;
        loop {
            tokio::select! {
                () = shutdown.requested() => return,
                _ = role.tick(), if tells_role => tells_role = self.connection.leave_replica().await,
                _ = rounds.tick() => {
                    tells_role = true;
                    for check in self.look().await {
                        self.note(&check);
                    }
                }
            }
        }
    }

    /// Makes the checks whose data this Redis user may read: no checks at all if it may not run `INFO`.
    async fn look(&self) -> Vec<Check> {
        let mut connection = self.connection.get();
        let Ok(info) = redis::cmd("INFO").query_async::<String>(&mut connection).await else {
            return Vec::new();
        };
        let appendfsync = server::appendfsync(&mut connection).await;
        server::known(&Info::parse(&info), appendfsync.as_deref())
    }

    /// Sets the metric of a check, and logs the result if it has changed.
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
                "Redis failed a check of its set-up and may lose orders"
            ),
            (true, Some(_)) => {
                tracing::info!(check = check.name, found = check.found, "Redis passes this check again");
            }
            (true, None) => {}
        }
    }
}
