//! The contract of the store, held on SQLite and on PostgreSQL alike.

mod dead_letters;
mod ground;
mod history;
mod incidents;
mod instructions;
mod maintenance;
mod orders;
mod reveals;
mod search;

/// Makes of each of these two tests: one on SQLite, one on PostgreSQL.
macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $name() {
                super::$name(&super::Ground::sqlite()).await;
            })+
        }

        mod postgres {
            $(#[tokio::test]
            async fn $name() {
                if let Some(ground) = super::Ground::postgres().await {
                    super::$name(&ground).await;
                }
            })+
        }
    };
}
use on_both;
