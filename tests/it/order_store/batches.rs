//! Calls made at the same time share statements and transactions. Each has the result that it would have alone.

use std::future::poll_fn;
use std::task::Poll;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use sqlx::{Connection as _, PgConnection};
use topup_jobs::{OrderStatus, Outcome, TopupId, TrackTopup};
use topup_worker::orders::{
    Applied, Attempt, Notification, NotificationStatus, Occurrence, Order, OrderStore, SqlStore, StoreError,
};

use super::database::{TestDatabase, at, by_sms, change, fulfill, id, mark_sent, try_fulfill};

super::on_both!(
    calls_at_the_same_time_store_what_single_calls_store,
    a_call_that_fails_does_not_affect_those_beside_it,
    a_refused_row_fails_only_its_own_call,
    a_call_whose_caller_is_gone_is_not_made,
);

const MANY: u32 = 150;

fn handed_over(topup_id: &TopupId) -> TrackTopup {
    TrackTopup { message_id: Some("1000-0@1000".to_owned()), ..TrackTopup::new(topup_id.clone()) }
}

async fn track(store: &SqlStore, number: u32) -> Order {
    store.track(&handed_over(&id(number)), at(0)).await.unwrap()
}

async fn attempt(store: &SqlStore, topup_id: &TopupId) {
    let notification = by_sms(topup_id, Outcome::Fulfilled);
    let read = store.for_attempt(&notification, true).await.unwrap().expect("the order is stored");
    assert_eq!((&read.order.topup_id, read.card.as_ref().unwrap().is_some()), (topup_id, true));
    assert_eq!(read.event().unwrap().expect("the event is stored").data.topup_id, *topup_id);
    let stored = read.notification.expect("the notification is stored");
    let begun = Notification { attempts: 1, next_attempt_at: Some(at(9)), ..stored };
    store.begin_attempt(&notification, &begun, at(3)).await.unwrap();
}

/// What the database shows about an order, without its id.
async fn shown(store: &SqlStore, number: u32) -> String {
    let order = store.order(&id(number)).await.unwrap().expect("the order is stored");
    let order = Order { topup_id: id(0), ..order };
    let card = store.card(&id(number)).await.unwrap();
    let notifications = store.notifications(&id(number)).await.unwrap();
    let history = store.history(&id(number)).await.unwrap();
    format!("{order:#?} {card:#?} {notifications:#?} {history:#?}")
}

async fn calls_at_the_same_time_store_what_single_calls_store(database: &TestDatabase) {
    let store = database.store().await;
    let whole = async |number: u32| {
        let order = track(&store, number).await;
        assert_eq!(try_fulfill(&store, &order, at(2)).await.unwrap(), Applied::Stored);
        attempt(&store, &order.topup_id).await;
        mark_sent(&store, &order.topup_id, at(4)).await;
    };
    whole(MANY + 1).await;
    join_all((1..=MANY).map(whole)).await;
    let single = shown(&store, MANY + 1).await;
    assert!(single.contains("Sent") && single.contains("Begun"), "{single}");
    for number in 1..=MANY {
        assert_eq!(shown(&store, number).await, single);
    }
}

async fn a_call_that_fails_does_not_affect_those_beside_it(database: &TestDatabase) {
    let store = database.store().await;
    let orders = join_all((1..=40).map(|number| track(&store, number))).await;
    // 7 is changed after it was read, 8 is fulfilled, and 999 is not stored.
    change(&store, &id(7), at(1), |record| record.polls += 1).await;
    fulfill(&store, &id(8), at(1)).await;
    let mut orders = orders;
    orders[8].topup_id = id(999);
    let applied = join_all(orders.iter().map(|order| try_fulfill(&store, order, at(2)))).await;
    for (order, applied) in orders.iter().zip(applied) {
        let expected = match order.topup_id {
            ref other if *other == id(7) || *other == id(8) || *other == id(999) => Applied::Conflict,
            _ => Applied::Stored,
        };
        assert_eq!(applied.unwrap(), expected, "{}", order.topup_id);
    }
    assert_eq!(store.order(&id(7)).await.unwrap().unwrap().tracking.status, OrderStatus::Handling);
    assert!(store.notifications(&id(7)).await.unwrap().is_empty());
    assert!(store.order(&id(999)).await.unwrap().is_none());

    // A message about a stored order, and one beside it about a new one.
    let again = TrackTopup { topup_ref: Some("ref".to_owned()), ..handed_over(&id(1)) };
    let new = handed_over(&id(50));
    let (known, new) = tokio::join!(store.track(&again, at(3)), store.track(&new, at(3)));
    assert_eq!(known.unwrap().tracking.status, OrderStatus::Fulfilled);
    assert_eq!(new.unwrap().tracking.tracked_at, at(3));

    // An attempt for a notification that has ended is recorded, and changes nothing.
    mark_sent(&store, &id(2), at(4)).await;
    let late = Notification {
        status: NotificationStatus::Failed,
        next_attempt_at: None,
        ..store.notifications(&id(2)).await.unwrap().remove(0)
    };
    let (second, third) = (by_sms(&id(2), Outcome::Fulfilled), by_sms(&id(3), Outcome::Fulfilled));
    let failed = store.record_attempt(&second, &late, None, at(5));
    let (failed, other) = tokio::join!(failed, store.record_attempt(&third, &late, None, at(5)));
    assert_eq!((failed.unwrap(), other.unwrap()), (false, true));
    let status = async |number| store.notifications(&id(number)).await.unwrap().remove(0).status;
    assert_eq!((status(2).await, status(3).await), (NotificationStatus::Sent, NotificationStatus::Failed));
}

