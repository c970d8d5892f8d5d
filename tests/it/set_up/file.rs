//! The file of a SQLite database is moved away or replaced while workers have it open.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::time::Duration;

use topup_jobs::OrderStatus;
use topup_worker::simulator::Script;

use super::readiness::readyz;
use super::{column, execute, refused, setting};
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
async fn a_backup_beside_the_log_of_the_former_file_is_not_opened_and_is_used_once_that_is_gone() {
    let mut bed = Bed::new(600.0).await;
    let mut workers = vec![bed.worker().await];
    let address = bed.serve_http();
    workers.push(bed.worker().await);
    bed.set("HTTP_ADDR", "127.0.0.1:0");
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

    let former = beside(&bed, ".former");
    std::fs::rename(file(&bed), &former).unwrap();
    std::fs::rename(&backup, file(&bed)).unwrap();
    let after = bed.order(Script::fulfilled_after(Duration::ZERO));
    bed.enqueue([&after]).await;
    readyz(&address, "not ready: the file of the database was replaced by another one").await;
    for command in [&["run"][..], &["order", &late], &["orders"], &["migrate"]] {
        let words = refused(&bed, command, 1).await;
        assert!(words.contains("belongs to a file that was at this path before"), "{command:?}: {words}");
    }
    // A former file that comes back lacks nothing.
    let backup = beside(&bed, ".backup");
    std::fs::rename(file(&bed), &backup).unwrap();
    std::fs::rename(&former, file(&bed)).unwrap();
    bed.told(&after, "fulfilled").await;
    bed.stored(&[before.clone(), late.clone(), after.clone()], OrderStatus::Fulfilled).await;
    readyz(&address, "200 OK").await;

    std::fs::rename(&backup, file(&bed)).unwrap();
    for worker in &mut workers {
        worker.kill();
    }
    for suffix in ["-wal", "-shm"] {
        std::fs::remove_file(beside(&bed, suffix)).unwrap();
    }
    let mut worker = bed.worker().await;
    let restored = bed.order(Script::fulfilled_after(Duration::ZERO));
    bed.enqueue([&restored]).await;
    bed.told(&restored, "fulfilled").await;
    bed.stored(&[before, restored], OrderStatus::Fulfilled).await;
    assert_eq!(column(&bed, "PRAGMA integrity_check").await, ["ok"]);
    assert!(worker.stop().await.success());
}

#[tokio::test]
async fn a_damaged_database_is_named() {
    let mut bed = Bed::new(600.0).await;
    let mut worker = bed.worker().await;
    assert!(worker.stop().await.success());
    let of_notifications = "SELECT CAST(rootpage AS TEXT) FROM sqlite_master WHERE name = 'notifications'";
    let page: u64 = column(&bed, of_notifications).await[0].parse().unwrap();
    let size: u64 =
        column(&bed, "SELECT CAST(page_size AS TEXT) FROM pragma_page_size").await[0].parse().unwrap();
    let damaged = OpenOptions::new().write(true).open(file(&bed)).unwrap();
    damaged.write_all_at(&vec![0xff; usize::try_from(size).unwrap()], (page - 1) * size).unwrap();

    let address = bed.serve_http();
    let worker = bed.worker().await;
    let order = bed.order(Script::fulfilled_after(Duration::ZERO));
    bed.enqueue([&order]).await;
    readyz(&address, "not ready: the database is damaged").await;
    worker.logs("the database is damaged; orders wait until it can be used again").await;
    assert_eq!(bed.sink.received().len(), 0, "no event is sent that is not stored");
}

