//! Inspects the database and leaves it as it is: whether a worker could use it.
//!
//! Nothing is made, migrated or committed here. SQLite may put its two helper files beside the database
//! while it is open, as any reader of it does.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection, Executor, PgConnection, SqliteConnection};
use topup_jobs::Timestamp;

use super::access::Access;
use super::database::DatabaseKind;
use super::file::Note;
use super::marks::some_cards;
use super::schema::{Link, Marks, Tables};
use super::statement::sql;
use super::{place, postgres, sqlite};
use crate::orders::{CardCipher, StoreError};

/// Longer than any write of a worker that is well.
const BUSY_TIMEOUT: Duration = Duration::from_secs(3);

/// Why the database cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InspectError {
    /// The address is unusable.
    #[error("the address cannot be read")]
    Address,
    /// There is no such file.
    #[error("there is no such file")]
    Missing(PathBuf),
    /// There is no file yet, and none can be made in this folder.
    #[error("there is no such file and none can be made")]
    Folder(#[source] std::io::Error),
    /// The file cannot be opened, or is no database.
    #[error("the file cannot be opened")]
    Open(#[source] sqlx::Error),
    /// The file stands beside the write-ahead log of another one, or without the one that workers have open.
    #[error(transparent)]
    Log(StoreError),
    /// The database, or the way to it, is not one in which the orders can be kept.
    #[error(transparent)]
    Unfit(StoreError),
    /// The server does not let this program in.
    #[error("the server cannot be reached")]
    Connect(#[source] sqlx::Error),
}

/// How stored cards can be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Sample {
    /// How many were looked at.
    pub(crate) cards: usize,
    /// How many of them are under a previous key.
    pub(crate) previous: usize,
    /// How many of them no key decrypts.
    pub(crate) unreadable: usize,
    /// How many of them are not in the documented form.
    pub(crate) malformed: usize,
}

/// An open database that is only looked at.
pub(crate) enum Inspector {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

/// Where the database of this address is, without user and password.
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

impl Inspector {
    /// Opens the database. Nothing where it is a file that is not there yet and could be made.
    ///
    /// # Errors
    /// [`InspectError`] where that is impossible.
    pub(crate) async fn open(url: &str) -> Result<Option<Self>, InspectError> {
        match Self::existing(url).await {
            Ok(inspector) => Ok(Some(inspector)),
            Err(InspectError::Missing(file)) => {
                can_be_made(&file).map(|()| None).map_err(InspectError::Folder)
            }
            Err(error) => Err(error),
        }
    }

    /// Opens a database that is there.
    ///
    /// # Errors
    /// [`InspectError`] where there is none, or it cannot be opened.
    pub(crate) async fn existing(url: &str) -> Result<Self, InspectError> {
        match DatabaseKind::of(url).ok_or(InspectError::Address)? {
            DatabaseKind::Sqlite => open_file(url).await.map(Self::Sqlite),
            DatabaseKind::Postgres => {
                let options = postgres::options(url).map_err(|_| InspectError::Address)?;
                let connected = PgConnection::connect_with(&options).await;
                let mut connection = connected.map_err(InspectError::Connect)?;
                // First: through a pooler in transaction mode nothing else can be relied on.
                place::must_fit(&mut connection, &options).await.map_err(InspectError::Unfit)?;
                connection.execute(postgres::NEEDED).await.map_err(InspectError::Connect)?;
                Ok(Self::Postgres(connection))
            }
        }
    }

    /// Writes in a transaction that is rolled back. False where another process is writing all the time.
    ///
    /// # Errors
    /// [`StoreError`] where the database cannot be written.
    pub(crate) async fn try_write(&mut self) -> Result<bool, StoreError> {
        const WRITE: &str = "CREATE TABLE written_by_doctor_and_rolled_back (id INTEGER)";
        // Where the tables are there, a role that may do no more than change them is enough.
        let is_made = matches!(self.tables().await, Ok(Tables::UpToDate | Tables::Newer));
        if let Self::Postgres(connection) = self
            && is_made
        {
            place::may_change(connection).await?;
        }
        let written = async {
            match self {
                Self::Sqlite(connection) => {
                    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
                    sqlx::query(WRITE).execute(&mut *transaction).await?;
                    transaction.rollback().await
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

    /// Compares the tables with those this program knows.
    ///
    /// # Errors
    /// [`StoreError`] where the database does not answer.
    pub(crate) async fn tables(&mut self) -> Result<Tables, StoreError> {
        self.link().tables().await
    }

    /// What the database says of itself.
    ///
    /// # Errors
    /// [`StoreError`] where it does not, since its tables are missing or older than that.
    pub(crate) async fn marks(&mut self) -> Result<Marks, StoreError> {
        self.link().marks().await
    }

    /// Decrypts some of the oldest and of the newest cards that are stored, and forgets them.
    ///
    /// # Errors
    /// [`StoreError`] where the database does not answer.
    pub(crate) async fn try_keys(&mut self, cipher: &CardCipher) -> Result<Sample, StoreError> {
        let mut sample = Sample::default();
        for row in self.link().fetch(some_cards()).await? {
            sample.add(cipher, &row.get::<String>("card_code")?);
        }
        Ok(sample)
    }

    /// Number of a PostgreSQL server's version, for example 150013; nothing for a file.
    ///
    /// # Errors
    /// [`StoreError`] where the server does not answer.
    pub(crate) async fn server_version(&mut self) -> Result<Option<i64>, StoreError> {
        let Self::Postgres(_) = self else { return Ok(None) };
        let ask = sql("SELECT current_setting('server_version_num')::bigint AS version");
        self.link().fetch(ask).await?.first().map(|row| row.get("version")).transpose()
    }

    /// The time of a PostgreSQL server; nothing for a file.
    ///
    /// # Errors
    /// [`StoreError`] where the server does not answer.
    pub(crate) async fn server_time(&mut self) -> Result<Option<Timestamp>, StoreError> {
        let Self::Postgres(_) = self else { return Ok(None) };
        let ask = sql("SELECT clock_timestamp() AS now");
        self.link().fetch(ask).await?.first().map(|row| row.get("now")).transpose()
    }

    /// Closes it. SQLite removes a file's helper files with the last connection.
    pub(crate) async fn close(self) {
        drop(match self {
            Self::Sqlite(connection) => connection.close().await,
            Self::Postgres(connection) => connection.close().await,
        });
    }

    fn link(&mut self) -> Link<'_> {
        match self {
            Self::Sqlite(connection) => Link::Sqlite(connection),
            Self::Postgres(connection) => Link::Postgres(connection),
        }
    }
}

async fn open_file(url: &str) -> Result<SqliteConnection, InspectError> {
    let options = SqliteConnectOptions::from_str(url).map_err(|_| InspectError::Address)?;
    if !options.get_filename().exists() {
        return Err(InspectError::Missing(options.get_filename().to_owned()));
    }
    Note::open(options.get_filename(), Access::Read).map_err(InspectError::Log)?;
    let options = options.create_if_missing(false).busy_timeout(BUSY_TIMEOUT);
    let mut connection = SqliteConnection::connect_with(&options).await.map_err(InspectError::Open)?;
    // SQLite reads a file only when it is asked something of it.
    let asked = sqlx::query("SELECT count(*) FROM sqlite_master").execute(&mut connection).await;
    asked.map_err(InspectError::Open)?;
    Ok(connection)
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
            InspectError::Folder(error) => Self::Database(sqlx::Error::Io(error)),
            InspectError::Open(error) | InspectError::Connect(error) => Self::Database(error),
        }
    }
}

/// Whether a file could be made there: one of another name is made in its folder and removed at once.
fn can_be_made(file: &Path) -> std::io::Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let probe = folder.join(format!(".topup-worker-doctor-{}", ulid::Ulid::generate()));
    std::fs::File::create_new(&probe)?;
    std::fs::remove_file(probe)
}
