//! What an operator sees of this service from outside: the log and the metrics.

mod log;
mod metrics;

pub(crate) use log::init;
pub use metrics::{Metrics, UndeliveredReason};
