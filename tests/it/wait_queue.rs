//! The wait queue of the budget, step by step: the real scripts on a clock that the test sets.

mod shares;

use std::collections::BTreeSet;

use redis::aio::MultiplexedConnection;
use redis::{FromRedisValue, Script};

use crate::support::connect;
use crate::support::redis::TestRedis;

const PRELUDE: &str =
    concat!(include_str!("../../src/redis/lua/prelude.lua"), include_str!("../../src/queue/lua/layout.lua"));
const SHARED: &str = include_str!("../../src/rate_limit/lua/budget.lua");
const REPORT: &str = include_str!("../../src/rate_limit/lua/budget_report.lua");
const ACQUIRE: &str = include_str!("../../src/rate_limit/lua/budget_acquire.lua");
const BEGIN: &str = include_str!("../../src/maintenance/list_poller/lua/list_begin.lua");
const END: &str = include_str!("../../src/maintenance/list_poller/lua/list_end.lua");
const SEEN: &str = include_str!("../../src/maintenance/list_poller/lua/list_seen.lua");
const STATE: &str = include_str!("../../src/rate_limit/lua/budget_state.lua");
/// How the scripts read the time. Only this call is replaced, so expiry still follows the clock of Redis.
const TIME: &str = "redis.call('TIME')";
const SET_TIME: &str = concat!(
    "(function(ms) return { math.floor(ms / 1000), ms % 1000 * 1000 } end)",
    "(redis.call('GET', '{topup}:clock'))"
);

const BUDGET: &str = "{topup}:budget";
const QUEUE: &str = "{topup}:poll-topup";
/// The default limits: 120 requests in a minute, six at once, two in flight.
const WINDOW_MS: u64 = 60_000;
const PACE_MS: u64 = 500;
const BURST: u64 = 6;
const SEEN_FOR_MS: u64 = 12_000;
const MAX_MS: u64 = 30_000;
const MAX_BACKLOG_MS: u64 = 300_000;
const LEASE_MS: u64 = 120_000;
const EVERY_MS: u64 = 8_000;
const START_MS: u64 = 1_750_000_000_000;

/// The decision that the script returns.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Decision {
    Granted(String),
    Wait(u64),
    SeenInList,
    Blocked(u64),
}

struct WaitQueue {
    connection: MultiplexedConnection,
    now: u64,
    /// Whether the last order had to wait for requests in flight only.
    is_full: bool,
    /// Kept alive for the test.
    _server: TestRedis,
}

impl WaitQueue {
    /// A budget with an empty wait queue and a verified key.
    async fn new() -> Self {
        let server = TestRedis::start().await;
        let connection = connect(&server.url()).await.unwrap();
        assert!(PRELUDE.contains(TIME), "the scripts would read another clock");
        let mut queue = Self { connection, now: START_MS, is_full: false, _server: server };
        queue.at(START_MS).await;
        queue.run::<()>(&["SET", &key("verified:key"), "1"]).await;
        queue
    }

    async fn at(&mut self, now: u64) {
        self.now = now;
        self.run::<()>(&["SET", "{topup}:clock", &now.to_string()]).await;
    }

    async fn later(&mut self, ms: u64) {
        self.at(self.now + ms).await;
    }

    async fn run<T: FromRedisValue>(&mut self, command: &[&str]) -> T {
        redis::cmd(command[0]).arg(&command[1..]).query_async(&mut self.connection).await.unwrap()
    }

    async fn call<T: FromRedisValue>(&mut self, script: &str, arguments: &[&str]) -> T {
        let script = Script::new(&(PRELUDE.replace(TIME, SET_TIME) + SHARED + script));
        let mut call = script.prepare_invoke();
        call.key(BUDGET).key(QUEUE);
        for argument in arguments {
            call.arg(*argument);
        }
        call.invoke_async(&mut self.connection).await.unwrap()
    }

    async fn request(&mut self, order: &str, created_at: u64, seen_for: u64, patience: u64) -> Decision {
        self.request_of(false, order, created_at, seen_for, patience).await
    }

