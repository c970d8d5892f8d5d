//! The only code that talks to the provider: client, wire types, errors, and the gate.
//!
//! An answer is read into [`ProviderOrder`] or a typed error that says what the provider said: HTTP
//! status, code, request id. Neither a body nor a header value ever becomes part of an error.

mod client;
mod error;
mod gate;
mod list;
#[cfg(test)]
mod tests;
mod wire;

use std::time::Duration;

use async_trait::async_trait;
use topup_jobs::{ProviderOrder, Timestamp, TopupId};

pub use client::{Client, ClientError};
pub use error::{Answer, ApiError};
pub use gate::RedisGate;
pub use list::{ListedOrder, OrderList};

/// The provider's API, as far as this service asks it.
#[async_trait]
pub trait TopupApi: Send + Sync + 'static {
    /// `GET /v3/internet/check-id/{id}`.
    async fn check_id(&self, topup_id: &TopupId) -> Result<ProviderOrder, ApiError>;

    /// `GET /v3/internet/list`: a page, from 1 up, of the orders created in this time, in the provider's
    /// order.
    async fn list(&self, page: u32, from: Timestamp, to: Timestamp) -> Result<OrderList, ApiError>;
}

/// Whether the provider may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    /// Ask. A probe is the one that asks after a closure, and must say when it was answered.
    Open {
        /// Whether everybody else waits for this answer.
        probe: bool,
    },
    /// Nobody asks for this long, in real time.
    Closed(Duration),
}

/// The gate to the provider, shared by all workers. While it is closed nobody asks.
#[async_trait]
pub trait Gate: Send + Sync + 'static {
    /// Whether the provider may be asked now.
    async fn pass(&self) -> Passage;

    /// Closes the gate for this long, in real time, for everybody.
    async fn close(&self, wait: Duration);

    /// The probe was answered: the gate is open for everybody.
    async fn proven(&self);
}
