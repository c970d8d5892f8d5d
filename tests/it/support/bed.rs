//! Test bed for one test: a Redis, the simulator, a webhook receiver, a folder, and the workers that the test starts.

use std::process::{Command, Output};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use tempfile::TempDir;
use tokio::net::TcpListener;
use topup_jobs::{OrderStatus, TopupId};
use topup_worker::orders::{self, CardCipher, Order, OrderStore, SqlStore};
use topup_worker::provider::KeyFingerprint;
use topup_worker::simulator::{Script, Simulator, SimulatorSettings, serve};

use super::deployment::Deployment;
use super::redis::{TestRedis, free_port};
use super::sink::{Received, SECRET, Sink};
use super::worker::{PROGRAM, Worker};
use super::{connect_to, until};

/// Encryption key of the card codes in every test.
pub(crate) const ENCRYPTION_KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
/// A customer. Tests check that none of these values appears in logs and other places where it must not.
const CUSTOMER: &str =
    r#"{"name":"Zohra Benkaddour","email":"zohra.bk@example.dz","phone":"0661998877","locale":"ar"}"#;

/// Test bed of one test.
pub(crate) struct Bed<R = TestRedis> {
    pub(crate) redis: R,
    pub(crate) simulator: Simulator,
    pub(crate) sink: Sink,
    settings: Vec<(&'static str, String)>,
    folder: TempDir,
    workers: AtomicUsize,
}

impl Bed {
    /// A bed with its own Redis, on which an hour of an order takes 3600 / `scale` seconds.
    pub(crate) async fn new(scale: f64) -> Self {
        Self::on(TestRedis::start().await, scale, SimulatorSettings::default()).await
    }
}

impl<R: Deployment> Bed<R> {
    /// A bed on this Redis, with these settings of the simulator.
    pub(crate) async fn on(redis: R, scale: f64, settings: SimulatorSettings) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let simulator = Simulator::new(settings, scale);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let api = format!("http://{}", listener.local_addr().expect("it is bound"));
        tokio::spawn(serve(listener, simulator.clone(), std::future::pending()));
        let sink = Sink::default();
        let database = folder.path().join("orders.db");
        let settings = vec![
            ("REDIS_URL", redis.url()),
            ("DATABASE_URL", format!("sqlite://{}", database.display())),
            ("ENCRYPTION_KEY", ENCRYPTION_KEY.to_owned()),
            ("ONECLICKDZ_API_URL", api),
            ("ONECLICKDZ_API_KEY", "sandbox-key".to_owned()),
            ("WEBHOOK_URL", sink.listen().await),
            ("WEBHOOK_SECRET", SECRET.to_owned()),
            ("ALLOW_INSECURE_WEBHOOKS", "true".to_owned()),
            ("HTTP_ADDR", "127.0.0.1:0".to_owned()),
            // The rate limit has tests of its own; the other tests must not wait for permits.
            ("ONECLICKDZ_RATE_LIMIT", "1000000".to_owned()),
            ("ONECLICKDZ_MAX_IN_FLIGHT", "10000".to_owned()),
            ("TIME_SCALE", scale.to_string()),
            ("RUST_LOG", "info".to_owned()),
        ];
        Self { redis, simulator, sink, settings, folder, workers: AtomicUsize::new(0) }
    }

    /// Changes a setting of the workers that start from now on.
    pub(crate) fn set(&mut self, name: &'static str, value: impl Into<String>) {
        self.settings.retain(|(known, _)| *known != name);
        self.settings.push((name, value.into()));
    }

    /// Sets a free address at which the next worker serves `/readyz` and `/metrics`. Returns the address.
    pub(crate) fn serve_http(&mut self) -> String {
        let address = format!("127.0.0.1:{}", free_port());
        self.set("HTTP_ADDR", address.as_str());
        address
    }

    /// URL of the provider (the simulator).
    pub(crate) fn api_url(&self) -> String {
        let url = self.settings.iter().find(|(name, _)| *name == "ONECLICKDZ_API_URL");
        url.expect("it is set").1.clone()
    }

    /// Redis key `name` of the rate limit for the API key of the workers.
    pub(crate) fn budget_key(&self, name: &str) -> String {
        let (_, key) =
            self.settings.iter().find(|(known, _)| *known == "ONECLICKDZ_API_KEY").expect("it is set");
        let fingerprint = KeyFingerprint::new(&key.as_str().into());
        format!("{{topup}}:budget:{name}:{}", fingerprint.as_str())
    }

