//! Checks whether a worker could use a database. Nothing is created, migrated or committed, except that SQLite may
//! create its files `-wal` and `-shm` while the database is open.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection, Executor, PgConnection, SqliteConnection};
use topup_jobs::Timestamp;

use super::access::Access;
use super::database::{Database, DatabaseKind};
use super::marks::some_cards;
use super::note::{Note, real};
use super::schema::{Link, Marks, Tables};
use super::statement::sql;
use super::{place, postgres, rehearsal, sqlite};
use crate::orders::{CardCipher, StoreError};

/// Longest wait for a lock. A healthy worker's write is shorter, so a longer wait means that the file stays locked.
const BUSY_TIMEOUT: Duration = Duration::from_secs(3);
/// Size of the file that is written to test the free space; a transaction of an order needs less.
const TRIED_BYTES: usize = 1 << 16;

#[derive(Debug, thiserror::Error)]
pub(crate) enum InspectError {
    #[error("the address cannot be read")]
    Address,
    #[error("there is no such file")]
    Missing(PathBuf),
    /// The file does not exist and cannot be created in its folder.
    #[error("there is no such file, and none can be created")]
    Folder(#[source] std::io::Error),
    /// The file cannot be opened, or is not a database.
    #[error("the file cannot be opened")]
    Open(#[source] sqlx::Error),
    /// The disk of the file is full or read-only.
    #[error("the disk of the file cannot be written")]
    Disk(#[source] std::io::Error),
    /// `Note::open` refuses the file, for example because SQLite would use a wrong write-ahead log with it.
    #[error(transparent)]
    Log(StoreError),
    /// The database, the role or the connection does not meet the requirements.
    #[error(transparent)]
    Unfit(StoreError),
    /// The server is unreachable or refuses the connection.
    #[error("the server cannot be reached")]
    Connect(#[source] sqlx::Error),
}

/// Result of trying the keys on a sample of the stored cards.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sample {
    /// Number of cards tried.
    pub(crate) cards: usize,
    /// Cards encrypted with a previous key.
    pub(crate) previous: usize,
    /// Cards that no key decrypts.
    pub(crate) unreadable: usize,
    /// Cards that are not in the documented form.
    pub(crate) malformed: usize,
}

/// A connection that only inspects the database.
pub(crate) enum Inspector {
    /// A connection to the file at this path.
    Sqlite(SqliteConnection, PathBuf),
    Postgres(PgConnection),
}

/// Location of the database, without user and password: the path, or `host:port/database`.
pub(crate) fn place(url: &str) -> Option<String> {
    match DatabaseKind::of(url)? {
        DatabaseKind::Sqlite => SqliteConnectOptions::from_str(url)
            .ok()
            .map(|options| options.get_filename().display().to_string()),
        DatabaseKind::Postgres => {
            let options = postgres::options(url).ok()?;
            let host = match options.get_socket() {
                Some(socket) => socket.display().to_string(),
                None => format!("{}:{}", options.get_host(), options.get_port()),
            };
            Some(format!("{host}/{}", options.get_database().unwrap_or(options.get_username())))
        }
    }
}

/// Stores, changes, reads and deletes an order in an existing database as jobs do, and rolls this back.
pub(crate) async fn rehearse(url: &str, cipher: &CardCipher) -> Result<(), StoreError> {
    let database = Database::connect(url, Access::Write).await?;
    let rehearsed = rehearsal::rehearse(&database, Some(cipher)).await;
    database.close().await;
    rehearsed
}

impl Inspector {
    /// Opens the database; `None` if it is a file that does not exist and can be created.
    pub(crate) async fn open(url: &str) -> Result<Option<Self>, InspectError> {
        match Self::existing(url).await {
            Ok(inspector) => Ok(Some(inspector)),
            Err(InspectError::Missing(file)) => try_disk(&file).map(|()| None).map_err(unmade),
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn existing(url: &str) -> Result<Self, InspectError> {
        match DatabaseKind::of(url).ok_or(InspectError::Address)? {
            DatabaseKind::Sqlite => {
                open_file(url).await.map(|(connection, path)| Self::Sqlite(connection, path))
            }
            DatabaseKind::Postgres => {
                let options = postgres::options(url).map_err(|_| InspectError::Address)?;
                let connected = PgConnection::connect_with(&options).await;
                let mut connection = connected.map_err(InspectError::Connect)?;
                // The pooler is checked first, because no other check is reliable through a pooler in transaction mode.
                place::must_fit(&mut connection, &options).await.map_err(InspectError::Unfit)?;
                connection.execute(postgres::NEEDED).await.map_err(InspectError::Connect)?;
                Ok(Self::Postgres(connection))
            }
        }
    }

    /// Writes in a transaction that is rolled back; false if another process keeps the database locked.
    pub(crate) async fn try_write(&mut self) -> Result<bool, StoreError> {
        const WRITE: &str = "CREATE TABLE written_by_doctor_and_rolled_back (id INTEGER)";
        // If the tables exist, the role needs no right to create tables, but the right to change rows.
        let is_made = matches!(self.tables().await, Ok(Tables::UpToDate | Tables::Newer));
        if let Self::Postgres(connection) = self
            && is_made
        {
            place::may_change(connection).await?;
        }
        let written = async {
            match self {
                Self::Sqlite(connection, path) => {
                    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
                    sqlx::query(WRITE).execute(&mut *transaction).await?;
                    transaction.rollback().await?;
                    // SQLite writes nothing to the disk before a commit, so the disk is tested with a separate file.
                    try_disk(&real(path)).map_err(sqlx::Error::Io)
                }
                Self::Postgres(connection) => {
                    let mut transaction = connection.begin().await?;
                    let statements: &'static str = if is_made { &place::CHANGE_NOTHING } else { WRITE };
                    transaction.execute(statements).await?;
                    transaction.rollback().await
                }
            }
        };
        match written.await.map_err(StoreError::from) {
            Ok(()) => Ok(true),
            Err(error) if sqlite::is_busy(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn tables(&mut self) -> Result<Tables, StoreError> {
        self.link().tables().await
    }

    /// Reads the store id and the key fingerprints; fails if their tables are missing.
    pub(crate) async fn marks(&mut self) -> Result<Marks, StoreError> {
        self.link().marks().await
    }

    /// Tries to decrypt a sample of the oldest and newest stored cards.
    pub(crate) async fn try_keys(&mut self, cipher: &CardCipher) -> Result<Sample, StoreError> {
        let mut sample = Sample::default();
        for row in self.link().fetch(some_cards()).await? {
            sample.add(cipher, &row.get::<String>("card_code")?);
        }
        Ok(sample)
    }

    /// Version number of the PostgreSQL server, for example 150013; `None` for SQLite.
    pub(crate) async fn server_version(&mut self) -> Result<Option<i64>, StoreError> {
        let Self::Postgres(_) = self else { return Ok(None) };
        let ask = sql("SELECT current_setting('server_version_num')::bigint AS version");
        self.link().fetch(ask).await?.first().map(|row| row.get("version")).transpose()
    }

    /// Current time of the PostgreSQL server; `None` for SQLite.
    pub(crate) async fn server_time(&mut self) -> Result<Option<Timestamp>, StoreError> {
        let Self::Postgres(_) = self else { return Ok(None) };
        let ask = sql("SELECT clock_timestamp() AS now");
        self.link().fetch(ask).await?.first().map(|row| row.get("now")).transpose()
    }

    /// Closes the connection. When the last connection to a file closes, SQLite removes its helper files.
    pub(crate) async fn close(self) {
        drop(match self {
            Self::Sqlite(connection, _) => connection.close().await,
            Self::Postgres(connection) => connection.close().await,
        });
    }

    fn link(&mut self) -> Link<'_> {
        match self {
            Self::Sqlite(connection, _) => Link::Sqlite(connection),
            Self::Postgres(connection) => Link::Postgres(connection),
        }
    }
}

async fn open_file(url: &str) -> Result<(SqliteConnection, PathBuf), InspectError> {
    let options = SqliteConnectOptions::from_str(url).map_err(|_| InspectError::Address)?;
    if !options.get_filename().exists() {
        return Err(InspectError::Missing(options.get_filename().to_owned()));
    }
    Note::open(options.get_filename(), Access::Read).map_err(InspectError::Log)?;
    let path = options.get_filename().to_owned();
    let options = options.create_if_missing(false).busy_timeout(BUSY_TIMEOUT);
    // SQLite reports a full or read-only disk like a missing permission, so the disk is tested with a separate file.
    let unopened = |error| match try_disk(&real(&path)) {
        Err(disk) if is_of_disk(&disk) => InspectError::Disk(disk),
        _ => InspectError::Open(error),
    };
    let mut connection = SqliteConnection::connect_with(&options).await.map_err(unopened)?;
    // SQLite reads the file only with the first statement, so this one shows whether it is a database.
    let asked = sqlx::query("SELECT count(*) FROM sqlite_master").execute(&mut connection).await;
    asked.map_err(unopened)?;
    Ok((connection, path))
}

impl From<InspectError> for StoreError {
    fn from(error: InspectError) -> Self {
        match error {
            InspectError::Address => Self::Address,
            InspectError::Missing(file) => {
                let absolute = std::path::absolute(&file).unwrap_or(file);
                Self::Missing(absolute.display().to_string())
            }
            InspectError::Log(error) | InspectError::Unfit(error) => error,
            InspectError::Folder(error) | InspectError::Disk(error) => Self::Database(sqlx::Error::Io(error)),
            InspectError::Open(error) | InspectError::Connect(error) => Self::Database(error),
        }
    }
}

fn unmade(error: std::io::Error) -> InspectError {
    if is_of_disk(&error) { InspectError::Disk(error) } else { InspectError::Folder(error) }
}

fn is_of_disk(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(error.kind(), FileTooLarge | QuotaExceeded | ReadOnlyFilesystem | StorageFull)
}

/// Fails if no file can be created and written beside this one. Tries it with a file that is removed again.
fn try_disk(file: &Path) -> std::io::Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let probe = folder.join(format!(".topup-worker-doctor-{}", ulid::Ulid::generate()));
    let written = std::fs::File::create_new(&probe).and_then(|mut made| {
        made.write_all(&vec![1; TRIED_BYTES])?;
        made.sync_all()
    });
    match std::fs::remove_file(probe) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => written.and(Err(error)),
        _ => written,
    }
}
