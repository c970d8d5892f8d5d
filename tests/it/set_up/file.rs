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
async fn a_worker_waits_while_its_database_file_is_moved_away() {
    let mut bed = Bed::new(600.0).await;
    let address = bed.serve_http();
    let mut worker = bed.worker().await;
    readyz(&address, "200 OK").await;
    let away = beside(&bed, ".away");
    std::fs::rename(file(&bed), &away).unwrap();
    let order = bed.order(Script::fulfilled_after(Duration::ZERO));
    bed.enqueue([&order]).await;
    readyz(&address, "not ready: the file of the database is not at its path any more").await;
    assert_eq!(bed.sink.received().len(), 0, "no event is sent before it is stored");
    assert!(!file(&bed).exists(), "the worker creates no other file");

    std::fs::rename(&away, file(&bed)).unwrap();
    bed.delivered(&order, "fulfilled").await;
    bed.stored(&[order], OrderStatus::Fulfilled).await;
    readyz(&address, "200 OK").await;
    worker.logs("the database answers again").await;
    let log = worker.log();
    assert_eq!(log.matches("orders wait until it can be used again").count(), 1, "{log}");
    assert!(worker.stop().await.success());
}

#[tokio::test]
async fn a_backup_is_refused_until_the_log_of_the_former_file_is_removed() {
    let mut bed = Bed::new(600.0).await;
    let mut workers = vec![bed.worker().await];
    let address = bed.serve_http();
    workers.push(bed.worker().await);
    bed.set("HTTP_ADDR", "127.0.0.1:0");
    let before = bed.order(Script::fulfilled_after(Duration::ZERO));
    bed.enqueue([&before]).await;
    bed.delivered(&before, "fulfilled").await;
    bed.idle().await;
    let backup = beside(&bed, ".backup");
    execute(&bed, &format!("VACUUM INTO '{}'", backup.display())).await;
    let late = bed.order(Script::fulfilled_after(Duration::ZERO));
    bed.enqueue([&late]).await;
    bed.delivered(&late, "fulfilled").await;
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
    // The former file is complete when it comes back.
    let backup = beside(&bed, ".backup");
    std::fs::rename(file(&bed), &backup).unwrap();
    std::fs::rename(&former, file(&bed)).unwrap();
    bed.delivered(&after, "fulfilled").await;
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
    bed.delivered(&restored, "fulfilled").await;
    bed.stored(&[before, restored], OrderStatus::Fulfilled).await;
    assert_eq!(column(&bed, "PRAGMA integrity_check").await, ["ok"]);
    assert!(worker.stop().await.success());
}

#[tokio::test]
async fn a_damaged_database_is_reported() {
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
    let worker = bed.starting_worker();
    let order = bed.order(Script::fulfilled_after(Duration::ZERO));
    bed.enqueue([&order]).await;
    readyz(&address, "not ready: the database is damaged").await;
    worker.logs("the database is damaged; orders wait until it can be used again").await;
    assert_eq!(bed.sink.received().len(), 0, "no event is sent before it is stored");
}

#[tokio::test]
async fn a_file_that_replaces_the_database_is_not_written_and_the_original_stays_intact() {
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
        assert_eq!(std::fs::read(file(&bed)).unwrap(), wrong, "the worker does not write to it");
        std::fs::rename(&away, file(&bed)).unwrap();
        readyz(&address, "200 OK").await;
        let order = bed.order(Script::fulfilled_after(Duration::ZERO));
        bed.enqueue([&order]).await;
        bed.delivered(&order, "fulfilled").await;
        orders.push(order);
    }
    bed.idle().await;
    worker.kill();
    let _again = bed.worker().await;
    bed.stored(&orders, OrderStatus::Fulfilled).await;
    assert_eq!(column(&bed, "PRAGMA integrity_check").await, ["ok"]);
}

