//! `topup-worker doctor` reports problems with advice, changes nothing and shows no secret.

use std::time::Duration;

use serde_json::Value;
use tokio::net::TcpListener;
use topup_jobs::OrderStatus;
use topup_worker::simulator::Script;

use crate::support::redis::free_port;
use crate::support::{Bed, ENCRYPTION_KEY, SECRET};

mod postgres;

const REDIS_PASSWORD: &str = "redis-password-of-mine";
const OTHER_KEY: &str = "ffeeddccbbaa99887766554433221100ffeeddccbbaa99887766554433221100";
const WEBHOOK_TOKEN: &str = "token-of-mine";

/// The exit code and the checks of a JSON report.
struct Report {
    code: Option<i32>,
    checks: Vec<Value>,
}

impl Report {
    /// Names and verdicts of the checks that are not `ok`.
    fn not_ok(&self) -> Vec<(&str, &str)> {
        let verdicts = self.checks.iter().map(verdict);
        verdicts.filter(|(_, verdict)| *verdict != "ok").collect()
    }

    /// The finding and the advice of this check.
    fn words(&self, name: &str) -> String {
        let check = self.checks.iter().find(|check| check["name"] == name).expect("the check is reported");
        format!("{} → {}", check["found"].as_str().unwrap(), check["advice"].as_str().unwrap_or_default())
    }
}

fn verdict(check: &Value) -> (&str, &str) {
    (check["name"].as_str().unwrap(), check["verdict"].as_str().unwrap())
}

/// Asserts that neither form of the report has a secret in it.
fn assert_discreet(printed: &str) {
    for secret in
        [ENCRYPTION_KEY, OTHER_KEY, SECRET, "sandbox-key", "wrong-key", REDIS_PASSWORD, WEBHOOK_TOKEN]
    {
        assert!(!printed.contains(secret), "{secret} is in:\n{printed}");
    }
}

async fn print(bed: &Bed, args: &[&str]) -> (Option<i32>, String) {
    let output = bed.program_async(&[&["doctor"], args].concat()).await;
    let printed = String::from_utf8(output.stdout).unwrap();
    assert_discreet(&printed);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "nothing is printed outside the report");
    (output.status.code(), printed)
}

async fn doctor(bed: &Bed) -> Report {
    let (code, printed) = print(bed, &["--json"]).await;
    let mut report: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(report["ok"], code == Some(0), "{printed}");
    let Value::Array(checks) = report["checks"].take() else { panic!("{printed}") };
    for check in &checks {
        let (name, verdict) = verdict(check);
        let advised = check["advice"].as_str().is_some_and(|advice| !advice.is_empty());
        assert_eq!(advised, matches!(verdict, "warn" | "fail"), "{name}");
    }
    Report { code, checks }
}

/// A bed whose database has its tables, all of them empty.
async fn bed() -> Bed {
    let bed = Bed::new(1.0).await;
    drop(bed.store().await);
    bed
}

/// Has the doctor connect to Redis as a user with these ACL rules.
async fn log_in(bed: &mut Bed, rules: &[&str]) {
    let password = format!(">{REDIS_PASSWORD}");
    let set = ["ACL", "SETUSER", "worker", "reset", "on", &password];
    let _: String = bed.redis(&[&set, rules].concat()).await;
    let address = bed.redis.url().replace("redis://", &format!("redis://worker:{REDIS_PASSWORD}@"));
    bed.set("REDIS_URL", address);
}

