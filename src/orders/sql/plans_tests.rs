//! Tests that each repeated search uses an index, so that none sorts and none scans a whole table.

use sqlx::{AssertSqlSafe, Connection as _, Row as _};

use super::{migrations, notifications, orders, retention, unchecked, writes};

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

#[tokio::test]
async fn every_statement_about_several_rows_finds_them_by_index() {
    let mut connection = sqlx::SqliteConnection::connect("sqlite::memory:").await.unwrap();
    migrations::SQLITE.run(&mut connection).await.unwrap();
    for (statement, columns) in [
        (orders::UPDATE.to_owned(), 24),
        (notifications::UPDATE.to_owned(), 8),
        (orders::select_text(), 1),
        (notifications::for_attempt_text(), 3),
        (writes::SELECT_CHANGED.to_owned(), 1),
        (writes::SELECT_ATTEMPTS.to_owned(), 2),
    ] {
        let row = format!("({})", vec!["?"; columns].join(", "));
        let statement = statement.replace("{rows}", &format!("{row}, {row}"));
        let explain = sqlx::query(AssertSqlSafe(format!("EXPLAIN QUERY PLAN {statement}")));
        let rows = explain.fetch_all(&mut connection).await.unwrap();
        let plan: Vec<String> = rows.iter().map(|row| row.get("detail")).collect();
        for table in ["internet_orders", "notifications", "events"] {
            assert!(
                !plan.iter().any(|step| step.starts_with(&format!("SCAN {table}"))),
                "{statement}: {plan:#?}"
            );
        }
        assert!(plan.iter().any(|step| step.starts_with("SEARCH")), "{statement}: {plan:#?}");
    }
}
