//! Messages about known orders: the newest one decides each detail, and a cancellation holds until a newer one.

use topup_jobs::{
    Customer, Instruction, InstructionKind, JobName, Locale, OrderStatus, Secret, Timestamp, TopupId,
    TrackTopup,
};
use topup_worker::orders::{Applied, Change, Order, OrderStore, SqlStore};

use super::database::{TestDatabase, at, change, fulfill, id};

super::on_both!(
    the_newest_message_decides_each_detail_in_any_processing_order,
    a_check_in_flight_conflicts_with_a_correction,
    an_update_before_the_first_message_is_kept_and_polling_begins_with_that_message,
    a_cancelled_order_is_tracked_again_only_by_a_newer_message,
    a_check_instruction_tracks_a_given_up_order_again_once,
    a_late_cancellation_changes_nothing,
    an_instruction_about_an_unknown_order_stores_nothing,
);

fn customer(name: &str, email: &str, locale: Locale) -> Customer {
    let text = |text: &str| (!text.is_empty()).then(|| Secret::new(text));
    Customer { name: text(name), email: text(email), phone: Some(Secret::new("0661")), locale }
}

/// A message about this order with this number in its stream id.
fn message(topup_id: TopupId, number: u32) -> TrackTopup {
    TrackTopup { message_id: Some(format!("1000-{number}")), ..TrackTopup::new(topup_id) }
}

fn instruction(kind: InstructionKind) -> Instruction {
    Instruction::new(kind).of_tracked()
}

async fn carry_out(store: &SqlStore, request: &TrackTopup, now: Timestamp) -> Option<Order> {
    let instructed = match request.instruction {
        None => return Some(store.track(request, now).await.unwrap()),
        Some(instruction) => store.instruct(request, instruction, now).await.unwrap(),
    };
    instructed.map(|instructed| instructed.order)
}

/// All permutations of these messages.
fn permutations(of: Vec<TrackTopup>) -> Vec<Vec<TrackTopup>> {
    if of.len() < 2 {
        return vec![of];
    }
    let with = |n: usize| {
        let (mut rest, first) = (of.clone(), of[n].clone());
        rest.remove(n);
        permutations(rest).into_iter().map(move |rest| [vec![first.clone()], rest].concat())
    };
    (0..of.len()).flat_map(with).collect()
}

async fn the_newest_message_decides_each_detail_in_any_processing_order(database: &TestDatabase) {
    let store = database.store().await;
    let correct = |locale| Some(Instruction { locale, ..instruction(InstructionKind::Correct) });
    let messages = |order: &TopupId| {
        vec![
            TrackTopup {
                customer: Some(customer("Zohra", "wrong@example.dz", Locale::Ar)),
                metadata: serde_json::json!({"cart": 1}).as_object().cloned(),
                callback_url: Some(Secret::new("https://shop.example/wrong")),
                ..message(order.clone(), 1)
            },
            TrackTopup {
                customer: Some(Customer {
                    email: Some(Secret::new("right@example.dz")),
                    ..Customer::default()
                }),
                instruction: correct(None),
                ..message(order.clone(), 2)
            },
            TrackTopup {
                customer: Some(Customer {
                    name: Some(Secret::new("")),
                    locale: Locale::En,
                    ..Customer::default()
                }),
                callback_url: Some(Secret::new("")),
                instruction: correct(Some(Locale::En)),
                ..message(order.clone(), 3)
            },
            TrackTopup {
                metadata: serde_json::json!({"cart": 4}).as_object().cloned(),
                instruction: Some(instruction(InstructionKind::Update)),
                ..message(order.clone(), 4)
            },
        ]
    };
    for (n, messages) in permutations(messages(&id(0))).into_iter().enumerate() {
        let order = id(u32::try_from(n + 1).unwrap());
        let numbers: Vec<_> = messages.iter().map(|message| message.message_id.clone().unwrap()).collect();
        // Each message is processed twice, because a job may be repeated at any time.
        for request in messages.iter().chain(&messages) {
            let request = TrackTopup { topup_id: order.clone(), ..request.clone() };
            carry_out(&store, &request, at(0)).await.unwrap();
        }
        let stored = store.order(&order).await.unwrap().unwrap();
        let expected = customer("", "right@example.dz", Locale::En);
        assert_eq!(stored.customer, Some(expected), "{numbers:?}");
        assert_eq!(stored.metadata.unwrap()["cart"], 4, "{numbers:?}");
        assert_eq!(stored.callback_url, None, "{numbers:?}");
        assert!(stored.tracking.next_check_at.is_some());
    }
    let contacts =
        database.column("SELECT DISTINCT contact_email || contact_phone FROM internet_orders").await;
    assert_eq!(contacts, ["right@example.dz0661"]);
}

