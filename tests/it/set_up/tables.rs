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
const SUPPRESSES: &str = "not ready: a trigger, rule or view of the database suppresses or alters changes";
const REFUSES: &str = "not ready: a constraint of the database refuses rows";
const OTHER_TYPE: &str = "not ready: a column of the database has another type than it was created with";
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

/// Creates the functions of the triggers on PostgreSQL.
async fn create_functions(bed: &Bed) {
    if setting(bed, "DATABASE_URL").starts_with("postgres") {
        for (name, body) in [
            ("fails", format!("RAISE WARNING 'of {PHONE}'; RAISE EXCEPTION 'of {PHONE}';")),
            ("suppresses", "RETURN NULL;".to_owned()),
            ("keeps", "NEW := OLD; RETURN NEW;".to_owned()),
            ("clears", "NEW.card_code := NULL; RETURN NEW;".to_owned()),
            ("deletes", "DELETE FROM notifications WHERE event_id = NEW.event_id; RETURN NULL;".to_owned()),
            (
                "conflicts",
                format!(
                    "SET client_min_messages = notice; RAISE NOTICE '{PHONE}';
                 RAISE EXCEPTION '{PHONE}' USING ERRCODE = '40001';"
                ),
            ),
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
    let mut faults: Vec<Fault> =
        [(fails, works, FAILS), (suppresses, stores, SUPPRESSES)].into_iter().chain(others).collect();
    if setting(bed, "DATABASE_URL").starts_with("sqlite") {
        // A connection that has met the view must see that the table is back.
        let view = "PRAGMA legacy_alter_table = ON; ALTER TABLE internet_orders RENAME TO kept;
             CREATE VIEW internet_orders AS SELECT * FROM kept WHERE status <> 'FULFILLED'";
        let table = "DROP VIEW internet_orders; PRAGMA legacy_alter_table = ON; ALTER TABLE kept RENAME TO internet_orders";
        faults.push((
            view.to_owned(),
            table.to_owned(),
            "not ready: the database refuses the statements of this program",
        ));
    }
    faults
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
    assert!(log.contains("of the database has failed (code "), "{log}");
    assert!(worker.stop().await.success());
}

/// Changes that a worker finds before an order meets them: the change, its reversal, and the readiness between them.
fn faults_at_start(bed: &Bed) -> Vec<Fault> {
    let added = |create: &str, words| {
        let name = create.split_whitespace().skip_while(|word| *word != "ON").nth(1).unwrap().to_owned();
        (create.to_owned(), format!("DROP TRIGGER added ON {name}"), words)
    };
    let text = |breaks: &str, repairs: &str, words| (breaks.to_owned(), repairs.to_owned(), words);
    if setting(bed, "DATABASE_URL").starts_with("sqlite") {
        let triggers = [
            (
                "AFTER UPDATE ON notifications",
                "UPDATE notifications SET status = OLD.status, sent_at = OLD.sent_at
                 WHERE event_id = NEW.event_id",
                SUPPRESSES,
            ),
            (
                "AFTER UPDATE ON internet_orders",
                "UPDATE internet_orders SET card_code = NULL
                 WHERE topup_id = NEW.topup_id",
                SUPPRESSES,
            ),
            (
                "AFTER INSERT ON notifications",
                "DELETE FROM notifications WHERE event_id = NEW.event_id",
                SUPPRESSES,
            ),
            ("BEFORE INSERT ON reveals", "SELECT RAISE(IGNORE)", SUPPRESSES),
            ("BEFORE INSERT ON reveals", "SELECT RAISE(ABORT, '+213661998877')", FAILS),
            ("BEFORE INSERT ON events", "INSERT INTO audit_213661998877 VALUES (1)", FAILS),
        ];
        let triggers = triggers.map(|(when, action, words)| {
            text(&format!("CREATE TRIGGER added {when} BEGIN {action}; END"), "DROP TRIGGER added", words)
        });
        return triggers.into_iter().chain([renamed_column()]).collect();
    }
    vec![
        added("CREATE TRIGGER added BEFORE UPDATE ON notifications FOR EACH ROW EXECUTE FUNCTION keeps()", SUPPRESSES),
        added("CREATE TRIGGER added BEFORE UPDATE ON internet_orders FOR EACH ROW EXECUTE FUNCTION clears()", SUPPRESSES),
        added("CREATE TRIGGER added AFTER INSERT ON notifications FOR EACH ROW EXECUTE FUNCTION deletes()", SUPPRESSES),
        added("CREATE TRIGGER added BEFORE INSERT ON reveals FOR EACH ROW EXECUTE FUNCTION suppresses()", SUPPRESSES),
        added("CREATE TRIGGER added BEFORE INSERT ON reveals FOR EACH ROW EXECUTE FUNCTION fails()", FAILS),
        added("CREATE TRIGGER added BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION conflicts()", FAILS),
        added("CREATE CONSTRAINT TRIGGER added AFTER INSERT ON events DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
             EXECUTE FUNCTION fails()", FAILS),
        text(
            "ALTER TABLE notifications ADD CONSTRAINT added CHECK (('x' || channel)::int > 0) NOT VALID",
            "ALTER TABLE notifications DROP CONSTRAINT added",
            FAILS,
        ),
        text(
            "ALTER TABLE notifications ALTER COLUMN next_attempt_at TYPE timestamp",
            "ALTER TABLE notifications ALTER COLUMN next_attempt_at TYPE timestamptz",
            OTHER_TYPE,
        ),
        text(
            "DO $$ BEGIN ALTER TABLE internet_orders RENAME TO kept; CREATE VIEW internet_orders AS
                 SELECT * FROM kept WHERE status <> 'FULFILLED'; END $$",
            "DO $$ BEGIN DROP VIEW internet_orders; ALTER TABLE kept RENAME TO internet_orders; END $$",
            SUPPRESSES,
        ),
        renamed_column(),
    ]
}

fn renamed_column() -> Fault {
    (
        "ALTER TABLE notifications RENAME COLUMN last_error TO gone".to_owned(),
        "ALTER TABLE notifications RENAME COLUMN gone TO last_error".to_owned(),
        MISSING,
    )
}

async fn a_worker_that_starts_with_a_changed_table_waits_until_it_is_repaired(mut bed: Bed) {
    assert!(bed.worker().await.stop().await.success());
    create_functions(&bed).await;
    let address = bed.serve_http();
    for (breaks, repairs, words) in faults_at_start(&bed) {
        execute(&bed, &breaks).await;
        let mut worker = bed.starting_worker();
        readyz(&address, words).await;
        let found = store_check_of_doctor(&bed).await;
        assert!(found.contains("\"fail\""), "{breaks}: {found}");
        execute(&bed, &repairs).await;
        worker.ready().await;
        assert!(worker.stop().await.success());
        for text in [found, worker.log()] {
            assert!(!text.contains(&PHONE[1..]), "{breaks}: {text}");
        }
    }
}

on_both!(
    a_changed_table_makes_a_worker_unready_and_loses_nothing,
    a_worker_that_starts_with_a_changed_table_waits_until_it_is_repaired,
);
