//! The history of an order: its changes, the attempts to notify a receiver, and the tries to see its card.
//!
//! An entry is written in the transaction of the change that it records, and is never changed. It contains no personal
//! data and nothing of a card, because commands show it.

use std::fmt;

use topup_jobs::{Incident, OrderStatus, Outcome, Timestamp};

use super::NotificationStatus;

/// One entry of an order's history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    /// Time of the occurrence, in domain time.
    pub at: Timestamp,
    /// What happened to the order.
    pub what: Occurrence,
}

/// What a history entry records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Occurrence {
    /// The order changed. Fast polls that only move the next check are not recorded.
    Changed {
        /// The name of the job that made the change, or another cause such as `handed-over`.
        cause: String,
        /// Status before the change; `None` for a new order.
        before: Option<OrderStatus>,
        /// Status after the change.
        after: OrderStatus,
        /// Time of the next check.
        next_check_at: Option<Timestamp>,
        /// Polls so far.
        polls: u32,
        /// Why the order is no longer tracked, if the change ended its tracking.
        given_up: Option<String>,
        /// Error of the check.
        error: Option<String>,
    },
    /// An attempt to notify a channel of an event.
    NotificationAttempt {
        /// Outcome that the event reports.
        outcome: Outcome,
        /// Number of the incident, counted from 1, because the outcome may occur several times.
        incident: Incident,
        /// Name of the channel.
        channel: String,
        /// Number of the attempt.
        attempt: u32,
        /// Result of the attempt.
        result: Attempt,
        /// Error of the attempt.
        error: Option<String>,
    },
    /// A visitor tried to see the card.
    Asked {
        /// The channel of the link.
        channel: String,
        /// Tries so far.
        tries: u32,
        /// Result, as [`super::RevealOutcome::as_str`] writes it.
        result: String,
    },
}

/// Cause of a change: the producer handed the order over, for the first time or again.
pub(super) const HANDED_OVER: &str = "handed-over";
/// Cause of a change: a message cancelled the order.
pub(super) const CANCELLED: &str = "cancelled";
/// Cause of a change: a message corrected details. The stored cause continues with their names.
pub(super) const CORRECTED: &str = "corrected";

/// State of an attempt to notify a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// The attempt has begun. If the worker crashes, this stays the last entry, even if the receiver got the event.
    Begun,
    /// The channel accepted the event.
    Sent,
    /// The attempt failed and another one follows.
    Retry,
    /// The last attempt failed.
    Failed,
    /// The receiver refused the event.
    Refused,
    /// The operator has discarded the notification.
    Discarded,
}

impl Attempt {
    const ALL: [Self; 6] =
        [Self::Begun, Self::Sent, Self::Retry, Self::Failed, Self::Refused, Self::Discarded];

    /// The word that the database stores for this state.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Begun => "begun",
            Self::Sent => "sent",
            Self::Retry => "retry",
            Self::Failed => "failed",
            Self::Refused => "refused",
            Self::Discarded => "discarded",
        }
    }
}

impl From<NotificationStatus> for Attempt {
    fn from(status: NotificationStatus) -> Self {
        match status {
            NotificationStatus::Pending => Self::Retry,
            NotificationStatus::Sent => Self::Sent,
            NotificationStatus::Failed => Self::Failed,
            NotificationStatus::Refused => Self::Refused,
            NotificationStatus::Discarded => Self::Discarded,
        }
    }
}

impl std::str::FromStr for Attempt {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|result| result.as_str() == text).ok_or(())
    }
}

/// Writes the occurrence on one line, without its time.
impl fmt::Display for Occurrence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changed { cause, before, after, next_check_at, polls, given_up, error } => {
                match before {
                    None => write!(f, "{after}, {cause}")?,
                    Some(_) if cause == HANDED_OVER => write!(f, "{after} again, {cause}")?,
                    Some(before) if before == after => write!(f, "{after} still, {cause}")?,
                    Some(before) => write!(f, "{before} → {after}, {cause}")?,
                }
                if *polls > 0 {
                    write!(f, ", polls: {polls}")?;
                }
                if let Some(at) = next_check_at {
                    write!(f, ", next check {}", at.format("%Y-%m-%dT%H:%M:%SZ"))?;
                }
                if let Some(reason) = given_up {
                    write!(f, ", given up: {reason}")?;
                }
                in_brackets(f, error.as_deref())
            }
            Self::NotificationAttempt { outcome, incident, channel, attempt, result, error } => {
                write!(f, "event {outcome}{incident} to {channel}, attempt {attempt}: {}", result.as_str())?;
                in_brackets(f, error.as_deref())
            }
            Self::Asked { channel, tries, result } => {
                write!(f, "card requested through the link of {channel}, try {tries}: {result}")
            }
        }
    }
}

fn in_brackets(f: &mut fmt::Formatter<'_>, error: Option<&str>) -> fmt::Result {
    error.map_or(Ok(()), |error| write!(f, " ({error})"))
}
