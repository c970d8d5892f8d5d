//! Deletes orders that ended longer ago than `RETENTION_DAYS`. Without that setting this loop does not run.
//!
//! The store deletes only orders that are final, delivered, acknowledged and no longer shown by a link. Batches are so
//! small that other calls hardly wait. Any number of workers may do this. Each batch continues where the last one
//! ended, so that orders that must be kept do not block the orders after them.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::error_chain::chain;
use crate::orders::{Behind, OrderStore, StoreError};
use crate::shutdown::Shutdown;

/// Pause between two passes over the orders. It is real time: `TIME_SCALE` does not shorten it.
const INTERVAL: Duration = Duration::from_mins(1);
/// Pause between two batches, in which other writes to the database can run. It is real time, too.
const PAUSE: Duration = Duration::from_millis(200);
/// Orders examined in one batch.
const MOST: u32 = 100;

pub(crate) struct Retention {
    pub(crate) store: Arc<dyn OrderStore>,
    pub(crate) clock: Arc<dyn Clock>,
    /// How long an order is kept after its end, in domain time.
    pub(crate) keep: Duration,
}

impl Retention {
    pub(crate) async fn run(self, shutdown: Shutdown) {
        let mut behind = None;
        loop {
            let pause = match self.delete(behind.as_ref()).await {
                Ok(next) => {
                    behind = next;
                    if behind.is_some() { PAUSE } else { INTERVAL }
                }
                Err(error) => {
                    tracing::error!(error = chain(&error), "old orders could not be deleted; retry in 60 s");
                    INTERVAL
                }
            };
            tokio::select! {
                () = shutdown.requested() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Runs one batch. Returns the position at which the next one continues, or `None` at the end.
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
