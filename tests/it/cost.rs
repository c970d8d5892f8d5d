//! What an order costs the database and Redis, counted and not timed. A change that makes an order dearer fails here.

use std::time::Duration;

use sqlx::{Connection as _, PgConnection};
use topup_worker::simulator::Script;

use crate::support::Bed;
use crate::support::postgres::TestPostgres;

const ORDERS: usize = 50;

/// The number of lines of the server's log that contain these words.
async fn logged(connection: &mut PgConnection, words: &str) -> usize {
    let log: String = sqlx::query_scalar("SELECT pg_read_file('log')").fetch_one(connection).await.unwrap();
    log.lines().filter(|line| line.contains(words)).count()
}

/// The number of scripts that Redis has run.
async fn scripts(bed: &Bed) -> u64 {
    let stats: String = bed.redis(&["INFO", "commandstats"]).await;
    let calls = stats.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
    calls.and_then(|calls| calls.split(',').next()?.parse().ok()).unwrap_or_default()
}

/// The orders arrive together. Each is FULFILLED at its first check and notified by webhook and event stream.
#[tokio::test]
async fn an_order_costs_no_more_statements_commits_and_scripts_than_now() {
    let Some(postgres) = TestPostgres::start() else { return };
    let mut bed = Bed::new(600.0).await;
    let url = postgres.database().await;
    bed.set("DATABASE_URL", &url);
    let mut connection = PgConnection::connect(&url).await.unwrap();
    let name = url.rsplit('/').next().unwrap();
    let log = sqlx::AssertSqlSafe(format!("ALTER DATABASE {name} SET log_statement = 'all'"));
    sqlx::query(log).execute(&mut connection).await.unwrap();
    let mut worker = bed.worker().await;
    let (commits, statements, scripts_before) = (
        logged(&mut connection, "statement: COMMIT").await,
        logged(&mut connection, "LOG:  execute ").await,
        scripts(&bed).await,
    );
    let orders: Vec<String> =
        (0..ORDERS).map(|_| bed.order(Script::fulfilled_after(Duration::ZERO))).collect();
    bed.enqueue(&orders).await;
    for order in &orders {
        bed.delivered(order, "fulfilled").await;
    }
    bed.idle().await;
    let scripts = scripts(&bed).await - scripts_before;
    assert!(worker.stop().await.success());
    // The writes of orders that run at the same time share transactions and statements.
    let commits = logged(&mut connection, "statement: COMMIT").await - commits;
    assert!(3 * commits <= 2 * ORDERS, "{commits} commits for {ORDERS} orders");
    let statements = logged(&mut connection, "LOG:  execute ").await - statements;
    assert!(statements <= 3 * ORDERS, "{statements} statements for {ORDERS} orders");
    let scripts = usize::try_from(scripts).unwrap();
    assert!(scripts <= 4 * ORDERS, "{scripts} scripts for {ORDERS} orders");
    println!("{commits} commits, {statements} statements and {scripts} scripts for {ORDERS} orders");
}