#[tokio::test]
async fn another_file_in_its_place_is_left_as_it_is_and_what_comes_back_is_whole() {
    let mut bed = Bed::new(600.0).await;
    let address = bed.serve_http();
    let own = setting(&bed, "DATABASE_URL").to_owned();
    let mut worker = bed.worker().await;
    let (other, away) = (beside(&bed, ".other"), beside(&bed, ".away"));
    bed.set("DATABASE_URL", format!("sqlite://{}", other.display()));
    assert!(bed.program(&["migrate"]).status.success());
    bed.set("DATABASE_URL", own);
    let mut orders = Vec::new();
    for wrong in [std::fs::read(&other).unwrap(), b"garbage".repeat(1000), Vec::new()] {
        std::fs::rename(file(&bed), &away).unwrap();
        std::fs::write(file(&bed), &wrong).unwrap();
        readyz(&address, "not ready: the file of the database was replaced by another one").await;
        assert_eq!(std::fs::read(file(&bed)).unwrap(), wrong, "it is left as it is");
        std::fs::rename(&away, file(&bed)).unwrap();
        readyz(&address, "200 OK").await;
        let order = bed.order(Script::fulfilled_after(Duration::ZERO));
        bed.enqueue([&order]).await;
        bed.told(&order, "fulfilled").await;
        orders.push(order);
    }
    bed.idle().await;
    worker.kill();
    let _again = bed.worker().await;
    bed.stored(&orders, OrderStatus::Fulfilled).await;
    assert_eq!(column(&bed, "PRAGMA integrity_check").await, ["ok"]);
}

#[tokio::test]
async fn a_worker_that_starts_beside_a_removed_log_or_index_waits_until_those_that_have_it_open_are_gone() {
    for gone in [&["-wal", "-shm"][..], &["-shm"], &["-wal"]] {
        let mut bed = Bed::new(600.0).await;
        let mut first = bed.worker().await;
        let mut second = bed.worker().await;
        let before = bed.order(Script::fulfilled_after(Duration::ZERO));
        bed.enqueue([&before]).await;
        bed.told(&before, "fulfilled").await;
        bed.idle().await;
        for suffix in gone {
            std::fs::remove_file(beside(&bed, suffix)).unwrap();
        }
        first.kill();
        let removed = "the write-ahead log of the database was removed";
        let address = bed.serve_http();
        let mut third = bed.starting_worker();
        readyz(&address, &format!("not ready: {removed}")).await;
        let words = refused(&bed, &["orders"], 1).await;
        assert!(words.contains("(-wal or -shm) was removed while it was open"), "{words}");
        let report = bed.program_beside(&["doctor"]).await;
        let report = String::from_utf8_lossy(&report.stdout).into_owned();
        assert!(report.contains("was removed while workers have it open"), "{report}");
        let orders: Vec<String> =
            (0..20).map(|_| bed.order(Script::fulfilled_after(Duration::ZERO))).collect();
        bed.enqueue(&orders).await;

        assert!(second.stop().await.success());
        third.ready().await;
        bed.stored(&orders, OrderStatus::Fulfilled).await;
        for order in &orders {
            bed.told(order, "fulfilled").await;
        }
        bed.stored(&[before], OrderStatus::Fulfilled).await;
        bed.idle().await;
        assert_eq!(bed.sink.received().len(), 21, "each order has one webhook");
        assert_eq!(column(&bed, "PRAGMA integrity_check").await, ["ok"]);
        let log = third.log();
        assert_eq!(log.matches(&format!("{removed}; orders wait")).count(), 1, "{log}");
        assert!(third.stop().await.success());
    }
}

#[tokio::test]
async fn nothing_is_stored_beside_a_removed_log_and_nothing_is_lost_once_all_workers_were_stopped() {
    let mut bed = Bed::new(600.0).await;
    let mut workers = vec![bed.worker().await];
    let address = bed.serve_http();
    workers.push(bed.worker().await);
    let before = bed.order(Script::fulfilled_after(Duration::ZERO));
    bed.enqueue([&before]).await;
    bed.told(&before, "fulfilled").await;
    bed.idle().await;
    std::fs::remove_file(beside(&bed, "-wal")).unwrap();
    std::fs::remove_file(beside(&bed, "-shm")).unwrap();
    let after = bed.order(Script::fulfilled_after(Duration::ZERO));
    bed.enqueue([&after]).await;
    readyz(&address, "not ready: the write-ahead log of the database was removed").await;
    assert_eq!(bed.sink.received().len(), 1, "nothing is told that is stored nowhere");
    for mut worker in workers {
        assert!(worker.stop().await.success());
    }
    let _worker = bed.worker().await;
    bed.told(&after, "fulfilled").await;
    bed.stored(&[before, after], OrderStatus::Fulfilled).await;
    bed.idle().await;
    assert_eq!(bed.sink.received().len(), 2);
}
