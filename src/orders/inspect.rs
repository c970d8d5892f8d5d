//! A look at the database that leaves it as it is: for whoever asks whether a worker could use it.
//!
//! Nothing is made, migrated or committed here. SQLite may put its two helper files beside the database
//! while it is open, as any reader of it does.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use sqlx::migrate::Migrate;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{Connection, SqliteConnection};

use super::sqlite::{MIGRATOR, is_busy};
use super::{CardCipher, StoreError};

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
    Address(#[source] sqlx::Error),
    /// There is no file yet, and none can be made in this folder.
    #[error("there is no such file and none can be made")]
    Folder(#[source] std::io::Error),
    /// The file cannot be opened, or is no database.
    #[error("the file cannot be opened")]
    Open(#[source] sqlx::Error),
}

/// An open database that is only looked at.
pub(crate) struct Inspector {
    connection: SqliteConnection,
}

/// The file of this address; nothing where the address is unusable.
pub(crate) fn database_file(url: &str) -> Option<PathBuf> {
    SqliteConnectOptions::from_str(url).ok().map(|options| options.get_filename().to_owned())
}

impl Inspector {
    /// Opens the file. Nothing where there is none yet and one could be made.
    ///
    /// # Errors
    /// [`InspectError`] where that is impossible.
    pub(crate) async fn open(url: &str) -> Result<Option<Self>, InspectError> {
        let options = SqliteConnectOptions::from_str(url).map_err(InspectError::Address)?;
        let file = options.get_filename();
        if !file.exists() {
            return can_be_made(file).map(|()| None).map_err(InspectError::Folder);
        }
        let options = options.create_if_missing(false).busy_timeout(BUSY_TIMEOUT);
        let mut connection = SqliteConnection::connect_with(&options).await.map_err(InspectError::Open)?;
        // SQLite reads a file only when it is asked something of it.
        let asked = sqlx::query("SELECT count(*) FROM sqlite_master").execute(&mut connection).await;
        asked.map_err(InspectError::Open)?;
        Ok(Some(Self { connection }))
    }

    /// Writes in a transaction that is rolled back. False where another process is writing all the time.
    ///
    /// # Errors
    /// [`StoreError`] where the file cannot be written.
    pub(crate) async fn try_write(&mut self) -> Result<bool, StoreError> {
        let written = async {
            let mut transaction = self.connection.begin_with("BEGIN IMMEDIATE").await?;
            sqlx::query("CREATE TABLE written_by_doctor_and_rolled_back (id INTEGER)")
                .execute(&mut *transaction)
                .await?;
            transaction.rollback().await
        };
        match written.await.map_err(StoreError::from) {
            Ok(()) => Ok(true),
            Err(error) if is_busy(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Compares the tables with those this program knows.
    ///
    /// # Errors
    /// [`StoreError`] where the database does not answer.
    pub(crate) async fn tables(&mut self) -> Result<Tables, StoreError> {
        let noted = "SELECT count(*) FROM sqlite_master WHERE name = '_sqlx_migrations'";
        let noted: i64 = sqlx::query_scalar(noted).fetch_one(&mut self.connection).await?;
        if noted == 0 {
            return Ok(Tables::ToMigrate);
        }
        let table = &MIGRATOR.table_name;
        if self.connection.dirty_version(table).await?.is_some() {
            return Ok(Tables::Foreign);
        }
        let applied = self.connection.list_applied_migrations(table).await?;
        let newest = MIGRATOR.iter().map(|known| known.version).max().unwrap_or_default();
        for migration in &applied {
            match MIGRATOR.iter().find(|known| known.version == migration.version) {
                Some(known) if known.checksum == migration.checksum => {}
                None if migration.version > newest => return Ok(Tables::Newer),
                _ => return Ok(Tables::Foreign),
            }
        }
        let complete = applied.len() == MIGRATOR.iter().count();
        Ok(if complete { Tables::UpToDate } else { Tables::ToMigrate })
    }

    /// Decrypts the oldest and the newest card that is stored and forgets them. False where none is stored.
    ///
    /// # Errors
    /// [`StoreError::Decryption`] where the cipher's key is another one.
    pub(crate) async fn try_key(&mut self, cipher: &CardCipher) -> Result<bool, StoreError> {
        const CARDS: &str =
            "SELECT card_code FROM internet_orders WHERE card_code IS NOT NULL ORDER BY rowid";
        let ends = format!("SELECT * FROM ({CARDS} LIMIT 1) UNION ALL SELECT * FROM ({CARDS} DESC LIMIT 1)");
        let ends = sqlx::query_scalar(sqlx::AssertSqlSafe(ends));
        let cards: Vec<String> = ends.fetch_all(&mut self.connection).await?;
        for card in &cards {
            cipher.decrypt(card).map(drop)?;
        }
        Ok(!cards.is_empty())
    }

    /// Closes the file, and with that removes SQLite's helper files where nobody else has it open.
    pub(crate) async fn close(self) {
        drop(self.connection.close().await);
    }
}

/// Whether a file could be made there: one of another name is made in its folder and removed at once.
fn can_be_made(file: &Path) -> std::io::Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let probe = folder.join(format!(".topup-worker-doctor-{}", ulid::Ulid::generate()));
    std::fs::File::create_new(&probe)?;
    std::fs::remove_file(probe)
}
