//! A server that answers every request with given bytes, valid HTTP or not, and counts the bytes it sends. An HTTP
//! library would refuse to send most of the answers that the tests need.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use url::Url;

/// What the server does with the connection after the answer.
#[derive(Debug, Clone, Copy)]
pub(super) enum Then {
    /// Keeps the connection open for the next request.
    NextRequest,
    /// Closes the connection with a FIN.
    Close,
    /// Resets the connection with an RST.
    Reset,
    /// Keeps the connection open and sends nothing more.
    Silence,
    /// Sends these bytes again and again, with this pause.
    Repeat(&'static [u8], Duration),
}

pub(super) struct RawServer {
    url: Url,
    seen: Arc<Seen>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    /// For each request, the number of its connection and its head.
    requests: Mutex<Vec<(usize, String)>>,
    /// Bytes of answers that were written to the sockets.
    sent: AtomicUsize,
}

impl Drop for RawServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl RawServer {
    pub(super) fn start(answer: Vec<u8>, then: Then) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        // The send buffer is small, so that hardly more bytes are counted than the client has read.
        socket.set_send_buffer_size(64 * 1024).unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(16).unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let seen = Arc::new(Seen::default());
        let observed = seen.clone();
        let task = tokio::spawn(async move {
            for connection in 0.. {
                let (mut socket, _) = listener.accept().await.unwrap();
                converse(&mut socket, connection, &answer, then, &observed).await;
            }
        });
        Self { url, seen, task }
    }

    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    pub(super) fn requests(&self) -> Vec<(usize, String)> {
        self.seen.requests.lock().unwrap().clone()
    }

    pub(super) fn sent(&self) -> usize {
        self.seen.sent.load(Ordering::Relaxed)
    }
}

async fn converse(socket: &mut TcpStream, connection: usize, answer: &[u8], then: Then, seen: &Seen) {
    while let Some(head) = read_head(socket).await {
        seen.requests.lock().unwrap().push((connection, head));
        if !send(socket, answer, seen).await {
            return;
        }
        match then {
            Then::NextRequest => {}
            Then::Close => return,
            Then::Reset => return socket.set_zero_linger().unwrap(),
            Then::Silence => {
                // The read ends when the client closes the connection.
                let _gone = socket.read_u8().await;
                return;
            }
            Then::Repeat(bytes, pause) => {
                while send(socket, bytes, seen).await {
                    tokio::time::sleep(pause).await;
                }
                return;
            }
        }
    }
}

/// Reads a request up to the empty line. The client's requests have no body.
async fn read_head(socket: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.ok()?);
    }
    Some(String::from_utf8(head).unwrap())
}

async fn send(socket: &mut TcpStream, bytes: &[u8], seen: &Seen) -> bool {
    for piece in bytes.chunks(16 * 1024) {
        if socket.write_all(piece).await.is_err() {
            return false;
        }
        seen.sent.fetch_add(piece.len(), Ordering::Relaxed);
    }
    true
}
