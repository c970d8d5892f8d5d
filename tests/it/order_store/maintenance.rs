//! What ended long ago is deleted; what is encrypted with an old key is encrypted again.

use futures_util::future::join_all;
use topup_jobs::{JobName, NotifyCustomer, OrderStatus, Outcome, TrackTopup};
use topup_worker::orders::{
    Applied, CardCipher, Change, NewEvent, Notification, NotificationStatus, OrderStore, SqlStore,
};

use super::ground::{CARD, Ground, at, change, event, fulfill, id, tell, told};
use crate::support::ENCRYPTION_KEY;

super::on_both!(
    only_what_ended_long_ago_and_is_told_is_deleted,
    a_card_that_was_not_delivered_is_kept_until_it_is_delivered_or_discarded,
    nothing_undelivered_or_unresolved_is_deleted_before_it_is_acknowledged,
    orders_that_are_kept_hide_none_behind_them,
    workers_that_delete_at_once_delete_each_order_once,
    cards_are_encrypted_again_from_where_it_was_left,
    workers_that_encrypt_again_at_once_lose_no_card,
);

async fn only_what_ended_long_ago_and_is_told_is_deleted(ground: &Ground) {
    let store = ground.store().await;
    store.track(&TrackTopup::new(id(1)), at(0)).await.unwrap();
    for (number, ended) in [(2, 0), (3, 0), (4, 0), (5, 100)] {
        fulfill(&store, &id(number), at(ended)).await;
    }
    for number in [3, 4, 5] {
        tell(&store, &id(number), at(101)).await;
    }
    store.reveal_token(&told(&id(4), Outcome::Fulfilled), at(0), at(500)).await.unwrap();
    let before = at(50);
    assert_eq!(store.delete_ended(before, at(400), None, 10).await.unwrap().orders, 1);
    assert_eq!(store.order(&id(3)).await.unwrap(), None);
    assert_eq!(store.history(&id(3)).await.unwrap(), []);
    assert_eq!(store.notifications(&id(3)).await.unwrap(), []);
    for (number, why) in [(1, "not final"), (2, "not told"), (4, "a link shows it"), (5, "too young")] {
        assert!(store.order(&id(number)).await.unwrap().is_some(), "{why}");
    }
    assert_eq!(
        store.delete_ended(before, at(501), None, 10).await.unwrap().orders,
        1,
        "the link has expired"
    );
    let left = ground.column("SELECT topup_id FROM events UNION SELECT topup_id FROM order_events").await;
    assert!(!left.contains(&id(3).to_string()) && !left.contains(&id(4).to_string()), "{left:?}");
    assert_eq!(ground.column("SELECT token_hash FROM reveals").await, [""; 0]);
    // Handed over again, it begins from the beginning.
    let again = store.track(&TrackTopup::new(id(3)), at(600)).await.unwrap();
    assert_eq!(again.tracking.status, OrderStatus::Handling);
}

async fn a_card_that_was_not_delivered_is_kept_until_it_is_delivered_or_discarded(ground: &Ground) {
    let store = ground.store().await;
    let told_of = |number: u32| told(&id(number), Outcome::Fulfilled);
    for number in 1..=4 {
        fulfill(&store, &id(number), at(0)).await;
        let pending = store.notification(&told_of(number)).await.unwrap().unwrap();
        let status = if number % 2 == 0 { NotificationStatus::Refused } else { NotificationStatus::Failed };
        let ended = Notification { status, attempts: 1, next_attempt_at: None, ..pending };
        assert!(store.record_attempt(&told_of(number), &ended, None, at(1)).await.unwrap());
    }
    let delete = async || store.delete_ended(at(50), at(400), None, 10).await.unwrap().orders;
    assert_eq!(delete().await, 0);
    store.discard(&told_of(1), "discarded by the operator", at(2)).await.unwrap();
    assert_eq!(delete().await, 1);
    assert_eq!(store.order(&id(1)).await.unwrap(), None);
    // Sent again and delivered.
    assert!(store.notify_again(&told_of(2), "resent by the operator", true, at(3)).await.unwrap());
    assert_eq!(delete().await, 0);
    tell(&store, &id(2), at(4)).await;
    assert_eq!(delete().await, 1);
    assert_eq!(store.order(&id(2)).await.unwrap(), None);
    // What was delivered is not discarded.
    tell(&store, &id(3), at(5)).await;
    store.discard(&told_of(3), "discarded by the operator", at(6)).await.unwrap();
    let stored = store.notification(&told_of(3)).await.unwrap().unwrap();
    assert_eq!(stored.status, NotificationStatus::Sent);
}

