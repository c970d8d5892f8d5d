//! The one name of each job: constant, queue name, schema file, metric label.
//!
//! A job is added here first; `JobName::ALL` is the visible list of them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::OrderStatus;

/// A job of this service, and by that the queue `{topup}:<job>` it waits in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobName {
    /// Ask the provider for an order at the fast pace, at most five minutes.
    PollTopup,
    /// Ask again about an order that outlived fast polling or was scheduled by the operator.
    RecheckTopup,
    /// Tell one channel about one outcome of one order.
    NotifyCustomer,
}

/// The name belongs to no job of this service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no job has this name")]
pub struct UnknownJobName;

impl JobName {
    /// Every job, in the order in which the service starts them.
    pub const ALL: [Self; 3] = [Self::PollTopup, Self::RecheckTopup, Self::NotifyCustomer];

    /// The jobs that look at orders; an order is tracked by one of them at a time.
    pub const TRACKING: [Self; 2] = [Self::PollTopup, Self::RecheckTopup];

    /// The job that follows an order of this status.
    #[must_use]
    pub const fn tracking(status: OrderStatus) -> Self {
        match status {
            OrderStatus::Handling => Self::PollTopup,
            _ => Self::RecheckTopup,
        }
    }

    /// The name as it stands in queues, schemas, metrics and logs.
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
