//! What the handlers work with: traits at every edge, the real thing or a scripted one behind them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
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
    /// Where orders are stored.
    pub store: Arc<dyn OrderStore>,
    /// The provider, asked with the primary key and with the secondary one if there is one.
    pub apis: Vec<Arc<dyn TopupApi>>,
    /// What the provider allows.
    pub budget: Arc<dyn Budget>,
    /// What is counted of all this.
    pub metrics: Metrics,
    /// The channels of notifications.
    pub channels: Channels,
    /// What keeps a receiver that does not answer from holding up the others.
    pub bulkhead: Arc<Bulkhead>,
    /// Domain time.
    pub clock: Arc<dyn Clock>,
    /// Pace of fast polling.
    pub strategy: PollStrategy,
    /// Links to the page that shows a card once, if there is one.
    pub links: Option<Links>,
    /// Draws the randomness of a wait.
    pub jitter: fn() -> Jitter,
}

/// A pause of real time after trouble of our own, which costs the job nothing.
pub(super) const TROUBLE_PAUSE: Duration = Duration::from_secs(10);

/// A random jitter.
#[must_use]
pub fn random_jitter() -> Jitter {
    use rand::RngExt;
    Jitter::new(rand::rng().random_range(-1.0..=1.0))
}

impl Environment {
    /// The provider, asked with the key of this permit.
    ///
    /// # Panics
    /// Where there is no such key; a budget grants permits only for the keys it was made with.
    pub(crate) fn api(&self, permit: &Permit) -> &Arc<dyn TopupApi> {
        &self.apis[permit.key]
    }

    /// Jobs for every pending notification of this order. They are enqueued with every check of
    /// the order, so that a crash after the store's commit loses none; one that is already there stays.
    pub(crate) async fn jobs_to_notify(&self, order: &Order) -> Result<Vec<NextJob>, StoreError> {
        let notifications = self.store.notifications(&order.topup_id).await?;
        let pending = notifications
            .into_iter()
            .filter(|notification| notification.status == NotificationStatus::Pending);
        Ok(pending.map(|notification| NextJob::notify(&notification.payload(&order.topup_id))).collect())
    }
}

/// That jobs wait for the store is said of one of them in this time, …
const STORE_FAILURE_LOGGED_EVERY: Duration = Duration::from_secs(30);

/// … with how many it was not said of.
pub(super) fn log_store_failure(error: &StoreError) {
    static LOGGED: Mutex<(Option<Instant>, u64)> = Mutex::new((None, 0));
    let mut logged = LOGGED.lock().unwrap_or_else(PoisonError::into_inner);
    let (at, unlogged) = *logged;
    // What is wrong with one order alone has to be seen of each.
    if !error.is_of_one_row() && at.is_some_and(|at| at.elapsed() < STORE_FAILURE_LOGGED_EVERY) {
        logged.1 += 1;
        return;
    }
    *logged = (Some(Instant::now()), 0);
    tracing::error!(error = chain(error), unlogged, "the store failed; the job waits");
}
