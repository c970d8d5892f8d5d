//! Two hundred orders on SQLite and on PostgreSQL, with four workers, one of which is killed at work. Every
//! order, event and stored row is checked at the end.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::sleep;
use topup_jobs::{OrderStatus, Outcome, TopupId};
use topup_worker::orders::{Attempt, HistoryEntry, NotificationStatus, Occurrence, OrderStore, SqlStore};
use topup_worker::simulator::Script;

use crate::support::postgres::TestPostgres;
use crate::support::{Bed, until};

const ORDERS: u64 = 200;
/// Two hours pass in a second, so the three days until an order is overdue take 36 s.
const SCALE: f64 = 7_200.0;
const SECOND: Duration = Duration::from_secs(1);

/// An order at the provider and how it must end. It is fulfilled after the second to last outcome.
struct Expected {
    id: String,
    status: OrderStatus,
    /// Outcomes that must be delivered. `delayed` may be added, because at this scale fast polling is short.
    outcomes: &'static [Outcome],
}

fn order(bed: &Bed, n: u64) -> Expected {
    use Outcome::{Delayed, Fulfilled, Overdue, Refunded, Scheduled, Unresolved};

    let soon = Duration::from_secs(3 + n % 42);
    let (script, status, outcomes): (_, _, &[Outcome]) = match n % 10 {
        0 => (Script::refunded_after(soon), OrderStatus::Refunded, &[Refunded]),
        1 => (Script::queued_forever(), OrderStatus::Fulfilled, &[Scheduled, Fulfilled]),
        2 => (Script::queued_forever(), OrderStatus::Fulfilled, &[Scheduled, Overdue, Fulfilled]),
        3 => (Script::handling_forever(), OrderStatus::Fulfilled, &[Delayed, Fulfilled]),
        4 => {
            // The provider does not know it.
            return Expected {
                id: format!("{:024x}", 0xdead_0000 + n),
                status: OrderStatus::Handling,
                outcomes: &[Unresolved],
            };
        }
        _ => (Script::fulfilled_after(soon), OrderStatus::Fulfilled, &[Fulfilled]),
    };
    Expected { id: bed.order(script), status, outcomes }
}

#[tokio::test]
async fn four_workers_on_sqlite_account_for_every_order() {
    work(Bed::new(SCALE).await).await;
}

#[tokio::test]
async fn four_workers_on_postgresql_account_for_every_order() {
    let Some(postgres) = TestPostgres::start() else { return };
    let mut bed = Bed::new(SCALE).await;
    bed.set("DATABASE_URL", postgres.database().await);
    work(bed).await;
}

#[tokio::test]
async fn a_crash_of_postgresql_loses_no_order() {
    let Some(mut postgres) = TestPostgres::start() else { return };
    let mut bed = Bed::new(120.0).await;
    bed.set("DATABASE_URL", postgres.database().await);
    let mut workers = [bed.worker().await, bed.worker().await];
    let orders: Vec<Expected> = (0..60)
        .map(|n| Expected {
            // The last one is not fulfilled until the server is back.
            id: bed.order(if n < 59 {
                Script::fulfilled_after(Duration::from_secs(60 + 20 * n))
            } else {
                Script::handling_forever()
            }),
            status: OrderStatus::Fulfilled,
            outcomes: &[Outcome::Fulfilled],
        })
        .collect();
    bed.enqueue(orders.iter().map(|order| &order.id)).await;
    bed.delivered(&orders[0].id, "fulfilled").await;
    postgres.crash();
    let store = bed.store().await;
    let last: TopupId = orders[59].id.parse().unwrap();
    let last = store.order(&last).await.unwrap().expect("a committed row survives the crash");
    assert!(!last.tracking.status.is_final(), "the server crashed before the last order ended");
    bed.simulator.set_script(&orders[59].id, Script::fulfilled_after(Duration::ZERO));
    for order in &orders {
        assert_settled(&bed, &store, order).await;
    }
    bed.idle().await;
    for worker in &mut workers {
        assert!(worker.stop().await.success(), "{}", worker.log());
    }
}

