//! What an operator sees of this service from outside: the log and the metrics.

mod log;
mod metrics;

pub use log::LogFormat;
pub(crate) use log::init;
pub use metrics::{Metrics, UndeliveredReason};
