//! Whether Redis can be used, judged by the commands of all tasks of this process. A change is logged once.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::{ErrorKind, RedisError, ServerErrorKind};
use tokio::time::Instant;

use super::refusal::{describe, is_read_only, stops_work};

/// Minimum interval between two log lines about the same refusal.
const REFUSAL_LOGGED_EVERY: Duration = Duration::from_secs(30);
/// How long a refused command that jobs need makes a worker unready: longer than the pause until the next try.
const REFUSAL_LASTS: Duration = Duration::from_secs(5);

/// Whether Redis answers and accepts commands. Clones share this state.
#[derive(Debug, Clone, Default)]
pub struct RedisHealth {
    down: Arc<AtomicBool>,
    /// Whether a refused login has been logged since Redis last answered.
    login_refused: Arc<AtomicBool>,
    refusals: Arc<Mutex<Refusals>>,
}

/// Refusals of commands by a reachable Redis.
#[derive(Debug, Default)]
struct Refusals {
    /// When each refusal was last logged, by its description.
    logged: HashMap<String, Instant>,
    /// When Redis last refused a command that jobs need.
    stopped: Option<Instant>,
}

impl RedisHealth {
    /// Checks that Redis answers, and that it refuses no command that jobs need.
    ///
    /// # Errors
    /// The reason why Redis cannot be used.
    pub fn check(&self) -> Result<(), &'static str> {
        let stopped = self.refusals.lock().unwrap_or_else(PoisonError::into_inner).stopped;
        if self.down.load(Ordering::Relaxed) {
            Err("Redis does not answer")
        } else if stopped.is_some_and(|at| at.elapsed() < REFUSAL_LASTS) {
            Err("Redis refuses commands")
        } else {
            Ok(())
        }
    }

    pub(super) fn answered(&self) {
        if self.down.swap(false, Ordering::Relaxed) {
            self.login_refused.store(false, Ordering::Relaxed);
            tracing::info!("Redis answers again");
        }
    }

    pub(super) fn failed(&self, error: &RedisError, is_needed: bool) {
        let words = describe(error);
        match error.kind() {
            // `down` logs only the first error of an outage, so a login that is then refused is logged here.
            ErrorKind::AuthenticationFailed if self.down.load(Ordering::Relaxed) => {
                if !self.login_refused.swap(true, Ordering::Relaxed) {
                    tracing::error!(error = words, "Redis refuses the login of this worker; trying again");
                }
            }
            _ if stops_work(error) => self.refused(words, true),
            _ if is_read_only(error) => self.down(&words),
            // Redis is reachable but refuses a command. This is not an outage, but must be logged.
            ErrorKind::Server(ServerErrorKind::ResponseError) | ErrorKind::Extension => {
                self.refused(words, is_needed);
            }
            _ => self.down(&words),
        }
    }

    fn refused(&self, words: String, stops_work: bool) {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        refusals.logged.retain(|_, logged| logged.elapsed() < REFUSAL_LOGGED_EVERY);
        if let Entry::Vacant(vacant) = refusals.logged.entry(words) {
            tracing::error!(error = vacant.key(), "Redis refuses a command; trying again");
            vacant.insert(Instant::now());
        }
        if stops_work {
            refusals.stopped = Some(Instant::now());
        }
    }

    fn down(&self, why: &str) {
        if !self.down.swap(true, Ordering::Relaxed) {
            tracing::warn!(error = why, "Redis does not answer; trying again until it does");
        }
    }
}

/// Since when Redis has answered every heartbeat, as the same server as far as known. A worker asks this before it
/// presumes other workers dead, because after an interruption they need time to report again.
#[derive(Debug, Default)]
pub(crate) struct StableSince {
    since: Option<Instant>,
}

impl StableSince {
    pub(crate) fn answered(&mut self) {
        self.since.get_or_insert_with(Instant::now);
    }

    pub(crate) fn interrupted(&mut self) {
        self.since = None;
    }

    pub(crate) fn lasts_for(&self, duration: Duration) -> bool {
        self.since.is_some_and(|since| since.elapsed() >= duration)
    }
}

#[cfg(test)]
mod tests {
    use redis::{ServerError, Value};

    use super::*;

    #[test]
    fn an_unknown_refusal_stops_a_worker_only_if_jobs_need_the_command() {
        let Value::ServerError(error) =
            redis::parse_redis_value(b"-ERR the plan allows no more\r\n").unwrap()
        else {
            panic!("it is an error");
        };
        let (error, health) = (ServerError::into(error), RedisHealth::default());
        health.failed(&error, false);
        assert_eq!(health.check(), Ok(()));
        health.failed(&error, true);
        assert_eq!(health.check(), Err("Redis refuses commands"));
    }
}
