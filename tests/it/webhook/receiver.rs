//! A receiver with scripted responses, byte by byte, which may violate HTTP.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use axum::http::{HeaderMap, HeaderName};
use standardwebhooks::Webhook;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

/// The receiver's response to a request.
#[derive(Debug, Clone)]
pub(super) enum Answer {
    /// Sends these bytes and closes the connection.
    Bytes(String),
    /// Sends nothing until the sender gives up.
    Silence,
}

impl Answer {
    /// A complete response without a body.
    pub(super) fn status(code: u16) -> Self {
        Self::with(code, "")
    }

    /// A complete response with more header lines, each ended by `\r\n`.
    pub(super) fn with(code: u16, headers: &str) -> Self {
        Self::Bytes(format!("HTTP/1.1 {code} x\r\nconnection: close\r\n{headers}content-length: 0\r\n\r\n"))
    }
}

/// A received request.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) at: Instant,
    pub(super) headers: HeaderMap,
    pub(super) body: Vec<u8>,
}

impl Request {
    pub(super) fn id(&self) -> &str {
        self.headers["webhook-id"].to_str().expect("it is text")
    }

    /// Whether the signature verifies with this secret.
    pub(super) fn is_signed_with(&self, secret: &str) -> bool {
        Webhook::new(secret).expect("a secret").verify(&self.body, &self.headers).is_ok()
    }
}

#[derive(Debug, Default)]
struct Seen {
    requests: Mutex<Vec<Request>>,
    open: AtomicUsize,
    max_open: AtomicUsize,
}

/// An HTTP server on a port of its own that records its requests.
#[derive(Clone)]
pub(super) struct Receiver {
    pub(super) url: String,
    seen: Arc<Seen>,
}

impl Receiver {
    /// Starts a receiver; `answer` maps the index of a request, from 0, to the response.
    pub(super) async fn start(answer: impl Fn(usize) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let url = format!("http://{}/hook?token=token-of-mine", listener.local_addr().expect("it is bound"));
        let receiver = Self { url, seen: Arc::default() };
        let (seen, answer) = (Arc::clone(&receiver.seen), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&seen), Arc::clone(&answer)));
            }
        });
        receiver
    }

    pub(super) fn requests(&self) -> Vec<Request> {
        self.seen.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The most connections that were open at the same time.
    pub(super) fn max_open(&self) -> usize {
        self.seen.max_open.load(Ordering::SeqCst)
    }
}

async fn serve(mut stream: TcpStream, seen: Arc<Seen>, answer: Arc<impl Fn(usize) -> Answer>) {
    let open = seen.open.fetch_add(1, Ordering::SeqCst) + 1;
    seen.max_open.fetch_max(open, Ordering::SeqCst);
    if let Some(request) = read(&mut stream).await {
        let number = {
            let mut requests = seen.requests.lock().unwrap_or_else(PoisonError::into_inner);
            requests.push(request);
            requests.len() - 1
        };
        match answer(number) {
            // The write fails if the sender is gone, which is no error here.
            Answer::Bytes(bytes) => drop(stream.write_all(bytes.as_bytes()).await),
            Answer::Silence => drop(stream.read(&mut [0]).await),
        }
    }
    seen.open.fetch_sub(1, Ordering::SeqCst);
}

/// Reads one request with a body of known length.
async fn read(stream: &mut TcpStream) -> Option<Request> {
    let at = Instant::now();
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
            let headers: HeaderMap = head
                .lines()
                .skip(1)
                .filter_map(|line| line.split_once(": "))
                .filter_map(|(name, value)| Some((name.parse::<HeaderName>().ok()?, value.parse().ok()?)))
                .collect();
            let length: usize = headers.get("content-length")?.to_str().ok()?.parse().ok()?;
            if bytes.len() >= end + 4 + length {
                return Some(Request { at, headers, body: bytes[end + 4..].to_vec() });
            }
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}
