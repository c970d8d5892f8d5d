//! `REDIS_URL` reaches every kind of Redis, and orders survive what is usual with each: a fail-over, a slot
//! that moves, a certificate of a private authority, a user with just the permissions it needs.

use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use topup_jobs::OrderStatus;
use topup_worker::simulator::{Script, SimulatorSettings};

use crate::crash::{SCALE, account, orders};
use crate::shutdown::get;
use crate::support::deployment::{Certificates, Cluster, Deployment, Pair, Watched, ask, sentinel};
use crate::support::redis::{TestRedis, free_port};
use crate::support::{Bed, Proxy, until};

const PAGE: &str = include_str!("../../docs/redis.md");

async fn bed<R: Deployment>(redis: R) -> Bed<R> {
    Bed::on(redis, SCALE, SimulatorSettings::default()).await
}

/// The user of docs/redis.md, with this password; without some of its decisions.
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
async fn over_tls_with_a_private_authority() {
    let certificates = Certificates::new();
    let port = free_port();
    let mut bed = bed(TestRedis::start_with(|_| certificates.arguments(port)).await).await;
    bed.set("REDIS_URL", format!("rediss://127.0.0.1:{port}"));
    bed.set("REDIS_CA_FILE", certificates.authority());
    let mut worker = bed.worker().await;
    let orders = orders(&bed);
    bed.enqueue(&orders).await;
    account(&bed, &orders).await;
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
        until("it says why", async || {
            worker.log().contains("invalid peer certificate: UnknownIssuer").then_some(())
        })
        .await;
        assert!(get(&address).await.contains("503"), "it is not ready");
        assert_eq!(worker.ended(), None);
        assert!(worker.stop().await.success());
    }
}

#[tokio::test]
async fn each_kind_works_over_tls() {
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
    let node: Vec<String> = ask(cluster.stranger(), &["CONFIG", "GET", "tls-port"]).await;
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
        bed.told(&order, "fulfilled").await;
        assert!(worker.stop().await.success());
        assert!(!worker.log().contains("does not answer"), "{}", worker.log());
    }
    let (keyspace, in_cluster): (String, usize) =
        (bed.redis(&["INFO", "keyspace"]).await, ask(cluster.owner(), &["EXISTS", "{topup}:events"]).await);
    assert!(keyspace.contains("db1:") && !keyspace.contains("db0:"), "{keyspace}");
    assert_eq!(in_cluster, 1);
}

#[tokio::test]
async fn a_fixed_address_that_leads_to_another_master_is_followed() {
    let pair = Pair::start().await;
    let proxy = Proxy::start(&pair.0[0].url(), Duration::ZERO).await;
    let mut bed = bed(pair).await;
    bed.set("REDIS_URL", proxy.url());
    let mut worker = bed.worker().await;
    let orders = orders(&bed);
    bed.enqueue(&orders).await;
    until("orders are polled", async || (bed.simulator.total_calls() > 100).then_some(())).await;
    // The old master stays, answers, and keeps its connections.
    proxy.lead_to(&bed.redis.0[1].url());
    ask::<()>(&bed.redis.0[0], &["FAILOVER"]).await;
    bed.redis.leads(1).await;
    account(&bed, &orders).await;
    assert_eq!(worker.ended(), None);
    assert!(worker.log().contains("(READONLY)"), "{}", worker.log());
    assert!(worker.log().contains("Redis answers again"), "{}", worker.log());
}

#[tokio::test]
async fn a_replica_that_lets_itself_be_read_makes_nobody_ready() {
    let mut bed = bed(Pair::start().await).await;
    let address = format!("127.0.0.1:{}", free_port());
    bed.set("HTTP_ADDR", &address);
    let worker = bed.worker().await;
    ask::<()>(&bed.redis.0[0], &["FAILOVER"]).await;
    bed.redis.leads(1).await;
    until("it is not ready", async || get(&address).await.contains("503").then_some(())).await;
    // An inbox with nothing in it can be read.
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
    bed.told(&order, "fulfilled").await;
    until("it is ready", async || get(&address).await.contains("200").then_some(())).await;
}

#[tokio::test]
async fn jobs_that_cannot_be_settled_are_not_claimed_without_end() {
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
    until("it holds all it may", async || (claimed().await == 4 + 256).then_some(())).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(claimed().await, 4 + 256, "{}", worker.log());
    add_user(&bed.redis, "secret", &[], &[]).await;
    bed.stored(&orders, OrderStatus::Fulfilled).await;
}

#[tokio::test]
async fn sentinels_lead_to_the_new_master_and_back() {
    let watched = Watched::start("topup:p%40ss%2Fword@").await;
    for server in &watched.pair.0 {
        add_user(server, "p@ss/word", &[], &["+role"]).await;
    }
    watched.is_master(0).await;
    watched.pair.follows(1).await;
    let mut bed = bed(watched).await;
    let mut workers = [bed.worker().await, bed.worker().await];
    let first = orders(&bed);
    bed.enqueue(&first).await;
    until("all orders are taken in", async || {
        let left: usize = bed.redis(&["XLEN", "{topup}:inbox"]).await;
        (left == 0 && bed.simulator.total_calls() > 100).then_some(())
    })
    .await;
    bed.redis.pair.0[0].kill().await;
    bed.redis.is_master(1).await;
    account(&bed, &first).await;

    // It comes back, as a replica; then it takes the master's part again, while the other lives.
    bed.redis.pair.0[0].start_again().await;
    add_user(&bed.redis.pair.0[0], "p@ss/word", &[], &["+role"]).await;
    bed.redis.pair.follows(0).await;
    bed.redis.fail_over().await;
    bed.redis.is_master(0).await;
    // For seconds the old master does as if it were the one still, and whatever it is told is lost.
    let second = orders(&bed);
    bed.enqueue(&second).await;
    account(&bed, &[first, second].concat()).await;
    for worker in &mut workers {
        assert_eq!(worker.ended(), None, "a worker ended: {}", worker.log());
        assert!(worker.log().contains("Redis answers again"), "{}", worker.log());
        assert!(!worker.log().contains("p@ss/word"), "{}", worker.log());
    }
}

