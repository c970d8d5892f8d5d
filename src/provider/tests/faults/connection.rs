//! Faults of the connection and of HTTP itself.

use super::*;
use crate::provider::client::{MAX_LIST_BYTES, MAX_ORDER_BYTES};

const BROKE_OFF: &str = "the connection to the provider failed: the answer broke off";
const NO_ANSWER: &str = "the connection to the provider failed: the request broke off";
const LATE: &str = "the provider did not answer in time";
/// Time limit of those requests that are expected to time out.
const SHORT: Duration = Duration::from_millis(300);
const PAUSE: Duration = Duration::from_millis(20);

/// An answer with these header lines instead of the correct `Content-Length`.
fn framed(headers: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{headers}\r\n\r\n{body}").into_bytes()
}

fn chunked(chunks: &str) -> Vec<u8> {
    framed("Transfer-Encoding: chunked", chunks)
}

/// Pads JSON with spaces to this length.
fn padded(mut json: String, length: usize) -> String {
    json.extend(std::iter::repeat_n(' ', length - json.len()));
    json
}

#[tokio::test]
async fn an_answer_that_violates_http_is_retried() {
    let order = order();
    let (half, length) = (&order[..order.len() / 2], order.len());
    let huge_header = format!("X-Filler: {}", "a".repeat(8 << 20));
    let many_headers = vec!["X-Filler: a"; 10_000];
    check_all([
        ("no byte", vec![], again(NO_ANSWER)),
        ("no HTTP", b"SSH-2.0-OpenSSH_9.9\r\n\r\n".to_vec(), again(NO_ANSWER)),
        ("half a status line", b"HTTP/1.1 20".to_vec(), again(NO_ANSWER)),
        ("a status line alone", b"HTTP/1.1 200 OK\r\n".to_vec(), again(NO_ANSWER)),
        ("half a header", b"HTTP/1.1 200 OK\r\nContent-Ty".to_vec(), again(NO_ANSWER)),
        ("a status that is none", b"HTTP/1.1 2xx OK\r\n\r\n".to_vec(), again(NO_ANSWER)),
        ("a header that is none", answer("200 OK", &["no colon"], &order), again(NO_ANSWER)),
        ("a header of 8 MiB", answer("200 OK", &[&huge_header], &order), again(NO_ANSWER)),
        ("ten thousand headers", answer("200 OK", &many_headers, &order), again(NO_ANSWER)),
        (
            "no length, and closed half-way",
            framed("Connection: close", half),
            unreadable(content::NO_ENVELOPE),
        ),
        ("no length, and closed at the end", framed("Connection: close", &order), fulfilled()),
        ("less than its length", framed(&format!("Content-Length: {length}"), half), again(BROKE_OFF)),
        ("more than its length", framed("Content-Length: 20", &order), unreadable(content::NO_ENVELOPE)),
        ("a length that is none", framed("Content-Length: much", &order), again(NO_ANSWER)),
        ("a negative length", framed("Content-Length: -1", &order), again(NO_ANSWER)),
        ("two lengths", framed("Content-Length: 5\r\nContent-Length: 6", &order), again(NO_ANSWER)),
        ("chunks", chunked(&format!("{length:x}\r\n{order}\r\n0\r\n\r\n")), fulfilled()),
        ("chunks without an end", chunked(&format!("{length:x}\r\n{order}\r\n")), again(BROKE_OFF)),
        ("a chunk that breaks off", chunked(&format!("{length:x}\r\n{half}")), again(BROKE_OFF)),
        ("a chunk of no size", chunked(&format!("size\r\n{order}\r\n0\r\n\r\n")), again(BROKE_OFF)),
        ("a chunk beyond counting", chunked(&format!("{:f<17}\r\n{order}", "")), again(BROKE_OFF)),
        (
            "103 before the answer",
            [&b"HTTP/1.1 103 Early Hints\r\n\r\n"[..], &ok(&order)].concat(),
            fulfilled(),
        ),
        ("100 and no answer", b"HTTP/1.1 100 Continue\r\n\r\n".to_vec(), again(NO_ANSWER)),
        ("101", b"HTTP/1.1 101 Switching Protocols\r\n\r\n".to_vec(), again("the provider failed: HTTP 101")),
    ])
    .await;
}

