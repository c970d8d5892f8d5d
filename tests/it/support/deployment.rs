//! The kinds of Redis deployments, each made of private servers: a single server, one with TLS, a master with a replica
//! and Sentinels, and a cluster.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use redis::{Client, FromRedisValue, RedisResult};
use tempfile::TempDir;

use super::redis::{TestRedis, free_port};
use super::{connect, until};

/// Password of the Sentinels.
pub(crate) const SENTINEL_PASSWORD: &str = "w/tch+er";
const MASTER_NAME: &str = "orders";
const SLOTS: u16 = 16_384;

/// A Redis deployment that a test can reach.
pub(crate) trait Deployment {
    /// The value of `REDIS_URL`.
    fn url(&self) -> String;

    /// A client of the server that has the keys now, if one answers.
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

/// Sends one command to this server, which must accept it. It is sent once, as many commands cannot be repeated.
pub(crate) async fn ask<T: FromRedisValue>(server: &TestRedis, command: &[&str]) -> T {
    let url = server.url();
    let mut connection = until("the server accepts a connection", async || connect(&url).await.ok()).await;
    let answer = redis::cmd(command[0]).arg(&command[1..]).query_async(&mut connection).await;
    answer.unwrap_or_else(|error| panic!("{}: {error}", command[0]))
}

/// Role of a server, if it answers. A server that changes its role closes its connections.
async fn role(server: &TestRedis) -> Option<redis::Role> {
    redis::cmd("ROLE").query_async(&mut connect(&server.url()).await.ok()?).await.ok()
}

/// A server certificate, the authority that signed it, and another authority.
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

    /// Path of the authority that signed the certificate of the server.
    pub(crate) fn authority(&self) -> String {
        self.path("ca.pem")
    }

    /// Path of the other authority.
    pub(crate) fn other_authority(&self) -> String {
        self.path("other-ca.pem")
    }

    /// Arguments with which a server also listens on this port, over TLS.
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

/// A master and its replica; the first server begins as the master.
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
        until("the server becomes the master", async || {
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
            // The short default timeout: if one server does not answer, the other may be the master.
            let Ok(mut connection) = client.get_multiplexed_async_connection().await else { continue };
            let role = redis::cmd("ROLE").query_async(&mut connection).await;
            if matches!(role, Ok(redis::Role::Primary { .. })) {
                return Some(client);
            }
        }
        None
    }
}

/// A master, its replica, and three Sentinels that require a password.
pub(crate) struct Sentinels {
    pub(crate) pair: Pair,
    servers: Vec<TestRedis>,
    login: &'static str,
}

impl Sentinels {
    /// The first server is the master. `login` is the `user:password@` of the workers, or empty.
    pub(crate) async fn start(login: &'static str) -> Self {
        Self::by_sentinels(Pair::start().await, login).await
    }

    /// As [`start`](Self::start), with a master that Sentinels cannot turn into a replica.
    pub(crate) async fn start_with_undemotable_master() -> Self {
        let no_replicaof = ["--rename-command", "SLAVEOF", ""].map(str::to_owned);
        Self::by_sentinels(Pair::of(TestRedis::start_with(|_| no_replicaof.to_vec()).await).await, "").await
    }

    async fn by_sentinels(pair: Pair, login: &'static str) -> Self {
        let mut sentinels = Vec::new();
        for _ in 0..3 {
            sentinels.push(sentinel(pair.0[0].port(), 2, &[]).await);
        }
        let deployment = Self { pair, servers: sentinels, login };
        for sentinel in &deployment.servers {
            until("the Sentinels know each other and the replica", async || {
                let known: Vec<redis::Value> = ask(sentinel, &["SENTINEL", "SENTINELS", MASTER_NAME]).await;
                let replicas: Vec<redis::Value> = ask(sentinel, &["SENTINEL", "REPLICAS", MASTER_NAME]).await;
                (known.len() == 2 && replicas.len() == 1).then_some(())
            })
            .await;
        }
        for sentinel in &deployment.servers {
            ask::<()>(sentinel, &["SENTINEL", "CONFIG", "SET", "sentinel-pass", SENTINEL_PASSWORD]).await;
        }
        for sentinel in &deployment.servers {
            let password = format!(">{SENTINEL_PASSWORD}");
            ask::<()>(sentinel, &["ACL", "SETUSER", "default", "resetpass", &password]).await;
        }
        deployment
    }

