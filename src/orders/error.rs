//! Errors of the store. Their messages say what to do, and contain no value of an order.

use std::borrow::Cow;
use std::io::ErrorKind;

use super::DecryptionError;
use super::withheld::{SQLITE_ERROR, is_raised, withhold};

/// The fault that `/readyz` and the log report while the database does not answer.
pub(crate) const NO_ANSWER: &str = "the database does not answer";

/// The keys of a worker do not match the store, so it must not encrypt cards with them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeysRefused {
    /// The keys decrypt none of the stored cards that were tried; contains the number of these cards.
    #[error(
        "none of the {0} stored cards that were tried can be decrypted: set the key of this database or, during a \
         change of keys, add that key to ENCRYPTION_KEYS_PREVIOUS. If it is lost for good, `topup-worker rekey \
         --forget-lost-keys` lets workers start without it"
    )]
    ReadsNone(usize),
    /// The store records a key that this worker does not have; contains the fingerprint of that key.
    #[error(
        "cards of this database may be encrypted with another key (fingerprint {0}): set that key or, during a change \
         of keys, add it to ENCRYPTION_KEYS_PREVIOUS. If no card needs it any more, `topup-worker rekey` forgets it; \
         if it is lost for good, `topup-worker rekey --forget-lost-keys` lets workers start without it"
    )]
    Unknown(String),
}

