//! An operator has changed the tables: triggers, rules, constraints and names. No order is lost or notified twice.

use std::time::Duration;

use topup_jobs::OrderStatus;
use topup_worker::simulator::Script;

use super::databases::store_check_of_doctor;
use super::readiness::readyz;
use super::{execute, on_both, setting};
use crate::support::Bed;

const PHONE: &str = "+213661998877";
const FAILS: &str = "not ready: a trigger or function of the database fails";
const SUPPRESSES: &str = "not ready: a trigger or rule of the database suppresses changes";
const REFUSES: &str = "not ready: a constraint of the database refuses rows";
const MISSING: &str = "not ready: the tables of the database are missing or older than this program";

/// A change of the tables, its reversal, and the readiness between them.
type Fault = (String, String, &'static str);

fn trigger(bed: &Bed, action: &str, table: &str, kind: &str) -> (String, String) {
    if setting(bed, "DATABASE_URL").starts_with("sqlite") {
        let raise = match kind {
            "fails" => format!("ABORT, 'of {PHONE}'"),
            _ => "IGNORE".to_owned(),
        };
        let create =
            format!("CREATE TRIGGER added BEFORE {action} ON {table} BEGIN SELECT RAISE({raise}); END");
        (create, "DROP TRIGGER added".to_owned())
    } else {
        let create =
            format!("CREATE TRIGGER added BEFORE {action} ON {table} FOR EACH ROW EXECUTE FUNCTION {kind}()");
        (create, format!("DROP TRIGGER added ON {table}"))
    }
}

/// Creates the functions of [`trigger`].
async fn create_functions(bed: &Bed) {
    if setting(bed, "DATABASE_URL").starts_with("postgres") {
        for (name, body) in [
            ("fails", format!("RAISE WARNING 'of {PHONE}'; RAISE EXCEPTION 'of {PHONE}';")),
            ("suppresses", "RETURN NULL;".to_owned()),
        ] {
            let create = format!(
                "CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} END $$"
            );
            execute(bed, &create).await;
        }
    }
}

fn faults(bed: &Bed) -> Vec<Fault> {
    let (fails, works) = trigger(bed, "INSERT", "notifications", "fails");
    let (suppresses, stores) = trigger(bed, "UPDATE", "notifications", "suppresses");
    let other = if setting(bed, "DATABASE_URL").starts_with("sqlite") {
        [
            "ALTER TABLE internet_orders RENAME COLUMN delays TO gone",
            "ALTER TABLE internet_orders RENAME COLUMN gone TO delays",
            MISSING,
        ]
    } else {
        [
            "ALTER TABLE notifications ADD CONSTRAINT added CHECK (channel = 'none') NOT VALID",
            "ALTER TABLE notifications DROP CONSTRAINT added",
            REFUSES,
        ]
    };
    let renamed =
        ["ALTER TABLE notifications RENAME TO gone", "ALTER TABLE gone RENAME TO notifications", MISSING];
    let others =
        [other, renamed].map(|[breaks, repairs, words]| (breaks.to_owned(), repairs.to_owned(), words));
    [(fails, works, FAILS), (suppresses, stores, SUPPRESSES)].into_iter().chain(others).collect()
}

async fn a_changed_table_makes_a_worker_unready_and_loses_nothing(mut bed: Bed) {
    let address = bed.serve_http();
    let mut worker = bed.worker().await;
    readyz(&address, "200 OK").await;
    create_functions(&bed).await;
    let mut orders = Vec::new();
    for (breaks, repairs, words) in faults(&bed) {
        execute(&bed, &breaks).await;
        let order = bed.order(Script::fulfilled_after(Duration::ZERO));
        bed.enqueue([&order]).await;
        readyz(&address, words).await;
        execute(&bed, &repairs).await;
        bed.delivered(&order, "fulfilled").await;
        orders.push(order);
    }
    bed.stored(&orders, OrderStatus::Fulfilled).await;
    readyz(&address, "200 OK").await;
    assert_eq!(bed.sink.received().len(), orders.len(), "no event is delivered twice");
    let log = worker.log();
    assert!(!log.contains(PHONE), "{log}");
    assert!(log.contains("a trigger or function of the database has failed (code "), "{log}");
    assert!(worker.stop().await.success());
}

async fn a_worker_that_starts_with_a_changed_table_waits_until_it_is_repaired(mut bed: Bed) {
    assert!(bed.worker().await.stop().await.success());
    create_functions(&bed).await;
    let address = bed.serve_http();
    for (kind, words) in [("fails", FAILS), ("suppresses", SUPPRESSES)] {
        let (breaks, repairs) = trigger(&bed, "INSERT", "reveals", kind);
        execute(&bed, &breaks).await;
        let mut worker = bed.starting_worker();
        readyz(&address, words).await;
        let found = store_check_of_doctor(&bed).await;
        assert!(found.contains("\"fail\"") && found.contains("trigger"), "{found}");
        assert!(!found.contains(PHONE), "{found}");
        execute(&bed, &repairs).await;
        worker.ready().await;
        assert!(worker.stop().await.success());
    }
}

on_both!(
    a_changed_table_makes_a_worker_unready_and_loses_nothing,
    a_worker_that_starts_with_a_changed_table_waits_until_it_is_repaired,
);
