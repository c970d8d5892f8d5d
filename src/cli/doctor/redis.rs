//! Checks that Redis can be reached, and how it is set up. All checks of `doctor` share the connection opened here. The
//! connection retries no command: if `doctor` waited for Redis to come back, it could not report that Redis is away.

use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, ErrorKind, RedisError, RedisResult, ServerErrorKind};

use super::report::{Check, in_words};
use super::{LIMIT, keys, limited, permissions};
use crate::clock::real_now;
use crate::provider::KeyFingerprint;
use crate::redis::server::{self, CLOCK, Info};
use crate::redis::{Names, RedisAddress};

const NAME: &str = "redis";
/// Time limit for the connection and for each answer. It is shorter than [`LIMIT`], the limit of a whole check.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Connects and measures the round trip of a PING.
pub(super) async fn reach(address: &RedisAddress) -> (Check, Option<MultiplexedConnection>) {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(CONNECT_TIMEOUT));
    let reaching = async {
        let mut connection =
            address.client().await?.get_multiplexed_async_connection_with_config(&config).await?;
        let asked = Instant::now();
        let answer = redis::cmd("PING").query_async::<()>(&mut connection).await;
        match answer {
            // A refusal of PING also shows that Redis answers. `permissions` reports a user that may not run PING, and
            // `server` reports a Redis that cannot write to its disk (MISCONF).
            Err(error) if !permissions::is_forbidden(&error) && error.code() != Some("MISCONF") => Err(error),
            _ => Ok((connection, asked.elapsed())),
        }
    };
    match tokio::time::timeout(LIMIT, reaching).await {
        Ok(Ok((connection, took))) => {
            (Check::ok(NAME, format!("answers in {}", in_words(took))), Some(connection))
        }
        Ok(Err(error)) => (unreachable(&error), None),
        Err(_elapsed) => (silent(), None),
    }
}

pub(super) async fn look(
    connection: &MultiplexedConnection,
    names: &Names,
    api_keys: &[KeyFingerprint],
    time_scale: f64,
) -> Vec<Check> {
    let settings = async {
        let info: RedisResult<String> = redis::cmd("INFO").query_async(&mut connection.clone()).await;
        let info = info.ok().map(|text| Info::parse(&text));
        server::checks(info.as_ref(), server::appendfsync(&mut connection.clone()).await.as_deref())
    };
    let (mut checks, clock, permissions, keys) = tokio::join!(
        async {
            // After a timeout, the checks report that INFO cannot be read.
            tokio::time::timeout(LIMIT, settings).await.unwrap_or_else(|_elapsed| server::checks(None, None))
        },
        limited(CLOCK, clock(connection)),
        limited(permissions::NAME, permissions::look(connection, names, time_scale)),
        keys::look(connection, names, api_keys),
    );
    checks.extend([clock, permissions]);
    checks.extend(keys);
    checks
}

pub(super) fn skipped() -> Vec<Check> {
    let names = server::NAMES.iter().chain(&[CLOCK, permissions::NAME]).chain(&keys::NAMES);
    names.map(|name| Check::skip(name, "Redis cannot be reached")).collect()
}

async fn clock(connection: &MultiplexedConnection) -> Check {
    let before = real_now();
    let answer = redis::cmd("TIME").query_async::<(i64, i64)>(&mut connection.clone()).await;
    let after = real_now();
    match answer {
        Ok((seconds, micros)) => {
            let middle = before + (after - before) / 2;
            server::clock(seconds * 1_000_000 + micros - middle.timestamp_micros())
        }
        Err(_) => Check::warn(
            CLOCK,
            "the time of Redis cannot be read here",
            "make sure that this host and that of Redis keep time by NTP",
        ),
    }
}

fn silent() -> Check {
    Check::fail(
        NAME,
        format!("no answer within {} s", CONNECT_TIMEOUT.as_secs()),
        "check host and port in REDIS_URL and the firewall; Redis may also be frozen or busy with a long command",
    )
}

