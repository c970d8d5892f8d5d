//! The kinds of Redis that people deploy, each made of private servers: one server, one that is reached over
//! TLS, a master with a replica and Sentinels, and a cluster.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use redis::{Client, FromRedisValue, RedisResult};
use tempfile::TempDir;

use super::redis::{TestRedis, free_port};
use super::{connect, until};

/// What the Sentinels are logged in at with, and know their master as.
pub(crate) const SENTINEL_PASSWORD: &str = "w/tch+er";
const MASTER_NAME: &str = "orders";
const SLOTS: u16 = 16_384;

/// A Redis of some kind, as the tests reach it.
pub(crate) trait Deployment {
    /// What `REDIS_URL` is.
    fn url(&self) -> String;

    /// A client of the server that has the keys now, if there is one.
    async fn client(&self) -> Option<Client>;
}

impl Deployment for TestRedis {
    fn url(&self) -> String {
        self.url()
    }

    async fn client(&self) -> Option<Client> {
        Client::open(self.url()).ok()
    }
}

/// One command to this server, which must take it. It is sent once: many of them cannot be repeated.
pub(crate) async fn ask<T: FromRedisValue>(server: &TestRedis, command: &[&str]) -> T {
    let url = server.url();
    let mut connection = until("the server is reached", async || connect(&url).await.ok()).await;
    let answer = redis::cmd(command[0]).arg(&command[1..]).query_async(&mut connection).await;
    answer.unwrap_or_else(|error| panic!("{}: {error}", command[0]))
}

/// The part of a server, where it says so: whoever changes it hangs up on everybody.
async fn role(server: &TestRedis) -> Option<redis::Role> {
    redis::cmd("ROLE").query_async(&mut connect(&server.url()).await.ok()?).await.ok()
}

/// Certificates of a server and of two authorities, of which one has signed the server's.
pub(crate) struct Certificates {
    folder: TempDir,
}

impl Certificates {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let authority = authority("topup test authority");
        let key = KeyPair::generate().expect("a key");
        let server = CertificateParams::new(["127.0.0.1".to_owned(), "localhost".to_owned()]);
        let server = server.and_then(|server| server.signed_by(&key, &authority)).expect("a certificate");
        for (name, pem) in [
            ("ca.pem", authority.pem()),
            ("other-ca.pem", self::authority("another authority").pem()),
            ("server.pem", server.pem()),
            ("server.key", key.serialize_pem()),
        ] {
            fs::write(folder.path().join(name), pem).expect("the file is written");
        }
        Self { folder }
    }

    /// The authority that signed the server's certificate.
    pub(crate) fn authority(&self) -> String {
        self.path("ca.pem")
    }

    /// Another authority.
    pub(crate) fn other_authority(&self) -> String {
        self.path("other-ca.pem")
    }

    /// Has a server listen on this port too, over TLS.
    pub(crate) fn arguments(&self, port: u16) -> Vec<String> {
        let arguments = [
            ("--tls-port", port.to_string()),
            ("--tls-cert-file", self.path("server.pem")),
            ("--tls-key-file", self.path("server.key")),
            ("--tls-ca-cert-file", self.path("ca.pem")),
            ("--tls-auth-clients", "no".to_owned()),
        ];
        arguments.into_iter().flat_map(|(name, value)| [name.to_owned(), value]).collect()
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }
}

fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a certificate")
}

/// A master and its replica; the first is the master at first.
pub(crate) struct Pair(pub(crate) [TestRedis; 2]);

impl Pair {
    pub(crate) async fn start() -> Self {
        Self::of(TestRedis::start().await).await
    }

    async fn of(master: TestRedis) -> Self {
        let of_master = ["--replicaof".to_owned(), "127.0.0.1".to_owned(), master.port().to_string()];
        let replica = TestRedis::start_with(|_| of_master.to_vec()).await;
        let pair = Self([master, replica]);
        pair.follows(1).await;
        pair
    }

    /// Waits until this server follows the other.
    pub(crate) async fn follows(&self, server: usize) {
        until("the replica follows the master", async || match role(&self.0[server]).await? {
            redis::Role::Replica { replication_state, .. } => {
                (replication_state == "connected").then_some(())
            }
            _ => None,
        })
        .await;
    }

    /// Waits until this server is the master.
    pub(crate) async fn leads(&self, server: usize) {
        until("it takes the master's part", async || {
            matches!(role(&self.0[server]).await?, redis::Role::Primary { .. }).then_some(())
        })
        .await;
    }
}

impl Deployment for Pair {
    fn url(&self) -> String {
        self.0[0].url()
    }

