//! The breakers of the budget, called directly: races between requests, step by step.

use std::time::{Duration, Instant};

use secrecy::SecretString;
use topup_jobs::TopupId;
use topup_worker::provider::{Answer, ApiError, KeyFingerprint};
use topup_worker::rate_limit::{
    Budget, Checked, Meaning, Permit, PermitDecision, PermitRequest, RateLimit, RedisBudget,
};
use topup_worker::redis::{Connection, Names, RedisAddress, RedisHealth};

use crate::support::redis::TestRedis;
use crate::support::{connect, until};

/// With minutes this short, a refused key pauses for six seconds instead of a quarter of an hour.
const SHORT_MINUTE: Duration = Duration::from_millis(400);
const MINUTE: Duration = Duration::from_mins(1);
/// Longer than any wait for a permit while the budget is not used up, and shorter than the pause of a key.
const LONG_PAUSE: Duration = Duration::from_secs(8);

fn fingerprint(key: &str) -> KeyFingerprint {
    KeyFingerprint::new(&SecretString::from(key))
}

/// The budget of a worker with these API keys and this length of a minute.
fn budget(redis: &TestRedis, keys: &[&str], minute: Duration) -> RedisBudget {
    let names: Names = "{topup}".parse().unwrap();
    let address = RedisAddress::parse(&redis.url(), &names).unwrap();
    let connection = Connection::new(&address, &RedisHealth::default());
    let rate_limit = RateLimit { requests_per_minute: 120, max_in_flight: 2, minute, list_polling: false };
    RedisBudget::new(connection, &names, rate_limit, keys.iter().map(|key| fingerprint(key)).collect())
}

fn id(order: u32) -> TopupId {
    format!("{order:024x}").parse().unwrap()
}

async fn acquire(budget: &RedisBudget, order: u32) -> PermitDecision {
    let created_at = chrono::DateTime::UNIX_EPOCH;
    let request = PermitRequest {
        topup_id: id(order),
        created_at,
        last: None,
        age: Duration::ZERO,
        backlog: false,
        list_counts: false,
    };
    budget.acquire(&request).await
}

/// Waits for a permit.
async fn permit(budget: &RedisBudget, order: u32) -> Permit {
    until("a permit is granted", async || match acquire(budget, order).await {
        PermitDecision::Granted(permit) => Some(permit),
        _ => None,
    })
    .await
}

async fn report(budget: &RedisBudget, permit: &Permit, order: u32, error: Option<ApiError>) -> Meaning {
    report_for(budget, permit, (order, true), error).await
}

/// As [`report`], for an order that the provider may never have known.
async fn report_for(
    budget: &RedisBudget,
    permit: &Permit,
    (order, known): (u32, bool),
    error: Option<ApiError>,
) -> Meaning {
    budget.report(permit, Some(Checked { topup_id: &id(order), known }), error.as_ref()).await
}

/// Makes one request for this order and reports its answer.
async fn check(budget: &RedisBudget, order: u32, error: Option<ApiError>) -> Meaning {
    let permit = permit(budget, order).await;
    report(budget, &permit, order, error).await
}

fn answer(status: u16, code: &str) -> Answer {
    Answer { status, code: Some(code.to_owned()), request_id: None }
}

fn refused() -> ApiError {
    ApiError::Unauthorized(answer(401, "INVALID_ACCESS_TOKEN"))
}

fn not_found() -> ApiError {
    ApiError::NotFound(answer(404, "NOT_FOUND"))
}

fn says_nothing(meaning: Meaning) -> bool {
    matches!(meaning, Meaning::SaysNothing(_))
}

#[tokio::test]
async fn an_answer_to_a_request_sent_before_a_refusal_does_not_verify_the_key() {
    let redis = TestRedis::start().await;
    let budget = budget(&redis, &["key"], SHORT_MINUTE);
    let probe = permit(&budget, 1).await;
    assert!(probe.probe);
    report(&budget, &probe, 1, None).await;
    let (first, second) = (permit(&budget, 2).await, permit(&budget, 3).await);
    report(&budget, &first, 2, Some(refused())).await;
    report(&budget, &second, 3, None).await;
    assert!(permit(&budget, 4).await.probe, "requests go one at a time");
}

