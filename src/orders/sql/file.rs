//! A SQLite database while it is open: its connections, and whether its file is still the one at its path.
//!
//! A file that was removed or replaced stays open as it was, and what is written into it then is lost. So the path is
//! looked at before each statement, and again before each commit: nothing is done until the file is back.
//!
//! SQLite finds the write-ahead log of a file and its index by their names. It would apply the log of a former file to the
//! one that has taken its place, and a process that finds no log or no index makes another one, while those that have the
//! file open go on with theirs: both then destroy the file. So a note beside the file, with `-opened` behind its name, says
//! which file, log and index were opened together. Each process holds a shared lock on the note while it has the file open,
//! and no process opens a file that others hold with another log.

use std::ffi::OsString;
use std::fmt;
use std::fs::{File, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
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
    /// The log and its index that were there once the file was open.
    log: Log,
    /// Shows other processes that the file is open.
    note: Arc<Note>,
}

/// A write-ahead log and its index, as far as they are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Log {
    log: Option<FileId>,
    index: Option<FileId>,
}

/// The note beside a file that is open, under a shared lock. Without one where none can be made.
#[derive(Debug)]
pub(in crate::orders) struct Note(Option<File>);

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
        self.open.note.release();
    }

    /// Refuses where this file is not at the path any more.
    pub(super) fn must_be(&self, file: FileId) -> Result<(), StoreError> {
        match FileId::of(&self.path) {
            Ok(found) if found == file => {}
            Ok(_) => return Err(StoreError::Replaced),
            Err(_) => return Err(StoreError::Removed),
        }
        // SQLite removes it with the last connection, and so not as long as this one is open.
        let (opened, now) = (self.open.log, Log::of(&self.path));
        let is_lost = |opened: Option<FileId>, now| opened.is_some() && opened != now;
        if is_lost(opened.log, now.log) || is_lost(opened.index, now.index) {
            return Err(StoreError::LogRemoved);
        }
        Ok(())
    }
}

impl Log {
    fn of(path: &Path) -> Self {
        let there = |suffix| FileId::of(&beside(path, suffix)).ok();
        Self { log: there("-wal"), index: there("-shm") }
    }
}

impl Note {
    /// Refuses a file beside the write-ahead log of another one, and a file that other processes have open with a log or an
    /// index that is not there any more. Otherwise shows them that it is open here too, until that is released or dropped.
    pub(in crate::orders) fn open(path: &Path, access: Access) -> Result<Self, StoreError> {
        let (note, mut options) = (beside(path, "-opened"), File::options());
        options.read(true).write(true).create(access == Access::Write);
        // Where there is none and none can be made, SQLite cannot make a log either, or there was no worker yet.
        let Ok(mut note) = options.open(&note).or_else(|_| File::open(&note)) else { return Ok(Self(None)) };
        let is_held = matches!(note.try_lock(), Err(TryLockError::WouldBlock));
        if is_held {
            // A process that opens it alone holds the note for itself for a moment, until it says no more than is so.
            note.lock_shared().map_err(sqlx::Error::Io)?;
        }
        let mut opened = String::new();
        // One that cannot be read as a text says nothing.
        let _ = note.read_to_string(&mut opened);
        let ids: Vec<&str> = opened.split_whitespace().collect();
        let Log { log, index } = Log::of(path);
        let there = [FileId::of(path).ok(), log, index]
            .map(|id| id.map_or_else(|| "-".to_owned(), |id| id.to_string()));
        if let [file, log, ..] = ids[..]
            && *log == there[1]
            && *file != there[0]
            && there[0] != "-"
        {
            return Err(StoreError::LogOfAnother(beside(path, "-wal").display().to_string()));
        }
        if !is_held {
            // What the note says is past: the log that it names may be gone, and its inode another file's by now.
            if ids != there {
                let _ = note.set_len(0);
            }
            // Where the file system has no locks, the note alone must do.
            let _ = note.lock_shared();
        } else if let [file, _, _] = ids[..]
            && ids != there
        {
            return Err(if *file == there[0] { StoreError::LogRemoved } else { StoreError::Replaced });
        }
        Ok(Self(Some(note)))
    }

    /// Notes which file, log and index are open together.
    fn write(&self, file: FileId, log: Log) -> io::Result<()> {
        let (Some(mut note), Log { log: Some(log), index: Some(index) }) = (self.0.as_ref(), log) else {
            return Ok(());
        };
        let (said, mut before) = (format!("{file} {log} {index}\n"), String::new());
        note.rewind()?;
        if note.read_to_string(&mut before).is_ok() && before == said {
            return Ok(());
        }
        note.set_len(0)?;
        note.rewind()?;
        note.write_all(said.as_bytes())
    }

    /// The file is not open here any more.
    fn release(&self) {
        // A lock that cannot be released ends with the process.
        drop(self.0.as_ref().map(File::unlock));
    }
}

/// How to open a file that is there. One that was moved away meanwhile must not be made anew, empty.
pub(super) fn options(url: &str) -> Result<SqliteConnectOptions, sqlx::Error> {
    let options = SqliteConnectOptions::from_str(url)?.create_if_missing(false);
    Ok(options.synchronous(SqliteSynchronous::Full).busy_timeout(BUSY_TIMEOUT).foreign_keys(true))
}

async fn open(options: SqliteConnectOptions, path: &Path, access: Access) -> Result<Open, StoreError> {
    let note = Note::open(path, access)?;
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
    let log = Log::of(path);
    if access == Access::Write {
        note.write(file, log).map_err(sqlx::Error::Io)?;
    }
    Ok(Open { writer, readers, file, log, note: Arc::new(note) })
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
