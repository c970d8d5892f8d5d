//! A real Redis for one test, which the test may kill, freeze and start again.
//!
//! Most tests use a private `redis-server` process. It is ready in some ten milliseconds, so each test has its own and
//! needs no namespace or clean-up. [`TestRedis::container`] runs the image that people deploy; it is slower and needs a
//! Docker daemon. Both store their data as production should: append-only file, synced at every write, no eviction.
//!
//! Environment variables: `REDIS_SERVER` is the binary (default: `redis-server` in `PATH`), `TOPUP_TEST_REDIS_IMAGE`
//! the image (default: `redis:7`). With `TOPUP_TEST_REQUIRE_CONTAINER=1` a missing container fails the test; otherwise
//! a line is printed.

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

use super::skip_or_fail;

/// Longest time from the start of a server to its first answer, on a machine that is busy compiling.
const READY_WITHIN: Duration = Duration::from_secs(20);
/// Longest time to pull the image before the container counts as unavailable.
const PULLED_WITHIN: Duration = Duration::from_secs(90);
/// Longest wait for one answer; a frozen server accepts a connection and sends nothing.
const ANSWER_WITHIN: Duration = Duration::from_millis(250);
/// The pause between two checks.
const CHECK_INTERVAL: Duration = Duration::from_millis(10);
/// Maximum number of ports to try; another process may take the chosen port first.
const MAX_PORTS: usize = 5;
/// The port inside a container.
const CONTAINER_PORT: u16 = 6379;

/// Arguments of every server, besides its port and its folder.
const DURABLE: [&str; 8] =
    ["--appendonly", "yes", "--appendfsync", "always", "--save", "", "--maxmemory-policy", "noeviction"];

