//! topup-worker tracks internet top-up orders until they are final and notifies merchant and customer, whatever crashes
//! on the way. The README describes its use, and ARCHITECTURE.md its structure.

mod admin;
pub mod app;
mod check;
pub mod claim_pause;
pub mod cli;
pub mod clock;
pub mod config;
mod deployment;
mod digits;
mod error_chain;
pub mod handlers;
mod http;
pub mod intake;
pub mod job;
pub mod maintenance;
pub mod notify;
mod open_files;
pub mod orders;
mod pace;
pub mod provider;
pub mod queue;
pub mod rate_limit;
pub mod redis;
pub mod reveal;
pub mod shutdown;
pub mod simulator;
pub mod slots;
pub mod telemetry;
mod tls;
