//! How Redis is set up, judged by what `INFO` and `CONFIG GET` say.
//!
//! A managed Redis may keep either to itself. Then no fault can be reported, and the words say what
//! to make sure of.

use std::collections::HashMap;

use redis::aio::ConnectionLike;

use crate::check::Check;

const VERSION: &str = "redis-version";
const ROLE: &str = "redis-role";
const PERSISTENCE: &str = "redis-persistence";
const WRITES: &str = "redis-writes";
const EVICTION: &str = "redis-eviction";
const MEMORY: &str = "redis-memory";
/// Asked apart from the others, and judged here.
pub(crate) const CLOCK: &str = "redis-clock";
/// The checks made of one reading, in their order.
pub(crate) const NAMES: [&str; 6] = [VERSION, ROLE, PERSISTENCE, WRITES, EVICTION, MEMORY];

const OLDEST: (u32, u32) = (6, 2);
/// Percent of `maxmemory` from which on it is time to do something.
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

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.parse().ok()
    }
}

/// `appendfsync` as it is set, unless this Redis does not let it be read.
pub(crate) async fn appendfsync(connection: &mut impl ConnectionLike) -> Option<String> {
    let mut ask = redis::cmd("CONFIG");
    ask.arg("GET").arg("appendfsync");
    let answer: Vec<String> = ask.query_async(connection).await.ok()?;
    answer.into_iter().nth(1)
}

/// Every check of this file.
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

/// Those checks of which the result is known.
pub(crate) fn known(info: &Info, appendfsync: Option<&str>) -> Vec<Check> {
    let mut checks: Vec<Check> = judge(info, appendfsync).into_iter().flatten().collect();
    if appendfsync.is_none() && info.get("aof_enabled") == Some("1") {
        checks.retain(|check| check.name != PERSISTENCE);
    }
    checks
}

/// In the order of [`NAMES`].
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
    Some(match info.get("role")? {
        "master" => Check::ok(ROLE, "master"),
        _ => Check::fail(
            ROLE,
            "a replica, which takes no writes",
            "set REDIS_URL to the master; after a failover, to the new one",
        ),
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
        Some("everysec") => Check::warn(
            PERSISTENCE,
            "appendonly yes, appendfsync everysec: a crash can lose the last second",
            set,
        ),
        Some(_) => Check::warn(
            PERSISTENCE,
            "appendonly yes, appendfsync no: a crash can lose the last half minute",
            set,
        ),
        None => Check::warn(
            PERSISTENCE,
            "appendonly yes; `appendfsync` cannot be read here",
            "make sure that it is `always`; `everysec` can lose the last second",
        ),
    })
}

fn writes(info: &Info) -> Option<Check> {
    let disk = "look at the free space and the permissions of Redis's data folder, and at its log";
    if info.get("aof_last_write_status").is_some_and(|status| status != "ok") {
        return Some(Check::fail(WRITES, "the last write to the append-only file failed", disk));
    }
    if info.get("aof_last_bgrewrite_status").is_some_and(|status| status != "ok") {
        let found = "the last rewrite of the append-only file failed: the file grows on";
        return Some(Check::warn(WRITES, found, disk));
    }
    Some(match info.get("rdb_last_bgsave_status")? {
        "ok" => Check::ok(WRITES, "the last writes to disk went well"),
        _ => Check::warn(
            WRITES,
            "the last snapshot failed: Redis may refuse every write until one succeeds",
            disk,
        ),
    })
}

fn eviction(info: &Info) -> Option<Check> {
    let policy = info.get("maxmemory_policy")?;
    if policy == "noeviction" {
        return Some(Check::ok(EVICTION, "maxmemory-policy noeviction"));
    }
    let advice = "set `maxmemory-policy noeviction` in redis.conf \
                  (`redis-cli CONFIG SET maxmemory-policy noeviction` until then)";
    // One of Redis's own words; anything else is not repeated.
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
    Some(if percent < NEARLY_FULL_PERCENT {
        Check::ok(MEMORY, found)
    } else {
        Check::warn(
            MEMORY,
            format!("{found}: once it is full, Redis refuses every new order"),
            "raise `maxmemory`, or find out what fills it with `redis-cli --bigkeys`",
        )
    })
}

/// How far the clock of Redis is ahead of this host's. Never a failure: leases go by the clock of Redis alone.
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
         from 5 min on receivers refuse the webhooks",
    )
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