async fn a_check_in_flight_conflicts_with_a_correction(database: &TestDatabase) {
    let store = database.store().await;
    let read = store.track(&message(id(1), 1), at(0)).await.unwrap();
    let correction = TrackTopup {
        customer: Some(customer("Zohra", "right@example.dz", Locale::Fr)),
        instruction: Some(instruction(InstructionKind::Correct)),
        ..message(id(1), 2)
    };
    carry_out(&store, &correction, at(1)).await.unwrap();
    let record = topup_jobs::Tracking { status: OrderStatus::Delayed, ..read.tracking.clone() };
    let (job, order) = (JobName::PollTopup, &read);
    let late = Change { job, at: at(2), order, record: &record, seen: None, given_up: None, event: None };
    assert_eq!(
        store.apply(late).await.unwrap().0,
        Applied::Conflict,
        "its event would carry the old customer"
    );
    let history = store.history(&id(1)).await.unwrap();
    let last = history.last().unwrap().what.to_string();
    assert!(last.contains("corrected: customer") && !last.contains("right@"), "{last}");
}

async fn an_update_before_the_first_message_is_kept_and_polling_begins_with_that_message(
    database: &TestDatabase,
) {
    let store = database.store().await;
    let correction = TrackTopup {
        metadata: serde_json::json!({"cart": 2}).as_object().cloned(),
        instruction: Some(instruction(InstructionKind::Update)),
        ..message(id(1), 2)
    };
    carry_out(&store, &correction, at(0)).await.unwrap();
    let first = TrackTopup {
        customer: Some(customer("Zohra", "z@example.dz", Locale::Ar)),
        metadata: serde_json::json!({"cart": 1}).as_object().cloned(),
        ..message(id(1), 1)
    };
    let order = store.track(&first, at(3_600)).await.unwrap();
    assert_eq!((order.metadata.unwrap()["cart"].as_u64(), order.customer), (Some(2), first.customer.clone()));
    let tracking = order.tracking;
    let begins = Some(at(3_600));
    assert_eq!((Some(tracking.tracked_at), Some(tracking.polling_since)), (begins, begins));
    // After a check, a repeat of the first job does not restart polling.
    change(&store, &id(1), at(3_601), |record| record.last_checked_at = Some(at(3_601))).await;
    let order = store.track(&first, at(7_200)).await.unwrap();
    assert_eq!(order.tracking.polling_since, at(3_600));
}

async fn a_cancelled_order_is_tracked_again_only_by_a_newer_message(database: &TestDatabase) {
    let store = database.store().await;
    let by = |kind, number| TrackTopup { instruction: Some(instruction(kind)), ..message(id(1), number) };
    let first = message(id(1), 1);
    let read = store.track(&first, at(0)).await.unwrap();
    let cancelled = carry_out(&store, &by(InstructionKind::Cancel, 3), at(5)).await.unwrap();
    assert_eq!((cancelled.cancelled_at, cancelled.tracking.next_check_at), (Some(at(5)), None));

    // A check in flight, the order's own job and a correction leave the order cancelled.
    let record = topup_jobs::Tracking { polls: 1, ..read.tracking.clone() };
    let (job, order) = (JobName::PollTopup, &read);
    let late = Change { job, at: at(6), order, record: &record, seen: None, given_up: None, event: None };
    assert_eq!(store.apply(late).await.unwrap().0, Applied::Conflict);
    let correction =
        TrackTopup { customer: Some(customer("Zohra", "", Locale::Ar)), ..by(InstructionKind::Correct, 5) };
    for repeat in [&first, &first.continued(at(0)), &correction, &by(InstructionKind::Update, 2)] {
        let order = carry_out(&store, repeat, at(7)).await.unwrap();
        assert_eq!(order.cancelled_at, Some(at(5)), "{:?}", repeat.message_id);
    }
    // The order is no dead letter, and a dead letter that Redis still holds does not make it one.
    assert!(!store.note_given_up(&id(1), "poison: three processes died", at(7)).await.unwrap());
    assert!(!store.discard_order(&id(1), "discarded by the operator", at(7)).await.unwrap());
    assert_eq!(store.given_up_orders(None, 10).await.unwrap().found, []);
    let overdue = store.unchecked_orders(JobName::PollTopup, at(9_999), None, 10).await.unwrap();
    assert_eq!(overdue.found, [], "it is not enqueued again");

    let check = by(InstructionKind::Check, 6);
    let again = store.instruct(&check, check.instruction.unwrap(), at(8)).await.unwrap().unwrap();
    assert!(again.tracked_again);
    assert_eq!((again.order.cancelled_at, again.order.tracking.next_check_at), (None, Some(at(8))));
    let repeated = store.instruct(&check, check.instruction.unwrap(), at(9)).await.unwrap().unwrap();
    assert!(!repeated.tracked_again);

    // A plain message of a producer tracks the order again, too.
    carry_out(&store, &by(InstructionKind::Cancel, 7), at(10)).await.unwrap();
    let order = store.track(&message(id(1), 8), at(11)).await.unwrap();
    assert_eq!((order.cancelled_at, order.tracking.next_check_at), (None, Some(at(11))));
    let history = store.history(&id(1)).await.unwrap();
    let causes: Vec<_> = history.iter().map(|entry| entry.what.to_string()).collect();
    assert!(causes[1].starts_with("HANDLING still, cancelled"), "{causes:?}");
}

