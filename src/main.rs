//! The program `topup-worker`.

use std::process::ExitCode;

use clap::Parser;
use topup_worker::cli::Cli;

#[tokio::main]
async fn main() -> ExitCode {
    ExitCode::from(Cli::parse().execute().await as u8)
}
