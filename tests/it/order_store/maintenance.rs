//! Orders that ended long ago are deleted; cards that are encrypted with an old key are encrypted again.

use futures_util::future::join_all;
use topup_jobs::{JobName, NotifyCustomer, OrderStatus, Outcome, TrackTopup};
use topup_worker::orders::{
    Applied, CardCipher, Change, NewEvent, Notification, NotificationStatus, OrderStore, SqlStore,
};

use super::database::{CARD, TestDatabase, at, by_sms, change, event, fulfill, id, mark_sent};
use crate::support::ENCRYPTION_KEY;

super::on_both!(
    only_orders_that_ended_long_ago_and_were_notified_are_deleted,
    a_card_that_was_not_delivered_is_kept_until_it_is_delivered_or_discarded,
    undelivered_and_unresolved_orders_are_kept_until_they_are_acknowledged,
    kept_orders_do_not_hide_deletable_orders_on_later_pages,
    concurrent_workers_delete_each_order_once,
    statements_that_delete_use_indexes_among_a_hundred_thousand_orders,
    a_rekey_after_an_interruption_encrypts_the_remaining_cards,
    concurrent_rekeys_lose_no_card,
);

async fn only_orders_that_ended_long_ago_and_were_notified_are_deleted(database: &TestDatabase) {
    let store = database.store().await;
    store.track(&TrackTopup::new(id(1)), at(0)).await.unwrap();
    for (number, ended) in [(2, 0), (3, 0), (4, 0), (5, 100)] {
        fulfill(&store, &id(number), at(ended)).await;
    }
    for number in [3, 4, 5] {
        mark_sent(&store, &id(number), at(101)).await;
    }
    store.reveal_token(&by_sms(&id(4), Outcome::Fulfilled), at(0), at(500)).await.unwrap();
    let before = at(50);
    assert_eq!(store.delete_ended(before, at(400), None, 10).await.unwrap().orders, 1);
    assert_eq!(store.order(&id(3)).await.unwrap(), None);
    assert_eq!(store.history(&id(3)).await.unwrap(), []);
    assert_eq!(store.notifications(&id(3)).await.unwrap(), []);
    for (number, why) in [(1, "not final"), (2, "not notified"), (4, "a link shows it"), (5, "too young")] {
        assert!(store.order(&id(number)).await.unwrap().is_some(), "{why}");
    }
    assert_eq!(
        store.delete_ended(before, at(501), None, 10).await.unwrap().orders,
        1,
        "the link has expired"
    );
    let kept = database.column("SELECT topup_id FROM events UNION SELECT topup_id FROM order_events").await;
    assert!(!kept.contains(&id(3).to_string()) && !kept.contains(&id(4).to_string()), "{kept:?}");
    assert_eq!(database.column("SELECT token_hash FROM reveals").await, [""; 0]);
    // An order that is enqueued again starts from the beginning.
    let again = store.track(&TrackTopup::new(id(3)), at(600)).await.unwrap();
    assert_eq!(again.tracking.status, OrderStatus::Handling);
}

async fn a_card_that_was_not_delivered_is_kept_until_it_is_delivered_or_discarded(database: &TestDatabase) {
    let store = database.store().await;
    let of = |number: u32| by_sms(&id(number), Outcome::Fulfilled);
    for number in 1..=4 {
        fulfill(&store, &id(number), at(0)).await;
        let pending = store.notification(&of(number)).await.unwrap().unwrap();
        let status = if number % 2 == 0 { NotificationStatus::Refused } else { NotificationStatus::Failed };
        let ended = Notification { status, attempts: 1, next_attempt_at: None, ..pending };
        assert!(store.record_attempt(&of(number), &ended, None, at(1)).await.unwrap());
    }
    let delete = async || store.delete_ended(at(50), at(400), None, 10).await.unwrap().orders;
    assert_eq!(delete().await, 0);
    store.discard(&of(1), "discarded by the operator", at(2)).await.unwrap();
    assert_eq!(delete().await, 1);
    assert_eq!(store.order(&id(1)).await.unwrap(), None);
    // Order 2 is sent again and delivered.
    assert!(store.notify_again(&of(2), "resent by the operator", true, at(3)).await.unwrap());
    assert_eq!(delete().await, 0);
    mark_sent(&store, &id(2), at(4)).await;
    assert_eq!(delete().await, 1);
    assert_eq!(store.order(&id(2)).await.unwrap(), None);
    // A delivered notification cannot be discarded.
    mark_sent(&store, &id(3), at(5)).await;
    store.discard(&of(3), "discarded by the operator", at(6)).await.unwrap();
    let stored = store.notification(&of(3)).await.unwrap().unwrap();
    assert_eq!(stored.status, NotificationStatus::Sent);
}

