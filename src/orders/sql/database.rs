//! An open SQLite or PostgreSQL database. Every statement runs on a [`Database`] or in a [`Transaction`].

use sqlx::migrate::Migrator;
use sqlx::{Executor as _, Sqlite};

use super::access::Access;
use super::connections::{Connection, Connections};
use super::file::SqliteFile;
use super::migrations::{POSTGRES, SQLITE};
use super::note::FileId;
use super::statement::{Row, Statement, Values, sql_with_rows};
use super::{place, postgres, sqlite};
use crate::orders::StoreError;

/// Kind of database that an address names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatabaseKind {
    /// A file, for workers on one machine.
    Sqlite,
    /// A server, for workers on any number of machines.
    Postgres,
}

impl DatabaseKind {
    /// The kind of an address; `None` if the address is unusable.
    #[must_use]
    pub fn of(url: &str) -> Option<Self> {
        match url.split_once("://") {
            Some(("sqlite", _)) => sqlite::usable(url).then_some(Self::Sqlite),
            Some(("postgres" | "postgresql", _)) => postgres::usable(url).then_some(Self::Postgres),
            _ => None,
        }
    }
}

#[derive(Debug, Clone)]
pub(in crate::orders) enum Database {
    Sqlite(SqliteFile),
    Postgres(Connections),
}

impl Database {
    /// Opens the database and migrates its tables.
    pub(in crate::orders) async fn open(url: &str) -> Result<Self, StoreError> {
        match DatabaseKind::of(url) {
            Some(DatabaseKind::Sqlite) => Ok(Self::Sqlite(sqlite::open(url).await?)),
            Some(DatabaseKind::Postgres) => Ok(Self::Postgres(postgres::open(url).await?)),
            None => Err(StoreError::Address),
        }
    }

    /// Opens the database as it is; creates and migrates nothing.
    pub(in crate::orders) async fn connect(url: &str, access: Access) -> Result<Self, StoreError> {
        match DatabaseKind::of(url) {
            Some(DatabaseKind::Sqlite) => Ok(Self::Sqlite(SqliteFile::open(url, access).await?)),
            Some(DatabaseKind::Postgres) => Ok(Self::Postgres(postgres::connect(url, access).await?)),
            None => Err(StoreError::Address),
        }
    }

