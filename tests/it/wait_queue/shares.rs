//! How new orders, the backlog and pages of the list share the requests, and how long new orders wait.

use std::collections::BTreeSet;

use super::{BURST, Decision, START_MS, WaitQueue, key};

/// What a permit is requested for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Client {
    New(u64),
    Backlog(u64),
    Page,
}

/// The granted permits of a period.
#[derive(Debug, Default)]
struct Granted {
    pages: usize,
    backlog: usize,
    /// For each permit of a new order, the ms for which the order waited.
    new_waited_ms: Vec<u64>,
}

impl Granted {
    fn all(&self) -> usize {
        self.pages + self.backlog + self.new_waited_ms.len()
    }

    fn longest_wait_of_a_new_order(&self) -> u64 {
        self.new_waited_ms.iter().copied().max().unwrap_or_default()
    }
}

/// Each client requests a permit at its time, and again after each returned wait. A new order is polled this
/// many times, 3 s apart, and a granted page requests the next one at once.
async fn play(
    queue: &mut WaitQueue,
    clients: impl IntoIterator<Item = (u64, Client)>,
    polls: u64,
    ms: u64,
) -> Granted {
    let mut outcome = Granted::default();
    // Time of the request, client, start of its wait, and its permits so far.
    let mut due: BTreeSet<(u64, Client, u64, u64)> = BTreeSet::new();
    due.extend(clients.into_iter().map(|(at, client)| (START_MS + at, client, START_MS + at, 0)));
    while let Some((at, client, since, polled)) = due.pop_first() {
        if at >= START_MS + ms {
            break;
        }
        queue.at(at.max(queue.now)).await;
        let decision = match client {
            Client::New(n) => queue.acquire(&format!("new {n:06}")).await,
            Client::Backlog(n) => queue.request_of(true, &format!("old {n:06}"), 0, 0, 0).await,
            Client::Page => queue.acquire_for_page().await,
        };
        match (decision, client) {
            (Decision::Granted(permit), client) => {
                queue.usable(&permit).await;
                match client {
                    Client::New(_) => {
                        outcome.new_waited_ms.push(at - since);
                        if polled + 1 < polls {
                            due.insert((at + 3_000, client, at + 3_000, polled + 1));
                        }
                    }
                    Client::Backlog(_) => outcome.backlog += 1,
                    Client::Page => {
                        outcome.pages += 1;
                        due.insert((at + 1, client, at + 1, 0));
                    }
                }
            }
            (Decision::Wait(wait), client) => {
                due.insert((at + wait.max(1), client, since, polled));
            }
            (other, _) => panic!("{other:?}"),
        }
    }
    outcome
}

fn backlog(orders: u64) -> impl Iterator<Item = (u64, Client)> {
    (0..orders).map(|n| (0, Client::Backlog(n)))
}

/// One new order every so many ms.
fn new_each(ms: u64, orders: u64) -> impl Iterator<Item = (u64, Client)> {
    (0..orders).map(move |n| (n * ms, Client::New(n)))
}

#[tokio::test]
async fn new_orders_wait_only_seconds_beside_a_backlog_of_thousands() {
    let mut queue = WaitQueue::new().await;
    // Thirty orders a minute that are polled three times take 90 of the 120 requests.
    let granted = play(&mut queue, backlog(2_000).chain(new_each(2_000, 60)), 3, 120_000).await;
    let longest = granted.longest_wait_of_a_new_order();
    assert!(longest < 5_000, "a new order waited for {longest} ms");
    assert!(granted.new_waited_ms.len() > 150, "{} requests for new orders", granted.new_waited_ms.len());
    assert!(granted.all() > 220, "{} requests of 240 that are allowed", granted.all());
}

#[tokio::test]
async fn the_backlog_gets_all_requests_that_new_orders_do_not_need() {
    let mut queue = WaitQueue::new().await;
    let granted = play(&mut queue, backlog(1_000).chain(new_each(10_000, 6)), 1, 60_000).await;
    assert_eq!(granted.new_waited_ms.len(), 6);
    assert!(granted.backlog > 105, "{} of the 114 other requests", granted.backlog);
}

#[tokio::test]
async fn a_flood_of_new_orders_leaves_the_backlog_every_fifth_request() {
    let mut queue = WaitQueue::new().await;
    let granted = play(&mut queue, backlog(100).chain(new_each(100, 600)), 3, 60_000).await;
    let (new, old) = (granted.new_waited_ms.len(), granted.backlog);
    assert!(new > 85 && (18..=28).contains(&old), "{new} requests for new orders, {old} for the backlog");
}

