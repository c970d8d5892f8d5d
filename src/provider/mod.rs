//! The only code that talks to the provider: client, wire types, errors.
//!
//! An answer is read into [`ProviderOrder`] or a typed error that says what the provider said: HTTP
//! status, code, request id. Neither a body nor a header value ever becomes part of an error.

mod client;
mod error;
mod json;
mod key_fingerprint;
mod list;
mod running_time;
#[cfg(test)]
mod tests;
mod wire;

use async_trait::async_trait;
use topup_jobs::{ProviderOrder, Timestamp, TopupId};

pub use client::{Client, ClientError};
pub use error::{Answer, AnswerKind, ApiError, Concern};
pub use key_fingerprint::KeyFingerprint;
pub use list::{ListedOrder, OrderList};

/// The provider's API, as far as this service asks it.
#[async_trait]
pub trait TopupApi: Send + Sync + 'static {
    /// `GET /v3/internet/check-id/{id}`.
    async fn check_id(&self, topup_id: &TopupId) -> Result<ProviderOrder, ApiError>;

    /// `GET /v3/internet/list`: a page, from 1 up, of the orders created in this time, in the provider's
    /// order.
    async fn list(&self, page: u32, from: Timestamp, to: Timestamp) -> Result<OrderList, ApiError>;

    /// Asks for as little as can be asked, one row of the list of orders, to learn whether the provider answers and
    /// accepts the key. One request; a key that is refused counts towards the provider's lockout.
    async fn verify(&self) -> Result<(), ApiError>;
}

/// A kind of request of [`TopupApi`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestKind {
    /// About one order.
    CheckId,
    /// For a page of the list, which tells of many.
    List,
}

impl RequestKind {
    /// Every kind.
    pub const ALL: [Self; 2] = [Self::CheckId, Self::List];

    /// The kind in the provider's word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CheckId => "check-id",
            Self::List => "list",
        }
    }
}
