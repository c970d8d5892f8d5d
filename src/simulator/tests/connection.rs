//! Behaviour that needs a real connection: cut, dropped, slow and hanging answers, and the server's stop.

use std::io::{Read, Write};
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;

struct Server {
    addr: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<io::Result<()>>,
}

async fn start(simulator: &Simulator) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("an address");
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(serve(listener, simulator.clone(), async move { drop(stopped.await) }));
    Server { addr, stop, task }
}

/// Sends a request over a plain socket and returns all bytes until the connection closes.
fn ask(addr: SocketAddr, path: &str) -> JoinHandle<Vec<u8>> {
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: test\r\nX-Access-Token: {KEY}\r\nConnection: close\r\n\r\n");
    tokio::task::spawn_blocking(move || {
        let mut socket = std::net::TcpStream::connect(addr).expect("a connection");
        socket.write_all(request.as_bytes()).expect("sent");
        let mut bytes = Vec::new();
        // A reset of the connection counts as the end of the answer.
        drop(socket.read_to_end(&mut bytes));
        bytes
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_arrive_whole_cut_or_not_at_all() {
    let simulator = simulator();
    let server = start(&simulator).await;
    let fault = Answer::Fault;
    let answers =
        [Answer::Queued, fault(Fault::Truncated), fault(Fault::BrokenOff), fault(Fault::DropConnection)];
    let ids = answers.map(|answer| simulator.create(Script::always(answer)));
    let [whole, cut, broken, none] = ids.map(|id| ask(server.addr, &check_id(&id)));
    let whole = String::from_utf8(whole.await.expect("bytes")).expect("text");
    assert!(whole.starts_with("HTTP/1.1 200") && whole.ends_with('}'), "{whole}");
    let cut = String::from_utf8(cut.await.expect("bytes")).expect("text").to_ascii_lowercase();
    let (head, body) = cut.split_once("\r\n\r\n").expect("head and body");
    assert!(head.contains(&format!("content-length: {}", body.len())), "{head}");
    let broken = String::from_utf8(broken.await.expect("bytes")).expect("text").to_ascii_lowercase();
    let (head, body) = broken.split_once("\r\n\r\n").expect("head and body");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect("a length");
    assert_eq!(length.parse::<usize>().expect("a number") / 2, body.len(), "{broken}");
    assert_eq!(none.await.expect("bytes"), b"", "not even a head before the connection is dropped");
    server.stop.send(()).expect("still serving");
    server.task.await.expect("no panic").expect("stopped");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hanging_answer_ends_when_the_server_stops() {
    let simulator = simulator();
    let server = start(&simulator).await;
    let id = simulator.create(Script::always(Answer::Fault(Fault::Hang)));
    let asked = ask(server.addr, &check_id(&id));
    while simulator.calls(&id).is_empty() {
        tokio::task::yield_now().await;
    }
    assert!(!asked.is_finished());
    server.stop.send(()).expect("still serving");
    server.task.await.expect("no panic").expect("stopped");
    assert_eq!(asked.await.expect("bytes"), b"");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_answer_starts_at_once_and_is_cut_when_the_server_stops() {
    let simulator = simulator();
    let server = start(&simulator).await;
    let id = simulator.create(Script::always(Answer::Fault(Fault::SlowBody)));
    let mut socket = tokio::net::TcpStream::connect(server.addr).await.expect("a connection");
    let request = format!("GET {} HTTP/1.1\r\nHost: test\r\nX-Access-Token: {KEY}\r\n\r\n", check_id(&id));
    socket.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = vec![0; 1024];
    let begun = socket.read(&mut answer).await.expect("the head");
    assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"), "{:?}", &answer[..begun]);
    server.stop.send(()).expect("still serving");
    server.task.await.expect("no panic").expect("stopped");
    let mut rest = Vec::new();
    // A reset of the connection counts as the end of the answer.
    drop(socket.read_to_end(&mut rest).await);
    assert!(begun + rest.len() < 400, "the order arrived whole");
}