/// A Redis server for one test. Dropping it ends the server and removes its data.
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

    /// Starts a private `redis-server` with the arguments that `arguments` returns for its data folder. They come
    /// first, so the first may be the path of a configuration file.
    pub(crate) async fn start_with(arguments: impl Fn(&Path) -> Vec<String>) -> Self {
        Self::start_server(|server| server.arguments = arguments(server.dir.path())).await
    }

    /// Starts a private `redis-server` with these environment variables.
    pub(crate) async fn start_in(environment: &[(&'static str, String)]) -> Self {
        Self::start_server(|server| {
            let owned = |(name, value): &(&str, String)| ((*name).to_owned(), value.clone());
            server.environment = environment.iter().map(owned).collect();
        })
        .await
    }

    /// Starts a private `redis-server` whose clock the test can set, through libfaketime.
    pub(crate) async fn start_with_clock(library: &str) -> Self {
        Self::start_server(|server| {
            let clock = server.clock();
            fs::write(&clock, "+0").expect("the clock file is written");
            let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
            server.environment = vec![
                // The allocator of some Redis builds reads the time before libfaketime is ready; this one does not.
                set("LD_PRELOAD", &format!("libc_malloc_debug.so.0:{library}")),
                set("FAKETIME_TIMESTAMP_FILE", &clock.display().to_string()),
                set("FAKETIME_NO_CACHE", "1"),
                set("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ];
        })
        .await
    }

    /// Sets how far the clock of a server of [`start_with_clock`](Self::start_with_clock) is ahead of the machine's.
    pub(crate) fn set_clock(&self, ahead_seconds: i64) {
        let Server::Process(server) = &self.server else { panic!("a container has no clock of its own") };
        let (clock, new) = (server.clock(), server.dir.path().join("clock.new"));
        fs::write(&new, format!("{ahead_seconds:+}")).expect("the new clock file is written");
        fs::rename(new, clock).expect("the clock is set");
    }

    async fn start_server(change: impl Fn(&mut PrivateServer)) -> Self {
        let mut last = String::new();
        for _ in 0..MAX_PORTS {
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

    /// Starts a Redis container. If that is impossible, prints a line and returns `None`, or fails the test with
    /// `TOPUP_TEST_REQUIRE_CONTAINER=1`.
    pub(crate) async fn container() -> Option<Self> {
        match Self::start_container().await {
            Ok(redis) => Some(redis),
            Err(reason) => {
                skip_or_fail("a Redis container", &reason, "TOPUP_TEST_REQUIRE_CONTAINER");
                None
            }
        }
    }

    async fn start_container() -> Result<Self, String> {
        let docker = container_engine().await?;
        let (name, tag) = image();
        let mut last = String::new();
        for _ in 0..MAX_PORTS {
            let port = free_port();
            let arguments = ["redis-server", "--dir", "/data", "--protected-mode", "no"];
            let request = GenericImage::new(name.clone(), tag.clone())
                .with_cmd(arguments.into_iter().chain(DURABLE))
                // A fixed port: a port chosen by Docker changes when the container is started again.
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

    /// URL of the server for `REDIS_URL`. It stays the same when the server is killed and started again.
    pub(crate) fn url(&self) -> String {
        url(self.port)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Whether the server runs in a container.
    pub(crate) fn is_container(&self) -> bool {
        matches!(self.server, Server::Container { .. })
    }

    /// Kills the server (SIGKILL), so that it neither saves its data nor closes its connections in order.
    pub(crate) async fn kill(&mut self) {
        match &mut self.server {
            Server::Process(server) => server.kill(),
            Server::Container { container, docker } => {
                if let Err(error) = docker.kill_container(container.id(), None).await {
                    panic!("the Redis container cannot be killed: {error}");
                }
                // Docker reports the kill before the container is down, and starting a running one does nothing.
                let deadline = Instant::now() + READY_WITHIN;
                while container.is_running().await.expect("Docker reports the state of the container") {
                    assert!(Instant::now() < deadline, "the killed Redis container still runs");
                    sleep(CHECK_INTERVAL).await;
                }
            }
        }
    }

    /// Starts the server again after [`kill`](Self::kill), with the same URL and data. Returns once it answers.
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

    /// Freezes the server: connections stay open without answers. Returns once it no longer answers.
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

    /// Resumes the server after [`pause`](Self::pause). Returns once it answers.
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
    /// Removed when dropped, which is after the `Drop` of this type has ended the server.
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

    /// File through which libfaketime reads the clock of the server.
    fn clock(&self) -> PathBuf {
        self.dir.path().join("clock")
    }

    /// Starts the process and waits until it answers.
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
            // Either call fails only if the process has ended by itself.
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    fn signal(&self, signal: &str) {
        let process = self.process.as_ref().expect("the server is running");
        // The kill of the shell, since small systems have no program of that name.
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

/// Client of a Docker daemon that has the image, or why there is none. Set once per process, as a pull may be slow.
async fn container_engine() -> Result<&'static Docker, String> {
    static ENGINE: OnceCell<Result<Docker, String>> = OnceCell::const_new();
    let found = ENGINE.get_or_init(|| async {
        let docker = docker_client_instance().await.map_err(|error| format!("no Docker: {error}"))?;
        docker.ping().await.map_err(|error| format!("no Docker daemon answers: {error}"))?;
        let (name, tag) = image();
        if docker.inspect_image(&format!("{name}:{tag}")).await.is_err() {
            match timeout(PULLED_WITHIN, GenericImage::new(&name, &tag).pull_image()).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(format!("{name}:{tag} cannot be pulled: {error}")),
                Err(_) => return Err(format!("{name}:{tag} cannot be pulled within {PULLED_WITHIN:?}")),
            }
        }
        Ok(docker)
    });
    found.await.as_ref().map_err(Clone::clone)
}

/// Name and tag of the Redis image.
fn image() -> (String, String) {
    let image = env::var("TOPUP_TEST_REDIS_IMAGE").unwrap_or_else(|_| "redis:7".to_owned());
    match image.rsplit_once(':') {
        // A colon before the last slash belongs to a registry's port.
        Some((name, tag)) if !tag.contains('/') => (name.to_owned(), tag.to_owned()),
        _ => (image, "latest".to_owned()),
    }
}

/// Returns a free port below the range for outgoing connections, which could take it while the server is down. Until
/// this process ends it also holds the UDP port of the same number, so that no other test chooses this port.
pub(crate) fn free_port() -> u16 {
    static HELD: Mutex<Vec<UdpSocket>> = Mutex::new(Vec::new());
    loop {
        let random = RandomState::new().hash_one(()) % 12_000;
        let port = 20_000 + u16::try_from(random).expect("12,000 fits");
        if let Ok(held) = UdpSocket::bind((Ipv4Addr::LOCALHOST, port))
            && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
        {
            HELD.lock().expect("no thread panics while it holds the lock").push(held);
            return port;
        }
    }
}

fn url(port: u16) -> String {
    format!("redis://127.0.0.1:{port}")
}

/// Waits until the server on `port` answers. If `process` is given, the answer must come from that process, since the
/// server of another test may have taken the port first.
async fn ready(port: u16, mut process: Option<&mut Child>) -> Result<(), String> {
    let deadline = Instant::now() + READY_WITHIN;
    loop {
        let answer = answers(port).await;
        match (&answer, &mut process) {
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
            let last = answer.err().unwrap_or_else(|| "another server answers there".to_owned());
            return Err(format!("no answer on port {port} within {READY_WITHIN:?}: {last}"));
        }
        sleep(CHECK_INTERVAL).await;
    }
}

/// Reads the process id of the server on `port`. A server that still loads its data answers with errors.
async fn answers(port: u16) -> Result<u32, String> {
    let request = async {
        let client = redis::Client::open(url(port))?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        redis::cmd("PING").query_async::<()>(&mut connection).await?;
        redis::cmd("INFO").arg("server").query_async::<redis::InfoDict>(&mut connection).await
    };
    match timeout(ANSWER_WITHIN, request).await {
        Ok(Ok(info)) => info.get("process_id").ok_or_else(|| "INFO names no process".to_owned()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the server does not answer".to_owned()),
    }
}

/// Tests of the properties on which all other tests rely.
#[cfg(test)]
mod tests {
    use super::*;
    use crate::support::connect;

    async fn check_settings_pause_and_kill(mut redis: TestRedis) {
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
        assert_eq!(kept, "yes", "the connection survives a pause");

        redis.kill().await;
        assert!(answers(redis.port).await.is_err(), "a killed server answers");
        redis.start_again().await;
        assert_eq!(redis.url(), address);
        let mut connection = connect(&address).await.unwrap();
        let kept: String = redis::cmd("GET").arg("kept").query_async(&mut connection).await.unwrap();
        assert_eq!(kept, "yes", "an acknowledged write survives a kill");

        let port = redis.port;
        redis.pause().await;
        drop(redis);
        assert!(TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok(), "a dropped server still runs");
    }

    #[tokio::test]
    async fn a_private_server_keeps_its_data_across_a_pause_and_a_kill() {
        let redis = TestRedis::start().await;
        assert!(!redis.is_container());
        let Server::Process(server) = &redis.server else { panic!("the server runs in a container") };
        let data = server.dir.path().to_owned();
        assert!(data.exists());
        check_settings_pause_and_kill(redis).await;
        assert!(!data.exists(), "a dropped server leaves its data");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_container_keeps_its_data_across_a_pause_and_a_kill() {
        if let Some(redis) = TestRedis::container().await {
            assert!(redis.is_container());
            check_settings_pause_and_kill(redis).await;
        }
    }

    #[tokio::test]
    async fn two_servers_have_different_ports_and_processes() {
        let (one, other) = (TestRedis::start().await, TestRedis::start().await);
        assert_ne!(one.url(), other.url());
        assert_ne!(answers(one.port).await.unwrap(), answers(other.port).await.unwrap());
    }
}
