//! `/metrics` tells what the provider has been asked, how the budget stands, and nothing that is not known.

use std::collections::HashMap;
use std::time::Duration;

use topup_jobs::OrderStatus;
use topup_worker::simulator::{Answer, ListCard, RequestKind, Script, SimulatorSettings};

use crate::shutdown::get_from;
use crate::support::redis::{TestRedis, free_port};
use crate::support::{Bed, ENCRYPTION_KEY, SECRET, until};

const PRIMARY: &str = "primary-key";
const SECONDARY: &str = "secondary-key";

/// A bed in real time, with the limits that are the default, and where its worker tells.
async fn bed(settings: SimulatorSettings) -> (Bed, String) {
    let mut bed = Bed::on(TestRedis::start().await, 1.0, settings).await;
    bed.set("ONECLICKDZ_RATE_LIMIT", "120");
    bed.set("ONECLICKDZ_MAX_IN_FLIGHT", "2");
    let address = format!("127.0.0.1:{}", free_port());
    bed.set("HTTP_ADDR", &address);
    (bed, address)
}

/// The series of `/metrics` that have a whole number, and those numbers.
struct Told(HashMap<String, u64>);

impl Told {
    async fn by(address: &str) -> Self {
        let answer = get_from(address, "/metrics").await;
        let series = answer.lines().filter(|line| line.starts_with("topup_"));
        let read = |line: &str| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.strip_suffix(".0").unwrap_or(value).parse().ok()?))
        };
        Self(series.filter_map(read).collect())
    }

    /// The value of one series, as it stands in the text; unknown if it is not there.
    fn of(&self, series: &str) -> Option<u64> {
        self.0.get(series).copied()
    }

    /// The sum of the series of a metric that have this label, or of all.
    fn sum(&self, metric: &str, label: &str) -> u64 {
        let all = self.0.iter();
        all.filter(|(name, _)| name.split('{').next() == Some(metric) && name.contains(label))
            .map(|(_, value)| value)
            .sum()
    }

    fn requests(&self, kind: &str) -> u64 {
        self.sum("topup_api_requests_total", &format!("kind=\"{kind}\""))
    }

    /// Whether this is the one state of the breaker.
    fn breaker_is(&self, state: &str) -> bool {
        let of = |state: &str| self.of(&format!("topup_api_breaker{{state=\"{state}\"}}"));
        of(state) == Some(1) && ["closed", "half-open", "open"].map(of).iter().flatten().sum::<u64>() == 1
    }
}

/// Asks until this is told.
async fn told<T>(address: &str, what: &str, is: impl Fn(&Told) -> Option<T>) -> T {
    until(what, async || is(&Told::by(address).await)).await
}

