//! New orders and the backlog: what each gets of the requests, and how long new orders wait beside thousands of others.

use std::collections::BTreeSet;

use super::{BURST, Decision, START_MS, WaitQueue, key};

/// What a wish to ask is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Asker {
    New(u64),
    Backlog(u64),
    Page,
}

/// What was asked for in a stretch of time.
#[derive(Debug, Default)]
struct Asked {
    pages: usize,
    backlog: usize,
    /// For each request of a new order: ms for which it waited.
    new_waited_ms: Vec<u64>,
}

impl Asked {
    fn all(&self) -> usize {
        self.pages + self.backlog + self.new_waited_ms.len()
    }

    fn longest_wait_of_a_new_order(&self) -> u64 {
        self.new_waited_ms.iter().copied().max().unwrap_or_default()
    }
}

/// Everybody asks at the given time, and again when decision to. A new order that was asked for comes once more 3 s later, up
/// to this many times; page follows page.
async fn play(
    queue: &mut WaitQueue,
    askers: impl IntoIterator<Item = (u64, Asker)>,
    polls: u64,
    ms: u64,
) -> Asked {
    let mut outcome = Asked::default();
    // When, who, since when it waits, and how often it was asked for.
    let mut due: BTreeSet<(u64, Asker, u64, u64)> = BTreeSet::new();
    due.extend(askers.into_iter().map(|(at, asker)| (START_MS + at, asker, START_MS + at, 0)));
    while let Some((at, asker, since, times)) = due.pop_first() {
        if at >= START_MS + ms {
            break;
        }
        queue.at(at.max(queue.now)).await;
        let decision = match asker {
            Asker::New(n) => queue.ask(&format!("new {n:06}")).await,
            Asker::Backlog(n) => queue.request_of(true, &format!("old {n:06}"), 0, 0, 0).await,
            Asker::Page => queue.acquire_for_page().await,
        };
        match (decision, asker) {
            (Decision::Granted(permit), asker) => {
                queue.usable(&permit).await;
                match asker {
                    Asker::New(_) => {
                        outcome.new_waited_ms.push(at - since);
                        if times + 1 < polls {
                            due.insert((at + 3_000, asker, at + 3_000, times + 1));
                        }
                    }
                    Asker::Backlog(_) => outcome.backlog += 1,
                    Asker::Page => {
                        outcome.pages += 1;
                        due.insert((at + 1, asker, at + 1, 0));
                    }
                }
            }
            (Decision::Wait(wait), asker) => {
                due.insert((at + wait.max(1), asker, since, times));
            }
            (other, _) => panic!("{other:?}"),
        }
    }
    outcome
}

fn backlog(orders: u64) -> impl Iterator<Item = (u64, Asker)> {
    (0..orders).map(|n| (0, Asker::Backlog(n)))
}

/// One new order each so many ms.
fn new_each(ms: u64, orders: u64) -> impl Iterator<Item = (u64, Asker)> {
    (0..orders).map(move |n| (n * ms, Asker::New(n)))
}

#[tokio::test]
async fn new_orders_wait_for_seconds_at_most_beside_a_backlog_of_thousands() {
    let mut queue = WaitQueue::new().await;
    // Thirty a minute that are polled three times take 90 of the 120 requests.
    let asked = play(&mut queue, backlog(2_000).chain(new_each(2_000, 60)), 3, 120_000).await;
    let longest = asked.longest_wait_of_a_new_order();
    assert!(longest < 5_000, "a new order waited for {longest} ms");
    assert!(asked.new_waited_ms.len() > 150, "{} requests for new orders", asked.new_waited_ms.len());
    assert!(asked.all() > 220, "{} requests of 240 that are allowed", asked.all());
}

#[tokio::test]
async fn the_backlog_drains_with_all_that_new_orders_leave() {
    let mut queue = WaitQueue::new().await;
    let asked = play(&mut queue, backlog(1_000).chain(new_each(10_000, 6)), 1, 60_000).await;
    assert_eq!(asked.new_waited_ms.len(), 6);
    assert!(asked.backlog > 105, "{} of the 114 requests that are left", asked.backlog);
}

