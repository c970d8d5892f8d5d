//! The dependencies of the handlers, as traits, so that tests can replace them with scripted implementations.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use topup_jobs::{Jitter, PollStrategy};

use crate::clock::Clock;
use crate::error_chain::chain;
use crate::job::NextJob;
use crate::notify::{Bulkhead, Channels};
use crate::orders::{NotificationStatus, Order, OrderStore, StoreError};
use crate::provider::TopupApi;
use crate::rate_limit::{Budget, Permit};
use crate::reveal::Links;
use crate::telemetry::Metrics;

/// Dependencies of the handlers.
#[derive(Clone)]
pub struct Environment {
    /// The store of orders.
    pub store: Arc<dyn OrderStore>,
    /// Clients of the provider's API, one per API key: the primary, then the secondary if it is set.
    pub apis: Vec<Arc<dyn TopupApi>>,
    /// Permits for requests to the provider.
    pub budget: Arc<dyn Budget>,
    /// Metrics of the handlers.
    pub metrics: Metrics,
    /// The channels of notifications.
    pub channels: Channels,
    /// Limits the deliveries per endpoint, so that a receiver that does not answer cannot hold up the others.
    pub bulkhead: Arc<Bulkhead>,
    /// Clock of domain time.
    pub clock: Arc<dyn Clock>,
    /// Pace of fast polling.
    pub strategy: PollStrategy,
    /// Links to the page that shows a card once, if there is one.
    pub links: Option<Links>,
    /// Draws the random part of a wait.
    pub jitter: fn() -> Jitter,
    /// Records the results of local channels in the background. Wait for these tasks before the store is closed.
    pub recordings: TaskTracker,
}

/// How long a job waits after a failure of the store, in real (not scaled) time. The job loses no attempt.
pub(super) const TROUBLE_PAUSE: Duration = Duration::from_secs(10);

/// Draws a jitter, uniform from −1 to 1.
#[must_use]
pub fn random_jitter() -> Jitter {
    use rand::RngExt;
    Jitter::new(rand::rng().random_range(-1.0..=1.0))
}

impl Environment {
    /// The client for the permit's API key. There always is one, because a budget grants permits for its own keys only.
    pub(crate) fn api(&self, permit: &Permit) -> &Arc<dyn TopupApi> {
        &self.apis[permit.key]
    }

    /// Jobs for the order's pending notifications. Every check enqueues them again, so that a crash after the store's
    /// commit loses none; a job that is already in the queue stays as it is.
    pub(crate) async fn jobs_to_notify(&self, order: &Order) -> Result<Vec<NextJob>, StoreError> {
        let notifications = self.store.notifications(&order.topup_id).await?;
        let pending = notifications
            .into_iter()
            .filter(|notification| notification.status == NotificationStatus::Pending);
        Ok(pending.map(|notification| NextJob::notify(&notification.payload(&order.topup_id))).collect())
    }
}

/// Shortest time between two logged store failures, unless a failure concerns a single row.
const STORE_FAILURE_LOGGED_EVERY: Duration = Duration::from_secs(30);

/// Logs a store failure. `unlogged` is the number of failures that were not logged since the last logged one.
pub(super) fn log_store_failure(error: &StoreError) {
    static LOGGED: Mutex<(Option<Instant>, u64)> = Mutex::new((None, 0));
    let mut logged = LOGGED.lock().unwrap_or_else(PoisonError::into_inner);
    let (at, unlogged) = *logged;
    // A failure of a single row is always logged, because each may concern another order.
    if !error.is_of_one_row() && at.is_some_and(|at| at.elapsed() < STORE_FAILURE_LOGGED_EVERY) {
        logged.1 += 1;
        return;
    }
    *logged = (Some(Instant::now()), 0);
    tracing::error!(
        error = chain(error),
        more_since_the_last_line = unlogged,
        "the store failed; the job waits and loses no attempt"
    );
}