/// Whether the order may be deleted, a further event of it, and how its delivery by each channel ended.
type Case<'a> = (bool, (Outcome, &'a str), &'a [(&'a str, NotificationStatus)]);

/// Stores an event of a final order, and how its delivery by each channel ended.
async fn incident(
    store: &SqlStore,
    number: u32,
    (outcome, about): (Outcome, &str),
    ends: &[(&str, NotificationStatus)],
) {
    let order = store.order(&id(number)).await.unwrap().unwrap();
    let channels = ends.iter().map(|(channel, _)| (*channel).to_owned()).collect();
    let event = NewEvent { about: about.to_owned(), channels, ..event(&id(number), outcome, at(1)) };
    let change = Change {
        job: JobName::PollTopup,
        at: at(1),
        order: &order,
        record: &order.tracking,
        seen: None,
        given_up: None,
        event: Some(event),
    };
    assert_eq!(store.apply(change).await.unwrap().0, Applied::Stored);
    for (channel, status) in ends {
        let notification = NotifyCustomer { channel: (*channel).to_owned(), ..by_sms(&id(number), outcome) };
        let pending = store.notification(&notification).await.unwrap().unwrap();
        let ended = Notification { status: *status, attempts: 1, next_attempt_at: None, ..pending };
        assert!(store.record_attempt(&notification, &ended, None, at(1)).await.unwrap());
    }
}

