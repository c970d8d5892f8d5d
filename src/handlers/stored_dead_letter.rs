//! Dead letters built from the store, to list them or to restore those that Redis has lost.

use std::time::Duration;

use topup_jobs::{JobName, Timestamp, TrackTopup};

use super::undelivered::reason;
use crate::job::NextJob;
use crate::orders::{GivenUpNotification, GivenUpOrder};

/// A dead letter, built from an order or a notification that is given up in the store.
#[derive(Debug, Clone)]
pub(crate) struct StoredDeadLetter {
    /// The job that runs if the dead letter is replayed.
    pub(crate) job: NextJob,
    pub(crate) reason: String,
    /// When the job was given up, in domain time, if that is known.
    pub(crate) at: Option<Timestamp>,
    /// Number of failed attempts before the one at which the job was given up.
    pub(crate) attempts: u32,
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
            // The store counts the last attempt, at which a notification is given up; the queue's dead letters do not.
            attempts: notification.attempts.saturating_sub(1),
            last_error: notification.last_error,
        }
    }
}
