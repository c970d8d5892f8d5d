//! Which events are stored under which incident number, and what changes a notification that has ended.

use futures_util::future::join_all;
use topup_jobs::{EventId, Incident, JobName, NotifyCustomer, Outcome, TrackTopup, Tracking};
use topup_worker::orders::{
    Applied, Change, NewEvent, Notification, NotificationStatus, Order, OrderStore, SqlStore,
};

use super::database::{TestDatabase, at, by_sms, event, fulfill, id};

super::on_both!(
    an_outcome_that_recurs_is_a_new_incident_once_the_last_is_closed,
    two_incidents_at_the_same_moment_have_two_numbers,
    a_new_message_begins_a_new_incident_and_a_repeated_job_does_not,
    giving_a_notification_up_is_stored_once_with_the_event_for_the_operator,
    a_notification_that_is_sent_again_may_be_given_up_again,
    an_event_without_a_receiver_is_stored_with_the_one_for_the_operator,
);

async fn store_event(store: &SqlStore, order: &Order, event: NewEvent) -> Applied {
    let change = Change {
        job: JobName::PollTopup,
        at: at(9),
        order,
        record: &order.tracking,
        seen: None,
        given_up: None,
        event: Some(event),
    };
    store.apply(change).await.unwrap().0
}

/// The incident numbers of this outcome.
async fn incidents(store: &SqlStore, order: u32, outcome: Outcome) -> Vec<u32> {
    let all = store.notifications(&id(order)).await.unwrap();
    let mut numbers: Vec<u32> =
        all.iter().filter(|one| one.outcome == outcome).map(|one| one.incident.number()).collect();
    numbers.sort_unstable();
    numbers
}

fn about(order: u32, outcome: Outcome, about: &str) -> NewEvent {
    NewEvent { about: about.to_owned(), ..event(&id(order), outcome, at(9)) }
}

async fn an_outcome_that_recurs_is_a_new_incident_once_the_last_is_closed(database: &TestDatabase) {
    let store = database.store().await;
    let order = store.track(&TrackTopup::new(id(1)), at(0)).await.unwrap();
    let unresolved = || about(1, Outcome::Unresolved, "");
    for _ in 0..2 {
        store_event(&store, &order, unresolved()).await;
    }
    assert_eq!(incidents(&store, 1, Outcome::Unresolved).await, [1]);
    store.close_incidents(&id(1)).await.unwrap();
    for _ in 0..2 {
        store_event(&store, &order, unresolved()).await;
    }
    assert_eq!(incidents(&store, 1, Outcome::Unresolved).await, [1, 2]);
    // A contradiction by the provider is stored once per status, also after its incident is closed.
    for contradiction in ["REFUNDED", "QUEUED", "REFUNDED"] {
        store_event(&store, &order, about(1, Outcome::Unresolved, contradiction)).await;
        store.close_incidents(&id(1)).await.unwrap();
    }
    assert_eq!(incidents(&store, 1, Outcome::Unresolved).await, [1, 2, 3, 4]);
    let second = NotifyCustomer { incident: Incident::FIRST.next(), ..by_sms(&id(1), Outcome::Unresolved) };
    assert_eq!(store.notification(&second).await.unwrap().unwrap().payload(&id(1)), second);
    let stored = store.for_attempt(&second, false).await.unwrap().expect("the order is stored");
    assert!(stored.event().unwrap().is_some());
    // An outcome that cannot recur is stored once, also after its incidents are closed.
    fulfill(&store, &id(2), at(7)).await;
    let order = store.order(&id(2)).await.unwrap().unwrap();
    store.close_incidents(&id(2)).await.unwrap();
    store_event(&store, &order, about(2, Outcome::Fulfilled, "")).await;
    assert_eq!(incidents(&store, 2, Outcome::Fulfilled).await, [1]);
}

async fn two_incidents_at_the_same_moment_have_two_numbers(database: &TestDatabase) {
    let stores = [database.store().await, database.store().await];
    let order = stores[0].track(&TrackTopup::new(id(1)), at(0)).await.unwrap();
    let events = (0..10).map(|n| about(1, Outcome::Undelivered, &format!("channel {n}")));
    let applied = events.enumerate().map(|(n, event)| store_event(&stores[n % 2], &order, event));
    for applied in join_all(applied).await {
        assert_eq!(applied, Applied::Stored);
    }
    let expected: Vec<u32> = (1..=10).collect();
    assert_eq!(incidents(&stores[0], 1, Outcome::Undelivered).await, expected);
}

async fn a_new_message_begins_a_new_incident_and_a_repeated_job_does_not(database: &TestDatabase) {
    let store = database.store().await;
    let by = |message: Option<&str>| TrackTopup {
        message_id: message.map(str::to_owned),
        ..TrackTopup::new(id(1))
    };
    let give_up = async |message: Option<&str>| {
        let order = store.track(&by(message), at(5)).await.unwrap();
        let record = Tracking { next_check_at: None, ..order.tracking.clone() };
        let change = Change {
            job: JobName::PollTopup,
            at: at(9),
            order: &order,
            record: &record,
            seen: None,
            given_up: Some("not-found"),
            event: Some(about(1, Outcome::Unresolved, "")),
        };
        assert_ne!(store.apply(change).await.unwrap().0, Applied::Conflict);
        incidents(&store, 1, Outcome::Unresolved).await
    };
    assert_eq!(give_up(Some("1-0")).await, [1]);
    assert_eq!(give_up(Some("1-0")).await, [1], "the job of the message is repeated");
    assert_eq!(give_up(None).await, [1], "a job that follows from it is repeated");
    assert_eq!(give_up(Some("2-0")).await, [1, 2]);
    assert_eq!(give_up(Some("2-0")).await, [1, 2]);
}

