//! Checks of a PostgreSQL server, in addition to the checks of every database.

use super::report::Check;
use crate::clock::real_now;
use crate::orders::Inspector;

pub(super) const STORE: &str = "store";
pub(super) const VERSION: &str = "store-version";
pub(super) const CLOCK: &str = "store-clock";

/// The oldest major version of PostgreSQL that the statements of the store support.
const OLDEST: i64 = 13;
const NOTICED_MS: u64 = 2_000;

/// The SQLSTATE of an error: five letters or digits.
pub(super) fn code(error: &sqlx::Error) -> Option<String> {
    let error = error.as_database_error()?;
    error.try_downcast_ref::<sqlx::postgres::PgDatabaseError>().map(|error| error.code().to_owned())
}

pub(super) fn unreachable(place: &str, error: &sqlx::Error) -> Check {
    let (found, advice) = match (code(error).as_deref(), error) {
        (Some("28P01" | "28000"), _) => (
            "the user or the password was refused",
            "correct them in DATABASE_URL (in a password write %40 for @), or check pg_hba.conf",
        ),
        (Some("3D000"), _) => {
            ("there is no such database", "create it with `createdb`, or correct DATABASE_URL")
        }
        (Some("53300"), _) => (
            "it takes no more connections",
            "raise max_connections or the CONNECTION LIMIT of role or database; a worker opens DATABASE_CONNECTIONS",
        ),
        (Some("57P03"), _) => ("it is starting or stopping", "wait, and run this again"),
        // An untrusted certificate is reported as an I/O error of the kind `InvalidData`.
        _ if is_of_tls(error) => (
            "no TLS connection came about",
            "check sslmode and sslrootcert in DATABASE_URL and the server's certificate",
        ),
        (_, sqlx::Error::Io(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            ("nothing listens there", "start PostgreSQL, or correct DATABASE_URL")
        }
        _ => ("it cannot be reached", "check the host and the port of DATABASE_URL, and the network between"),
    };
    Check::fail(STORE, format!("{place}: {found}"), advice)
}

fn is_of_tls(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(error) => error.kind() == std::io::ErrorKind::InvalidData,
        error => matches!(error, sqlx::Error::Tls(_)),
    }
}

/// Reports why the database cannot be written. `is_made` says whether its tables exist.
pub(super) fn unwritable(place: &str, error: &sqlx::Error, is_made: bool) -> Check {
    let (found, advice) = match code(error).as_deref() {
        Some("42501") if is_made => (
            "this user may not use all of its tables",
            "grant it SELECT, INSERT, UPDATE and DELETE on them, and what their views, triggers and functions use",
        ),
        Some("42501") => (
            "this user may not create tables",
            "`GRANT CREATE ON SCHEMA public TO …`, or let the database belong to this user",
        ),
        Some("25006") => ("it is read-only", "set DATABASE_URL to the primary server and not a standby"),
        Some("53100") => ("the disk is full", "free space on that disk"),
        _ => ("it cannot be written", "check the log of PostgreSQL"),
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
        _ => Check::fail(VERSION, "the server does not report its version", "check the log of PostgreSQL"),
    }
}

/// Compares the server's clock with this host's. A difference only warns: stored times come from the workers' clocks.
pub(super) async fn clock(inspector: &mut Inspector) -> Check {
    let before = real_now();
    let server = inspector.server_time().await;
    let middle = before + (real_now() - before) / 2;
    match server {
        Ok(Some(server)) => judge((server - middle).num_milliseconds()),
        _ => Check::fail(CLOCK, "the server does not report its time", "check the log of PostgreSQL"),
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
        "keep the clocks of both hosts right with NTP; times that this service stores come from this host's clock",
    )
}

#[cfg(test)]
mod tests {
    use super::super::report::Verdict;
    use super::*;

    #[test]
    fn clocks_two_seconds_apart_are_a_warning() {
        assert_eq!(judge(-1_999).verdict, Verdict::Ok);
        assert_eq!(judge(2_500).found, "2 s ahead of the clock of this host");
        assert_eq!(judge(-3_000).verdict, Verdict::Warn);
    }

    #[test]
    fn an_unreachable_server_is_reported() {
        let refused = sqlx::Error::Io(std::io::ErrorKind::ConnectionRefused.into());
        assert_eq!(unreachable("db:5432/orders", &refused).found, "db:5432/orders: nothing listens there");
        let unknown = unreachable("db:5432/orders", &sqlx::Error::PoolClosed);
        assert_eq!(unknown.found, "db:5432/orders: it cannot be reached");
    }
}
