//! PostgreSQL: a server, for workers on any number of machines.
//!
//! A connection ends a statement that takes too long, and the server ends a transaction whose worker has
//! gone silent: a frozen worker or a lost network holds up no other for longer than that.

use std::str::FromStr;

use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, Executor, PgConnection};

use super::access::Access;
use super::connections::Connections;
use super::place;
use super::schema::{self, Link, Tables};
use crate::orders::StoreError;

/// What the statements count on, whatever is set for the database or the role. A change names the version or the state it
/// is based on, so it needs no stricter isolation, and must not fail for one. A commit counts once it is on the disk. Rows
/// that a policy hides would be taken for lost: without `row_security` the server refuses instead.
pub(super) const NEEDED: &str = "SET default_transaction_isolation = 'read committed'; SET default_transaction_read_only = off;
    SET default_transaction_deferrable = off; SET standard_conforming_strings = on; SET TimeZone = 'UTC'; SET DateStyle = 'ISO';
    SET row_security = off; SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'";
/// The tables are made or changed without these: that may take its time.
const LIMITS: &str =
    "SET statement_timeout = '30s'; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = '30s'";
/// For making and changing the tables.
const NO_LIMITS: &str =
    "SET statement_timeout = 0; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0";

/// For commands that show something: the server refuses to write.
const READ_ONLY: &str = "SET default_transaction_read_only = on";

/// That the table of the migrations exists is no news.
const QUIET: &str = "SET client_min_messages = warning";

/// How to connect to this address.
pub(in crate::orders) fn options(url: &str) -> Result<PgConnectOptions, sqlx::Error> {
    let options = PgConnectOptions::from_str(url)?;
    // No number is read as a float, and PgBouncer refuses a connection that asks for its digits.
    Ok(options.application_name("topup-worker").extra_float_digits(None))
}

/// Whether this address can be read.
pub(super) fn usable(url: &str) -> bool {
    options(url).is_ok()
}

/// Connects and brings the tables up to date: one process at a time, by a lock that sqlx takes for it.
pub(super) async fn open(url: &str) -> Result<Connections, StoreError> {
    let options = options(url)?;
    let mut connection = PgConnection::connect_with(&options).await?;
    for settings in [QUIET, NEEDED, NO_LIMITS] {
        set(&mut connection, settings).await?;
    }
    place::must_fit(&mut connection, &options).await?;
    let tables = Link::Postgres(&mut connection).tables().await?;
    schema::usable(tables)?;
    if tables == Tables::ToMigrate {
        place::may_create(&mut connection).await?;
        schema::lenient(&schema::POSTGRES).run(&mut connection).await?;
    }
    place::may_change(&mut connection).await?;
    connection.close().await?;
    Ok(connect(url, Access::Write).await?)
}

/// Connects to a database that has its tables.
pub(super) async fn connect(url: &str, access: Access) -> Result<Connections, sqlx::Error> {
    let mut settings = vec![NEEDED, LIMITS];
    settings.extend((access == Access::Read).then_some(READ_ONLY));
    Connections::open(options(url)?, settings).await
}

async fn set(connection: &mut PgConnection, settings: &'static str) -> Result<(), sqlx::Error> {
    connection.execute(settings).await.map(drop)
}
