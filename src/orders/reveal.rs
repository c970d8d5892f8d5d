//! Links that show a card once, and the results of the tries to open them.
//!
//! The token of a link is a hash of the event and the channel, keyed with a key derived from `ENCRYPTION_KEY`. Every
//! attempt to notify computes the same token and so sends the same link. Only the token's SHA-256 is stored, so that a
//! reader of the database cannot open a link. After a change of keys, an attempt finds a link of a previous key by its
//! hash and sends it again. A link already sent can be opened whatever the keys, because only the hash is compared.

use sha2::{Digest, Sha256};
use topup_jobs::{Timestamp, TopupId};

/// A stored link to a card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reveal {
    /// The order whose card the link shows.
    pub topup_id: TopupId,
    /// The channel that carries the link.
    pub channel: String,
    /// When the link expires.
    pub expires_at: Timestamp,
    /// Number of right and wrong tries so far.
    pub tries: u32,
    /// When the card was shown; `None` before that.
    pub revealed_at: Option<Timestamp>,
}

/// Result of a try to see a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RevealOutcome {
    /// The try was right. The card is shown now and never again.
    Shown,
    /// The try was wrong.
    Wrong {
        /// Number of tries left.
        left: u32,
    },
    /// All tries are used up.
    Spent,
    /// The link has expired.
    Expired,
    /// The card was shown before.
    AlreadyShown,
    /// No such link is stored.
    Unknown,
}

impl RevealOutcome {
    /// The word stored in the history of the order.
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

/// Hash of a token, as it is stored.
pub(super) fn hash(token: &str) -> String {
    hex::encode(Sha256::digest(token))
}