    async fn request_of(
        &mut self,
        backlog: bool,
        order: &str,
        created_at: u64,
        seen_for: u64,
        patience: u64,
    ) -> Decision {
        let purpose = if order.is_empty() { "page" } else { "order" };
        let [created_at, seen_for, patience] = [created_at, seen_for, patience].map(|ms| ms.to_string());
        let longest = if backlog { MAX_BACKLOG_MS } else { MAX_MS };
        let [window, burst, longest] = [WINDOW_MS, BURST, longest].map(|number| number.to_string());
        let arguments = [
            purpose,
            order,
            &created_at,
            &seen_for,
            &patience,
            if backlog { "1" } else { "0" },
            "120",
            &window,
            &burst,
            "2",
            "20000",
            "20000",
            "200",
            &longest,
            "worker",
            "1",
            "key",
        ];
        let decision: Vec<String> = self.call(ACQUIRE, &arguments).await;
        let ms = || decision[1].parse().unwrap();
        self.is_full = decision[0] == "full";
        match decision[0].as_str() {
            "granted" => Decision::Granted(decision[1].clone()),
            "wait" | "full" => Decision::Wait(ms()),
            "seen-in-list" => Decision::SeenInList,
            "blocked" => Decision::Blocked(ms()),
            other => panic!("{other}"),
        }
    }

    /// Requests a permit for an order tracked since the start that no list shows.
    async fn acquire(&mut self, order: &str) -> Decision {
        self.request(order, START_MS, 0, 0).await
    }

    /// Requests a permit for such an order that the list may show.
    async fn acquire_listed(&mut self, order: &str) -> Decision {
        self.request(order, START_MS, SEEN_FOR_MS, 0).await
    }

    async fn acquire_for_page(&mut self) -> Decision {
        self.request("", 0, 0, 0).await
    }

    async fn usable(&mut self, permit: &str) {
        self.answer(permit, &["usable", "86400000"]).await;
    }

    /// Reports the result of a request, as a verdict of the script.
    async fn answer(&mut self, permit: &str, verdict: &[&str]) {
        let window = WINDOW_MS.to_string();
        let arguments = [&[permit, "0", &window, "worker", "order", "1", "1", "key"], verdict].concat();
        self.call::<(String, u64)>(REPORT, &arguments).await;
    }

    /// Begins a reading of the list if one is due, and returns whether it began.
    async fn begin(&mut self) -> bool {
        !self.try_begin().await.1.is_empty()
    }

    /// Returns whether enough orders wait, and the waiting orders if a reading begins.
    async fn try_begin(&mut self) -> (bool, Vec<String>) {
        let (window, burst, lease) = (WINDOW_MS.to_string(), BURST.to_string(), LEASE_MS.to_string());
        self.call(BEGIN, &["4", "120", &window, &burst, &lease, "1", "key"]).await
    }

    /// The position of an order among the new orders that wait, from 0.
    async fn rank(&mut self, order: &str) -> Option<u64> {
        self.run(&["ZRANK", &key("waiting-new"), order]).await
    }

    /// The number of waiting orders, as the metrics show it.
    async fn length(&mut self) -> u64 {
        let (_, _, new, backlog, _, _): (String, String, u64, u64, u64, Vec<u64>) =
            self.call(STATE, &["120", "1", "key"]).await;
        new + backlog
    }

    async fn seen(&mut self, order: &str, what: &str) {
        self.call::<()>(SEEN, &[&LEASE_MS.to_string(), "60000", "30000", order, what]).await;
    }

    /// Ends a reading that went back to the start.
    async fn end(&mut self) {
        let every = EVERY_MS.to_string();
        self.call::<()>(END, &[&START_MS.to_string(), &every, "20000", &SEEN_FOR_MS.to_string()]).await;
    }

    /// Uses up the permits, and then adds this many orders to the wait queue.
    async fn fill(&mut self, waiting: usize) {
        let mut wait = 0;
        for n in 0.. {
            match self.acquire_listed(&format!("order {n}")).await {
                Decision::Granted(permit) => self.usable(&permit).await,
                _ => wait += 1,
            }
            if wait == waiting {
                return;
            }
        }
    }
}

fn key(of: &str) -> String {
    format!("{BUDGET}:{of}")
}

