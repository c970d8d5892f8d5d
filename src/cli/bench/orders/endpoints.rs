//! The provider and the receiver of the webhooks. They record when each order got its last status and its webhook. They
//! do little else, because they use the CPU of the measured program.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::{get, post};
use tokio::net::{TcpListener, TcpSocket};
use tokio_util::task::AbortOnDropHandle;

/// The outcomes that end the measurement of an order.
const ENDS: [&str; 3] = ["fulfilled", "refunded", "scheduled"];

/// Connections that may wait to be accepted by the receiver.
const BACKLOG: u32 = 1024;

const EMPTY_LIST: &str = r#"{"success":true,"data":{"items":[],"pagination":{"page":1,"pageSize":1,"totalPages":0,"totalResults":0}}}"#;

/// What the provider answers: HANDLING for the first `handling` checks of an order, then the status `then`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answers {
    pub(super) handling: u32,
    pub(super) then: &'static str,
}

/// The served endpoints.
pub(super) struct Endpoints {
    pub(super) api_url: String,
    pub(super) webhook_url: String,
    records: Arc<Mutex<Records>>,
    /// The port of the webhooks, until the receiver listens on it. Connections to it are refused.
    closed: Option<TcpSocket>,
    serving: Vec<AbortOnDropHandle<std::io::Result<()>>>,
}

#[derive(Default)]
struct Records {
    checks: HashMap<String, u32>,
    answered: HashMap<String, Instant>,
    notified: HashMap<String, Instant>,
}

#[derive(Clone)]
struct Served {
    answers: Answers,
    records: Arc<Mutex<Records>>,
}

impl Endpoints {
    /// Serves the provider. The receiver of the webhooks does not listen yet, see [`Endpoints::listen`].
    pub(super) async fn serve(answers: Answers) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let api_url = format!("http://{}", listener.local_addr()?);
        let records: Arc<Mutex<Records>> = Arc::default();
        let router = Router::new()
            .route("/v3/internet/check-id/{id}", get(check))
            // The worker verifies its key with the list.
            .route("/v3/internet/list", get(|| async { ([(header::CONTENT_TYPE, "application/json")], EMPTY_LIST) }))
            .fallback(|| async { (StatusCode::NOT_FOUND, "{}") })
            .with_state(Served { answers, records: Arc::clone(&records) });
        let serving = AbortOnDropHandle::new(tokio::spawn(axum::serve(listener, router).into_future()));
        let closed = TcpSocket::new_v4()?;
        closed.bind((Ipv4Addr::LOCALHOST, 0).into())?;
        Ok(Self {
            webhook_url: format!("http://{}/hook", closed.local_addr()?),
            api_url,
            records,
            closed: Some(closed),
            serving: vec![serving],
        })
    }

    /// Lets the receiver accept webhooks from now on.
    pub(super) fn listen(&mut self) -> anyhow::Result<()> {
        let Some(closed) = self.closed.take() else { return Ok(()) };
        let listener = closed.listen(BACKLOG)?;
        let router = Router::new().route("/hook", post(receive)).with_state(Arc::clone(&self.records));
        let serving = tokio::spawn(axum::serve(listener, router).into_future());
        self.serving.push(AbortOnDropHandle::new(serving));
        Ok(())
    }

    /// Number of orders with a final answer.
    pub(super) fn answered(&self) -> usize {
        lock(&self.records).answered.len()
    }

    /// Number of orders with a webhook.
    pub(super) fn notified(&self) -> usize {
        lock(&self.records).notified.len()
    }

    pub(super) fn notified_at(&self, topup_id: &str) -> Option<Instant> {
        lock(&self.records).notified.get(topup_id).copied()
    }

    /// The times of all webhooks, sorted.
    pub(super) fn notified_times(&self) -> Vec<Instant> {
        let mut times: Vec<Instant> = lock(&self.records).notified.values().copied().collect();
        times.sort_unstable();
        times
    }

    /// For each order, the µs from its final answer to its webhook, sorted.
    pub(super) fn notified_after_us(&self) -> Vec<i64> {
        let records = lock(&self.records);
        let after = |(id, at): (&String, &Instant)| {
            let after = at.duration_since(*records.answered.get(id)?);
            i64::try_from(after.as_micros()).ok()
        };
        let mut all: Vec<i64> = records.notified.iter().filter_map(after).collect();
        all.sort_unstable();
        all
    }
}

fn lock(records: &Mutex<Records>) -> MutexGuard<'_, Records> {
    records.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn check(State(served): State<Served>, Path(id): Path<String>) -> impl IntoResponse {
    let Answers { handling, then } = served.answers;
    let status = {
        let mut records = lock(&served.records);
        let checks = records.checks.entry(id.clone()).or_default();
        *checks += 1;
        if *checks > handling { then } else { "HANDLING" }
    };
    let card = if status == "FULFILLED" {
        r#","card_code":"123456789012345","num_trans":"AT-1","date_traitement":"2025-11-01T12:00:45.000Z""#
    } else {
        ""
    };
    let body = format!(
        r#"{{"success":true,"data":{{"_id":"{id}","ref":"r-1","status":"{status}","type":"ADSL","number":"036362608","topup_amount":1000,"created_at":"2025-11-01T12:00:00.000Z"{card}}}}}"#
    );
    if status == then {
        lock(&served.records).answered.entry(id).or_insert_with(Instant::now);
    }
    ([(header::CONTENT_TYPE, "application/json")], body)
}

async fn receive(State(records): State<Arc<Mutex<Records>>>, headers: HeaderMap, _body: Bytes) -> StatusCode {
    let id = headers.get("webhook-id").and_then(|id| id.to_str().ok()).unwrap_or_default();
    if let ["evt", topup_id, outcome] = id.split('_').collect::<Vec<_>>()[..]
        && ENDS.contains(&outcome)
    {
        lock(&records).notified.entry(topup_id.to_owned()).or_insert_with(Instant::now);
    }
    StatusCode::NO_CONTENT
}