#[tokio::test]
async fn a_request_whose_connection_is_reset_is_retried() {
    let order = order();
    let head = framed(&format!("Content-Length: {}", order.len()), "");
    for (fault, answer, expected) in [
        ("reset before the answer", vec![], again(NO_ANSWER)),
        ("reset after the status line", b"HTTP/1.1 200 OK\r\n".to_vec(), again(NO_ANSWER)),
        ("reset after the head", head, again(BROKE_OFF)),
    ] {
        check(fault, answer, Then::Reset, Duration::from_secs(15), &expected).await;
    }
}

#[tokio::test]
async fn an_answer_that_takes_too_long_times_out() {
    let order = order();
    let head = framed("Content-Length: 1000", "");
    let slow = |bytes| Then::Repeat(bytes, PAUSE);
    for (fault, answer, then) in [
        ("nothing comes", vec![], Then::Silence),
        ("a header that does not end", b"HTTP/1.1 200 OK\r\nX-Filler: ".to_vec(), slow(b"a")),
        ("a head and nothing more", head.clone(), Then::Silence),
        ("a body that dribbles", head, slow(b" ")),
        ("informational answers without an end", vec![], slow(b"HTTP/1.1 102 Processing\r\n\r\n")),
        ("a byte too few", framed(&format!("Content-Length: {}", order.len() + 1), &order), Then::Silence),
    ] {
        check(fault, answer, then, SHORT, &again(LATE)).await;
    }
}

/// The server sends one byte too many and then nothing. A client that waited for the rest would time out.
#[tokio::test]
async fn reading_stops_at_the_first_byte_over_the_size_limit() {
    let too_long = unreadable("it exceeds the size limit");
    for (excess, then, expected) in [(0, Then::Close, fulfilled()), (1, Then::Silence, too_long)] {
        let order = padded(order(), MAX_ORDER_BYTES + excess);
        let length = MAX_ORDER_BYTES + excess * 64 * 1024 * 1024;
        let answer = framed(&format!("Content-Length: {length}"), &order);
        check("a body at the cap", answer, then, Duration::from_secs(15), &expected).await;
    }
}

#[tokio::test]
async fn an_endless_body_is_read_up_to_the_size_limit() {
    const ENDLESS: Then = Then::Repeat(&[b' '; 64 * 1024], Duration::ZERO);
    /// Maximum number of bytes in the socket buffers of both sides on a machine with usual settings.
    const ON_THE_WAY: usize = 12 << 20;
    let now: Timestamp = "2025-11-01T12:00:00Z".parse().unwrap();
    for (cap, is_list) in [(MAX_ORDER_BYTES, false), (MAX_LIST_BYTES, true)] {
        let server = RawServer::start(framed("Connection: close", ""), ENDLESS);
        let client = client(&server);
        let error = if is_list {
            client.list(1, now, now).await.unwrap_err()
        } else {
            client.check_id(&id()).await.unwrap_err()
        };
        assert!(matches!(error, ApiError::Unreadable { .. }), "{error}");
        assert!(server.sent() <= cap + ON_THE_WAY, "{} bytes were taken", server.sent());
    }
}

#[tokio::test]
async fn a_page_may_be_longer_than_an_order() {
    let page = json!({"success": true, "data": {"topups": []}}).to_string();
    let server = RawServer::start(ok(padded(page, MAX_LIST_BYTES)), Then::Close);
    let now: Timestamp = "2025-11-01T12:00:00Z".parse().unwrap();
    assert_eq!(client(&server).list(1, now, now).await.unwrap().orders, []);
}

#[tokio::test]
async fn a_refused_connection_is_a_connection_error() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    drop(listener);
    let client = Client::new(&url, &SecretString::from(KEY)).unwrap();
    let error = client.check_id(&id()).await.unwrap_err();
    assert_eq!(error.to_string(), "the connection to the provider failed: the connection was refused");
}