/// The report without the values that differ from run to run.
fn steady(report: &str) -> String {
    let (checks, settings) = report.split_once("settings as `run` uses them").expect("it has settings");
    let lines = checks.lines().chain(settings.lines().last()).map(|line| {
        if line.contains("redis-version") {
            return line.split(" 6.2").next().unwrap_or(line).rsplit_once(' ').unwrap().0.to_owned()
                + " N, 6.2 or newer";
        }
        let words: Vec<_> = line.split(' ').collect();
        let unit = |at: usize| words.get(at + 1).is_some_and(|next| next.starts_with("ms") || *next == "MiB");
        let steady = |(at, word): (usize, &&str)| match *word {
            number if unit(at) && number.parse::<f64>().is_ok() => "N".to_owned(),
            file if file.ends_with("/orders.db") => "/data/orders.db".to_owned(),
            word => word.to_owned(),
        };
        words.iter().enumerate().map(steady).collect::<Vec<_>>().join(" ")
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn a_healthy_set_up_passes_every_check_and_is_not_changed() {
    let bed = bed().await;
    let (code, printed) = print(&bed, &[]).await;
    assert_eq!(code, Some(0), "{printed}");
    insta::assert_snapshot!(steady(&printed));
    let keys: Vec<String> = bed.redis(&["KEYS", "*"]).await;
    assert_eq!(keys, [""; 0]);
    assert_eq!(bed.sink.received().len(), 0);
    assert_eq!(bed.simulator.total_calls(), 1);
}

#[tokio::test]
async fn settings_are_shown_with_their_source_and_without_secrets() {
    let mut bed = bed().await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "RETENTION_DAYS='90'\nCONCURRENCY=7\n").unwrap();
    bed.set("CONCURRENCY", " 9 ");
    let file = file.path().to_str().unwrap();
    let (_, printed) = print(&bed, &["--env-file", file, "--poll-strategy", "fixed"]).await;
    let printed = printed.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    for line in [
        "CONCURRENCY 9 (environment)",
        "RETENTION_DAYS 90 (file)",
        "POLL_STRATEGY fixed (flag)",
        "TOPUP_PREFIX {topup} (default)",
        "ENCRYPTION_KEY set (environment)",
        "ONECLICKDZ_API_KEY set (environment)",
        &format!("REDIS_URL {}/… (environment)", bed.redis.url().trim_end_matches('/')),
    ] {
        assert!(printed.contains(line), "{line} in {printed}");
    }
    let (_, printed) = print(&bed, &["--json", "--env-file", file]).await;
    let report: Value = serde_json::from_str(&printed).unwrap();
    let settings = report["settings"].as_array().unwrap();
    let of = |name: &str| settings.iter().find(|setting| setting["name"] == name).unwrap();
    assert_eq!(
        (&of("RETENTION_DAYS")["value"], &of("RETENTION_DAYS")["from"]),
        (&"90".into(), &"file".into())
    );
    assert_eq!(of("WEBHOOK_SECRET")["value"], "set");
}

#[tokio::test]
async fn an_inbox_under_the_key_prefix_of_a_redis_client_is_reported() {
    let bed = bed().await;
    let sent = ["name", "poll-topup", "data", "{}"];
    for inbox in ["{topup}:inbox", "{other}:inbox", "laravel_database_{topup}:inbox"] {
        let _: String = bed.redis(&[&["XADD", inbox, "*"], &sent[..]].concat()).await;
    }
    let _: String = bed.redis(&["SET", "cache:{topup}:inbox", "no stream"]).await;
    let found = doctor(&bed).await;
    assert_eq!(found.not_ok(), [("redis-inbox", "fail")]);
    let words = found.words("redis-inbox");
    assert!(
        words.contains("a producer sends to laravel_database_{topup}:inbox, which no worker reads"),
        "{words}"
    );
    assert!(words.contains("have it send to {topup}:inbox over a connection without one"), "{words}");
}

#[tokio::test]
async fn the_text_and_the_json_report_agree() {
    let bed = bed().await;
    let _: String = bed.redis(&["CONFIG", "SET", "appendonly", "no"]).await;
    let _: i64 = bed.redis(&["SADD", "{topup}:recheck-topup:dead", "6901616fe9e88196b4eb64b2"]).await;
    let found = doctor(&bed).await;
    let (code, printed) = print(&bed, &[]).await;
    assert_eq!((found.code, code), (Some(1), Some(1)));
    let lines = printed.lines().filter(|line| !line.starts_with(' ') && !line.starts_with("settings as"));
    let lines: Vec<_> = lines.map(|line| line.split_whitespace().take(2).collect::<Vec<_>>()).collect();
    let (sum, lines) = lines.split_last().unwrap();
    let json: Vec<_> = found.checks.iter().map(verdict).collect();
    assert_eq!(lines.iter().map(|line| (line[1], line[0])).collect::<Vec<_>>(), json);
    let all_right = json.iter().filter(|(_, verdict)| *verdict == "ok").count();
    assert_eq!(sum[0], all_right.to_string());
    assert_eq!(found.not_ok(), [("redis-persistence", "fail"), ("redis-queues", "warn")]);
    assert!(found.words("redis-queues").contains("list them with `topup-worker dead-letters`;"));
}

#[tokio::test]
async fn an_unreachable_redis_does_not_hide_other_problems() {
    let mut bed = bed().await;
    bed.redis.kill().await;
    bed.set("ONECLICKDZ_API_KEY", "wrong-key");
    let found = doctor(&bed).await;
    assert_eq!(found.code, Some(1));
    assert!(found.words("redis").contains("nothing listens there"), "{}", found.words("redis"));
    let not_ok = found.not_ok();
    assert_eq!((not_ok[0], not_ok[not_ok.len() - 1]), (("redis", "fail"), ("provider", "fail")));
    let skipped = &not_ok[1..not_ok.len() - 1];
    assert!(skipped.len() > 8, "{skipped:?}");
    assert!(
        skipped.iter().all(|(name, verdict)| name.starts_with("redis-") && *verdict == "skip"),
        "{skipped:?}"
    );
}

#[tokio::test]
async fn a_redis_that_may_lose_orders_is_reported() {
    let bed = bed().await;
    for (set, back, name, verdict, words) in [
        (
            ["maxmemory-policy", "allkeys-lru"],
            ["maxmemory-policy", "noeviction"],
            "redis-eviction",
            "warn",
            "maxmemory",
        ),
        (["appendonly", "no"], ["appendonly", "yes"], "redis-persistence", "fail", "appendonly yes"),
        (["appendfsync", "everysec"], ["appendfsync", "always"], "redis-persistence", "warn", "last second"),
        (["maxmemory", "2gb"], ["maxmemory", "0"], "", "", ""),
    ] {
        let _: String = bed.redis(&["CONFIG", "SET", set[0], set[1]]).await;
        let found = doctor(&bed).await;
        if name.is_empty() {
            assert_eq!(found.not_ok(), []);
        } else {
            assert_eq!(found.not_ok(), [(name, verdict)]);
            assert!(found.words(name).contains(words), "{}", found.words(name));
        }
        assert_eq!(found.code, Some(i32::from(verdict == "fail")));
        let _: String = bed.redis(&["CONFIG", "SET", back[0], back[1]]).await;
    }
    let _: String = bed.redis(&["CONFIG", "SET", "maxmemory", "2gb"]).await;
    let _: String = bed.redis(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]).await;
    assert_eq!(doctor(&bed).await.not_ok(), [("redis-eviction", "fail")]);
}

#[tokio::test]
async fn a_redis_replica_is_reported() {
    let bed = bed().await;
    let _: String = bed.redis(&["REPLICAOF", "127.0.0.1", "1"]).await;
    let found = doctor(&bed).await;
    assert_eq!((found.code, found.not_ok()), (Some(1), vec![("redis-role", "fail")]));
    assert!(found.words("redis-role").contains("the current master"));
}

#[tokio::test]
async fn a_redis_that_rejects_writes_for_lack_of_replicas_is_reported() {
    let bed = bed().await;
    let _: String = bed.redis(&["CONFIG", "SET", "min-replicas-to-write", "1"]).await;
    let found = doctor(&bed).await;
    assert_eq!((found.code, found.not_ok()), (Some(1), vec![("redis-permissions", "fail")]));
    let words = found.words("redis-permissions");
    assert!(words.contains("fewer replicas than `min-replicas-to-write`"), "{words}");
}

#[tokio::test]
async fn missing_permissions_of_the_redis_user_are_reported() {
    let mut bed = bed().await;
    let everything = ["~{topup}:*", "&{topup}:*", "+@all"];

    log_in(&mut bed, &everything).await;
    assert_eq!(doctor(&bed).await.not_ok(), []);

    log_in(&mut bed, &[&everything[..], &["-xdel", "-script|load"]].concat()).await;
    let found = doctor(&bed).await;
    assert_eq!((found.code, found.not_ok()), (Some(1), vec![("redis-permissions", "fail")]));
    let words = found.words("redis-permissions");
    assert!(words.contains("may not run script|load, xdel"), "{words}");
    assert!(words.contains("'+script|load' '+xdel'"), "{words}");

    log_in(&mut bed, &["~{topup}:*-topup:*", "&{topup}:poll-topup:*", "+@all"]).await;
    let words = doctor(&bed).await.words("redis-permissions");
    assert!(words.contains("the keys {topup}:budget:able-workers, ") && words.contains(" more"), "{words}");
    assert!(words.contains("may not use the channels"), "{words}");
}

#[tokio::test]
async fn permissions_that_cannot_be_read_are_tried_on_a_key_of_the_doctor() {
    let mut bed = bed().await;
    let managed = ["~{topup}:*", "&{topup}:*", "+@all", "-@admin", "-@dangerous"];

    log_in(&mut bed, &managed).await;
    let found = doctor(&bed).await;
    // A check that cannot be read is a warning, not a failure.
    let unread = ["version", "role", "persistence", "writes", "eviction", "memory"];
    let unread = unread.map(|name| (format!("redis-{name}"), "warn"));
    let expected: Vec<_> = unread.iter().map(|(name, verdict)| (name.as_str(), *verdict)).collect();
    assert_eq!((found.code, found.not_ok()), (Some(0), expected));
    assert!(found.words("redis-permissions").contains("tried on a key of its own"));

    log_in(&mut bed, &[&managed[..], &["-spop", "-hincrby"]].concat()).await;
    let words = doctor(&bed).await.words("redis-permissions");
    assert!(words.contains("may not run hincrby, spop") && words.contains("'+hincrby' '+spop'"), "{words}");

    // The doctor writes no key that its user may not delete.
    log_in(&mut bed, &[&managed[..], &["-del"]].concat()).await;
    let words = doctor(&bed).await.words("redis-permissions");
    assert!(words.contains("may not run del "), "{words}");

    log_in(&mut bed, &[&managed[..], &["-evalsha"]].concat()).await;
    assert!(doctor(&bed).await.words("redis-permissions").contains("may not run evalsha "));

    let everywhere_but = |own: &'static str| {
        ["~{topup}:*-topup:*", "~{topup}:notify-customer:*", own, "&*", "+@all", "-@admin", "-@dangerous"]
    };
    log_in(&mut bed, &everywhere_but("~{topup}:budget:*")).await;
    let found = doctor(&bed).await;
    let words = found.words("redis-permissions");
    assert!(words.contains("may not use the keys {topup}:") && words.contains("'~{topup}:*'"), "{words}");
    assert_eq!(found.code, Some(1));

    let read_only = ["%R~{topup}:*", "&*", "+@all", "-@admin", "-@dangerous"];
    log_in(&mut bed, &read_only).await;
    let found = doctor(&bed).await;
    let words = found.words("redis-permissions");
    assert!(words.contains("may not use the keys {topup}:") && found.code == Some(1), "{words}");

    // A user with access to the keys of the service only cannot use the doctor's own key, so nothing can be tried.
    log_in(&mut bed, &everywhere_but("~{topup}:[^d]*")).await;
    let found = doctor(&bed).await;
    let words = found.words("redis-permissions");
    assert!(words.contains("cannot be tried") && found.code == Some(0), "{words}");

    let keys: Vec<String> = bed.redis(&["KEYS", "*"]).await;
    assert_eq!(keys, [""; 0]);
}

