//! The same two hundred orders on SQLite and on PostgreSQL: four workers at once, one of them killed at work,
//! and everything accounted for.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::sleep;
use topup_jobs::{OrderStatus, Outcome, TopupId};
use topup_worker::orders::{Attempt, HistoryEntry, NotificationStatus, Occurrence, OrderStore, SqlStore};
use topup_worker::simulator::Script;

use crate::support::postgres::TestPostgres;
use crate::support::{Bed, until};

const ORDERS: u64 = 200;
/// Two hours in a second: the three days until an order is overdue take 36.
const SCALE: f64 = 7_200.0;
const SECOND: Duration = Duration::from_secs(1);

/// An order at the provider, and how it must end. Where more than one outcome is told, it is fulfilled once the last
/// but one is.
struct Expected {
    id: String,
    status: OrderStatus,
    /// Told, whatever happens. `delayed` may come to it: fast polling is over in no time here.
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
async fn a_server_that_crashes_loses_nothing() {
    let Some(mut postgres) = TestPostgres::start() else { return };
    let mut bed = Bed::new(120.0).await;
    bed.set("DATABASE_URL", postgres.database().await);
    let mut workers = [bed.worker().await, bed.worker().await];
    let orders: Vec<Expected> = (0..60)
        .map(|n| Expected {
            // The last one is not, until the server is back.
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
    bed.told(&orders[0].id, "fulfilled").await;
    postgres.crash();
    let store = bed.store().await;
    let last: TopupId = orders[59].id.parse().unwrap();
    let last = store.order(&last).await.unwrap().expect("what was committed is there");
    assert!(!last.tracking.status.is_final(), "the server crashed in the middle");
    bed.simulator.set_script(&orders[59].id, Script::fulfilled_after(Duration::ZERO));
    for order in &orders {
        account(&bed, &store, order).await;
    }
    bed.idle().await;
    for worker in &mut workers {
        assert!(worker.stop().await.success(), "{}", worker.log());
    }
}

async fn work(mut bed: Bed) {
    // Of a queue no more than may run in processes of their own at once, after the kill.
    bed.set("CONCURRENCY", "16");
    let mut workers = [bed.worker().await, bed.worker().await, bed.worker().await, bed.worker().await];
    let orders: Vec<Expected> = (0..ORDERS).map(|n| order(&bed, n)).collect();
    bed.enqueue(orders.iter().map(|order| &order.id)).await;
    until("orders are in hand", async || (bed.simulator.total_calls() > 50).then_some(())).await;
    workers[0].kill();
    sleep(SECOND).await;
    workers[0] = bed.worker().await;
    fulfil_what_waits(&bed, &orders).await;

    let store = bed.store().await;
    for order in &orders {
        account(&bed, &store, order).await;
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
    let told: HashSet<String> = bodies.into_keys().collect();
    let missing: Vec<_> = expected.difference(&told).collect();
    assert!(missing.is_empty(), "{missing:?}");
    // A busy machine makes orders wait for hours of the domain, and that is told as well.
    let by_time = |id: &str| id.ends_with("_delayed") || id.ends_with("_overdue");
    let more = told.difference(&expected).filter(|id| !by_time(id)).collect::<Vec<_>>();
    assert!(more.is_empty(), "{more:?}");
    bed.idle().await;
    for worker in &mut workers {
        assert!(worker.stop().await.success(), "{}", worker.log());
        assert!(!worker.log().contains("the store failed"), "{}", worker.log());
    }
    let shown = bed.shown(&orders[2].id);
    for words in
        ["\nhistory\n", " SCHEDULED → FULFILLED, recheck-topup", "told overdue by webhook, attempt 1: sent"]
    {
        assert!(shown.contains(words), "{words}: {shown}");
    }
}

/// Has each order fulfilled that waits for it, as soon as what comes before that was told.
async fn fulfil_what_waits(bed: &Bed, orders: &[Expected]) {
    let event = |order: &Expected| match order.outcomes {
        [.., before, _last] => Some(format!("evt_{}_{before}", order.id)),
        _ => None,
    };
    let mut waiting: HashMap<String, &str> =
        orders.iter().filter_map(|order| Some((event(order)?, order.id.as_str()))).collect();
    until("everybody was told what comes before the end", async || {
        for received in bed.sink.received() {
            if let Some(id) = waiting.remove(received.id()) {
                bed.simulator.set_script(id, Script::fulfilled_after(Duration::ZERO));
            }
        }
        waiting.is_empty().then_some(())
    })
    .await;
}

/// Waits until the order has ended as it must, and holds the store to it.
async fn account(bed: &Bed, store: &SqlStore, expected: &Expected) {
    let id: TopupId = expected.id.parse().unwrap();
    let what = format!("{id} is {} and told {:?}", expected.status, expected.outcomes);
    let notifications = until(&what, async || {
        let order = store.order(&id).await.unwrap()?;
        let told = store.notifications(&id).await.unwrap();
        let known: HashSet<Outcome> = told.iter().map(|one| one.outcome).collect();
        let complete = expected.outcomes.iter().all(|outcome| known.contains(outcome))
            && told.iter().all(|one| one.status == NotificationStatus::Sent);
        let ended = order.tracking.status == expected.status && order.tracking.next_check_at.is_none();
        (complete && ended).then_some(told)
    })
    .await;
    let card = store.card(&id).await.unwrap().map(|card| card.card_code.reveal().to_owned());
    let provider = bed.simulator.card_code(&expected.id);
    assert_eq!(card, provider.filter(|_| expected.status == OrderStatus::Fulfilled));

    let history = store.history(&id).await.unwrap();
    assert_eq!(last_status(&history), Some(expected.status), "{history:?}");
    for one in notifications {
        let sent = history.iter().any(|entry| {
            matches!(&entry.what, Occurrence::Told { outcome, channel, result: Attempt::Sent, .. }
                if *outcome == one.outcome && *channel == one.channel)
        });
        assert!(sent, "{} by {}: {history:?}", one.outcome, one.channel);
    }
}

/// The status that the changes lead to; each begins where the one before has ended.
fn last_status(history: &[HistoryEntry]) -> Option<OrderStatus> {
    history.iter().fold(None, |status, entry| match &entry.what {
        Occurrence::Changed { before, after, .. } => {
            assert_eq!(*before, status, "a change is missing: {history:?}");
            Some(*after)
        }
        _ => status,
    })
}