async fn undelivered_and_unresolved_orders_are_kept_until_they_are_acknowledged(database: &TestDatabase) {
    use NotificationStatus::{Failed, Refused, Sent};

    let store = database.store().await;
    let contradiction = (Outcome::Unresolved, "the provider says REFUNDED");
    let unreachable = (Outcome::Undelivered, "00000000000000000000000a:fulfilled:none");
    let not_by_sms = (Outcome::Undelivered, "000000000000000000000001:fulfilled:sms");
    let cases: [Case; 12] = [
        (false, (Outcome::Refunded, ""), &[("email", Refused)]),
        (false, (Outcome::Delayed, ""), &[("webhook", Failed), ("events", Sent)]),
        (false, (Outcome::Scheduled, ""), &[("sms", Refused)]),
        (false, contradiction, &[("webhook", Failed), ("operator-webhook", Sent)]),
        (false, contradiction, &[("events", Sent)]),
        (true, contradiction, &[("webhook", Sent), ("events", Sent)]),
        (true, contradiction, &[("log", Sent), ("events", Failed)]),
        (false, not_by_sms, &[("operator-webhook", Failed)]),
        (true, not_by_sms, &[("events", Sent)]),
        (false, unreachable, &[("events", Sent)]),
        (true, unreachable, &[("operator-email", Sent)]),
        (true, (Outcome::Refunded, ""), &[("events", Failed), ("log", Refused)]),
    ];
    for (number, (_, what, ends)) in (1..).zip(cases) {
        fulfill(&store, &id(number), at(0)).await;
        mark_sent(&store, &id(number), at(1)).await;
        incident(&store, number, what, ends).await;
    }
    let delete = async || store.delete_ended(at(50), at(400), None, 100).await.unwrap().orders;
    delete().await;
    for (number, (may_delete, what, ends)) in (1..).zip(cases) {
        let exists = store.order(&id(number)).await.unwrap().is_some();
        assert_eq!(exists, !may_delete, "{what:?} {ends:?}");
    }
    // Orders 1 and 4 are discarded, 2 is delivered after all, and 10 is sent by another channel.
    let by = |number, outcome, channel: &str| NotifyCustomer {
        channel: channel.to_owned(),
        ..by_sms(&id(number), outcome)
    };
    store.discard(&by(1, Outcome::Refunded, "email"), "discarded by the operator", at(2)).await.unwrap();
    store.discard(&by(4, Outcome::Unresolved, "webhook"), "discarded by the operator", at(2)).await.unwrap();
    let delayed = by(2, Outcome::Delayed, "webhook");
    assert!(store.notify_again(&delayed, "replayed by the operator", false, at(2)).await.unwrap());
    let pending = store.notification(&delayed).await.unwrap().unwrap();
    let sent = Notification { status: Sent, sent_at: Some(at(3)), next_attempt_at: None, ..pending };
    assert!(store.record_attempt(&delayed, &sent, None, at(3)).await.unwrap());
    let of_ten = NotifyCustomer { channel: "email".to_owned(), ..by_sms(&id(10), Outcome::Fulfilled) };
    assert!(store.add_notification(&of_ten, "resent by the operator", at(2)).await.unwrap());
    assert_eq!(delete().await, 3, "1, 2 and 4");
    let pending = store.notification(&of_ten).await.unwrap().unwrap();
    let sent = Notification { status: Sent, sent_at: Some(at(3)), next_attempt_at: None, ..pending };
    assert!(store.record_attempt(&of_ten, &sent, None, at(3)).await.unwrap());
    assert_eq!(delete().await, 1, "10");
}

async fn kept_orders_do_not_hide_deletable_orders_on_later_pages(database: &TestDatabase) {
    let store = database.store().await;
    for number in 1..=120 {
        fulfill(&store, &id(number), at(0)).await;
    }
    for number in [60, 119, 120] {
        mark_sent(&store, &id(number), at(1)).await;
    }
    // A given-up order is not final and is kept, however old it is.
    store.track(&TrackTopup::new(id(121)), at(0)).await.unwrap();
    change(&store, &id(121), at(0), |record| record.next_check_at = None).await;
    let (mut deleted, mut calls, mut behind) = (0, 0, None);
    loop {
        let part = store.delete_ended(at(50), at(60), behind.as_ref(), 25).await.unwrap();
        (deleted, calls, behind) = (deleted + part.orders, calls + 1, part.behind);
        if !part.more {
            break;
        }
    }
    assert_eq!((deleted, calls), (3, 5), "a call reads 25 orders, deletable or not");
    assert!(store.order(&id(121)).await.unwrap().is_some());
}

async fn concurrent_workers_delete_each_order_once(database: &TestDatabase) {
    let stores = [database.store().await, database.store().await, database.store().await];
    for number in 1..=40 {
        fulfill(&stores[0], &id(number), at(0)).await;
        mark_sent(&stores[0], &id(number), at(1)).await;
    }
    let deleting = stores.iter().map(|store| store.delete_ended(at(50), at(60), None, 30));
    let first: u32 = join_all(deleting).await.into_iter().map(|deleted| deleted.unwrap().orders).sum();
    assert!((30..=40).contains(&first), "{first}");
    let rest = stores[0].delete_ended(at(50), at(60), None, 30).await.unwrap().orders;
    assert_eq!(first + rest, 40);
    assert_eq!(database.column("SELECT topup_id FROM internet_orders").await, [""; 0]);
}

