//! Opens a SQLite file in WAL mode and migrates its tables. Several processes on one machine may share the file.

use std::str::FromStr;
use std::time::Duration;

use sqlx::migrate::MigrateError;
use sqlx::sqlite::{SqliteAutoVacuum, SqliteConnectOptions, SqliteJournalMode};
use sqlx::{Connection as _, SqliteConnection};

use super::access::Access;
use super::file::{SqliteFile, options};
use super::note::Note;
use super::schema::{self, Link};
use crate::orders::StoreError;

/// Number of further tries to open the file, each after [`OPEN_PAUSE`].
const OPEN_TRIES: u32 = 10;
const OPEN_PAUSE: Duration = Duration::from_millis(200);

/// Whether a `sqlite://` address names a file.
pub(super) fn usable(url: &str) -> bool {
    let file = url.strip_prefix("sqlite://").unwrap_or_default();
    !file.is_empty() && !file.contains(":memory:") && SqliteConnectOptions::from_str(url).is_ok()
}

/// Opens the file, created if missing, and migrates its tables.
pub(super) async fn open(url: &str) -> Result<SqliteFile, StoreError> {
    // SQLite does not wait when two processes switch a new file to WAL at the same time, so opening is repeated.
    let mut tries = 0;
    loop {
        match open_once(url).await {
            // Another process may be closing its last connection, which removes the WAL file. A later try succeeds.
            Err(error)
                if (is_busy(&error)
                    || matches!(error, StoreError::LogRemoved | StoreError::OpenElsewhere(_)))
                    && tries < OPEN_TRIES =>
            {
                tries += 1;
            }
            opened => return opened,
        }
        tokio::time::sleep(OPEN_PAUSE).await;
    }
}

async fn open_once(url: &str) -> Result<SqliteFile, StoreError> {
    // An existing file keeps its mode of vacuum.
    let new = options(url)?.create_if_missing(true).auto_vacuum(SqliteAutoVacuum::Incremental);
    let new = new.journal_mode(SqliteJournalMode::Wal);
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
    // The transaction serves as the lock, because sqlx takes none for migrations on SQLite.
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    schema::usable(Link::Sqlite(&mut transaction).tables().await?)?;
    schema::lenient(&super::migrations::SQLITE).run(&mut *transaction).await?;
    transaction.commit().await?;
    let opened = SqliteFile::open(url, Access::Write).await?;
    connection.close().await?;
    Ok(opened)
}

/// Whether another process has the file locked (`SQLITE_BUSY` and two of its extended codes).
pub(in crate::orders) fn is_busy(error: &StoreError) -> bool {
    let (StoreError::Database(error) | StoreError::Migration(MigrateError::Execute(error))) = error else {
        return false;
    };
    error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code)
        .is_some_and(|code| ["5", "261", "517"].contains(&&*code))
}