/// Returns how many orders get a permit within this time. Each requests one again after the returned wait,
/// and the workers run one order every `each_ms`. No list shows the orders, and one permit ends an order.
async fn granted_in(queue: &mut WaitQueue, orders: usize, each_ms: u64, time_ms: u64) -> usize {
    let mut due: BTreeSet<(u64, usize)> = (0..orders).map(|order| (queue.now, order)).collect();
    let end = queue.now + time_ms;
    let mut granted = 0;
    while queue.now < end {
        if let Some(&(at, order)) = due.first().filter(|(at, _)| *at <= queue.now) {
            due.remove(&(at, order));
            match queue.acquire(&format!("order {order}")).await {
                Decision::Granted(permit) => {
                    queue.usable(&permit).await;
                    granted += 1;
                }
                Decision::Wait(wait) => {
                    due.insert((queue.now + wait, order));
                }
                other => panic!("{other:?}"),
            }
        }
        queue.later(each_ms).await;
    }
    granted
}

#[tokio::test]
async fn the_wait_queue_advances_however_late_the_workers_are() {
    let mut queue = WaitQueue::new().await;
    // Each order returns at least 20 s late, because 600 orders wait and the workers run twelve a second.
    let granted = granted_in(&mut queue, 600, 83, 150_000).await;
    assert!(granted > 75, "{granted} requests of 300 that are allowed");
}

#[tokio::test]
async fn pages_and_orders_that_no_list_shows_take_turns() {
    let mut queue = WaitQueue::new().await;
    queue.fill(5).await;
    assert!(queue.begin().await);
    queue.end().await;
    // Pages follow each other as in an endless reading, and each order returns after its wait.
    let (mut page_at, mut orders_at, mut pages, mut granted) = (queue.now, queue.now, 0, 0);
    while queue.now < START_MS + 20_000 {
        if queue.now >= page_at {
            match queue.acquire_for_page().await {
                Decision::Granted(permit) => {
                    queue.usable(&permit).await;
                    pages += 1;
                }
                Decision::Wait(wait) => page_at = queue.now + wait,
                other => panic!("{other:?}"),
            }
        }
        if queue.now >= orders_at {
            match queue.request(&format!("unlisted {granted}"), START_MS - 1, SEEN_FOR_MS, 0).await {
                Decision::Granted(permit) => {
                    queue.usable(&permit).await;
                    granted += 1;
                }
                Decision::Wait(wait) => orders_at = queue.now + wait,
                other => panic!("{other:?}"),
            }
        }
        queue.later(50).await;
    }
    assert!(pages >= 10 && granted >= 10, "{pages} pages and {granted} orders, of 40 requests");
}

#[tokio::test]
async fn orders_seen_in_the_list_before_the_clock_was_set_back_do_not_count() {
    let mut queue = WaitQueue::new().await;
    queue.fill(20).await;
    queue.run::<()>(&["HSET", &format!("{QUEUE}:data"), "order 20", "{}"]).await;
    assert!(queue.begin().await);
    queue.later(1_000).await;
    queue.seen("order 20", "handling").await;
    queue.end().await;
    assert_eq!(queue.acquire_listed("order 20").await, Decision::SeenInList);
    queue.at(START_MS - 3_600_000).await;
    for order in ["order 20", "another"] {
        let decision = queue.acquire_listed(order).await;
        assert!(matches!(decision, Decision::Granted(_)), "{order}: {decision:?}");
    }
}

#[tokio::test]
async fn neither_an_open_breaker_nor_a_probe_lasts_longer_after_the_clock_is_set_back() {
    let mut queue = WaitQueue::new().await;
    let Decision::Granted(permit) = queue.acquire("one").await else { panic!("the budget is full") };
    queue.answer(&permit, &["unavailable", "10000"]).await;
    // A clock that is set back by an hour would keep the breaker open for this long.
    queue.run::<()>(&["PEXPIRE", &key("breaker"), "3610000"]).await;
    let decision = queue.acquire("two").await;
    assert!(matches!(decision, Decision::Blocked(wait) if wait <= 10_000), "{decision:?}");
    let left_ms: u64 = queue.run(&["PTTL", &key("breaker")]).await;
    assert!(left_ms <= 10_000, "the breaker closes in {left_ms} ms");

    queue.run::<()>(&["DEL", &key("breaker")]).await;
    assert!(matches!(queue.acquire("three").await, Decision::Granted(_)), "the probe");
    assert!(matches!(queue.acquire("four").await, Decision::Wait(_)));
    queue.run::<()>(&["PEXPIRE", &key("probe"), "3620000"]).await;
    assert!(matches!(queue.acquire("four").await, Decision::Granted(_)), "no order waits an hour");
}