#[tokio::test]
async fn pages_of_the_list_leave_the_backlog_every_fifth_request() {
    let mut queue = WaitQueue::new().await;
    let granted = play(&mut queue, backlog(100).chain([(0, Client::Page)]), 1, 60_000).await;
    let (pages, old) = (granted.pages, granted.backlog);
    assert!(pages > 80 && (18..=30).contains(&old), "{pages} pages, {old} requests for the backlog");
}

#[tokio::test]
async fn an_order_that_moves_to_the_backlog_keeps_its_waiting_time() {
    let mut queue = WaitQueue::new().await;
    for n in 0..BURST + 2 {
        queue.acquire(&format!("order {n}")).await;
    }
    assert!(matches!(queue.acquire("it").await, Decision::Wait(_)));
    queue.later(1).await;
    assert!(matches!(queue.request_of(true, "another", 0, 0, 0).await, Decision::Wait(_)));
    queue.later(1).await;
    assert!(matches!(queue.request_of(true, "it", 0, 0, 0).await, Decision::Wait(_)));
    let of_class = async |queue: &mut WaitQueue, class: &str| -> Vec<String> {
        queue.run(&["ZRANGE", &key(class), "0", "-1"]).await
    };
    assert!(!of_class(&mut queue, "waiting-new").await.contains(&"it".to_owned()));
    assert_eq!(of_class(&mut queue, "waiting-backlog").await, ["it", "another"]);
}

#[tokio::test]
async fn an_order_that_lacks_card_details_leads_only_its_own_queue() {
    let mut queue = WaitQueue::new().await;
    for n in 0..BURST + 2 {
        queue.acquire(&format!("order {n}")).await;
    }
    let data = format!("{}:data", super::QUEUE);
    for order in ["first", "second", "ready"] {
        assert!(matches!(queue.acquire(order).await, Decision::Wait(_)), "{order}");
        queue.run::<()>(&["HSET", &data, order, "{}"]).await;
    }
    assert!(matches!(queue.request_of(true, "old", 0, 0, 0).await, Decision::Wait(_)));
    queue.run::<()>(&["HSET", &data, "old", "{}"]).await;
    for order in ["ready", "old"] {
        queue.seen(order, "ready").await;
    }
    let first: Vec<String> = queue.run(&["ZRANGE", &key("waiting-new"), "0", "0"]).await;
    assert_eq!(first, ["ready"]);
    assert_eq!(queue.rank("old").await, None, "no backlog order precedes a new one");
    // Ready orders do not overtake an order that has waited for longer than their head start.
    queue.later(31_000).await;
    queue.run::<()>(&["HSET", &data, "late", "{}"]).await;
    queue.seen("late", "ready").await;
    let ranks = [queue.rank("first").await.unwrap(), queue.rank("late").await.unwrap()];
    assert!(ranks[0] < ranks[1], "{ranks:?}");
}

#[tokio::test]
async fn the_list_is_read_for_new_orders_only() {
    let mut queue = WaitQueue::new().await;
    for n in 0..BURST + 20 {
        queue.request_of(true, &format!("old {n}"), 0, 0, 0).await;
    }
    assert!(!queue.begin().await, "pages of the backlog go back for days");
    queue.fill(10).await;
    let (_, listed) = queue.try_begin().await;
    assert!(listed.iter().step_by(2).all(|order| order.starts_with("order")), "{listed:?}");
    assert_eq!(listed.len(), 20, "id and creation time of ten orders");
}

#[tokio::test]
async fn pages_yield_while_more_cards_are_missing_than_requests_are_free() {
    let mut queue = WaitQueue::new().await;
    let data = format!("{}:data", super::QUEUE);
    for n in 0..200 {
        let order = format!("new {n:06}");
        queue.run::<()>(&["HSET", &data, &order, "{}"]).await;
        queue.seen(&order, "ready").await;
    }
    let ready = (0..200).map(|n| (0, Client::New(n)));
    let granted = play(&mut queue, ready.chain([(0, Client::Page)]), 1, 60_000).await;
    let (pages, cards) = (granted.pages, granted.new_waited_ms.len());
    assert!(cards > 85 && (15..=30).contains(&pages), "{cards} cards and {pages} pages");
}
