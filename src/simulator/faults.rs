//! Draws faults and builds their answers.
//!
//! Each fault is documented by the provider or was seen by its other clients. A script causes a fault for one order;
//! the error rate causes faults for any check. A fault must not change an order, the lockout or the rate limit.

use std::convert::Infallible;
use std::io;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::json;
use tokio::sync::watch;

use super::envelope::{ApiError, Stamp, Success, router_error};
use super::fault::Fault;
use super::orders::OrderView;

/// A chunk of the huge body, which has `HUGE_CHUNKS` chunks of 64 KiB, 64 MiB together.
const HUGE_CHUNK: &[u8] = &[b'a'; 64 * 1024];
const HUGE_CHUNKS: usize = 1024;
/// Pause before each byte of the slow body, in real (not scaled) time.
const SLOW_BYTE: Duration = Duration::from_secs(1);

/// A signal that turns true when the server is asked to stop, so that hanging answers end.
#[derive(Clone)]
pub(super) struct Stopping(pub(super) watch::Receiver<bool>);

impl Fault {
    /// The fault's name in the record of calls: status and error code, or a description of a fault without a code.
    #[must_use]
    pub fn label(&self) -> String {
        match self {
            Self::RouterError => "404 router error".to_owned(),
            Self::NotJson => "200 not JSON".to_owned(),
            Self::Truncated => "200 truncated".to_owned(),
            Self::BrokenOff => "200 broken off".to_owned(),
            Self::SlowBody => "200 slow body".to_owned(),
            Self::WrongContentType => "200 wrong content type".to_owned(),
            Self::OtherOrder => "200 other order".to_owned(),
            Self::WrongShape => "200 wrong shape".to_owned(),
            Self::HugeBody => "200 huge body".to_owned(),
            Self::Hang => "no answer".to_owned(),
            Self::DropConnection => "connection dropped".to_owned(),
            other => other.api_error("").map_or_else(String::new, |error| error.label()),
        }
    }

    fn api_error(&self, topup_id: &str) -> Option<ApiError> {
        Some(match self {
            Self::InternalError500 => ApiError::internal(),
            Self::Unavailable503 { retry_after } => ApiError::unavailable(*retry_after),
            Self::AuthUnavailable503 => ApiError::auth_unavailable(),
            Self::NotFound404 => ApiError::not_found("ID", topup_id),
            Self::RateLimited429 { retry_after } => ApiError::rate_limited(*retry_after),
            Self::InvalidToken401 => ApiError::invalid_token(4),
            Self::IpBlocked403 => ApiError::ip_blocked(),
            _ => return None,
        })
    }

    /// Draws a fault with probability `rate`; `None` means a normal answer.
    pub(super) fn draw(rate: f64, rng: &mut StdRng) -> Option<Self> {
        if rate <= 0.0 || rng.random::<f64>() >= rate {
            return None;
        }
        Some(match rng.random_range(0..5) {
            0 => Self::InternalError500,
            1 => Self::Unavailable503 { retry_after: None },
            2 => Self::NotJson,
            3 => Self::Truncated,
            _ => Self::DropConnection,
        })
    }

    /// The fault's answer, built from the order's true state. `Hang` returns only when the server stops.
    pub(super) async fn respond(
        self,
        mut order: OrderView,
        stamp: Stamp,
        stopping: Option<Stopping>,
    ) -> Response {
        if let Some(error) = self.api_error(&order.id) {
            return error.into_response(stamp);
        }
        match self {
            Self::RouterError => router_error("Route GET:/v3/internet/check-id not found"),
            Self::NotJson => {
                let page = "<html><head><title>One moment</title></head><body>Please wait…</body></html>";
                ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], page).into_response()
            }
            Self::Truncated => truncated(order, stamp),
            Self::BrokenOff => broken_off(order, stamp),
            Self::SlowBody => slow(order, stamp, stopping),
            Self::WrongContentType => {
                ([(header::CONTENT_TYPE, "text/html")], Success::new(order, stamp).to_bytes()).into_response()
            }
            Self::OtherOrder => {
                let last = if order.id.ends_with('0') { '1' } else { '0' };
                order.id.pop();
                order.id.push(last);
                Success::new(order, stamp).into_response()
            }
            Self::WrongShape => {
                Success::new(json!({ "_id": order.id, "ref": order.reference }), stamp).into_response()
            }
            Self::HugeBody => huge(),
            Self::Hang => {
                stopped(stopping.as_ref()).await;
                dropped()
            }
            _ => dropped(),
        }
    }
}

