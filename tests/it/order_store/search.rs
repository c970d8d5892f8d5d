//! The order search: its filters find the right orders, its pages are stable, and each filter has an index.

use topup_jobs::{Customer, InstructionKind, Locale, OrderStatus, Outcome, Secret, TrackTopup};
use topup_worker::orders::{Notification, NotificationStatus, OrderStore, Search, SqlStore};

use super::database::{TestDatabase, at, by_sms, change, fulfill, id};

super::on_both!(
    orders_are_found_by_their_stored_fields,
    orders_are_found_by_dead_letter_delivery_failure_and_cancellation,
    pages_are_stable_while_orders_are_added_and_changed,
    every_search_of_a_hundred_thousand_orders_uses_an_index,
    the_migration_makes_older_orders_searchable_by_customer,
);

/// The numbers of the orders that this search finds.
async fn found(store: &SqlStore, search: Search) -> Vec<u32> {
    let found = store.search(&search, None, 100).await.unwrap();
    assert_eq!(store.count(&search).await.unwrap(), found.len() as u64, "{search:?}");
    let number = |text: &str| u32::from_str_radix(text, 16).unwrap();
    found.iter().map(|found| number(found.order.topup_id.as_str())).collect()
}

fn secret(text: &str) -> Secret {
    Secret::new(text)
}

async fn orders_are_found_by_their_stored_fields(database: &TestDatabase) {
    let store = database.store().await;
    for n in 1..=4 {
        let customer = Customer {
            phone: Some(secret(&format!("+213 661 00 00 0{n}"))),
            email: Some(secret(&format!("Customer{n}@Example.DZ"))),
            locale: Locale::Ar,
            ..Customer::default()
        };
        let topup_ref = Some(format!("order-{}", n.min(3)));
        let request = TrackTopup { topup_ref, customer: Some(customer), ..TrackTopup::new(id(n)) };
        store.track(&request, at(n.into())).await.unwrap();
    }
    // 5 is FULFILLED, with the number 036362608.
    fulfill(&store, &id(5), at(5)).await;
    change(&store, &id(2), at(9), |record| record.status = OrderStatus::Scheduled).await;

    assert_eq!(found(&store, Search::default()).await, [5, 4, 3, 2, 1], "the newest first");
    let reference = Search { reference: Some("order-3".to_owned()), ..Search::default() };
    assert_eq!(found(&store, reference).await, [4, 3]);
    for phone in ["0661000002", "0661 00-00-02", "00213661000002"] {
        assert_eq!(
            found(&store, Search { phone: Some(secret(phone)), ..Search::default() }).await,
            [2],
            "{phone}"
        );
    }
    assert_eq!(
        found(&store, Search { email: Some(secret("customer1@EXAMPLE.dz")), ..Search::default() }).await,
        [1]
    );
    assert_eq!(
        found(&store, Search { number: Some(secret("036 36 26 08")), ..Search::default() }).await,
        [5]
    );
    let statuses = vec![OrderStatus::Scheduled, OrderStatus::Fulfilled];
    assert_eq!(found(&store, Search { statuses, ..Search::default() }).await, [5, 2]);
    let (since, until) = (Some(at(2)), Some(at(4)));
    assert_eq!(found(&store, Search { since, until, ..Search::default() }).await, [3, 2]);
    let several = Search { since, reference: Some("order-3".to_owned()), until, ..Search::default() };
    assert_eq!(found(&store, several).await, [3]);
    let injected = Search { reference: Some("' OR 1=1 --".to_owned()), ..Search::default() };
    assert_eq!(found(&store, injected).await, [0_u32; 0]);
}

