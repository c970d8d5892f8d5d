//! The line of the budget, played out step by step: its scripts as they are, on a clock of the test's own.

mod shares;

use std::collections::BTreeSet;

use redis::aio::MultiplexedConnection;
use redis::{FromRedisValue, Script};

use crate::support::connect;
use crate::support::redis::TestRedis;

const PRELUDE: &str =
    concat!(include_str!("../../src/redis/lua/prelude.lua"), include_str!("../../src/queue/lua/layout.lua"));
const SHARED: &str = include_str!("../../src/rate_limit/lua/budget.lua");
const ANSWER: &str = include_str!("../../src/rate_limit/lua/budget_answer.lua");
const ASK: &str = include_str!("../../src/rate_limit/lua/budget_ask.lua");
const BEGIN: &str = include_str!("../../src/maintenance/coalesce/lua/list_begin.lua");
const END: &str = include_str!("../../src/maintenance/coalesce/lua/list_end.lua");
const SEEN: &str = include_str!("../../src/maintenance/coalesce/lua/list_seen.lua");
const STATE: &str = include_str!("../../src/rate_limit/lua/budget_state.lua");
/// Where the scripts ask for the time, and all that is changed in them. What Redis lets expire goes by its own clock.
const TIME: &str = "redis.call('TIME')";
const SET_TIME: &str = concat!(
    "(function(ms) return { math.floor(ms / 1000), ms % 1000 * 1000 } end)",
    "(redis.call('GET', '{topup}:clock'))"
);

const BUDGET: &str = "{topup}:budget";
const QUEUE: &str = "{topup}:poll-topup";
/// As with the limits that are the default: 120 requests in a minute, six at once, two under way.
const WINDOW_MS: u64 = 60_000;
const PACE_MS: u64 = 500;
const BURST: u64 = 6;
const SIGHTING_MS: u64 = 12_000;
const LONGEST_MS: u64 = 30_000;
const LONGEST_BACKLOG_MS: u64 = 300_000;
const LEASE_MS: u64 = 120_000;
const EVERY_MS: u64 = 8_000;
const START_MS: u64 = 1_750_000_000_000;

/// What came of a wish to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Told {
    Ask(String),
    Wait(u64),
    Sighted,
    Closed(u64),
}

struct Line {
    connection: MultiplexedConnection,
    now: u64,
    /// Held for its `Drop`.
    _server: TestRedis,
}

