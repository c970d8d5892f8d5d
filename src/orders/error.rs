//! Why the store did not do it, in words that say what to do. No value of an order is in them.

use std::borrow::Cow;

use super::DecryptionError;

/// What is said where no call is answered.
pub(crate) const NO_ANSWER: &str = "the database does not answer";

/// The keys of a worker do not fit the store: it must not encrypt cards with them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeysRefused {
    /// None of the cards that were tried can be decrypted.
    #[error(
        "none of the {0} stored cards that were tried can be decrypted: set the key of this database or, if you are \
         changing it, add that key to ENCRYPTION_KEYS_PREVIOUS. Where it is lost for good, `topup-worker rekey \
         --forget-lost-keys` lets workers start without it"
    )]
    ReadsNone(usize),
    /// Workers encrypt, or have encrypted, cards with a key that is not among them.
    #[error(
        "cards of this database may be encrypted with another key (fingerprint {0}): set that one or, if you are \
         changing it, add it to ENCRYPTION_KEYS_PREVIOUS. Where no card needs it, `topup-worker rekey` finds that out; \
         where it is lost for good, `topup-worker rekey --forget-lost-keys` lets workers start without it"
    )]
    Unknown(String),
}

/// The store failed. The words of the database stand in `source`; no value of an order is in them.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The address means no database.
    #[error("the address is neither sqlite:// nor postgres://, or cannot be read")]
    Address,
    /// The database did not do it.
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
    /// The tables could not be brought up to date.
    #[error("the tables of the database could not be brought up to date")]
    Migration(#[from] sqlx::migrate::MigrateError),
    /// The database took longer than one call may take. What it was asked for may be done nevertheless.
    #[error("the database did not answer within {} s", .0.as_secs_f64())]
    TooSlow(std::time::Duration),
    /// There is no database here, and it was not to be made.
    #[error(
        "there is no database {0}: set DATABASE_URL as the workers have it (a relative path counts from the folder in \
         which the command runs), or make a new database with `topup-worker migrate`"
    )]
    Missing(String),
    /// There is no file, and none can be made.
    #[error(
        "the file {0} cannot be made: make its folder and let the user of this program write to it, or correct DATABASE_URL"
    )]
    NotMade(String),
    /// The file of the database is not at its path any more.
    #[error(
        "the file of the database was removed or moved while it was open; nothing is stored until it is back at its path"
    )]
    Removed,
    /// Another file has taken its place.
    #[error(
        "the file of the database was replaced by another one while it was open; nothing is stored until it is back. To go \
         on with the other one, stop every worker, remove the files with -wal and -shm behind its name, and start them again"
    )]
    Replaced,
    /// The write-ahead log or its index is not beside the file any more.
    #[error(
        "the write-ahead log of the database (-wal or -shm) was removed while it was open; nothing is stored until every worker has been \
         stopped, each of which then writes what it holds into the file, and all are started again"
    )]
    LogRemoved,
    /// The write-ahead log at this path is that of a former file.
    #[error(
        "the write-ahead log {0} belongs to a file that was at this path before, and would damage this one: stop every \
         worker, move it and the file with -shm behind the name away, and start again"
    )]
    LogOfAnother(String),
    /// The tables are not there, or are older than this program, and were not to be changed.
    #[error(
        "the tables of the database are missing or older than this program: run `topup-worker migrate` first, or set \
         DATABASE_URL as the workers have it"
    )]
    NotMigrated,
    /// The database, or the role, is not one in which the orders can be kept.
    #[error("the database is not fit for the orders: {0}")]
    Unfit(String),
    /// A newer program has changed the tables.
    #[error(
        "a newer topup-worker has changed the tables of the database, and this version must not use them any more: run \
         the newer version"
    )]
    TooNew,
    /// The tables are of another program.
    #[error(
        "the tables of the database are not those of topup-worker, or were left half migrated: set DATABASE_URL to a \
         database of its own, or bring the last backup back"
    )]
    Foreign,
    /// A card is to be read or stored without a key.
    #[error("ENCRYPTION_KEY is not set, and a card cannot be read or stored without it")]
    NoKey,
    /// The keys do not fit the stored cards.
    #[error(transparent)]
    Keys(#[from] KeysRefused),
    /// A stored card cannot be read.
    #[error(transparent)]
    Decryption(#[from] DecryptionError),
    /// A stored row is not what this service writes.
    #[error("a stored {0} cannot be read")]
    Row(&'static str),
}

impl StoreError {
    /// Whether the database says that it is damaged.
    fn is_of_damage(&self) -> bool {
        // SQLITE_CORRUPT with its extended codes, SQLITE_NOTADB, and PostgreSQL's data_corrupted and index_corrupted.
        self.has_code(&["11", "267", "523", "779", "26", "XX001", "XX002"])
    }

    /// Whether the disk is full.
    fn is_of_full_disk(&self) -> bool {
        // SQLITE_FULL, and PostgreSQL's disk_full.
        self.has_code(&["13", "53100"])
    }

    /// Whether the file of the database, or one beside it, cannot be opened.
    pub(super) fn is_of_unopened_file(&self) -> bool {
        // SQLITE_CANTOPEN with its extended codes.
        self.has_code(&["14", "270", "526", "782", "1038", "1294", "1550"])
    }

    /// Whether the disk fails: `SQLITE_IOERR` with its extended codes. A full one may end so, too.
    fn is_of_failing_disk(&self) -> bool {
        let sqlite = |code: &str| code.parse::<u32>().is_ok_and(|code| code % 256 == 10);
        // Codes of PostgreSQL have five characters.
        self.code().is_some_and(|code| code.len() < 5 && sqlite(&code))
    }

    /// Whether the database takes no change.
    fn is_of_read_only(&self) -> bool {
        // SQLITE_READONLY with its extended codes, and PostgreSQL's read_only_sql_transaction.
        let sqlite = |code: &str| code.parse::<u32>().is_ok_and(|code| code % 256 == 8 && code < 8 * 256);
        self.code().is_some_and(|code| code == "25006" || sqlite(&code))
    }

    /// Whether the database is away, or not there yet, so that waiting may help.
    fn is_of_absence(&self) -> bool {
        let away = |error: &sqlx::Error| {
            // cannot_connect_now, too_many_connections, and the class of broken connections.
            let code = error.as_database_error().and_then(sqlx::error::DatabaseError::code);
            let busy = code.is_some_and(|code| {
                ["57P01", "57P02", "57P03", "53300"].contains(&&*code) || code.starts_with("08")
            });
            // A proxy whose server is away closes the connection where the protocol expects an answer.
            let broken = matches!(error, sqlx::Error::Io(_) | sqlx::Error::Protocol(_));
            busy || broken || matches!(error, sqlx::Error::PoolTimedOut)
        };
        matches!(self, Self::TooSlow(_)) || self.of_database().is_some_and(away)
    }

    /// Whether the database cannot be used now, so that waiting may help.
    pub(crate) fn may_pass(&self) -> bool {
        self.is_of_absence() || self.is_of_full_disk() || self.is_of_read_only() || self.is_of_unopened_file()
            || self.is_of_failing_disk()
            // Workers that have it open may be stopped.
            || matches!(self, Self::LogRemoved | Self::Replaced)
    }

    /// What is wrong with the database as a whole, in words; nothing where one call is at fault.
    pub(crate) fn fault(&self) -> Option<&'static str> {
        match self {
            Self::Removed | Self::Missing(_) => Some("the file of the database is not at its path any more"),
            Self::Replaced => Some("the file of the database was replaced by another one"),
            Self::LogRemoved => Some("the write-ahead log of the database was removed"),
            Self::NotMigrated => Some("the tables of the database are missing or older than this program"),
            Self::Foreign => Some("the tables of the database are not those of topup-worker"),
            Self::Keys(_) => Some("the encryption keys do not fit the database"),
            Self::LogOfAnother(_) => Some("the write-ahead log of the database belongs to another file"),
            error if error.is_of_damage() => Some("the database is damaged"),
            error if error.is_of_full_disk() => Some("the disk of the database is full"),
            error if error.is_of_failing_disk() => Some("the disk of the database fails or is full"),
            error if error.is_of_read_only() => Some("the database is read-only"),
            error if error.is_of_unopened_file() => {
                Some("the file of the database cannot be opened or written")
            }
            // undefined_table, undefined_column
            error if error.has_code(&["42P01", "42703"]) => {
                Some("the tables of the database are missing or older than this program")
            }
            // insufficient_privilege
            error if error.has_code(&["42501"]) => {
                Some("the database does not let this role read or change its tables")
            }
            // duplicate_prepared_statement, invalid_sql_statement_name
            error if error.has_code(&["42P05", "26000"]) => {
                Some("a pooler in transaction mode stands before the database; use its session mode")
            }
            error => error.is_of_absence().then_some(NO_ANSWER),
        }
    }

    fn has_code(&self, codes: &[&str]) -> bool {
        self.code().is_some_and(|code| codes.contains(&&*code))
    }

    /// The error of the database, in a call or while the tables were brought up to date.
    fn of_database(&self) -> Option<&sqlx::Error> {
        match self {
            Self::Database(error) | Self::Migration(sqlx::migrate::MigrateError::Execute(error)) => {
                Some(error)
            }
            _ => None,
        }
    }

    /// What the database calls the error.
    fn code(&self) -> Option<Cow<'_, str>> {
        self.of_database()?.as_database_error()?.code()
    }

    /// Whether one row is at fault, so that others can still be read.
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