/// Each statement finds its rows by index, although the statistics of the database are those of a few orders.
async fn statements_that_delete_use_indexes_among_a_hundred_thousand_orders(database: &TestDatabase) {
    let store = database.store().await;
    let fill = |first: u32, last: u32, status: &str| {
        let insert = |id: &str, time: &str, numbers: &str| {
            let ended = format!(
                "{numbers} INSERT INTO internet_orders (topup_id, status, tracked_at, polling_since,
                     fulfilled_at, polls, delays, not_found, overdue, version)
                 SELECT {id}, 'FULFILLED', {time}, {time}, {time}, 1, 0, 0, {no}, 1 FROM n;",
                no = if numbers.contains("RECURSIVE") { "0" } else { "FALSE" }
            );
            let event = format!(
                "{numbers} INSERT INTO events (event_id, topup_id, outcome, recorded_at, body)
                 SELECT 'evt_' || {id}, {id}, 'fulfilled', {time}, '{{}}' FROM n;"
            );
            let notification = format!(
                "{numbers} INSERT INTO notifications
                     (event_id, topup_id, outcome, channel, status, attempts, next_attempt_at)
                 SELECT 'evt_' || {id}, {id}, 'fulfilled', 'sms', '{status}', 1, {time} FROM n;"
            );
            let link = format!(
                "{numbers} INSERT INTO reveals (token_hash, topup_id, channel, created_at, expires_at, tries)
                 SELECT {id}, {id}, 'sms', {time}, {time}, 1 FROM n;"
            );
            let entry = format!(
                "{numbers} INSERT INTO order_events (topup_id, recorded_at, kind)
                 SELECT {id}, {time}, 'order' FROM n;"
            );
            [ended, event, notification, link, entry].concat()
        };
        let sqlite = insert(
            "printf('%024x', n)",
            "strftime('%Y-%m-%dT%H:%M:%f+00:00', 1750000000 + n, 'unixepoch')",
            &format!(
                "WITH RECURSIVE n(n) AS (SELECT {first} UNION ALL SELECT n + 1 FROM n WHERE n < {last})"
            ),
        );
        let postgres = insert(
            "lpad(to_hex(n), 24, '0')",
            "to_timestamp(1750000000 + n)",
            &format!("WITH n AS (SELECT n FROM generate_series({first}, {last}) n)"),
        );
        (sqlite, postgres)
    };
    let execute = async |(sqlite, postgres): (String, String)| database.execute(&sqlite, &postgres).await;
    let tables = ["internet_orders", "events", "notifications", "order_events", "reveals"];
    let off = tables.map(|table| format!("ALTER TABLE {table} SET (autovacuum_enabled = off);")).concat();
    execute(("SELECT 1".to_owned(), off)).await;
    execute(fill(1, 50, "sent")).await;
    execute(("ANALYZE".to_owned(), "ANALYZE".to_owned())).await;
    execute(fill(51, 50_000, "sent")).await;
    execute(fill(50_001, 100_000, "pending")).await;

    let before = "2026-01-01T00:00:00Z".parse().unwrap();
    let ids: Vec<String> = (49_951..=50_050).map(|number| id(number).to_string()).collect();
    let plan = store.explain_deletion(before, &ids).await.unwrap().join("\n");
    assert!(plan.contains("orders_by_end_and_id"), "{plan}");
    for scan in ["Seq Scan", "SCAN ", "notifications_pending", "notifications_undelivered", "TEMP B-TREE"] {
        assert!(!plan.contains(scan), "{scan} in\n{plan}");
    }
    let (mut deleted, mut behind) = (0, None);
    loop {
        let part = store.delete_ended(before, before, behind.as_ref(), 1_000).await.unwrap();
        (deleted, behind) = (deleted + part.orders, part.behind);
        if !part.more {
            break;
        }
    }
    assert_eq!(deleted, 50_000);
    assert_eq!(database.column("SELECT min(topup_id) FROM internet_orders").await, [id(50_001).to_string()]);
}

