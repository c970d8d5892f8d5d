//! Tests of the client over a real connection. `faults` holds the tests of failures.

use chrono::TimeDelta;
use secrecy::SecretString;
use serde_json::{Value, json};
use topup_jobs::{Timestamp, TopupStatus};

use self::raw_server::{RawServer, Then};
use super::*;

mod faults;
mod raw_server;

const ID: &str = "6901616fe9e88196b4eb64b2";
const KEY: &str = "primary-key-of-the-merchant";
const SECONDARY: &str = "secondary-key-of-the-merchant";
const CARD: &str = "123456789012";
const NUMBER: &str = "036362608";

fn id() -> TopupId {
    ID.parse().unwrap()
}

/// The documented answer to `check-id`, with another value of one order field.
fn order_with(field: &str, value: Value) -> Value {
    let mut answer = json!({"success": true, "data": {
        "_id": ID, "ref": "order-1", "status": "FULFILLED", "type": "ADSL", "number": NUMBER,
        "topup_amount": 1000, "created_at": "2025-11-01T12:00:00.000Z", "card_code": CARD,
        "num_trans": "AT-2025-12345", "date_traitement": "2025-11-01T12:00:45.000Z",
    }, "requestId": "req_1"});
    answer["data"][field] = value;
    answer
}

fn order() -> String {
    order_with("_id", json!(ID)).to_string()
}

/// An HTTP answer with these additional header lines and the correct `Content-Length`.
fn answer(status: &str, headers: &[&str], body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let headers: String = headers.iter().flat_map(|line| [line, "\r\n"]).collect();
    let head = format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn ok(body: impl AsRef<[u8]>) -> Vec<u8> {
    answer("200 OK", &["Content-Type: application/json"], body)
}

fn client(server: &RawServer) -> Client {
    Client::new(server.url(), &SecretString::from(KEY)).unwrap()
}

#[tokio::test]
async fn both_keys_share_one_connection() {
    let server = RawServer::start(ok(order()), Then::NextRequest);
    let primary = client(&server);
    let secondary = primary.with_secondary_key(&SecretString::from(SECONDARY)).unwrap();
    for client in [&primary, &secondary, &primary] {
        assert_eq!(client.check_id(&id()).await.unwrap().status, TopupStatus::Fulfilled);
    }
    let requests = server.requests();
    let keys: Vec<&str> = requests.iter().filter_map(|(_, head)| header_of(head, "x-access-token")).collect();
    assert_eq!(keys, [KEY, SECONDARY, KEY]);
    assert!(requests.iter().all(|(connection, _)| *connection == 0), "a connection for each key");
    let error = primary.with_secondary_key(&SecretString::from("a\nb")).err().unwrap();
    assert!(matches!(error, ClientError::SecondaryKey), "{error}");
}

#[tokio::test]
async fn a_page_of_the_list_is_requested_with_100_rows_and_times_in_utc() {
    let page = json!({"success": true, "data": {"topups": [{"_id": ID, "status": "QUEUED"}]}});
    let server = RawServer::start(ok(page.to_string()), Then::Close);
    let from: Timestamp = "2025-11-01T12:00:45.120+01:00".parse().unwrap();
    let list = client(&server).list(3, from, from + TimeDelta::hours(72)).await.unwrap();
    assert_eq!((list.orders[0].topup_id.as_str(), list.next_page), (ID, None));
    let requests = server.requests();
    let (_, head) = &requests[0];
    let target = head.split(' ').nth(1).unwrap();
    let query: Vec<(String, String)> =
        server.url().join(target).unwrap().query_pairs().into_owned().collect();
    let expected = [
        ("page", "3"),
        ("pageSize", "100"),
        ("from", "2025-11-01T11:00:45.120Z"),
        ("to", "2025-11-04T11:00:45.120Z"),
    ];
    assert!(target.starts_with("/v3/internet/list?"), "{target}");
    assert_eq!(query, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

fn header_of<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().filter_map(|line| line.split_once(": ")).find_map(|(n, value)| (n == name).then_some(value))
}