#[tokio::test]
async fn what_the_provider_was_asked_is_told_and_nothing_of_whom_it_was_about() {
    let (bed, address) =
        bed(SimulatorSettings { list_card: ListCard::Complete, ..SimulatorSettings::default() }).await;
    let _worker = bed.worker().await;
    told(&address, "one request, which verified the key", |told| {
        let spent = told.of(r#"topup_api_tokens{key="primary"}"#)? == 119;
        (spent && told.breaker_is("closed") && told.requests("list") == 1 && told.requests("check-id") == 0)
            .then_some(())
    })
    .await;

    // More than can be asked for at once: the list tells of most.
    let fulfilled: Vec<String> =
        (0..40).map(|_| bed.order(Script::fulfilled_after(Duration::ZERO))).collect();
    let refunded = vec![bed.order(Script::refunded_after(Duration::ZERO))];
    let queued = vec![bed.order(Script::queued_after(Duration::ZERO, Duration::from_hours(10_000)))];
    bed.enqueue(fulfilled.iter().chain(&refunded).chain(&queued)).await;
    bed.stored(&fulfilled, OrderStatus::Fulfilled).await;
    bed.stored(&refunded, OrderStatus::Refunded).await;
    bed.stored(&queued, OrderStatus::Scheduled).await;

    let seen = until("every request and every order is counted", async || {
        let told = Told::by(&address).await;
        let same = told.requests("check-id") == bed.simulator.requests(RequestKind::CheckId)
            && told.requests("list") == bed.simulator.requests(RequestKind::List)
            && told.of("topup_order_requests_count") == Some(42);
        same.then_some(told)
    })
    .await;
    let (polls, pages) = (seen.requests("check-id"), seen.requests("list"));
    assert!(polls >= 1 && pages >= 1, "{polls} and {pages}");
    assert_eq!(seen.sum("topup_api_requests_total", "answer=\"usable\""), polls + pages);
    let status =
        |status: &str| seen.of(&format!("topup_order_status_changes_total{{status=\"{status}\"}}")).unwrap();
    assert_eq!(["FULFILLED", "REFUNDED", "SCHEDULED", "DELAYED"].map(status), [40, 1, 1, 0]);
    assert_eq!(seen.sum("topup_api_wait_seconds_count", ""), polls, "each order has waited for its request");
    let spent = seen.of("topup_order_requests_sum").unwrap();
    // An order may be asked for while the list tells of it; that request has decided nothing.
    assert!(spent >= 1 && spent <= polls, "{spent} of {polls}");
    assert!(seen.breaker_is("closed"));
    assert!(seen.of(r#"topup_api_tokens{key="primary"}"#).unwrap() < 120, "requests of this minute");
    told(&address, "no order waits", |told| {
        let waiting =
            ["new", "backlog"].map(|class| format!("topup_api_waiting_orders{{class=\"{class}\"}}"));
        (told.of(&waiting[0])? + told.of(&waiting[1])? == 0).then_some(())
    })
    .await;

    let text = get_from(&address, "/metrics").await;
    assert!(text.contains("content-type: text/plain; version=0.0.4"), "{text}");
    let ids = fulfilled.iter().cloned();
    let cards = fulfilled.iter().map(|id| bed.simulator.card_code(id).unwrap());
    let secrets =
        ["sandbox-key", "Zohra", "zohra.bk@example.dz", "0661998877", "036362608", ENCRYPTION_KEY, SECRET];
    for secret in ids.chain(cards).chain(secrets.map(str::to_owned)) {
        assert!(!text.contains(&secret), "{secret} is told");
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
        |told: &Told, key: &str| told.of(&format!("topup_api_key_in_use{{key=\"{key}\"}}")) == Some(1);

    let first = vec![order()];
    bed.enqueue(&first).await;
    bed.stored(&first, OrderStatus::Fulfilled).await;
    told(&address, "the first key", |told| {
        (told.breaker_is("closed") && in_use(told, "primary")).then_some(())
    })
    .await;

    bed.simulator.revoke_key(PRIMARY);
    let second = vec![order()];
    bed.enqueue(&second).await;
    bed.stored(&second, OrderStatus::Fulfilled).await;
    told(&address, "the other key", |told| {
        (told.breaker_is("closed") && in_use(told, "secondary")).then_some(())
    })
    .await;

    bed.simulator.revoke_key(SECONDARY);
    bed.enqueue(&[order()]).await;
    told(&address, "nobody may ask", |told| told.breaker_is("open").then_some(())).await;
    told(&address, "each key was refused once", |told| {
        let refused = told.of(r#"topup_api_requests_total{kind="check-id",answer="unauthorized"}"#)?;
        (refused == 2).then_some(())
    })
    .await;
}

#[tokio::test]
async fn without_redis_what_was_counted_is_told_and_what_is_not_known_is_not() {
    let (mut bed, address) = bed(SimulatorSettings::default()).await;
    let _worker = bed.worker().await;
    let orders = vec![bed.order(Script::fulfilled_after(Duration::ZERO).first([Answer::Handling]))];
    bed.enqueue(&orders).await;
    bed.stored(&orders, OrderStatus::Fulfilled).await;
    let fulfilled = r#"topup_order_status_changes_total{status="FULFILLED"}"#;
    told(&address, "it is counted", |told| (told.of(fulfilled) == Some(1)).then_some(())).await;
    told(&address, "one order, two requests", |told| {
        (told.of("topup_order_requests_sum")? == 2 && told.of("topup_order_requests_count")? == 1)
            .then_some(())
    })
    .await;

    let gauges = |told: &Told| {
        let names = [
            "topup_api_tokens",
            "topup_api_key_in_use",
            "topup_api_breaker",
            "topup_api_waiting_orders",
            "topup_api_list",
        ];
        names.map(|name| told.0.keys().any(|series| series.split('{').next() == Some(name)))
    };
    told(&address, "all is known", |told| (gauges(told) == [true; 5]).then_some(())).await;
    // Once it is gone, and once it only says nothing.
    bed.redis.kill().await;
    let away = Told::by(&address).await;
    assert_eq!((gauges(&away), away.of(fulfilled)), ([false; 5], Some(1)));
    bed.redis.start_again().await;
    told(&address, "all is known again", |told| (gauges(told) == [true; 5]).then_some(())).await;
    bed.redis.pause().await;
    let silent = Told::by(&address).await;
    assert_eq!((gauges(&silent), silent.of(fulfilled)), ([false; 5], Some(1)));
    bed.redis.resume().await;
    told(&address, "all is known again", |told| (gauges(told) == [true; 5]).then_some(())).await;
}

#[tokio::test]
async fn line_list_and_requests_of_the_minute_are_read_as_the_budget_keeps_them() {
    let (bed, address) = bed(SimulatorSettings::default()).await;
    let _worker = bed.worker().await;
    let list = async |state: &str| {
        let series = format!("topup_api_list{{state=\"{state}\"}}");
        told(&address, state, |told| {
            (told.of(&series)? == 1 && told.sum("topup_api_list", "") == 1).then_some(())
        })
        .await;
    };
    list("unused").await;
    told(&address, "the key is verified", |told| told.breaker_is("closed").then_some(())).await;
    let (later, spent) = ("9999999999999", bed.of_api_key("window-log"));
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
    let told = Told::by(&address).await;
    assert_eq!(told.of(r#"topup_api_waiting_orders{class="new"}"#), Some(2));
    assert_eq!(told.of(r#"topup_api_waiting_orders{class="backlog"}"#), Some(1));
    assert_eq!(told.of(r#"topup_api_tokens{key="primary"}"#), Some(118));
    bed.redis::<()>(&["SET", "{topup}:budget:list-disabled", "1"]).await;
    list("disabled").await;
}