#[tokio::test]
async fn a_worker_that_starts_beside_a_removed_log_or_index_waits_for_workers_that_have_it_open() {
    let removed = (
        "the write-ahead log of the database was removed",
        "(-wal or -shm) was removed while it was open",
        "was removed while workers have it open",
    );
    let elsewhere = (
        "another process has the database open with other files",
        "open, but not with the files beside it",
        "open, but not with the files beside it",
    );
    for (gone, (fault, words, advice)) in [
        (&["-wal", "-shm"][..], removed),
        (&["-shm"], removed),
        (&["-wal"], removed),
        (&["-wal", "-shm", "-opened"], elsewhere),
    ] {
        let mut bed = Bed::new(600.0).await;
        let mut first = bed.worker().await;
        let mut second = bed.worker().await;
        let before = bed.order(Script::fulfilled_after(Duration::ZERO));
        bed.enqueue([&before]).await;
        bed.delivered(&before, "fulfilled").await;
        bed.idle().await;
        for suffix in gone {
            std::fs::remove_file(beside(&bed, suffix)).unwrap();
        }
        first.kill();
        let address = bed.serve_http();
        let mut third = bed.starting_worker();
        readyz(&address, &format!("not ready: {fault}")).await;
        for command in [&["orders"][..], &["migrate"]] {
            let refusal = refused(&bed, command, 1).await;
            assert!(refusal.contains(words), "{command:?}: {refusal}");
        }
        let report = bed.program_async(&["doctor"]).await;
        let report = String::from_utf8_lossy(&report.stdout).into_owned();
        assert!(report.contains(advice), "{report}");
        let orders: Vec<String> =
            (0..20).map(|_| bed.order(Script::fulfilled_after(Duration::ZERO))).collect();
        bed.enqueue(&orders).await;

        assert!(second.stop().await.success());
        third.ready().await;
        bed.stored(&orders, OrderStatus::Fulfilled).await;
        for order in &orders {
            bed.delivered(order, "fulfilled").await;
        }
        bed.stored(&[before], OrderStatus::Fulfilled).await;
        bed.idle().await;
        assert_eq!(bed.sink.received().len(), 21, "each order has one webhook");
        assert_eq!(column(&bed, "PRAGMA integrity_check").await, ["ok"]);
        let log = third.log();
        assert_eq!(log.matches(&format!("{fault}; orders wait")).count(), 1, "{log}");
        assert!(third.stop().await.success());
    }
}

#[tokio::test]
async fn a_removed_log_stops_all_writes_and_a_restart_of_all_workers_loses_nothing() {
    let mut bed = Bed::new(600.0).await;
    let mut workers = vec![bed.worker().await];
    let address = bed.serve_http();
    workers.push(bed.worker().await);
    let before = bed.order(Script::fulfilled_after(Duration::ZERO));
    bed.enqueue([&before]).await;
    bed.delivered(&before, "fulfilled").await;
    bed.idle().await;
    std::fs::remove_file(beside(&bed, "-wal")).unwrap();
    std::fs::remove_file(beside(&bed, "-shm")).unwrap();
    let after = bed.order(Script::fulfilled_after(Duration::ZERO));
    bed.enqueue([&after]).await;
    readyz(&address, "not ready: the write-ahead log of the database was removed").await;
    assert_eq!(bed.sink.received().len(), 1, "no event is sent before it is stored");
    for mut worker in workers {
        assert!(worker.stop().await.success());
    }
    let _worker = bed.worker().await;
    bed.delivered(&after, "fulfilled").await;
    bed.stored(&[before, after], OrderStatus::Fulfilled).await;
    bed.idle().await;
    assert_eq!(bed.sink.received().len(), 2);
}

