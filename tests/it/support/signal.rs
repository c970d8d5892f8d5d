//! Signals to worker processes.

use std::process::{Child, Command};

use rustix::io::retry_on_intr;
use rustix::process::{Pid, WaitOptions, waitpid};

/// Sends a signal to a process, for example `TERM`.
pub(super) fn send(child: &Child, signal: &str) {
    let pid = child.id().to_string();
    let sent = Command::new("kill").args(["-s", signal, &pid]).status().expect("the kill program runs");
    assert!(sent.success());
}

/// Freezes a process (SIGSTOP). Returns once all its threads are stopped. `kill` returns earlier, and a thread that
/// still runs could take a lock for which other processes then wait.
pub(super) fn freeze(child: &Child) {
    send(child, "STOP");
    let pid = Some(Pid::from_child(child));
    let waited = retry_on_intr(|| waitpid(pid, WaitOptions::UNTRACED)).expect("the process is our child");
    assert!(waited.is_some_and(|(_, status)| status.stopped()), "the process ended instead of stopping");
}
