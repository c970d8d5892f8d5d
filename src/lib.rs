//! topup-worker takes an internet top-up order from "sent" to "the customer has the card", whatever
//! crashes on the way. The README says what it is for; this is how it is put together:
//!
//! `main → cli → app → {intake, queue} → handlers → traits → topup-jobs`

pub mod app;
mod check;
pub mod cli;
pub mod clock;
mod coalesce;
pub mod config;
mod deployment;
mod endpoints;
pub mod handlers;
mod health;
mod http;
pub mod intake;
pub mod notify;
mod open_files;
pub mod orders;
pub mod queue;
mod redis_watch;
mod restore;
mod retention;
pub mod reveal;
pub mod shutdown;
pub mod simulator;
mod store_watch;
pub mod telemetry;
mod tls;
pub mod topup_api;
