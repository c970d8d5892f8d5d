//! A TCP proxy to Redis that a test can cut, freeze and slow down, and one with another source address.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::sleep;

/// State of the connections that were open at the last change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wire {
    /// They are forwarded.
    Open,
    /// They are closed; data in transit is lost.
    Cut,
    /// They stay open and forward nothing.
    Silent,
}

/// Forwards connections to Redis. It delays every answer, so that a cut loses some.
pub(crate) struct Proxy {
    address: String,
    redis: Arc<Mutex<String>>,
    wire: Arc<watch::Sender<(u64, Wire)>>,
}

impl Proxy {
    /// Listens on a free port and forwards to the Redis at this `redis://host:port`. Answers are delayed.
    pub(crate) async fn start(redis_url: &str, answer_delay: Duration) -> Self {
        Self::start_at("127.0.0.1", redis_url, answer_delay).await
    }

    /// As [`start`](Self::start), listening at this address of the machine.
    pub(crate) async fn start_at(host: &str, redis_url: &str, answer_delay: Duration) -> Self {
        let redis = Arc::new(Mutex::new(redis_url.trim_start_matches("redis://").to_owned()));
        let listener = TcpListener::bind((host, 0)).await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let wire = Arc::new(watch::Sender::new((0, Wire::Open)));
        let (changes, target) = (Arc::clone(&wire), Arc::clone(&redis));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let redis = target.lock().unwrap_or_else(PoisonError::into_inner).clone();
                if let Ok(server) = TcpStream::connect(&redis).await {
                    tokio::spawn(forward(client, server, changes.subscribe(), answer_delay));
                }
            }
        });
        Self { address: format!("redis://{address}"), redis, wire }
    }

    pub(crate) fn url(&self) -> String {
        self.address.clone()
    }

    /// Forwards new connections to another server; open connections stay.
    pub(crate) fn forward_to(&self, redis_url: &str) {
        let redis = redis_url.trim_start_matches("redis://").to_owned();
        *self.redis.lock().unwrap_or_else(PoisonError::into_inner) = redis;
    }

    /// Closes all open connections; answers in transit are lost.
    pub(crate) fn cut(&self) {
        self.change(Wire::Cut);
    }

    /// Keeps all open connections open, but forwards nothing.
    pub(crate) fn silence(&self) {
        self.change(Wire::Silent);
    }

    fn change(&self, to: Wire) {
        self.wire.send_modify(|wire| *wire = (wire.0 + 1, to));
    }
}

/// Starts a proxy to this `http://host:port` that connects from the address `source`. Returns the URL of the proxy.
pub(crate) async fn from_address(source: [u8; 4], url: &str) -> String {
    let target: SocketAddr = url.trim_start_matches("http://").parse().expect("an address");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = listener.local_addr().expect("it is bound");
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let socket = TcpSocket::new_v4().expect("a socket");
                socket.bind((source, 0).into()).expect("an address of the machine");
                if let Ok(mut server) = socket.connect(target).await {
                    drop(tokio::io::copy_bidirectional(&mut client, &mut server).await);
                }
            });
        }
    });
    format!("http://{address}")
}

async fn forward(
    client: TcpStream,
    server: TcpStream,
    mut wire: watch::Receiver<(u64, Wire)>,
    answer_delay: Duration,
) {
    wire.mark_unchanged();
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let both = async {
        let requests = copy(from_client, to_server, Duration::ZERO);
        let answers = copy(from_server, to_client, answer_delay);
        tokio::select! { () = requests => {}, () = answers => {} }
    };
    let mut both = Box::pin(both);
    tokio::select! {
        () = &mut both => {}
        changed = wire.changed() => {
            if changed.is_ok() && wire.borrow().1 == Wire::Silent {
                // The sockets stay open in `both`, which is no longer polled.
                std::future::pending::<()>().await;
            }
        }
    }
}

async fn copy(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    delay: Duration,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        sleep(delay).await;
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