#[tokio::test]
async fn while_both_keys_are_refused_each_probe_uses_the_other_key() {
    let redis = TestRedis::start().await;
    let budget = budget(&redis, &["primary", "secondary"], SHORT_MINUTE);
    let primary = permit(&budget, 1).await;
    let meaning = report(&budget, &primary, 1, Some(refused())).await;
    assert_eq!(meaning, Meaning::SaysNothing(Duration::ZERO), "the worker switches to the secondary key");
    let mut last = permit(&budget, 1).await;
    assert_ne!(last.key, primary.key);
    for _ in 0..3 {
        let meaning = report(&budget, &last, 1, Some(refused())).await;
        assert!(says_nothing(meaning) && meaning != Meaning::SaysNothing(Duration::ZERO), "both are refused");
        assert!(matches!(acquire(&budget, 1).await, PermitDecision::Blocked(_)));
        let next = permit(&budget, 1).await;
        assert!(next.probe && next.key != last.key, "the keys take turns");
        last = next;
    }
    assert_eq!(report(&budget, &last, 1, None).await, Meaning::AboutOrder);
    let again = permit(&budget, 2).await;
    assert!(!again.probe && again.key == last.key, "the worker uses the key that is accepted again");
}

#[tokio::test]
async fn a_request_counts_for_at_least_a_minute_from_its_answer() {
    let redis = TestRedis::start().await;
    let minute = Duration::from_secs(6);
    let budget = budget(&redis, &["key"], minute);
    let mut connection = connect(&redis.url()).await.unwrap();
    let window_log = format!("{{topup}}:budget:window-log:{}", fingerprint("key").as_str());
    for order in 0..40 {
        let permit = permit(&budget, order).await;
        let (seconds, micros): (u64, u64) = redis::cmd("TIME").query_async(&mut connection).await.unwrap();
        report(&budget, &permit, order, None).await;
        let mut counted = redis::cmd("ZSCORE");
        counted.arg(&window_log).arg(&permit.number);
        let until_ms: u64 = counted.query_async(&mut connection).await.unwrap();
        let answered_after = Duration::from_secs(seconds) + Duration::from_micros(micros);
        assert!(Duration::from_millis(until_ms) >= answered_after + minute, "order {order}");
    }
}

#[tokio::test]
async fn a_budget_whose_redis_keys_are_lost_begins_with_one_probe() {
    let redis = TestRedis::start().await;
    let budget = budget(&redis, &["key"], MINUTE);
    check(&budget, 1, None).await;
    let mut connection = connect(&redis.url()).await.unwrap();
    redis::cmd("FLUSHALL").exec_async(&mut connection).await.unwrap();
    assert!(permit(&budget, 2).await.probe);
    assert!(matches!(acquire(&budget, 3).await, PermitDecision::Wait(_)), "orders wait for the probe");
}

#[tokio::test]
async fn an_order_gets_a_permit_although_the_clock_was_set_back_while_it_waited() {
    let redis = TestRedis::start().await;
    let budget = budget(&redis, &["key"], MINUTE);
    let mut connection = connect(&redis.url()).await.unwrap();
    let (now, _): (u64, u64) = redis::cmd("TIME").query_async(&mut connection).await.unwrap();
    let mut began = redis::cmd("HSET");
    began.arg("{topup}:budget:waiting-since").arg(format!("{:024x}", 1)).arg((now + 3_600) * 1000);
    began.exec_async(&mut connection).await.unwrap();
    assert_eq!(permit(&budget, 1).await.waited, Duration::ZERO);
}

#[tokio::test]
async fn a_refused_key_pauses_only_the_workers_that_use_it() {
    let redis = TestRedis::start().await;
    let good = budget(&redis, &["good"], MINUTE);
    let [mistyped, twin] = [(); 2].map(|()| budget(&redis, &["mistyped"], MINUTE));
    check(&good, 1, None).await;
    assert!(says_nothing(check(&mistyped, 2, Some(refused())).await));
    for worker in [&mistyped, &twin] {
        let PermitDecision::Blocked(wait) = acquire(worker, 3).await else { panic!("the key is refused") };
        assert!(wait <= Duration::from_secs(1), "the job soon goes to a worker that can check: {wait:?}");
        assert!(worker.acquire_for_page().await.is_err());
    }
    for order in 2..6 {
        let PermitDecision::Granted(permit) = acquire(&good, order).await else {
            panic!("the good key is usable at once")
        };
        assert!(!permit.probe);
        report(&good, &permit, order, None).await;
    }
}

