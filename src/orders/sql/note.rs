//! The note `<file>-opened` beside a SQLite file, which keeps processes from opening the file with different logs.
//!
//! SQLite finds the write-ahead log and its index by name. It would destroy the file in two cases: if it applied a
//! former file's log to its replacement, or created a second log after the one in use was removed. So the note records
//! which file, log and index were opened together, and each process holds a shared lock on the note while it has the
//! file open. If the note was removed, too, the lock of SQLite itself shows that a process has the file open.

use std::ffi::OsString;
use std::fmt;
use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::process::{Flock, FlockOffsetType, FlockType, fcntl_getlk};

use super::access::Access;
use crate::orders::StoreError;

/// Number of tries to open the note. Another try follows if another process replaces the note meanwhile.
const OPEN_TRIES: u32 = 10;
/// First byte and length of the range of a database file that every connection in WAL mode locks for reading: SQLite's
/// `SHARED_FIRST` and `SHARED_SIZE`.
const SHARED: (u64, u64) = (0x4000_0002, 510);
/// First byte and length of the range of an index file (`-shm`) that every connection locks: SQLite's `UNIX_SHM_DMS`.
const INDEX_IN_USE: (u64, u64) = (128, 1);

/// The note beside an open database file, under a shared lock. `file` is `None` if there is no usable note.
#[derive(Debug)]
pub(in crate::orders) struct Note {
    path: PathBuf,
    file: Option<File>,
}

/// The write-ahead log and its index; `None` for a missing file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Log {
    pub(super) log: Option<FileId>,
    pub(super) index: Option<FileId>,
}

/// Identity of a file, independent of its name.
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
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        std::fs::metadata(path).map(Self::from)
    }
}

impl From<Metadata> for FileId {
    fn from(file: Metadata) -> Self {
        Self { device: file.dev(), inode: file.ino() }
    }
}

impl Log {
    pub(super) fn of(path: &Path) -> Self {
        let there = |suffix| FileId::of(&beside(path, suffix)).ok();
        Self { log: there("-wal"), index: there("-shm") }
    }
}

impl Note {
    /// Opens the note with a shared lock, held until it is released or dropped. Fails if the write-ahead log beside the
    /// database belongs to another file, or if a process has the database open with a log or index that is gone.
    pub(in crate::orders) fn open(database: &Path, access: Access) -> Result<Self, StoreError> {
        let database = &real(database);
        if std::fs::metadata(database).is_ok_and(|file| file.nlink() > 1) {
            return Err(StoreError::SecondName(database.display().to_string()));
        }
        let path = beside(database, "-opened");
        let unusable = || StoreError::Note(path.display().to_string());
        for _ in 0..OPEN_TRIES {
            let (mut note, is_writable) = match open_file(&path) {
                Ok(opened) => opened,
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    if has_other_log(database) {
                        return Err(StoreError::OpenElsewhere(database.display().to_string()));
                    }
                    if access == Access::Write {
                        match options().create_new(true).open(&path) {
                            Ok(_) => continue,
                            Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
                            // If no note can be created here, SQLite cannot create its log either, and reports that.
                            Err(_) => {}
                        }
                    }
                    return Ok(Self { path, file: None });
                }
                // Another user's note, closed to this process. No one has the database open, so a writer replaces it.
                Err(error) if error.kind() == ErrorKind::PermissionDenied && !is_open_elsewhere(database) => {
                    if access == Access::Read {
                        return Ok(Self { path, file: None });
                    }
                    std::fs::remove_file(&path).map_err(|_| unusable())?;
                    continue;
                }
                Err(_) => return Err(unusable()),
            };
            let is_held = matches!(note.try_lock(), Err(TryLockError::WouldBlock));
            if is_held {
                // Waits while another process, the first to open the database, locks the note exclusively to check it.
                note.lock_shared().map_err(sqlx::Error::Io)?;
            }
            if FileId::of(&path).ok() != note.metadata().ok().map(FileId::from) {
                continue;
            }
            if !is_held && !is_writable && access == Access::Write && std::fs::remove_file(&path).is_ok() {
                continue;
            }
            check(&mut note, is_held, database, &path)?;
            return Ok(Self { path, file: Some(note) });
        }
        Err(unusable())
    }

    /// Records which file, log and index are open together.
    pub(super) fn write(&self, file: FileId, log: Log) -> Result<(), StoreError> {
        let (Some(mut note), Log { log: Some(log), index: Some(index) }) = (self.file.as_ref(), log) else {
            return Ok(());
        };
        let opened = format!("{file} {log} {index}\n");
        let mut write = || {
            let mut before = String::new();
            note.rewind()?;
            if note.read_to_string(&mut before).is_ok() && before == opened {
                return Ok(());
            }
            note.set_len(0)?;
            note.rewind()?;
            note.write_all(opened.as_bytes())
        };
        write().map_err(|error: io::Error| match error.kind() {
            ErrorKind::StorageFull | ErrorKind::ReadOnlyFilesystem => sqlx::Error::Io(error).into(),
            _ => StoreError::Note(self.path.display().to_string()),
        })
    }

    pub(super) fn release(&self) {
        // The error is ignored, because the lock ends with the process at the latest.
        drop(self.file.as_ref().map(File::unlock));
    }
}

