//! The names of the jobs. A job has one name in queues, schema files and metric labels; a new job is added here first.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::OrderStatus;

/// A kind of job. Its jobs wait in the queue `{topup}:<name of the job>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobName {
    /// Check an order at the fast pace, for at most five minutes.
    PollTopup,
    /// Recheck an order that was not final after fast polling or was scheduled by the carrier.
    RecheckTopup,
    /// Send one notification: about one outcome of an order, over one channel.
    NotifyCustomer,
}

/// The text is not the name of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no job has this name")]
pub struct UnknownJobName;

impl JobName {
    /// Every kind of job.
    pub const ALL: [Self; 3] = [Self::PollTopup, Self::RecheckTopup, Self::NotifyCustomer];

    /// The jobs that check orders. An order has at most one of them at a time.
    pub const TRACKING: [Self; 2] = [Self::PollTopup, Self::RecheckTopup];

    /// The job that tracks an order of this status.
    #[must_use]
    pub const fn tracking(status: OrderStatus) -> Self {
        match status {
            OrderStatus::Handling => Self::PollTopup,
            _ => Self::RecheckTopup,
        }
    }

    /// The name in queues, schemas, metrics and logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::PollTopup => "poll-topup",
            Self::RecheckTopup => "recheck-topup",
            Self::NotifyCustomer => "notify-customer",
        }
    }
}

impl fmt::Display for JobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for JobName {
    type Err = UnknownJobName;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|job| job.as_str() == name).ok_or(UnknownJobName)
    }
}
