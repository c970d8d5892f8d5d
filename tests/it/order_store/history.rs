//! The history of an order.

use std::time::Duration;

use topup_jobs::{DeadLetterReason, JobName, OrderStatus, Outcome, TrackTopup, Tracking};
use topup_worker::orders::{
    Attempt, Change, Notification, NotificationStatus, Occurrence, OrderStore, SqlStore,
};

use super::database::{TestDatabase, at, by_sms, change, fulfill, id, mark_sent};

super::on_both!(
    the_history_has_every_change_and_no_idle_poll,
    a_given_up_order_is_tracked_again_from_the_beginning,
    the_history_has_every_delivery_attempt,
);

async fn lines(store: &SqlStore, number: u32) -> Vec<String> {
    let history = store.history(&id(number)).await.unwrap();
    history.iter().map(|entry| format!("{} {}", (entry.at - at(0)).num_seconds(), entry.what)).collect()
}

async fn the_history_has_every_change_and_no_idle_poll(database: &TestDatabase) {
    let store = database.store().await;
    store.track(&TrackTopup::new(id(1)), at(0)).await.unwrap();
    for poll in 1..=5 {
        let polled = |record: &mut Tracking| {
            record.polls += 1;
            record.last_checked_at = Some(at(poll));
            record.next_check_at = Some(at(poll + 3));
        };
        change(&store, &id(1), at(poll), polled).await;
    }
    let scheduled = |next: u64| {
        move |record: &mut Tracking| {
            record.status = OrderStatus::Scheduled;
            record.next_check_at = Some(at(next));
            record.last_error = (next == 300).then(|| "HTTP 500".to_owned());
        }
    };
    change(&store, &id(1), at(10), scheduled(100)).await;
    change(&store, &id(1), at(100), scheduled(200)).await;
    change(&store, &id(1), at(150), |record| record.last_checked_at = Some(at(150))).await;
    change(&store, &id(1), at(200), scheduled(300)).await;
    fulfill(&store, &id(1), at(300)).await;
    insta::assert_snapshot!("changes", lines(&store, 1).await.join("\n"));
}

async fn a_given_up_order_is_tracked_again_from_the_beginning(database: &TestDatabase) {
    let store = database.store().await;
    let order = store.track(&TrackTopup::new(id(1)), at(0)).await.unwrap();
    let record = Tracking { next_check_at: None, not_found: 5, ..order.tracking.clone() };
    let give_up = Change {
        job: JobName::PollTopup,
        at: at(60),
        order: &order,
        record: &record,
        seen: None,
        given_up: Some(DeadLetterReason::NotFound.as_str()),
        event: None,
    };
    store.apply(give_up).await.unwrap();
    let again = store.track(&TrackTopup::new(id(1)), at(900)).await.unwrap();
    assert_eq!(again.tracking.next_check_at, Some(at(900)));
    assert_eq!((again.tracking.not_found, again.version), (0, 2));
    store.track(&TrackTopup::new(id(1)), at(950)).await.unwrap();
    insta::assert_snapshot!("given_up", lines(&store, 1).await.join("\n"));
}

async fn the_history_has_every_delivery_attempt(database: &TestDatabase) {
    let store = database.store().await;
    fulfill(&store, &id(1), at(0)).await;
    let fulfilled = by_sms(&id(1), Outcome::Fulfilled);
    let mut attempt = store.notifications(&id(1)).await.unwrap().remove(0);
    assert_eq!((attempt.status, attempt.attempts), (NotificationStatus::Pending, 0));
    attempt.attempts = 1;
    store.begin_attempt(&fulfilled, &attempt, at(1)).await.unwrap();
    let failed = Notification {
        last_error: Some("HTTP 500".to_owned()),
        next_attempt_at: Some(at(6)),
        ..attempt.clone()
    };
    store.record_attempt(&fulfilled, &failed, None, at(2)).await.unwrap();
    assert_eq!(store.notifications(&id(1)).await.unwrap(), std::slice::from_ref(&failed));
    let second = Notification { attempts: 2, ..failed };
    store.begin_attempt(&fulfilled, &second, at(6)).await.unwrap();
    mark_sent(&store, &id(1), at(7)).await;
    let stored = store.notifications(&id(1)).await.unwrap().remove(0);
    assert_eq!((stored.status, stored.sent_at), (NotificationStatus::Sent, Some(at(7))));
    // A slower worker does not undo this; its attempt is in the history, too.
    store.record_attempt(&fulfilled, &second, None, at(7) + Duration::from_millis(1)).await.unwrap();
    assert_eq!(store.notifications(&id(1)).await.unwrap(), [stored]);
    let history = store.history(&id(1)).await.unwrap();
    let results: Vec<(u32, Attempt, Option<String>)> = history
        .into_iter()
        .filter_map(|entry| match entry.what {
            Occurrence::NotificationAttempt { attempt, result, error, .. } => Some((attempt, result, error)),
            _ => None,
        })
        .collect();
    let error = || Some("HTTP 500".to_owned());
    let expected = [
        (1, Attempt::Begun, None),
        (1, Attempt::Retry, error()),
        (2, Attempt::Begun, None),
        (1, Attempt::Sent, None),
        (2, Attempt::Retry, error()),
    ];
    assert_eq!(results, expected);
}
