//! A real Redis for one test, which the test may kill, freeze and bring back.
//!
//! A private `redis-server` process is the norm: it is ready in some ten milliseconds, so that every test has one
//! to itself and none needs a namespace or a clean-up. [`TestRedis::container`] runs the same thing in a
//! container, for the tests that want the image people deploy; it is slower, and absent where no Docker daemon
//! answers. Both keep their data as production should: append-only file, synced at every write, no eviction.
//!
//! Three settings from the environment: `REDIS_SERVER` is the binary (`redis-server` from `PATH`),
//! `TOPUP_TEST_REDIS_IMAGE` the image (`redis:7`), and `TOPUP_TEST_REQUIRE_CONTAINER=1` turns a missing
//! container from a printed line into a failure.
//!
//! Nothing here waits a fixed time: it asks the server until it answers, or until a deadline fails the test.

use std::env;
use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use tempfile::TempDir;
use testcontainers::bollard::Docker;
use testcontainers::core::IntoContainerPort as _;
use testcontainers::core::client::docker_client_instance;
use testcontainers::runners::AsyncRunner as _;
use testcontainers::{ContainerAsync, GenericImage, ImageExt as _};
use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep, timeout};

use super::leave_out;

/// How long a server may take to answer after it was started, on a machine that is busy compiling.
const READY_WITHIN: Duration = Duration::from_secs(20);
/// How long fetching the image may take before the container counts as unavailable.
const PULLED_WITHIN: Duration = Duration::from_secs(90);
/// How long one question to the server may take; a frozen server accepts a connection and says nothing.
const ANSWER_WITHIN: Duration = Duration::from_millis(250);
/// The pause between two questions.
const ASK_EVERY: Duration = Duration::from_millis(10);
/// How often another port is tried when someone was faster to take the chosen one.
const PORTS_TRIED: usize = 5;
/// The port inside a container.
const CONTAINER_PORT: u16 = 6379;

/// What every server is started with, apart from where it listens and keeps its data.
const DURABLE: [&str; 8] =
    ["--appendonly", "yes", "--appendfsync", "always", "--save", "", "--maxmemory-policy", "noeviction"];

/// One Redis of a test's own. Dropping it ends the server and removes its data.
pub(crate) struct TestRedis {
    port: u16,
    server: Server,
}

enum Server {
    Process(PrivateServer),
    Container { container: Box<ContainerAsync<GenericImage>>, docker: Docker },
}