/// Whether the order may go, what else happened to it, and how the delivery of that by each channel ended.
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
    assert_eq!(store.apply(change).await.unwrap(), Applied::Stored);
    for (channel, status) in ends {
        let told = NotifyCustomer { channel: (*channel).to_owned(), ..told(&id(number), outcome) };
        let pending = store.notification(&told).await.unwrap().unwrap();
        let ended = Notification { status: *status, attempts: 1, next_attempt_at: None, ..pending };
        assert!(store.record_attempt(&told, &ended, None, at(1)).await.unwrap());
    }
}

async fn nothing_undelivered_or_unresolved_is_deleted_before_it_is_acknowledged(ground: &Ground) {
    use NotificationStatus::{Failed, Refused, Sent};

    let store = ground.store().await;
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
        tell(&store, &id(number), at(1)).await;
        incident(&store, number, what, ends).await;
    }
    let delete = async || store.delete_ended(at(50), at(400), None, 100).await.unwrap().orders;
    delete().await;
    for (number, (may_go, what, ends)) in (1..).zip(cases) {
        let there = store.order(&id(number)).await.unwrap().is_some();
        assert_eq!(there, !may_go, "{what:?} {ends:?}");
    }
    // Acknowledged: discarded, delivered after all, or sent by a channel that can deliver it now.
    let by = |number, outcome, channel: &str| NotifyCustomer {
        channel: channel.to_owned(),
        ..told(&id(number), outcome)
    };
    store.discard(&by(1, Outcome::Refunded, "email"), "discarded by the operator", at(2)).await.unwrap();
    store.discard(&by(4, Outcome::Unresolved, "webhook"), "discarded by the operator", at(2)).await.unwrap();
    let delayed = by(2, Outcome::Delayed, "webhook");
    assert!(store.notify_again(&delayed, "replayed by the operator", false, at(2)).await.unwrap());
    let pending = store.notification(&delayed).await.unwrap().unwrap();
    let sent = Notification { status: Sent, sent_at: Some(at(3)), next_attempt_at: None, ..pending };
    assert!(store.record_attempt(&delayed, &sent, None, at(3)).await.unwrap());
    let of_ten = NotifyCustomer { channel: "email".to_owned(), ..told(&id(10), Outcome::Fulfilled) };
    assert!(store.add_notification(&of_ten, "resent by the operator", at(2)).await.unwrap());
    assert_eq!(delete().await, 3, "1, 2 and 4");
    let pending = store.notification(&of_ten).await.unwrap().unwrap();
    let sent = Notification { status: Sent, sent_at: Some(at(3)), next_attempt_at: None, ..pending };
    assert!(store.record_attempt(&of_ten, &sent, None, at(3)).await.unwrap());
    assert_eq!(delete().await, 1, "10");
}