    pub(in crate::orders) fn migrator(&self) -> &'static Migrator {
        match self {
            Self::Sqlite(_) => &SQLITE,
            Self::Postgres(_) => &POSTGRES,
        }
    }

    /// Begins a transaction that writes. On SQLite it excludes all other writers from the start. On PostgreSQL writers
    /// may run at once: each statement requires a version or state of its row, so a conflicting one changes nothing.
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

    /// Begins a transaction for writes of several orders. On PostgreSQL, a statement of it fails after 500 ms at a row that
    /// is locked elsewhere, because the rows that the transaction itself has locked hold up other orders.
    pub(in crate::orders) async fn begin_batch(&self) -> Result<Transaction, StoreError> {
        let Self::Postgres(connections) = self else { return self.begin().await };
        let mut connection = connections.get().await?;
        connection.execute("BEGIN; SET LOCAL lock_timeout = '500ms'").await?;
        Ok(Transaction::Postgres(connection))
    }

    /// Fails if the database is read-only, another process keeps it locked, or a table is missing; changes nothing.
    pub(in crate::orders) async fn can_be_written(&self) -> Result<(), StoreError> {
        let mut transaction = self.begin().await?;
        match &mut transaction {
            Transaction::Sqlite(open, ..) => {
                // Has SQLite read the definitions of tables again. It does not do so for a statement that it refuses by the
                // definitions that it remembers.
                (&mut **open).execute("SELECT name FROM sqlite_master LIMIT 1").await?;
                (&mut **open).execute(place::CHANGE_NOTHING.as_str()).await?;
            }
            Transaction::Postgres(connection) => connection.execute(&place::CHANGE_NOTHING).await?,
        }
        transaction.rollback().await
    }

    /// Copies SQLite's write-ahead log into the database file. Does nothing for PostgreSQL.
    pub(in crate::orders) async fn checkpoint(&self) {
        if let Self::Sqlite(file) = self {
            file.checkpoint().await;
        }
    }

    /// See [`crate::orders::OrderStore::release_space`].
    pub(in crate::orders) async fn release_space(&self) -> Result<bool, StoreError> {
        match self {
            Self::Sqlite(file) => file.release_space().await,
            // PostgreSQL's autovacuum frees the space of deleted rows by itself.
            Self::Postgres(_) => Ok(false),
        }
    }

    pub(in crate::orders) async fn close(&self) {
        match self {
            Self::Sqlite(file) => file.close().await,
            Self::Postgres(connections) => connections.close().await,
        }
    }

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

    /// The database's plan for a statement, one line per step, in its own format.
    pub(in crate::orders) async fn explain(&self, statement: Statement) -> Result<Vec<String>, StoreError> {
        let (explain, column) = match self {
            Self::Sqlite(_) => ("EXPLAIN QUERY PLAN", "detail"),
            Self::Postgres(_) => ("EXPLAIN", "QUERY PLAN"),
        };
        let rows = self.fetch(statement.explained(explain)).await?;
        rows.iter().map(|row| row.get(column)).collect()
    }

    /// Runs a statement of [`sql_with_rows`] for any number of rows and returns the rows of its result.
    pub(in crate::orders) async fn fetch_rows(
        &self,
        text: &str,
        rows: Vec<Values>,
    ) -> Result<Vec<Row>, StoreError> {
        let mut found = Vec::new();
        for part in parts(rows) {
            found.extend(self.fetch(sql_with_rows(text, part)).await?);
        }
        Ok(found)
    }

    /// Limits the connections to PostgreSQL; no effect on SQLite.
    pub(in crate::orders) fn limit_connections(&self, most: usize) {
        if let Self::Postgres(connections) = self {
            connections.limit(most);
        }
    }

    pub(in crate::orders) async fn fetch_optional(
        &self,
        statement: Statement,
    ) -> Result<Option<Row>, StoreError> {
        Ok(self.fetch(statement).await?.pop())
    }
}

/// A transaction, rolled back when dropped.
pub(in crate::orders) enum Transaction {
    /// Also holds the file in which the transaction began; the commit checks that this file is still at its path.
    Sqlite(sqlx::Transaction<'static, Sqlite>, SqliteFile, FileId),
    /// A connection dropped between `BEGIN` and `COMMIT` or `ROLLBACK` is closed, and the server rolls back.
    Postgres(Connection),
}

impl Transaction {
    pub(in crate::orders) async fn execute(&mut self, statement: Statement) -> Result<u64, StoreError> {
        Ok(match self {
            Self::Sqlite(open, ..) => statement.sqlite().execute(&mut **open).await?.rows_affected(),
            Self::Postgres(open) => statement.postgres().execute(open.in_use()).await?.rows_affected(),
        })
    }

    /// Runs a statement that must change a row of `table`. If no row has changed, this is an error: a trigger or rule
    /// of the operator has suppressed the change.
    pub(in crate::orders) async fn change(
        &mut self,
        table: &'static str,
        statement: Statement,
    ) -> Result<(), StoreError> {
        match self.execute(statement).await? {
            0 => Err(StoreError::NotStored(table)),
            _ => Ok(()),
        }
    }

    /// Inserts a row unless it exists; returns what `insert` returns of the new row. If it exists, `stored` must find it.
    pub(in crate::orders) async fn insert(
        &mut self,
        table: &'static str,
        insert: Statement,
        stored: Statement,
    ) -> Result<Option<Row>, StoreError> {
        if let Some(row) = self.fetch_optional(insert).await? {
            return Ok(Some(row));
        }
        self.fetch_optional(stored).await?.map(|_| None).ok_or(StoreError::NotStored(table))
    }

    /// Runs a statement that changes a row of `table` if its condition holds; returns that row, or `None`. If nothing
    /// changed although `unchanged` finds a row that meets the condition, this is an error: a trigger prevented it.
    pub(in crate::orders) async fn change_if(
        &mut self,
        table: &'static str,
        statement: Statement,
        unchanged: Statement,
    ) -> Result<Option<Row>, StoreError> {
        if let Some(row) = self.fetch_optional(statement).await? {
            return Ok(Some(row));
        }
        match self.fetch_optional(unchanged).await? {
            Some(_) => Err(StoreError::NotStored(table)),
            None => Ok(None),
        }
    }

