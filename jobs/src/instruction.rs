//! The instruction in a message about a known order: update, check, correct or cancel it. A separate job in the queue
//! `poll-topup`, with the id `<topupId>#<id of the message>`, applies it to the store without asking the provider.

use serde::{Deserialize, Serialize};

use crate::Locale;

/// The field `instruction` in the payload of a job. Internal: producers do not send it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Instruction {
    /// What to do with the order.
    pub kind: InstructionKind,
    /// Whether a queue held the order's poll or recheck when the message arrived. The store may lack such an order.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tracked: bool,
    /// The customer's language, if a correction names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locale: Option<Locale>,
}

/// What to do with a known order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InstructionKind {
    /// A further message `poll-topup` or `recheck-topup` about a tracked order. If the message has a customer, metadata
    /// or a callback URL, each of them replaces the whole stored one.
    Update,
    /// `check-topup`: the order is checked now; an order that was stopped or given up is tracked again.
    Check,
    /// `correct-topup`: like `Update`, but absent fields of the customer stay as they are; an empty text removes one.
    Correct,
    /// `cancel-topup`: the order is no longer tracked.
    Cancel,
}

impl InstructionKind {
    /// The kind of instruction in a message with this name; `None` for `poll-topup`, `recheck-topup` and other names.
    #[must_use]
    pub fn of_message(name: &str) -> Option<Self> {
        match name {
            "check-topup" => Some(Self::Check),
            "correct-topup" => Some(Self::Correct),
            "cancel-topup" => Some(Self::Cancel),
            _ => None,
        }
    }

    /// The message's name in logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Update => "a further message",
            Self::Check => "check-topup",
            Self::Correct => "correct-topup",
            Self::Cancel => "cancel-topup",
        }
    }

    /// Whether the instruction resumes tracking of a cancelled or given-up order.
    #[must_use]
    pub const fn tracks(self) -> bool {
        matches!(self, Self::Update | Self::Check)
    }
}

impl Instruction {
    /// An instruction about an order whose poll or recheck was in no queue when the message arrived.
    #[must_use]
    pub const fn new(kind: InstructionKind) -> Self {
        Self { kind, tracked: false, locale: None }
    }

    /// The same instruction, about an order whose poll or recheck was in a queue when the message arrived.
    #[must_use]
    pub const fn of_tracked(self) -> Self {
        Self { tracked: true, ..self }
    }
}
