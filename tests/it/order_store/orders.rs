//! Orders, changes and events.

use std::path::Path;

use futures_util::future::join_all;
use sqlx::migrate::Migrator;
use topup_jobs::{Customer, JobName, Locale, OrderStatus, Outcome, Secret, TopupId, TrackTopup, Tracking};
use topup_worker::orders::{Applied, Behind, Change, Notification, OrderStore, Page, UncheckedOrder};

use super::database::{CARD, TestDatabase, at, by_sms, change, event, fulfill, id};

super::on_both!(
    an_order_is_stored_once_and_completed_later,
    a_newer_message_replaces_what_it_names_and_a_repeated_job_does_not,
    every_field_of_an_order_reads_back,
    one_of_several_changes_to_the_same_version_is_stored,
    a_final_state_does_not_change,
    an_event_is_stored_once,
    unchecked_orders_are_found_oldest_first,
    pending_notifications_are_found_oldest_first,
    concurrent_workers_create_the_tables_once,
);

async fn an_order_is_stored_once_and_completed_later(database: &TestDatabase) {
    let (one, two) = (database.store().await, database.store().await);
    let request = TrackTopup::new(id(1));
    let tracked = (0..10).map(|n| [&one, &two][n % 2].track(&request, at(0)));
    for order in join_all(tracked).await {
        assert_eq!(order.unwrap().tracking, Tracking::new(at(0)));
    }
    assert_eq!(one.history(&id(1)).await.unwrap().len(), 1, "the order is tracked once");
    let more = TrackTopup {
        topup_ref: Some("order-1".to_owned()),
        customer: Some(Customer {
            name: Some(Secret::new("Zohra")),
            locale: Locale::Ar,
            ..Customer::default()
        }),
        metadata: serde_json::json!({"cart": "ك-1"}).as_object().cloned(),
        ..request.clone()
    };
    let order = two.track(&more, at(5)).await.unwrap();
    assert_eq!((&order.topup_ref, &order.customer), (&more.topup_ref, &more.customer));
    assert_eq!(order.metadata, more.metadata);
    assert_eq!(order.tracking.tracked_at, at(0));
    let other = TrackTopup { topup_ref: Some("order-2".to_owned()), ..request };
    let order = one.track(&other, at(6)).await.unwrap();
    assert_eq!(order.topup_ref.as_deref(), Some("order-1"), "the first reference stays");
}

async fn a_newer_message_replaces_what_it_names_and_a_repeated_job_does_not(database: &TestDatabase) {
    let store = database.store().await;
    let message = |message: &str, email: Option<&str>, cart: Option<&str>| TrackTopup {
        customer: email.map(|email| Customer { email: Some(Secret::new(email)), ..Customer::default() }),
        metadata: cart.and_then(|cart| serde_json::json!({"cart": cart}).as_object().cloned()),
        message_id: Some(message.to_owned()),
        ..TrackTopup::new(id(1))
    };
    let track = async |request: &TrackTopup| {
        let order = store.track(request, at(0)).await.unwrap();
        let email = order.customer.and_then(|customer| customer.email);
        let cart = order.metadata.map(|metadata| metadata["cart"].as_str().unwrap().to_owned());
        (email.map(|email| email.reveal().to_owned()), cart)
    };
    let expect = |email: &str, cart: &str| (Some(email.to_owned()), Some(cart.to_owned()));
    let first = message("9-0", Some("wrong"), Some("one"));
    assert_eq!(track(&first).await, expect("wrong", "one"));
    let second = message("10-0", Some("right"), None);
    assert_eq!(track(&second).await, expect("right", "one"), "a detail that the message does not name stays");
    assert_eq!(track(&first).await, expect("right", "one"), "the job of the first message is repeated");
    let third = message("10-1", None, Some("two"));
    assert_eq!(track(&third).await, expect("right", "two"));
    for repeated in [&second, &first, &TrackTopup { message_id: None, ..first.clone() }] {
        assert_eq!(track(repeated).await, expect("right", "two"), "{:?}", repeated.message_id);
    }
    // The list poller or a check may track an order without a message.
    let bare = TrackTopup { customer: first.customer.clone(), ..TrackTopup::new(id(2)) };
    store.track(&bare, at(0)).await.unwrap();
    let corrected = TrackTopup { topup_id: id(2), ..second.clone() };
    assert_eq!(store.track(&corrected, at(0)).await.unwrap().customer, second.customer);
    // A final order takes a correction, too, because its events can be sent again.
    fulfill(&store, &id(3), at(0)).await;
    let corrected = TrackTopup { topup_id: id(3), ..second.clone() };
    let order = store.track(&corrected, at(0)).await.unwrap();
    assert_eq!((order.tracking.status, order.customer), (OrderStatus::Fulfilled, second.customer));
}

