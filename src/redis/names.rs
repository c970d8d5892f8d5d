//! Names of the project's keys in Redis. The queue of a job is the apalis queue `{topup}:<job>`. Its keys are named as
//! in `apalis_redis::Config`, such as `{topup}:poll-topup:active`; a test in `queue::scripts` checks that. The prefix
//! is a hash tag, so that all keys share a slot and a script works in Redis Cluster.

use topup_jobs::JobName;

/// The prefix of every key of one deployment, `{topup}` unless set otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    prefix: String,
}

/// The error for a prefix that is not one hash tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the prefix must be a name in braces like {{topup}}: that keeps all keys in one Redis Cluster slot")]
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

    /// For a job that tracks an order, returns the other queues in which that order's job may be; otherwise none.
    pub(crate) fn siblings(&self, job: JobName) -> Vec<String> {
        let tracking = JobName::TRACKING.contains(&job);
        let others = JobName::TRACKING.into_iter().filter(|other| tracking && *other != job);
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

    /// Counter of the rejected messages that were dropped because their number or size passed a limit.
    #[must_use]
    pub fn rejected_dropped(&self) -> String {
        format!("{}:rejected-dropped", self.prefix)
    }

    /// Stream of events, for producers that read events instead of receiving webhooks.
    #[must_use]
    pub fn events(&self) -> String {
        format!("{}:events", self.prefix)
    }

    /// Prefix of the keys of the budget of requests to the provider.
    #[must_use]
    pub fn budget(&self) -> String {
        format!("{}:budget", self.prefix)
    }

    /// Redis keys that, while they exist, pause requests with the API key of this fingerprint. The first three stop all
    /// requests, the last one only list pages and checks of the orders in the set `unknown`.
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

    /// Set of waiting orders that the provider's list showed as FULFILLED but without the complete card.
    #[must_use]
    pub(crate) fn details_missing(&self) -> String {
        format!("{}:details-missing", self.budget())
    }

    /// Version of the layout of all keys.
    #[must_use]
    pub(crate) fn layout_version(&self) -> String {
        format!("{}:layout", self.prefix)
    }

    /// Id of the database to which the jobs belong.
    #[must_use]
    pub(crate) fn store(&self) -> String {
        format!("{}:store", self.prefix)
    }

    /// Sorted set of the workers, each with the fingerprints of its encryption keys.
    #[must_use]
    pub(crate) fn keyrings(&self) -> String {
        format!("{}:keyrings", self.prefix)
    }

    /// Returns each fixed key name and its type. `fingerprints`, of the workers' API keys, occur in some names.
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

    /// Offset of the deployment's time from the clock of Redis.
    #[must_use]
    pub fn clock(&self) -> String {
        format!("{}:clock", self.prefix)
    }

    /// Start of a scaled clock, which all processes of a demo read so that they agree on the time.
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