async fn orders_are_found_by_dead_letter_delivery_failure_and_cancellation(database: &TestDatabase) {
    let store = database.store().await;
    for n in 1..=3 {
        let order = store.track(&TrackTopup::new(id(n)), at(0)).await.unwrap();
        let record = topup_jobs::Tracking { next_check_at: None, ..order.tracking.clone() };
        let given_up = Some(["not-found", "recheck-exhausted", "not_found"][n as usize - 1]);
        let (job, order) = (topup_jobs::JobName::PollTopup, &order);
        let change = topup_worker::orders::Change {
            job,
            at: at(1),
            order,
            record: &record,
            seen: None,
            given_up,
            event: None,
        };
        store.apply(change).await.unwrap();
    }
    for (n, status, error) in
        [(4, NotificationStatus::Refused, "HTTP 410"), (5, NotificationStatus::Failed, "HTTP 503")]
    {
        fulfill(&store, &id(n), at(0)).await;
        let ended = Notification {
            status,
            attempts: 10,
            next_attempt_at: None,
            last_error: Some(error.to_owned()),
            ..store.notifications(&id(n)).await.unwrap().remove(0)
        };
        store.record_attempt(&by_sms(&id(n), Outcome::Fulfilled), &ended, None, at(1)).await.unwrap();
    }
    store.track(&TrackTopup::new(id(6)), at(0)).await.unwrap();
    let cancel = topup_jobs::Instruction::new(InstructionKind::Cancel);
    let request = TrackTopup { message_id: Some("9-0".to_owned()), ..TrackTopup::new(id(6)) };
    store.instruct(&request, cancel, at(1)).await.unwrap().unwrap();
    store.track(&TrackTopup::new(id(7)), at(0)).await.unwrap();

    let dead_letter = |reason: &str| Search { dead_letter: Some(reason.to_owned()), ..Search::default() };
    assert_eq!(found(&store, dead_letter("")).await, [5, 4, 3, 2, 1]);
    assert_eq!(found(&store, dead_letter("not-found")).await, [1]);
    assert_eq!(found(&store, dead_letter("not_found")).await, [3], "no character is a wildcard");
    assert_eq!(found(&store, dead_letter("refused")).await, [4]);
    assert_eq!(found(&store, dead_letter("undelivered")).await, [5]);
    assert_eq!(found(&store, dead_letter("HTTP 503")).await, [5]);
    assert_eq!(found(&store, Search { undelivered: true, ..Search::default() }).await, [5, 4]);
    assert_eq!(found(&store, Search { cancelled: true, ..Search::default() }).await, [6]);
    let all = store.search(&Search::default(), None, 10).await.unwrap();
    let listed: Vec<_> = all.iter().map(|found| (found.given_up.as_deref(), found.undelivered)).collect();
    let expected = [
        (None, 0),
        (None, 0),
        (None, 1),
        (None, 1),
        (Some("not_found"), 0),
        (Some("recheck-exhausted"), 0),
        (Some("not-found"), 0),
    ];
    assert_eq!(listed, expected);
}

async fn pages_are_stable_while_orders_are_added_and_changed(database: &TestDatabase) {
    let store = database.store().await;
    for n in (2..=20).step_by(2) {
        store.track(&TrackTopup::new(id(n)), at(n.into())).await.unwrap();
    }
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = store.search(&Search::default(), after.as_ref(), 3).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.order.topup_id.clone());
        seen.extend(page.iter().map(|found| found.order.topup_id.clone()));
        // Newer orders arrive, and an order of the first page changes.
        store.track(&TrackTopup::new(id(100 + u32::try_from(seen.len()).unwrap())), at(99)).await.unwrap();
        change(&store, &seen[0], at(99), |record| record.polls += 1).await;
    }
    assert_eq!(seen, (2..=20).rev().step_by(2).map(id).collect::<Vec<_>>());
}

