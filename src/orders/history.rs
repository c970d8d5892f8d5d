//! What became of an order: each change of it, each attempt to notify a receiver, each try to see its card.
//!
//! An entry is written in the transaction of what it tells, and never changed. Nothing personal and nothing of
//! a card stands in one: it is made to be shown.

use std::fmt;

use topup_jobs::{Incident, OrderStatus, Outcome, Timestamp};

use super::NotificationStatus;

/// Something that happened to an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    /// When, in domain time.
    pub at: Timestamp,
    /// What.
    pub what: Occurrence,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Occurrence {
    /// The order changed. A poll after which all is as before is no change.
    Changed {
        /// The job, or `handed-over`.
        cause: String,
        /// Its status before; none where it is new.
        before: Option<OrderStatus>,
        /// Its status from then on.
        after: OrderStatus,
        /// When it is looked at next.
        next_check_at: Option<Timestamp>,
        /// Polls so far.
        polls: u32,
        /// Why it is no longer tracked, if that is so.
        given_up: Option<String>,
        /// What went wrong at the look.
        error: Option<String>,
    },
    /// An attempt to notify a channel of an event.
    Told {
        /// Of what.
        outcome: Outcome,
        /// Which time it happened.
        incident: Incident,
        /// Which channel.
        channel: String,
        /// At which attempt.
        attempt: u32,
        /// How it went.
        result: Attempt,
        /// What went wrong.
        error: Option<String>,
    },
    /// A visitor asked to see the card.
    Asked {
        /// The channel of the link.
        channel: String,
        /// Tries so far.
        tries: u32,
        /// How it went, in the words of [`super::RevealOutcome`].
        result: String,
    },
}

/// Cause of a change: the producer handed the order over, or over again.
pub(super) const HANDED_OVER: &str = "handed-over";
/// Cause of a change: a message ends its tracking.
pub(super) const CANCELLED: &str = "cancelled";
/// Cause of a change: a further message names other details, which stand behind it.
pub(super) const CORRECTED: &str = "corrected";

/// How an attempt to tell a channel went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// It has begun; a crash may leave it at that, and the receiver may have got it.
    Begun,
    /// The channel took it.
    Sent,
    /// It failed and is made again.
    Retry,
    /// It failed, and it was the last.
    Failed,
    /// The receiver refused it.
    Refused,
    /// The operator has discarded it.
    Discarded,
}

impl Attempt {
    const ALL: [Self; 6] =
        [Self::Begun, Self::Sent, Self::Retry, Self::Failed, Self::Refused, Self::Discarded];

    /// The word as it is stored.
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

/// One line without its time.
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
            Self::Told { outcome, incident, channel, attempt, result, error } => {
                write!(f, "told {outcome}{incident} by {channel}, attempt {attempt}: {}", result.as_str())?;
                in_brackets(f, error.as_deref())
            }
            Self::Asked { channel, tries, result } => {
                write!(f, "card asked for by the link of {channel}, try {tries}: {result}")
            }
        }
    }
}

fn in_brackets(f: &mut fmt::Formatter<'_>, error: Option<&str>) -> fmt::Result {
    error.map_or(Ok(()), |error| write!(f, " ({error})"))
}
