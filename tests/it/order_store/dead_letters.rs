//! Dead letters in the store: listing, replaying and discarding them.

use std::time::Duration;

use topup_jobs::{JobName, NotifyCustomer, OrderStatus, Outcome, RetryPolicy, TopupId, TrackTopup, Tracking};
use topup_worker::orders::{
    Applied, Change, GivenUpOrder, Notification, NotificationStatus, Order, OrderStore, SqlStore, StoreError,
};

use super::database::{TestDatabase, at, by_sms, event, fulfill, fulfilled, id};

super::on_both!(
    a_given_up_order_is_listed_until_it_is_replayed_discarded_or_fulfilled,
    a_repeated_job_finds_its_order_still_given_up,
    a_new_message_tracks_a_given_up_order_again,
    a_given_up_notification_is_listed_until_it_is_replayed_discarded_or_sent,
    the_reason_of_a_dead_letter_of_an_earlier_version_is_stored_once,
    retries_that_a_producer_set_are_stored,
);

/// Gives an order up for this reason, as its job does.
async fn give_up(store: &SqlStore, order: &Order, reason: &str, now: u64) {
    let record = Tracking { next_check_at: None, ..order.tracking.clone() };
    let change = Change {
        job: JobName::PollTopup,
        at: at(now),
        order,
        record: &record,
        seen: None,
        given_up: Some(reason),
        event: Some(event(&order.topup_id, Outcome::Unresolved, at(now))),
    };
    assert_eq!(store.apply(change).await.unwrap().0, Applied::Stored);
}

async fn track(store: &SqlStore, number: u32) -> Order {
    store.track(&TrackTopup::new(id(number)), at(0)).await.unwrap()
}

/// All given-up orders, read in pages of two.
async fn all_given_up(store: &SqlStore) -> Vec<GivenUpOrder> {
    let (mut found, mut behind) = (Vec::new(), None);
    loop {
        let page = store.given_up_orders(behind.as_ref(), 2).await.unwrap();
        found.extend(page.found);
        behind = page.behind;
        if behind.is_none() {
            return found;
        }
    }
}

async fn given_up_ids(store: &SqlStore) -> Vec<TopupId> {
    all_given_up(store).await.into_iter().map(|order| order.topup_id).collect()
}

async fn a_given_up_order_is_listed_until_it_is_replayed_discarded_or_fulfilled(database: &TestDatabase) {
    let store = database.store().await;
    for (number, now) in [(1, 9), (2, 5), (3, 7), (4, 6), (5, 8)] {
        let order = track(&store, number).await;
        give_up(&store, &order, "not-found", now).await;
    }
    // An order that an operator stopped is no dead letter.
    let stopped = track(&store, 6).await;
    let record = Tracking { next_check_at: None, ..stopped.tracking.clone() };
    let change = Change {
        job: JobName::PollTopup,
        at: at(5),
        order: &stopped,
        record: &record,
        seen: None,
        given_up: Some("stopped by the operator"),
        event: None,
    };
    assert_eq!(store.apply(change).await.unwrap().0, Applied::Stored);

    let found = all_given_up(&store).await;
    let expected = GivenUpOrder {
        topup_id: id(2),
        status: OrderStatus::Handling,
        reason: "not-found".to_owned(),
        at: at(5),
        failed_attempts: 0,
        last_error: None,
    };
    assert_eq!(found[0], expected);
    assert_eq!(given_up_ids(&store).await, [2, 4, 3, 5, 1].map(id), "the oldest dead letter is first");

    assert!(store.replay_order(&id(2), "replayed by the operator", at(20)).await.unwrap());
    let replayed = store.order(&id(2)).await.unwrap().unwrap();
    assert_eq!((replayed.given_up, replayed.tracking.next_check_at), (None, Some(at(20))));
    assert!(store.discard_order(&id(3), "discarded by the operator", at(20)).await.unwrap());
    assert!(!store.discard_order(&id(3), "discarded by the operator", at(20)).await.unwrap());
    let discarded = store.order(&id(3)).await.unwrap().unwrap();
    assert_eq!((discarded.discarded, discarded.tracking.next_check_at), (true, None));
    // The order list shows that the provider has fulfilled the order meanwhile.
    let order = store.order(&id(4)).await.unwrap().unwrap();
    let record =
        Tracking { status: OrderStatus::Fulfilled, fulfilled_at: Some(at(20)), ..order.tracking.clone() };
    let (seen, event) = (fulfilled(), event(&id(4), Outcome::Fulfilled, at(20)));
    let change = Change {
        job: JobName::PollTopup,
        at: at(20),
        order: &order,
        record: &record,
        seen: Some(&seen),
        given_up: None,
        event: Some(event),
    };
    assert_eq!(store.apply(change).await.unwrap().0, Applied::Stored);
    assert_eq!(given_up_ids(&store).await, [5, 1].map(id));
    for number in [4, 9] {
        assert!(!store.discard_order(&id(number), "discarded", at(21)).await.unwrap());
        assert!(!store.replay_order(&id(number), "replayed", at(21)).await.unwrap());
    }
    let history = store.history(&id(3)).await.unwrap();
    let last = history.last().unwrap().what.to_string();
    assert_eq!(last, "HANDLING still, discarded by the operator");
}

