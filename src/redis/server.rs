//! Checks the configuration of Redis by `INFO` and `CONFIG GET`. A managed Redis may refuse either command.
//! A check that lacks its value then warns, and says what the operator has to verify.

use std::collections::HashMap;

use redis::aio::ConnectionLike;

use crate::check::Check;

const VERSION: &str = "redis-version";
const ROLE: &str = "redis-role";
const PERSISTENCE: &str = "redis-persistence";
const WRITES: &str = "redis-writes";
const EVICTION: &str = "redis-eviction";
const MEMORY: &str = "redis-memory";
/// Name of the check of the clock, which needs a measurement of its own and so is not in [`NAMES`].
pub(crate) const CLOCK: &str = "redis-clock";
/// Names of the checks that need only `INFO` and `CONFIG GET`, in their order.
pub(crate) const NAMES: [&str; 6] = [VERSION, ROLE, PERSISTENCE, WRITES, EVICTION, MEMORY];

const OLDEST: (u32, u32) = (6, 2);
/// Percent of `maxmemory` in use from which the check warns.
const NEARLY_FULL_PERCENT: u64 = 80;

/// The answer to `INFO`.
#[derive(Debug, Default)]
pub(crate) struct Info(HashMap<String, String>);

impl Info {
    pub(crate) fn parse(text: &str) -> Self {
        let fields = text.lines().filter(|line| !line.starts_with('#'));
        let fields = fields.filter_map(|line| line.trim_end().split_once(':'));
        Self(fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    pub(super) fn role(&self) -> Option<&str> {
        self.get("role")
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.parse().ok()
    }
}

/// Reads `appendfsync`. Returns `None` if this Redis does not allow `CONFIG GET`.
pub(crate) async fn appendfsync(connection: &mut impl ConnectionLike) -> Option<String> {
    let mut ask = redis::cmd("CONFIG");
    ask.arg("GET").arg("appendfsync");
    let answer: Vec<String> = ask.query_async(connection).await.ok()?;
    answer.into_iter().nth(1)
}

/// Returns all checks of [`NAMES`]. A check whose value cannot be read is a warning.
pub(crate) fn checks(info: Option<&Info>, appendfsync: Option<&str>) -> Vec<Check> {
    let nothing = Info::default();
    let judged = judge(info.unwrap_or(&nothing), appendfsync);
    let unknown = [
        ("the version", "it is 6.2 or newer"),
        ("the role", "it is a master and no replica"),
        ("`appendonly`", "it is `yes`, and `appendfsync` `always`"),
        ("the state of the last write", "the disk has room"),
        ("`maxmemory-policy`", "it is `noeviction`, or no job is safe"),
        ("the use of memory", "`maxmemory` is not nearly reached"),
    ];
    let checks = judged.into_iter().zip(NAMES).zip(unknown);
    checks.map(|((check, name), (what, sure))| check.unwrap_or_else(|| unread(name, what, sure))).collect()
}

/// Returns only the checks whose values could be read.
pub(crate) fn known(info: &Info, appendfsync: Option<&str>) -> Vec<Check> {
    let mut checks: Vec<Check> = judge(info, appendfsync).into_iter().flatten().collect();
    if appendfsync.is_none() && info.get("aof_enabled") == Some("1") {
        checks.retain(|check| check.name != PERSISTENCE);
    }
    checks
}

/// The checks in the order of [`NAMES`]; `None` for each check whose value could not be read.
fn judge(info: &Info, appendfsync: Option<&str>) -> [Option<Check>; NAMES.len()] {
    [version(info), role(info), persistence(info, appendfsync), writes(info), eviction(info), memory(info)]
}

fn unread(name: &'static str, what: &str, sure: &str) -> Check {
    Check::warn(name, format!("{what} cannot be read here"), format!("make sure that {sure}"))
}

fn version(info: &Info) -> Option<Check> {
    let text = info.get("redis_version")?;
    let mut parts = text.split('.').map_while(|part| part.parse().ok());
    let version: (u32, u32) = (parts.next()?, parts.next()?);
    Some(if version >= OLDEST {
        Check::ok(VERSION, format!("{}.{}, 6.2 or newer", version.0, version.1))
    } else {
        let found = format!("{}.{} is too old", version.0, version.1);
        Check::fail(VERSION, found, "install Redis 6.2 or newer: older ones do not know LPOP with a count")
    })
}

fn role(info: &Info) -> Option<Check> {
    Some(match info.role()? {
        "master" => Check::ok(ROLE, "master"),
        _ => Check::fail(ROLE, "a replica, which takes no writes", "set REDIS_URL to the current master"),
    })
}

fn persistence(info: &Info, appendfsync: Option<&str>) -> Option<Check> {
    if info.get("aof_enabled")? != "1" {
        return Some(Check::fail(
            PERSISTENCE,
            "`appendonly no`: orders are gone when Redis restarts",
            "set `appendonly yes` in redis.conf (`redis-cli CONFIG SET appendonly yes` until then)",
        ));
    }
    let set = "set `appendfsync always` in redis.conf (`redis-cli CONFIG SET appendfsync always` until then)";
    Some(match appendfsync {
        Some("always") => Check::ok(PERSISTENCE, "appendonly yes, appendfsync always"),
        Some("everysec") => Check::warn(PERSISTENCE, "appendfsync everysec can lose the last second", set),
        Some(_) => Check::warn(PERSISTENCE, "appendfsync no: a crash can lose the last half minute", set),
        None => Check::warn(
            PERSISTENCE,
            "appendonly yes; `appendfsync` cannot be read here",
            "make sure that it is `always`; `everysec` can lose the last second",
        ),
    })
}

fn writes(info: &Info) -> Option<Check> {
    let disk = "check the free space and the permissions of Redis's data folder, and its log";
    if info.get("aof_last_write_status").is_some_and(|status| status != "ok") {
        return Some(Check::fail(WRITES, "the last write to the append-only file failed", disk));
    }
    if info.get("aof_last_bgrewrite_status").is_some_and(|status| status != "ok") {
        let found = "the last rewrite of the append-only file failed: the file keeps growing";
        return Some(Check::warn(WRITES, found, disk));
    }
    Some(match info.get("rdb_last_bgsave_status")? {
        "ok" => Check::ok(WRITES, "the last writes to disk went well"),
        _ => Check::warn(WRITES, "the last snapshot failed: until one succeeds writes may be refused", disk),
    })
}

fn eviction(info: &Info) -> Option<Check> {
    let policy = info.get("maxmemory_policy")?;
    if policy == "noeviction" {
        return Some(Check::ok(EVICTION, "maxmemory-policy noeviction"));
    }
    let advice = "set `maxmemory-policy noeviction` in redis.conf \
                  (`redis-cli CONFIG SET maxmemory-policy noeviction` until then)";
    // The message repeats the text only if it can be the name of a policy.
    let plain = policy.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
    let policy = if plain { policy } else { "not noeviction" };
    Some(if info.number("maxmemory")? == 0 {
        let found = format!("maxmemory-policy {policy}; it does nothing as long as `maxmemory` is 0");
        Check::warn(EVICTION, found, advice)
    } else {
        let found = format!("maxmemory-policy {policy}: Redis deletes orders when memory runs short");
        Check::fail(EVICTION, found, advice)
    })
}

fn memory(info: &Info) -> Option<Check> {
    const MIB: u64 = 1 << 20;
    let (used, most) = (info.number("used_memory")?, info.number("maxmemory")?);
    if most == 0 {
        return Some(Check::ok(MEMORY, format!("{} MiB used, no limit set", used.div_ceil(MIB))));
    }
    let percent = used.saturating_mul(100) / most;
    let found = format!("{percent} % of {} MiB used", most.div_ceil(MIB));
    let advice = "raise `maxmemory`, or find out what fills it with `redis-cli --bigkeys`";
    Some(if percent < NEARLY_FULL_PERCENT {
        Check::ok(MEMORY, found)
    } else if percent < 100 {
        Check::warn(MEMORY, format!("{found}: once it is full, Redis refuses every new order"), advice)
    } else {
        Check::fail(MEMORY, format!("{found}: Redis refuses every new order"), advice)
    })
}

/// Compares the clock of Redis with this host's. A difference is only a warning, because leases depend on Redis alone.
pub(crate) fn clock(ahead_us: i64) -> Check {
    const NOTICED_US: u64 = 2_000_000;
    let difference_us = ahead_us.unsigned_abs();
    if difference_us < NOTICED_US {
        return Check::ok(CLOCK, "agrees with the clock of this host");
    }
    let side = if ahead_us > 0 { "ahead of" } else { "behind" };
    Check::warn(
        CLOCK,
        format!("{} s {side} the clock of this host", difference_us / 1_000_000),
        "keep both hosts on time by NTP. Orders and leases go by Redis, but `webhook-timestamp` goes by this host: \
         at a difference of 5 min receivers refuse the webhooks",
    )
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
