//! The file of a SQLite database is moved away or replaced while workers have it open.

use std::path::PathBuf;
use std::time::Duration;

use topup_jobs::OrderStatus;
use topup_worker::simulator::Script;

use super::readiness::readyz;
use super::{column, execute, setting, stops};
use crate::support::Bed;

fn file(bed: &Bed) -> PathBuf {
    setting(bed, "DATABASE_URL").strip_prefix("sqlite://").unwrap().into()
}

fn beside(bed: &Bed, suffix: &str) -> PathBuf {
    format!("{}{suffix}", file(bed).display()).into()
}

#[tokio::test]
async fn nothing_is_done_while_the_file_is_away_and_all_goes_on_once_it_is_back() {
    let mut bed = Bed::new(600.0).await;
    let address = bed.serve_http();
    let mut worker = bed.worker().await;
    readyz(&address, "200 OK").await;
    let away = beside(&bed, ".away");
    std::fs::rename(file(&bed), &away).unwrap();
    let order = bed.order(Script::fulfilled_after(Duration::ZERO));
    bed.enqueue([&order]).await;
    worker.logs("the store failed; the job waits").await;
    readyz(&address, "not ready: the file of the database is not at its path any more").await;
    assert_eq!(bed.sink.received().len(), 0, "nothing is told that is stored nowhere");
    assert!(!file(&bed).exists(), "no other file is made in its place");

    std::fs::rename(&away, file(&bed)).unwrap();
    bed.told(&order, "fulfilled").await;
    bed.stored(&[order], OrderStatus::Fulfilled).await;
    readyz(&address, "200 OK").await;
    worker.logs("the database answers again").await;
    let log = worker.log();
    assert_eq!(log.matches("orders wait until it can be used again").count(), 1, "{log}");
    assert!(worker.stop().await.success());
}

#[tokio::test]
async fn a_backup_that_is_put_in_its_place_is_used_from_then_on() {
    let mut bed = Bed::new(600.0).await;
    let mut workers = vec![bed.worker().await];
    let address = bed.serve_http();
    workers.push(bed.worker().await);
    let before = bed.order(Script::fulfilled_after(Duration::ZERO));
    bed.enqueue([&before]).await;
    bed.told(&before, "fulfilled").await;
    bed.idle().await;
    let backup = beside(&bed, ".backup");
    execute(&bed, &format!("VACUUM INTO '{}'", backup.display())).await;
    let late = bed.order(Script::fulfilled_after(Duration::ZERO));
    bed.enqueue([&late]).await;
    bed.told(&late, "fulfilled").await;
    bed.idle().await;

    std::fs::rename(&backup, file(&bed)).unwrap();
    let after = bed.order(Script::fulfilled_after(Duration::ZERO));
    bed.enqueue([&after]).await;
    bed.told(&after, "fulfilled").await;
    bed.stored(&[before, after], OrderStatus::Fulfilled).await;
    readyz(&address, "200 OK").await;
    let stored: Vec<String> = column(&bed, "SELECT topup_id FROM internet_orders").await;
    assert_eq!(stored.len(), 2, "the log of the former file has no part in the new one: {stored:?}");
    assert_eq!(column(&bed, "PRAGMA integrity_check").await, ["ok"]);
    assert!(beside(&bed, ".replaced-wal").exists());
    for worker in &mut workers {
        assert!(worker.stop().await.success());
    }
}

#[tokio::test]
async fn another_database_in_its_place_stops_the_worker_and_is_left_as_it_is() {
    let mut bed = Bed::new(600.0).await;
    let own = setting(&bed, "DATABASE_URL").to_owned();
    let other = beside(&bed, ".other");
    bed.set("DATABASE_URL", format!("sqlite://{}", other.display()));
    assert!(bed.program(&["migrate"]).status.success());
    let keys = "SELECT fingerprint FROM store_keys";
    assert_eq!(column(&bed, keys).await.len(), 0);
    bed.set("DATABASE_URL", own);
    let replaced = async { std::fs::rename(&other, file(&bed)).unwrap() };
    let words = stops(&bed, replaced, 1).await;
    assert!(words.contains("is not the one that this worker started with"), "{words}");
    assert_eq!(column(&bed, keys).await.len(), 0, "the worker has noted nothing in it");
}