async fn a_repeated_job_finds_its_order_still_given_up(database: &TestDatabase) {
    let store = database.store().await;
    let message = TrackTopup { message_id: Some("5-0".to_owned()), ..TrackTopup::new(id(1)) };
    let order = store.track(&message, at(0)).await.unwrap();
    let continued = message.continued(order.tracking.tracked_at);
    give_up(&store, &order, "recheck-exhausted", 9).await;
    let given_up = store.order(&id(1)).await.unwrap().unwrap();
    for repeated in [&message, &continued] {
        let found = store.track(repeated, at(10)).await.unwrap();
        assert_eq!(found, given_up, "{repeated:?}");
        assert_eq!(found.given_up.as_deref(), Some("recheck-exhausted"));
    }
    assert!(store.discard_order(&id(1), "discarded by the operator", at(11)).await.unwrap());
    for repeated in [&message, &continued] {
        assert_eq!(store.track(repeated, at(12)).await.unwrap().tracking.next_check_at, None);
    }
}

async fn a_new_message_tracks_a_given_up_order_again(database: &TestDatabase) {
    let store = database.store().await;
    let message = |id_of_message: &str, number| TrackTopup {
        message_id: Some(id_of_message.to_owned()),
        ..TrackTopup::new(id(number))
    };
    for (number, again) in [(1, message("6-0", 1)), (2, TrackTopup::new(id(2)))] {
        let order = store.track(&message("5-0", number), at(0)).await.unwrap();
        give_up(&store, &order, "not-found", 9).await;
        let found = store.track(&again, at(10)).await.unwrap();
        assert_eq!((found.given_up, found.tracking.next_check_at), (None, Some(at(10))));
        assert_eq!(found.tracking.tracked_at, at(10));
        // A job of the earlier tracking changes nothing.
        let late = store.track(&again.continued(at(0)), at(11)).await.unwrap();
        assert_eq!(late.tracking, found.tracking);
    }
    // A new message tracks a discarded order again, too.
    assert!(store.discard_order(&id(1), "discarded by the operator", at(11)).await.unwrap());
    let found = store.track(&message("7-0", 1), at(12)).await.unwrap();
    assert_eq!((found.discarded, found.tracking.next_check_at), (false, Some(at(12))));
}

