//! `/metrics` shows the requests to the provider and the state of the budget, and leaves out unknown values.

use std::collections::HashMap;
use std::time::Duration;

use topup_jobs::OrderStatus;
use topup_worker::simulator::{Answer, ListCard, RequestKind, Script, SimulatorSettings};

use crate::shutdown::get_from;
use crate::support::redis::{TestRedis, free_port};
use crate::support::{Bed, ENCRYPTION_KEY, SECRET, until};

const PRIMARY: &str = "primary-key";
const SECONDARY: &str = "secondary-key";

/// A bed in real time with the default limits, and the address of the HTTP endpoints of its worker.
async fn bed(settings: SimulatorSettings) -> (Bed, String) {
    let mut bed = Bed::on(TestRedis::start().await, 1.0, settings).await;
    bed.set("ONECLICKDZ_RATE_LIMIT", "120");
    bed.set("ONECLICKDZ_MAX_IN_FLIGHT", "2");
    let address = format!("127.0.0.1:{}", free_port());
    bed.set("HTTP_ADDR", &address);
    (bed, address)
}

/// The series of `/metrics` with a whole number as their value.
struct Scrape(HashMap<String, u64>);

impl Scrape {
    async fn by(address: &str) -> Self {
        let answer = get_from(address, "/metrics").await;
        let series = answer.lines().filter(|line| line.starts_with("topup_"));
        let read = |line: &str| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.strip_suffix(".0").unwrap_or(value).parse().ok()?))
        };
        Self(series.filter_map(read).collect())
    }

    /// The value of one series. `None` if the text lacks it.
    fn of(&self, series: &str) -> Option<u64> {
        self.0.get(series).copied()
    }

    /// The sum of the series of a metric with this label; with an empty label, of all series.
    fn sum(&self, metric: &str, label: &str) -> u64 {
        let all = self.0.iter();
        all.filter(|(name, _)| name.split('{').next() == Some(metric) && name.contains(label))
            .map(|(_, value)| value)
            .sum()
    }

    fn requests(&self, kind: &str) -> u64 {
        self.sum("topup_api_requests_total", &format!("kind=\"{kind}\""))
    }

    /// Whether this is the only reported state of the breaker.
    fn breaker_is(&self, state: &str) -> bool {
        let of = |state: &str| self.of(&format!("topup_api_breaker{{state=\"{state}\"}}"));
        of(state) == Some(1) && ["closed", "half-open", "open"].map(of).iter().flatten().sum::<u64>() == 1
    }
}

/// Scrapes until `is` returns a value.
async fn scraped<T>(address: &str, what: &str, is: impl Fn(&Scrape) -> Option<T>) -> T {
    until(what, async || is(&Scrape::by(address).await)).await
}

