use super::*;
use crate::check::Verdict::{self, Fail, Ok, Warn};

const HEALTHY: &str = "# Server\r\nredis_version:7.0.15\r\nrole:master\r\naof_enabled:1\r\n\
    aof_last_write_status:ok\r\naof_last_bgrewrite_status:ok\r\nrdb_last_bgsave_status:ok\r\n\
    maxmemory_policy:noeviction\r\nmaxmemory:0\r\nused_memory:1075568\r\n";

/// Returns the verdicts on a healthy Redis in which these fields were changed.
fn verdicts(changes: &[(&str, &str)], appendfsync: Option<&str>) -> Vec<(&'static str, Verdict)> {
    let mut info = Info::parse(HEALTHY);
    for (name, value) in changes {
        info.0.insert((*name).to_owned(), (*value).to_owned());
    }
    let checks = checks(Some(&info), appendfsync);
    assert!(checks.iter().all(|check| check.advice.is_some() == (check.verdict != Ok)), "{checks:?}");
    checks.into_iter().map(|check| (check.name, check.verdict)).collect()
}

#[test]
fn a_healthy_redis_passes_every_check() {
    assert_eq!(verdicts(&[], Some("always")), NAMES.map(|name| (name, Ok)));
}

#[test]
fn each_fault_is_reported_by_its_own_check_alone() {
    for (changes, appendfsync, name, verdict) in [
        (&[("redis_version", "6.0.16")][..], "always", VERSION, Fail),
        (&[("redis_version", "5.9")], "always", VERSION, Fail),
        (&[("redis_version", "next")], "always", VERSION, Warn),
        (&[("role", "slave")], "always", ROLE, Fail),
        (&[("aof_enabled", "0")], "always", PERSISTENCE, Fail),
        (&[], "everysec", PERSISTENCE, Warn),
        (&[], "no", PERSISTENCE, Warn),
        (&[("aof_last_write_status", "err")], "always", WRITES, Fail),
        (&[("aof_last_bgrewrite_status", "err")], "always", WRITES, Warn),
        (&[("rdb_last_bgsave_status", "err")], "always", WRITES, Warn),
        (&[("maxmemory_policy", "allkeys-lru")], "always", EVICTION, Warn),
        (&[("maxmemory_policy", "allkeys-lru"), ("maxmemory", "104857600")], "always", EVICTION, Fail),
        (&[("maxmemory", "1344460")], "always", MEMORY, Warn),
        (&[("maxmemory", "1075568")], "always", MEMORY, Fail),
    ] {
        let found = verdicts(changes, Some(appendfsync));
        let expected = NAMES.map(|known| (known, if known == name { verdict } else { Ok }));
        assert_eq!(found, expected, "{changes:?} {appendfsync}");
    }
    for (version, verdict) in [("6.2.0", Ok), ("10.0", Ok), ("7.2.4", Ok)] {
        assert_eq!(
            verdicts(&[("redis_version", version)], Some("always"))[0],
            (VERSION, verdict),
            "{version}"
        );
    }
    assert_eq!(verdicts(&[("maxmemory", "1344461")], Some("always"))[5], (MEMORY, Ok), "79 %");
}

#[test]
fn a_value_that_cannot_be_read_is_a_warning_with_advice() {
    let found = checks(None, None);
    assert_eq!(found.iter().map(|check| check.name).collect::<Vec<_>>(), NAMES);
    assert!(found.iter().all(|check| check.verdict == Warn && check.found.contains("cannot be read here")));
    assert_eq!(verdicts(&[], None)[2], (PERSISTENCE, Warn));
}

#[test]
fn a_clock_two_seconds_off_is_a_warning_and_never_a_failure() {
    assert_eq!(clock(1_999_999).verdict, Ok);
    assert_eq!(clock(-2_000_000).found, "2 s behind the clock of this host");
    assert_eq!(clock(i64::MAX).verdict, Warn);
}

#[test]
fn a_worker_reports_only_checks_that_could_be_read() {
    let verdicts = |text: &str, appendfsync| {
        let checks = known(&Info::parse(text), appendfsync);
        checks.into_iter().map(|check| (check.name, check.verdict)).collect::<Vec<_>>()
    };
    assert_eq!(verdicts("", Some("always")), []);
    let without_persistence: Vec<_> = NAMES.into_iter().filter(|name| *name != PERSISTENCE).collect();
    assert_eq!(
        verdicts(HEALTHY, None),
        without_persistence.iter().map(|name| (*name, Ok)).collect::<Vec<_>>()
    );
    assert_eq!(verdicts("aof_enabled:0", None), [(PERSISTENCE, Fail)]);
    assert_eq!(verdicts("aof_enabled:1", Some("everysec")), [(PERSISTENCE, Warn)]);
}