async fn a_given_up_notification_is_listed_until_it_is_replayed_discarded_or_sent(database: &TestDatabase) {
    let store = database.store().await;
    let of = |number| by_sms(&id(number), Outcome::Fulfilled);
    for number in 1..=4 {
        fulfill(&store, &id(number), at(0)).await;
        let pending = store.notification(&of(number)).await.unwrap().unwrap();
        let status = if number == 2 { NotificationStatus::Refused } else { NotificationStatus::Failed };
        let ended = Notification { status, attempts: 10, next_attempt_at: None, ..pending };
        assert!(store.record_attempt(&of(number), &ended, None, at(10 + u64::from(number))).await.unwrap());
    }
    let all = async || {
        let (mut found, mut behind) = (Vec::new(), None);
        loop {
            let page = store.given_up_notifications(behind.as_ref(), 2).await.unwrap();
            found.extend(page.found);
            behind = page.behind;
            if behind.is_none() {
                break found;
            }
        }
    };
    let found = all().await;
    let times: Vec<_> = found.iter().map(|one| (one.topup_id.clone(), one.at)).collect();
    assert_eq!(times, [1, 2, 3, 4].map(|number| (id(number), Some(at(10 + u64::from(number))))));
    assert_eq!(found[1].notification.status, NotificationStatus::Refused);
    store.discard(&of(1), "discarded by the operator", at(20)).await.unwrap();
    assert!(store.notify_again(&of(2), "replayed by the operator", false, at(20)).await.unwrap());
    let sent = Notification { status: NotificationStatus::Sent, ..found[2].notification.clone() };
    assert!(store.record_attempt(&of(3), &sent, None, at(20)).await.unwrap());
    let remaining: Vec<NotifyCustomer> =
        all().await.iter().map(|one| one.notification.payload(&one.topup_id)).collect();
    assert_eq!(remaining, [of(4)]);
}

async fn the_reason_of_a_dead_letter_of_an_earlier_version_is_stored_once(database: &TestDatabase) {
    let store = database.store().await;
    for number in [1, 2] {
        track(&store, number).await;
        super::database::change(&store, &id(number), at(5), |record| record.next_check_at = None).await;
    }
    track(&store, 3).await;
    assert!(store.discard_order(&id(2), "discarded by the operator", at(6)).await.unwrap());
    assert!(store.note_given_up(&id(1), "queued-too-long", at(5)).await.unwrap());
    for number in 1..=4 {
        assert!(!store.note_given_up(&id(number), "not-found", at(7)).await.unwrap(), "{number}");
    }
    let found = all_given_up(&store).await;
    assert_eq!((found.len(), found[0].reason.as_str(), found[0].at), (1, "queued-too-long", at(5)));
}

async fn retries_that_a_producer_set_are_stored(database: &TestDatabase) {
    let store = database.store().await;
    let retry = |attempts| Some(RetryPolicy { attempts, ..RetryPolicy::default() });
    let message = |id_of_message: &str, attempts| TrackTopup {
        message_id: Some(id_of_message.to_owned()),
        retry: attempts,
        ..TrackTopup::new(id(1))
    };
    for (request, expected) in [
        (message("5-0", retry(7)), retry(7)),
        (TrackTopup::new(id(1)), retry(7)),
        (message("6-0", None), retry(7)),
        (message("7-0", retry(9)), retry(9)),
        (message("5-0", retry(7)), retry(9)),
    ] {
        assert_eq!(store.track(&request, at(0)).await.unwrap().retry, expected, "{request:?}");
    }
}

/// A job must not wait for a locked database without limit.
#[tokio::test]
async fn a_call_times_out_while_another_process_locks_the_database() {
    use sqlx::{Connection as _, Executor as _};

    let database = TestDatabase::sqlite();
    let limit = Duration::from_millis(200);
    let store = database.store().await.answering_within(limit);
    let order = track(&store, 1).await;
    let mut other = sqlx::SqliteConnection::connect(database.url()).await.unwrap();
    other.execute("BEGIN IMMEDIATE").await.unwrap();
    let refused = store.track(&TrackTopup::new(id(2)), at(0)).await;
    assert!(matches!(&refused, Err(StoreError::TooSlow(after)) if *after == limit), "{refused:?}");
    assert_eq!(refused.unwrap_err().to_string(), "the database did not answer within 0.2 s");
    assert_eq!(store.order(&id(1)).await.unwrap(), Some(order), "reads still succeed");
    other.execute("ROLLBACK").await.unwrap();
    track(&store.answering_within(Duration::from_mins(1)), 2).await;
}
