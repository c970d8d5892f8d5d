//! A trigger of the operator suppresses changes without an error. A call that depends on such a change fails.

use secrecy::ExposeSecret;
use topup_jobs::{Instruction, InstructionKind, Outcome, Timestamp, TopupId, TrackTopup};
use topup_worker::orders::{Notification, NotificationStatus, OrderStore, SqlStore, StoreError};

use super::database::{TestDatabase, at, by_sms, fulfill, id, mark_sent, try_fulfill};

super::on_both!(a_call_fails_while_its_change_is_suppressed, a_call_fails_while_a_trigger_undoes_its_change,);

/// The calls in the order in which an order needs them, each with the changes that it depends on.
const CALLS: [(Call, &[(&str, &str)]); 7] = [
    (Call::Track, &[("INSERT", "internet_orders"), ("INSERT", "order_events")]),
    (Call::Correct, &[("UPDATE", "internet_orders")]),
    (
        Call::Apply,
        &[
            ("UPDATE", "internet_orders"),
            ("INSERT", "order_events"),
            ("INSERT", "events"),
            ("INSERT", "notifications"),
        ],
    ),
    (Call::BeginAttempt, &[("UPDATE", "notifications"), ("INSERT", "order_events")]),
    (Call::CreateLink, &[("INSERT", "reveals")]),
    (Call::UseLink, &[("UPDATE", "reveals"), ("INSERT", "order_events")]),
    (Call::Delete, &[("DELETE", "internet_orders")]),
];

#[derive(Debug, Clone, Copy)]
enum Call {
    Track,
    Correct,
    Apply,
    BeginAttempt,
    CreateLink,
    UseLink,
    Delete,
}

async fn make(call: Call, store: &SqlStore, topup_id: &TopupId, now: Timestamp) -> Result<(), StoreError> {
    let notification = by_sms(topup_id, Outcome::Fulfilled);
    match call {
        Call::Track => {
            let message_id = Some("1000-0@1000".to_owned());
            let request = TrackTopup { message_id, ..TrackTopup::new(topup_id.clone()) };
            store.track(&request, now).await.map(drop)
        }
        Call::Correct => {
            let request = TrackTopup {
                message_id: Some("1000-1".to_owned()),
                topup_ref: Some("ref".to_owned()),
                ..TrackTopup::new(topup_id.clone())
            };
            store.instruct(&request, Instruction::new(InstructionKind::Correct), now).await.map(drop)
        }
        Call::Apply => {
            let order = store.order(topup_id).await?.expect("the order is tracked");
            try_fulfill(store, &order, now).await.map(drop)
        }
        Call::BeginAttempt => {
            let attempt = Notification {
                outcome: Outcome::Fulfilled,
                incident: notification.incident,
                channel: notification.channel.clone(),
                status: NotificationStatus::Pending,
                attempts: 1,
                next_attempt_at: Some(now),
                sent_at: None,
                last_error: None,
            };
            store.begin_attempt(&notification, &attempt, now).await
        }
        Call::CreateLink => store.reveal_token(&notification, now, at(1_000)).await.map(drop),
        Call::UseLink => {
            let token = store.reveal_token(&notification, now, at(1_000)).await?;
            store.try_reveal(token.expose_secret(), true, 3, now).await.map(drop)
        }
        Call::Delete => {
            mark_sent(store, topup_id, now).await;
            store.delete_ended(at(900), at(950), None, 10).await.map(drop)
        }
    }
}

async fn a_call_fails_while_its_change_is_suppressed(database: &TestDatabase) {
    let store = database.store().await;
    database
        .execute(
            "SELECT 1",
            "CREATE FUNCTION suppress() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        )
        .await;
    fulfill(&store, &id(2), at(0)).await;
    for (call, changes) in CALLS {
        for (action, table) in changes {
            let create = format!("CREATE TRIGGER added BEFORE {action} ON {table}");
            database
                .execute(
                    &format!("{create} BEGIN SELECT RAISE(IGNORE); END"),
                    &format!("{create} FOR EACH ROW EXECUTE FUNCTION suppress()"),
                )
                .await;
            let made = make(call, &store, &id(1), at(10)).await;
            assert!(
                matches!(made, Err(StoreError::NotStored(named)) if named == *table),
                "{call:?} without {action} on {table}: {made:?}"
            );
            database.execute("DROP TRIGGER added", &format!("DROP TRIGGER added ON {table}")).await;
        }
        make(call, &store, &id(1), at(10)).await.unwrap();
    }
    assert_eq!(store.order(&id(1)).await.unwrap(), None, "the last call has deleted the order");
}

/// The triggers run after the statements, so the statements themselves do not show what the triggers do.
async fn a_call_fails_while_a_trigger_undoes_its_change(database: &TestDatabase) {
    let store = database.store().await;
    make(Call::Track, &store, &id(1), at(0)).await.unwrap();
    for (call, table, when, undo) in [
        (
            Call::Apply,
            "internet_orders",
            "UPDATE ON internet_orders FOR EACH ROW WHEN (NEW.card_code IS NOT NULL)",
            "UPDATE internet_orders SET card_code = NULL WHERE topup_id = NEW.topup_id",
        ),
        (
            Call::Apply,
            "notifications",
            "INSERT ON notifications FOR EACH ROW",
            "DELETE FROM notifications WHERE event_id = NEW.event_id",
        ),
        (
            Call::BeginAttempt,
            "notifications",
            "UPDATE ON notifications FOR EACH ROW WHEN (NEW.attempts > OLD.attempts)",
            "UPDATE notifications SET attempts = OLD.attempts WHERE event_id = NEW.event_id",
        ),
    ] {
        if matches!(call, Call::BeginAttempt) {
            make(Call::Apply, &store, &id(1), at(10)).await.unwrap();
        }
        let function = format!(
            "CREATE OR REPLACE FUNCTION undo() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN {undo}; RETURN NULL; END'"
        );
        database
            .execute(
                &format!("CREATE TRIGGER added AFTER {when} BEGIN {undo}; END"),
                &format!("{function}; CREATE TRIGGER added AFTER {when} EXECUTE FUNCTION undo()"),
            )
            .await;
        let made = make(call, &store, &id(1), at(10)).await;
        assert!(matches!(made, Err(StoreError::NotStored(named)) if named == table), "{when}: {made:?}");
        database.execute("DROP TRIGGER added", &format!("DROP TRIGGER added ON {table}")).await;
    }
    make(Call::BeginAttempt, &store, &id(1), at(10)).await.unwrap();
}
