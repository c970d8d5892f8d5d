//! A look at the database that leaves it as it is: for whoever asks whether a worker could use it.
//!
//! Nothing is made, migrated or committed here. SQLite may put its two helper files beside the database
//! while it is open, as any reader of it does.

use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use sqlx::migrate::{AppliedMigration, Migrate, MigrateError, Migrator};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection, PgConnection, SqliteConnection};
use topup_jobs::Timestamp;

use super::sql::statement::{Row, Statement, sql};
use super::sql::{postgres, sqlite};
use super::{CardCipher, DatabaseKind, StoreError};

/// Longer than any write of a worker that is well.
const BUSY_TIMEOUT: Duration = Duration::from_secs(3);

/// The tables, compared with those this program knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tables {
    /// As they should be.
    UpToDate,
    /// Changes are still to be made.
    ToMigrate,
    /// A newer program has changed them.
    Newer,
    /// They were made by a program that is not this one, or a change of them was left half done.
    Foreign,
}

/// Why the database cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InspectError {
    /// The address is unusable.
    #[error("the address cannot be read")]
    Address,
    /// There is no file yet, and none can be made in this folder.
    #[error("there is no such file and none can be made")]
    Folder(#[source] std::io::Error),
    /// The file cannot be opened, or is no database.
    #[error("the file cannot be opened")]
    Open(#[source] sqlx::Error),
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
        match DatabaseKind::of(url).ok_or(InspectError::Address)? {
            DatabaseKind::Sqlite => open_file(url).await,
            DatabaseKind::Postgres => {
                let options = postgres::options(url).map_err(|_| InspectError::Address)?;
                let connected = PgConnection::connect_with(&options).await.map_err(InspectError::Connect)?;
                Ok(Some(Self::Postgres(connected)))
            }
        }
    }

    /// Writes in a transaction that is rolled back. False where another process is writing all the time.
    ///
    /// # Errors
    /// [`StoreError`] where the database cannot be written.
    pub(crate) async fn try_write(&mut self) -> Result<bool, StoreError> {
        const WRITE: &str = "CREATE TABLE written_by_doctor_and_rolled_back (id INTEGER)";
        let written = async {
            match self {
                Self::Sqlite(connection) => {
                    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
                    sqlx::query(WRITE).execute(&mut *transaction).await?;
                    transaction.rollback().await
                }
                Self::Postgres(connection) => {
                    let mut transaction = connection.begin().await?;
                    sqlx::query(WRITE).execute(&mut *transaction).await?;
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
        let noted = match self {
            Self::Sqlite(_) => sql("SELECT name FROM sqlite_master WHERE name = '_sqlx_migrations'"),
            Self::Postgres(_) => sql("SELECT 1 WHERE to_regclass('_sqlx_migrations') IS NOT NULL"),
        };
        if self.fetch(noted).await?.is_empty() {
            return Ok(Tables::ToMigrate);
        }
        Ok(match self {
            Self::Sqlite(connection) => compare(&sqlite::MIGRATOR, connection).await?,
            Self::Postgres(connection) => compare(&postgres::MIGRATOR, connection).await?,
        })
    }

    /// Decrypts some of the oldest and of the newest cards that are stored, and forgets them.
    ///
    /// # Errors
    /// [`StoreError::Decryption`] where no key of the cipher fits one of them.
    pub(crate) async fn try_keys(&mut self, cipher: &CardCipher) -> Result<Sample, StoreError> {
        // The provider's ids begin with the time.
        let oldest = sql("SELECT card_code FROM internet_orders WHERE card_code IS NOT NULL
             ORDER BY topup_id LIMIT 20");
        let newest = sql("SELECT card_code FROM internet_orders WHERE card_code IS NOT NULL
             ORDER BY topup_id DESC LIMIT 20");
        let mut sample = Sample::default();
        for end in [oldest, newest] {
            for row in self.fetch(end).await? {
                let again = cipher.encrypt_again(&row.get::<String>("card_code")?)?;
                sample.cards += 1;
                sample.previous += usize::from(again.is_some());
            }
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
        self.fetch(ask).await?.first().map(|row| row.get("version")).transpose()
    }

    /// The time of a PostgreSQL server; nothing for a file.
    ///
    /// # Errors
    /// [`StoreError`] where the server does not answer.
    pub(crate) async fn server_time(&mut self) -> Result<Option<Timestamp>, StoreError> {
        let Self::Postgres(_) = self else { return Ok(None) };
        let ask = sql("SELECT clock_timestamp() AS now");
        self.fetch(ask).await?.first().map(|row| row.get("now")).transpose()
    }

    /// Leaves it. A file's helper files are removed with that where nobody else has it open.
    pub(crate) async fn close(self) {
        drop(match self {
            Self::Sqlite(connection) => connection.close().await,
            Self::Postgres(connection) => connection.close().await,
        });
    }

    async fn fetch(&mut self, statement: Statement) -> Result<Vec<Row>, sqlx::Error> {
        Ok(match self {
            Self::Sqlite(connection) => {
                let rows = statement.sqlite().fetch_all(connection).await?;
                rows.into_iter().map(Row::Sqlite).collect()
            }
            Self::Postgres(connection) => {
                let rows = statement.postgres().fetch_all(connection).await?;
                rows.into_iter().map(Row::Postgres).collect()
            }
        })
    }
}

async fn open_file(url: &str) -> Result<Option<Inspector>, InspectError> {
    let options = SqliteConnectOptions::from_str(url).map_err(|_| InspectError::Address)?;
    let file = options.get_filename();
    if !file.exists() {
        return can_be_made(file).map(|()| None).map_err(InspectError::Folder);
    }
    let options = options.create_if_missing(false).busy_timeout(BUSY_TIMEOUT);
    let mut connection = SqliteConnection::connect_with(&options).await.map_err(InspectError::Open)?;
    // SQLite reads a file only when it is asked something of it.
    let asked = sqlx::query("SELECT count(*) FROM sqlite_master").execute(&mut connection).await;
    asked.map_err(InspectError::Open)?;
    Ok(Some(Inspector::Sqlite(connection)))
}

async fn compare(known: &Migrator, connection: &mut impl Migrate) -> Result<Tables, MigrateError> {
    if connection.dirty_version(&known.table_name).await?.is_some() {
        return Ok(Tables::Foreign);
    }
    let applied = connection.list_applied_migrations(&known.table_name).await?;
    Ok(judge(known, &applied))
}

fn judge(known: &Migrator, applied: &[AppliedMigration]) -> Tables {
    let newest = known.iter().map(|known| known.version).max().unwrap_or_default();
    for migration in applied {
        match known.iter().find(|known| known.version == migration.version) {
            Some(known) if known.checksum == migration.checksum => {}
            None if migration.version > newest => return Tables::Newer,
            _ => return Tables::Foreign,
        }
    }
    let complete = applied.len() == known.iter().count();
    if complete { Tables::UpToDate } else { Tables::ToMigrate }
}

/// Whether a file could be made there: one of another name is made in its folder and removed at once.
fn can_be_made(file: &Path) -> std::io::Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let probe = folder.join(format!(".topup-worker-doctor-{}", ulid::Ulid::generate()));
    std::fs::File::create_new(&probe)?;
    std::fs::remove_file(probe)
}
