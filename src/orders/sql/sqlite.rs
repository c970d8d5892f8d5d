//! SQLite: one file, WAL, every commit on the disk before it counts.
//!
//! Several processes on one machine may share the file. For several machines there is PostgreSQL.

use std::str::FromStr;
use std::time::Duration;

use sqlx::migrate::MigrateError;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode};
use sqlx::{Connection as _, SqliteConnection};

use super::access::Access;
use super::file::{Note, SqliteFile, options};
use super::schema::{self, Link};
use crate::orders::StoreError;

/// How often opening is tried again, after a pause each.
const OPEN_TRIES: u32 = 10;
const OPEN_PAUSE: Duration = Duration::from_millis(200);

/// Whether this address, which begins with `sqlite://`, names a file.
pub(super) fn usable(url: &str) -> bool {
    let file = url.strip_prefix("sqlite://").unwrap_or_default();
    !file.is_empty() && !file.contains(":memory:") && SqliteConnectOptions::from_str(url).is_ok()
}

/// Opens the file (made if missing) and brings its tables up to date.
pub(super) async fn open(url: &str) -> Result<SqliteFile, StoreError> {
    // Switching a new file to WAL does not wait for another process that does the same.
    let mut tries = 0;
    loop {
        match open_once(url).await {
            // The last process that had the file open may just be removing its log.
            Err(error)
                if (is_busy(&error) || matches!(error, StoreError::LogRemoved)) && tries < OPEN_TRIES =>
            {
                tries += 1;
            }
            opened => return opened,
        }
        tokio::time::sleep(OPEN_PAUSE).await;
    }
}

async fn open_once(url: &str) -> Result<SqliteFile, StoreError> {
    let new = options(url)?.create_if_missing(true).journal_mode(SqliteJournalMode::Wal);
    let path = new.get_filename();
    let _note = Note::open(path, Access::Write)?;
    let is_new = !path.exists();
    let mut connection = SqliteConnection::connect_with(&new).await.map_err(|error| {
        let error = StoreError::from(error);
        if is_new && error.is_of_unopened_file() {
            return StoreError::NotMade(path.display().to_string());
        }
        error
    })?;
    // One process at a time: sqlx takes no lock for migrations on SQLite.
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    schema::usable(Link::Sqlite(&mut transaction).tables().await?)?;
    schema::lenient(&schema::SQLITE).run(&mut *transaction).await?;
    transaction.commit().await?;
    let opened = SqliteFile::open(url, Access::Write).await?;
    connection.close().await?;
    Ok(opened)
}

/// Whether another process holds the file right now (`SQLITE_BUSY` in its three forms).
pub(in crate::orders) fn is_busy(error: &StoreError) -> bool {
    let (StoreError::Database(error) | StoreError::Migration(MigrateError::Execute(error))) = error else {
        return false;
    };
    error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code)
        .is_some_and(|code| ["5", "261", "517"].contains(&&*code))
}
