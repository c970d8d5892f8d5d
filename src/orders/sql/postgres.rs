//! Opens a PostgreSQL database, for workers on any number of machines.
//!
//! The server ends a long statement and a silent transaction after 30 s, so that a frozen worker or a lost network does
//! not block other workers for longer.

use std::str::FromStr;

use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, Executor, PgConnection};

use super::access::Access;
use super::connections::Connections;
use super::place;
use super::schema::{self, Link, Tables};
use super::statement::PREPARED_STATEMENTS;
use crate::orders::StoreError;

/// Settings that the statements rely on; they override those of the database and the role. Each change names the
/// version or state that it is based on, so `read committed` suffices; a stricter isolation would make changes fail. A
/// commit must be on the disk. With `row_security` off, the server returns an error instead of hiding orders. Notices
/// are off, because they would be logged and a trigger may put a phone number into one.
pub(super) const NEEDED: &str = "SET default_transaction_isolation = 'read committed'; SET default_transaction_read_only = off;
    SET default_transaction_deferrable = off; SET standard_conforming_strings = on; SET TimeZone = 'UTC'; SET DateStyle = 'ISO';
    SET row_security = off; SET client_min_messages = error; SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'";
/// Makes the planner prefer indexes, for all work except migrations. A statement of a job names few rows, but while the
/// statistics of a growing table are old, the planner would often read the whole table. A plan
/// that must read one whole counts as very expensive, and would be compiled (JIT) each time.
const BY_INDEX: &str = "SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off;
    SET jit = off";
/// Time limits for all work except migrations.
const LIMITS: &str =
    "SET statement_timeout = '30s'; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = '30s'";
/// Removes the time limits for migrations, because a migration may take long.
const NO_LIMITS: &str =
    "SET statement_timeout = 0; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0";

/// Makes the server refuse to write, for commands that only read.
const READ_ONLY: &str = "SET default_transaction_read_only = on";

pub(in crate::orders) fn options(url: &str) -> Result<PgConnectOptions, sqlx::Error> {
    let options = PgConnectOptions::from_str(url)?;
    // PgBouncer refuses a connection that sets `extra_float_digits`, and no statement reads a float.
    let options = options.application_name("topup-worker").extra_float_digits(None);
    // A pooler that cannot keep prepared statements needs a 0 in the address.
    let is_set = url.contains("statement-cache-capacity=");
    Ok(if is_set { options } else { options.statement_cache_capacity(PREPARED_STATEMENTS) })
}

pub(super) fn usable(url: &str) -> bool {
    options(url).is_ok()
}

/// Migrates the tables and connects. sqlx takes a lock, so that one process at a time migrates.
pub(super) async fn open(url: &str) -> Result<Connections, StoreError> {
    let options = options(url)?;
    let mut connection = PgConnection::connect_with(&options).await?;
    for settings in [NEEDED, NO_LIMITS] {
        set(&mut connection, settings).await?;
    }
    place::must_fit(&mut connection, &options).await?;
    let tables = Link::Postgres(&mut connection).tables().await?;
    schema::usable(tables)?;
    if tables == Tables::ToMigrate {
        place::may_create(&mut connection).await?;
        schema::lenient(&super::migrations::POSTGRES).run(&mut connection).await?;
    }
    place::may_change(&mut connection).await?;
    connection.close().await?;
    Ok(connect(url, Access::Write).await?)
}

/// Connects to a database with its tables; migrates nothing.
pub(super) async fn connect(url: &str, access: Access) -> Result<Connections, sqlx::Error> {
    let mut settings = vec![NEEDED, BY_INDEX, LIMITS];
    settings.extend((access == Access::Read).then_some(READ_ONLY));
    Connections::open(options(url)?, settings).await
}

async fn set(connection: &mut PgConnection, settings: &'static str) -> Result<(), sqlx::Error> {
    connection.execute(settings).await.map(drop)
}
