//! Endpoints for monitoring on `HTTP_ADDR`: `/healthz`, `/readyz` and `/metrics`. Each request reads current values.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, HeaderName};
use axum::routing::get;
use prometheus_client::encoding::prometheus_text;
use tokio::net::TcpListener;

use crate::admin::health::Health;
use crate::rate_limit::RedisBudget;
use crate::shutdown::Shutdown;
use crate::telemetry::Metrics;

const MAX_CONNECTIONS: usize = 64;

#[derive(Clone)]
pub(crate) struct Endpoints {
    pub(crate) health: Health,
    pub(crate) shutdown: Shutdown,
    pub(crate) metrics: Metrics,
    pub(crate) budget: Arc<RedisBudget>,
}

impl Endpoints {
    /// Serves until the process ends, so that `/readyz` can report `stopping` during the shutdown.
    pub(crate) async fn serve(self, listener: TcpListener) {
        let router = Router::new()
            .route("/healthz", get(async || "alive\n"))
            .route("/readyz", get(readyz))
            .route("/metrics", get(metrics))
            .with_state(self);
        crate::http::serve("HTTP_ADDR", listener, MAX_CONNECTIONS, router).await;
    }
}

async fn readyz(State(served): State<Endpoints>) -> (StatusCode, String) {
    match served.health.ready(&served.shutdown, served.budget.standing()) {
        Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")),
    }
}

async fn metrics(State(served): State<Endpoints>) -> ([(HeaderName, &'static str); 1], String) {
    let budget = served.budget.state().await;
    ([(CONTENT_TYPE, prometheus_text::CONTENT_TYPE)], served.metrics.encode(budget.as_ref()))
}
