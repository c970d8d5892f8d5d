use std::sync::Arc;

use axum::routing::{get, post};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;

use super::*;

const SHORT: Duration = Duration::from_millis(150);
/// Generous, since the machine may be busy with other tests.
const DEADLINE: Duration = Duration::from_secs(30);

struct Listening {
    address: std::net::SocketAddr,
    /// Notified when `/slow` is being answered.
    reached: Arc<Notify>,
    /// Lets `/slow` answer.
    go_on: Arc<Notify>,
}

impl Listening {
    async fn start(limits: Limits, most: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (reached, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (begun, allowed) = (Arc::clone(&reached), Arc::clone(&go_on));
        let slow = async move || {
            begun.notify_one();
            allowed.notified().await;
            "slow"
        };
        let router = Router::new()
            .route("/", get(async || "quick"))
            .route("/form", post(async |form: String| form))
            .route("/slow", get(slow));
        tokio::spawn(serve_within(limits, "TEST_ADDR", listener, most, router));
        Self { address, reached, go_on }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends these bytes and reads until the connection ends.
    async fn ask(&self, request: &str) -> String {
        let mut stream = self.connect().await;
        // The server may refuse a request before it is fully sent.
        drop(stream.write_all(request.as_bytes()).await);
        rest(&mut stream).await
    }
}

async fn rest(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let read = timeout(DEADLINE, stream.read_to_end(&mut answer)).await;
    drop(read.expect("the connection ends"));
    String::from_utf8(answer).unwrap()
}

const QUICK: &str = "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
const SLOW: &str = "GET /slow HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

#[tokio::test]
async fn silent_connections_do_not_lock_out_requests() {
    let listening = Listening::start(LIMITS, 4).await;
    let mut silent = Vec::new();
    for n in 0..40 {
        let mut stream = listening.connect().await;
        if n % 2 == 0 {
            stream.write_all(b"GET / HTTP/1.1\r\nhost:").await.unwrap();
        }
        silent.push(stream);
        if n % 10 == 9 {
            assert!(listening.ask(QUICK).await.ends_with("quick"), "after {n}");
        }
    }
    // The first 36 were closed for newer connections, long before their time limit.
    for stream in &mut silent[..36] {
        assert_eq!(rest(stream).await, "");
    }
}

#[tokio::test]
async fn a_connection_on_which_a_request_is_answered_is_not_closed_for_others() {
    let listening = Listening::start(LIMITS, 2).await;
    let mut answered = listening.connect().await;
    answered.write_all(SLOW.as_bytes()).await.unwrap();
    timeout(DEADLINE, listening.reached.notified()).await.unwrap();
    let mut silent = Vec::new();
    for _ in 0..10 {
        silent.push(listening.connect().await);
    }
    assert!(listening.ask(QUICK).await.ends_with("quick"));
    listening.go_on.notify_one();
    assert!(rest(&mut answered).await.ends_with("slow"));
}

#[tokio::test]
async fn a_new_connection_is_closed_while_all_others_are_answering() {
    let listening = Listening::start(LIMITS, 1).await;
    let mut answered = listening.connect().await;
    answered.write_all(SLOW.as_bytes()).await.unwrap();
    timeout(DEADLINE, listening.reached.notified()).await.unwrap();
    assert_eq!(listening.ask(QUICK).await, "");
    listening.go_on.notify_one();
    assert!(rest(&mut answered).await.ends_with("slow"));
    assert!(listening.ask(QUICK).await.ends_with("quick"), "its place is free again");
}

#[tokio::test]
async fn slow_or_long_requests_end_the_connection() {
    let limits = Limits { head: SHORT, body: SHORT, ..LIMITS };
    let listening = Listening::start(limits, 4).await;
    assert_eq!(listening.ask("GET / HTTP/1.1\r\nhost:").await, "", "a head that does not arrive");
    let kept = listening.ask("GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(kept.ends_with("quick"), "a connection without a further request: {kept}");
    let form = |length: usize, sent: &str| {
        format!("POST /form HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{sent}")
    };
    let slow = listening.ask(&form(10, "123")).await;
    assert!(slow.starts_with("HTTP/1.1 408"), "{slow}");
    let long = listening.ask(&form(MAX_BODY + 1, &"x".repeat(MAX_BODY + 1))).await;
    assert!(long.is_empty() || long.starts_with("HTTP/1.1 413"), "{long}");
    let head = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "x".repeat(MAX_HEAD));
    let long = listening.ask(&head).await;
    assert!(long.is_empty() || long.starts_with("HTTP/1.1 431"), "{long}");
    assert!(listening.ask(&form(3, "123")).await.ends_with("123"));
}

#[tokio::test]
async fn the_time_limit_of_a_head_starts_at_its_first_byte() {
    let limits = Limits { head: SHORT, ..LIMITS };
    let listening = Listening::start(limits, 4).await;
    let mut stream = listening.connect().await;
    let trickling = async {
        let begun = Instant::now();
        while begun.elapsed() < DEADLINE {
            if stream.write_all(b"x").await.is_err() {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
        panic!("a head that never ends is read for ever");
    };
    trickling.await;
}