#[tokio::test]
async fn a_new_key_is_verified_before_it_replaces_a_verified_one() {
    let redis = TestRedis::start().await;
    let old = budget(&redis, &["old"], MINUTE);
    check(&old, 1, None).await;
    let new = budget(&redis, &["new", "old"], MINUTE);
    let permit = permit(&new, 2).await;
    assert!(!permit.probe && permit.key == 1, "the old key is verified");
    let verification = new.acquire_to_verify().await.unwrap();
    assert!(verification.probe && verification.key == 0);
    new.report(&verification, None, None).await;
    let PermitDecision::Granted(permit) = acquire(&new, 3).await else { panic!("the new key is verified") };
    assert!(!permit.probe && permit.key == 0, "the worker has both keys and uses the new one");
}

#[tokio::test]
async fn a_refused_ip_address_pauses_only_its_own_worker() {
    let redis = TestRedis::start().await;
    for code in [Some("IP_NOT_ALLOWED"), Some("IP_BLOCKED"), None] {
        let [here, there] = [(); 2].map(|()| budget(&redis, &["key"], MINUTE));
        check(&there, 1, None).await;
        assert!(says_nothing(check(&here, 2, Some(forbidden(code))).await));
        assert!(matches!(acquire(&here, 2).await, PermitDecision::Blocked(_)), "{code:?}");
        let began = Instant::now();
        let permit = permit(&there, 2).await;
        assert!(!permit.probe && began.elapsed() < LONG_PAUSE, "{code:?}");
        report(&there, &permit, 2, None).await;
    }
}

fn forbidden(code: Option<&str>) -> ApiError {
    ApiError::Forbidden(Answer { status: 403, code: code.map(str::to_owned), request_id: None })
}

#[tokio::test]
async fn a_403_to_one_order_pauses_no_worker() {
    let redis = TestRedis::start().await;
    let budget = budget(&redis, &["key"], MINUTE);
    check(&budget, 1, None).await;
    assert_eq!(check(&budget, 2, Some(forbidden(Some("FORBIDDEN")))).await, Meaning::Failing(1));
    let permit = permit(&budget, 3).await;
    assert!(!permit.probe);
}

#[tokio::test]
async fn a_404_is_believed_while_the_key_knows_other_orders() {
    let redis = TestRedis::start().await;
    let budget = budget(&redis, &["key"], MINUTE);
    check(&budget, 1, None).await;
    for order in 2..6 {
        let permit = permit(&budget, order).await;
        assert!(!permit.probe);
        let meaning = report_for(&budget, &permit, (order, false), Some(not_found())).await;
        assert_eq!(meaning, Meaning::AboutOrder, "order {order}");
    }
}

#[tokio::test]
async fn a_disabled_account_counts_as_a_refused_key() {
    let redis = TestRedis::start().await;
    let budget = budget(&redis, &["primary", "secondary"], MINUTE);
    let disabled = ApiError::Forbidden(answer(403, "API_DISABLED"));
    assert_eq!(check(&budget, 1, Some(disabled)).await, Meaning::SaysNothing(Duration::ZERO));
    assert_eq!(permit(&budget, 1).await.key, 1);
}

#[tokio::test]
async fn a_429_for_the_primary_key_does_not_switch_to_the_secondary_for_good() {
    let redis = TestRedis::start().await;
    let budget = budget(&redis, &["primary", "secondary"], SHORT_MINUTE);
    check(&budget, 1, None).await;
    let limited = ApiError::RateLimited { answer: answer(429, "RATE_LIMIT_EXCEEDED"), retry_after: None };
    assert!(says_nothing(check(&budget, 1, Some(limited)).await));
    assert_eq!(permit(&budget, 1).await.key, 0);
}