#[tokio::test]
async fn sentinels_that_have_gone_silent_only_cost_the_time_to_ask_them() {
    let server = TestRedis::start().await;
    let answering = sentinel(server.port(), 1, &[]).await;
    // They take connections and say nothing. Asking them all takes longer than a report to Redis may.
    let silent: Vec<_> = (0..12).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let ports = silent.iter().map(|silent| silent.local_addr().unwrap().port()).chain([answering.port()]);
    let hosts: Vec<_> = ports.map(|port| format!("127.0.0.1:{port}")).collect();
    let mut bed = bed(server).await;
    bed.set("REDIS_URL", format!("redis+sentinel://{}/orders", hosts.join(",")));
    let mut worker = bed.worker().await;
    let order = bed.order(Script::fulfilled_after(Duration::ZERO));
    bed.enqueue([&order]).await;
    bed.told(&order, "fulfilled").await;
    assert!(worker.stop().await.success());
    assert!(!worker.log().contains("does not answer"), "{}", worker.log());
}

#[tokio::test]
async fn a_master_that_goes_on_as_if_it_were_the_one_is_left_at_a_word_of_the_sentinels() {
    let bed = bed(Watched::start_with_a_stubborn_master().await).await;
    let worker = bed.worker().await;
    let order = bed.order(Script::fulfilled_after(Duration::ZERO));
    bed.enqueue([&order]).await;
    bed.told(&order, "fulfilled").await;
    bed.redis.fail_over().await;
    bed.redis.is_master(1).await;
    // It answers whoever stays, and takes every write.
    let role: redis::Role = ask(&bed.redis.pair.0[0], &["ROLE"]).await;
    assert!(matches!(role, redis::Role::Primary { .. }), "{role:?}");
    let order = bed.order(Script::fulfilled_after(Duration::ZERO));
    let data = format!(r#"{{"topupId":"{order}"}}"#);
    let add = ["XADD", "{topup}:inbox", "*", "name", "poll-topup", "data", &data];
    ask::<()>(&bed.redis.pair.0[1], &add).await;
    bed.told(&order, "fulfilled").await;
    assert!(!worker.log().contains("READONLY"), "{}", worker.log());
}

#[tokio::test]
async fn a_slot_that_moves_is_followed() {
    let cluster = Cluster::start(Vec::new).await;
    let mut bed = bed(cluster).await;
    let mut workers = [bed.worker().await, bed.worker().await];
    let orders = orders(&bed);
    bed.enqueue(&orders).await;
    until("orders are polled", async || (bed.simulator.total_calls() > 100).then_some(())).await;
    bed.redis.begin_to_move().await;
    for worker in &workers {
        // Which of the two it is told first depends on which keys are where, and it says so once.
        let told = async || {
            let log = worker.log();
            (log.contains("(ASK)") || log.contains("(TRYAGAIN)")).then_some(())
        };
        until("it says what happens", told).await;
    }
    bed.redis.finish_to_move().await;
    account(&bed, &orders).await;
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
    account(&bed, &orders).await;
    assert!(worker.stop().await.success());
    for word in ["NOPERM", "permission", "p@ss", "p%40ss"] {
        assert!(!worker.log().contains(word), "{}", worker.log());
    }
}

#[tokio::test]
async fn a_missing_permission_is_named_and_can_be_given() {
    let mut bed = bed(TestRedis::start().await).await;
    let address = format!("127.0.0.1:{}", free_port());
    bed.set("HTTP_ADDR", &address);
    bed.set("REDIS_URL", format!("redis://topup:secret@127.0.0.1:{}", bed.redis.port()));
    let order = bed.order(Script::fulfilled_after(Duration::ZERO));
    let mut worker = bed.starting_worker();
    let says = async |words: &str| until(words, async || worker.log().contains(words).then_some(())).await;
    says("the user or the password in REDIS_URL is refused").await;
    add_user(&bed.redis, "secret", &["+client|tracking", "+lpop"], &[]).await;
    worker.ready().await;
    says("NOPERM: the user in REDIS_URL lacks a permission: this user has no permissions to run the 'client")
        .await;
    says("NOPERM: the user in REDIS_URL lacks a permission: The user executing the script can't run this")
        .await;
    until("it is not ready", async || get(&address).await.contains("503").then_some(())).await;
    add_user(&bed.redis, "secret", &[], &[]).await;
    bed.enqueue([&order]).await;
    bed.told(&order, "fulfilled").await;
    until("it is ready", async || get(&address).await.contains("200").then_some(())).await;
    assert_eq!(worker.ended(), None);
    assert!(!worker.log().contains("secret"), "{}", worker.log());
}

#[test]
fn an_address_of_no_known_form_ends_with_words() {
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
