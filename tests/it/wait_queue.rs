//! The wait queue of the budget, step by step: its scripts as they are, on a clock of the test's own.

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
/// Where the scripts ask for the time, and all that is changed in them. What Redis lets expire goes by its own clock.
const TIME: &str = "redis.call('TIME')";
const SET_TIME: &str = concat!(
    "(function(ms) return { math.floor(ms / 1000), ms % 1000 * 1000 } end)",
    "(redis.call('GET', '{topup}:clock'))"
);

const BUDGET: &str = "{topup}:budget";
const QUEUE: &str = "{topup}:poll-topup";
/// As with the limits that are the default: 120 requests in a minute, six at once, two in flight.
const WINDOW_MS: u64 = 60_000;
const PACE_MS: u64 = 500;
const BURST: u64 = 6;
const SEEN_FOR_MS: u64 = 12_000;
const MAX_MS: u64 = 30_000;
const MAX_BACKLOG_MS: u64 = 300_000;
const LEASE_MS: u64 = 120_000;
const EVERY_MS: u64 = 8_000;
const START_MS: u64 = 1_750_000_000_000;

/// What the script decides.
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
    /// Held for its `Drop`.
    _server: TestRedis,
}

impl WaitQueue {
    /// A budget without a queue, whose key is known to be good.
    async fn new() -> Self {
        let server = TestRedis::start().await;
        let connection = connect(&server.url()).await.unwrap();
        assert!(PRELUDE.contains(TIME), "the scripts would go by another clock");
        let mut queue = Self { connection, now: START_MS, _server: server };
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
        match decision[0].as_str() {
            "granted" => Decision::Granted(decision[1].clone()),
            "wait" => Decision::Wait(ms()),
            "seen-in-list" => Decision::SeenInList,
            "blocked" => Decision::Blocked(ms()),
            other => panic!("{other}"),
        }
    }

    /// An order asks that is tracked since the start, and that is in no list.
    async fn ask(&mut self, order: &str) -> Decision {
        self.request(order, START_MS, 0, 0).await
    }

    /// One that may be in a list.
    async fn ask_listed(&mut self, order: &str) -> Decision {
        self.request(order, START_MS, SEEN_FOR_MS, 0).await
    }

    async fn acquire_for_page(&mut self) -> Decision {
        self.request("", 0, 0, 0).await
    }

    async fn usable(&mut self, permit: &str) {
        self.answer(permit, &["usable", "86400000"]).await;
    }

    /// What came of a request, in the words of the script.
    async fn answer(&mut self, permit: &str, verdict: &[&str]) {
        let window = WINDOW_MS.to_string();
        let arguments = [&[permit, "0", &window, "worker", "order", "1", "1", "key"], verdict].concat();
        self.call::<(String, u64)>(REPORT, &arguments).await;
    }

    /// Whether a reading of the list begins.
    async fn begin(&mut self) -> bool {
        !self.look_whether_to_begin().await.1.is_empty()
    }

    /// Whether enough orders wait, and those of the reading that begins.
    async fn look_whether_to_begin(&mut self) -> (bool, Vec<String>) {
        let (window, burst, lease) = (WINDOW_MS.to_string(), BURST.to_string(), LEASE_MS.to_string());
        self.call(BEGIN, &["4", "120", &window, &burst, &lease, "1", "key"]).await
    }

    /// How many orders are in queue, as the metrics tell it.
    async fn length(&mut self) -> u64 {
        let (_, _, new, backlog, _, _): (String, String, u64, u64, u64, Vec<u64>) =
            self.call(STATE, &["120", "1", "key"]).await;
        new + backlog
    }

    async fn seen(&mut self, order: &str, what: &str) {
        self.call::<()>(SEEN, &[&LEASE_MS.to_string(), "60000", "30000", order, what]).await;
    }

    /// The reading ends that went back to the start.
    async fn end(&mut self) {
        let every = EVERY_MS.to_string();
        self.call::<()>(END, &[&START_MS.to_string(), &every, "20000", &SEEN_FOR_MS.to_string()]).await;
    }

