//! What a message about an order that is known asks for. It is carried out by a job of its own in the queue
//! `poll-topup`, with the id `<topupId>#<id of the message>`: that job only changes what is stored, and asks nothing of
//! the provider.

use serde::{Deserialize, Serialize};

use crate::Locale;

/// Stands in the payload of such a job as `instruction`; by it the job is known from one that looks at its order. The
/// service's own note: no field for a producer, and in no schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Instruction {
    /// What is to be done.
    pub kind: InstructionKind,
    /// Whether a queue held the order's own job when the message was taken in: then the order is known, even if no
    /// worker has looked at it yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tracked: bool,
    /// The customer's language, where a correction names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locale: Option<Locale>,
}

/// What is to be done with an order that is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InstructionKind {
    /// A further message `poll-topup` or `recheck-topup` of an order that is tracked: the customer, the metadata and
    /// the callback URL that it names replace the stored ones, each as a whole.
    Update,
    /// `check-topup`: the order is checked now; one that was stopped or given up is tracked again.
    Check,
    /// `correct-topup`: as an update, but of the customer only the fields that are named; an empty text removes one.
    Correct,
    /// `cancel-topup`: the order is no longer tracked.
    Cancel,
}

impl InstructionKind {
    /// The kind that a message of this name asks for; an update has no name of its own.
    #[must_use]
    pub fn of_message(name: &str) -> Option<Self> {
        match name {
            "check-topup" => Some(Self::Check),
            "correct-topup" => Some(Self::Correct),
            "cancel-topup" => Some(Self::Cancel),
            _ => None,
        }
    }

    /// The name of its message, as it stands in logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Update => "a further message",
            Self::Check => "check-topup",
            Self::Correct => "correct-topup",
            Self::Cancel => "cancel-topup",
        }
    }

    /// Whether it has an order tracked that was stopped before.
    #[must_use]
    pub const fn tracks(self) -> bool {
        matches!(self, Self::Update | Self::Check)
    }
}

impl Instruction {
    /// An instruction about an order of which no queue holds the job.
    #[must_use]
    pub const fn new(kind: InstructionKind) -> Self {
        Self { kind, tracked: false, locale: None }
    }

    /// The same about an order that is tracked.
    #[must_use]
    pub const fn of_followed(self) -> Self {
        Self { tracked: true, ..self }
    }
}