async fn a_check_instruction_tracks_a_given_up_order_again_once(database: &TestDatabase) {
    let store = database.store().await;
    store.track(&message(id(1), 1), at(0)).await.unwrap();
    let kind = Instruction::new(InstructionKind::Check);
    for (number, discarded) in [(2, false), (3, true)] {
        change(&store, &id(1), at(1), |record| record.next_check_at = None).await;
        assert!(store.note_given_up(&id(1), "not-found", at(2)).await.unwrap());
        assert!(!discarded || store.discard_order(&id(1), "discarded by the operator", at(3)).await.unwrap());
        let check = TrackTopup { instruction: Some(kind), ..message(id(1), number) };
        let again = store.instruct(&check, kind, at(4)).await.unwrap().unwrap();
        assert!(again.tracked_again, "{number}");
        let order = again.order;
        assert_eq!(
            (order.given_up, order.discarded, order.tracking.next_check_at),
            (None, false, Some(at(4)))
        );
        let repeated = store.instruct(&check, kind, at(5)).await.unwrap().unwrap();
        assert!(!repeated.tracked_again, "{number}");
    }
    // Replaying tracks a cancelled order again, too.
    let cancel = Instruction::new(InstructionKind::Cancel);
    let request = TrackTopup { instruction: Some(cancel), ..message(id(1), 4) };
    let cancelled = store.instruct(&request, cancel, at(6)).await.unwrap().unwrap().order;
    assert_eq!(cancelled.cancelled_at, Some(at(6)));
    assert!(store.replay_order(&id(1), "replayed by the operator", at(7)).await.unwrap());
    let replayed = store.order(&id(1)).await.unwrap().unwrap();
    assert_eq!((replayed.cancelled_at, replayed.tracking.next_check_at), (None, Some(at(7))));
}

async fn a_late_cancellation_changes_nothing(database: &TestDatabase) {
    let store = database.store().await;
    let cancel = |order, number| TrackTopup {
        instruction: Some(instruction(InstructionKind::Cancel)),
        ..message(id(order), number)
    };
    // The producer has sent a newer message since.
    store.track(&message(id(1), 4), at(0)).await.unwrap();
    let order = carry_out(&store, &cancel(1, 3), at(1)).await.unwrap();
    assert_eq!((order.cancelled_at, order.tracking.next_check_at), (None, Some(at(0))));
    // Order 2 is final, order 3 was given up.
    fulfill(&store, &id(2), at(0)).await;
    store.track(&message(id(3), 1), at(0)).await.unwrap();
    change(&store, &id(3), at(1), |record| record.next_check_at = None).await;
    for order in [2, 3] {
        let before = store.order(&id(order)).await.unwrap().unwrap();
        let after = carry_out(&store, &cancel(order, 9), at(2)).await.unwrap();
        assert_eq!((after.cancelled_at, after.version), (None, before.version));
    }
}

async fn an_instruction_about_an_unknown_order_stores_nothing(database: &TestDatabase) {
    let store = database.store().await;
    for kind in [InstructionKind::Check, InstructionKind::Correct, InstructionKind::Cancel] {
        let request = TrackTopup {
            customer: Some(customer("Zohra", "", Locale::Ar)),
            instruction: Some(Instruction::new(kind)),
            ..message(id(1), 1)
        };
        assert_eq!(store.instruct(&request, request.instruction.unwrap(), at(0)).await.unwrap(), None);
        assert_eq!(store.order(&id(1)).await.unwrap(), None);
    }
}
