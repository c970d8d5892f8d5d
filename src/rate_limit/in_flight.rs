//! The requests of this worker that are in flight.
//!
//! A request counts as in flight under a lease that this worker renews. When the process dies the lease ends within
//! seconds, and other workers may make requests again; in the log of the last minute the request still counts.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::{REQUEST, scripts};
use crate::job::WORKER_IS_GONE_AFTER;
use crate::provider::KeyFingerprint;
use crate::redis::{Connection, millis};

/// How long a request counts as in flight without a renewal: as long as a worker may be silent. Real time.
pub(super) const LEASE: Duration = WORKER_IS_GONE_AFTER;
/// Pause between two renewals. Most requests are answered before the first.
const RENEW_INTERVAL: Duration = Duration::from_millis(1_500);

/// Requests by the number of their permit.
type Requests = Arc<(Mutex<HashMap<String, Request>>, Notify)>;

struct Request {
    key: KeyFingerprint,
    began_at: Instant,
}

/// The requests in flight, and the task that renews their leases.
pub(super) struct InFlight {
    requests: Requests,
    _renewing: AbortOnDropHandle<()>,
}

impl InFlight {
    /// None yet. Leases are renewed over this connection, for the budget of this name.
    pub(super) fn renewed_by(connection: Connection, budget: String) -> Self {
        let requests = Requests::default();
        let renewing = tokio::spawn(renew(Arc::clone(&requests), connection, budget));
        Self { requests, _renewing: AbortOnDropHandle::new(renewing) }
    }

    /// A request is made with this key.
    pub(super) fn began(&self, permit: &str, key: &KeyFingerprint) {
        let (requests, changed) = &*self.requests;
        let request = Request { key: key.clone(), began_at: Instant::now() };
        requests.lock().unwrap_or_else(PoisonError::into_inner).insert(permit.to_owned(), request);
        changed.notify_one();
    }

    /// The request was answered, or has failed.
    pub(super) fn ended(&self, permit: &str) {
        self.requests.0.lock().unwrap_or_else(PoisonError::into_inner).remove(permit);
    }
}

async fn renew(requests: Requests, connection: Connection, budget: String) {
    let (requests, changed) = &*requests;
    loop {
        tokio::time::sleep(RENEW_INTERVAL).await;
        let mut call = scripts::BUDGET_RENEW.prepare_invoke();
        call.key(&budget).arg(millis(LEASE));
        let none = {
            let mut requests = requests.lock().unwrap_or_else(PoisonError::into_inner);
            // A request whose task has ended without an answer is renewed no longer than a request can take.
            requests.retain(|_, request| request.began_at.elapsed() < REQUEST);
            for (permit, request) in &*requests {
                call.arg(request.key.as_str()).arg(permit);
            }
            requests.is_empty()
        };
        if none {
            changed.notified().await;
        } else if let Err(error) = call.invoke_async::<()>(&mut connection.get()).await {
            connection.failed(&error);
        }
    }
}
