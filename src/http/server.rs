//! The HTTP listener of this service, for the operator's endpoints and for the page of a link.
//!
//! A listener has a fixed number of connections. Where all are taken, a new connection closes the one that has waited
//! longest for a request, so that clients who open connections and send nothing keep out no client who sends a request.
//! A connection on which a request is being answered is never closed for another one: a card that is shown once must
//! arrive. A head of a request that does not arrive in time, a body that is too long or too slow, and a connection
//! without requests end the connection. Requests are read whole before they are answered.
//!
//! It does not speak HTTP/2 or TLS: a reverse proxy does.

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

/// Longest head of a request, in bytes.
const MAX_HEAD: usize = 16 * 1024;
/// Longest body of a request, in bytes.
const MAX_BODY: usize = 4 * 1024;
/// How long a connection may take to end, once its time is over.
const TO_END: Duration = Duration::from_secs(10);
/// The pause after the system gives no connection, most often for want of file descriptors.
const AFTER_ERROR: Duration = Duration::from_millis(100);
/// A listener says no more often that it is full or gets no connections.
const LOGGED_EVERY: Duration = Duration::from_mins(1);

/// How long a client may take.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// For the head of a request, and to begin the next one.
    head: Duration,
    /// For the body of a request.
    body: Duration,
    /// For all requests of a connection. It bounds how long an answer may remain unread, too.
    connection: Duration,
}

const LIMITS: Limits = Limits {
    head: Duration::from_secs(20),
    body: Duration::from_secs(10),
    connection: Duration::from_mins(10),
};

/// Serves this router for as long as the process lives, with at most `most` connections at once. `setting` is the
/// name of the setting with the address, for the log.
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
                    tracing::warn!(setting, %error, "the listener of this setting gets no connections; trying again");
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
                "the listener of this setting has all its connections; each new one closes the one that has waited \
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
    // A connection that breaks off, or brings what is no HTTP, is the client's affair.
    tokio::select! {
        // First the connection: what has been answered is written before it may be closed.
        biased;
        _ = connection.as_mut() => return,
        () = open.open.close.cancelled() => return,
        () = sleep(limits.connection) => connection.as_mut().graceful_shutdown(),
    }
    drop(timeout(TO_END, connection).await);
}

/// Reads the request whole and answers it.
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

/// An answer to a request that was not read to its end.
fn refused(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response.headers_mut().insert("connection", axum::http::HeaderValue::from_static("close"));
    response
}

/// The connections of one listener.
#[derive(Debug)]
struct Connections {
    most: usize,
    open: Mutex<Vec<Arc<Open>>>,
}

/// An open connection.
#[derive(Debug)]
struct Open {
    /// Whether a request is being answered.
    answering: AtomicBool,
    /// Since when it has waited for a request.
    waiting_since: Mutex<Instant>,
    close: CancellationToken,
}

/// What became of a new connection.
#[derive(Debug)]
enum Entered {
    /// There was room for it.
    Free(Place),
    /// Another one is closed for it.
    InPlaceOf(Place),
    /// A request is being answered on each of the others.
    Refused,
}

/// A connection's place among the others, until it is dropped.
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
        // A poisoned lock holds a whole list all the same: nothing in between can panic.
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

/// A request is being answered, until this is dropped.
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

/// When something was last logged.
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
