//! Programs of two versions on one database and one Redis.

use std::process::Command;
use std::time::Duration;

use topup_worker::simulator::Script;

use super::{column, execute, refused, setting, stops};
use crate::support::{Bed, PROGRAM};

super::on_both!(
    an_older_worker_uses_a_newer_schema_until_the_database_forbids_it,
    only_run_and_migrate_change_older_tables,
);

const UNKNOWN: &str = "6901616fe9e88196b4eb64b2";
const TOO_OLD: &str = "a newer topup-worker has changed the tables of the database";

async fn an_older_worker_uses_a_newer_schema_until_the_database_forbids_it(bed: Bed) {
    assert!(bed.program(&["migrate"]).status.success());
    let bytes = if setting(&bed, "DATABASE_URL").starts_with("sqlite") { "x'00'" } else { "'\\x00'" };
    let newer = format!(
        "INSERT INTO _sqlx_migrations (version, description, installed_on, success, checksum, execution_time)
         VALUES (9000, 'a newer program', CURRENT_TIMESTAMP, TRUE, {bytes}, 0)"
    );
    execute(&bed, &newer).await;
    execute(&bed, "ALTER TABLE internet_orders ADD COLUMN of_a_newer_program TEXT").await;
    let order = bed.order(Script::fulfilled_after(Duration::ZERO));
    bed.enqueue([&order]).await;
    let mut worker = bed.worker().await;
    bed.delivered(&order, "fulfilled").await;
    assert!(bed.shown(&order).contains("FULFILLED"));
    assert!(worker.stop().await.success());

    let forbid = execute(&bed, "UPDATE topup_store SET least_migration = 9000");
    let words = stops(&bed, forbid, 1).await;
    assert!(words.contains(TOO_OLD), "{words}");
    for args in [&["run"][..], &["migrate"], &["rekey"], &["order", &order]] {
        let words = refused(&bed, args, 1).await;
        assert!(words.contains(TOO_OLD) && words.contains("run the newer version"), "{args:?}: {words}");
    }
}

async fn only_run_and_migrate_change_older_tables(bed: Bed) {
    assert!(bed.program(&["migrate"]).status.success());
    execute(&bed, "DROP TABLE topup_store").await;
    execute(&bed, "DROP TABLE store_keys").await;
    execute(&bed, "DELETE FROM _sqlx_migrations WHERE version = 11").await;
    for args in commands() {
        let words = refused(&bed, &args, 1).await;
        assert!(words.contains("run `topup-worker migrate` first"), "{args:?}: {words}");
    }
    let noted = "SELECT description FROM _sqlx_migrations WHERE version = 11";
    assert_eq!(column(&bed, noted).await, [""; 0]);
    assert!(bed.program(&["migrate"]).status.success());
    assert_eq!(column(&bed, noted).await.len(), 1);
    let words = refused(&bed, &["order", UNKNOWN], 1).await;
    assert!(words.contains("it was enqueued"), "{words}");
}

/// The commands that read or change the database.
fn commands() -> [Vec<&'static str>; 6] {
    [
        vec!["order", UNKNOWN],
        vec!["resend", UNKNOWN],
        vec!["rekey"],
        vec!["adopt-store"],
        vec!["dead-letters", "replay", "--all"],
        vec!["dead-letters", "discard", UNKNOWN],
    ]
}

#[tokio::test]
async fn a_command_in_the_wrong_folder_reports_it_and_creates_no_database() {
    let bed = Bed::new(1.0).await;
    let _: u64 = bed.redis(&["SADD", "{topup}:poll-topup:dead", UNKNOWN]).await;
    let folder = tempfile::tempdir().unwrap();
    for args in commands() {
        let mut command = Command::new(PROGRAM);
        command.args(&args).envs(bed.settings().iter().map(|(name, value)| (*name, value)));
        command.current_dir(folder.path()).env_remove("DATABASE_URL");
        let output = command.output().unwrap();
        let words = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {words}");
        let file = folder.path().join("topup-worker.db");
        assert!(words.contains(&format!("there is no database {}", file.display())), "{args:?}: {words}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "{args:?}");
    }
}

#[tokio::test]
async fn an_order_is_shown_and_a_dead_letter_discarded_without_the_key() {
    let mut bed = Bed::new(600.0).await;
    bed.sink.answer_first([410]);
    let order = bed.order(Script::fulfilled_after(Duration::ZERO));
    let mut worker = bed.worker().await;
    bed.enqueue([&order]).await;
    bed.delivered(&order, "fulfilled").await;
    bed.idle().await;
    assert!(worker.stop().await.success());
    bed.set("ENCRYPTION_KEY", "");
    let shown = bed.shown(&order);
    assert!(shown.contains("card             stored, encrypted"), "{shown}");
    assert!(shown.contains("event fulfilled to webhook, attempt 1: refused"), "{shown}");
    let done = bed.program(&["dead-letters", "discard", &format!("{order}:fulfilled:webhook")]);
    assert!(String::from_utf8_lossy(&done.stdout).ends_with("deleted\n"), "{done:?}");
}

#[tokio::test]
async fn a_newer_redis_layout_stops_workers_and_changing_commands() {
    let bed = Bed::new(600.0).await;
    let newer = async {
        let layout: String = bed.redis(&["GET", "{topup}:layout"]).await;
        assert_eq!(layout, "1");
        let _: String = bed.redis(&["SET", "{topup}:layout", "9"]).await;
        // As the script of a newer program does.
        let _: u64 = bed.redis(&["DEL", "{topup}:keyrings"]).await;
    };
    let words = stops(&bed, newer, 1).await;
    let expected = "a newer topup-worker has changed what stands in Redis under {topup} (layout 9;";
    assert!(words.contains(expected), "{words}");
    let changing: [&[&str]; 5] = [
        &["run"],
        &["resend", UNKNOWN],
        &["dead-letters", "replay", "--all"],
        &["rejected", "replay", "--all"],
        &["adopt-store"],
    ];
    for args in changing {
        let words = refused(&bed, args, 1).await;
        assert!(words.contains(expected), "{args:?}: {words}");
    }
    for args in [&["dead-letters"][..], &["rejected"]] {
        assert!(bed.program(args).status.success(), "reading is still allowed");
    }
    let layout: String = bed.redis(&["GET", "{topup}:layout"]).await;
    assert_eq!(layout, "9", "the layout is never lowered");
}
