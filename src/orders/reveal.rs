//! Links under which a customer may see a card once, and how a try ends.
//!
//! The token of a link is a keyed hash of the event and the channel, under a key derived from
//! `ENCRYPTION_KEY`. Only its SHA-256 is stored, so that a reader of the database cannot open a link; and it
//! can be made again, so that every attempt to tell an event sends the same link. After a change of the key,
//! a link that a previous key has made is found by its hash and sent again as it is; a link that has been sent
//! opens whatever the keys are, as only its hash is looked up.

use sha2::{Digest, Sha256};
use topup_jobs::{Timestamp, TopupId};

/// A link to a card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reveal {
    /// The order of the card.
    pub topup_id: TopupId,
    /// The channel that carries the link.
    pub channel: String,
    /// From when on it shows nothing.
    pub expires_at: Timestamp,
    /// Tries so far, right ones and wrong ones.
    pub tries: u32,
    /// When the card was shown.
    pub revealed_at: Option<Timestamp>,
}

/// How a try to see a card ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RevealOutcome {
    /// It is to be shown, this once.
    Shown,
    /// The try was wrong.
    Wrong {
        /// How many more there are.
        left: u32,
    },
    /// Every try is used up.
    Spent,
    /// It is too late.
    Expired,
    /// It has been shown before.
    AlreadyShown,
    /// There is no such link.
    Unknown,
}

impl RevealOutcome {
    /// The word as it stands in the history of the order.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Shown => "shown",
            Self::Wrong { .. } => "wrong",
            Self::Spent => "spent",
            Self::Expired => "expired",
            Self::AlreadyShown => "already-shown",
            Self::Unknown => "unknown",
        }
    }
}

/// What is stored of a token.
pub(super) fn hash(token: &str) -> String {
    hex::encode(Sha256::digest(token))
}