    async fn client(&self) -> Option<Client> {
        for server in &self.0 {
            let client = Client::open(server.url()).ok()?;
            // Without patience: where one does not answer, the other may be the master.
            let Ok(mut connection) = client.get_multiplexed_async_connection().await else { continue };
            let role = redis::cmd("ROLE").query_async(&mut connection).await;
            if matches!(role, Ok(redis::Role::Primary { .. })) {
                return Some(client);
            }
        }
        None
    }
}

/// A master, its replica, and three Sentinels that want a password.
pub(crate) struct Watched {
    pub(crate) pair: Pair,
    sentinels: Vec<TestRedis>,
    login: &'static str,
}

impl Watched {
    /// The first server is the master. Workers log in as `user:password@`, or not at all.
    pub(crate) async fn start(login: &'static str) -> Self {
        Self::by_sentinels(Pair::start().await, login).await
    }

    /// The same, with a master that cannot be told that it is none any more.
    pub(crate) async fn start_with_a_stubborn_master() -> Self {
        let deaf = ["--rename-command", "SLAVEOF", ""].map(str::to_owned);
        Self::by_sentinels(Pair::of(TestRedis::start_with(|_| deaf.to_vec()).await).await, "").await
    }

    async fn by_sentinels(pair: Pair, login: &'static str) -> Self {
        let mut sentinels = Vec::new();
        for _ in 0..3 {
            sentinels.push(sentinel(pair.0[0].port(), 2, &[]).await);
        }
        let watched = Self { pair, sentinels, login };
        for sentinel in &watched.sentinels {
            until("the Sentinels know each other and the replica", async || {
                let known: Vec<redis::Value> = ask(sentinel, &["SENTINEL", "SENTINELS", MASTER_NAME]).await;
                let replicas: Vec<redis::Value> = ask(sentinel, &["SENTINEL", "REPLICAS", MASTER_NAME]).await;
                (known.len() == 2 && replicas.len() == 1).then_some(())
            })
            .await;
        }
        for sentinel in &watched.sentinels {
            ask::<()>(sentinel, &["SENTINEL", "CONFIG", "SET", "sentinel-pass", SENTINEL_PASSWORD]).await;
        }
        for sentinel in &watched.sentinels {
            let password = format!(">{SENTINEL_PASSWORD}");
            ask::<()>(sentinel, &["ACL", "SETUSER", "default", "resetpass", &password]).await;
        }
        watched
    }

    /// Waits until this server is the master, for all Sentinels and for itself.
    pub(crate) async fn is_master(&self, server: usize) {
        let port = self.pair.0[server].port().to_string();
        for sentinel in &self.sentinels {
            until("the Sentinels name the new master", async || {
                let name = &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER_NAME];
                let (_, named): (String, String) = ask_sentinel(sentinel, name).await.ok()?;
                (named == port).then_some(())
            })
            .await;
        }
        self.pair.leads(server).await;
    }

    /// Has the replica take the master's part while both live.
    pub(crate) async fn fail_over(&self) {
        until("the Sentinels agree to fail over", async || {
            match ask_sentinel::<()>(&self.sentinels[0], &["SENTINEL", "FAILOVER", MASTER_NAME]).await {
                Ok(()) => Some(()),
                // It knows of no replica in a good state yet, and has done nothing.
                Err(error) if error.code() == Some("NOGOODSLAVE") => None,
                Err(error) => panic!("the Sentinel does not fail over: {error}"),
            }
        })
        .await;
    }
}

async fn ask_sentinel<T: FromRedisValue>(sentinel: &TestRedis, command: &[&str]) -> RedisResult<T> {
    let mut connection = connect(&sentinel.url()).await?;
    redis::cmd("AUTH").arg(SENTINEL_PASSWORD).exec_async(&mut connection).await?;
    redis::cmd(command[0]).arg(&command[1..]).query_async(&mut connection).await
}

/// A Sentinel of the master at this port, with more settings of its own.
pub(crate) async fn sentinel(master: u16, quorum: u8, more: &[String]) -> TestRedis {
    TestRedis::start_with(|folder: &Path| {
        let file: PathBuf = folder.join("sentinel.conf");
        let settings = format!(
            "sentinel monitor {MASTER_NAME} 127.0.0.1 {master} {quorum}\n\
             sentinel down-after-milliseconds {MASTER_NAME} 1000\n\
             sentinel failover-timeout {MASTER_NAME} 6000\n"
        );
        fs::write(&file, settings).expect("the file is written");
        let mut arguments = vec![file.display().to_string(), "--sentinel".to_owned()];
        arguments.extend_from_slice(more);
        arguments
    })
    .await
}

