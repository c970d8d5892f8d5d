//! What an operator reaches over HTTP.

pub(crate) mod endpoints;
pub(crate) mod health;
