//! A SQLite database while it is open: its connections, and whether its file is still the one at its path.
//!
//! A file that was removed or replaced stays open as it was, and what is written into it then is lost. So the path is
//! looked at before each statement, and again before each commit. [`SqliteFile::change_over`] goes on with a
//! file that has taken the place of the former one.

use std::ffi::OsString;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions};
use sqlx::{Connection as _, SqliteConnection};

use super::Access;
use super::sqlite::{BUSY_TIMEOUT, options};
use crate::orders::StoreError;

const READERS: u32 = 4;

/// See the module. Clones are the same database.
#[derive(Debug, Clone)]
pub(in crate::orders) struct SqliteFile {
    url: Arc<str>,
    path: Arc<Path>,
    open: Arc<RwLock<Open>>,
}

/// The connections to one file.
#[derive(Debug, Clone)]
pub(in crate::orders) struct Open {
    /// One connection writes, so that this process never waits for itself.
    pub(super) writer: SqlitePool,
    pub(super) readers: SqlitePool,
    file: FileId,
    /// Its write-ahead log, which stays as long as a connection is open.
    log: Option<FileId>,
}

/// Which file it is, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::orders) struct FileId {
    device: u64,
    inode: u64,
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
        let open = Arc::new(RwLock::new(open(options, &path).await?));
        Ok(Self { url: url.into(), path, open })
    }

    /// The connections, if the file is still at its path.
    pub(super) fn current(&self) -> Result<Open, StoreError> {
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner).clone();
        self.must_be(open.file)?;
        Ok(open)
    }

    /// Refuses where this file is not at the path any more.
    pub(super) fn must_be(&self, file: FileId) -> Result<(), StoreError> {
        match FileId::of(&self.path) {
            Ok(found) if found == file => Ok(()),
            Ok(_) => Err(StoreError::Replaced),
            Err(_) => Err(StoreError::Removed),
        }
    }

    /// Uses from now on what was opened beside.
    pub(super) fn change_over(&self, other: &Self) {
        let other = other.open.read().unwrap_or_else(PoisonError::into_inner).clone();
        *self.open.write().unwrap_or_else(PoisonError::into_inner) = other;
    }

    /// Makes way for a file that has taken the place of the open one; returns its address. SQLite would take the
    /// write-ahead log of the former file, which is found by its name, for that of the new one. It is kept under another
    /// name: the former file may be needed, and is incomplete without it.
    pub(super) fn make_way(&self) -> Result<String, StoreError> {
        let noted = self.open.read().unwrap_or_else(PoisonError::into_inner).log;
        let log = beside(&self.path, "-wal");
        if noted.is_some() && FileId::of(&log).ok() == noted {
            for suffix in ["-shm", "-wal"] {
                let moved = std::fs::rename(
                    beside(&self.path, suffix),
                    beside(&self.path, &format!(".replaced{suffix}")),
                );
                moved.map_err(sqlx::Error::Io)?;
            }
            tracing::warn!(
                "the file of the database was replaced while it was open; its write-ahead log is kept beside it, with \
                 `.replaced` in its name"
            );
        }
        Ok(self.url.to_string())
    }
}

async fn open(options: SqliteConnectOptions, path: &Path) -> Result<Open, StoreError> {
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
    let log = FileId::of(&beside(path, "-wal")).ok();
    if FileId::of(path).ok() != Some(file) {
        return Err(StoreError::Replaced);
    }
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