fn truncated(order: OrderView, stamp: Stamp) -> Response {
    let mut body = Success::new(order, stamp).to_bytes();
    let mark = br#","created_at""#;
    let cut = body.windows(mark.len()).rposition(|part| part == mark).map_or(body.len() / 2, |at| at + 5);
    body.truncate(cut);
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// Half of the answer, then an error. The yield before the error lets other tasks send the head and the half.
fn broken_off(order: OrderView, stamp: Stamp) -> Response {
    let whole = Success::new(order, stamp).to_bytes();
    let half = Bytes::copy_from_slice(&whole[..whole.len() / 2]);
    let end = stream::once(async {
        tokio::task::yield_now().await;
        Err(io::Error::from(io::ErrorKind::ConnectionAborted))
    });
    let head = [(header::CONTENT_TYPE, "application/json".to_owned()), {
        (header::CONTENT_LENGTH, whole.len().to_string())
    }];
    (head, Body::from_stream(stream::iter([Ok(half)]).chain(end))).into_response()
}

fn slow(order: OrderView, stamp: Stamp, stopping: Option<Stopping>) -> Response {
    let whole = Bytes::from(Success::new(order, stamp).to_bytes());
    let bytes = stream::unfold(whole, move |mut left| {
        let stopping = stopping.clone();
        async move {
            if left.is_empty() {
                return None;
            }
            tokio::select! {
                () = tokio::time::sleep(SLOW_BYTE) => Some((Ok(left.split_to(1)), left)),
                () = stopped(stopping.as_ref()) => {
                    Some((Err(io::Error::from(io::ErrorKind::ConnectionAborted)), Bytes::new()))
                }
            }
        }
    });
    ([(header::CONTENT_TYPE, "application/json")], Body::from_stream(bytes)).into_response()
}

async fn stopped(stopping: Option<&Stopping>) {
    match stopping {
        // An error means that the server has already stopped.
        Some(Stopping(stopping)) => drop(stopping.clone().wait_for(|stop| *stop).await),
        None => std::future::pending().await,
    }
}

fn huge() -> Response {
    let start = Bytes::from_static(br#"{"success":true,"data":{"status":"HANDLING","filler":""#);
    let chunks = stream::iter(std::iter::repeat_n(Bytes::from_static(HUGE_CHUNK), HUGE_CHUNKS));
    let whole = stream::iter([start]).chain(chunks).chain(stream::iter([Bytes::from_static(br#""}}"#)]));
    let body = Body::from_stream(whole.map(Ok::<_, Infallible>));
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// A response whose body fails at its first frame. Hyper has not sent the head yet, and closes the connection instead.
fn dropped() -> Response {
    let failing = stream::iter([Err::<Bytes, _>(io::Error::from(io::ErrorKind::ConnectionAborted))]);
    (StatusCode::INTERNAL_SERVER_ERROR, Body::from_stream(failing)).into_response()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn the_error_rate_is_a_share() {
        let mut rng = StdRng::seed_from_u64(3);
        let mut faults = |rate| (0..2_000).filter(|_| Fault::draw(rate, &mut rng).is_some()).count();
        assert_eq!(faults(0.0), 0);
        assert_eq!(faults(1.0), 2_000);
        assert!((400..600).contains(&faults(0.25)));
    }

    #[test]
    fn labels_name_status_and_code() {
        assert_eq!(Fault::Unavailable503 { retry_after: Some(9) }.label(), "503 SERVICE_UNAVAILABLE");
        assert_eq!(Fault::InvalidToken401.label(), "401 INVALID_ACCESS_TOKEN");
        assert_eq!(Fault::Hang.label(), "no answer");
    }
}
