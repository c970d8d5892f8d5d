//! Tables of faulty answers to `check-id` and their results, one fault a row.
//!
//! Each row is one request over a real connection. Its result is the order or a typed error. The error's text never
//! contains the key, the card, the phone number or the address. The client never repeats a request by itself.

use std::error::Error;
use std::time::Duration;

use super::*;

mod connection;
mod content;
mod refusals;

/// The expected result of a fault.
#[derive(Debug, PartialEq)]
enum Becomes {
    /// The order is read despite the fault, with this status and card code.
    Order(TopupStatus, Option<&'static str>),
    NotFound(String),
    /// Requests pause for this number of seconds. The text is that of the error.
    Gate(u64, String),
    /// The order is checked again, with backoff. The text is that of the error.
    Again(String),
}

fn again(words: &str) -> Becomes {
    Becomes::Again(words.to_owned())
}

fn gate(secs: u64, words: &str) -> Becomes {
    Becomes::Gate(secs, words.to_owned())
}

/// The error of a complete answer with the status 200.
fn unreadable(what: &str) -> Becomes {
    Becomes::Again(format!("the provider's answer cannot be read: {what} (HTTP 200)"))
}

fn fulfilled() -> Becomes {
    Becomes::Order(TopupStatus::Fulfilled, Some(CARD))
}

async fn check(fault: &str, answer: Vec<u8>, then: Then, timeout: Duration, expected: &Becomes) {
    let server = RawServer::start(answer, then);
    let client = Client::with_timeout(server.url(), &SecretString::from(KEY), timeout).unwrap();
    let answer = client.check_id(&id()).await;
    let shown = format!("{answer:?} {}", answer.as_ref().err().map(chain).unwrap_or_default());
    for secret in [KEY, CARD, NUMBER, server.url().authority()] {
        assert!(!shown.contains(secret), "{fault}: {shown}");
    }
    assert_eq!(&becomes(answer), expected, "{fault}");
    assert_eq!(server.requests().len(), 1, "{fault}: requests");
}

async fn check_all<const ROWS: usize>(table: [(&str, Vec<u8>, Becomes); ROWS]) {
    for (fault, answer, expected) in table {
        check(fault, answer, Then::Close, Duration::from_secs(15), &expected).await;
    }
}

fn becomes(answer: Result<ProviderOrder, ApiError>) -> Becomes {
    match answer {
        Ok(order) => {
            let card = order.card.map(|card| card.card_code);
            assert!(card.as_ref().is_none_or(|code| code.reveal() == CARD), "another card");
            Becomes::Order(order.status, card.map(|_| CARD))
        }
        Err(error) => match (error.closes_for(), &error) {
            (Some(wait), _) => Becomes::Gate(wait.as_secs(), error.to_string()),
            (None, ApiError::NotFound(_)) => Becomes::NotFound(error.to_string()),
            (None, _) => Becomes::Again(error.to_string()),
        },
    }
}

fn chain(error: &ApiError) -> String {
    let first: &dyn Error = error;
    let causes = std::iter::successors(Some(first), |&error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
