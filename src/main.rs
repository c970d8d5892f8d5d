//! The program `topup-worker`.

use std::process::ExitCode;

use mimalloc::MiMalloc;
use topup_worker::cli::Cli;

/// Replaces the C library's allocator, in which threads wait for each other if one frees what another allocated.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    let exit = match Cli::read() {
        Ok(cli) => cli.execute().await,
        Err(exit) => exit,
    };
    ExitCode::from(exit as u8)
}