#[tokio::test]
async fn a_wrong_redis_password_is_reported_and_not_shown() {
    let mut bed = bed().await;
    log_in(&mut bed, &["~*", "&*", "+@all"]).await;
    let _: String = bed.redis(&["ACL", "SETUSER", "worker", "resetpass", ">another"]).await;
    let words = doctor(&bed).await.words("redis");
    assert!(words.contains("the user or the password was refused"), "{words}");

    bed.set("REDIS_URL", bed.redis.url());
    let _: String = bed.redis(&["CONFIG", "SET", "requirepass", REDIS_PASSWORD]).await;
    let words = doctor(&bed).await.words("redis");
    assert!(words.contains("requires a password"), "{words}");
}

#[tokio::test]
async fn a_wrong_api_key_costs_one_refused_request() {
    let mut bed = bed().await;
    bed.set("ONECLICKDZ_API_KEY", "wrong-key");
    let found = doctor(&bed).await;
    assert_eq!((found.code, found.not_ok()), (Some(1), vec![("provider", "fail")]));
    let words = found.words("provider");
    assert!(words.contains("401 INVALID_ACCESS_TOKEN") && words.contains("five block"), "{words}");
    assert_eq!(bed.simulator.total_calls(), 1);
}

#[tokio::test]
async fn no_request_to_the_provider_is_made_while_the_breaker_is_open() {
    let mut bed = bed().await;
    bed.set("ONECLICKDZ_API_KEY", "wrong-key");
    let _: String = bed.redis(&["SET", "{topup}:budget:breaker", "1", "PX", "600000"]).await;
    let found = doctor(&bed).await;
    assert_eq!((found.code, found.not_ok()), (Some(0), vec![("provider", "warn")]));
    assert!(found.words("provider").contains("another 10 min"), "{}", found.words("provider"));
    assert_eq!(bed.simulator.total_calls(), 0);
}

