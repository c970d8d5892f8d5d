use redis::ConnectionAddr;

use super::super::RedisAddress;
use super::*;

fn parsed(url: &str) -> Result<Kind, InvalidAddress> {
    parse(url, &"{topup}".parse().unwrap())
}

/// Returns `host:port` (after `tls ` if encrypted), user, password and database.
fn shown(server: &ConnectionInfo) -> String {
    let tls =
        if matches!(server.addr(), ConnectionAddr::TcpTls { insecure: false, .. }) { "tls " } else { "" };
    let login = server.redis_settings();
    let (user, password) = (login.username().unwrap_or("-"), login.password().unwrap_or("-"));
    format!("{tls}{} {user} {password} {}", server.addr(), login.db())
}

#[test]
fn one_server() {
    for (url, expected) in [
        ("redis://127.0.0.1:6379", "127.0.0.1:6379 - - 0"),
        ("redis://localhost", "localhost:6379 - - 0"),
        ("redis://cache:7000/3", "cache:7000 - - 3"),
        ("redis://:secret@cache", "cache:6379 - secret 0"),
        ("redis://topup:p%40ss%2Fword@cache:1", "cache:1 topup p@ss/word 0"),
        ("redis://[::1]:6380/1", "::1:6380 - - 1"),
        ("rediss://topup:secret@cache:6380", "tls cache:6380 topup secret 0"),
        ("unix:///run/redis.sock", "/run/redis.sock - - 0"),
    ] {
        match parsed(url) {
            Ok(Kind::Fixed(server)) => assert_eq!(shown(&server), expected, "{url}"),
            _ => panic!("{url}"),
        }
    }
}

#[test]
fn sentinels_and_the_name_of_their_master() {
    for (url, expected) in [
        ("redis+sentinel://a/main", "a:26379 - - 0 | main | localhost:6379 - - 0"),
        (
            "redis+sentinel://a:1,b:2,[::1]:3/main/4",
            "a:1 - - 0 b:2 - - 0 ::1:3 - - 0 | main | localhost:6379 - - 4",
        ),
        ("redis+sentinel://u:p%2C@a,b/main/", "a:26379 - - 0 b:26379 - - 0 | main | localhost:6379 u p, 0"),
        (
            "rediss+sentinel://:p@a/main?sentinel_user=s&sentinel_password=a+b%26/c=",
            "tls a:26379 s a+b&/c= 0 | main | tls localhost:6379 - p 0",
        ),
        ("redis+sentinel://a/main?sentinel_password=w", "a:26379 - w 0 | main | localhost:6379 - - 0"),
    ] {
        let Ok(Kind::Sentinels(Sentinels { hosts, master_name, master, .. })) = parsed(url) else {
            panic!("{url}")
        };
        let sentinels: Vec<_> = hosts.iter().map(shown).collect();
        assert_eq!(
            format!("{} | {master_name} | {}", sentinels.join(" "), shown(&master)),
            expected,
            "{url}"
        );
    }
}

#[test]
fn nodes_of_a_cluster() {
    for (url, expected) in [
        ("redis+cluster://a", "a:6379 - - 0"),
        ("redis+cluster://a:1,b:2/0", "a:1 - - 0 b:2 - - 0"),
        ("rediss+cluster://u:a@b:c@a,b:2/", "tls a:6379 u a@b:c 0 tls b:2 u a@b:c 0"),
    ] {
        let Ok(Kind::Cluster { nodes, key, .. }) = parsed(url) else { panic!("{url}") };
        assert_eq!(nodes.iter().map(shown).collect::<Vec<_>>().join(" "), expected, "{url}");
        assert_eq!(key, "{topup}:inbox");
    }
}

#[test]
fn an_unusable_url_is_rejected_without_being_repeated() {
    for url in [
        "",
        "hunter2",
        "http://hunter2",
        "redis://",
        "redis://:hunter2@",
        "redis://:hunter2@host:port",
        "redis://:hunter2@host/db",
        "redis://:hunter2@host/-1",
        "rediss://:hunter2@host/#insecure",
        "redis+sentinel://:hunter2@a:26379",
        "redis+sentinel://:hunter2@a:26379/",
        "redis+sentinel://:hunter2@a/main/db",
        "redis+sentinel://:hunter2@a/main/1/2",
        "redis+sentinel://:hunter2@/main",
        "redis+sentinel://:hunter2@a,/main",
        "redis+sentinel://a/main?password=hunter2",
        "redis+cluster://:hunter2@",
        "redis+cluster://:hunter2@a:1:2",
        "redis+cluster://:hunter2@a,b:99999",
        "redis+cluster://:hunter2@a/1",
        "redis+cluster://a?password=hunter2",
        "redis+proxy://:hunter2@a",
        "valkey+sentinel://:hunter2@a/main",
    ] {
        let error = parsed(url).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains("redis+sentinel://[user:password@]host:port"), "{url}: {error}");
        assert!(!error.contains("hunter2"), "{url}: {error}");
    }
}

#[test]
fn debug_hides_the_address() {
    let address = RedisAddress::parse("redis://:hunter2@host", &"{topup}".parse().unwrap()).unwrap();
    assert_eq!(format!("{address:?}"), "RedisAddress { .. }");
}
