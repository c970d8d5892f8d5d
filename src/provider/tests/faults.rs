//! Everything else that may come instead of an order: one row a fault, what it is and what becomes of it.
//!
//! Every row is asked once, over a real connection. It ends in the order or in a typed error with the retry
//! that the table of decisions asks for, in words without the key, the card, the number or the address; and
//! it costs one request, for the client asks no second time by itself.

use std::error::Error;
use std::time::Duration;

use super::*;

mod connection;
mod content;
mod refusals;

/// What becomes of a fault.
#[derive(Debug, PartialEq)]
enum Becomes {
    /// No fault after all: the order, with this card code.
    Order(TopupStatus, Option<&'static str>),
    /// The provider does not know the order.
    NotFound(String),
    /// Nobody asks for so many seconds.
    Gate(u64, String),
    /// The order is asked for again, with backoff.
    Again(String),
}

fn again(words: &str) -> Becomes {
    Becomes::Again(words.to_owned())
}

fn gate(secs: u64, words: &str) -> Becomes {
    Becomes::Gate(secs, words.to_owned())
}

/// The error of an answer that came whole with the status 200.
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
