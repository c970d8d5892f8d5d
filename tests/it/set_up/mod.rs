//! Accidents of set-up and upgrade: a worker or a command with another version, database or key than the others
//! reports it and changes nothing.

mod databases;
mod disk;
mod file;
mod keys;
mod readiness;
mod settings;
mod stores;
mod tables;
mod versions;

use std::process::Output;

use sqlx::{AssertSqlSafe, Connection as _, PgConnection, SqliteConnection};

use crate::support::postgres::TestPostgres;
use crate::support::{Bed, until};

/// Defines each test twice: on SQLite and on PostgreSQL.
macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test]
            async fn $name() {
                super::$name($crate::support::Bed::new(600.0).await).await;
            })+
        }

        mod postgres {
            $(#[tokio::test]
            async fn $name() {
                if let Some((bed, _postgres)) = super::super::on_postgres(600.0).await {
                    super::$name(bed).await;
                }
            })+
        }
    };
}
use on_both;

/// A bed whose workers use a PostgreSQL database of this test.
async fn on_postgres(scale: f64) -> Option<(Bed, TestPostgres)> {
    let postgres = TestPostgres::start()?;
    let mut bed = Bed::new(scale).await;
    bed.set("DATABASE_URL", postgres.database().await);
    Some((bed, postgres))
}

fn setting<'a>(bed: &'a Bed, name: &str) -> &'a str {
    &bed.settings().iter().find(|(known, _)| *known == name).expect("the bed has this setting").1
}

/// Runs a statement past the store.
async fn execute(bed: &Bed, statement: &str) {
    let (url, statement) = (setting(bed, "DATABASE_URL"), AssertSqlSafe(statement.to_owned()));
    if url.starts_with("sqlite") {
        let mut connection = SqliteConnection::connect(url).await.unwrap();
        sqlx::query("PRAGMA busy_timeout = 30000").execute(&mut connection).await.unwrap();
        sqlx::query(statement).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    } else {
        let mut connection = PgConnection::connect(url).await.unwrap();
        sqlx::query(statement).execute(&mut connection).await.unwrap();
    }
}

/// Runs a query past the store and returns its only column.
async fn column(bed: &Bed, statement: &'static str) -> Vec<String> {
    let url = setting(bed, "DATABASE_URL");
    if url.starts_with("sqlite") {
        let mut connection = SqliteConnection::connect(url).await.unwrap();
        sqlx::query_scalar(statement).fetch_all(&mut connection).await.unwrap()
    } else {
        let mut connection = PgConnection::connect(url).await.unwrap();
        sqlx::query_scalar(statement).fetch_all(&mut connection).await.unwrap()
    }
}

/// Runs a command that must fail with this exit code, and returns its error output.
async fn refused(bed: &Bed, args: &[&str], code: i32) -> String {
    stderr(&bed.program_async(args).await, args, code)
}

fn stderr(output: &Output, args: &[&str], code: i32) -> String {
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {errors}");
    errors
}

/// Runs a worker, makes this change once it has joined, and returns its error output. It must stop with this exit code.
async fn stops(bed: &Bed, change: impl Future<Output = ()>, code: i32) -> String {
    let changed = async {
        until("the worker has joined", async || {
            let members: u64 = bed.redis(&["ZCARD", "{topup}:keyrings"]).await;
            (members > 0).then_some(())
        })
        .await;
        change.await;
    };
    let (output, ()) = tokio::join!(bed.program_async(&["run"]), changed);
    stderr(&output, &["run"], code)
}