#[tokio::test]
async fn an_order_waits_for_the_expected_end_of_a_long_reading() {
    let mut queue = WaitQueue::new().await;
    queue.fill(20).await;
    assert!(queue.begin().await);
    queue.later(20_000).await;
    queue.end().await;
    // The next reading begins after half the duration of this one.
    queue.later(10_000).await;
    queue.fill(20).await;
    assert!(queue.begin().await);
    queue.later(5_000).await;
    assert_eq!(queue.acquire_listed("new").await, Decision::Wait(15_000), "until the end of the reading");
    queue.later(15_000).await;
    assert_eq!(queue.acquire_listed("new").await, Decision::Wait(5_000), "the reading is longer");
}

#[tokio::test]
async fn a_failed_reading_is_retried_after_the_usual_interval() {
    let mut queue = WaitQueue::new().await;
    queue.fill(20).await;
    assert!(queue.begin().await);
    queue.call::<()>(END, &["0", &EVERY_MS.to_string(), "0"]).await;
    queue.later(EVERY_MS - 1).await;
    assert!(!queue.begin().await);
    queue.later(1).await;
    assert!(queue.begin().await);
}

#[tokio::test]
async fn an_order_with_a_forced_check_stays_in_the_wait_queue_when_the_list_shows_it() {
    let mut queue = WaitQueue::new().await;
    queue.fill(20).await;
    let data = format!("{QUEUE}:data");
    for (order, payload, leaves) in
        [("order 20", r#"{"topupId":"…"}"#, true), ("order 21", r#"{"topupId":"…","force":true}"#, false)]
    {
        queue.run::<()>(&["HSET", &data, order, payload]).await;
        queue.seen(order, "decided").await;
        assert_eq!(queue.rank(order).await.is_none(), leaves, "{order}");
    }
}

#[tokio::test]
async fn disabling_list_polling_forgets_the_orders_seen_in_the_list() {
    let mut queue = WaitQueue::new().await;
    queue.run::<()>(&["HSET", &format!("{QUEUE}:data"), "order 1", "{}"]).await;
    queue.seen("order 1", "handling").await;
    queue.call::<()>(END, &["0", &EVERY_MS.to_string(), "600000"]).await;
    let seen: u64 = queue.run(&["EXISTS", &key("seen-in-list")]).await;
    assert_eq!(seen, 0);
}

#[tokio::test]
async fn an_order_checks_an_open_breaker_again_soon_and_a_reading_ends() {
    let mut queue = WaitQueue::new().await;
    queue.run::<()>(&["SET", &key("breaker"), "900000", "PX", "900000"]).await;
    assert_eq!(queue.acquire("one").await, Decision::Blocked(MAX_MS));
    let decision = queue.acquire_for_page().await;
    assert!(
        matches!(decision, Decision::Blocked(wait) if wait > 890_000),
        "a reading ends instead of waiting: {decision:?}"
    );
}

#[tokio::test]
async fn a_later_order_does_not_overtake_orders_that_wait_for_a_request_in_flight() {
    let mut queue = WaitQueue::new().await;
    let Decision::Granted(first) = queue.acquire("first").await else { panic!("the budget is full") };
    assert!(matches!(queue.acquire("second").await, Decision::Granted(_)));
    assert_eq!(queue.acquire("third").await, Decision::Wait(PACE_MS / 2), "two are in flight");
    queue.later(20).await;
    queue.usable(&first).await;
    assert!(matches!(queue.acquire("fourth").await, Decision::Wait(_)), "it is the turn of the third order");
    queue.later(PACE_MS / 2).await;
    assert!(matches!(queue.acquire("third").await, Decision::Granted(_)));
}

#[tokio::test]
async fn only_the_first_orders_wait_for_requests_in_flight_with_their_slots() {
    let mut queue = WaitQueue::new().await;
    let Decision::Granted(first) = queue.acquire("first").await else { panic!("the budget is full") };
    assert!(matches!(queue.acquire("second").await, Decision::Granted(_)));
    // The first four: twice as many as requests may be in flight. The burst would allow all of them.
    for (order, is_full) in [("a", true), ("b", true), ("c", true), ("d", true), ("e", false), ("a", true)] {
        assert!(matches!(queue.acquire(order).await, Decision::Wait(_)), "{order}");
        assert_eq!(queue.is_full, is_full, "{order}");
    }
    queue.usable(&first).await;
    assert!(matches!(queue.acquire("a").await, Decision::Granted(_)));
}

#[tokio::test]
async fn an_order_kept_waiting_by_the_rate_limit_gives_its_slot_back() {
    let mut queue = WaitQueue::new().await;
    for n in 0..BURST {
        let Decision::Granted(permit) = queue.acquire(&format!("order {n}")).await else { panic!("{n}") };
        queue.usable(&permit).await;
    }
    assert!(matches!(queue.acquire("next").await, Decision::Wait(_)));
    assert!(!queue.is_full);
}

#[tokio::test]
async fn an_order_seen_at_the_beginning_of_a_long_reading_counts_at_its_end() {
    let mut queue = WaitQueue::new().await;
    queue.run::<()>(&["HSET", &format!("{QUEUE}:data"), "order 20", "{}"]).await;
    queue.fill(20).await;
    assert!(queue.begin().await);
    queue.seen("order 20", "handling").await;
    queue.later(SEEN_FOR_MS + 8_000).await;
    queue.end().await;
    assert_eq!(queue.acquire_listed("order 20").await, Decision::SeenInList);
    queue.later(SEEN_FOR_MS + 1_000).await;
    assert!(
        matches!(queue.acquire_listed("order 20").await, Decision::Granted(_)),
        "the next reading should have shown the order"
    );
}

#[tokio::test]
async fn waiting_orders_stay_ahead_of_later_ones_when_the_clock_is_set_back() {
    let mut queue = WaitQueue::new().await;
    queue.fill(1).await;
    assert!(matches!(queue.acquire("old").await, Decision::Wait(_)));
    queue.at(START_MS - 3_600_000).await;
    // Two requests are in flight, so no order gets a permit.
    let until = (queue.now + 20_000).to_string();
    queue.run::<()>(&["ZADD", &key("in-flight:key"), &until, "one", &until, "two"]).await;
    for order in ["old", "new"] {
        assert!(matches!(queue.acquire(order).await, Decision::Wait(_)));
        queue.later(10).await;
    }
    let ranks = [queue.rank("old").await.unwrap(), queue.rank("new").await.unwrap()];
    assert!(ranks[0] < ranks[1], "{ranks:?}");
}

#[tokio::test]
async fn orders_that_never_return_leave_the_wait_queue() {
    let mut queue = WaitQueue::new().await;
    queue.fill(5).await;
    assert_eq!(queue.length().await, 5);
    // The list showed these orders as final before they returned, so they request no permit.
    queue.later(MAX_MS + 10_001).await;
    assert_eq!(queue.length().await, 0);
    assert_eq!(queue.try_begin().await, (false, Vec::new()));
    assert_eq!(queue.run::<usize>(&["HLEN", &key("created-at")]).await, 0);
}

#[tokio::test]
async fn a_reading_from_before_the_clock_was_set_back_delays_no_other() {
    let mut queue = WaitQueue::new().await;
    queue.fill(10).await;
    assert!(queue.begin().await);
    queue.end().await;
    assert!(!queue.begin().await, "the list was read just now");
    queue.at(queue.now - 3_600_000).await;
    queue.fill(10).await;
    assert!(queue.begin().await);
}

#[tokio::test]
async fn a_dead_letter_is_removed_once_the_list_shows_its_order_as_final() {
    let mut queue = WaitQueue::new().await;
    let (data, dead) = (format!("{QUEUE}:data"), format!("{QUEUE}:dead"));
    for order in ["still", "final"] {
        queue.run::<()>(&["HSET", &data, order, "{}"]).await;
        queue.run::<()>(&["SADD", &dead, order]).await;
    }
    queue.seen("still", "handling").await;
    queue.seen("final", "decided").await;
    for (command, key) in [("SMEMBERS", &dead), ("HKEYS", &data)] {
        let remaining: Vec<String> = queue.run(&[command, key]).await;
        assert_eq!(remaining, ["still"], "{key}");
    }
}