    /// Has PostgreSQL check now what it would check at the commit.
    pub(in crate::orders) async fn check_constraints(&mut self) -> Result<(), StoreError> {
        if let Self::Postgres(open) = self {
            open.execute("SET CONSTRAINTS ALL IMMEDIATE").await?;
        }
        Ok(())
    }

    /// Runs a statement and returns its rows; it may also write, with `RETURNING`.
    pub(in crate::orders) async fn fetch(&mut self, statement: Statement) -> Result<Vec<Row>, StoreError> {
        Ok(match self {
            Self::Sqlite(open, ..) => sqlite_rows(statement.sqlite().fetch_all(&mut **open).await?),
            Self::Postgres(open) => postgres_rows(statement.postgres().fetch_all(open.in_use()).await?),
        })
    }

    pub(in crate::orders) async fn fetch_optional(
        &mut self,
        statement: Statement,
    ) -> Result<Option<Row>, StoreError> {
        Ok(self.fetch(statement).await?.pop())
    }

    /// Runs a statement of [`sql_with_rows`] for any number of rows and returns the rows of its result.
    pub(in crate::orders) async fn fetch_rows(
        &mut self,
        text: &str,
        rows: Vec<Values>,
    ) -> Result<Vec<Row>, StoreError> {
        let mut found = Vec::new();
        for part in parts(rows) {
            found.extend(self.fetch(sql_with_rows(text, part)).await?);
        }
        Ok(found)
    }

    /// Inserts rows into `table` with a statement of [`sql_with_rows`]; fails unless every row is inserted.
    pub(in crate::orders) async fn insert_all(
        &mut self,
        table: &'static str,
        text: &str,
        rows: Vec<Values>,
    ) -> Result<(), StoreError> {
        for part in parts(rows) {
            let expected = u64::try_from(part.len()).unwrap_or(u64::MAX);
            if self.execute(sql_with_rows(text, part)).await? != expected {
                return Err(StoreError::NotStored(table));
            }
        }
        Ok(())
    }

    pub(in crate::orders) async fn rollback(self) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(open, ..) => open.rollback().await?,
            Self::Postgres(mut open) => {
                open.execute("ROLLBACK").await?;
                open.done();
            }
        }
        Ok(())
    }

    /// Commits. Fails before that if the SQLite file in which the transaction began is no longer at its path.
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

/// Splits rows into parts that one statement each takes. A part has 32 rows at most, because larger statements are not
/// faster. Sizes from 8 on are rounded down to three significant binary digits (8, 10, 12, 14, 16, 20, …), so that each text
/// has only sixteen variants to prepare, and most batches still need one or two statements.
fn parts(mut rows: Vec<Values>) -> impl Iterator<Item = Vec<Values>> {
    std::iter::from_fn(move || {
        let most = rows.len().min(32);
        let digits = most.checked_ilog2()?.saturating_sub(2);
        Some(rows.drain(..most >> digits << digits).collect())
    })
}

fn sqlite_rows(rows: Vec<sqlx::sqlite::SqliteRow>) -> Vec<Row> {
    rows.into_iter().map(Row::Sqlite).collect()
}

fn postgres_rows(rows: Vec<sqlx::postgres::PgRow>) -> Vec<Row> {
    rows.into_iter().map(Row::Postgres).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn few_sizes_of_statements_cover_any_number_of_rows() {
        let mut sizes = BTreeSet::new();
        for number in 0..=64_u32 {
            let rows = (0..number).map(|row| vec![row.into()]).collect();
            let of_parts: Vec<usize> = parts(rows).map(|part| part.len()).collect();
            assert_eq!(of_parts.iter().sum::<usize>(), number as usize);
            assert!(of_parts.len() <= 4, "{number}: {of_parts:?}");
            sizes.extend(of_parts);
        }
        assert_eq!(sizes.len(), 16, "{sizes:?}");
        assert_eq!(sizes.last(), Some(&32));
    }
}
