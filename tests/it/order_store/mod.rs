//! The contract of the store, tested on SQLite and on PostgreSQL.

mod batches;
mod database;
mod dead_letters;
mod history;
mod incidents;
mod instructions;
mod maintenance;
mod orders;
mod reveals;
mod search;
mod suppressed;

/// Defines each test twice: on SQLite and on PostgreSQL.
macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $name() {
                super::$name(&super::TestDatabase::sqlite()).await;
            })+
        }

        mod postgres {
            $(#[tokio::test]
            async fn $name() {
                if let Some(database) = super::TestDatabase::postgres().await {
                    super::$name(&database).await;
                }
            })+
        }
    };
}
use on_both;