fn options() -> OpenOptions {
    let mut options = File::options();
    options.read(true).write(true);
    options
}

/// Opens the note, and reports whether it can be written.
fn open_file(path: &Path) -> io::Result<(File, bool)> {
    match options().open(path) {
        Err(error) if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) => {
            File::open(path).map(|note| (note, false))
        }
        opened => opened.map(|note| (note, true)),
    }
}

/// Compares the locked note with the files beside it. Clears an outdated note that no other process holds.
fn check(note: &mut File, is_held: bool, database: &Path, path: &Path) -> Result<(), StoreError> {
    let mut opened = String::new();
    if let Err(error) = note.read_to_string(&mut opened)
        && error.kind() != ErrorKind::InvalidData
    {
        return Err(StoreError::Note(path.display().to_string()));
    }
    let ids: Vec<&str> = opened.split_whitespace().collect();
    let Log { log, index } = Log::of(database);
    let there = [FileId::of(database).ok(), log, index]
        .map(|id| id.map_or_else(|| "-".to_owned(), |id| id.to_string()));
    if let [file, log, ..] = ids[..]
        && *log == there[1]
        && *file != there[0]
        && there[0] != "-"
    {
        return Err(StoreError::LogOfAnother(beside(database, "-wal").display().to_string()));
    }
    match ids[..] {
        [file, _, _] if is_held && ids != there => {
            return Err(if *file == there[0] { StoreError::LogRemoved } else { StoreError::Replaced });
        }
        [_, _, _] if is_held => {}
        _ if has_other_log(database) => return Err(StoreError::LogRemoved),
        _ => {}
    }
    if !is_held {
        // The note names other files than those present, so it is cleared: a new file may get the inode of a named one.
        if ids != there {
            let _ = note.set_len(0);
        }
        // The error is ignored: on a file system without locks only the content of the note protects the file.
        let _ = note.lock_shared();
    }
    Ok(())
}

/// Whether another process has the database open, but with another log or index than those now beside the file.
fn has_other_log(database: &Path) -> bool {
    let is_used = || is_locked_elsewhere(&beside(database, "-shm"), INDEX_IN_USE);
    is_open_elsewhere(database) && !(beside(database, "-wal").exists() && is_used())
}

/// Whether another process has the file open in WAL mode.
fn is_open_elsewhere(database: &Path) -> bool {
    // Bytes 18 and 19 of the header are 2 in WAL mode.
    let is_wal = |file: &File| {
        let mut versions = [0; 2];
        file.read_exact_at(&mut versions, 18).is_ok() && versions == [2, 2]
    };
    is_locked_elsewhere(database, SHARED) && with_file(database, is_wal).unwrap_or(false)
}

/// Whether another process has locked these bytes of the file.
fn is_locked_elsewhere(path: &Path, (start, length): (u64, u64)) -> bool {
    let lock =
        Flock { start, length, pid: None, typ: FlockType::WriteLock, offset_type: FlockOffsetType::Set };
    with_file(path, |file| fcntl_getlk(file, &lock).is_ok_and(|held| held.is_some())).unwrap_or(false)
}

/// Calls the function with the open file; `None` if the file cannot be opened.
fn with_file<T>(path: &Path, read: impl FnOnce(&File) -> T) -> Option<T> {
    /// Closing one descriptor of a file ends all locks of the process on that file, those of SQLite included. So a
    /// descriptor that was opened here stays open.
    static KEPT_OPEN: Mutex<Vec<(FileId, File)>> = Mutex::new(Vec::new());
    let id = FileId::of(path).ok()?;
    let mut kept = KEPT_OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, file)) = kept.iter().find(|(known, _)| *known == id) {
        return Some(read(file));
    }
    let file = File::open(path).ok()?;
    let result = read(&file);
    kept.push((id, file));
    Some(result)
}

/// The path without symbolic links, as SQLite resolves it; unchanged if it cannot be resolved.
pub(super) fn real(path: &Path) -> PathBuf {
    let of_folder = || {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        Some(folder.canonicalize().ok()?.join(path.file_name()?))
    };
    path.canonicalize().ok().or_else(of_folder).unwrap_or_else(|| path.to_owned())
}

/// The path with this suffix added to the file name.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}
