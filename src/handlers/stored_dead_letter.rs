//! Dead letters as the store knows them: what is needed to show one, or to put it back where Redis has lost it.

use std::time::Duration;

use topup_jobs::{JobName, Timestamp, TrackTopup};

use super::undelivered::reason;
use crate::job::NextJob;
use crate::orders::{GivenUpNotification, GivenUpOrder};

/// See the module.
#[derive(Debug, Clone)]
pub(crate) struct StoredDeadLetter {
    /// The job, as it runs once it is replayed.
    pub(crate) job: NextJob,
    /// Why it was given up.
    pub(crate) reason: String,
    /// When, in domain time, if that is known.
    pub(crate) at: Option<Timestamp>,
    /// Failed attempts before that.
    pub(crate) attempts: u32,
    /// What went wrong at the last one.
    pub(crate) last_error: Option<String>,
}

impl From<GivenUpOrder> for StoredDeadLetter {
    fn from(order: GivenUpOrder) -> Self {
        let job = JobName::tracking(order.status);
        Self {
            job: NextJob::check(job, TrackTopup::new(order.topup_id), Duration::ZERO),
            reason: order.reason,
            at: Some(order.at),
            attempts: order.failed_attempts,
            last_error: order.last_error,
        }
    }
}

impl From<GivenUpNotification> for StoredDeadLetter {
    fn from(GivenUpNotification { topup_id, notification, at }: GivenUpNotification) -> Self {
        Self {
            job: NextJob::notify(&notification.payload(&topup_id)),
            reason: reason(&notification),
            at,
            // The attempt at which it was given up does not count as failed in the queue.
            attempts: notification.attempts.saturating_sub(1),
            last_error: notification.last_error,
        }
    }
}