async fn every_field_of_an_order_reads_back(database: &TestDatabase) {
    let store = database.store().await;
    let nul = TrackTopup { topup_ref: Some("a\0b".to_owned()), ..TrackTopup::new(id(2)) };
    let order = store.track(&nul, at(0)).await.unwrap();
    let kept = if database.keeps_nul() { "a\0b" } else { "a\u{FFFD}b" };
    assert_eq!(order.topup_ref.as_deref(), Some(kept));

    fulfill(&store, &id(1), at(7)).await;
    let order = store.order(&id(1)).await.unwrap().unwrap();
    assert_eq!(order.number.as_ref().map(Secret::reveal), Some("036362608"));
    assert_eq!((order.topup_amount, order.version), (Some(1_000), 1));
    assert_eq!(order.tracking.fulfilled_at, Some(at(7)));
    let card = store.card(&id(1)).await.unwrap().unwrap();
    assert_eq!(card.card_code.reveal(), CARD);
    assert_eq!(card.num_trans.as_deref(), Some("AT-2025-12345"));
    let stored = database.column("SELECT card_code FROM internet_orders WHERE card_code IS NOT NULL").await;
    assert!(stored.len() == 1 && !stored[0].contains(CARD), "{stored:?}");

    let record = Tracking {
        status: OrderStatus::Scheduled,
        polling_since: at(1),
        polls: 60,
        last_checked_at: Some(at(2)),
        next_check_at: Some(at(3)),
        scheduled_at: Some(at(4)),
        delays: 2,
        not_found: 3,
        overdue: true,
        last_error: Some("HTTP 500".to_owned()),
        ..Tracking::new(at(0))
    };
    assert_eq!(change(&store, &id(2), at(9), |tracking| *tracking = record.clone()).await, Applied::Stored);
    assert_eq!(store.order(&id(2)).await.unwrap().unwrap().tracking, record);
    assert_eq!(store.order(&id(3)).await.unwrap(), None);
    assert_eq!(store.card(&id(2)).await.unwrap(), None);
}

async fn one_of_several_changes_to_the_same_version_is_stored(database: &TestDatabase) {
    let stores = [database.store().await, database.store().await];
    let order = stores[0].track(&TrackTopup::new(id(1)), at(0)).await.unwrap();
    let records: Vec<Tracking> = (1..=10)
        .map(|n| Tracking { status: OrderStatus::Delayed, delays: n, ..order.tracking.clone() })
        .collect();
    let changes = records.iter().enumerate().map(|(n, record)| {
        stores[n % 2].apply(Change {
            job: JobName::PollTopup,
            at: at(1),
            order: &order,
            record,
            seen: None,
            given_up: None,
            event: Some(event(&id(1), Outcome::Delayed, at(1))),
        })
    });
    let applied: Vec<Applied> =
        join_all(changes).await.into_iter().map(|applied| applied.unwrap().0).collect();
    let winners: Vec<usize> = (0..10).filter(|n| applied[*n] == Applied::Stored).collect();
    assert_eq!(winners.len(), 1, "{applied:?}");
    let order = stores[0].order(&id(1)).await.unwrap().unwrap();
    assert_eq!(order.tracking, records[winners[0]]);
    assert_eq!(stores[1].history(&id(1)).await.unwrap().len(), 2);
    assert_eq!(stores[1].notifications(&id(1)).await.unwrap().len(), 1);
}

async fn a_final_state_does_not_change(database: &TestDatabase) {
    let store = database.store().await;
    fulfill(&store, &id(1), at(7)).await;
    let refund = |record: &mut Tracking| {
        record.status = OrderStatus::Refunded;
        record.refunded_at = Some(at(8));
    };
    assert_eq!(change(&store, &id(1), at(8), refund).await, Applied::Conflict);
    let order = store.track(&TrackTopup::new(id(1)), at(9)).await.unwrap();
    assert_eq!(order.tracking.status, OrderStatus::Fulfilled);
    assert_eq!(store.card(&id(1)).await.unwrap().unwrap().card_code.reveal(), CARD);
}

async fn an_event_is_stored_once(database: &TestDatabase) {
    let store = database.store().await;
    fulfill(&store, &id(1), at(7)).await;
    let order = store.order(&id(1)).await.unwrap().unwrap();
    let again = Change {
        job: JobName::RecheckTopup,
        at: at(9),
        order: &order,
        record: &order.tracking,
        seen: None,
        given_up: None,
        event: Some(event(&id(1), Outcome::Fulfilled, at(9))),
    };
    assert_eq!(store.apply(again).await.unwrap().0, Applied::Repeated);
    let read = async |outcome| store.for_attempt(&by_sms(&id(1), outcome), false).await.unwrap().unwrap();
    let stored = read(Outcome::Fulfilled).await.event().unwrap().unwrap();
    assert_eq!(stored, event(&id(1), Outcome::Fulfilled, at(7)).body);
    assert_eq!(read(Outcome::Refunded).await.event().unwrap(), None);
    assert_eq!(store.notifications(&id(1)).await.unwrap().len(), 1);
}

