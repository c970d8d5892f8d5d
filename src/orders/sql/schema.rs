//! The tables as they stand in a database, beside those that this program knows.
//!
//! A newer program may have added to them: its migrations only expand, and an older program works on. What an older
//! program must not use is marked in the database itself (`least_migration`). The rules for migrations stand in
//! `migrations/README.md`.

use sqlx::migrate::{AppliedMigration, Migrate, Migrator};
use sqlx::{PgConnection, SqliteConnection};

use super::statement::{Row, Statement, sql};
use crate::orders::StoreError;

/// The migrations of SQLite.
pub(in crate::orders) static SQLITE: Migrator = sqlx::migrate!("src/orders/migrations/sqlite");
/// Those of PostgreSQL.
pub(in crate::orders) static POSTGRES: Migrator = sqlx::migrate!("src/orders/migrations/postgres");

/// The migration that made `topup_store` and `store_keys`.
const MARKS: i64 = 11;

/// The tables, compared with those this program knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tables {
    /// As they should be.
    UpToDate,
    /// Changes are still to be made, or there are no tables at all.
    ToMigrate,
    /// A newer program has added to them; this one can use them.
    Newer,
    /// A newer program has changed them so that this one must not use them.
    TooNew,
    /// They were made by a program that is not this one, or a change of them was left half done.
    Foreign,
}

/// What the database says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Marks {
    /// Which store this is, whatever its address: 32 hexadecimal digits.
    pub(crate) store_id: String,
    /// The number of the migration that a program must know to use it.
    pub(crate) least_migration: i64,
    /// Fingerprints of the keys that cards may be encrypted with.
    pub(crate) keys: Vec<String>,
}

/// A connection to a database of either kind.
pub(in crate::orders) enum Link<'a> {
    Sqlite(&'a mut SqliteConnection),
    Postgres(&'a mut PgConnection),
}

impl Link<'_> {
    /// Reads.
    pub(in crate::orders) async fn fetch(&mut self, statement: Statement) -> Result<Vec<Row>, sqlx::Error> {
        Ok(match self {
            Self::Sqlite(connection) => {
                let rows = statement.sqlite().fetch_all(&mut **connection).await?;
                rows.into_iter().map(Row::Sqlite).collect()
            }
            Self::Postgres(connection) => {
                let rows = statement.postgres().fetch_all(&mut **connection).await?;
                rows.into_iter().map(Row::Postgres).collect()
            }
        })
    }

    /// Compares the tables with those this program knows, and changes nothing.
    pub(in crate::orders) async fn tables(&mut self) -> Result<Tables, StoreError> {
        let noted = match self {
            Self::Sqlite(_) => sql("SELECT name FROM sqlite_master WHERE name = '_sqlx_migrations'"),
            Self::Postgres(_) => sql("SELECT 1 WHERE to_regclass('_sqlx_migrations') IS NOT NULL"),
        };
        if self.fetch(noted).await?.is_empty() {
            return Ok(Tables::ToMigrate);
        }
        let (known, applied) = match self {
            Self::Sqlite(connection) => (&SQLITE, applied(&SQLITE, *connection).await?),
            Self::Postgres(connection) => (&POSTGRES, applied(&POSTGRES, *connection).await?),
        };
        let Some(applied) = applied else { return Ok(Tables::Foreign) };
        let marked = applied.iter().any(|applied| applied.version == MARKS);
        let least = if marked { self.marks().await?.least_migration } else { 0 };
        Ok(judge(known, &applied, least))
    }

    /// What the database says of itself, once it has the tables for that.
    pub(in crate::orders) async fn marks(&mut self) -> Result<Marks, StoreError> {
        let store = self.fetch(store()).await?;
        read_marks(&store, &self.fetch(keys()).await?)
    }
}

/// A statement for the first part of the marks …
pub(super) fn store() -> Statement {
    sql("SELECT store_id, least_migration FROM topup_store")
}