    /// So many orders come to wait in line for a request, once as many as may are asked for.
    async fn fill(&mut self, waiting: usize) {
        let mut wait = 0;
        for n in 0.. {
            match self.ask_listed(&format!("order {n}")).await {
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

/// Orders that come back when they are decision to, as fast as the workers are: one every so many ms. Returns how many
/// were asked for in this time. No list tells of them, and each is done once it is asked for.
async fn asked_in(queue: &mut WaitQueue, orders: usize, each_ms: u64, time_ms: u64) -> usize {
    let mut due: BTreeSet<(u64, usize)> = (0..orders).map(|order| (queue.now, order)).collect();
    let end = queue.now + time_ms;
    let mut asked = 0;
    while queue.now < end {
        if let Some(&(at, order)) = due.first().filter(|(at, _)| *at <= queue.now) {
            due.remove(&(at, order));
            match queue.ask(&format!("order {order}")).await {
                Decision::Granted(permit) => {
                    queue.usable(&permit).await;
                    asked += 1;
                }
                Decision::Wait(wait) => {
                    due.insert((queue.now + wait, order));
                }
                other => panic!("{other:?}"),
            }
        }
        queue.later(each_ms).await;
    }
    asked
}

#[tokio::test]
async fn the_line_moves_on_however_late_the_workers_are() {
    let mut queue = WaitQueue::new().await;
    // Each comes back 20 s late and more: the workers look at twelve orders a second, and 600 wait.
    let asked = asked_in(&mut queue, 600, 83, 150_000).await;
    assert!(asked > 75, "{asked} requests of 300 that are allowed");
}

#[tokio::test]
async fn pages_and_orders_that_no_list_shows_take_turns() {
    let mut queue = WaitQueue::new().await;
    queue.fill(5).await;
    assert!(queue.begin().await);
    queue.end().await;
    // Page follows page, as while a reading has no end; each order comes back when it is decision to.
    let (mut page_at, mut orders_at, mut pages, mut asked) = (queue.now, queue.now, 0, 0);
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
            match queue.request(&format!("unlisted {asked}"), START_MS - 1, SEEN_FOR_MS, 0).await {
                Decision::Granted(permit) => {
                    queue.usable(&permit).await;
                    asked += 1;
                }
                Decision::Wait(wait) => orders_at = queue.now + wait,
                other => panic!("{other:?}"),
            }
        }
        queue.later(50).await;
    }
    assert!(pages >= 10 && asked >= 10, "{pages} pages and {asked} orders, of 40 requests");
}

#[tokio::test]
async fn what_the_list_showed_before_the_clock_was_set_back_counts_no_more() {
    let mut queue = WaitQueue::new().await;
    queue.fill(20).await;
    queue.run::<()>(&["HSET", &format!("{QUEUE}:data"), "order 20", "{}"]).await;
    assert!(queue.begin().await);
    queue.later(1_000).await;
    queue.seen("order 20", "handling").await;
    queue.end().await;
    assert_eq!(queue.ask_listed("order 20").await, Decision::SeenInList);
    queue.at(START_MS - 3_600_000).await;
    for order in ["order 20", "another"] {
        let decision = queue.ask_listed(order).await;
        assert!(matches!(decision, Decision::Granted(_)), "{order}: {decision:?}");
    }
}

#[tokio::test]
async fn neither_a_closure_nor_a_probe_outlasts_its_time_where_the_clock_is_set_back() {
    let mut queue = WaitQueue::new().await;
    let Decision::Granted(permit) = queue.ask("one").await else { panic!("the budget is full") };
    queue.answer(&permit, &["unavailable", "10000"]).await;
    // So long it would last by a clock that was set back by an hour.
    queue.run::<()>(&["PEXPIRE", &key("breaker"), "3610000"]).await;
    let decision = queue.ask("two").await;
    assert!(matches!(decision, Decision::Blocked(wait) if wait <= 10_000), "{decision:?}");
    let left: u64 = queue.run(&["PTTL", &key("breaker")]).await;
    assert!(left <= 10_000, "it opens for all in {left} ms");

    queue.run::<()>(&["DEL", &key("breaker")]).await;
    assert!(matches!(queue.ask("three").await, Decision::Granted(_)), "the one that asks for all");
    assert!(matches!(queue.ask("four").await, Decision::Wait(_)));
    queue.run::<()>(&["PEXPIRE", &key("probe"), "3620000"]).await;
    assert!(matches!(queue.ask("four").await, Decision::Granted(_)), "it would be waited for, for an hour");
}

#[tokio::test]
async fn who_waits_for_a_long_reading_does_not_ask_again_each_second() {
    let mut queue = WaitQueue::new().await;
    queue.fill(20).await;
    assert!(queue.begin().await);
    queue.later(20_000).await;
    queue.end().await;
    // The next one begins after half as long as this one took.
    queue.later(10_000).await;
    queue.fill(20).await;
    assert!(queue.begin().await);
    queue.later(5_000).await;
    assert_eq!(queue.ask_listed("new").await, Decision::Wait(15_000), "when it has been read");
    queue.later(15_000).await;
    assert_eq!(queue.ask_listed("new").await, Decision::Wait(5_000), "it takes longer this time");
}

#[tokio::test]
async fn a_reading_that_failed_is_tried_again_no_sooner_than_one_that_did_not() {
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
async fn a_reading_costs_no_place_in_line_where_the_order_is_asked_for_in_any_case() {
    let mut queue = WaitQueue::new().await;
    queue.fill(20).await;
    let data = format!("{QUEUE}:data");
    for (order, payload, left) in
        [("order 20", r#"{"topupId":"…"}"#, true), ("order 21", r#"{"topupId":"…","force":true}"#, false)]
    {
        queue.run::<()>(&["HSET", &data, order, payload]).await;
        queue.seen(order, "decided").await;
        let rank: Option<u64> = queue.run(&["ZRANK", &key("waiting-new"), order]).await;
        assert_eq!(rank.is_none(), left, "{order}");
    }
}

#[tokio::test]
async fn nothing_stays_of_what_a_list_showed_that_is_left_alone() {
    let mut queue = WaitQueue::new().await;
    queue.run::<()>(&["HSET", &format!("{QUEUE}:data"), "order 1", "{}"]).await;
    queue.seen("order 1", "handling").await;
    queue.call::<()>(END, &["0", &EVERY_MS.to_string(), "600000"]).await;
    let seen: u64 = queue.run(&["EXISTS", &key("seen-in-list")]).await;
    assert_eq!(seen, 0);
}

#[tokio::test]
async fn a_gate_that_is_opened_before_its_time_is_found_open_soon() {
    let mut queue = WaitQueue::new().await;
    queue.run::<()>(&["SET", &key("breaker"), "900000", "PX", "900000"]).await;
    assert_eq!(queue.ask("one").await, Decision::Blocked(MAX_MS));
    let decision = queue.acquire_for_page().await;
    assert!(
        matches!(decision, Decision::Blocked(wait) if wait > 890_000),
        "no reading is kept for so long: {decision:?}"
    );
}

#[tokio::test]
async fn who_comes_later_does_not_overtake_those_that_wait_for_a_request_to_come_back() {
    let mut queue = WaitQueue::new().await;
    let Decision::Granted(first) = queue.ask("first").await else { panic!("the budget is full") };
    assert!(matches!(queue.ask("second").await, Decision::Granted(_)));
    assert_eq!(queue.ask("third").await, Decision::Wait(PACE_MS / 2), "two are in flight");
    queue.later(20).await;
    queue.usable(&first).await;
    assert!(matches!(queue.ask("fourth").await, Decision::Wait(_)), "it is the third one's turn");
    queue.later(PACE_MS / 2).await;
    assert!(matches!(queue.ask("third").await, Decision::Granted(_)));
}

#[tokio::test]
async fn what_a_long_reading_showed_at_its_beginning_counts_at_its_end() {
    let mut queue = WaitQueue::new().await;
    queue.run::<()>(&["HSET", &format!("{QUEUE}:data"), "order 20", "{}"]).await;
    queue.fill(20).await;
    assert!(queue.begin().await);
    queue.seen("order 20", "handling").await;
    queue.later(SEEN_FOR_MS + 8_000).await;
    queue.end().await;
    assert_eq!(queue.ask_listed("order 20").await, Decision::SeenInList);
    queue.later(SEEN_FOR_MS + 1_000).await;
    assert!(
        matches!(queue.ask_listed("order 20").await, Decision::Granted(_)),
        "the next one should have shown it"
    );
}

#[tokio::test]
async fn who_waits_while_the_clock_is_set_back_still_comes_before_those_that_come_later() {
    let mut queue = WaitQueue::new().await;
    queue.fill(1).await;
    assert!(matches!(queue.ask("old").await, Decision::Wait(_)));
    queue.at(START_MS - 3_600_000).await;
    // Two are under way, so that nobody gets a request.
    let until = (queue.now + 20_000).to_string();
    queue.run::<()>(&["ZADD", &key("in-flight:key"), &until, "one", &until, "two"]).await;
    for order in ["old", "new"] {
        assert!(matches!(queue.ask(order).await, Decision::Wait(_)));
        queue.later(10).await;
    }
    let rank: [u64; 2] = [
        queue.run(&["ZRANK", &key("waiting-new"), "old"]).await,
        queue.run(&["ZRANK", &key("waiting-new"), "new"]).await,
    ];
    assert!(rank[0] < rank[1], "{rank:?}");
}

#[tokio::test]
async fn who_never_comes_back_is_not_in_line_for_ever() {
    let mut queue = WaitQueue::new().await;
    queue.fill(5).await;
    assert_eq!(queue.length().await, 5);
    // They were decided while they were about to ask, and nobody asks any more.
    queue.later(MAX_MS + 10_001).await;
    assert_eq!(queue.length().await, 0);
    assert_eq!(queue.look_whether_to_begin().await, (false, Vec::new()));
    assert_eq!(queue.run::<usize>(&["HLEN", &key("created-at")]).await, 0);
}

#[tokio::test]
async fn a_reading_from_before_the_clock_was_set_back_holds_up_no_other() {
    let mut queue = WaitQueue::new().await;
    queue.fill(10).await;
    assert!(queue.begin().await);
    queue.end().await;
    assert!(!queue.begin().await, "it was read just now");
    queue.at(queue.now - 3_600_000).await;
    queue.fill(10).await;
    assert!(queue.begin().await);
}

#[tokio::test]
async fn a_dead_letter_goes_once_the_list_shows_that_its_order_has_gone_on() {
    let mut queue = WaitQueue::new().await;
    let (data, dead) = (format!("{QUEUE}:data"), format!("{QUEUE}:dead"));
    for order in ["still", "final"] {
        queue.run::<()>(&["HSET", &data, order, "{}"]).await;
        queue.run::<()>(&["SADD", &dead, order]).await;
    }
    queue.seen("still", "handling").await;
    queue.seen("final", "decided").await;
    for (command, key) in [("SMEMBERS", &dead), ("HKEYS", &data)] {
        let left: Vec<String> = queue.run(&[command, key]).await;
        assert_eq!(left, ["still"], "{key}");
    }
}