async fn work(mut bed: Bed) {
    // After the kill, suspects run in processes of their own, and this setting limits their number.
    bed.set("CONCURRENCY", "16");
    let mut workers = [bed.worker().await, bed.worker().await, bed.worker().await, bed.worker().await];
    let orders: Vec<Expected> = (0..ORDERS).map(|n| order(&bed, n)).collect();
    bed.enqueue(orders.iter().map(|order| &order.id)).await;
    until("orders are polled", async || (bed.simulator.total_calls() > 50).then_some(())).await;
    workers[0].kill();
    sleep(SECOND).await;
    workers[0] = bed.worker().await;
    fulfil_pending(&bed, &orders).await;

    let store = bed.store().await;
    for order in &orders {
        assert_settled(&bed, &store, order).await;
    }
    let mut expected: HashSet<String> = HashSet::new();
    for order in &orders {
        expected.extend(order.outcomes.iter().map(|outcome| format!("evt_{}_{outcome}", order.id)));
    }
    let mut bodies = HashMap::new();
    for received in bed.sink.received() {
        let first = bodies.entry(received.id().to_owned()).or_insert_with(|| received.body.clone());
        assert_eq!(*first, received.body, "{} has two bodies", received.id());
    }
    let delivered: HashSet<String> = bodies.into_keys().collect();
    let missing: Vec<_> = expected.difference(&delivered).collect();
    assert!(missing.is_empty(), "{missing:?}");
    // On a busy machine orders wait for hours of domain time, and that is reported as well.
    let by_time = |id: &str| id.ends_with("_delayed") || id.ends_with("_overdue");
    let unexpected = delivered.difference(&expected).filter(|id| !by_time(id)).collect::<Vec<_>>();
    assert!(unexpected.is_empty(), "{unexpected:?}");
    bed.idle().await;
    for worker in &mut workers {
        assert!(worker.stop().await.success(), "{}", worker.log());
        assert!(!worker.log().contains("the store failed"), "{}", worker.log());
    }
    let shown = bed.shown(&orders[2].id);
    for words in
        ["\nhistory\n", " SCHEDULED → FULFILLED, recheck-topup", "event overdue to webhook, attempt 1: sent"]
    {
        assert!(shown.contains(words), "{words}: {shown}");
    }
}

/// Fulfils each order with several outcomes once the second to last outcome is delivered.
async fn fulfil_pending(bed: &Bed, orders: &[Expected]) {
    let event = |order: &Expected| match order.outcomes {
        [.., before, _last] => Some(format!("evt_{}_{before}", order.id)),
        _ => None,
    };
    let mut waiting: HashMap<String, &str> =
        orders.iter().filter_map(|order| Some((event(order)?, order.id.as_str()))).collect();
    until("every second to last outcome is delivered", async || {
        for received in bed.sink.received() {
            if let Some(id) = waiting.remove(received.id()) {
                bed.simulator.set_script(id, Script::fulfilled_after(Duration::ZERO));
            }
        }
        waiting.is_empty().then_some(())
    })
    .await;
}

/// Waits until the order has ended as expected, and checks its card and its history in the store.
async fn assert_settled(bed: &Bed, store: &SqlStore, expected: &Expected) {
    let id: TopupId = expected.id.parse().unwrap();
    let what = format!("{id} is {} and notified {:?}", expected.status, expected.outcomes);
    let notifications = until(&what, async || {
        let order = store.order(&id).await.unwrap()?;
        let rows = store.notifications(&id).await.unwrap();
        let known: HashSet<Outcome> = rows.iter().map(|one| one.outcome).collect();
        let complete = expected.outcomes.iter().all(|outcome| known.contains(outcome))
            && rows.iter().all(|one| one.status == NotificationStatus::Sent);
        let ended = order.tracking.status == expected.status && order.tracking.next_check_at.is_none();
        (complete && ended).then_some(rows)
    })
    .await;
    let card = store.card(&id).await.unwrap().map(|card| card.card_code.reveal().to_owned());
    let provider = bed.simulator.card_code(&expected.id);
    assert_eq!(card, provider.filter(|_| expected.status == OrderStatus::Fulfilled));

    let history = store.history(&id).await.unwrap();
    assert_eq!(last_status(&history), Some(expected.status), "{history:?}");
    for one in notifications {
        let sent = history.iter().any(|entry| {
            matches!(&entry.what, Occurrence::NotificationAttempt { outcome, channel, result: Attempt::Sent, .. }
                if *outcome == one.outcome && *channel == one.channel)
        });
        assert!(sent, "{} by {}: {history:?}", one.outcome, one.channel);
    }
}

/// The status after all changes. Asserts that each change begins with the status of the one before.
fn last_status(history: &[HistoryEntry]) -> Option<OrderStatus> {
    history.iter().fold(None, |status, entry| match &entry.what {
        Occurrence::Changed { before, after, .. } => {
            assert_eq!(*before, status, "a change is missing: {history:?}");
            Some(*after)
        }
        _ => status,
    })
}