#[tokio::test]
async fn an_unreachable_provider_and_unreachable_receivers_are_reported() {
    let mut bed = bed().await;
    let nowhere = format!("127.0.0.1:{}", free_port());
    bed.set("ONECLICKDZ_API_URL", format!("http://{nowhere}"));
    let tls = bed.sink.listen().await.replace("http://", "https://");
    bed.set("OPERATOR_WEBHOOK_URL", format!("{tls}{WEBHOOK_TOKEN}"));
    bed.set("WEBHOOK_URL", format!("http://{nowhere}/{WEBHOOK_TOKEN}"));
    let found = doctor(&bed).await;
    let expected = ["provider", "webhook", "operator-webhook"].map(|name| (name, "fail"));
    assert_eq!((found.code, found.not_ok()), (Some(1), expected.to_vec()));
    for (name, words) in [
        ("provider", "the connection was refused"),
        ("webhook", "the connection was refused (no event was sent)"),
        ("operator-webhook", "no TLS connection came about (no event was sent)"),
    ] {
        assert!(found.words(name).contains(words), "{}", found.words(name));
    }
    bed.set("WEBHOOK_URL", format!("https://no-such-host.invalid/{WEBHOOK_TOKEN}"));
    let words = doctor(&bed).await.words("webhook");
    assert!(words.contains("its name cannot be resolved"), "{words}");
}

