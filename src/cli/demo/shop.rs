//! The merchant's side: an endpoint that receives the notifications and trusts none of them.
//!
//! Every signature is checked with the public library of Standard Webhooks, as a shop does it, and every
//! body is kept until the end, for a repeat must carry the same one. Now and then it is out of order and
//! answers 503, as shops are. It must show nothing of a body to anyone.

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

/// How long the shop takes to answer; real time, as a shop far away would.
pub(super) const ANSWER_TIME: Duration = Duration::from_millis(40);
/// The first attempt of one in so many events is answered with 503.
const OUT_OF_ORDER_ONE_IN: usize = 12;

/// What the shop knows of one event.
pub(super) struct Told {
    /// The body of the first attempt.
    pub(super) body: Bytes,
    /// Whether every further attempt carried the same.
    pub(super) same_body: bool,
    /// Attempts that were answered with 204.
    pub(super) taken: u32,
    /// Attempts that were answered with 503.
    pub(super) turned_away: u32,
}

/// All that was received.
#[derive(Default)]
pub(super) struct Book {
    /// By `webhook-id`.
    pub(super) events: BTreeMap<String, Told>,
    /// Requests whose signature was not right.
    pub(super) forged: u32,
}

/// The shop. Clones share the book.
#[derive(Clone)]
pub(super) struct Shop {
    book: Arc<Mutex<Book>>,
    verifier: Arc<Webhook>,
}

impl Shop {
    /// A shop that shares this secret with the workers.
    pub(super) fn new(secret: &str) -> anyhow::Result<Self> {
        Ok(Self { book: Arc::default(), verifier: Arc::new(Webhook::new(secret)?) })
    }

    /// A secret for one run: hexadecimal digits are base64 as well.
    pub(super) fn secret() -> String {
        format!("whsec_{}", hex::encode(rand::random::<[u8; 24]>()))
    }

    /// Opens it on a free port of the loopback and gives the address of its endpoint. It stays open until the
    /// process ends.
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
    /// Events that were received and taken.
    pub(super) fn taken(&self) -> usize {
        self.events.values().filter(|told| told.taken > 0).count()
    }

    /// Whether an event of this outcome was taken, for any order.
    pub(super) fn heard_of(&self, outcome: &str) -> bool {
        self.events.iter().any(|(id, told)| told.taken > 0 && id.ends_with(outcome))
    }

    /// Whether an event was turned away and taken later.
    pub(super) fn taken_after_trouble(&self) -> bool {
        self.events.values().any(|told| told.turned_away > 0 && told.taken > 0)
    }

    fn enter(&mut self, id: &str, body: &Bytes) -> StatusCode {
        let place = self.events.len() + 1;
        let mut new = false;
        let told = self.events.entry(id.to_owned()).or_insert_with(|| {
            new = true;
            Told { body: body.clone(), same_body: true, taken: 0, turned_away: 0 }
        });
        told.same_body &= told.body == *body;
        if new && place.is_multiple_of(OUT_OF_ORDER_ONE_IN) {
            told.turned_away += 1;
            return StatusCode::SERVICE_UNAVAILABLE;
        }
        told.taken += 1;
        StatusCode::NO_CONTENT
    }
}

/// The event is in the book before it is answered, so that an answer nobody waits for any more is no loss.
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
    fn a_repeat_with_another_body_is_noticed() {
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
    fn one_in_twelve_is_turned_away_once() {
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
