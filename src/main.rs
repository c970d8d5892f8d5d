//! The program `topup-worker`.

use std::process::ExitCode;

use mimalloc::MiMalloc;
use topup_worker::cli::Cli;

/// A job is claimed, run and settled by different threads, and with the allocator of the C library they wait for each
/// other at every piece of memory that changes hands.
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