async fn a_rekey_after_an_interruption_encrypts_the_remaining_cards(database: &TestDatabase) {
    let old = database.store().await;
    for number in 1..=5 {
        fulfill(&old, &id(number), at(0)).await;
    }
    let lost = database.store_with(CardCipher::new(&CardCipher::generate_key()).unwrap()).await;
    fulfill(&lost, &id(6), at(0)).await;

    let new = CardCipher::new(&CardCipher::generate_key()).unwrap();
    let store = database.store_with(new.clone().with_previous(&ENCRYPTION_KEY.into()).unwrap()).await;
    fulfill(&store, &id(7), at(0)).await;
    let first = store.rekey(None, 2).await.unwrap();
    assert_eq!((first.encrypted, first.last), (2, Some(id(2))));
    // The next run starts over after an interruption.
    let all = store.rekey(None, 100).await.unwrap();
    assert_eq!((all.encrypted, all.current, all.left), (3, 3, 0));
    assert_eq!((all.unreadable, all.last), (vec![id(6)], Some(id(7))));
    let none = store.rekey(Some(&id(7)), 100).await.unwrap();
    assert_eq!(none.last, None);
    let alone = database.store_with(new).await;
    for number in [1, 2, 3, 4, 5, 7] {
        let card = alone.card(&id(number)).await.unwrap().unwrap();
        assert_eq!(card.card_code.reveal(), CARD);
        assert_eq!(card.num_trans.as_deref(), Some("AT-2025-12345"));
    }
    assert!(alone.card(&id(6)).await.is_err());
}

async fn concurrent_rekeys_lose_no_card(database: &TestDatabase) {
    let old = database.store().await;
    for number in 1..=30 {
        fulfill(&old, &id(number), at(0)).await;
    }
    let new = CardCipher::new(&CardCipher::generate_key()).unwrap();
    let both = new.clone().with_previous(&ENCRYPTION_KEY.into()).unwrap();
    let stores = [database.store_with(both.clone()).await, database.store_with(both).await];
    let done = join_all(stores.iter().map(|store| store.rekey(None, 100))).await;
    let (mut encrypted, mut others) = (0, 0);
    for done in done {
        let done = done.unwrap();
        encrypted += done.encrypted;
        others += done.left + done.current;
    }
    assert_eq!((encrypted, others), (30, 30), "each card is encrypted by one of the two");
    let alone = database.store_with(new).await;
    for number in 1..=30 {
        assert_eq!(alone.card(&id(number)).await.unwrap().unwrap().card_code.reveal(), CARD);
    }
}

#[tokio::test]
async fn a_sqlite_file_shrinks_after_most_orders_are_deleted() {
    let database = TestDatabase::sqlite();
    let store = database.store().await;
    database
        .execute(
            "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 20000)
             INSERT INTO internet_orders (topup_id, status, tracked_at, polling_since, fulfilled_at, polls, delays,
                 not_found, overdue, version, metadata)
             SELECT printf('%024x', n), 'FULFILLED', '2025-01-01T00:00:00+00:00', '2025-01-01T00:00:00+00:00',
                 '2025-01-01T00:00:00+00:00', 1, 0, 0, 0, 1, '{\"note\":\"' || hex(randomblob(300)) || '\"}' FROM n",
            "",
        )
        .await;
    let pages = async || {
        let pages = database.column("SELECT CAST(page_count AS TEXT) FROM pragma_page_count").await;
        pages[0].parse::<u32>().unwrap()
    };
    let full = pages().await;
    assert!(!store.release_space().await.unwrap(), "a file without unused pages stays as it is");
    let mut behind = None;
    loop {
        let part = store.delete_ended(at(0), at(0), behind.as_ref(), 1_000).await.unwrap();
        behind = part.behind;
        if !part.more {
            break;
        }
    }
    while store.release_space().await.unwrap() {}
    let left = pages().await;
    assert!(left < full / 2 && left > 0, "{full} pages became {left}");
    assert_eq!(database.column("PRAGMA integrity_check").await, ["ok"]);
}
