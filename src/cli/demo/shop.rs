//! The merchant's shop in the demo: an endpoint that receives events and verifies each of them with the public Standard
//! Webhooks library, as a real shop does. The shop keeps each body, because a repeated event must have the same body.
//! Some first attempts are answered with 503, as by a failing shop. No part of a body may be printed or logged.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use standardwebhooks::Webhook;
use tokio::net::TcpListener;

/// Real time that the shop takes to answer, like a distant server.
pub(super) const ANSWER_TIME: Duration = Duration::from_millis(40);
/// Every twelfth new event is answered with 503 at its first attempt, so that the demo shows a retry.
const OUT_OF_ORDER_ONE_IN: usize = 12;

/// The shop's record of one event.
pub(super) struct Delivery {
    /// The body of the first attempt.
    pub(super) body: Bytes,
    /// Whether every further attempt carried the same body.
    pub(super) same_body: bool,
    /// Number of attempts answered with 204.
    pub(super) taken: u32,
    /// Number of attempts answered with 503.
    pub(super) turned_away: u32,
}

/// Everything the shop has received.
#[derive(Default)]
pub(super) struct Book {
    /// Keyed by `webhook-id`.
    pub(super) events: BTreeMap<String, Delivery>,
    /// Number of requests with a wrong signature.
    pub(super) forged: u32,
}

/// The merchant's shop. Clones share the record of received events.
#[derive(Clone)]
pub(super) struct Shop {
    book: Arc<Mutex<Book>>,
    verifier: Arc<Webhook>,
}

impl Shop {
    /// Creates a shop that verifies signatures with `secret`, the secret with which the workers sign.
    pub(super) fn new(secret: &str) -> anyhow::Result<Self> {
        Ok(Self { book: Arc::default(), verifier: Arc::new(Webhook::new(secret)?) })
    }

    /// Creates a random secret. Webhook secrets are base64, and hexadecimal digits are valid base64.
    pub(super) fn secret() -> String {
        format!("whsec_{}", hex::encode(rand::random::<[u8; 24]>()))
    }

    /// Serves the shop on a free loopback port until the process ends. Returns the URL of its endpoint.
    pub(super) async fn open(&self) -> anyhow::Result<String> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let url = format!("http://{}/topups", listener.local_addr()?);
        let router = Router::new().route("/topups", post(receive)).with_state(self.clone());
        tokio::spawn(axum::serve(listener, router).into_future());
        Ok(url)
    }

    pub(super) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    /// Number of accepted events.
    pub(super) fn taken(&self) -> usize {
        self.events.values().filter(|delivery| delivery.taken > 0).count()
    }

    /// Whether the shop has accepted an event with this outcome for at least one order.
    pub(super) fn heard_of(&self, outcome: &str) -> bool {
        self.events.iter().any(|(id, delivery)| delivery.taken > 0 && id.ends_with(outcome))
    }

    /// Whether an event was first answered with 503 and accepted at a later attempt.
    pub(super) fn taken_after_trouble(&self) -> bool {
        self.events.values().any(|delivery| delivery.turned_away > 0 && delivery.taken > 0)
    }

    fn enter(&mut self, id: &str, body: &Bytes) -> StatusCode {
        let place = self.events.len() + 1;
        let mut new = false;
        let delivery = self.events.entry(id.to_owned()).or_insert_with(|| {
            new = true;
            Delivery { body: body.clone(), same_body: true, taken: 0, turned_away: 0 }
        });
        delivery.same_body &= delivery.body == *body;
        if new && place.is_multiple_of(OUT_OF_ORDER_ONE_IN) {
            delivery.turned_away += 1;
            return StatusCode::SERVICE_UNAVAILABLE;
        }
        delivery.taken += 1;
        StatusCode::NO_CONTENT
    }
}

/// Records the event, then waits and answers. So the event counts even if the worker dies before the answer.
async fn receive(State(shop): State<Shop>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let genuine = shop.verifier.verify(&body, &headers).is_ok();
    let id = headers.get("webhook-id").and_then(|id| id.to_str().ok()).filter(|_| genuine);
    let answer = if let Some(id) = id {
        shop.book().enter(id, &body)
    } else {
        shop.book().forged += 1;
        StatusCode::UNAUTHORIZED
    };
    tokio::time::sleep(ANSWER_TIME).await;
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeat_with_another_body_is_detected() {
        let mut book = Book::default();
        for body in ["a", "a"] {
            assert_eq!(book.enter("evt_1_fulfilled", &Bytes::from(body)), StatusCode::NO_CONTENT);
        }
        assert!(book.events["evt_1_fulfilled"].same_body);
        book.enter("evt_1_fulfilled", &Bytes::from("b"));
        assert!(!book.events["evt_1_fulfilled"].same_body);
        assert_eq!((book.taken(), book.events["evt_1_fulfilled"].taken), (1, 3));
        assert!(book.heard_of("fulfilled") && !book.heard_of("refunded"));
    }

    #[test]
    fn one_event_in_twelve_gets_a_503_once() {
        let mut book = Book::default();
        let answers: Vec<_> = (0..24).map(|n| book.enter(&format!("evt_{n}"), &Bytes::new())).collect();
        let away = answers.iter().filter(|answer| **answer == StatusCode::SERVICE_UNAVAILABLE).count();
        assert_eq!((away, book.taken()), (2, 22));
        assert_eq!(book.enter("evt_11", &Bytes::new()), StatusCode::NO_CONTENT);
        assert!(book.taken_after_trouble());
    }

    #[test]
    fn a_signature_of_another_secret_is_not_genuine() {
        let (ours, theirs) = (Shop::secret(), Shop::secret());
        let shop = Shop::new(&ours).unwrap();
        let now = crate::clock::real_now().timestamp();
        for (secret, genuine) in [(ours, true), (theirs, false)] {
            let signature = Webhook::new(&secret).unwrap().sign("evt_1", now, b"{}").unwrap();
            let mut headers = HeaderMap::new();
            headers.insert("webhook-id", "evt_1".parse().unwrap());
            headers.insert("webhook-timestamp", now.into());
            headers.insert("webhook-signature", signature.parse().unwrap());
            assert_eq!(shop.verifier.verify(b"{}", &headers).is_ok(), genuine);
        }
    }
}
