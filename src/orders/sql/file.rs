//! An open SQLite database: its connections, and the check that its file is still at its path.
//!
//! Writes into a removed or replaced file would be lost. So the path is checked before each statement and each commit,
//! and every call fails until the file is back. SQLite finds the write-ahead log and its index by name, so both are
//! checked, too. The module `note` keeps processes from opening the file with another log than the one in use.

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Connection as _, SqliteConnection};

use super::access::Access;
use super::note::{FileId, Log, Note, real};
use super::statement::PREPARED_STATEMENTS;
use crate::orders::StoreError;

/// How long a write waits for the write of another process.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(30);
const READERS: u32 = 4;
/// The value of `PRAGMA auto_vacuum` for incremental vacuum.
const INCREMENTAL: i64 = 2;
/// If fewer pages than this are unused, none is returned to the file system.
const KEPT_UNUSED: i64 = 1_000;
/// Moves the last pages of the file, at most 250 (1 MiB), to unused places, and cuts the file.
const RELEASE: &str = "PRAGMA incremental_vacuum(250)";

/// An open SQLite file. Clones share the connections.
#[derive(Debug, Clone)]
pub(in crate::orders) struct SqliteFile {
    path: Arc<Path>,
    open: Open,
}

#[derive(Debug, Clone)]
pub(in crate::orders) struct Open {
    /// A single connection, so that this process never waits for its own lock.
    pub(super) writer: SqlitePool,
    pub(super) readers: SqlitePool,
    file: FileId,
    /// The path without symbolic links, beside which SQLite keeps the log.
    real: Arc<Path>,
    /// The log and index as they were after the file was opened.
    log: Log,
    /// Tells other processes that the file is open.
    note: Arc<Note>,
}

impl SqliteFile {
    /// Opens an existing file; migrates nothing.
    pub(super) async fn open(url: &str, access: Access) -> Result<Self, StoreError> {
        let mut options = options(url)?;
        if access == Access::Read {
            options = options.pragma("query_only", "ON");
        }
        let path: Arc<Path> = options.get_filename().into();
        let open = open(options, &path, access).await?;
        Ok(Self { path, open })
    }

    /// The connections; fails if the file is no longer at its path.
    pub(super) fn current(&self) -> Result<&Open, StoreError> {
        self.must_be(self.open.file)?;
        Ok(&self.open)
    }

    pub(super) async fn close(&self) {
        self.checkpoint().await;
        self.open.readers.close().await;
        self.open.writer.close().await;
        self.open.note.release();
    }

    /// Copies the write-ahead log into the file. This saves a log that was removed from its path, which is lost once no
    /// process has it open: SQLite copies it when the last process closes the file, but not if that is killed or two
    /// processes close the file at once. Uses a reader, because a command that only reads opens no writer.
    pub(super) async fn checkpoint(&self) {
        drop(sqlx::query("PRAGMA wal_checkpoint(PASSIVE)").execute(&self.open.readers).await);
    }

    /// Returns unused pages to the file system if at least a quarter of the file is unused. New orders reuse the rest.
    /// Does nothing for a file that was created without incremental vacuum.
    pub(super) async fn release_space(&self) -> Result<bool, StoreError> {
        let open = self.current()?;
        let number =
            async |pragma: &'static str| sqlx::query_scalar::<_, i64>(pragma).fetch_one(&open.readers).await;
        let (mode, pages) = (number("PRAGMA auto_vacuum").await?, number("PRAGMA page_count").await?);
        let unused = number("PRAGMA freelist_count").await?;
        if mode != INCREMENTAL || unused < KEPT_UNUSED.max(pages / 4) {
            return Ok(false);
        }
        sqlx::query(RELEASE).fetch_all(&open.writer).await?;
        Ok(true)
    }

    /// Fails if the path holds another file or none, or if the write-ahead log or its index is not the opened one.
    pub(super) fn must_be(&self, file: FileId) -> Result<(), StoreError> {
        match FileId::of(&self.path) {
            Ok(found) if found == file => {}
            Ok(_) => return Err(StoreError::Replaced),
            Err(_) => return Err(StoreError::Removed),
        }
        // SQLite removes the log only when the last connection closes. This one is open, so a missing log is an error.
        let (opened, now) = (self.open.log, Log::of(&self.open.real));
        let is_lost = |opened: Option<FileId>, now| opened.is_some() && opened != now;
        if is_lost(opened.log, now.log) || is_lost(opened.index, now.index) {
            return Err(StoreError::LogRemoved);
        }
        Ok(())
    }
}

/// Options that never create the file: if it was moved away, an empty one must not take its place.
pub(super) fn options(url: &str) -> Result<SqliteConnectOptions, sqlx::Error> {
    let options = SqliteConnectOptions::from_str(url)?.create_if_missing(false);
    let options = options.statement_cache_capacity(PREPARED_STATEMENTS);
    Ok(options.synchronous(SqliteSynchronous::Full).busy_timeout(BUSY_TIMEOUT).foreign_keys(true))
}

async fn open(options: SqliteConnectOptions, path: &Path, access: Access) -> Result<Open, StoreError> {
    let real: Arc<Path> = real(path).into();
    let note = Note::open(&real, access)?;
    let file = FileId::of(path).map_err(sqlx::Error::Io)?;
    // A reopened connection might get another file, so no connection is closed for its age or for being idle.
    let pool = |connections| {
        SqlitePoolOptions::new().max_connections(connections).max_lifetime(None).idle_timeout(None)
    };
    let readers = pool(READERS).connect_with(options.clone()).await?;
    // The first read makes SQLite open the log, which is identified below.
    sqlx::query("SELECT 1 FROM sqlite_master").fetch_optional(&readers).await?;
    // If the disk is full, SQLite ends a transaction that sqlx still counts as open. Such a connection is not reused.
    let usable = |connection: &SqliteConnection| !connection.is_in_transaction();
    let writer = pool(1)
        .acquire_timeout(BUSY_TIMEOUT)
        .before_acquire(move |connection, _| Box::pin(async move { Ok(usable(connection)) }))
        .connect_lazy_with(options);
    if FileId::of(path).ok() != Some(file) {
        return Err(StoreError::Replaced);
    }
    let log = Log::of(&real);
    if access == Access::Write {
        note.write(file, log)?;
    }
    Ok(Open { writer, readers, file, real, log, note: Arc::new(note) })
}

impl Open {
    pub(super) const fn file(&self) -> FileId {
        self.file
    }
}
