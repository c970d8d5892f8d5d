//! `/readyz` while Redis or the database cannot be used.

use std::time::Duration;

use super::databases::deliver;
use super::{execute, on_postgres, setting};
use crate::shutdown::get_from;
use crate::slow_store::{Lock, database_url};
use crate::support::{Bed, Proxy, until};

pub(super) async fn readyz(address: &str, words: &str) {
    let condition = format!("/readyz reports {words}");
    until(&condition, async || get_from(address, "/readyz").await.contains(words).then_some(())).await;
}

#[tokio::test]
async fn a_worker_whose_inbox_key_has_another_type_is_not_ready() {
    let mut bed = Bed::new(600.0).await;
    let address = bed.serve_http();
    let worker = bed.worker().await;
    bed.redis::<()>(&["SET", "{topup}:inbox", "of another program"]).await;
    readyz(&address, "not ready: Redis refuses commands").await;
    worker.logs("a key of this service holds a value of another type (WRONGTYPE)").await;
    bed.redis::<()>(&["DEL", "{topup}:inbox"]).await;
    readyz(&address, "200 OK").await;
}

#[tokio::test]
async fn a_worker_on_a_redis_that_may_lose_orders_warns_and_is_ready() {
    let mut bed = Bed::new(600.0).await;
    for (setting, value) in
        [("appendonly", "no"), ("maxmemory", "100mb"), ("maxmemory-policy", "allkeys-lru")]
    {
        let _: String = bed.redis(&["CONFIG", "SET", setting, value]).await;
    }
    let address = bed.serve_http();
    let worker = bed.worker().await;
    readyz(&address, "200 OK").await;
    for words in [
        "check=\"redis-persistence\" found=\"`appendonly no`: orders are gone when Redis restarts\"",
        "check=\"redis-eviction\" found=\"maxmemory-policy allkeys-lru: Redis deletes orders when memory runs short\"",
    ] {
        worker.logs(words).await;
    }
    let metrics = get_from(&address, "/metrics").await;
    for (check, failed) in [("redis-persistence", 1), ("redis-eviction", 1), ("redis-role", 0)] {
        let line = format!("topup_redis_check_failed{{check=\"{check}\"}} {failed}");
        assert!(metrics.contains(&line), "{line} in {metrics}");
    }
    assert_eq!(worker.log().matches("Redis failed a check of its set-up").count(), 2, "{}", worker.log());
}

#[tokio::test]
async fn a_worker_that_cannot_write_its_database_is_not_ready() {
    let mut bed = Bed::new(600.0).await;
    let address = bed.serve_http();
    let _worker = bed.worker().await;
    readyz(&address, "200 OK").await;
    let lock = Lock::take(&database_url(&bed));
    readyz(&address, "not ready: the database does not answer").await;
    drop(lock);
    readyz(&address, "200 OK").await;
}

#[tokio::test]
async fn a_worker_that_starts_with_a_locked_database_waits_until_it_is_unlocked() {
    let mut bed = Bed::new(600.0).await;
    drop(bed.store().await);
    let lock = Lock::take(&database_url(&bed));
    let address = bed.serve_http();
    let worker = bed.starting_worker();
    readyz(&address, "not ready: the database does not answer").await;
    worker.logs("the database does not answer; orders wait until it can be used again").await;
    drop(lock);
    worker.ready().await;
    readyz(&address, "200 OK").await;
}

/// Has the workers use their PostgreSQL through a proxy. Returns the proxy, the server's address for
/// `Proxy::forward_to` and the database URL without the proxy.
async fn through_proxy(bed: &mut Bed) -> (Proxy, String, String) {
    let url = setting(bed, "DATABASE_URL").to_owned();
    let (user, rest) = url.split_once('@').unwrap();
    let (server, database) = rest.split_once('/').unwrap();
    let server = format!("redis://{server}");
    let proxy = Proxy::start(&server, Duration::ZERO).await;
    let through = proxy.url().replace("redis://", "");
    bed.set("DATABASE_URL", format!("{user}@{through}/{database}"));
    (proxy, server, url)
}

#[tokio::test]
async fn a_worker_without_its_database_leaves_the_jobs_to_workers_that_have_it() {
    let Some((mut bed, _postgres)) = on_postgres(600.0).await else { return };
    let (proxy, server, url) = through_proxy(&mut bed).await;
    let address = bed.serve_http();
    let without = bed.worker().await;
    bed.set("DATABASE_URL", url);
    bed.serve_http();
    let other = bed.worker().await;
    proxy.forward_to("redis://127.0.0.1:1");
    proxy.cut();
    readyz(&address, "not ready: the database does not answer").await;
    let failures = without.log().matches("the store failed").count();
    deliver(&bed, 60).await;
    assert_eq!(without.log().matches("the store failed").count(), failures, "{}", without.log());
    // Alone, the worker continues as soon as its database answers again.
    drop(other);
    proxy.forward_to(&server);
    deliver(&bed, 5).await;
    readyz(&address, "200 OK").await;
}

#[tokio::test]
async fn a_worker_without_its_database_is_not_ready_and_recovers_by_itself() {
    let Some((mut bed, _postgres)) = on_postgres(600.0).await else { return };
    let (proxy, server, _) = through_proxy(&mut bed).await;
    let address = bed.serve_http();
    let mut worker = bed.worker().await;
    readyz(&address, "200 OK").await;
    proxy.forward_to("redis://127.0.0.1:1");
    proxy.cut();
    readyz(&address, "not ready: the database does not answer").await;
    proxy.forward_to(&server);
    readyz(&address, "200 OK").await;
    worker.logs("the database answers again").await;
    let log = worker.log();
    for said_once in ["the database does not answer", "the database answers again"] {
        assert_eq!(log.matches(said_once).count(), 1, "{log}");
    }
    assert!(worker.stop().await.success());
}

#[tokio::test]
async fn a_worker_without_a_table_or_a_grant_is_not_ready_until_it_is_restored() {
    let Some((mut bed, _postgres)) = on_postgres(600.0).await else { return };
    assert!(bed.program(&["migrate"]).status.success());
    let admin = setting(&bed, "DATABASE_URL").to_owned();
    for statement in [
        "CREATE ROLE worker LOGIN",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO worker",
    ] {
        execute(&bed, statement).await;
    }
    bed.set("DATABASE_URL", admin.replacen("//topup@", "//worker@", 1));
    let address = bed.serve_http();
    let _worker = bed.worker().await;
    readyz(&address, "200 OK").await;
    bed.set("DATABASE_URL", admin);
    for (breaks, repairs, words) in [
        (
            "ALTER TABLE notifications RENAME TO gone",
            "ALTER TABLE gone RENAME TO notifications",
            "not ready: the tables of the database are missing",
        ),
        (
            "REVOKE UPDATE ON internet_orders FROM worker",
            "GRANT UPDATE ON internet_orders TO worker",
            "not ready: the database does not let this role read or change its tables",
        ),
        (
            "REVOKE INSERT ON order_events FROM worker",
            "GRANT INSERT ON order_events TO worker",
            "not ready: the database does not let this role read or change its tables",
        ),
        (
            "REVOKE ALL ON reveals FROM worker",
            "GRANT SELECT, INSERT, UPDATE, DELETE ON reveals TO worker",
            "not ready: the database does not let this role read or change its tables",
        ),
    ] {
        execute(&bed, breaks).await;
        readyz(&address, words).await;
        execute(&bed, repairs).await;
        readyz(&address, "200 OK").await;
    }
}
