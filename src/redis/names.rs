//! Names of the project's keys in Redis.
//!
//! A job's queue is the apalis queue `{topup}:<job>`, so that its keys are `{topup}:poll-topup:active`
//! and so on, exactly as `apalis_redis::Config` names them (a test below holds the scripts to that).
//! The prefix is one hash tag: all keys share a slot, and a script works in Redis Cluster.

use topup_jobs::JobName;

/// The prefix of every key of one deployment, `{topup}` unless set otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    prefix: String,
}

/// The prefix cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the prefix must be a name in braces, for example {{topup}}: that keeps all keys in one slot of Redis Cluster"
)]
pub struct InvalidPrefix;

impl std::str::FromStr for Names {
    type Err = InvalidPrefix;

    fn from_str(prefix: &str) -> Result<Self, Self::Err> {
        let inner = prefix.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        match inner {
            Some(inner) if !inner.is_empty() && !inner.contains(['{', '}', ' ', '\n']) => {
                Ok(Self { prefix: prefix.to_owned() })
            }
            _ => Err(InvalidPrefix),
        }
    }
}

impl std::fmt::Display for Names {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.prefix)
    }
}

impl Names {
    /// The apalis queue of a job.
    #[must_use]
    pub fn queue(&self, job: JobName) -> String {
        format!("{}:{job}", self.prefix)
    }

    /// The other queues in which the same job may be: an order is tracked in one of two.
    pub(crate) fn siblings(&self, job: JobName) -> Vec<String> {
        let following = JobName::TRACKING.contains(&job);
        let others = JobName::TRACKING.into_iter().filter(|other| following && *other != job);
        others.map(|other| self.queue(other)).collect()
    }

    /// Stream into which producers put their messages.
    #[must_use]
    pub fn inbox(&self) -> String {
        format!("{}:inbox", self.prefix)
    }

    /// Stream of the messages that could not be accepted.
    #[must_use]
    pub fn rejected(&self) -> String {
        format!("{}:rejected", self.prefix)
    }

    /// How many rejected messages were dropped, since there were too many.
    #[must_use]
    pub fn rejected_dropped(&self) -> String {
        format!("{}:rejected-dropped", self.prefix)
    }

    /// Stream of outcomes, for producers who would rather read than receive.
    #[must_use]
    pub fn events(&self) -> String {
        format!("{}:events", self.prefix)
    }

    /// The budget of requests to the provider; all its keys begin with it.
    #[must_use]
    pub fn budget(&self) -> String {
        format!("{}:budget", self.prefix)
    }

    /// While one of these keys is there, no order is checked with the API key of this fingerprint.
    #[must_use]
    pub(crate) fn breakers(&self, key: &str) -> [String; 4] {
        let budget = self.budget();
        [
            format!("{budget}:breaker"),
            format!("{budget}:breaker:{key}"),
            format!("{budget}:refused:{key}"),
            format!("{budget}:mistrusted:{key}"),
        ]
    }

    /// Number of the layout of all keys.
    #[must_use]
    pub(crate) fn layout_version(&self) -> String {
        format!("{}:layout", self.prefix)
    }

    /// Id of the database that the jobs belong to.
    #[must_use]
    pub(crate) fn store(&self) -> String {
        format!("{}:store", self.prefix)
    }

    /// The workers and the fingerprints of their encryption keys.
    #[must_use]
    pub(crate) fn keyrings(&self) -> String {
        format!("{}:keyrings", self.prefix)
    }

    /// The queue of a job as apalis-redis wants it, for a Rust producer's `RedisStorage`.
    #[must_use]
    pub fn apalis_config(&self, job: JobName) -> apalis_redis::Config {
        apalis_redis::Config::default().queue(self.queue(job))
    }

    /// Every key of which the name is known beforehand, with the type that Redis must give it, for workers whose API keys
    /// have these fingerprints.
    #[must_use]
    pub(crate) fn layout(&self, fingerprints: &[&str]) -> Vec<(String, &'static str)> {
        const QUEUE: [(&str, &str); 5] = [
            ("active", "list"),
            ("scheduled", "zset"),
            ("data", "hash"),
            ("dead", "set"),
            ("workers", "zset"),
        ];
        const OF_API_KEY: [(&str, &str); 12] = [
            ("verified", "string"),
            ("refused", "string"),
            ("breaker", "string"),
            ("probe", "string"),
            ("knows", "string"),
            ("unknown", "set"),
            ("mistrusted", "string"),
            ("mistrust-rounds", "string"),
            ("mistrust-reported", "string"),
            ("next-slot-at", "string"),
            ("window-log", "zset"),
            ("in-flight", "zset"),
        ];
        const BUDGET: [(&str, &str); 23] = [
            ("breaker", "string"),
            ("half-open", "string"),
            ("probe", "string"),
            ("failures", "string"),
            ("failed-orders", "zset"),
            ("failing-since", "string"),
            ("breaker-reported", "string"),
            ("able-workers", "zset"),
            ("permit-number", "string"),
            ("waiting-new", "zset"),
            ("waiting-backlog", "zset"),
            ("new-since-backlog", "string"),
            ("eligible-at", "zset"),
            ("waiting-since", "hash"),
            ("completions", "hash"),
            ("created-at", "hash"),
            ("details-missing", "set"),
            ("seen-in-list", "zset"),
            ("list-state", "hash"),
            ("list-lock", "string"),
            ("list-reserved", "string"),
            ("list-served", "string"),
            ("list-disabled", "string"),
        ];
        let mut keys = vec![
            (self.inbox(), "stream"),
            (self.rejected(), "stream"),
            (self.rejected_dropped(), "string"),
            (self.events(), "stream"),
            (self.time_anchor(), "string"),
            (self.layout_version(), "string"),
            (self.store(), "string"),
            (self.keyrings(), "zset"),
            (self.clock(), "hash"),
        ];
        let budget = self.budget();
        keys.extend(BUDGET.map(|(key, kind)| (format!("{budget}:{key}"), kind)));
        for fingerprint in fingerprints {
            let of_key = |name: &str| format!("{budget}:{name}:{fingerprint}");
            keys.extend(OF_API_KEY.map(|(key, kind)| (of_key(key), kind)));
        }
        for job in JobName::ALL {
            let queue = self.queue(job);
            keys.extend(QUEUE.map(|(key, kind)| (format!("{queue}:{key}"), kind)));
        }
        keys
    }

    /// The time of the deployment, beside the clock of Redis.
    #[must_use]
    pub fn clock(&self) -> String {
        format!("{}:clock", self.prefix)
    }

    /// Where a scaled clock began, so that all processes of a demo agree on the time.
    #[must_use]
    pub fn time_anchor(&self) -> String {
        format!("{}:time-anchor", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_is_one_hash_tag() {
        assert_eq!("{topup}".parse::<Names>().unwrap().queue(JobName::PollTopup), "{topup}:poll-topup");
        for bad in ["topup", "{}", "{a}{b}", "{a}:b", "", "{a b}"] {
            assert_eq!(bad.parse::<Names>(), Err(InvalidPrefix), "{bad}");
        }
    }
}