async fn every_search_of_a_hundred_thousand_orders_uses_an_index(database: &TestDatabase) {
    let store = database.store().await;
    database
        .execute(
            "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 100000)
             INSERT INTO internet_orders (topup_id, topup_ref, number, status, tracked_at, polling_since, polls,
                 next_check_at, delays, not_found, overdue, version, contact_email, contact_phone)
             SELECT printf('%024x', n), 'order-' || n, printf('0%08d', n),
                 CASE n % 50 WHEN 0 THEN 'SCHEDULED' ELSE 'FULFILLED' END,
                 strftime('%Y-%m-%dT%H:%M:%f+00:00', 1750000000 + n, 'unixepoch'), '2026-11-24T14:00:00+00:00', 1,
                 CASE n % 50 WHEN 0 THEN '2026-11-24T14:00:00+00:00' END, 0, 0, 0, 1,
                 'c' || n || '@example.dz', printf('0%09d', n) FROM n",
            "INSERT INTO internet_orders (topup_id, topup_ref, number, status, tracked_at, polling_since, polls,
                 next_check_at, delays, not_found, overdue, version, contact_email, contact_phone)
             SELECT lpad(to_hex(n), 24, '0'), 'order-' || n, '0' || lpad(n::text, 8, '0'),
                 CASE n % 50 WHEN 0 THEN 'SCHEDULED' ELSE 'FULFILLED' END, to_timestamp(1750000000 + n), now(), 1,
                 CASE n % 50 WHEN 0 THEN now() END, 0, 0, FALSE, 1,
                 'c' || n || '@example.dz', '0' || lpad(n::text, 9, '0') FROM generate_series(1, 100000) n;
             ANALYZE internet_orders",
        )
        .await;
    let since = "2025-06-16T18:00:00Z".parse().ok();
    let searches = [
        ("orders_by_reference", Search { reference: Some("order-777".to_owned()), ..Search::default() }),
        ("orders_by_number", Search { number: Some(secret("000000777")), ..Search::default() }),
        ("orders_by_phone", Search { phone: Some(secret("0000000777")), ..Search::default() }),
        ("orders_by_email", Search { email: Some(secret("c777@example.dz")), ..Search::default() }),
        ("orders_by_status", Search { statuses: vec![OrderStatus::Delayed], ..Search::default() }),
        ("orders_left", Search { cancelled: true, ..Search::default() }),
        ("orders_left", Search { dead_letter: Some("not-found".to_owned()), ..Search::default() }),
        ("notifications_undelivered", Search { undelivered: true, ..Search::default() }),
    ];
    for (index, search) in &searches {
        let plan = store.explain(search, 100).await.unwrap().join("\n");
        assert!(plan.contains(index), "{index}:\n{plan}");
    }
    let scheduled = Search { statuses: vec![OrderStatus::Scheduled], ..Search::default() };
    let several =
        Search { statuses: vec![OrderStatus::Scheduled, OrderStatus::Fulfilled], ..Search::default() };
    let days = Search { since, ..Search::default() };
    let all = Search::default();
    for search in searches.iter().map(|(_, search)| search).chain([&scheduled, &several, &days, &all]) {
        let began = std::time::Instant::now();
        store.search(search, None, 100).await.unwrap();
        // A scan of all orders for each row of the answer would take minutes.
        assert!(began.elapsed().as_secs() < 10, "{search:?} took {:?}", began.elapsed());
    }
    assert_eq!(store.count(&scheduled).await.unwrap(), 2_000);
}

/// The migration fills the contact columns of orders that are stored already.
async fn the_migration_makes_older_orders_searchable_by_customer(database: &TestDatabase) {
    let store = database.store().await;
    for (n, phone) in [(1, "+213 661-22.33.44"), (2, "0661223344"), (3, "a \"quoted\" \\ \u{1}")] {
        let customer = Customer {
            phone: Some(secret(phone)),
            email: Some(secret(" Amina@Example.dz")),
            ..Customer::default()
        };
        let request = TrackTopup { customer: Some(customer), ..TrackTopup::new(id(n)) };
        store.track(&request, at(0)).await.unwrap();
    }
    let [sqlite, postgres] = [
        include_str!("../../../src/orders/migrations/sqlite/0013_operator_commands.sql"),
        include_str!("../../../src/orders/migrations/postgres/0013_operator_commands.sql"),
    ];
    let updates = |migration: &'static str| {
        let (_, rest) = migration.split_once("UPDATE").unwrap();
        let (updates, _) = rest.split_once("CREATE INDEX").unwrap();
        format!("UPDATE internet_orders SET contact_email = NULL, contact_phone = NULL; UPDATE{updates}")
    };
    database.execute(updates(sqlite).leak(), updates(postgres).leak()).await;
    assert_eq!(
        found(&store, Search { phone: Some(secret("0661223344")), ..Search::default() }).await,
        [2, 1]
    );
    assert_eq!(
        found(&store, Search { email: Some(secret("amina@example.dz")), ..Search::default() }).await,
        [3, 2, 1]
    );
}
