//! The program `topup-worker`.

use std::process::ExitCode;

use mimalloc::MiMalloc;
use tokio::signal::unix::{SignalKind, signal};
use topup_worker::cli::Cli;

/// Replaces the C library's allocator, in which threads wait for each other if one frees what another allocated.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    fail_writes_beyond_the_limit();
    let exit = match Cli::read() {
        Ok(cli) => cli.execute().await,
        Err(exit) => exit,
    };
    ExitCode::from(exit as u8)
}

/// Has a write fail with an error if it exceeds the largest size that the system allows for a file. Otherwise SIGXFSZ
/// would end the program without a word.
fn fail_writes_beyond_the_limit() {
    const SIGXFSZ: i32 = 25;
    // A signal that has a listener does not end the program, even after the listener is dropped.
    drop(signal(SignalKind::from_raw(SIGXFSZ)));
}