impl TestRedis {
    /// Starts a private `redis-server` on a free port of the loopback interface.
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| Vec::new()).await
    }

    /// Starts a private `redis-server` with these arguments of its own, made for the folder of its data. They
    /// come first, so that one may be the name of a file of settings.
    pub(crate) async fn start_with(arguments: impl Fn(&Path) -> Vec<String>) -> Self {
        Self::start_server(|server| server.arguments = arguments(server.dir.path())).await
    }

    /// Starts a private `redis-server` with these variables in its environment.
    pub(crate) async fn start_in(environment: &[(&'static str, String)]) -> Self {
        Self::start_server(|server| {
            let owned = |(name, value): &(&str, String)| ((*name).to_owned(), value.clone());
            server.environment = environment.iter().map(owned).collect();
        })
        .await
    }

    /// Starts a private `redis-server` of which the test sets the clock, by this libfaketime.
    pub(crate) async fn start_with_clock(library: &str) -> Self {
        Self::start_server(|server| {
            let clock = server.clock();
            fs::write(&clock, "+0").expect("the clock is set");
            let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
            server.environment = vec![
                // The allocator of many a Redis asks for the time before libfaketime is set up; this one does not.
                set("LD_PRELOAD", &format!("libc_malloc_debug.so.0:{library}")),
                set("FAKETIME_TIMESTAMP_FILE", &clock.display().to_string()),
                set("FAKETIME_NO_CACHE", "1"),
                set("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ];
        })
        .await
    }

    /// Sets the clock of a server of [`start_with_clock`](Self::start_with_clock): so far ahead of the machine's.
    pub(crate) fn set_clock(&self, ahead_seconds: i64) {
        let Server::Process(server) = &self.server else { panic!("a container has no clock of its own") };
        let (clock, new) = (server.clock(), server.dir.path().join("clock.new"));
        fs::write(&new, format!("{ahead_seconds:+}")).expect("the new time is written");
        fs::rename(new, clock).expect("the clock is set");
    }

    async fn start_server(change: impl Fn(&mut PrivateServer)) -> Self {
        let mut last = String::new();
        for _ in 0..PORTS_TRIED {
            let port = free_port();
            let mut server = PrivateServer::new(port);
            change(&mut server);
            match server.spawn_ready().await {
                Ok(()) => return Self { port, server: Server::Process(server) },
                Err(reason) => last = reason,
            }
        }
        panic!("no private redis-server could be started: {last}");
    }

    /// Starts a Redis container, or returns `None` with a printed line where that is impossible. With
    /// `TOPUP_TEST_REQUIRE_CONTAINER=1` the impossible fails the test instead.
    pub(crate) async fn container() -> Option<Self> {
        match Self::start_container().await {
            Ok(redis) => Some(redis),
            Err(reason) => {
                leave_out("a Redis container", &reason, "TOPUP_TEST_REQUIRE_CONTAINER");
                None
            }
        }
    }

    async fn start_container() -> Result<Self, String> {
        let docker = container_engine().await?;
        let (name, tag) = image();
        let mut last = String::new();
        for _ in 0..PORTS_TRIED {
            let port = free_port();
            let arguments = ["redis-server", "--dir", "/data", "--protected-mode", "no"];
            let request = GenericImage::new(name.clone(), tag.clone())
                .with_cmd(arguments.into_iter().chain(DURABLE))
                // A port of our choice, since one of Docker's choice changes when the container is started again.
                .with_mapped_port(port, CONTAINER_PORT.tcp())
                .with_host_config_modifier(|host| {
                    let published = host.port_bindings.iter_mut().flat_map(|ports| ports.values_mut());
                    for binding in published.flatten().flatten() {
                        binding.host_ip = Some(Ipv4Addr::LOCALHOST.to_string());
                    }
                });
            let started = match request.start().await {
                Ok(container) => {
                    let (container, docker) = (Box::new(container), docker.clone());
                    ready(port, None).await.map(|()| Server::Container { container, docker })
                }
                Err(error) => Err(error.to_string()),
            };
            match started {
                Ok(server) => return Ok(Self { port, server }),
                Err(reason) => last = reason,
            }
        }
        Err(format!("{name}:{tag} does not start: {last}"))
    }

    /// Where the server listens, in the form `REDIS_URL` takes. The same for its whole life, kills included.
    pub(crate) fn url(&self) -> String {
        url(self.port)
    }

    /// The port of it.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Whether the server runs in a container.
    pub(crate) fn is_container(&self) -> bool {
        matches!(self.server, Server::Container { .. })
    }

    /// Ends the server as a power cut would: SIGKILL, no last save, no goodbye to its clients.
    pub(crate) async fn kill(&mut self) {
        match &mut self.server {
            Server::Process(server) => server.kill(),
            Server::Container { container, docker } => {
                if let Err(error) = docker.kill_container(container.id(), None).await {
                    panic!("the Redis container cannot be killed: {error}");
                }
                // Docker reports the kill before the container is down, and starting one that is up does nothing.
                let deadline = Instant::now() + READY_WITHIN;
                while container.is_running().await.expect("Docker says whether the container runs") {
                    assert!(Instant::now() < deadline, "the killed Redis container still runs");
                    sleep(ASK_EVERY).await;
                }
            }
        }
    }

    /// Starts the server again after [`kill`](Self::kill): same address, same data. Returns once it answers.
    pub(crate) async fn start_again(&mut self) {
        let answered = match &mut self.server {
            Server::Process(server) => server.spawn_ready().await,
            Server::Container { container, .. } => match container.start().await {
                Ok(()) => ready(self.port, None).await,
                Err(error) => Err(error.to_string()),
            },
        };
        if let Err(reason) = answered {
            panic!("the killed Redis does not start again: {reason}");
        }
    }

    /// Freezes the server: connections stay open and nothing is answered. Returns once that is so.
    pub(crate) async fn pause(&mut self) {
        match &mut self.server {
            Server::Process(server) => server.signal("-STOP"),
            Server::Container { container, .. } => {
                container.pause().await.expect("the container can be paused");
            }
        }
        let deadline = Instant::now() + READY_WITHIN;
        while answers(self.port).await.is_ok() {
            assert!(Instant::now() < deadline, "the paused Redis still answers");
        }
    }

    /// Ends [`pause`](Self::pause). Returns once the server answers.
    pub(crate) async fn resume(&mut self) {
        match &mut self.server {
            Server::Process(server) => server.signal("-CONT"),
            Server::Container { container, .. } => {
                container.unpause().await.expect("the container can be resumed");
            }
        }
        if let Err(reason) = ready(self.port, None).await {
            panic!("the resumed Redis does not answer: {reason}");
        }
    }
}

/// A `redis-server` process with a data directory of its own.
struct PrivateServer {
    port: u16,
    /// Held for its `Drop`, which comes after this type's own: the server is gone when its directory goes.
    dir: TempDir,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    /// `None` while killed.
    process: Option<Child>,
}

impl PrivateServer {
    fn new(port: u16) -> Self {
        let dir = tempfile::Builder::new().prefix("topup-redis-").tempdir().expect("a temporary directory");
        Self { port, dir, arguments: Vec::new(), environment: Vec::new(), process: None }
    }

    /// File by which its clock is set, where that is to be.
    fn clock(&self) -> PathBuf {
        self.dir.path().join("clock")
    }

    /// Starts the process on the port and directory it was given, and waits until it answers.
    async fn spawn_ready(&mut self) -> Result<(), String> {
        let binary = env::var("REDIS_SERVER").unwrap_or_else(|_| "redis-server".to_owned());
        let log = self.dir.path().join("redis.log");
        self.kill();
        let process = Command::new(&binary)
            .args(&self.arguments)
            .envs(self.environment.iter().cloned())
            .args(["--bind", "127.0.0.1", "--port", &self.port.to_string()])
            .arg("--dir")
            .arg(self.dir.path())
            .arg("--logfile")
            .arg(&log)
            .args(DURABLE)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("{binary} (from REDIS_SERVER or PATH): {error}"))?;
        let process = self.process.insert(process);
        ready(self.port, Some(process)).await.map_err(|reason| {
            self.kill();
            format!("{reason}\n{}", fs::read_to_string(&log).unwrap_or_default())
        })
    }

    /// Ends the process, if there is one, and reaps it.
    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            // Either fails only for a process that ended by itself, and that is what is wanted.
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    fn signal(&self, signal: &str) {
        let process = self.process.as_ref().expect("only a running Redis takes a signal");
        // The shell's own kill: small systems have no program of that name.
        let kill = format!("kill {signal} {}", process.id());
        let status = Command::new("sh").args(["-c", &kill]).status();
        assert!(status.is_ok_and(|status| status.success()), "kill {signal} failed");
    }
}

impl Drop for PrivateServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The daemon with the image at hand, or why there is none. Found out once per process, as a pull may take long.
async fn container_engine() -> Result<&'static Docker, String> {
    static ENGINE: OnceCell<Result<Docker, String>> = OnceCell::const_new();
    let found = ENGINE.get_or_init(|| async {
        let docker = docker_client_instance().await.map_err(|error| format!("no Docker: {error}"))?;
        docker.ping().await.map_err(|error| format!("no Docker daemon answers: {error}"))?;
        let (name, tag) = image();
        if docker.inspect_image(&format!("{name}:{tag}")).await.is_err() {
            match timeout(PULLED_WITHIN, GenericImage::new(&name, &tag).pull_image()).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(format!("{name}:{tag} is not here: {error}")),
                Err(_) => return Err(format!("{name}:{tag} is not here, and pulling it takes too long")),
            }
        }
        Ok(docker)
    });
    found.await.as_ref().map_err(Clone::clone)
}