#[tokio::test]
async fn a_flood_of_new_orders_leaves_the_backlog_every_fifth_request() {
    let mut queue = WaitQueue::new().await;
    let asked = play(&mut queue, backlog(100).chain(new_each(100, 600)), 3, 60_000).await;
    let (new, old) = (asked.new_waited_ms.len(), asked.backlog);
    assert!(new > 85 && (18..=28).contains(&old), "{new} requests for new orders, {old} for the backlog");
}

#[tokio::test]
async fn pages_of_the_list_leave_the_backlog_every_fifth_request() {
    let mut queue = WaitQueue::new().await;
    let asked = play(&mut queue, backlog(100).chain([(0, Asker::Page)]), 1, 60_000).await;
    let (pages, old) = (asked.pages, asked.backlog);
    assert!(pages > 80 && (18..=30).contains(&old), "{pages} pages, {old} requests for the backlog");
}

#[tokio::test]
async fn an_order_that_becomes_part_of_the_backlog_keeps_the_time_at_which_it_came() {
    let mut queue = WaitQueue::new().await;
    for n in 0..BURST + 2 {
        queue.ask(&format!("order {n}")).await;
    }
    assert!(matches!(queue.ask("it").await, Decision::Wait(_)));
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
async fn an_order_whose_card_is_to_be_asked_for_leads_its_class_and_no_other() {
    let mut queue = WaitQueue::new().await;
    for n in 0..BURST + 2 {
        queue.ask(&format!("order {n}")).await;
    }
    let data = format!("{}:data", super::QUEUE);
    for order in ["first", "second", "ready"] {
        assert!(matches!(queue.ask(order).await, Decision::Wait(_)), "{order}");
        queue.run::<()>(&["HSET", &data, order, "{}"]).await;
    }
    assert!(matches!(queue.request_of(true, "old", 0, 0, 0).await, Decision::Wait(_)));
    queue.run::<()>(&["HSET", &data, "old", "{}"]).await;
    for order in ["ready", "old"] {
        queue.seen(order, "ready").await;
    }
    let first: Vec<String> = queue.run(&["ZRANGE", &key("waiting-new"), "0", "0"]).await;
    assert_eq!(first, ["ready"]);
    let rank: Option<u64> = queue.run(&["ZRANK", &key("waiting-new"), "old"]).await;
    assert_eq!(rank, None, "an order of the backlog goes before no new one");
    // An order that no list shows is not overtaken for ever by those that come to be ready.
    queue.later(31_000).await;
    queue.run::<()>(&["HSET", &data, "late", "{}"]).await;
    queue.seen("late", "ready").await;
    let ranks: [u64; 2] = [
        queue.run(&["ZRANK", &key("waiting-new"), "first"]).await,
        queue.run(&["ZRANK", &key("waiting-new"), "late"]).await,
    ];
    assert!(ranks[0] < ranks[1], "{ranks:?}");
}

#[tokio::test]
async fn the_list_is_read_for_new_orders_alone() {
    let mut queue = WaitQueue::new().await;
    for n in 0..BURST + 20 {
        queue.request_of(true, &format!("old {n}"), 0, 0, 0).await;
    }
    assert!(!queue.begin().await, "its pages would go back for days");
    queue.fill(10).await;
    let (_, listed) = queue.look_whether_to_begin().await;
    assert!(listed.iter().step_by(2).all(|order| order.starts_with("order")), "{listed:?}");
    assert_eq!(listed.len(), 20, "ten orders and when each was created");
}

#[tokio::test]
async fn pages_give_way_while_more_cards_are_to_be_asked_for_than_requests_are_free() {
    let mut queue = WaitQueue::new().await;
    let data = format!("{}:data", super::QUEUE);
    for n in 0..200 {
        let order = format!("new {n:06}");
        queue.run::<()>(&["HSET", &data, &order, "{}"]).await;
        queue.seen(&order, "ready").await;
    }
    let ready = (0..200).map(|n| (0, Asker::New(n)));
    let asked = play(&mut queue, ready.chain([(0, Asker::Page)]), 1, 60_000).await;
    let (pages, cards) = (asked.pages, asked.new_waited_ms.len());
    assert!(cards > 85 && (15..=30).contains(&pages), "{cards} cards and {pages} pages");
}