/// Describes the error without the library's text, which may repeat the address.
fn unreachable(error: &RedisError) -> Check {
    if error.is_timeout() {
        return silent();
    }
    let text = error.to_string().to_ascii_lowercase();
    let (found, advice) = if error.is_connection_refusal() {
        (
            "the connection was refused: nothing listens there",
            "start Redis, or correct REDIS_URL; in a container, 127.0.0.1 is the container itself",
        )
    } else if error.kind() == ErrorKind::AuthenticationFailed || error.code() == Some("WRONGPASS") {
        (
            "the user or the password was refused",
            "correct them in REDIS_URL, redis://user:password@host:port; a special character in them is \
             written as %XX, and the user `default` may be left out",
        )
    } else if error.code() == Some("NOAUTH") {
        (
            "Redis or a Sentinel requires a password",
            "add it to REDIS_URL: redis://:password@host:port, or user:password; that of the Sentinels is \
             ?sentinel_password=…",
        )
    } else if permissions::is_forbidden(error) {
        (
            "this user may not use the database of REDIS_URL",
            "allow it SELECT, or leave the number of the database out of REDIS_URL",
        )
    } else if error.kind() == ErrorKind::Server(ServerErrorKind::BusyLoading) {
        ("it is loading its data", "wait; `run` does so by itself")
    } else if error.kind() == ErrorKind::Server(ServerErrorKind::MasterDown) {
        ("it is a replica, and its master is down", "set REDIS_URL to the current master")
    } else if text.contains("switch database") {
        ("it does not know the database of REDIS_URL", "correct the number at the end of REDIS_URL")
    } else if text.contains("certificate") || text.contains("tls") {
        (
            "no TLS connection came about",
            "check that the certificate of Redis is valid, names this host and comes from a known authority, \
             and that the port is the one for TLS",
        )
    } else if text.contains("lookup") || text.contains("resolve") {
        ("its name cannot be resolved", "correct the host in REDIS_URL, or the DNS of this machine")
    } else if text.contains("unreachable") || text.contains("no route") {
        ("there is no route to its host", "correct REDIS_URL, or check the network and the firewall")
    } else if error.is_connection_dropped() {
        (
            "the connection was closed before an answer came",
            "check that the port is that of Redis; one for TLS closes a plain connection, a Redis in \
             protected mode (no password set) closes those of other hosts, and one with `maxclients` reached closes all",
        )
    } else {
        ("no connection came about", "check REDIS_URL: host, port, user and password")
    };
    Check::fail(NAME, found, advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(error: &RedisError) -> String {
        let check = unreachable(error);
        assert!(!format!("{check:?}").contains("secret-host"));
        check.found
    }

    #[test]
    fn an_unreachable_redis_is_described_without_its_address() {
        let io = |kind, words: &str| RedisError::from(std::io::Error::new(kind, words.to_owned()));
        let refused = io(std::io::ErrorKind::ConnectionRefused, "secret-host refused");
        assert!(found(&refused).contains("nothing listens"));
        let lookup = io(std::io::ErrorKind::Other, "failed to lookup address information: secret-host");
        assert!(found(&lookup).contains("name cannot be resolved"));
        let tls = io(std::io::ErrorKind::InvalidData, "invalid peer certificate: secret-host");
        assert!(found(&tls).contains("TLS"));
        assert!(found(&io(std::io::ErrorKind::TimedOut, "secret-host")).contains("no answer"));
        let auth = RedisError::from((ErrorKind::AuthenticationFailed, "x", "secret-host".to_owned()));
        assert!(found(&auth).contains("password was refused"));
        let of_server = |line: &[u8]| match redis::parse_redis_value(line).unwrap() {
            redis::Value::ServerError(error) => RedisError::from(error),
            other => panic!("{other:?} is no error"),
        };
        let masterdown = of_server(
            b"-MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.\r\n",
        );
        assert_eq!(found(&masterdown), "it is a replica, and its master is down");
        assert_eq!(
            found(&of_server(b"-LOADING Redis is loading the dataset in memory\r\n")),
            "it is loading its data"
        );
        let password = RedisError::from((ErrorKind::Extension, "NOAUTH", "secret-host".to_owned()));
        assert!(!found(&password).is_empty());
    }
}
