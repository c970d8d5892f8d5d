//! Compares the tables of a database with those that this program knows.
//!
//! A newer program may have expanded the tables, and an older program continues to use them. A change that older
//! programs must not use is marked in the database itself (`least_migration`). `migrations/README.md` has the rules.

use sqlx::migrate::{AppliedMigration, Migrate, Migrator};
use sqlx::{PgConnection, SqliteConnection};

use super::migrations::{POSTGRES, SQLITE};
use super::statement::{Row, Statement, sql};
use crate::orders::StoreError;

/// The migration that created `topup_store` and `store_keys`.
const MARKS: i64 = 11;

/// State of a database's tables, compared with those that this program knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tables {
    /// The tables are those that this program knows.
    UpToDate,
    /// Migrations are missing, or there are no tables.
    ToMigrate,
    /// A newer program has expanded the tables; this one can use them.
    Newer,
    /// A newer program has changed the tables so that this one must not use them.
    TooNew,
    /// The tables belong to another program, or a migration was interrupted.
    Foreign,
}

/// What `topup_store` and `store_keys` contain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Marks {
    /// Id of the store, independent of its address: 32 hexadecimal digits.
    pub(crate) store_id: String,
    /// Number of the newest migration that a program must know to use the store.
    pub(crate) least_migration: i64,
    /// Fingerprints of the keys with which cards may be encrypted.
    pub(crate) keys: Vec<String>,
}

pub(in crate::orders) enum Link<'a> {
    Sqlite(&'a mut SqliteConnection),
    Postgres(&'a mut PgConnection),
}

impl Link<'_> {
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

    /// Compares the tables with those that this program knows; changes nothing.
    pub(in crate::orders) async fn tables(&mut self) -> Result<Tables, StoreError> {
        let noted = match self {
            Self::Sqlite(_) => sql("SELECT name FROM sqlite_master WHERE name = '_sqlx_migrations'"),
            Self::Postgres(_) => sql("SELECT 1 WHERE to_regclass('_sqlx_migrations') IS NOT NULL"),
        };
        if self.fetch(noted).await?.is_empty() {
            return Ok(Tables::ToMigrate);
        }
        let (known, applied) = match self {
            Self::Sqlite(connection) => (&*SQLITE, applied(&SQLITE, *connection).await?),
            Self::Postgres(connection) => (&*POSTGRES, applied(&POSTGRES, *connection).await?),
        };
        let Some(applied) = applied else { return Ok(Tables::Foreign) };
        let marked = applied.iter().any(|applied| applied.version == MARKS);
        let least = if marked { self.marks().await?.least_migration } else { 0 };
        Ok(judge(known, &applied, least))
    }

    /// Reads the store id and the key fingerprints; fails on tables older than migration 11.
    pub(in crate::orders) async fn marks(&mut self) -> Result<Marks, StoreError> {
        let store = self.fetch(store()).await?;
        read_marks(&store, &self.fetch(keys()).await?)
    }
}

pub(super) fn store() -> Statement {
    sql("SELECT store_id, least_migration FROM topup_store")
}

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

/// Refuses tables that this program must not use.
pub(super) fn usable(tables: Tables) -> Result<(), StoreError> {
    match tables {
        Tables::TooNew => Err(StoreError::TooNew),
        Tables::Foreign => Err(StoreError::Foreign),
        Tables::UpToDate | Tables::ToMigrate | Tables::Newer => Ok(()),
    }
}

/// Like [`usable`], but also refuses tables that need a migration.
pub(super) fn usable_as_it_is(tables: Tables) -> Result<(), StoreError> {
    match tables {
        Tables::ToMigrate => Err(StoreError::NotMigrated),
        tables => usable(tables),
    }
}

/// Whether the store requires a newer migration (`least_migration`) than the newest of the `known` ones.
pub(super) fn is_too_new(known: &Migrator, least_migration: i64) -> bool {
    least_migration > newest(known)
}

/// A copy of the migrations that also runs on a database with newer migrations.
pub(super) fn lenient(known: &Migrator) -> Migrator {
    let mut migrator = Migrator::with_migrations(known.iter().cloned().collect());
    migrator.set_ignore_missing(true);
    migrator
}

fn newest(known: &Migrator) -> i64 {
    known.iter().map(|known| known.version).max().unwrap_or_default()
}

/// The completed migrations; `None` if a migration was interrupted.
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
    fn tables_expanded_by_a_newer_program_are_used_unless_marked_otherwise() {
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
        assert_eq!(judge(known, &with(9), 0), Tables::Foreign, "no release contains it");
        assert_eq!(judge(known, &with(1), 0), Tables::Foreign, "its checksum differs");
    }
}
