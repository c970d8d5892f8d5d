//! The log and the metrics, with which an operator observes the service.

mod log;
mod metrics;

pub use log::LogFormat;
pub(crate) use log::init;
pub use metrics::{Metrics, UndeliveredReason};