/// A call of the store failed. The error of the database is the `source` and contains no value of an order.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The address names no supported database.
    #[error("the address is neither sqlite:// nor postgres://, or cannot be read")]
    Address,
    /// The database, or the connection to it, returned an error.
    #[error("the database call failed")]
    Database(#[source] sqlx::Error),
    /// The database carried out a write in part or not at all, and returned no error. Contains the name of the table.
    #[error(
        "the database does not store what this program writes to its table {0}, and returns no error: a trigger, rule or \
         view suppresses or alters it; remove it"
    )]
    NotStored(&'static str),
    /// The tables could not be brought up to date.
    #[error("the tables of the database could not be brought up to date")]
    Migration(#[from] sqlx::migrate::MigrateError),
    /// The call exceeded its time limit; the database may have carried it out nevertheless.
    #[error("the database did not answer within {} s", .0.as_secs_f64())]
    TooSlow(std::time::Duration),
    /// The database did not confirm a commit, for example because the connection broke.
    #[error("the database did not confirm a commit, and may or may not have carried it out")]
    Unconfirmed,
    /// There is no database at this path, and the command must not create one.
    #[error(
        "there is no database {0}: set DATABASE_URL to the value that the workers use (a relative path starts at the \
         working directory), or create a new database with `topup-worker migrate`"
    )]
    Missing(String),
    /// There is no database file, and none can be created.
    #[error(
        "the file {0} cannot be made: make its folder, let the user of this program write to it and check the free space \
         and inodes of its disk, or correct DATABASE_URL"
    )]
    NotMade(String),
    /// The file of the database is not at its path any more.
    #[error(
        "the file of the database was removed or moved while it was open; nothing is stored until it is back at its path"
    )]
    Removed,
    /// Another file is at the path of the database.
    #[error(
        "the file of the database was replaced by another one while it was open; nothing is stored until it is back. \
         To use the other one, stop every worker, remove the -wal and -shm files of the database, and start them again"
    )]
    Replaced,
    /// The write-ahead log or its index was removed or replaced.
    #[error(
        "the write-ahead log of the database (-wal or -shm) was removed while it was open; nothing is stored until \
         every worker is stopped, which writes its data into the file, and all are started again"
    )]
    LogRemoved,
    /// The write-ahead log at this path belongs to a file that was replaced. It would damage the new file.
    #[error(
        "the write-ahead log {0} belongs to a file that was at this path before, and would damage this one: stop every \
         worker, move this log and the -shm file of the database away, and start the workers again"
    )]
    LogOfAnother(String),
    /// Another process has the database file open, but with a write-ahead log that was removed from its path.
    #[error(
        "another process has the database {0} open, but not with the files beside it: its files -wal, -shm and -opened \
         were removed; nothing is stored until every process that has it open is stopped, which writes its data into \
         the file"
    )]
    OpenElsewhere(String),
    /// The file has a second name (a hard link). A process that used that name would keep a second log.
    #[error(
        "the database {0} has a second name (a hard link), and processes that use different names would destroy it: \
         remove the other name, which `find -samefile {0}` shows"
    )]
    SecondName(String),
    /// The file `-opened` beside the database, which records the write-ahead log in use, cannot be read or written.
    #[error(
        "the file {0}, which the workers keep beside their database, cannot be used: stop every worker, remove it, and \
         let the user of the workers write to its folder"
    )]
    Note(String),
    /// The tables are missing or older than this program, and the command must not migrate them.
    #[error(
        "the tables of the database are missing or older than this program: run `topup-worker migrate` first, or set \
         DATABASE_URL to the value that the workers use"
    )]
    NotMigrated,
    /// The database, the role or the connection does not meet the requirements.
    #[error("the database cannot be used for the orders: {0}")]
    Unfit(String),
    /// A column has another type than this program's tables have.
    #[error("a column of the database has another type than this program created it with: undo that change")]
    OtherColumn,
    /// A newer program has changed the tables so that this one must not use them.
    #[error(
        "a newer topup-worker has changed the tables of the database, and this version must not use them any more: run \
         the newer version"
    )]
    TooNew,
    /// The tables belong to another program, or a migration was interrupted.
    #[error(
        "the tables of the database are not those of topup-worker, or a migration was interrupted: set DATABASE_URL to \
         a database of its own, or restore the last backup"
    )]
    Foreign,
    /// The call needs a card key and the store was opened without one.
    #[error("ENCRYPTION_KEY is not set, and a card cannot be read or stored without it")]
    NoKey,
    /// The worker's keys do not match the stored cards.
    #[error(transparent)]
    Keys(#[from] KeysRefused),
    /// A stored card cannot be read.
    #[error(transparent)]
    Decryption(#[from] DecryptionError),
    /// A stored value is not in the form that this service writes; contains the name of the value.
    #[error("a stored {0} cannot be read")]
    Row(&'static str),
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(withhold(error))
    }
}

impl StoreError {
    /// Whether the database reports damaged data, or a file that is no database.
    fn is_of_damage(&self) -> bool {
        // SQLITE_NOTADB.
        self.is_of_corruption() || self.has_code(&["26"])
    }

    fn is_of_corruption(&self) -> bool {
        // SQLITE_CORRUPT with its extended codes, and PostgreSQL's data_corrupted and index_corrupted.
        self.has_code(&["11", "267", "523", "779", "XX001", "XX002"])
    }

    pub(crate) fn is_of_full_disk(&self) -> bool {
        // SQLITE_FULL, and PostgreSQL's disk_full.
        self.has_code(&["13", "53100"])
            || self.is_of_disk(&[ErrorKind::StorageFull, ErrorKind::QuotaExceeded, ErrorKind::FileTooLarge])
    }

    fn is_of_disk(&self, kinds: &[ErrorKind]) -> bool {
        matches!(self.of_database(), Some(sqlx::Error::Io(error)) if kinds.contains(&error.kind()))
    }

    /// Whether SQLite cannot open the database file, its log or its index.
    pub(super) fn is_of_unopened_file(&self) -> bool {
        // SQLITE_CANTOPEN with its extended codes.
        self.has_code(&["14", "270", "526", "782", "1038", "1294", "1550"])
    }

    /// Whether the disk fails: `SQLITE_IOERR` with its extended codes. A full disk may cause the same codes.
    fn is_of_failing_disk(&self) -> bool {
        let sqlite = |code: &str| code.parse::<u32>().is_ok_and(|code| code % 256 == 10);
        // PostgreSQL's codes have five characters, so a shorter code is SQLite's.
        self.code().is_some_and(|code| code.len() < 5 && sqlite(&code))
    }

    fn is_of_read_only(&self) -> bool {
        // SQLITE_READONLY with its extended codes, and PostgreSQL's read_only_sql_transaction.
        let sqlite = |code: &str| code.parse::<u32>().is_ok_and(|code| code % 256 == 8 && code < 8 * 256);
        self.code().is_some_and(|code| code == "25006" || sqlite(&code))
            || self.is_of_disk(&[ErrorKind::ReadOnlyFilesystem])
    }

    /// Whether the database cannot be reached now, so that waiting may help.
    pub(super) fn is_of_absence(&self) -> bool {
        let away = |error: &sqlx::Error| {
            // PostgreSQL's shutdown codes, cannot_connect_now, too_many_connections, and the connection exceptions.
            let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
            let busy = code.is_some_and(|code| {
                ["57P01", "57P02", "57P03", "53300"].contains(&&*code) || code.starts_with("08")
            });
            // A proxy whose server is down closes the connection instead of answering.
            let broken = matches!(error, sqlx::Error::Io(_) | sqlx::Error::Protocol(_));
            busy || broken || matches!(error, sqlx::Error::PoolTimedOut)
        };
        matches!(self, Self::TooSlow(_) | Self::Unconfirmed) || self.of_database().is_some_and(away)
    }

    /// Whether the fault may end by itself or by an operator's repair, so that waiting may help.
    pub(crate) fn may_pass(&self) -> bool {
        self.is_of_absence() || self.is_of_full_disk() || self.is_of_read_only() || self.is_of_unopened_file()
            || self.is_of_failing_disk()
            || self.is_of_definitions() || self.is_of_corruption()
            // Each ends once the operator stops the processes that have the file open, or repairs files or tables.
            || matches!(self, Self::LogRemoved | Self::Replaced | Self::OpenElsewhere(_) | Self::SecondName(_) | Self::Note(_) | Self::NotStored(_))
    }

    /// The fault of the database as a whole, for `/readyz` and the log; `None` if only this call is at fault.
    pub(crate) fn fault(&self) -> Option<&'static str> {
        match self {
            Self::Removed | Self::Missing(_) => Some("the file of the database is not at its path any more"),
            Self::Replaced => Some("the file of the database was replaced by another one"),
            Self::LogRemoved => Some("the write-ahead log of the database was removed"),
            Self::OpenElsewhere(_) => Some("another process has the database open with other files"),
            Self::SecondName(_) => Some("the database has a second name (a hard link)"),
            Self::Note(_) => Some("the file -opened beside the database cannot be used"),
            Self::NotMigrated => Some("the tables of the database are missing or older than this program"),
            Self::Foreign => Some("the tables of the database are not those of topup-worker"),
            Self::Keys(_) => Some("the encryption keys do not fit the database"),
            Self::OtherColumn => Some("a column of the database has another type than it was created with"),
            Self::LogOfAnother(_) => Some("the write-ahead log of the database belongs to another file"),
            Self::NotStored(_) => {
                Some("a trigger, rule or view of the database suppresses or alters changes")
            }
            // Comes before all tests of codes, because a trigger or function may raise an error with any code.
            error if error.is_raised() => Some("a trigger or function of the database fails"),
            error if error.is_of_damage() => Some("the database is damaged"),
            error if error.is_of_full_disk() => Some("the disk of the database is full"),
            error if error.is_of_failing_disk() => Some("the disk of the database fails or is full"),
            error if error.is_of_read_only() => Some("the database is read-only"),
            error if error.is_of_unopened_file() => {
                Some("the file of the database cannot be opened or written")
            }
            error if error.is_of_other_tables() => {
                Some("the tables of the database are missing or older than this program")
            }
            // PostgreSQL's insufficient_privilege.
            error if error.has_code(&["42501"]) => {
                Some("the database does not let this role read or change its tables")
            }
            // PostgreSQL's duplicate_prepared_statement and invalid_sql_statement_name.
            error if error.has_code(&["42P05", "26000"]) => {
                Some("a pooler in transaction mode stands before the database; use its session mode")
            }
            error if error.is_of_absence() => Some(NO_ANSWER),
            error if error.is_of_constraint() => Some("a constraint of the database refuses rows"),
            error => error.is_of_statement().then_some("the database refuses the statements of this program"),
        }
    }

    /// Whether a table or column that this program uses does not exist.
    fn is_of_other_tables(&self) -> bool {
        // PostgreSQL's undefined_table and undefined_column. SQLite has no code of its own for either.
        self.has_code(&["42P01", "42703"])
            || (self.has_code(&[SQLITE_ERROR])
                && self
                    .message()
                    .is_some_and(|text| text.starts_with("no such ") || text.contains("has no column")))
    }

    /// Whether an operator has changed the tables so that they refuse a row.
    pub(crate) fn is_of_definitions(&self) -> bool {
        self.is_raised()
            || self.is_of_constraint()
            || self.is_of_other_tables()
            || matches!(self, Self::OtherColumn)
    }

    fn is_raised(&self) -> bool {
        self.of_database().and_then(sqlx::Error::as_database_error).is_some_and(is_raised)
    }

    /// Whether a row violates a constraint: `SQLITE_CONSTRAINT` with its extended codes, or PostgreSQL's class 23.
    fn is_of_constraint(&self) -> bool {
        let sqlite = |code: &str| code.parse::<u32>().is_ok_and(|code| code % 256 == 19);
        self.code().is_some_and(|code| if code.len() == 5 { code.starts_with("23") } else { sqlite(&code) })
    }

    /// Whether the database cannot run a statement at all, whatever its values are.
    fn is_of_statement(&self) -> bool {
        // After PostgreSQL's errors of conflicts, locks and time limits (40, 55, 57), another call may succeed.
        let passes = |code: &str| ["40", "55", "57"].iter().any(|class| code.starts_with(class));
        self.code().is_some_and(|code| if code.len() == 5 { !passes(&code) } else { code == SQLITE_ERROR })
    }

    fn message(&self) -> Option<&str> {
        Some(self.of_database()?.as_database_error()?.message())
    }

    fn has_code(&self, codes: &[&str]) -> bool {
        self.code().is_some_and(|code| codes.contains(&&*code))
    }

    /// The error that the database returned, in a call or in a migration.
    fn of_database(&self) -> Option<&sqlx::Error> {
        match self {
            Self::Database(error) | Self::Migration(sqlx::migrate::MigrateError::Execute(error)) => {
                Some(error)
            }
            _ => None,
        }
    }

    fn code(&self) -> Option<Cow<'_, str>> {
        self.of_database()?.as_database_error()?.code()
    }

    /// Whether a single row is at fault, so that the other rows can still be read.
    #[must_use]
    pub fn is_of_one_row(&self) -> bool {
        matches!(
            self,
            Self::Row(_)
                | Self::Decryption(_)
                | Self::Database(sqlx::Error::ColumnDecode { .. } | sqlx::Error::Decode(_))
        )
    }
}
