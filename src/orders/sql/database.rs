//! An open database of either kind, and a transaction in it: the small surface the statements run on.

use sqlx::Sqlite;
use sqlx::migrate::Migrator;

use super::access::Access;
use super::connections::{Connection, Connections};
use super::file::{FileId, SqliteFile};
use super::schema::{POSTGRES, SQLITE};
use super::statement::{Row, Statement};
use super::{place, postgres, sqlite};
use crate::orders::StoreError;

/// Which kind of database an address means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatabaseKind {
    /// One file, for workers on one machine.
    Sqlite,
    /// A server, for workers on any number of machines.
    Postgres,
}

impl DatabaseKind {
    /// The kind of this address; nothing where it cannot be used.
    #[must_use]
    pub fn of(url: &str) -> Option<Self> {
        match url.split_once("://") {
            Some(("sqlite", _)) => sqlite::usable(url).then_some(Self::Sqlite),
            Some(("postgres" | "postgresql", _)) => postgres::usable(url).then_some(Self::Postgres),
            _ => None,
        }
    }
}

/// See the module.
#[derive(Debug, Clone)]
pub(in crate::orders) enum Database {
    Sqlite(SqliteFile),
    Postgres(Connections),
}

impl Database {
    /// Opens it and brings its tables up to date.
    pub(in crate::orders) async fn open(url: &str) -> Result<Self, StoreError> {
        match DatabaseKind::of(url) {
            Some(DatabaseKind::Sqlite) => Ok(Self::Sqlite(sqlite::open(url).await?)),
            Some(DatabaseKind::Postgres) => Ok(Self::Postgres(postgres::open(url).await?)),
            None => Err(StoreError::Address),
        }
    }

    /// Opens it as it is; makes and migrates nothing.
    pub(in crate::orders) async fn connect(url: &str, access: Access) -> Result<Self, StoreError> {
        match DatabaseKind::of(url) {
            Some(DatabaseKind::Sqlite) => Ok(Self::Sqlite(SqliteFile::open(url, access).await?)),
            Some(DatabaseKind::Postgres) => Ok(Self::Postgres(postgres::connect(url, access).await?)),
            None => Err(StoreError::Address),
        }
    }

    /// The migrations that this program knows for it.
    pub(in crate::orders) fn migrator(&self) -> &'static Migrator {
        match self {
            Self::Sqlite(_) => &SQLITE,
            Self::Postgres(_) => &POSTGRES,
        }
    }

    /// A transaction that writes. On SQLite it has the file to itself from its beginning on; on PostgreSQL
    /// each change names the version or the state it is based on, and the server decides.
    pub(in crate::orders) async fn begin(&self) -> Result<Transaction, StoreError> {
        Ok(match self {
            Self::Sqlite(file) => {
                let open = file.current()?;
                let begun = open.writer.begin_with("BEGIN IMMEDIATE").await?;
                Transaction::Sqlite(begun, file.clone(), open.file())
            }
            Self::Postgres(connections) => {
                let mut connection = connections.get().await?;
                connection.execute("BEGIN").await?;
                Transaction::Postgres(connection)
            }
        })
    }

    /// Whether it can be written: refuses where another process holds it for itself, or where it is read-only. Changes
    /// nothing.
    pub(in crate::orders) async fn can_be_written(&self) -> Result<(), StoreError> {
        let mut transaction = self.begin().await?;
        if let Transaction::Postgres(connection) = &mut transaction {
            connection.execute(&place::CHANGE_NOTHING).await?;
        }
        transaction.rollback().await
    }

    /// Closes it.
    pub(in crate::orders) async fn close(&self) {
        match self {
            Self::Sqlite(file) => file.close().await,
            Self::Postgres(connections) => connections.close().await,
        }
    }

    /// Reads.
    pub(in crate::orders) async fn fetch(&self, statement: Statement) -> Result<Vec<Row>, StoreError> {
        Ok(match self {
            Self::Sqlite(file) => {
                let readers = &file.current()?.readers;
                sqlite_rows(statement.sqlite().fetch_all(readers).await?)
            }
            Self::Postgres(connections) => {
                let mut connection = connections.get().await?;
                let rows = statement.postgres().fetch_all(connection.in_use()).await?;
                connection.done();
                postgres_rows(rows)
            }
        })
    }

    /// Uses so many connections at most from now on, where it is a PostgreSQL.
    pub(in crate::orders) fn limit_connections(&self, most: usize) {
        if let Self::Postgres(connections) = self {
            connections.limit(most);
        }
    }

    /// Reads one row at most.
    pub(in crate::orders) async fn fetch_optional(
        &self,
        statement: Statement,
    ) -> Result<Option<Row>, StoreError> {
        Ok(self.fetch(statement).await?.pop())
    }
}

/// A transaction; rolled back when dropped.
pub(in crate::orders) enum Transaction {
    /// With the file in which it was begun.
    Sqlite(sqlx::Transaction<'static, Sqlite>, SqliteFile, FileId),
    /// It is under way on the connection from `BEGIN` to `COMMIT` or `ROLLBACK`; a connection on which it does not end is
    /// closed, and the server rolls it back.
    Postgres(Connection),
}

impl Transaction {
    /// Writes; gives the number of rows.
    pub(in crate::orders) async fn execute(&mut self, statement: Statement) -> Result<u64, StoreError> {
        Ok(match self {
            Self::Sqlite(open, ..) => statement.sqlite().execute(&mut **open).await?.rows_affected(),
            Self::Postgres(open) => statement.postgres().execute(open.in_use()).await?.rows_affected(),
        })
    }

    /// Reads, or writes and reads what was written.
    pub(in crate::orders) async fn fetch(&mut self, statement: Statement) -> Result<Vec<Row>, StoreError> {
        Ok(match self {
            Self::Sqlite(open, ..) => sqlite_rows(statement.sqlite().fetch_all(&mut **open).await?),
            Self::Postgres(open) => postgres_rows(statement.postgres().fetch_all(open.in_use()).await?),
        })
    }

    /// As [`Transaction::fetch`], one row at most.
    pub(in crate::orders) async fn fetch_optional(
        &mut self,
        statement: Statement,
    ) -> Result<Option<Row>, StoreError> {
        Ok(self.fetch(statement).await?.pop())
    }

    /// Undoes it.
    async fn rollback(self) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(open, ..) => open.rollback().await?,
            Self::Postgres(mut open) => {
                open.execute("ROLLBACK").await?;
                open.done();
            }
        }
        Ok(())
    }

    /// Makes it count.
    pub(in crate::orders) async fn commit(self) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(open, file, begun_in) => {
                file.must_be(begun_in)?;
                open.commit().await?;
            }
            Self::Postgres(mut open) => {
                open.execute("COMMIT").await?;
                open.done();
            }
        }
        Ok(())
    }
}

fn sqlite_rows(rows: Vec<sqlx::sqlite::SqliteRow>) -> Vec<Row> {
    rows.into_iter().map(Row::Sqlite).collect()
}

fn postgres_rows(rows: Vec<sqlx::postgres::PgRow>) -> Vec<Row> {
    rows.into_iter().map(Row::Postgres).collect()
}
