//! HTTP endpoints for the operator.

pub(crate) mod endpoints;
pub(crate) mod health;