/// Name and tag of the image containers are made from.
fn image() -> (String, String) {
    let image = env::var("TOPUP_TEST_REDIS_IMAGE").unwrap_or_else(|_| "redis:7".to_owned());
    match image.rsplit_once(':') {
        // A colon before the last slash belongs to a registry's port.
        Some((name, tag)) if !tag.contains('/') => (name.to_owned(), tag.to_owned()),
        _ => (image, "latest".to_owned()),
    }
}

/// A port nobody listens on, below the range from which systems serve outgoing connections: those could otherwise
/// take it while the server is down. Nor does another test: the UDP port of the same number, which nobody needs, is
/// held for as long as this process lives.
pub(crate) fn free_port() -> u16 {
    static HELD: Mutex<Vec<UdpSocket>> = Mutex::new(Vec::new());
    loop {
        let random = RandomState::new().hash_one(()) % 12_000;
        let port = 20_000 + u16::try_from(random).expect("12,000 fits");
        if let Ok(held) = UdpSocket::bind((Ipv4Addr::LOCALHOST, port))
            && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
        {
            HELD.lock().expect("nobody panics with it").push(held);
            return port;
        }
    }
}

fn url(port: u16) -> String {
    format!("redis://127.0.0.1:{port}")
}

/// Waits until the server on `port` answers; where its process is given, until *that* process does, since another
/// test's server may have been faster to take the port.
async fn ready(port: u16, mut process: Option<&mut Child>) -> Result<(), String> {
    let deadline = Instant::now() + READY_WITHIN;
    loop {
        let asked = answers(port).await;
        match (&asked, &mut process) {
            (Ok(_), None) => return Ok(()),
            (Ok(answerer), Some(process)) if *answerer == process.id() => return Ok(()),
            (_, Some(process)) => {
                if let Ok(Some(status)) = process.try_wait() {
                    return Err(format!("redis-server ended while starting, {status}"));
                }
            }
            (Err(_), None) => {}
        }
        if Instant::now() >= deadline {
            let last = asked.err().unwrap_or_else(|| "another server answers there".to_owned());
            return Err(format!("no answer on port {port} within {READY_WITHIN:?}: {last}"));
        }
        sleep(ASK_EVERY).await;
    }
}