async fn a_refused_row_fails_only_its_own_call(database: &TestDatabase) {
    let store = database.store().await;
    let orders = join_all((1..=40).map(|number| track(&store, number))).await;
    let refuse = format!("NEW.topup_id = '{}'", id(11));
    database
        .execute(
            &format!("CREATE TRIGGER refuse BEFORE INSERT ON events WHEN {refuse} BEGIN SELECT RAISE(ABORT, 'no'); END"),
            &format!(
                "CREATE FUNCTION refuse() RETURNS trigger AS $$ BEGIN RAISE EXCEPTION 'no'; END $$ LANGUAGE plpgsql;
                 CREATE TRIGGER refuse BEFORE INSERT ON events FOR EACH ROW WHEN ({refuse}) EXECUTE FUNCTION refuse()"
            ),
        )
        .await;
    let applied = join_all(orders.iter().map(|order| try_fulfill(&store, order, at(2)))).await;
    for (order, applied) in orders.iter().zip(applied) {
        match applied {
            Ok(applied) => assert_eq!((applied, order.topup_id == id(11)), (Applied::Stored, false)),
            Err(StoreError::Database(_)) => assert_eq!(order.topup_id, id(11)),
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(store.order(&id(11)).await.unwrap().unwrap().tracking.status, OrderStatus::Handling);
    assert_eq!(store.history(&id(11)).await.unwrap().len(), 1);
}

async fn a_call_whose_caller_is_gone_is_not_made(database: &TestDatabase) {
    let store = database.store().await;
    let order = track(&store, 1).await;
    fulfill(&store, &order.topup_id, at(1)).await;
    let notification = by_sms(&order.topup_id, Outcome::Fulfilled);
    let stored = store.notifications(&order.topup_id).await.unwrap().remove(0);
    let begun = Notification { attempts: 1, next_attempt_at: Some(at(9)), ..stored };
    // Dropped while it waits, like a handler at its time limit, and before the batch begins.
    let mut calling = Box::pin(store.begin_attempt(&notification, &begun, at(3)));
    let first = poll_fn(|context| Poll::Ready(calling.as_mut().poll(context).is_pending())).await;
    assert!(first);
    drop(calling);
    store.begin_attempt(&notification, &begun, at(4)).await.unwrap();
    let begun: Vec<_> = store
        .history(&order.topup_id)
        .await
        .unwrap()
        .into_iter()
        .filter(|entry| matches!(entry.what, Occurrence::NotificationAttempt { result: Attempt::Begun, .. }))
        .map(|entry| entry.at)
        .collect();
    assert_eq!(begun, [at(4)]);
}

/// Number of commits in a SQLite file's write-ahead log: a frame that ends a commit names the size of the database.
fn commits(database: &TestDatabase) -> usize {
    let log = std::fs::read(format!("{}-wal", database.url().trim_start_matches("sqlite://"))).unwrap();
    let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap());
    let (page, salts) = (number(&log[8..12]) as usize, &log[16..24]);
    log[32..]
        .chunks_exact(24 + page)
        .filter(|frame| &frame[8..16] == salts && number(&frame[4..8]) > 0)
        .count()
}

#[tokio::test]
async fn writes_at_the_same_time_share_commits() {
    let database = TestDatabase::sqlite();
    let store = database.store().await;
    track(&store, MANY + 1).await;
    let before = commits(&database);
    join_all((1..=MANY).map(|number| track(&store, number))).await;
    let commits = commits(&database) - before;
    assert!((1..=10).contains(&commits), "{commits} commits for {MANY} writes");
}

/// Another program locks the row of one order. The writes of the other orders do not wait until it releases the row.
#[tokio::test]
async fn a_locked_row_holds_up_only_its_own_call() {
    let Some(database) = TestDatabase::postgres().await else { return };
    let store = database.store().await;
    let orders = join_all((1..=40).map(|number| track(&store, number))).await;
    let mut other = PgConnection::connect(database.url()).await.unwrap();
    let mut locked = other.begin().await.unwrap();
    let lock = sqlx::query("SELECT 1 FROM internet_orders WHERE topup_id = $1 FOR UPDATE");
    lock.bind(id(11).to_string()).execute(&mut *locked).await.unwrap();
    // The locked row is in the middle: rows that the batch locked before it must soon be free again.
    let mut calls: FuturesUnordered<_> = orders
        .iter()
        .map(|order| async { (order.topup_id == id(11), try_fulfill(&store, order, at(2)).await) })
        .collect();
    for _ in 1..orders.len() {
        let (is_locked, applied) = calls.next().await.expect("a call ends");
        assert!(!is_locked, "the row is locked");
        assert_eq!(applied.unwrap(), Applied::Stored);
    }
    locked.rollback().await.unwrap();
    let (is_locked, applied) = calls.next().await.expect("the last call ends");
    assert_eq!((is_locked, applied.unwrap()), (true, Applied::Stored));
}
