//! The gate of the budget, asked directly: races that must be played out step by step.

use std::time::Duration;

use secrecy::SecretString;
use topup_worker::queue::{Connection, Names, RedisAddress, RedisHealth};
use topup_worker::topup_api::{
    Allowance, Answer, ApiError, Budget, KeysFingerprint, Permission, RedisBudget, Ticket, Wish,
};

use crate::support::redis::TestRedis;
use crate::support::{connect, until};

/// With this, a refused key is left alone for six seconds instead of a quarter of an hour.
const SHORT_MINUTE: Duration = Duration::from_millis(400);

/// A budget of so many keys for which a minute passes in this time.
async fn budget(redis: &TestRedis, keys: usize, minute: Duration) -> RedisBudget {
    budget_of(redis, keys, minute, "key").await
}

/// The same, with this as the first key.
async fn budget_of(redis: &TestRedis, keys: usize, minute: Duration, key: &str) -> RedisBudget {
    let names: Names = "{topup}".parse().unwrap();
    let address = RedisAddress::parse(&redis.url(), &names).unwrap();
    let connection = Connection::new(&address, &RedisHealth::default());
    let allowance = Allowance { requests_per_minute: 120, under_way: 2, keys, minute, coalesce: false };
    let keys = KeysFingerprint::new([&SecretString::from(key)]);
    let budget = RedisBudget::new(connection, &names, allowance, keys);
    budget.doubt().await;
    budget
}

async fn ask(budget: &RedisBudget, order: u32) -> Permission {
    let topup_id = format!("{order:024x}").parse().unwrap();
    let created_at = chrono::DateTime::UNIX_EPOCH;
    let wish =
        Wish { topup_id, created_at, last: None, age: Duration::ZERO, backlog: false, list_counts: false };
    budget.ask(&wish).await
}

/// A ticket, as soon as there is one.
async fn ticket(budget: &RedisBudget, order: u32) -> Ticket {
    until("there is a ticket", async || match ask(budget, order).await {
        Permission::Ask(ticket) => Some(ticket),
        _ => None,
    })
    .await
}

fn refused() -> ApiError {
    ApiError::Unauthorized(Answer { status: 401, ..Answer::default() })
}

#[tokio::test]
async fn an_answer_to_a_request_sent_before_a_refusal_does_not_end_the_doubt() {
    let redis = TestRedis::start().await;
    let budget = budget(&redis, 1, SHORT_MINUTE).await;
    let probe = ticket(&budget, 1).await;
    assert!(probe.probe);
    budget.answered(&probe, None).await;
    let (first, second) = (ticket(&budget, 2).await, ticket(&budget, 3).await);
    budget.answered(&first, Some(&refused())).await;
    budget.answered(&second, None).await;
    assert!(matches!(ask(&budget, 4).await, Permission::Closed(_)));
    assert!(ticket(&budget, 4).await.probe, "one asks alone");
}

#[tokio::test]
async fn where_both_keys_are_refused_one_of_them_is_tried_each_time() {
    let redis = TestRedis::start().await;
    let budget = budget(&redis, 2, SHORT_MINUTE).await;
    let primary = ticket(&budget, 1).await;
    assert!(budget.answered(&primary, Some(&refused())).await, "the other key takes over");
    let mut last = ticket(&budget, 1).await;
    assert_ne!(last.key, primary.key);
    for _ in 0..3 {
        assert!(!budget.answered(&last, Some(&refused())).await, "no key is left to take over");
        assert!(matches!(ask(&budget, 1).await, Permission::Closed(_)));
        let next = ticket(&budget, 1).await;
        assert!(next.probe && next.key != last.key, "each in its turn");
        last = next;
    }
    assert!(!budget.answered(&last, None).await);
    let again = ticket(&budget, 2).await;
    assert!(!again.probe && again.key == last.key, "the key that is accepted again is used");
}

