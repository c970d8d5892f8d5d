//! Redis as every part of this service uses it: where it is, a connection that outlives faults, the names of the keys,
//! and the scripts.
//!
//! It knows nothing of what stands behind a key: each module that keeps something in Redis documents its own keys, and
//! brings its own scripts.

mod address;
mod arrivals;
mod backoff;
mod connection;
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
pub(crate) use connection::StableSince;
pub use connection::{Connection, RedisHealth};
pub use names::{InvalidPrefix, Names};
pub(crate) use refusal::describe;
pub(crate) use subscription::Subscription;

/// Whole milliseconds, rounded up: nothing may happen before its time.
pub(crate) fn millis(wait: Duration) -> u64 {
    u64::try_from(wait.as_micros().div_ceil(1000)).unwrap_or(u64::MAX)
}
