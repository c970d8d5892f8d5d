//! A SQLite database while it is open: its connections, and whether its file is still the one at its path.
//!
//! A file that was removed or replaced stays open as it was, and what is written into it then is lost. So the path is
//! looked at before each statement, and again before each commit: nothing is done until the file is back.
//!
//! SQLite finds the write-ahead log of a file by its name, and would apply the log of a former file to the one that has
//! taken its place. So a note beside the file, with `-opened` behind its name, says which file and which log were opened
//! together, and a file beside the log of another one is not opened.

use std::ffi::OsString;
use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Connection as _, SqliteConnection};

use super::access::Access;
use crate::orders::StoreError;

/// How long a write waits for another process to finish its own.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(30);
const READERS: u32 = 4;

/// See the module. Clones are the same database.
#[derive(Debug, Clone)]
pub(in crate::orders) struct SqliteFile {
    path: Arc<Path>,
    open: Open,
}

/// The connections to one file.
#[derive(Debug, Clone)]
pub(in crate::orders) struct Open {
    /// One connection writes, so that this process never waits for itself.
    pub(super) writer: SqlitePool,
    pub(super) readers: SqlitePool,
    file: FileId,
    /// The log that was there once the file was open.
    log: Option<FileId>,
}

/// Which file it is, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::orders) struct FileId {
    device: u64,
    inode: u64,
}

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.device, self.inode)
    }
}

impl FileId {
    fn of(path: &Path) -> io::Result<Self> {
        let file = std::fs::metadata(path)?;
        Ok(Self { device: file.dev(), inode: file.ino() })
    }
}

impl SqliteFile {
    /// Opens a file that is there, as it is.
    pub(super) async fn open(url: &str, access: Access) -> Result<Self, StoreError> {
        let mut options = options(url)?;
        if access == Access::Read {
            options = options.pragma("query_only", "ON");
        }
        let path: Arc<Path> = options.get_filename().into();
        let open = open(options, &path, access).await?;
        Ok(Self { path, open })
    }

    /// The connections, if the file is still at its path.
    pub(super) fn current(&self) -> Result<&Open, StoreError> {
        self.must_be(self.open.file)?;
        Ok(&self.open)
    }

    /// Closes it. The last process that does so leaves all of it in the file.
    pub(super) async fn close(&self) {
        self.open.readers.close().await;
        self.open.writer.close().await;
    }

    /// Refuses where this file is not at the path any more.
    pub(super) fn must_be(&self, file: FileId) -> Result<(), StoreError> {
        match FileId::of(&self.path) {
            Ok(found) if found == file => {}
            Ok(_) => return Err(StoreError::Replaced),
            Err(_) => return Err(StoreError::Removed),
        }
        // SQLite removes it with the last connection, and so not as long as this one is open.
        match self.open.log {
            Some(log) if FileId::of(&beside(&self.path, "-wal")).ok() != Some(log) => {
                Err(StoreError::LogRemoved)
            }
            _ => Ok(()),
        }
    }
}

/// Refuses a file beside the write-ahead log of another one.
pub(in crate::orders) fn must_own_log(path: &Path, access: Access) -> Result<(), StoreError> {
    let Ok(log) = FileId::of(&beside(path, "-wal")) else {
        // The log that the note names is gone, and the file system may give its inode to the next log.
        if access == Access::Write {
            let _ = std::fs::remove_file(beside(path, "-opened"));
        }
        return Ok(());
    };
    let Ok(file) = FileId::of(path) else { return Ok(()) };
    let noted = std::fs::read_to_string(beside(path, "-opened")).unwrap_or_default();
    match noted.trim().split_once(' ') {
        Some((of_file, of_log)) if of_log == log.to_string() && of_file != file.to_string() => {
            Err(StoreError::LogOfAnother(beside(path, "-wal").display().to_string()))
        }
        _ => Ok(()),
    }
}

/// Notes which file and which log are open together.
fn note_log(path: &Path, file: FileId) -> std::io::Result<()> {
    let Ok(log) = FileId::of(&beside(path, "-wal")) else { return Ok(()) };
    let (note, new) =
        (format!("{file} {log}\n"), beside(path, &format!("-opened.{}", ulid::Ulid::generate())));
    if std::fs::read_to_string(beside(path, "-opened")).is_ok_and(|noted| noted == note) {
        return Ok(());
    }
    std::fs::write(&new, note)?;
    std::fs::rename(new, beside(path, "-opened"))
}

/// How to open a file that is there. One that was moved away meanwhile must not be made anew, empty.
pub(super) fn options(url: &str) -> Result<SqliteConnectOptions, sqlx::Error> {
    let options = SqliteConnectOptions::from_str(url)?.create_if_missing(false);
    Ok(options.synchronous(SqliteSynchronous::Full).busy_timeout(BUSY_TIMEOUT).foreign_keys(true))
}

async fn open(options: SqliteConnectOptions, path: &Path, access: Access) -> Result<Open, StoreError> {
    must_own_log(path, access)?;
    let file = FileId::of(path).map_err(sqlx::Error::Io)?;
    // A connection that is opened later would lead to whatever file there is then: none is closed for its age.
    let pool = |connections| {
        SqlitePoolOptions::new().max_connections(connections).max_lifetime(None).idle_timeout(None)
    };
    let readers = pool(READERS).connect_with(options.clone()).await?;
    // Reads, and so opens the log.
    sqlx::query("SELECT 1 FROM sqlite_master").fetch_optional(&readers).await?;
    // A connection on which a full disk has ended a transaction behind sqlx's back is closed: no other could begin on it.
    let usable = |connection: &SqliteConnection| !connection.is_in_transaction();
    let writer = pool(1)
        .acquire_timeout(BUSY_TIMEOUT)
        .before_acquire(move |connection, _| Box::pin(async move { Ok(usable(connection)) }))
        .connect_lazy_with(options);
    if FileId::of(path).ok() != Some(file) {
        return Err(StoreError::Replaced);
    }
    if access == Access::Write {
        note_log(path, file).map_err(sqlx::Error::Io)?;
    }
    let log = FileId::of(&beside(path, "-wal")).ok();
    Ok(Open { writer, readers, file, log })
}

impl Open {
    pub(super) const fn file(&self) -> FileId {
        self.file
    }
}

/// The file of this name and something behind it.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}
