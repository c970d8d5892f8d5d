//! The migrations of this program, in the order of their numbers. `../migrations/README.md` has the rules.
//!
//! The macro `sqlx::migrate!` is not used, because it would compile the drivers of both databases a second time.

use std::sync::LazyLock;

use sqlx::SqlSafeStr as _;
use sqlx::migrate::{Migration, MigrationType, Migrator};

macro_rules! migrations {
    ($folder:literal: $($file:literal),+) => {
        LazyLock::new(|| migrator(&[
            $(($file, include_str!(concat!("../migrations/", $folder, "/", $file, ".sql")))),+
        ]))
    };
}

pub(in crate::orders) static SQLITE: LazyLock<Migrator> = migrations!("sqlite":
    "0001_orders", "0002_callback_url", "0003_order_events", "0004_reveals", "0005_incidents", "0010_orders_to_check",
    "0011_store", "0012_dead_letters", "0013_operator_commands");
pub(in crate::orders) static POSTGRES: LazyLock<Migrator> = migrations!("postgres":
    "0001_orders", "0002_callback_url", "0003_incidents", "0010_orders_to_check", "0011_store", "0012_dead_letters",
    "0013_operator_commands");

fn migrator(files: &[(&'static str, &'static str)]) -> Migrator {
    let migration = |&(name, sql): &(&str, &'static str)| {
        // Invariant: every name above begins with a number and an underscore.
        let (number, description) = name.split_once('_').expect("a number and a description");
        let (number, description) = (number.parse().expect("a number"), description.replace('_', " "));
        Migration::new(number, description.into(), MigrationType::Simple, sql.into_sql_str(), false)
    };
    Migrator::with_migrations(files.iter().map(migration).collect())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[tokio::test]
    async fn the_migrations_are_those_of_the_folders() {
        for (folder, listed) in [("sqlite", &*SQLITE), ("postgres", &*POSTGRES)] {
            let folder = Path::new("src/orders/migrations").join(folder);
            let of = |migrator: &Migrator| -> Vec<_> {
                migrator
                    .iter()
                    .map(|one| (one.version, one.description.clone(), one.checksum.clone()))
                    .collect()
            };
            assert_eq!(of(listed), of(&Migrator::new(folder).await.unwrap()));
        }
    }
}