#[tokio::test]
async fn a_primary_key_after_its_pause_is_probed_before_a_secondary_that_has_known_no_order() {
    let redis = TestRedis::start().await;
    let budget = budget(&redis, &["primary", "secondary"], SHORT_MINUTE);
    assert_eq!(check(&budget, 1, Some(refused())).await, Meaning::SaysNothing(Duration::ZERO));
    let verification = until("a permit is granted", async || budget.acquire_to_verify().await.ok()).await;
    assert_eq!(verification.key, 1);
    budget.report(&verification, None, None).await;
    let primary = until("the pause of the primary key is over", async || match acquire(&budget, 1).await {
        PermitDecision::Granted(permit) if permit.key == 0 => Some(permit),
        PermitDecision::Granted(permit) => {
            report(&budget, &permit, 1, Some(not_found())).await;
            None
        }
        _ => None,
    });
    assert!(primary.await.probe);
}

#[tokio::test]
async fn a_429_for_one_key_delays_no_other_key() {
    let redis = TestRedis::start().await;
    let [busy, other] = ["busy", "other"].map(|key| budget(&redis, &[key], MINUTE));
    check(&other, 1, None).await;
    let limited = ApiError::RateLimited { answer: answer(429, "RATE_LIMIT_EXCEEDED"), retry_after: None };
    assert!(says_nothing(check(&busy, 2, Some(limited)).await));
    assert!(matches!(acquire(&busy, 2).await, PermitDecision::Blocked(_)));
    assert!(matches!(acquire(&other, 2).await, PermitDecision::Granted(_)));
}

#[tokio::test]
async fn a_worker_that_starts_cut_off_from_the_provider_pauses_no_other() {
    let redis = TestRedis::start().await;
    let [good, cut_off] = ["good", "other"].map(|key| budget(&redis, &[key], MINUTE));
    check(&good, 1, None).await;
    check(&cut_off, 2, Some(ApiError::Connection("the connection was refused"))).await;
    assert!(matches!(acquire(&cut_off, 2).await, PermitDecision::Blocked(_)));
    assert!(matches!(acquire(&good, 2).await, PermitDecision::Granted(_)));
}

#[tokio::test]
async fn one_failing_order_does_not_open_the_breaker_and_several_do() {
    let redis = TestRedis::start().await;
    let budget = budget(&redis, &["key"], SHORT_MINUTE);
    check(&budget, 1, None).await;
    let failed = || Some(ApiError::Failed(answer(500, "INTERNAL_ERROR")));
    for _ in 0..20 {
        assert_eq!(check(&budget, 1, failed()).await, Meaning::Failing(1));
    }
    check(&budget, 2, None).await;
    for (order, meaning) in [(1, 1), (2, 2), (3, 3), (3, 3), (4, 4), (5, 5), (6, 6)] {
        assert_eq!(check(&budget, order, failed()).await, Meaning::Failing(meaning));
    }
    assert!(says_nothing(check(&budget, 7, failed()).await), "eight in a row");
    assert!(permit(&budget, 8).await.probe, "requests go one at a time");
}

#[tokio::test]
async fn several_404s_are_not_believed_until_the_key_has_known_another_order() {
    let redis = TestRedis::start().await;
    let budget = budget(&redis, &["key"], MINUTE / 4);
    check(&budget, 1, None).await;
    for order in 1..3 {
        assert_eq!(check(&budget, order, Some(not_found())).await, Meaning::AboutOrder, "few are unknown");
        assert_eq!(check(&budget, order, Some(not_found())).await, Meaning::AboutOrder, "the same again");
    }
    assert!(says_nothing(check(&budget, 3, Some(not_found())).await), "a third order is unknown");
    assert!(matches!(acquire(&budget, 1).await, PermitDecision::Blocked(_)), "order 1 was unknown");
    // Other orders are checked one at a time, because one of them may show that the key is valid.
    let other = permit(&budget, 4).await;
    assert!(other.probe);
    assert!(!matches!(acquire(&budget, 5).await, PermitDecision::Granted(_)));
    assert!(says_nothing(report(&budget, &other, 4, Some(not_found())).await));
    check(&budget, 5, None).await;
    let permit = permit(&budget, 1).await;
    assert!(!permit.probe, "the key knows orders again");
    assert_eq!(report(&budget, &permit, 1, Some(not_found())).await, Meaning::AboutOrder);
}

