//! Access to Redis for all modules: its address, a connection that replaces itself, the names of keys, and scripts.
//! This module must not know the content of a key. Each module that uses Redis documents its own keys and scripts.

mod address;
mod arrivals;
mod backoff;
mod connection;
mod health;
mod in_time;
mod names;
mod refusal;
pub(crate) mod scripts;
pub(crate) mod server;
mod subscription;

use std::time::Duration;

pub use address::{InvalidAddress, RedisAddress};
pub(crate) use arrivals::Arrivals;
pub(crate) use backoff::Backoff;
pub use connection::Connection;
pub use health::RedisHealth;
pub(crate) use health::StableSince;
pub use names::{InvalidPrefix, Names};
pub(crate) use refusal::describe;
pub(crate) use subscription::Subscription;

/// Returns whole milliseconds, rounded up so that nothing happens too early.
pub(crate) fn millis(wait: Duration) -> u64 {
    u64::try_from(wait.as_micros().div_ceil(1000)).unwrap_or(u64::MAX)
}
