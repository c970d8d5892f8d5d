//! The disk under a SQLite file is full for a while.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use topup_jobs::OrderStatus;
use topup_worker::simulator::Script;

use super::column;
use super::databases::store_check_of_doctor;
use super::readiness::readyz;
use crate::support::{Bed, PROGRAM, skip_or_fail};

/// A file system in memory that belongs to one test.
struct Disk(TempDir);

impl Disk {
    fn new() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"]).arg(folder.path()).output();
        match mount {
            Ok(output) if output.status.success() => Some(Self(folder)),
            Ok(output) => {
                let reason = String::from_utf8_lossy(&output.stderr).into_owned();
                skip_or_fail("a disk that is full", reason.trim(), "TOPUP_TEST_REQUIRE_TMPFS");
                None
            }
            Err(error) => {
                skip_or_fail("a disk that is full", &error.to_string(), "TOPUP_TEST_REQUIRE_TMPFS");
                None
            }
        }
    }

    /// A bed whose database is a file on this disk.
    async fn bed(&self) -> Bed {
        let mut bed = Bed::new(600.0).await;
        bed.set("DATABASE_URL", format!("sqlite://{}", self.0.path().join("orders.db").display()));
        bed
    }

    /// Writes a file until the disk is full.
    fn fill(path: &Path) {
        let mut filler = File::create(path).unwrap();
        let mut size = 1 << 16;
        while size > 0 {
            if filler.write_all(&vec![0; size]).is_err() {
                size /= 2;
            }
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
        assert!(
            unmounted.is_ok_and(|status| status.success()) || std::thread::panicking(),
            "the disk could not be unmounted"
        );
    }
}

#[tokio::test]
async fn a_worker_on_a_full_disk_is_not_ready_and_recovers_once_there_is_room() {
    let Some(disk) = Disk::new() else { return };
    let mut bed = disk.bed().await;
    let address = bed.serve_http();
    let mut worker = bed.worker().await;
    let before = bed.order(Script::fulfilled_after(Duration::ZERO));
    bed.enqueue([&before]).await;
    bed.delivered(&before, "fulfilled").await;

    let filler = disk.0.path().join("filler");
    Disk::fill(&filler);
    let orders: Vec<String> = (0..60).map(|_| bed.order(Script::fulfilled_after(Duration::ZERO))).collect();
    bed.enqueue(&orders).await;
    worker.logs("the store failed; the job waits").await;
    readyz(&address, "not ready: the disk of the database is full").await;
    let found = store_check_of_doctor(&bed).await;
    assert!(found.contains("cannot grow: the disk is full"), "{found}");
    std::fs::remove_file(&filler).unwrap();

    bed.stored(&orders, OrderStatus::Fulfilled).await;
    for order in &orders {
        bed.delivered(order, "fulfilled").await;
    }
    readyz(&address, "200 OK").await;
    let log = worker.log();
    assert_eq!(log.matches("orders wait until it can be used again").count(), 1, "{log}");
    assert_eq!(bed.sink.received().len(), 61, "no event is delivered twice");
    assert_eq!(column(&bed, "PRAGMA integrity_check").await, ["ok"]);
    assert!(worker.stop().await.success());
}

#[tokio::test]
async fn a_worker_that_starts_on_a_full_disk_waits_until_there_is_room() {
    let Some(disk) = Disk::new() else { return };
    let mut bed = disk.bed().await;
    let filler = disk.0.path().join("filler");
    Disk::fill(&filler);
    waits(&mut bed, "the disk of the database is full", || std::fs::remove_file(&filler).unwrap()).await;
}

#[tokio::test]
async fn a_worker_that_starts_with_its_file_on_a_full_disk_waits_until_there_is_room() {
    let Some(disk) = Disk::new() else { return };
    let mut bed = disk.bed().await;
    assert!(bed.worker().await.stop().await.success());
    let filler = disk.0.path().join("filler");
    Disk::fill(&filler);
    waits(&mut bed, "the disk of the database is full", || std::fs::remove_file(&filler).unwrap()).await;
}

#[tokio::test]
async fn a_worker_that_starts_with_a_read_only_file_waits_until_it_is_writable() {
    let Some(disk) = Disk::new() else { return };
    let mut bed = disk.bed().await;
    assert!(bed.worker().await.stop().await.success());
    let remount = |mode: &str| {
        let mounted =
            Command::new("mount").arg("-o").arg(format!("remount,{mode}")).arg(disk.0.path()).status();
        assert!(mounted.unwrap().success());
    };
    remount("ro");
    waits(&mut bed, "the database is read-only", || remount("rw")).await;
}

#[tokio::test]
async fn a_file_that_cannot_be_created_stops_the_worker_with_a_clear_error() {
    let mut bed = Bed::new(600.0).await;
    bed.set("DATABASE_URL", "sqlite:///proc/none/orders.db");
    let mut command = tokio::process::Command::new(PROGRAM);
    command.arg("run").envs(bed.settings().iter().map(|(name, value)| (*name, value)));
    let output = command.output().await.unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("the file /proc/none/orders.db cannot be made: make its folder"), "{stderr}");
}

/// Starts a worker during this fault, repairs the fault, and expects the worker to deliver an order.
async fn waits(bed: &mut Bed, fault: &str, repair: impl FnOnce()) {
    let address = bed.serve_http();
    let mut worker = bed.starting_worker();
    readyz(&address, &format!("not ready: {fault}")).await;
    let line = format!("{fault}; orders wait until it can be used again");
    worker.logs(&line).await;
    repair();
    worker.ready().await;
    readyz(&address, "200 OK").await;
    assert_eq!(worker.log().matches(&line).count(), 1, "{}", worker.log());
    let order = bed.order(Script::fulfilled_after(Duration::ZERO));
    bed.enqueue([&order]).await;
    bed.delivered(&order, "fulfilled").await;
    assert!(worker.stop().await.success());
}
