//! The client of the provider's API, the only code that sends it requests.
//!
//! An answer becomes a [`ProviderOrder`] or a typed error with the HTTP status, the error code and the request id. An
//! error never contains any other part of a body, or a header value: those may hold a card code or a phone number.

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

/// The endpoints of the provider's API that this service uses.
#[async_trait]
pub trait TopupApi: Send + Sync + 'static {
    /// `GET /v3/internet/check-id/{id}`: the state of one order.
    async fn check_id(&self, topup_id: &TopupId) -> Result<ProviderOrder, ApiError>;

    /// `GET /v3/internet/list`: one page of the orders created between `from` and `to`. Pages count from 1.
    async fn list(&self, page: u32, from: Timestamp, to: Timestamp) -> Result<OrderList, ApiError>;

    /// Checks that the provider answers and accepts the key, with one request for one row of the list of orders.
    /// A refused key counts towards the provider's lockout.
    async fn verify(&self) -> Result<(), ApiError>;
}

/// A kind of request of [`TopupApi`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestKind {
    /// A request about one order.
    CheckId,
    /// A request for a page of the list of orders.
    List,
}

impl RequestKind {
    /// Every kind.
    pub const ALL: [Self; 2] = [Self::CheckId, Self::List];

    /// The last part of the endpoint's path, as the provider spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CheckId => "check-id",
            Self::List => "list",
        }
    }
}