#[tokio::test]
async fn a_request_counts_for_no_less_than_a_minute_from_its_answer() {
    let redis = TestRedis::start().await;
    let minute = Duration::from_secs(6);
    let budget = budget(&redis, 1, minute).await;
    let mut connection = connect(&redis.url()).await.unwrap();
    for order in 0..40 {
        let ticket = ticket(&budget, order).await;
        let (seconds, micros): (u64, u64) = redis::cmd("TIME").query_async(&mut connection).await.unwrap();
        budget.answered(&ticket, None).await;
        let mut counted = redis::cmd("ZSCORE");
        counted.arg("{topup}:budget:spent:0").arg(&ticket.number);
        let until_ms: u64 = counted.query_async(&mut connection).await.unwrap();
        let answered_after = Duration::from_secs(seconds) + Duration::from_micros(micros);
        assert!(Duration::from_millis(until_ms) >= answered_after + minute, "order {order}");
    }
}

#[tokio::test]
async fn a_budget_whose_keys_redis_has_lost_begins_with_one_request() {
    let redis = TestRedis::start().await;
    let budget = budget(&redis, 1, Duration::from_mins(1)).await;
    let probe = ticket(&budget, 1).await;
    budget.answered(&probe, None).await;
    let mut connection = connect(&redis.url()).await.unwrap();
    redis::cmd("FLUSHALL").exec_async(&mut connection).await.unwrap();
    assert!(ticket(&budget, 2).await.probe);
    assert!(matches!(ask(&budget, 3).await, Permission::Wait(_)), "the others wait for its answer");
}

#[tokio::test]
async fn an_order_is_asked_for_although_the_clock_was_set_back_while_it_waited() {
    let redis = TestRedis::start().await;
    let budget = budget(&redis, 1, Duration::from_mins(1)).await;
    let mut connection = connect(&redis.url()).await.unwrap();
    let (now, _): (u64, u64) = redis::cmd("TIME").query_async(&mut connection).await.unwrap();
    let mut began = redis::cmd("HSET");
    began.arg("{topup}:budget:since").arg(format!("{:024x}", 1)).arg((now + 3_600) * 1000);
    began.exec_async(&mut connection).await.unwrap();
    assert_eq!(ticket(&budget, 1).await.waited, Duration::ZERO);
}

#[tokio::test]
async fn a_key_that_was_replaced_is_refused_to_its_own_worker_alone() {
    let redis = TestRedis::start().await;
    let old = budget_of(&redis, 1, Duration::from_mins(1), "old").await;
    let probe = ticket(&old, 1).await;
    old.answered(&probe, None).await;
    let last = ticket(&old, 1).await;
    // A worker with a new key has been started, and the old key is revoked.
    let new = budget_of(&redis, 1, Duration::from_mins(1), "new").await;
    assert!(old.answered(&last, Some(&refused())).await, "other workers have another key");
    assert!(matches!(ask(&old, 1).await, Permission::Wait(_)), "its orders are left to those");
    assert!(old.ask_for_page().await.is_err());
    let Permission::Ask(probe) = ask(&new, 1).await else { panic!("nobody may ask") };
    assert!(probe.probe);
    new.answered(&probe, Some(&refused())).await;
    assert!(matches!(ask(&new, 1).await, Permission::Closed(_)), "its own key is refused as ever");
}

#[tokio::test]
async fn what_is_known_of_a_key_reaches_a_redis_that_was_away() {
    let mut redis = TestRedis::start().await;
    let budget = budget(&redis, 1, Duration::from_mins(1)).await;
    let probe = ticket(&budget, 1).await;
    budget.answered(&probe, None).await;
    let last = ticket(&budget, 2).await;
    redis.kill().await;
    budget.doubt().await;
    redis.start_again().await;
    let probe = ticket(&budget, 3).await;
    assert!(probe.probe, "as if the worker had been started after it");
    budget.answered(&probe, None).await;

    redis.kill().await;
    let refusal = refused();
    let report = budget.answered(&last, Some(&refusal));
    let away = async {
        assert!(matches!(ask(&budget, 4).await, Permission::Closed(_)));
        redis.start_again().await;
    };
    tokio::join!(report, away);
    assert!(matches!(ask(&budget, 4).await, Permission::Closed(wait) if wait > Duration::from_secs(1)));
}