async fn orders_that_are_kept_hide_none_behind_them(ground: &Ground) {
    let store = ground.store().await;
    for number in 1..=120 {
        fulfill(&store, &id(number), at(0)).await;
    }
    for number in [60, 119, 120] {
        tell(&store, &id(number), at(1)).await;
    }
    // One that is given up is not final: it stays, however old it is.
    store.track(&TrackTopup::new(id(121)), at(0)).await.unwrap();
    change(&store, &id(121), at(0), |record| record.next_check_at = None).await;
    let (mut deleted, mut calls, mut behind) = (0, 0, None);
    loop {
        let part = store.delete_ended(at(50), at(60), behind.as_ref(), 25).await.unwrap();
        (deleted, calls, behind) = (deleted + part.orders, calls + 1, part.behind);
        if behind.is_none() {
            break;
        }
    }
    assert_eq!((deleted, calls), (3, 5), "a call looks at 25, whether they may go or not");
    assert!(store.order(&id(121)).await.unwrap().is_some());
}

async fn workers_that_delete_at_once_delete_each_order_once(ground: &Ground) {
    let stores = [ground.store().await, ground.store().await, ground.store().await];
    for number in 1..=40 {
        fulfill(&stores[0], &id(number), at(0)).await;
        tell(&stores[0], &id(number), at(1)).await;
    }
    let deleting = stores.iter().map(|store| store.delete_ended(at(50), at(60), None, 30));
    let first: u32 = join_all(deleting).await.into_iter().map(|deleted| deleted.unwrap().orders).sum();
    assert!((30..=40).contains(&first), "{first}");
    let rest = stores[0].delete_ended(at(50), at(60), None, 30).await.unwrap().orders;
    assert_eq!(first + rest, 40);
    assert_eq!(ground.column("SELECT topup_id FROM internet_orders").await, [""; 0]);
}

async fn cards_are_encrypted_again_from_where_it_was_left(ground: &Ground) {
    let old = ground.store().await;
    for number in 1..=5 {
        fulfill(&old, &id(number), at(0)).await;
    }
    let lost = ground.store_with(CardCipher::new(&CardCipher::generate_key()).unwrap()).await;
    fulfill(&lost, &id(6), at(0)).await;

    let new = CardCipher::new(&CardCipher::generate_key()).unwrap();
    let store = ground.store_with(new.clone().with_previous(&ENCRYPTION_KEY.into()).unwrap()).await;
    fulfill(&store, &id(7), at(0)).await;
    let first = store.rekey(None, 2).await.unwrap();
    assert_eq!((first.encrypted, first.last), (2, Some(id(2))));
    // Interrupted, and begun again.
    let all = store.rekey(None, 100).await.unwrap();
    assert_eq!((all.encrypted, all.current, all.left), (3, 3, 0));
    assert_eq!((all.unreadable, all.last), (vec![id(6)], Some(id(7))));
    let none = store.rekey(Some(&id(7)), 100).await.unwrap();
    assert_eq!(none.last, None);
    let alone = ground.store_with(new).await;
    for number in [1, 2, 3, 4, 5, 7] {
        let card = alone.card(&id(number)).await.unwrap().unwrap();
        assert_eq!(card.card_code.reveal(), CARD);
        assert_eq!(card.num_trans.as_deref(), Some("AT-2025-12345"));
    }
    assert!(alone.card(&id(6)).await.is_err());
}

async fn workers_that_encrypt_again_at_once_lose_no_card(ground: &Ground) {
    let old = ground.store().await;
    for number in 1..=30 {
        fulfill(&old, &id(number), at(0)).await;
    }
    let new = CardCipher::new(&CardCipher::generate_key()).unwrap();
    let both = new.clone().with_previous(&ENCRYPTION_KEY.into()).unwrap();
    let stores = [ground.store_with(both.clone()).await, ground.store_with(both).await];
    let done = join_all(stores.iter().map(|store| store.rekey(None, 100))).await;
    let (mut encrypted, mut others) = (0, 0);
    for done in done {
        let done = done.unwrap();
        encrypted += done.encrypted;
        others += done.left + done.current;
    }
    assert_eq!((encrypted, others), (30, 30), "each card by one of them");
    let alone = ground.store_with(new).await;
    for number in 1..=30 {
        assert_eq!(alone.card(&id(number)).await.unwrap().unwrap().card_code.reveal(), CARD);
    }
}