/// Asks the server on `port` for its process id. While it still loads its data it answers nothing but errors.
async fn answers(port: u16) -> Result<u32, String> {
    let asked = async {
        let client = redis::Client::open(url(port))?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        redis::cmd("PING").query_async::<()>(&mut connection).await?;
        redis::cmd("INFO").arg("server").query_async::<redis::InfoDict>(&mut connection).await
    };
    match timeout(ANSWER_WITHIN, asked).await {
        Ok(Ok(info)) => info.get("process_id").ok_or_else(|| "INFO names no process".to_owned()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the server says nothing".to_owned()),
    }
}

/// The promises every other test builds on.
#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::connect;

    async fn keeps_its_promises(mut redis: TestRedis) {
        let address = redis.url();
        let mut connection = connect(&address).await.unwrap();
        redis::cmd("SET").arg("kept").arg("yes").query_async::<()>(&mut connection).await.unwrap();
        let settings: Vec<String> =
            redis::cmd("CONFIG").arg("GET").arg("append*").query_async(&mut connection).await.unwrap();
        for (name, value) in [("appendonly", "yes"), ("appendfsync", "always")] {
            assert!(
                settings.windows(2).any(|pair| pair == [name, value]),
                "{name} is not {value}: {settings:?}"
            );
        }

        redis.pause().await;
        assert!(answers(redis.port).await.is_err(), "a paused server answers");
        redis.resume().await;
        let kept: String = redis::cmd("GET").arg("kept").query_async(&mut connection).await.unwrap();
        assert_eq!(kept, "yes", "the connection outlives a pause");

        redis.kill().await;
        assert!(answers(redis.port).await.is_err(), "a killed server answers");
        redis.start_again().await;
        assert_eq!(redis.url(), address);
        let mut connection = connect(&address).await.unwrap();
        let kept: String = redis::cmd("GET").arg("kept").query_async(&mut connection).await.unwrap();
        assert_eq!(kept, "yes", "what was acknowledged outlives a kill");

        let port = redis.port;
        redis.pause().await;
        drop(redis);
        assert!(TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok(), "the server outlives its handle");
    }

    #[tokio::test]
    async fn a_private_server_keeps_its_promises() {
        let redis = TestRedis::start().await;
        assert!(!redis.is_container());
        let Server::Process(server) = &redis.server else {
            panic!("a container where a process was asked for")
        };
        let data = server.dir.path().to_owned();
        assert!(data.exists());
        keeps_its_promises(redis).await;
        assert!(!data.exists(), "the data outlives its handle");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_container_keeps_its_promises() {
        if let Some(redis) = TestRedis::container().await {
            assert!(redis.is_container());
            keeps_its_promises(redis).await;
        }
    }

    #[tokio::test]
    async fn two_servers_share_nothing() {
        let (one, other) = (TestRedis::start().await, TestRedis::start().await);
        assert_ne!(one.url(), other.url());
        assert_ne!(answers(one.port).await.unwrap(), answers(other.port).await.unwrap());
    }
}