#[tokio::test]
async fn an_answered_list_does_not_show_that_the_key_knows_the_orders() {
    let redis = TestRedis::start().await;
    let budget = budget(&redis, &["key"], SHORT_MINUTE);
    for order in 1..4 {
        check(&budget, order, Some(not_found())).await;
    }
    let verification = until("the pause is over", async || budget.acquire_to_verify().await.ok()).await;
    budget.report(&verification, None, None).await;
    assert!(permit(&budget, 1).await.probe, "requests still go one at a time");
}

#[tokio::test]
async fn a_404_with_a_secondary_key_that_has_known_no_order_is_not_believed() {
    let redis = TestRedis::start().await;
    let budget = budget(&redis, &["primary", "secondary"], SHORT_MINUTE);
    check(&budget, 1, None).await;
    assert_eq!(check(&budget, 1, Some(refused())).await, Meaning::SaysNothing(Duration::ZERO));
    for _ in 0..3 {
        let secondary = permit(&budget, 2).await;
        assert_eq!(secondary.key, 1);
        assert!(says_nothing(report(&budget, &secondary, 2, Some(not_found())).await), "not believed");
    }
    check(&budget, 1, None).await;
    assert_eq!(check(&budget, 2, Some(not_found())).await, Meaning::AboutOrder, "the key has known an order");
}

#[tokio::test]
async fn requests_in_flight_end_with_the_lease_of_their_worker() {
    let redis = TestRedis::start().await;
    let [killed, other] = [(); 2].map(|()| budget(&redis, &["key"], MINUTE));
    check(&killed, 1, None).await;
    let (_first, _second) = (permit(&killed, 2).await, permit(&killed, 3).await);
    // While the worker lives, it renews the leases of its requests.
    tokio::time::sleep(Duration::from_secs(7)).await;
    assert!(matches!(acquire(&other, 4).await, PermitDecision::Full(_)), "two are in flight");
    assert!(!other.has_request_in_flight(), "none of them is its own");
    drop(killed);
    let began = Instant::now();
    permit(&other, 4).await;
    assert!(began.elapsed() < Duration::from_secs(15), "a request may take 20 s, a lease lasts 5");
}

#[tokio::test]
async fn waiting_orders_get_the_place_of_a_request_as_soon_as_it_ends() {
    let redis = TestRedis::start().await;
    let budget = budget(&redis, &["key"], MINUTE);
    check(&budget, 1, None).await;
    let (second, third) = (permit(&budget, 2).await, permit(&budget, 3).await);
    let estimated = [acquire(&budget, 4).await, acquire(&budget, 5).await];
    assert!(estimated.iter().all(|decision| matches!(decision, PermitDecision::Full(_))), "{estimated:?}");
    assert!(budget.has_request_in_flight());
    let mut ended = budget.ended_requests();
    for (permit, of, waiting) in [(&second, 2, 4), (&third, 3, 5)] {
        ended.mark_unchanged();
        let reported = async { report(&budget, permit, of, None).await };
        let granted = async {
            ended.changed().await.expect("the budget is open");
            acquire(&budget, waiting).await
        };
        let (_, decision) = tokio::join!(reported, granted);
        assert!(matches!(decision, PermitDecision::Granted(_)), "{decision:?}");
    }
}

#[tokio::test]
async fn a_probe_ends_with_the_lease_of_its_worker() {
    let redis = TestRedis::start().await;
    let [killed, other] = [(); 2].map(|()| budget(&redis, &["key"], MINUTE));
    assert!(permit(&killed, 1).await.probe);
    drop(killed);
    let began = Instant::now();
    assert!(permit(&other, 2).await.probe);
    assert!(began.elapsed() < Duration::from_secs(15), "a request may take 20 s, a lease lasts 5");
}

#[tokio::test]
async fn a_refusal_is_recorded_once_redis_is_back() {
    let mut redis = TestRedis::start().await;
    let budget = budget(&redis, &["key"], MINUTE);
    check(&budget, 1, None).await;
    let last = permit(&budget, 2).await;
    redis.kill().await;
    let reporting = report(&budget, &last, 2, Some(refused()));
    let away = async {
        assert!(matches!(acquire(&budget, 4).await, PermitDecision::Blocked(_)));
        redis.start_again().await;
    };
    tokio::join!(reporting, away);
    assert!(
        matches!(acquire(&budget, 4).await, PermitDecision::Blocked(wait) if wait > Duration::from_secs(1))
    );
}