impl Deployment for Watched {
    fn url(&self) -> String {
        let hosts: Vec<_> = self.sentinels.iter().map(|one| format!("127.0.0.1:{}", one.port())).collect();
        let login = self.login;
        format!(
            "redis+sentinel://{login}{}/{MASTER_NAME}?sentinel_password={SENTINEL_PASSWORD}",
            hosts.join(",")
        )
    }

    async fn client(&self) -> Option<Client> {
        self.pair.client().await
    }
}

/// Three masters that share the slots.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<TestRedis>,
    /// The node that has our slot, and that slot.
    owner: usize,
    slot: String,
}

impl Cluster {
    /// Nodes with these further arguments, each made anew for a node.
    pub(crate) async fn start(more: impl Fn() -> Vec<String>) -> Self {
        let mut nodes = Vec::new();
        for _ in 0..3 {
            let arguments = |_: &Path| {
                let bus = free_port().to_string();
                let own =
                    ["--cluster-enabled", "yes", "--cluster-node-timeout", "15000", "--cluster-port", &bus];
                own.map(str::to_owned).into_iter().chain(more()).collect()
            };
            nodes.push(TestRedis::start_with(arguments).await);
        }
        let slot: u16 = ask(&nodes[0], &["CLUSTER", "KEYSLOT", "{topup}"]).await;
        let third = SLOTS / 3 + 1;
        for (n, node) in (0..).zip(&nodes) {
            let (first, last) = ((n * third).to_string(), ((n + 1) * third - 1).min(SLOTS - 1).to_string());
            ask::<()>(node, &["CLUSTER", "ADDSLOTSRANGE", &first, &last]).await;
            ask::<()>(node, &["CLUSTER", "SET-CONFIG-EPOCH", &(n + 1).to_string()]).await;
        }
        for node in &nodes[1..] {
            let bus: Vec<String> = ask(node, &["CONFIG", "GET", "cluster-port"]).await;
            ask::<()>(&nodes[0], &["CLUSTER", "MEET", "127.0.0.1", &node.port().to_string(), &bus[1]]).await;
        }
        for node in &nodes {
            until("the nodes know all slots", async || {
                let info: String = ask(node, &["CLUSTER", "INFO"]).await;
                let whole = info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3");
                whole.then_some(())
            })
            .await;
        }
        Self { nodes, owner: usize::from(slot / third), slot: slot.to_string() }
    }

    /// A node that does not have our slot.
    pub(crate) fn stranger(&self) -> &TestRedis {
        &self.nodes[(self.owner + 1) % 3]
    }

    /// The node that has it.
    pub(crate) fn owner(&self) -> &TestRedis {
        &self.nodes[self.owner]
    }

    /// Begins to move our slot to the next node but one: a few keys are there, most are not.
    pub(crate) async fn begin_to_move(&self) {
        let (from, to) = (self.owner(), &self.nodes[(self.owner + 2) % 3]);
        let id_from: String = ask(from, &["CLUSTER", "MYID"]).await;
        let id_to: String = ask(to, &["CLUSTER", "MYID"]).await;
        ask::<()>(to, &["CLUSTER", "SETSLOT", &self.slot, "IMPORTING", &id_from]).await;
        ask::<()>(from, &["CLUSTER", "SETSLOT", &self.slot, "MIGRATING", &id_to]).await;
        self.migrate("2").await;
    }

    /// Moves the rest, and tells everybody.
    pub(crate) async fn finish_to_move(&mut self) {
        while self.migrate("100").await {}
        let to = (self.owner + 2) % 3;
        let id: String = ask(&self.nodes[to], &["CLUSTER", "MYID"]).await;
        for node in [to, self.owner, (self.owner + 1) % 3] {
            ask::<()>(&self.nodes[node], &["CLUSTER", "SETSLOT", &self.slot, "NODE", &id]).await;
        }
        self.owner = to;
    }

    /// Moves some keys; says whether there were any.
    async fn migrate(&self, most: &str) -> bool {
        let from = self.owner();
        let to = self.nodes[(self.owner + 2) % 3].port().to_string();
        let keys: Vec<String> = ask(from, &["CLUSTER", "GETKEYSINSLOT", &self.slot, most]).await;
        let mut migrate = vec!["MIGRATE", "127.0.0.1", &to, "", "0", "5000", "KEYS"];
        migrate.extend(keys.iter().map(String::as_str));
        if !keys.is_empty() {
            ask::<()>(from, &migrate).await;
        }
        !keys.is_empty()
    }
}

impl Deployment for Cluster {
    fn url(&self) -> String {
        format!("redis+cluster://127.0.0.1:{}", self.stranger().port())
    }

    async fn client(&self) -> Option<Client> {
        Client::open(self.owner().url()).ok()
    }
}
