//! Tests that each repeated search uses an index, so that none sorts and none scans a whole table.

use sqlx::{AssertSqlSafe, Connection as _, Row as _};

use super::{migrations, notifications, retention, unchecked};

#[tokio::test]
async fn every_repeated_search_uses_an_index_and_sorts_nothing() {
    let mut connection = sqlx::SqliteConnection::connect("sqlite::memory:").await.unwrap();
    migrations::SQLITE.run(&mut connection).await.unwrap();
    for (statement, index) in [
        (unchecked::POLLED, "orders_to_poll"),
        (unchecked::RECHECKED, "orders_to_recheck"),
        (unchecked::GIVEN_UP, "orders_given_up"),
        (notifications::UNTOLD, "notifications_pending"),
        (notifications::GIVEN_UP, "notifications_given_up"),
        (retention::SELECT, "orders_by_end_and_id"),
    ] {
        let explain = sqlx::query(AssertSqlSafe(format!("EXPLAIN QUERY PLAN {statement}")));
        let rows = explain.fetch_all(&mut connection).await.unwrap();
        let plan: Vec<String> = rows.iter().map(|row| row.get("detail")).collect();
        assert!(plan.iter().any(|step| step.contains(index)), "{statement}: {plan:#?}");
        let reads_all = |step: &String| step.starts_with("SCAN") && step.split(' ').nth(1) != Some("ended");
        assert!(!plan.iter().any(reads_all), "{statement}: {plan:#?}");
        assert!(!plan.iter().any(|step| step.contains("TEMP B-TREE")), "{statement}: {plan:#?}");
    }
}