    /// Settings of the workers that start from now on.
    pub(crate) fn settings(&self) -> &[(&'static str, String)] {
        &self.settings
    }

    /// Starts a worker and waits until it is ready.
    pub(crate) async fn worker(&self) -> Worker {
        let worker = self.starting_worker();
        worker.ready().await;
        worker
    }

    /// Starts a worker without waiting until it is ready.
    pub(crate) fn starting_worker(&self) -> Worker {
        let number = self.workers.fetch_add(1, Ordering::Relaxed);
        Worker::start(&self.settings, &self.folder.path().join(format!("worker-{number}.log")))
    }

    /// Runs a command of the program with the settings of the bed.
    pub(crate) fn program(&self, args: &[&str]) -> Output {
        let settings = self.settings.iter().map(|(name, value)| (*name, value));
        Command::new(PROGRAM).args(args).envs(settings).output().expect("the program runs")
    }

    /// As [`program`](Self::program), for commands that send requests to the simulator or the receiver of this test.
    pub(crate) async fn program_async(&self, args: &[&str]) -> Output {
        let settings = self.settings.iter().map(|(name, value)| (*name, value));
        let mut command = tokio::process::Command::new(PROGRAM);
        command.args(args).envs(settings).kill_on_drop(true).output().await.expect("the program runs")
    }

    /// The output of `topup-worker order`.
    pub(crate) fn shown(&self, topup_id: &str) -> String {
        String::from_utf8_lossy(&self.program(&["order", topup_id]).stdout).into_owned()
    }

    /// Opens a connection to Redis for the test.
    pub(crate) async fn connection(&self) -> MultiplexedConnection {
        until("Redis answers", async || connect_to(&self.redis.client().await?).await.ok()).await
    }

    /// Creates an order in the simulator and returns its id.
    pub(crate) fn order(&self, script: Script) -> String {
        self.simulator.create(script)
    }

    /// Adds orders to the inbox as a producer does, with one XADD each.
    pub(crate) async fn enqueue<'a>(&self, topup_ids: impl IntoIterator<Item = &'a String>) {
        let mut pipe = redis::pipe();
        for topup_id in topup_ids {
            let data =
                format!(r#"{{"topupId":"{topup_id}","customer":{CUSTOMER},"metadata":{{"cart":"c-1"}}}}"#);
            pipe.cmd("XADD")
                .arg("{topup}:inbox")
                .arg("*")
                .arg("name")
                .arg("poll-topup")
                .arg("data")
                .arg(data);
        }
        let mut connection = self.connection().await;
        pipe.exec_async(&mut connection).await.expect("the messages are added");
    }

    /// Adds one raw message to the inbox.
    pub(crate) async fn message(&self, fields: &[(&[u8], &[u8])]) {
        let mut add = redis::cmd("XADD");
        add.arg("{topup}:inbox").arg("*");
        for (name, value) in fields {
            add.arg(*name).arg(*value);
        }
        let mut connection = self.connection().await;
        add.exec_async(&mut connection).await.expect("the message is added");
    }

    /// Sends one command to Redis.
    pub(crate) async fn redis<T: redis::FromRedisValue>(&self, command: &[&str]) -> T {
        let mut connection = self.connection().await;
        let mut call = redis::cmd(command[0]);
        call.arg(&command[1..]);
        call.query_async(&mut connection).await.expect("Redis answers")
    }

    /// Opens the order store of the workers.
    pub(crate) async fn store(&self) -> SqlStore {
        let cipher = CardCipher::new(&ENCRYPTION_KEY.into()).expect("a key");
        let url = &self.settings.iter().find(|(name, _)| *name == "DATABASE_URL").expect("it is set").1;
        orders::open(url, cipher).await.expect("the store opens")
    }

    /// The encrypted card code of an order in the database.
    pub(crate) async fn sealed_card(&self, topup_id: &str) -> String {
        let database = format!("sqlite://{}", self.folder.path().join("orders.db").display());
        let pool = sqlx::SqlitePool::connect(&database).await.expect("the database opens");
        let sealed = sqlx::query_scalar("SELECT card_code FROM internet_orders WHERE topup_id = ?");
        sealed.bind(topup_id).fetch_one(&pool).await.expect("a card is stored")
    }

    /// Executes a statement on the database; its parameter is the id of the order.
    pub(crate) async fn database(&self, statement: &'static str, topup_id: &str) {
        let database = format!("sqlite://{}", self.folder.path().join("orders.db").display());
        let pool = sqlx::SqlitePool::connect(&database).await.expect("the database opens");
        sqlx::query(statement).bind(topup_id).execute(&pool).await.expect("the statement succeeds");
    }

    /// Whether no process holds the write lock of the database.
    pub(crate) async fn database_is_free(&self) -> bool {
        use sqlx::Connection;
        let options = sqlx::sqlite::SqliteConnectOptions::new()
            .filename(self.folder.path().join("orders.db"))
            .busy_timeout(Duration::from_millis(100));
        let mut connection =
            sqlx::SqliteConnection::connect_with(&options).await.expect("the database opens");
        let free = sqlx::query("BEGIN IMMEDIATE").execute(&mut connection).await.is_ok();
        drop(connection.close().await);
        free
    }

    /// Waits until every order has this status in the store, and returns them.
    pub(crate) async fn stored(&self, topup_ids: &[String], status: OrderStatus) -> Vec<Order> {
        let store = self.store().await;
        let mut orders = Vec::new();
        for topup_id in topup_ids {
            let id: TopupId = topup_id.parse().expect("an id");
            let what = format!("{topup_id} is {status}");
            let order = until(&what, async || {
                let order = store.order(&id).await.ok().flatten()?;
                (order.tracking.status == status).then_some(order)
            });
            orders.push(order.await);
        }
        orders
    }

    /// Waits until the receiver has received this event, and returns the first delivery of it.
    pub(crate) async fn delivered(&self, topup_id: &str, outcome: &str) -> Received {
        let id = format!("evt_{topup_id}_{outcome}");
        until(&format!("{id} is delivered"), async || {
            self.sink.received().into_iter().find(|received| received.id() == id)
        })
        .await
    }

    /// Waits until the inbox is empty and the queues hold only dead letters.
    pub(crate) async fn idle(&self) {
        until("the inbox and the queues are empty", async || {
            let mut pending: usize = self.redis(&["XLEN", "{topup}:inbox"]).await;
            for job in topup_jobs::JobName::ALL {
                let (data, dead) = (format!("{{topup}}:{job}:data"), format!("{{topup}}:{job}:dead"));
                let (all, dead): (usize, usize) =
                    (self.redis(&["HLEN", &data]).await, self.redis(&["SCARD", &dead]).await);
                pending += all - dead.min(all);
            }
            (pending == 0).then_some(())
        })
        .await;
    }
}