#[tokio::test]
async fn an_encryption_key_that_does_not_fit_the_database_is_reported() {
    let mut bed = Bed::new(600.0).await;
    let order = bed.order(Script::fulfilled_after(Duration::ZERO));
    let mut worker = bed.worker().await;
    bed.enqueue([&order]).await;
    bed.stored(std::slice::from_ref(&order), OrderStatus::Fulfilled).await;

    let found = doctor(&bed).await;
    assert!(found.words("store-key").contains("decrypts the stored cards"), "{}", found.words("store-key"));
    assert!(found.words("redis-queues").starts_with("1 worker at work"), "{}", found.words("redis-queues"));
    assert_eq!(found.not_ok(), [("settings", "warn")], "the clock is scaled here");

    bed.set("ENCRYPTION_KEY", OTHER_KEY);
    let (code, printed) = print(&bed, &[]).await;
    assert_eq!(code, Some(1), "{printed}");
    assert!(printed.contains("fail  store-key          ENCRYPTION_KEY is not the one"), "{printed}");
    assert!(!printed.contains(&bed.simulator.card_code(&order).unwrap()));
    assert!(worker.stop().await.success());
}

#[tokio::test]
async fn another_database_and_a_newer_layout_are_reported() {
    let bed = bed().await;
    let _: String = bed.redis(&["SET", "{topup}:store", "0123456789abcdef0123456789abcdef"]).await;
    let _: String = bed.redis(&["SET", "{topup}:layout", "9"]).await;
    let found = doctor(&bed).await;
    assert_eq!(
        (found.code, found.not_ok()),
        (Some(1), vec![("redis-layout", "fail"), ("redis-store", "fail")])
    );
    assert!(found.words("redis-store").contains("adopt-store"), "{}", found.words("redis-store"));
    let stored: String = bed.redis(&["GET", "{topup}:store"]).await;
    assert_eq!(stored, "0123456789abcdef0123456789abcdef");
}

#[tokio::test]
async fn a_key_of_a_wrong_type_under_the_prefix_is_reported() {
    let bed = bed().await;
    let _: String = bed.redis(&["SET", "{topup}:poll-topup:active", "x"]).await;
    let found = doctor(&bed).await;
    assert_eq!(found.not_ok(), [("redis-keys", "fail"), ("redis-queues", "skip")]);
    assert!(found.words("redis-keys").contains("{topup}:poll-topup:active must be a list"));
}

#[tokio::test]
async fn a_taken_address_is_a_warning() {
    let mut bed = bed().await;
    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    bed.set("HTTP_ADDR", other.local_addr().unwrap().to_string());
    let found = doctor(&bed).await;
    assert_eq!((found.code, found.not_ok()), (Some(0), vec![("http-addr", "warn")]));
}

#[tokio::test]
async fn all_invalid_settings_are_reported_together() {
    let mut bed = bed().await;
    bed.set("ENCRYPTION_KEY", WEBHOOK_TOKEN);
    bed.set("WEBHOOK_SECRET", WEBHOOK_TOKEN);
    bed.set("CONCURRENCY", "0");
    let found = doctor(&bed).await;
    assert_eq!((found.code, found.not_ok()), (Some(2), vec![("settings", "fail"); 3]));
    let (code, printed) = print(&bed, &[]).await;
    assert_eq!(code, Some(2));
    for name in ["ENCRYPTION_KEY", "WEBHOOK_SECRET", "CONCURRENCY"] {
        assert!(printed.contains(name), "{printed}");
    }
    assert_eq!(bed.simulator.total_calls(), 0);
    for name in ["ONECLICKDZ_API_KEY", "ONECLICKDZ_API_KEY_SECONDARY"] {
        let mut bed = Bed::new(1.0).await;
        // An HTTP header cannot carry this key.
        bed.set(name, "wrong-key\u{7f}");
        let found = doctor(&bed).await;
        assert_eq!(found.code, Some(2));
        assert!(found.words("settings").starts_with(&format!("{name} has characters")), "{name}");
    }
}
