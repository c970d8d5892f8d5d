//! The requests of this worker in flight, each with a lease that the worker renews. If the process dies, its leases end
//! within seconds, and its requests no longer count as in flight. They still count against the requests per minute.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::{REQUEST, scripts};
use crate::job::WORKER_IS_GONE_AFTER;
use crate::provider::KeyFingerprint;
use crate::redis::{Connection, millis};

/// How long a lease lasts without a renewal, in real (not scaled) time. A worker silent for longer counts as dead.
pub(super) const LEASE: Duration = WORKER_IS_GONE_AFTER;
/// Pause between two renewals. Most requests are answered before the first renewal.
const RENEW_INTERVAL: Duration = Duration::from_millis(1_500);

/// The requests in flight, by permit number, and a signal that one was added.
type Requests = Arc<(Mutex<HashMap<String, Request>>, Notify)>;

struct Request {
    key: KeyFingerprint,
    began_at: Instant,
}

pub(super) struct InFlight {
    requests: Requests,
    ended: watch::Sender<()>,
    _renewing: AbortOnDropHandle<()>,
}

impl InFlight {
    /// Starts the task that renews the leases. `budget` is the prefix of the budget's keys in Redis.
    pub(super) fn renewed_by(connection: Connection, budget: String) -> Self {
        let requests = Requests::default();
        let renewing = tokio::spawn(renew(Arc::clone(&requests), connection, budget));
        Self { requests, ended: watch::Sender::new(()), _renewing: AbortOnDropHandle::new(renewing) }
    }

    pub(super) fn began(&self, permit: &str, key: &KeyFingerprint) {
        let (requests, changed) = &*self.requests;
        let request = Request { key: key.clone(), began_at: Instant::now() };
        requests.lock().unwrap_or_else(PoisonError::into_inner).insert(permit.to_owned(), request);
        changed.notify_one();
    }

    /// Redis no longer counts this request as in flight.
    pub(super) fn ended(&self, permit: &str) {
        self.requests.0.lock().unwrap_or_else(PoisonError::into_inner).remove(permit);
        self.ended.send_replace(());
    }

    /// Changes whenever a request has ended.
    pub(super) fn ended_requests(&self) -> watch::Receiver<()> {
        self.ended.subscribe()
    }

    pub(super) fn has_any(&self) -> bool {
        !self.requests.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
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
            // A task may end without a call of `ended`, so no request is renewed for longer than `REQUEST`.
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
