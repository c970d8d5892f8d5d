//! The searches that run again and again go along an index: none sorts, and none reads a table from end to end.

use sqlx::{AssertSqlSafe, Connection as _, Row as _};

use super::{notifications, retention, schema, unchecked};

#[tokio::test]
async fn every_search_goes_along_an_index_and_sorts_nothing() {
    let mut connection = sqlx::SqliteConnection::connect("sqlite::memory:").await.unwrap();
    schema::SQLITE.run(&mut connection).await.unwrap();
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