#[tokio::test]
async fn workers_that_reach_the_file_by_a_symbolic_link_notice_a_removed_log() {
    let mut bed = Bed::new(600.0).await;
    let first = bed.worker().await;
    let link = beside(&bed, ".link");
    std::os::unix::fs::symlink(file(&bed), &link).unwrap();
    let real = file(&bed);
    bed.set("DATABASE_URL", format!("sqlite://{}", link.display()));
    let address = bed.serve_http();
    let mut second = bed.worker().await;
    for suffix in ["-wal", "-shm"] {
        std::fs::remove_file(format!("{}{suffix}", real.display())).unwrap();
    }
    let removed = "not ready: the write-ahead log of the database was removed";
    readyz(&address, removed).await;
    second.kill();
    let address = bed.serve_http();
    let mut third = bed.starting_worker();
    readyz(&address, removed).await;
    assert!(third.stop().await.success());
    drop(first);
}

#[tokio::test]
async fn a_hard_link_to_the_file_is_refused_while_workers_use_the_first_name() {
    let mut bed = Bed::new(600.0).await;
    let mut first = bed.worker().await;
    let (name, second_name) = (file(&bed), beside(&bed, ".second"));
    std::fs::hard_link(&name, &second_name).unwrap();
    bed.set("DATABASE_URL", format!("sqlite://{}", second_name.display()));
    let refusal = refused(&bed, &["orders"], 1).await;
    assert!(refusal.contains("has a second name (a hard link)"), "{refusal}");
    let address = bed.serve_http();
    let mut second = bed.starting_worker();
    readyz(&address, "not ready: the database has a second name (a hard link)").await;
    std::fs::remove_file(&second_name).unwrap();
    std::os::unix::fs::symlink(&name, &second_name).unwrap();
    second.ready().await;
    assert!(first.stop().await.success());
    assert!(second.stop().await.success());
}

#[tokio::test]
async fn an_opened_note_that_cannot_be_used_is_reported() {
    let mut bed = Bed::new(600.0).await;
    assert!(bed.program(&["migrate"]).status.success());
    let note = beside(&bed, "-opened");
    std::fs::remove_file(&note).unwrap();
    std::fs::create_dir(&note).unwrap();
    let address = bed.serve_http();
    let mut worker = bed.starting_worker();
    readyz(&address, "not ready: the file -opened beside the database cannot be used").await;
    let report = bed.program_async(&["doctor"]).await;
    let report = String::from_utf8_lossy(&report.stdout).into_owned();
    assert!(report.contains("-opened cannot be used"), "{report}");
    std::fs::remove_dir(&note).unwrap();
    worker.ready().await;
    std::fs::write(&note, "junk").unwrap();
    let order = bed.order(Script::fulfilled_after(Duration::ZERO));
    bed.enqueue([&order]).await;
    bed.delivered(&order, "fulfilled").await;
    bed.set("HTTP_ADDR", "127.0.0.1:0");
    let mut beside_it = bed.worker().await;
    assert!(worker.stop().await.success());
    assert!(beside_it.stop().await.success());
}

#[tokio::test]
async fn a_removed_log_loses_nothing_although_the_last_worker_is_killed() {
    for noticed in [false, true] {
        let mut bed = Bed::new(600.0).await;
        let mut first = bed.worker().await;
        let address = bed.serve_http();
        let mut second = bed.worker().await;
        bed.set("HTTP_ADDR", "127.0.0.1:0");
        let orders: Vec<String> =
            (0..5).map(|_| bed.order(Script::fulfilled_after(Duration::ZERO))).collect();
        bed.enqueue(&orders).await;
        for order in &orders {
            bed.delivered(order, "fulfilled").await;
        }
        bed.idle().await;
        for suffix in ["-wal", "-shm", "-opened"] {
            std::fs::remove_file(beside(&bed, suffix)).unwrap();
        }
        if noticed {
            readyz(&address, "not ready: the write-ahead log of the database was removed").await;
            first.kill();
        } else {
            assert!(first.stop().await.success());
        }
        second.kill();
        let mut third = bed.worker().await;
        bed.stored(&orders, OrderStatus::Fulfilled).await;
        assert_eq!(column(&bed, "PRAGMA integrity_check").await, ["ok"]);
        assert_eq!(bed.sink.received().len(), orders.len(), "each order has one webhook");
        assert!(third.stop().await.success());
    }
}
