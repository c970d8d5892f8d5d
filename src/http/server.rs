//! The HTTP/1 listener for the operator's endpoints and the card page. A reverse proxy adds HTTP/2 and TLS.
//!
//! The number of connections is limited. At the limit a new connection closes the one that has waited longest for a
//! request, so that silent clients cannot lock out others. A connection on which a request is being answered is never
//! closed for a new one, because the answer may be a card, which is shown only once. A connection ends if a request
//! arrives too slowly, is too long or does not come. A request is read whole before it is answered.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

const MAX_HEAD: usize = 16 * 1024;
const MAX_BODY: usize = 4 * 1024;
/// Grace period for the answer on a connection that has reached its time limit.
const TO_END: Duration = Duration::from_secs(10);
/// Pause after a failed `accept`. The usual cause is a lack of file descriptors, so an immediate retry would fail too.
const AFTER_ERROR: Duration = Duration::from_millis(100);
/// Shortest time between two warnings of the same kind.
const LOGGED_EVERY: Duration = Duration::from_mins(1);

#[derive(Debug, Clone, Copy)]
struct Limits {
    /// Time limit for the head of a request, including the wait for the request.
    head: Duration,
    body: Duration,
    /// Time limit of a whole connection; it also ends a connection whose client does not read the answer.
    connection: Duration,
}

const LIMITS: Limits = Limits {
    head: Duration::from_secs(20),
    body: Duration::from_secs(10),
    connection: Duration::from_mins(10),
};

/// Serves a router until the process ends, with at most `most` connections at once. `setting`, the name of the setting
/// that holds the address, identifies the listener in the log.
pub(crate) async fn serve(setting: &'static str, listener: TcpListener, most: usize, router: Router) {
    serve_within(LIMITS, setting, listener, most, router).await;
}

async fn serve_within(
    limits: Limits,
    setting: &'static str,
    listener: TcpListener,
    most: usize,
    router: Router,
) {
    let connections = Arc::new(Connections { most, open: Mutex::default() });
    let (mut full, mut failed) = (Log::default(), Log::default());
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                if failed.is_due() {
                    tracing::warn!(setting, %error, "the listener cannot accept connections; retrying");
                }
                sleep(AFTER_ERROR).await;
                continue;
            }
        };
        let entered = connections.enter();
        if !matches!(entered, Entered::Free(_)) && full.is_due() {
            tracing::warn!(
                setting,
                most,
                "the listener is at its limit of connections; each new connection closes the one that has waited \
                 longest for a request"
            );
        }
        if let Entered::Free(open) | Entered::InPlaceOf(open) = entered {
            tokio::spawn(keep(limits, stream, open, router.clone()));
        }
    }
}

/// Answers the requests of one connection until it ends.
async fn keep(limits: Limits, stream: TcpStream, open: Place, router: Router) {
    let service = service_fn(|request| {
        let (open, router) = (Arc::clone(&open.open), router.clone());
        async move { Ok::<_, Infallible>(answer(limits, request, &open, router).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    // Broken connections and invalid HTTP are the client's fault and are not logged.
    tokio::select! {
        // Biased: the connection is polled first, so that a finished answer is written before `close` takes effect.
        biased;
        _ = connection.as_mut() => return,
        () = open.open.close.cancelled() => return,
        () = sleep(limits.connection) => connection.as_mut().graceful_shutdown(),
    }
    drop(timeout(TO_END, connection).await);
}

async fn answer(limits: Limits, request: Request<Incoming>, open: &Open, router: Router) -> Response<Body> {
    let (head, body) = request.into_parts();
    let body = match timeout(limits.body, to_bytes(Body::new(body), MAX_BODY)).await {
        Ok(Ok(body)) => body,
        Ok(Err(_)) => return refused(StatusCode::PAYLOAD_TOO_LARGE),
        Err(_elapsed) => return refused(StatusCode::REQUEST_TIMEOUT),
    };
    let _answering = Answering::begin(open);
    // Invariant: a router answers every request.
    router.oneshot(Request::from_parts(head, Body::from(body))).await.unwrap_or_else(|never| match never {})
}

/// An error answer that closes the connection, since the rest of the request was not read.
fn refused(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response.headers_mut().insert("connection", axum::http::HeaderValue::from_static("close"));
    response
}

#[derive(Debug)]
struct Connections {
    most: usize,
    open: Mutex<Vec<Arc<Open>>>,
}

#[derive(Debug)]
struct Open {
    answering: AtomicBool,
    /// Start of the current wait for a request.
    waiting_since: Mutex<Instant>,
    close: CancellationToken,
}

#[derive(Debug)]
enum Entered {
    /// The listener was below its limit.
    Free(Place),
    /// The listener was at its limit, so an idle connection was closed.
    InPlaceOf(Place),
    /// The listener was at its limit and every connection was answering a request, so the new one is closed.
    Refused,
}

/// Registers a connection with its listener; dropping it removes the connection.
#[derive(Debug)]
struct Place {
    connections: Arc<Connections>,
    open: Arc<Open>,
}

impl Connections {
    fn enter(self: &Arc<Self>) -> Entered {
        let open = Arc::new(Open {
            answering: AtomicBool::new(false),
            waiting_since: Mutex::new(Instant::now()),
            close: CancellationToken::new(),
        });
        let place = Place { connections: Arc::clone(self), open: Arc::clone(&open) };
        let mut all = self.open();
        let is_full = all.len() >= self.most;
        if is_full {
            let waiting = all.iter().enumerate().filter(|(_, open)| !open.answering.load(Ordering::SeqCst));
            let Some((longest, _)) = waiting.min_by_key(|(_, open)| open.waiting_since()) else {
                return Entered::Refused;
            };
            all.swap_remove(longest).close.cancel();
        }
        all.push(open);
        if is_full { Entered::InPlaceOf(place) } else { Entered::Free(place) }
    }

    fn open(&self) -> MutexGuard<'_, Vec<Arc<Open>>> {
        // A poisoned lock leaves the list consistent, because no update can panic halfway.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn waiting_since(&self) -> Instant {
        *self.waiting_since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.open().retain(|open| !Arc::ptr_eq(open, &self.open));
    }
}

/// Marks a connection as answering a request; dropping it marks the connection as waiting.
struct Answering<'a>(&'a Open);

impl<'a> Answering<'a> {
    fn begin(open: &'a Open) -> Self {
        open.answering.store(true, Ordering::SeqCst);
        Self(open)
    }
}

impl Drop for Answering<'_> {
    fn drop(&mut self) {
        *self.0.waiting_since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.0.answering.store(false, Ordering::SeqCst);
    }
}

/// Time of the last warning of one kind; the next one is logged [`LOGGED_EVERY`] later at the earliest.
#[derive(Default)]
struct Log(Option<Instant>);

impl Log {
    fn is_due(&mut self) -> bool {
        let due = self.0.is_none_or(|logged| logged.elapsed() >= LOGGED_EVERY);
        if due {
            self.0 = Some(Instant::now());
        }
        due
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
