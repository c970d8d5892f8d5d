//! `REDIS_URL` reaches every kind of Redis, and no order is lost in a failover, while a slot moves, with a
//! certificate of a private authority, or with a Redis user that has just the documented permissions.

use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use topup_jobs::OrderStatus;
use topup_worker::simulator::{Script, SimulatorSettings};

use crate::crash::{SCALE, assert_settled, orders};
use crate::shutdown::get;
use crate::support::deployment::{Certificates, Cluster, Deployment, Pair, Sentinels, ask, sentinel};
use crate::support::redis::{TestRedis, free_port};
use crate::support::{Bed, Proxy, until};

const PAGE: &str = include_str!("../../docs/redis.md");

async fn bed<R: Deployment>(redis: R) -> Bed<R> {
    Bed::on(redis, SCALE, SimulatorSettings::default()).await
}

/// The command of docs/redis.md that creates the Redis user, with this password and without some words.
fn documented_user(password: &str, without: &[&str]) -> Vec<String> {
    let line = PAGE.lines().find(|line| line.starts_with("ACL SETUSER topup ")).unwrap();
    let words = line.split(' ').filter(|word| !without.contains(word));
    words.map(|word| if word.starts_with('>') { format!(">{password}") } else { word.to_owned() }).collect()
}

async fn add_user(server: &TestRedis, password: &str, without: &[&str], more: &[&str]) {
    let mut user = documented_user(password, without);
    user.extend(more.iter().map(|word| (*word).to_owned()));
    ask::<()>(server, &user.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

#[tokio::test]
async fn orders_end_over_tls_with_a_private_authority() {
    let certificates = Certificates::new();
    let port = free_port();
    let mut bed = bed(TestRedis::start_with(|_| certificates.arguments(port)).await).await;
    bed.set("REDIS_URL", format!("rediss://127.0.0.1:{port}"));
    bed.set("REDIS_CA_FILE", certificates.authority());
    let mut worker = bed.worker().await;
    let orders = orders(&bed);
    bed.enqueue(&orders).await;
    assert_settled(&bed, &orders).await;
    assert!(worker.stop().await.success());
    assert!(!worker.log().contains("does not answer"), "{}", worker.log());
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused() {
    let certificates = Certificates::new();
    let port = free_port();
    let mut bed = bed(TestRedis::start_with(|_| certificates.arguments(port)).await).await;
    let address = format!("127.0.0.1:{}", free_port());
    bed.set("HTTP_ADDR", &address);
    bed.set("REDIS_URL", format!("rediss://127.0.0.1:{port}"));
    for authority in [certificates.other_authority(), String::new()] {
        bed.set("REDIS_CA_FILE", authority);
        let mut worker = bed.starting_worker();
        until("the reason is logged", async || {
            worker.log().contains("invalid peer certificate: UnknownIssuer").then_some(())
        })
        .await;
        assert!(get(&address).await.contains("503"), "the worker is not ready");
        assert_eq!(worker.ended(), None);
        assert!(worker.stop().await.success());
    }
}

#[tokio::test]
async fn sentinels_and_cluster_work_over_tls() {
    let certificates = Certificates::new();
    let (port, ports) = (free_port(), [free_port(), free_port(), free_port()]);
    let server = TestRedis::start_with(|_| certificates.arguments(port)).await;
    let mut more = certificates.arguments(ports[0]);
    more.extend(["--tls-replication".to_owned(), "yes".to_owned()]);
    let _sentinel = sentinel(port, 1, &more).await;
    let cluster = Cluster::start(|| {
        let mut more = certificates.arguments(free_port());
        more.extend(["--tls-cluster".to_owned(), "yes".to_owned()]);
        more
    })
    .await;
    let node: Vec<String> = ask(cluster.other_node(), &["CONFIG", "GET", "tls-port"]).await;
    let mut bed = bed(server).await;
    bed.set("REDIS_CA_FILE", certificates.authority());
    for url in [
        format!("rediss+sentinel://127.0.0.1:{}/orders/1", ports[0]),
        format!("rediss+cluster://127.0.0.1:{}", node[1]),
    ] {
        bed.set("REDIS_URL", &url);
        let mut worker = bed.worker().await;
        let order = bed.order(Script::fulfilled_after(Duration::ZERO));
        let enqueued = bed.program(&["enqueue", &order]);
        assert!(enqueued.status.success(), "{}", String::from_utf8_lossy(&enqueued.stderr));
        bed.delivered(&order, "fulfilled").await;
        assert!(worker.stop().await.success());
        assert!(!worker.log().contains("does not answer"), "{}", worker.log());
    }
    let (keyspace, in_cluster): (String, usize) =
        (bed.redis(&["INFO", "keyspace"]).await, ask(cluster.owner(), &["EXISTS", "{topup}:events"]).await);
    assert!(keyspace.contains("db1:") && !keyspace.contains("db0:"), "{keyspace}");
    assert_eq!(in_cluster, 1);
}

#[tokio::test]
async fn a_worker_follows_a_fixed_address_to_the_new_master() {
    let pair = Pair::start().await;
    let proxy = Proxy::start(&pair.0[0].url(), Duration::ZERO).await;
    let mut bed = bed(pair).await;
    bed.set("REDIS_URL", proxy.url());
    let mut worker = bed.worker().await;
    let orders = orders(&bed);
    bed.enqueue(&orders).await;
    until("orders are polled", async || (bed.simulator.total_calls() > 100).then_some(())).await;
    // The old master still answers and keeps its connections.
    proxy.forward_to(&bed.redis.0[1].url());
    ask::<()>(&bed.redis.0[0], &["FAILOVER"]).await;
    bed.redis.leads(1).await;
    assert_settled(&bed, &orders).await;
    assert_eq!(worker.ended(), None);
    assert!(worker.log().contains("(READONLY)"), "{}", worker.log());
    assert!(worker.log().contains("Redis answers again"), "{}", worker.log());
}

#[tokio::test]
async fn a_worker_on_a_readable_replica_is_not_ready() {
    let mut bed = bed(Pair::start().await).await;
    let address = format!("127.0.0.1:{}", free_port());
    bed.set("HTTP_ADDR", &address);
    let worker = bed.worker().await;
    ask::<()>(&bed.redis.0[0], &["FAILOVER"]).await;
    bed.redis.leads(1).await;
    until("the worker is not ready", async || get(&address).await.contains("503").then_some(())).await;
    // A replica serves the reads of an empty inbox, so a read alone must not make the worker ready.
    for _ in 0..120 {
        assert!(get(&address).await.contains("503"), "{}", worker.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(!worker.log().contains("answers again"), "{}", worker.log());
    bed.redis.follows(0).await;
    ask::<()>(&bed.redis.0[1], &["FAILOVER"]).await;
    bed.redis.leads(0).await;
    let order = bed.order(Script::fulfilled_after(Duration::ZERO));
    bed.enqueue([&order]).await;
    bed.delivered(&order, "fulfilled").await;
    until("the worker is ready", async || get(&address).await.contains("200").then_some(())).await;
}

#[tokio::test]
async fn a_worker_that_cannot_settle_jobs_stops_claiming_at_its_limit() {
    let mut bed = bed(TestRedis::start().await).await;
    bed.set("CONCURRENCY", "4");
    bed.set("REDIS_URL", format!("redis://topup:secret@127.0.0.1:{}", bed.redis.port()));
    add_user(&bed.redis, "secret", &[], &[]).await;
    let worker = bed.worker().await;
    add_user(&bed.redis, "secret", &["+get"], &["-get"]).await;
    let orders: Vec<String> = (0..600).map(|_| bed.order(Script::fulfilled_after(Duration::ZERO))).collect();
    bed.enqueue(&orders).await;
    let claimed = async || {
        let keys: Vec<String> = bed.redis(&["KEYS", "{topup}:poll-topup:inflight:*"]).await;
        match keys.first() {
            Some(key) => bed.redis::<usize>(&["SCARD", key]).await,
            None => 0,
        }
    };
    until("260 jobs are claimed", async || (claimed().await == 4 + 256).then_some(())).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(claimed().await, 4 + 256, "{}", worker.log());
    add_user(&bed.redis, "secret", &[], &[]).await;
    bed.stored(&orders, OrderStatus::Fulfilled).await;
}

#[tokio::test]
async fn workers_move_with_the_sentinels_to_the_new_master_and_back() {
    let sentinels = Sentinels::start("topup:p%40ss%2Fword@").await;
    for server in &sentinels.pair.0 {
        add_user(server, "p@ss/word", &[], &["+role"]).await;
    }
    sentinels.is_master(0).await;
    sentinels.pair.follows(1).await;
    let mut bed = bed(sentinels).await;
    let mut workers = [bed.worker().await, bed.worker().await];
    let first = orders(&bed);
    bed.enqueue(&first).await;
    until("all orders are enqueued", async || {
        let remaining: usize = bed.redis(&["XLEN", "{topup}:inbox"]).await;
        (remaining == 0 && bed.simulator.total_calls() > 100).then_some(())
    })
    .await;
    bed.redis.pair.0[0].kill().await;
    bed.redis.is_master(1).await;
    assert_settled(&bed, &first).await;

    // The old master returns as a replica, and then becomes the master again while the other one lives.
    bed.redis.pair.0[0].start_again().await;
    add_user(&bed.redis.pair.0[0], "p@ss/word", &[], &["+role"]).await;
    bed.redis.pair.follows(0).await;
    bed.redis.fail_over().await;
    bed.redis.is_master(0).await;
    // For seconds the old master still accepts writes, and these are lost.
    let second = orders(&bed);
    bed.enqueue(&second).await;
    assert_settled(&bed, &[first, second].concat()).await;
    for worker in &mut workers {
        assert_eq!(worker.ended(), None, "a worker ended: {}", worker.log());
        assert!(worker.log().contains("Redis answers again"), "{}", worker.log());
        assert!(!worker.log().contains("p@ss/word"), "{}", worker.log());
    }
}

#[tokio::test]
async fn a_worker_passes_over_unresponsive_sentinels() {
    let server = TestRedis::start().await;
    let answering = sentinel(server.port(), 1, &[]).await;
    // They accept connections but do not answer. Asking them all takes longer than a heartbeat may.
    let silent: Vec<_> = (0..12).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let ports = silent.iter().map(|silent| silent.local_addr().unwrap().port()).chain([answering.port()]);
    let hosts: Vec<_> = ports.map(|port| format!("127.0.0.1:{port}")).collect();
    let mut bed = bed(server).await;
    bed.set("REDIS_URL", format!("redis+sentinel://{}/orders", hosts.join(",")));
    let mut worker = bed.worker().await;
    let order = bed.order(Script::fulfilled_after(Duration::ZERO));
    bed.enqueue([&order]).await;
    bed.delivered(&order, "fulfilled").await;
    assert!(worker.stop().await.success());
    assert!(!worker.log().contains("does not answer"), "{}", worker.log());
}

#[tokio::test]
async fn sentinels_move_a_worker_off_an_old_master_that_still_accepts_writes() {
    let bed = bed(Sentinels::start_with_undemotable_master().await).await;
    let worker = bed.worker().await;
    let order = bed.order(Script::fulfilled_after(Duration::ZERO));
    bed.enqueue([&order]).await;
    bed.delivered(&order, "fulfilled").await;
    bed.redis.fail_over().await;
    bed.redis.is_master(1).await;
    // The old master still answers and accepts every write.
    let role: redis::Role = ask(&bed.redis.pair.0[0], &["ROLE"]).await;
    assert!(matches!(role, redis::Role::Primary { .. }), "{role:?}");
    let order = bed.order(Script::fulfilled_after(Duration::ZERO));
    let data = format!(r#"{{"topupId":"{order}"}}"#);
    let add = ["XADD", "{topup}:inbox", "*", "name", "poll-topup", "data", &data];
    ask::<()>(&bed.redis.pair.0[1], &add).await;
    bed.delivered(&order, "fulfilled").await;
    assert!(!worker.log().contains("READONLY"), "{}", worker.log());
}

#[tokio::test]
async fn a_worker_follows_a_slot_that_moves() {
    let cluster = Cluster::start(Vec::new).await;
    let mut bed = bed(cluster).await;
    let mut workers = [bed.worker().await, bed.worker().await];
    let orders = orders(&bed);
    bed.enqueue(&orders).await;
    until("orders are polled", async || (bed.simulator.total_calls() > 100).then_some(())).await;
    bed.redis.begin_slot_migration().await;
    for worker in &workers {
        // Which error comes first depends on which keys have moved. The worker logs only one of them.
        let logged = async || {
            let log = worker.log();
            (log.contains("(ASK)") || log.contains("(TRYAGAIN)")).then_some(())
        };
        until("the redirection is logged", logged).await;
    }
    bed.redis.finish_slot_migration().await;
    assert_settled(&bed, &orders).await;
    for worker in &mut workers {
        assert_eq!(worker.ended(), None, "a worker ended: {}", worker.log());
        assert!(worker.log().contains("Redis answers again"), "{}", worker.log());
    }
}

#[tokio::test]
async fn a_user_with_the_documented_permissions_suffices() {
    let mut bed = bed(TestRedis::start().await).await;
    add_user(&bed.redis, "p@ss/word", &[], &[]).await;
    bed.set("REDIS_URL", format!("redis://topup:p%40ss%2Fword@127.0.0.1:{}", bed.redis.port()));
    let mut worker = bed.worker().await;
    let orders = orders(&bed);
    bed.enqueue(&orders).await;
    assert_settled(&bed, &orders).await;
    assert!(worker.stop().await.success());
    for word in ["NOPERM", "permission", "p@ss", "p%40ss"] {
        assert!(!worker.log().contains(word), "{}", worker.log());
    }
}

/// A replica may be set up to accept writes. Its master does not get them, and has workers of its own.
#[tokio::test]
async fn a_replica_that_accepts_writes_is_not_used() {
    let mut bed = bed(TestRedis::start().await).await;
    let master = TestRedis::start().await;
    let address = bed.serve_http();
    let readyz = async |words: &str| {
        until(words, async || get(&address).await.contains(words).then_some(())).await;
    };
    let mut worker = bed.worker().await;
    readyz("200 OK").await;
    let _: String = bed.redis(&["CONFIG", "SET", "replica-read-only", "no"]).await;
    let _: String = bed.redis(&["REPLICAOF", "127.0.0.1", &master.port().to_string()]).await;
    readyz("not ready: Redis does not answer").await;
    let words = "the server is a replica now (READONLY); REDIS_URL must lead to its master";
    worker.logs(words).await;
    let order = bed.order(Script::fulfilled_after(Duration::ZERO));
    bed.enqueue([&order]).await;
    assert!(worker.stop().await.success());

    let mut started = bed.starting_worker();
    started.logs(words).await;
    assert_eq!(bed.simulator.total_calls(), 1, "the check of the API key at the start");
    let _: String = bed.redis(&["REPLICAOF", "NO", "ONE"]).await;
    started.ready().await;
    readyz("200 OK").await;
    let order = bed.order(Script::fulfilled_after(Duration::ZERO));
    bed.enqueue([&order]).await;
    bed.delivered(&order, "fulfilled").await;
    assert!(started.stop().await.success());
}

#[tokio::test]
async fn a_missing_permission_is_logged_and_can_be_granted() {
    let mut bed = bed(TestRedis::start().await).await;
    let address = format!("127.0.0.1:{}", free_port());
    bed.set("HTTP_ADDR", &address);
    bed.set("REDIS_URL", format!("redis://topup:secret@127.0.0.1:{}", bed.redis.port()));
    let order = bed.order(Script::fulfilled_after(Duration::ZERO));
    let mut worker = bed.starting_worker();
    let logs = async |words: &str| until(words, async || worker.log().contains(words).then_some(())).await;
    logs("the user or the password in REDIS_URL is refused").await;
    add_user(&bed.redis, "secret", &["+client|tracking", "+lpop", "+subscribe"], &[]).await;
    worker.ready().await;
    logs("Redis does not permit this worker to subscribe to news of new jobs; jobs start up to 3 s late")
        .await;
    logs("NOPERM: the user in REDIS_URL lacks a permission: this user has no permissions to run the 'client")
        .await;
    logs("NOPERM: the user in REDIS_URL lacks a permission: The user executing the script can't run this")
        .await;
    until("the worker is not ready", async || get(&address).await.contains("503").then_some(())).await;
    add_user(&bed.redis, "secret", &[], &[]).await;
    bed.enqueue([&order]).await;
    bed.delivered(&order, "fulfilled").await;
    until("the worker is ready", async || get(&address).await.contains("200").then_some(())).await;
    assert_eq!(worker.ended(), None);
    assert!(!worker.log().contains("secret"), "{}", worker.log());
}

#[test]
fn an_invalid_redis_url_is_refused_without_showing_its_password() {
    for url in ["hunter2", "redis+sentinel://:hunter2@127.0.0.1", "redis+cluster://:hunter2@127.0.0.1/3"] {
        let mut enqueue = Command::new(crate::support::PROGRAM);
        let output =
            enqueue.args(["enqueue", "6901616fe9e88196b4eb64b2"]).env("REDIS_URL", url).output().unwrap();
        let words = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{words}");
        assert!(words.contains("REDIS_URL cannot be used") && words.contains("redis+cluster://["), "{words}");
        assert!(!words.contains("hunter2"), "{words}");
    }
}