    /// Waits until all Sentinels name this server as the master and it has that role.
    pub(crate) async fn is_master(&self, server: usize) {
        let port = self.pair.0[server].port().to_string();
        for sentinel in &self.servers {
            until("the Sentinels name the new master", async || {
                let name = &["SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER_NAME];
                let (_, named): (String, String) = ask_sentinel(sentinel, name).await.ok()?;
                (named == port).then_some(())
            })
            .await;
        }
        self.pair.leads(server).await;
    }

    /// Starts a failover to the replica while both servers run.
    pub(crate) async fn fail_over(&self) {
        until("the Sentinels agree to fail over", async || {
            match ask_sentinel::<()>(&self.servers[0], &["SENTINEL", "FAILOVER", MASTER_NAME]).await {
                Ok(()) => Some(()),
                // The Sentinel knows no good replica yet and has done nothing.
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

/// Starts a Sentinel for the master at this port, with these further arguments.
pub(crate) async fn sentinel(master: u16, quorum: u8, more_arguments: &[String]) -> TestRedis {
    TestRedis::start_with(|folder: &Path| {
        let file: PathBuf = folder.join("sentinel.conf");
        let settings = format!(
            "sentinel monitor {MASTER_NAME} 127.0.0.1 {master} {quorum}\n\
             sentinel down-after-milliseconds {MASTER_NAME} 1000\n\
             sentinel failover-timeout {MASTER_NAME} 6000\n"
        );
        fs::write(&file, settings).expect("the file is written");
        let mut arguments = vec![file.display().to_string(), "--sentinel".to_owned()];
        arguments.extend_from_slice(more_arguments);
        arguments
    })
    .await
}

impl Deployment for Sentinels {
    fn url(&self) -> String {
        let hosts: Vec<_> = self.servers.iter().map(|one| format!("127.0.0.1:{}", one.port())).collect();
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
    /// Index of the node that has the slot of our keys, and that slot.
    owner: usize,
    slot: String,
}

impl Cluster {
    /// Starts the nodes. `more_arguments` is called once for each node.
    pub(crate) async fn start(more_arguments: impl Fn() -> Vec<String>) -> Self {
        let mut nodes = Vec::new();
        for _ in 0..3 {
            let arguments = |_: &Path| {
                let bus = free_port().to_string();
                let own =
                    ["--cluster-enabled", "yes", "--cluster-node-timeout", "15000", "--cluster-port", &bus];
                own.map(str::to_owned).into_iter().chain(more_arguments()).collect()
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

    /// A node that does not have the slot of our keys.
    pub(crate) fn other_node(&self) -> &TestRedis {
        &self.nodes[(self.owner + 1) % 3]
    }

    /// The node that has the slot of our keys.
    pub(crate) fn owner(&self) -> &TestRedis {
        &self.nodes[self.owner]
    }

    /// Begins to migrate our slot to the third node: two keys are moved, the rest is not.
    pub(crate) async fn begin_slot_migration(&self) {
        let (from, to) = (self.owner(), &self.nodes[(self.owner + 2) % 3]);
        let id_from: String = ask(from, &["CLUSTER", "MYID"]).await;
        let id_to: String = ask(to, &["CLUSTER", "MYID"]).await;
        ask::<()>(to, &["CLUSTER", "SETSLOT", &self.slot, "IMPORTING", &id_from]).await;
        ask::<()>(from, &["CLUSTER", "SETSLOT", &self.slot, "MIGRATING", &id_to]).await;
        self.migrate("2").await;
    }

    /// Moves the remaining keys and sets the new owner of the slot on all nodes.
    pub(crate) async fn finish_slot_migration(&mut self) {
        while self.migrate("100").await {}
        let to = (self.owner + 2) % 3;
        let id: String = ask(&self.nodes[to], &["CLUSTER", "MYID"]).await;
        for node in [to, self.owner, (self.owner + 1) % 3] {
            ask::<()>(&self.nodes[node], &["CLUSTER", "SETSLOT", &self.slot, "NODE", &id]).await;
        }
        self.owner = to;
    }

    /// Moves at most `limit` keys. Returns whether there were any.
    async fn migrate(&self, limit: &str) -> bool {
        let from = self.owner();
        let to = self.nodes[(self.owner + 2) % 3].port().to_string();
        let keys: Vec<String> = ask(from, &["CLUSTER", "GETKEYSINSLOT", &self.slot, limit]).await;
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
        format!("redis+cluster://127.0.0.1:{}", self.other_node().port())
    }

    async fn client(&self) -> Option<Client> {
        Client::open(self.owner().url()).ok()
    }
}
