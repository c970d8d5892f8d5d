//! Deletes orders that ended longer ago than `RETENTION_DAYS`. Without that setting this loop does not run.
//!
//! The store deletes only orders that are final, delivered, acknowledged and no longer shown by a link. Batches are so
//! small that other calls hardly wait. Any number of workers may do this. Each batch continues where the last one
//! ended, so that orders that must be kept neither block the orders after them nor are examined every minute.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::clock::Clock;
use crate::error_chain::chain;
use crate::orders::{Behind, OrderStore, StoreError, pause_after};
use crate::shutdown::Shutdown;

/// Pause after the last page. It is real time: `TIME_SCALE` does not shorten it.
const INTERVAL: Duration = Duration::from_mins(1);
/// Interval at which all ended orders are examined again, because kept ones may have become deletable. Real time, too.
const AGAIN: Duration = Duration::from_hours(1);
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
        let (mut behind, mut began) = (None, Instant::now());
        loop {
            if began.elapsed() >= AGAIN {
                (behind, began) = (None, Instant::now());
            }
            let batch = Instant::now();
            let pause = match self.delete(&mut behind).await {
                Ok(true) => pause_after(batch.elapsed()),
                Ok(false) => INTERVAL,
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

    /// Deletes the next batch of orders; after the last, shrinks the database file. Returns whether more is to do.
    async fn delete(&self, behind: &mut Option<Behind>) -> Result<bool, StoreError> {
        let now = self.clock.now();
        let deleted = self.store.delete_ended(now - self.keep, now, behind.as_ref(), MOST).await?;
        if deleted.orders > 0 {
            let orders = deleted.orders;
            tracing::info!(deleted = orders, "deleted orders that ended longer ago than RETENTION_DAYS");
        }
        if deleted.behind.is_some() {
            *behind = deleted.behind;
        }
        Ok(deleted.more || self.store.release_space().await?)
    }
}
