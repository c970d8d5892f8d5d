//! Deletes orders that ended longer ago than the merchant wants to keep them.
//!
//! Off unless `RETENTION_DAYS` is set. Only what is final, delivered, acknowledged and no longer shown by a link
//! goes; the store sees to that, in batches small enough that no other call waits, and any number of workers may do
//! this. A batch goes on from where the one before ended, so that orders that are kept hold up none behind them.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::error_chain::chain;
use crate::orders::{Behind, OrderStore, StoreError};
use crate::shutdown::Shutdown;

/// How often to look. Real time.
const INTERVAL: Duration = Duration::from_mins(1);
/// Between two batches, so that other writes come in between. Real time.
const PAUSE: Duration = Duration::from_millis(200);
/// Orders that a batch looks at, at most.
const MOST: u32 = 100;

/// See the module.
pub(crate) struct Retention {
    pub(crate) store: Arc<dyn OrderStore>,
    pub(crate) clock: Arc<dyn Clock>,
    /// How long an order is kept after its end, in domain time.
    pub(crate) keep: Duration,
}

impl Retention {
    /// Looks until asked to stop.
    pub(crate) async fn run(self, shutdown: Shutdown) {
        let mut behind = None;
        loop {
            let pause = match self.delete(behind.as_ref()).await {
                Ok(next) => {
                    behind = next;
                    if behind.is_some() { PAUSE } else { INTERVAL }
                }
                Err(error) => {
                    tracing::error!(error = chain(&error), "old orders could not be deleted");
                    INTERVAL
                }
            };
            tokio::select! {
                () = shutdown.requested() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Deletes what may go of the next orders. Returns where the search goes on, if there are more.
    async fn delete(&self, behind: Option<&Behind>) -> Result<Option<Behind>, StoreError> {
        let now = self.clock.now();
        let deleted = self.store.delete_ended(now - self.keep, now, behind, MOST).await?;
        if deleted.orders > 0 {
            let deleted = deleted.orders;
            tracing::info!(deleted, "deleted orders that ended longer ago than RETENTION_DAYS");
        }
        Ok(deleted.behind)
    }
}
