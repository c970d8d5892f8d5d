//! What is looked at of a PostgreSQL server beyond what is looked at of every store.

use super::report::Check;
use crate::clock::real_now;
use crate::orders::Inspector;

pub(super) const STORE: &str = "store";
pub(super) const VERSION: &str = "store-version";
pub(super) const CLOCK: &str = "store-clock";

/// The oldest release that the statements of the store are held to.
const OLDEST: i64 = 13;
const NOTICED_MS: u64 = 2_000;

/// The server's own number of an error (SQLSTATE), five letters or digits.
pub(super) fn code(error: &sqlx::Error) -> Option<String> {
    let error = error.as_database_error()?;
    error.try_downcast_ref::<sqlx::postgres::PgDatabaseError>().map(|error| error.code().to_owned())
}

/// Why the server does not let this program in.
pub(super) fn unreachable(place: &str, error: &sqlx::Error) -> Check {
    let (found, advice) = match (code(error).as_deref(), error) {
        (Some("28P01" | "28000"), _) => (
            "the user or the password was refused",
            "correct them in DATABASE_URL (in a password write %40 for @), or look at pg_hba.conf",
        ),
        (Some("3D000"), _) => {
            ("there is no such database", "make it with `createdb`, or correct DATABASE_URL")
        }
        (Some("53300"), _) => (
            "it takes no more connections",
            "raise max_connections, or the CONNECTION LIMIT of the role or the database; a worker uses up to ten",
        ),
        (Some("57P03"), _) => ("it is starting or stopping", "wait, and look again"),
        (_, sqlx::Error::Tls(_)) => (
            "no TLS connection came about",
            "look at sslmode and sslrootcert in DATABASE_URL and at the server's certificate",
        ),
        (_, sqlx::Error::Io(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            ("nothing listens there", "start PostgreSQL, or correct DATABASE_URL")
        }
        _ => (
            "it cannot be reached",
            "look at the host and the port of DATABASE_URL, and at the network between",
        ),
    };
    Check::fail(STORE, format!("{place}: {found}"), advice)
}

/// Why nothing can be written.
pub(super) fn unwritable(place: &str, error: &sqlx::Error) -> Check {
    let (found, advice) = match code(error).as_deref() {
        Some("42501") => (
            "this user may make no tables",
            "`GRANT CREATE ON SCHEMA public TO …`, or let the database belong to this user",
        ),
        Some("25006") => ("it can only be read", "set DATABASE_URL to the primary server and not a standby"),
        Some("53100") => ("the disk is full", "make room on that disk"),
        _ => ("it cannot be written", "look at the log of PostgreSQL"),
    };
    Check::fail(STORE, format!("{place}: {found}"), advice)
}

pub(super) async fn version(inspector: &mut Inspector) -> Check {
    match inspector.server_version().await {
        Ok(Some(number)) if number / 10_000 < OLDEST => Check::warn(
            VERSION,
            format!("PostgreSQL {} is older than {OLDEST}", number / 10_000),
            format!("use PostgreSQL {OLDEST} or newer"),
        ),
        Ok(Some(number)) => Check::ok(VERSION, format!("PostgreSQL {}", number / 10_000)),
        _ => Check::fail(VERSION, "the server does not tell it", "look at the log of PostgreSQL"),
    }
}

/// How far its clock is from this host's. Never a failure: the store keeps the times of the workers.
pub(super) async fn clock(inspector: &mut Inspector) -> Check {
    let before = real_now();
    let server = inspector.server_time().await;
    let middle = before + (real_now() - before) / 2;
    match server {
        Ok(Some(server)) => judge((server - middle).num_milliseconds()),
        _ => Check::fail(CLOCK, "the server does not tell its time", "look at the log of PostgreSQL"),
    }
}

fn judge(ahead_ms: i64) -> Check {
    if ahead_ms.unsigned_abs() < NOTICED_MS {
        return Check::ok(CLOCK, "agrees with the clock of this host");
    }
    let side = if ahead_ms > 0 { "ahead of" } else { "behind" };
    Check::warn(
        CLOCK,
        format!("{} s {side} the clock of this host", ahead_ms.unsigned_abs() / 1_000),
        "keep both hosts on time by NTP. Stored times go by this host: compare them with those of other \
         programs in that database with care",
    )
}

#[cfg(test)]
mod tests {
    use super::super::report::Verdict;
    use super::*;

    #[test]
    fn clocks_two_seconds_apart_are_told() {
        assert_eq!(judge(-1_999).verdict, Verdict::Ok);
        assert_eq!(judge(2_500).found, "2 s ahead of the clock of this host");
        assert_eq!(judge(-3_000).verdict, Verdict::Warn);
    }

    #[test]
    fn a_server_that_cannot_be_reached_is_told_of() {
        let refused = sqlx::Error::Io(std::io::ErrorKind::ConnectionRefused.into());
        assert_eq!(unreachable("db:5432/orders", &refused).found, "db:5432/orders: nothing listens there");
        let unknown = unreachable("db:5432/orders", &sqlx::Error::PoolClosed);
        assert_eq!(unknown.found, "db:5432/orders: it cannot be reached");
    }
}
