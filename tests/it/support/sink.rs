//! A webhook receiver that records all deliveries.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use tokio::net::TcpListener;

/// Signing secret of the webhooks.
pub(crate) const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// One recorded delivery.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Received {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    pub(crate) fn id(&self) -> &str {
        self.header("webhook-id")
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// Called with each delivery before the receiver answers.
type OnReceipt = Arc<dyn Fn(&Received) + Send + Sync>;

/// The receiver. It answers with the statuses queued by [`answer_first`](Self::answer_first), then with 204.
#[derive(Clone, Default)]
pub(crate) struct Sink {
    received: Arc<Mutex<Vec<Received>>>,
    answers: Arc<Mutex<VecDeque<StatusCode>>>,
    on_receipt: Option<OnReceipt>,
}

impl Sink {
    /// Listens on a free port and returns the URL.
    pub(crate) async fn listen(&self) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let router = Router::new().route("/", post(receive)).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        format!("http://{address}/")
    }

    /// As [`listen`](Self::listen), and calls `on_receipt` with each delivery before the answer.
    pub(crate) async fn listen_with(&self, on_receipt: impl Fn(&Received) + Send + Sync + 'static) -> String {
        Self { on_receipt: Some(Arc::new(on_receipt)), ..self.clone() }.listen().await
    }

    /// Queues the statuses with which the next deliveries are answered.
    pub(crate) fn answer_first(&self, answers: impl IntoIterator<Item = u16>) {
        let answers = answers.into_iter().map(|code| StatusCode::from_u16(code).expect("a status"));
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).extend(answers);
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn receive(State(sink): State<Sink>, headers: HeaderMap, body: Bytes) -> (StatusCode, String) {
    let received = Received { headers, body: body.to_vec() };
    if let Some(on_receipt) = &sink.on_receipt {
        on_receipt(&received);
    }
    sink.received.lock().unwrap_or_else(PoisonError::into_inner).push(received);
    let answer = sink.answers.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let answer = answer.unwrap_or(StatusCode::NO_CONTENT);
    let text = if answer.is_success() { String::new() } else { format!("status {}", answer.as_u16()) };
    (answer, text)
}