#[tokio::test]
async fn requests_to_the_provider_are_counted_and_no_id_or_secret_is_shown() {
    let (bed, address) =
        bed(SimulatorSettings { list_card: ListCard::Complete, ..SimulatorSettings::default() }).await;
    let _worker = bed.worker().await;
    scraped(&address, "one request, which verified the key", |scrape| {
        let spent = scrape.of(r#"topup_api_tokens{key="primary"}"#)? == 119;
        (spent
            && scrape.breaker_is("closed")
            && scrape.requests("list") == 1
            && scrape.requests("check-id") == 0)
            .then_some(())
    })
    .await;

    // More orders than can be checked at once, so the list shows most of them.
    let fulfilled: Vec<String> =
        (0..40).map(|_| bed.order(Script::fulfilled_after(Duration::ZERO))).collect();
    let refunded = vec![bed.order(Script::refunded_after(Duration::ZERO))];
    let queued = vec![bed.order(Script::queued_after(Duration::ZERO, Duration::from_hours(10_000)))];
    bed.enqueue(fulfilled.iter().chain(&refunded).chain(&queued)).await;
    bed.stored(&fulfilled, OrderStatus::Fulfilled).await;
    bed.stored(&refunded, OrderStatus::Refunded).await;
    bed.stored(&queued, OrderStatus::Scheduled).await;

    let seen = until("every request and every order is counted", async || {
        let scrape = Scrape::by(&address).await;
        let same = scrape.requests("check-id") == bed.simulator.requests(RequestKind::CheckId)
            && scrape.requests("list") == bed.simulator.requests(RequestKind::List)
            && scrape.of("topup_order_requests_count") == Some(42);
        same.then_some(scrape)
    })
    .await;
    let (polls, pages) = (seen.requests("check-id"), seen.requests("list"));
    assert!(polls >= 1 && pages >= 1, "{polls} and {pages}");
    assert_eq!(seen.sum("topup_api_requests_total", "answer=\"usable\""), polls + pages);
    let status =
        |status: &str| seen.of(&format!("topup_order_status_changes_total{{status=\"{status}\"}}")).unwrap();
    assert_eq!(["FULFILLED", "REFUNDED", "SCHEDULED", "DELAYED"].map(status), [40, 1, 1, 0]);
    assert_eq!(seen.sum("topup_api_wait_seconds_count", ""), polls, "each check waited for a permit");
    let spent = seen.of("topup_order_requests_sum").unwrap();
    // A check does not count for an order that the list shows as final in the meantime.
    assert!(spent >= 1 && spent <= polls, "{spent} of {polls}");
    assert!(seen.breaker_is("closed"));
    assert!(seen.of(r#"topup_api_tokens{key="primary"}"#).unwrap() < 120, "requests used some tokens");
    scraped(&address, "no order waits", |scrape| {
        let waiting =
            ["new", "backlog"].map(|class| format!("topup_api_waiting_orders{{class=\"{class}\"}}"));
        (scrape.of(&waiting[0])? + scrape.of(&waiting[1])? == 0).then_some(())
    })
    .await;

    let text = get_from(&address, "/metrics").await;
    assert!(text.contains("content-type: text/plain; version=0.0.4"), "{text}");
    let ids = fulfilled.iter().cloned();
    let cards = fulfilled.iter().map(|id| bed.simulator.card_code(id).unwrap());
    let secrets =
        ["sandbox-key", "Zohra", "zohra.bk@example.dz", "0661998877", "036362608", ENCRYPTION_KEY, SECRET];
    for secret in ids.chain(cards).chain(secrets.map(str::to_owned)) {
        assert!(!text.contains(&secret), "{secret} is in the text");
    }
}

#[tokio::test]
async fn a_refused_key_and_an_open_breaker_are_shown() {
    let keys = vec![PRIMARY.to_owned(), SECONDARY.to_owned()];
    let (mut bed, address) = bed(SimulatorSettings { api_keys: keys, ..SimulatorSettings::default() }).await;
    bed.set("ONECLICKDZ_API_KEY", PRIMARY);
    bed.set("ONECLICKDZ_API_KEY_SECONDARY", SECONDARY);
    let _worker = bed.worker().await;
    let order = || bed.order(Script::fulfilled_after(Duration::ZERO));
    let in_use =
        |scrape: &Scrape, key: &str| scrape.of(&format!("topup_api_key_in_use{{key=\"{key}\"}}")) == Some(1);

    let first = vec![order()];
    bed.enqueue(&first).await;
    bed.stored(&first, OrderStatus::Fulfilled).await;
    scraped(&address, "the first key", |scrape| {
        (scrape.breaker_is("closed") && in_use(scrape, "primary")).then_some(())
    })
    .await;

    bed.simulator.revoke_key(PRIMARY);
    let second = vec![order()];
    bed.enqueue(&second).await;
    bed.stored(&second, OrderStatus::Fulfilled).await;
    scraped(&address, "the other key", |scrape| {
        (scrape.breaker_is("closed") && in_use(scrape, "secondary")).then_some(())
    })
    .await;

    bed.simulator.revoke_key(SECONDARY);
    bed.enqueue(&[order()]).await;
    scraped(&address, "the breaker is open", |scrape| scrape.breaker_is("open").then_some(())).await;
    scraped(&address, "each key was refused once", |scrape| {
        let refused = scrape.of(r#"topup_api_requests_total{kind="check-id",answer="unauthorized"}"#)?;
        (refused == 2).then_some(())
    })
    .await;
}

#[tokio::test]
async fn without_redis_counters_are_served_and_unknown_gauges_are_left_out() {
    let (mut bed, address) = bed(SimulatorSettings::default()).await;
    let _worker = bed.worker().await;
    let orders = vec![bed.order(Script::fulfilled_after(Duration::ZERO).first([Answer::Handling]))];
    bed.enqueue(&orders).await;
    bed.stored(&orders, OrderStatus::Fulfilled).await;
    let fulfilled = r#"topup_order_status_changes_total{status="FULFILLED"}"#;
    scraped(&address, "the order is counted", |scrape| (scrape.of(fulfilled) == Some(1)).then_some(())).await;
    scraped(&address, "one order, two requests", |scrape| {
        (scrape.of("topup_order_requests_sum")? == 2 && scrape.of("topup_order_requests_count")? == 1)
            .then_some(())
    })
    .await;

    let gauges = |scrape: &Scrape| {
        let names = [
            "topup_api_tokens",
            "topup_api_key_in_use",
            "topup_api_breaker",
            "topup_api_waiting_orders",
            "topup_api_list",
        ];
        names.map(|name| scrape.0.keys().any(|series| series.split('{').next() == Some(name)))
    };
    scraped(&address, "all gauges are known", |scrape| (gauges(scrape) == [true; 5]).then_some(())).await;
    // Redis is first killed and then unresponsive.
    bed.redis.kill().await;
    let away = Scrape::by(&address).await;
    assert_eq!((gauges(&away), away.of(fulfilled)), ([false; 5], Some(1)));
    bed.redis.start_again().await;
    scraped(&address, "each gauge is back", |scrape| (gauges(scrape) == [true; 5]).then_some(())).await;
    bed.redis.pause().await;
    let silent = Scrape::by(&address).await;
    assert_eq!((gauges(&silent), silent.of(fulfilled)), ([false; 5], Some(1)));
    bed.redis.resume().await;
    scraped(&address, "each gauge is back", |scrape| (gauges(scrape) == [true; 5]).then_some(())).await;
}

#[tokio::test]
async fn wait_queue_list_and_tokens_are_read_from_the_keys_of_the_budget() {
    let (bed, address) = bed(SimulatorSettings::default()).await;
    let _worker = bed.worker().await;
    let list = async |state: &str| {
        let series = format!("topup_api_list{{state=\"{state}\"}}");
        scraped(&address, state, |scrape| {
            (scrape.of(&series)? == 1 && scrape.sum("topup_api_list", "") == 1).then_some(())
        })
        .await;
    };
    list("unused").await;
    scraped(&address, "the key is verified", |scrape| scrape.breaker_is("closed").then_some(())).await;
    let (later, spent) = ("9999999999999", bed.budget_key("window-log"));
    for command in [
        ["ZADD", "{topup}:budget:waiting-new", later, "one"],
        ["ZADD", "{topup}:budget:waiting-new", later, "another"],
        ["ZADD", "{topup}:budget:waiting-backlog", later, "a recheck"],
        ["ZADD", &spent, later, "of-this-minute"],
        ["ZADD", &spent, "1", "long-over"],
        ["HSET", "{topup}:budget:list-state", "until", later],
    ] {
        bed.redis::<()>(&command).await;
    }
    list("read").await;
    let scrape = Scrape::by(&address).await;
    assert_eq!(scrape.of(r#"topup_api_waiting_orders{class="new"}"#), Some(2));
    assert_eq!(scrape.of(r#"topup_api_waiting_orders{class="backlog"}"#), Some(1));
    assert_eq!(scrape.of(r#"topup_api_tokens{key="primary"}"#), Some(118));
    bed.redis::<()>(&["SET", "{topup}:budget:list-disabled", "1"]).await;
    list("disabled").await;
}
