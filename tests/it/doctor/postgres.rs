//! The doctor's checks of a PostgreSQL database.

use sqlx::{Connection as _, PgConnection};

use super::{WEBHOOK_TOKEN, doctor};
use crate::support::Bed;
use crate::support::postgres::TestPostgres;

/// A bed with an empty database.
async fn bed() -> Option<(TestPostgres, String, Bed)> {
    let postgres = TestPostgres::start()?;
    let url = postgres.database().await;
    let mut bed = Bed::new(1.0).await;
    bed.set("DATABASE_URL", &*url);
    Some((postgres, url, bed))
}

async fn run(url: &str, statements: &[&'static str]) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    for statement in statements {
        sqlx::query(*statement).execute(&mut connection).await.unwrap();
    }
}

#[tokio::test]
async fn a_postgres_database_is_checked_and_not_changed() {
    let Some((_postgres, url, bed)) = bed().await else { return };
    let found = doctor(&bed).await;
    assert_eq!(found.code, Some(0));
    assert_eq!(found.not_ok(), [("store-tables", "warn"), ("store-key", "skip")]);
    let mut connection = PgConnection::connect(&url).await.unwrap();
    let tables = "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public'";
    let tables: i64 = sqlx::query_scalar(tables).fetch_one(&mut connection).await.unwrap();
    assert_eq!(tables, 0, "the doctor creates no table");

    assert!(bed.program(&["migrate"]).status.success());
    let found = doctor(&bed).await;
    assert_eq!((found.code, found.not_ok()), (Some(0), vec![]));
    assert!(found.words("store").contains("can be written"), "{}", found.words("store"));
    assert!(found.words("store-version").starts_with("PostgreSQL "), "{}", found.words("store-version"));
    assert!(found.words("store-clock").contains("agrees"));

    run(&url, &["UPDATE _sqlx_migrations SET checksum = '\\x00' WHERE version = 1"]).await;
    assert_eq!(doctor(&bed).await.not_ok(), [("store-tables", "fail")]);
}

#[tokio::test]
async fn an_unusable_postgres_database_is_reported() {
    let Some((postgres, url, mut bed)) = bed().await else { return };
    let skipped = ["store-version", "store-tables", "store-key", "store-clock"].map(|name| (name, "skip"));
    let unopened = || [&[("store", "fail")], &skipped[..]].concat();

    bed.set("DATABASE_URL", postgres.url("no_such_database"));
    let found = doctor(&bed).await;
    assert_eq!((found.code, found.not_ok()), (Some(1), unopened()));
    assert!(found.words("store").contains("no such database"), "{}", found.words("store"));

    bed.set("DATABASE_URL", format!("postgres://topup:{WEBHOOK_TOKEN}@127.0.0.1:1/orders"));
    let found = doctor(&bed).await;
    assert_eq!(found.not_ok(), unopened());
    assert!(found.words("store").contains("127.0.0.1:1/orders: nothing listens there"));

    run(&url, &["CREATE ROLE guest LOGIN", "REVOKE CREATE ON SCHEMA public FROM PUBLIC"]).await;
    bed.set("DATABASE_URL", url.replace("topup@", &format!("guest:{WEBHOOK_TOKEN}@")));
    let words = doctor(&bed).await.words("store");
    assert!(words.contains("may not create tables"), "{words}");

    // The doctor's session overrides this default, as a worker's session does.
    run(&url, &["ALTER ROLE topup SET default_transaction_read_only = on"]).await;
    bed.set("DATABASE_URL", &*url);
    let words = doctor(&bed).await.words("store");
    assert!(words.contains("opens and can be written"), "{words}");
}