async fn unchecked_orders_are_found_oldest_first(database: &TestDatabase) {
    let store = database.store().await;
    store.track(&TrackTopup::new(id(1)), at(10)).await.unwrap();
    store.track(&TrackTopup::new(id(2)), at(30)).await.unwrap();
    fulfill(&store, &id(3), at(10)).await;
    store.track(&TrackTopup::new(id(4)), at(15)).await.unwrap();
    change(&store, &id(4), at(15), |record| record.status = OrderStatus::Scheduled).await;
    let overdue = async |job, before, behind: Option<&Behind>, most| {
        store.unchecked_orders(job, at(before), behind, most).await.unwrap()
    };
    let ids = |page: &Page<UncheckedOrder>| -> Vec<TopupId> {
        page.found.iter().map(|order| order.topup_id.clone()).collect()
    };
    let (polled, rechecked) = (JobName::PollTopup, JobName::RecheckTopup);
    let found = overdue(polled, 20, None, 10).await;
    assert_eq!(
        found.found,
        [UncheckedOrder {
            topup_id: id(1),
            status: OrderStatus::Handling,
            tracked_at: at(10),
            next_check_at: at(10),
            failed_attempts: 0,
        }]
    );
    change(&store, &id(4), at(16), |record| record.failed_attempts = 2).await;
    let found = overdue(rechecked, 20, None, 10).await;
    assert_eq!((ids(&found), found.found[0].failed_attempts), (vec![id(4)], 2));
    let first = overdue(polled, 40, None, 1).await;
    assert_eq!(ids(&first), [id(1)], "the oldest first");
    let second = overdue(polled, 40, first.behind.as_ref(), 1).await;
    assert_eq!(ids(&second), [id(2)]);
    let last = overdue(polled, 40, second.behind.as_ref(), 1).await;
    assert_eq!((ids(&last), last.behind), (vec![], None));
}

async fn pending_notifications_are_found_oldest_first(database: &TestDatabase) {
    let store = database.store().await;
    for (number, ended) in [(1, 12), (2, 10), (3, 11), (4, 30)] {
        fulfill(&store, &id(number), at(ended)).await;
    }
    let pending = by_sms(&id(3), Outcome::Fulfilled);
    let begun = store.notification(&pending).await.unwrap().unwrap();
    let begun = Notification { attempts: 4, ..begun };
    store.begin_attempt(&pending, &begun, at(11)).await.unwrap();
    let mut found = Vec::new();
    let mut behind = None;
    loop {
        let page = store.pending_notifications(at(20), behind.as_ref(), 2).await.unwrap();
        found.extend(page.found.into_iter().map(|pending| (pending.notification, pending.attempts)));
        behind = page.behind;
        if behind.is_none() {
            break;
        }
    }
    let expected = [(2, 0), (3, 4), (1, 0)];
    assert_eq!(found, expected.map(|(number, attempts)| (by_sms(&id(number), Outcome::Fulfilled), attempts)));
}

async fn concurrent_workers_create_the_tables_once(database: &TestDatabase) {
    for store in join_all((0..6).map(|_| database.store())).await {
        assert_eq!(store.order(&id(1)).await.unwrap(), None);
    }
    let applied = database.column("SELECT description FROM _sqlx_migrations ORDER BY version").await;
    assert_eq!(applied[..2], ["orders", "callback url"]);
}

/// Migrating a database of the first release keeps its rows.
#[tokio::test]
async fn a_database_of_the_first_release_is_migrated() {
    use sqlx::Connection as _;

    let database = TestDatabase::sqlite();
    let released = Migrator::new(Path::new("src/orders/migrations/sqlite")).await.unwrap();
    let options =
        database.url().parse::<sqlx::sqlite::SqliteConnectOptions>().unwrap().create_if_missing(true);
    let mut connection = sqlx::SqliteConnection::connect_with(&options).await.unwrap();
    released.run_to(1, &mut connection).await.unwrap();
    let insert =
        "INSERT INTO internet_orders (topup_id, status, tracked_at, polling_since, polls, next_check_at,
                      delays, not_found, overdue, version)
                  VALUES ('000000000000000000000001', 'DELAYED', '2026-11-24T14:00:00.123456+00:00',
                      '2026-11-24T14:00:00.123456+00:00', 60, '2026-11-24T15:00:00+00:00', 1, 0, 0, 7)";
    sqlx::query(insert).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    let store = database.store().await;
    let order = store.order(&id(1)).await.unwrap().unwrap();
    assert_eq!((order.tracking.status, order.version), (OrderStatus::Delayed, 7));
    assert_eq!(store.history(&id(1)).await.unwrap(), []);
    let scheduled = |record: &mut Tracking| record.status = OrderStatus::Scheduled;
    assert_eq!(change(&store, &id(1), at(1), scheduled).await, Applied::Stored);
}
