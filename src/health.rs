//! `/healthz` and `/readyz`: whether the process lives, and whether it can work now.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;

use crate::queue::RedisHealth;
use crate::shutdown::Shutdown;

/// What the endpoints tell.
#[derive(Debug, Clone)]
pub(crate) struct Health {
    redis: RedisHealth,
    started: Arc<AtomicBool>,
}

impl Health {
    /// A process that is starting.
    #[must_use]
    pub(crate) fn new(redis: RedisHealth) -> Self {
        Self { redis, started: Arc::default() }
    }

    /// Everything is set up.
    pub(crate) fn started(&self) {
        self.started.store(true, Ordering::Relaxed);
    }

    fn ready(&self, shutdown: &Shutdown) -> Result<(), &'static str> {
        if shutdown.is_requested() {
            Err("stopping")
        } else if !self.started.load(Ordering::Relaxed) {
            Err("starting")
        } else if !self.redis.is_up() {
            Err("Redis does not answer")
        } else {
            Ok(())
        }
    }
}

/// Serves for as long as the process lives: one that is stopping says so.
///
/// # Errors
/// `io::Error` where the listener fails.
pub(crate) async fn serve(listener: TcpListener, health: Health, shutdown: Shutdown) -> std::io::Result<()> {
    let router = Router::new()
        .route("/healthz", get(async || "alive\n"))
        .route("/readyz", get(readyz))
        .with_state((health, shutdown));
    axum::serve(listener, router).await
}

async fn readyz(State((health, shutdown)): State<(Health, Shutdown)>) -> (StatusCode, String) {
    match health.ready(&shutdown) {
        Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")),
    }
}