/// … and for the second.
pub(super) fn keys() -> Statement {
    sql("SELECT fingerprint FROM store_keys ORDER BY fingerprint")
}

pub(super) fn read_marks(store: &[Row], keys: &[Row]) -> Result<Marks, StoreError> {
    let store = store.first().ok_or(StoreError::Row("topup_store"))?;
    Ok(Marks {
        store_id: store.get("store_id")?,
        least_migration: store.get("least_migration")?,
        keys: keys.iter().map(|row| row.get("fingerprint")).collect::<Result<_, _>>()?,
    })
}

/// Refuses a database that this program must not use.
pub(super) fn usable(tables: Tables) -> Result<(), StoreError> {
    match tables {
        Tables::TooNew => Err(StoreError::TooNew),
        Tables::Foreign => Err(StoreError::Foreign),
        Tables::UpToDate | Tables::ToMigrate | Tables::Newer => Ok(()),
    }
}

/// The same, and one that would have to be migrated first.
pub(super) fn usable_as_it_is(tables: Tables) -> Result<(), StoreError> {
    match tables {
        Tables::ToMigrate => Err(StoreError::NotMigrated),
        tables => usable(tables),
    }
}

/// Whether a program that knows these migrations must leave a database alone that is marked so.
pub(super) fn is_too_new(known: &Migrator, least_migration: i64) -> bool {
    least_migration > newest(known)
}

/// The same migrations, for a database that has newer ones as well.
pub(super) fn lenient(known: &Migrator) -> Migrator {
    let mut migrator = Migrator::with_migrations(known.iter().cloned().collect());
    migrator.set_ignore_missing(true);
    migrator
}

fn newest(known: &Migrator) -> i64 {
    known.iter().map(|known| known.version).max().unwrap_or_default()
}

/// The migrations that were carried out; nothing where one was left half done.
async fn applied(
    known: &Migrator,
    connection: &mut impl Migrate,
) -> Result<Option<Vec<AppliedMigration>>, StoreError> {
    if connection.dirty_version(&known.table_name).await?.is_some() {
        return Ok(None);
    }
    Ok(Some(connection.list_applied_migrations(&known.table_name).await?))
}

fn judge(known: &Migrator, applied: &[AppliedMigration], least_migration: i64) -> Tables {
    if is_too_new(known, least_migration) {
        return Tables::TooNew;
    }
    let mut newer = false;
    for migration in applied {
        match known.iter().find(|known| known.version == migration.version) {
            Some(known) if known.checksum == migration.checksum => {}
            None if migration.version > newest(known) => newer = true,
            _ => return Tables::Foreign,
        }
    }
    let made = |version| applied.iter().any(|applied| applied.version == version);
    match (known.iter().all(|known| made(known.version)), newer) {
        (false, _) => Tables::ToMigrate,
        (true, true) => Tables::Newer,
        (true, false) => Tables::UpToDate,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_newer_program_added_is_used_unless_the_database_says_otherwise() {
        let known = &SQLITE;
        let known_ones = known
            .iter()
            .map(|known| AppliedMigration { version: known.version, checksum: known.checksum.clone() });
        let all: Vec<_> = known_ones.collect();
        let with = |version| {
            let added = AppliedMigration { version, checksum: vec![1].into() };
            all.iter()
                .map(|one| AppliedMigration { version: one.version, checksum: one.checksum.clone() })
                .chain([added])
                .collect::<Vec<_>>()
        };
        assert_eq!(judge(known, &all, 0), Tables::UpToDate);
        assert_eq!(judge(known, &all[1..], 0), Tables::ToMigrate);
        assert_eq!(judge(known, &with(9_000), 0), Tables::Newer);
        assert_eq!(judge(known, &with(9_000), newest(known)), Tables::Newer);
        assert_eq!(judge(known, &with(9_000), 9_000), Tables::TooNew);
        assert_eq!(judge(known, &with(9), 0), Tables::Foreign, "no release has had it");
        assert_eq!(judge(known, &with(1), 0), Tables::Foreign, "it was changed");
    }
}