impl Line {
    /// A budget without a line, whose key is known to be good.
    async fn new() -> Self {
        let server = TestRedis::start().await;
        let connection = connect(&server.url()).await.unwrap();
        assert!(PRELUDE.contains(TIME), "the scripts would go by another clock");
        let mut line = Self { connection, now: START_MS, _server: server };
        line.at(START_MS).await;
        line.run::<()>(&["SET", &key("verified:key"), "1"]).await;
        line
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

    async fn request(&mut self, order: &str, created_at: u64, sighting: u64, patience: u64) -> Told {
        self.request_of(false, order, created_at, sighting, patience).await
    }

    async fn request_of(
        &mut self,
        backlog: bool,
        order: &str,
        created_at: u64,
        sighting: u64,
        patience: u64,
    ) -> Told {
        let purpose = if order.is_empty() { "page" } else { "order" };
        let [created_at, sighting, patience] = [created_at, sighting, patience].map(|ms| ms.to_string());
        let longest = if backlog { LONGEST_BACKLOG_MS } else { LONGEST_MS };
        let [window, burst, longest] = [WINDOW_MS, BURST, longest].map(|number| number.to_string());
        let arguments = [
            purpose,
            order,
            &created_at,
            &sighting,
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
        let told: Vec<String> = self.call(ASK, &arguments).await;
        let ms = || told[1].parse().unwrap();
        match told[0].as_str() {
            "ask" => Told::Ask(told[1].clone()),
            "wait" => Told::Wait(ms()),
            "sighted" => Told::Sighted,
            "closed" => Told::Closed(ms()),
            other => panic!("{other}"),
        }
    }

    /// An order asks that is tracked since the start, and that is in no list.
    async fn ask(&mut self, order: &str) -> Told {
        self.request(order, START_MS, 0, 0).await
    }

    /// One that may be in a list.
    async fn ask_listed(&mut self, order: &str) -> Told {
        self.request(order, START_MS, SIGHTING_MS, 0).await
    }

    async fn ask_for_page(&mut self) -> Told {
        self.request("", 0, 0, 0).await
    }

    async fn usable(&mut self, ticket: &str) {
        self.answer(ticket, &["usable", "86400000"]).await;
    }

    /// What came of a request, in the words of the script.
    async fn answer(&mut self, ticket: &str, verdict: &[&str]) {
        let window = WINDOW_MS.to_string();
        let arguments = [&[ticket, "0", &window, "worker", "order", "1", "1", "key"], verdict].concat();
        self.call::<(String, u64)>(ANSWER, &arguments).await;
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

    /// How many orders are in line, as the metrics tell it.
    async fn in_line(&mut self) -> u64 {
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
        self.call::<()>(END, &[&START_MS.to_string(), &every, "20000", &SIGHTING_MS.to_string()]).await;
    }

    /// So many orders come to wait in line for a request, once as many as may are asked for.
    async fn fill(&mut self, waiting: usize) {
        let mut wait = 0;
        for n in 0.. {
            match self.ask_listed(&format!("order {n}")).await {
                Told::Ask(ticket) => self.usable(&ticket).await,
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

/// Orders that come back when they are told to, as fast as the workers are: one every so many ms. Returns how many
/// were asked for in this time. No list tells of them, and each is done once it is asked for.
async fn asked_in(line: &mut Line, orders: usize, each_ms: u64, time_ms: u64) -> usize {
    let mut due: BTreeSet<(u64, usize)> = (0..orders).map(|order| (line.now, order)).collect();
    let end = line.now + time_ms;
    let mut asked = 0;
    while line.now < end {
        if let Some(&(at, order)) = due.first().filter(|(at, _)| *at <= line.now) {
            due.remove(&(at, order));
            match line.ask(&format!("order {order}")).await {
                Told::Ask(ticket) => {
                    line.usable(&ticket).await;
                    asked += 1;
                }
                Told::Wait(wait) => {
                    due.insert((line.now + wait, order));
                }
                other => panic!("{other:?}"),
            }
        }
        line.later(each_ms).await;
    }
    asked
}

#[tokio::test]
async fn the_line_moves_on_however_late_the_workers_are() {
    let mut line = Line::new().await;
    // Each comes back 20 s late and more: the workers look at twelve orders a second, and 600 wait.
    let asked = asked_in(&mut line, 600, 83, 150_000).await;
    assert!(asked > 75, "{asked} requests of 300 that are allowed");
}

#[tokio::test]
async fn pages_and_orders_that_no_list_shows_take_turns() {
    let mut line = Line::new().await;
    line.fill(5).await;
    assert!(line.begin().await);
    line.end().await;
    // Page follows page, as while a reading has no end; each order comes back when it is told to.
    let (mut page_at, mut orders_at, mut pages, mut asked) = (line.now, line.now, 0, 0);
    while line.now < START_MS + 20_000 {
        if line.now >= page_at {
            match line.ask_for_page().await {
                Told::Ask(ticket) => {
                    line.usable(&ticket).await;
                    pages += 1;
                }
                Told::Wait(wait) => page_at = line.now + wait,
                other => panic!("{other:?}"),
            }
        }
        if line.now >= orders_at {
            match line.request(&format!("unlisted {asked}"), START_MS - 1, SIGHTING_MS, 0).await {
                Told::Ask(ticket) => {
                    line.usable(&ticket).await;
                    asked += 1;
                }
                Told::Wait(wait) => orders_at = line.now + wait,
                other => panic!("{other:?}"),
            }
        }
        line.later(50).await;
    }
    assert!(pages >= 10 && asked >= 10, "{pages} pages and {asked} orders, of 40 requests");
}

#[tokio::test]
async fn what_the_list_showed_before_the_clock_was_set_back_counts_no_more() {
    let mut line = Line::new().await;
    line.fill(20).await;
    line.run::<()>(&["HSET", &format!("{QUEUE}:data"), "order 20", "{}"]).await;
    assert!(line.begin().await);
    line.later(1_000).await;
    line.seen("order 20", "handling").await;
    line.end().await;
    assert_eq!(line.ask_listed("order 20").await, Told::Sighted);
    line.at(START_MS - 3_600_000).await;
    for order in ["order 20", "another"] {
        let told = line.ask_listed(order).await;
        assert!(matches!(told, Told::Ask(_)), "{order}: {told:?}");
    }
}

#[tokio::test]
async fn neither_a_closure_nor_a_probe_outlasts_its_time_where_the_clock_is_set_back() {
    let mut line = Line::new().await;
    let Told::Ask(ticket) = line.ask("one").await else { panic!("the budget is full") };
    line.answer(&ticket, &["closed", "10000"]).await;
    // So long it would last by a clock that was set back by an hour.
    line.run::<()>(&["PEXPIRE", &key("gate"), "3610000"]).await;
    let told = line.ask("two").await;
    assert!(matches!(told, Told::Closed(wait) if wait <= 10_000), "{told:?}");
    let left: u64 = line.run(&["PTTL", &key("gate")]).await;
    assert!(left <= 10_000, "it opens for all in {left} ms");

    line.run::<()>(&["DEL", &key("gate")]).await;
    assert!(matches!(line.ask("three").await, Told::Ask(_)), "the one that asks for all");
    assert!(matches!(line.ask("four").await, Told::Wait(_)));
    line.run::<()>(&["PEXPIRE", &key("probe"), "3620000"]).await;
    assert!(matches!(line.ask("four").await, Told::Ask(_)), "it would be waited for, for an hour");
}

#[tokio::test]
async fn who_waits_for_a_long_reading_does_not_ask_again_each_second() {
    let mut line = Line::new().await;
    line.fill(20).await;
    assert!(line.begin().await);
    line.later(20_000).await;
    line.end().await;
    // The next one begins after half as long as this one took.
    line.later(10_000).await;
    line.fill(20).await;
    assert!(line.begin().await);
    line.later(5_000).await;
    assert_eq!(line.ask_listed("new").await, Told::Wait(15_000), "when it has been read");
    line.later(15_000).await;
    assert_eq!(line.ask_listed("new").await, Told::Wait(5_000), "it takes longer this time");
}

#[tokio::test]
async fn a_reading_that_failed_is_tried_again_no_sooner_than_one_that_did_not() {
    let mut line = Line::new().await;
    line.fill(20).await;
    assert!(line.begin().await);
    line.call::<()>(END, &["0", &EVERY_MS.to_string(), "0"]).await;
    line.later(EVERY_MS - 1).await;
    assert!(!line.begin().await);
    line.later(1).await;
    assert!(line.begin().await);
}

#[tokio::test]
async fn a_reading_costs_no_place_in_line_where_the_order_is_asked_for_in_any_case() {
    let mut line = Line::new().await;
    line.fill(20).await;
    let data = format!("{QUEUE}:data");
    for (order, payload, left) in
        [("order 20", r#"{"topupId":"…"}"#, true), ("order 21", r#"{"topupId":"…","force":true}"#, false)]
    {
        line.run::<()>(&["HSET", &data, order, payload]).await;
        line.seen(order, "decided").await;
        let rank: Option<u64> = line.run(&["ZRANK", &key("waiting"), order]).await;
        assert_eq!(rank.is_none(), left, "{order}");
    }
}

#[tokio::test]
async fn nothing_stays_of_what_a_list_showed_that_is_left_alone() {
    let mut line = Line::new().await;
    line.run::<()>(&["HSET", &format!("{QUEUE}:data"), "order 1", "{}"]).await;
    line.seen("order 1", "handling").await;
    line.call::<()>(END, &["0", &EVERY_MS.to_string(), "600000"]).await;
    let sighted: u64 = line.run(&["EXISTS", &key("sighted")]).await;
    assert_eq!(sighted, 0);
}

#[tokio::test]
async fn a_gate_that_is_opened_before_its_time_is_found_open_soon() {
    let mut line = Line::new().await;
    line.run::<()>(&["SET", &key("gate"), "900000", "PX", "900000"]).await;
    assert_eq!(line.ask("one").await, Told::Closed(LONGEST_MS));
    let told = line.ask_for_page().await;
    assert!(matches!(told, Told::Closed(wait) if wait > 890_000), "no reading is kept for so long: {told:?}");
}

#[tokio::test]
async fn who_comes_later_does_not_overtake_those_that_wait_for_a_request_to_come_back() {
    let mut line = Line::new().await;
    let Told::Ask(first) = line.ask("first").await else { panic!("the budget is full") };
    assert!(matches!(line.ask("second").await, Told::Ask(_)));
    assert_eq!(line.ask("third").await, Told::Wait(PACE_MS / 2), "two are under way");
    line.later(20).await;
    line.usable(&first).await;
    assert!(matches!(line.ask("fourth").await, Told::Wait(_)), "it is the third one's turn");
    line.later(PACE_MS / 2).await;
    assert!(matches!(line.ask("third").await, Told::Ask(_)));
}

#[tokio::test]
async fn what_a_long_reading_showed_at_its_beginning_counts_at_its_end() {
    let mut line = Line::new().await;
    line.run::<()>(&["HSET", &format!("{QUEUE}:data"), "order 20", "{}"]).await;
    line.fill(20).await;
    assert!(line.begin().await);
    line.seen("order 20", "handling").await;
    line.later(SIGHTING_MS + 8_000).await;
    line.end().await;
    assert_eq!(line.ask_listed("order 20").await, Told::Sighted);
    line.later(SIGHTING_MS + 1_000).await;
    assert!(matches!(line.ask_listed("order 20").await, Told::Ask(_)), "the next one should have shown it");
}

#[tokio::test]
async fn who_waits_while_the_clock_is_set_back_still_comes_before_those_that_come_later() {
    let mut line = Line::new().await;
    line.fill(1).await;
    assert!(matches!(line.ask("old").await, Told::Wait(_)));
    line.at(START_MS - 3_600_000).await;
    // Two are under way, so that nobody gets a request.
    let until = (line.now + 20_000).to_string();
    line.run::<()>(&["ZADD", &key("flying:key"), &until, "one", &until, "two"]).await;
    for order in ["old", "new"] {
        assert!(matches!(line.ask(order).await, Told::Wait(_)));
        line.later(10).await;
    }
    let rank: [u64; 2] = [
        line.run(&["ZRANK", &key("waiting"), "old"]).await,
        line.run(&["ZRANK", &key("waiting"), "new"]).await,
    ];
    assert!(rank[0] < rank[1], "{rank:?}");
}

#[tokio::test]
async fn who_never_comes_back_is_not_in_line_for_ever() {
    let mut line = Line::new().await;
    line.fill(5).await;
    assert_eq!(line.in_line().await, 5);
    // They were decided while they were about to ask, and nobody asks any more.
    line.later(LONGEST_MS + 10_001).await;
    assert_eq!(line.in_line().await, 0);
    assert_eq!(line.look_whether_to_begin().await, (false, Vec::new()));
    assert_eq!(line.run::<usize>(&["HLEN", &key("tracked")]).await, 0);
}

#[tokio::test]
async fn a_reading_from_before_the_clock_was_set_back_holds_up_no_other() {
    let mut line = Line::new().await;
    line.fill(10).await;
    assert!(line.begin().await);
    line.end().await;
    assert!(!line.begin().await, "it was read just now");
    line.at(line.now - 3_600_000).await;
    line.fill(10).await;
    assert!(line.begin().await);
}

#[tokio::test]
async fn a_dead_letter_goes_once_the_list_shows_that_its_order_has_gone_on() {
    let mut line = Line::new().await;
    let (data, dead) = (format!("{QUEUE}:data"), format!("{QUEUE}:dead"));
    for order in ["still", "final"] {
        line.run::<()>(&["HSET", &data, order, "{}"]).await;
        line.run::<()>(&["SADD", &dead, order]).await;
    }
    line.seen("still", "handling").await;
    line.seen("final", "decided").await;
    for (command, key) in [("SMEMBERS", &dead), ("HKEYS", &data)] {
        let left: Vec<String> = line.run(&[command, key]).await;
        assert_eq!(left, ["still"], "{key}");
    }
}