fn given_up(notification: &Notification, status: NotificationStatus) -> Notification {
    let last_error = Some("HTTP 410".to_owned());
    Notification { status, attempts: 1, next_attempt_at: None, last_error, ..notification.clone() }
}

async fn giving_a_notification_up_is_stored_once_with_the_event_for_the_operator(database: &TestDatabase) {
    let store = database.store().await;
    fulfill(&store, &id(1), at(0)).await;
    let fulfilled = by_sms(&id(1), Outcome::Fulfilled);
    let pending = store.notification(&fulfilled).await.unwrap().unwrap();
    let refused = given_up(&pending, NotificationStatus::Refused);
    let undelivered = || about(1, Outcome::Undelivered, &fulfilled.job_id());
    let record = async |attempt: &Notification, event: Option<&NewEvent>| {
        store.record_attempt(&fulfilled, attempt, event, at(2)).await.unwrap()
    };
    assert!(record(&refused, Some(&undelivered())).await);
    // A slower worker or a repeated job changes nothing.
    assert!(!record(&refused, Some(&undelivered())).await);
    assert!(!record(&Notification { attempts: 2, ..pending.clone() }, None).await);
    assert!(!store.give_up_notification(&fulfilled, "poison", Some(&undelivered()), at(3)).await.unwrap());
    store.begin_attempt(&fulfilled, &Notification { attempts: 2, ..pending.clone() }, at(3)).await.unwrap();
    assert_eq!(store.notification(&fulfilled).await.unwrap(), Some(refused));
    assert_eq!(incidents(&store, 1, Outcome::Undelivered).await, [1]);
    // A delivery that succeeded after all is stored.
    let sent = Notification { status: NotificationStatus::Sent, sent_at: Some(at(4)), ..pending };
    assert!(record(&sent, None).await);
    assert_eq!(store.notification(&fulfilled).await.unwrap(), Some(sent));
}

async fn a_notification_that_is_sent_again_may_be_given_up_again(database: &TestDatabase) {
    let store = database.store().await;
    fulfill(&store, &id(1), at(0)).await;
    let fulfilled = by_sms(&id(1), Outcome::Fulfilled);
    let undelivered = || about(1, Outcome::Undelivered, &fulfilled.job_id());
    for (n, expected) in [(1, vec![1]), (2, vec![1, 2])] {
        let pending = store.notification(&fulfilled).await.unwrap().unwrap();
        assert_eq!((pending.status, pending.attempts), (NotificationStatus::Pending, 0));
        let failed = given_up(&pending, NotificationStatus::Failed);
        assert!(store.record_attempt(&fulfilled, &failed, Some(&undelivered()), at(n)).await.unwrap());
        assert_eq!(incidents(&store, 1, Outcome::Undelivered).await, expected);
        assert!(!store.hasten(&fulfilled, at(9)).await.unwrap(), "it is no longer pending");
        assert!(store.notify_again(&fulfilled, "replayed", false, at(n + 10)).await.unwrap());
    }
    assert!(store.hasten(&fulfilled, at(50)).await.unwrap());
    let pending = store.notification(&fulfilled).await.unwrap().unwrap();
    assert_eq!(pending.next_attempt_at, Some(at(50)));
    let sent = Notification { status: NotificationStatus::Sent, sent_at: Some(at(51)), ..pending };
    assert!(store.record_attempt(&fulfilled, &sent, None, at(51)).await.unwrap());
    assert!(!store.notify_again(&fulfilled, "replayed", false, at(52)).await.unwrap(), "it was delivered");
    assert!(store.notify_again(&fulfilled, "resent", true, at(53)).await.unwrap());
    let again = store.notification(&fulfilled).await.unwrap().unwrap();
    assert_eq!((again.status, again.sent_at), (NotificationStatus::Pending, None));
}

async fn an_event_without_a_receiver_is_stored_with_the_one_for_the_operator(database: &TestDatabase) {
    let store = database.store().await;
    let order = store.track(&TrackTopup::new(id(1)), at(0)).await.unwrap();
    let event = || NewEvent {
        undelivered: Some(Box::new(about(1, Outcome::Undelivered, "none"))),
        ..about(1, Outcome::Scheduled, "")
    };
    for _ in 0..2 {
        store_event(&store, &order, event()).await;
    }
    assert_eq!(incidents(&store, 1, Outcome::Scheduled).await, [1]);
    assert_eq!(incidents(&store, 1, Outcome::Undelivered).await, [1]);
    let stored = EventId::new(&id(1), Outcome::Undelivered, Incident::FIRST);
    assert_eq!(by_sms(&id(1), Outcome::Undelivered).event_id(), stored);
}
