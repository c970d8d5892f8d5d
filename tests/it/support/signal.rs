//! Signals to the process of a worker.

use std::process::{Child, Command};

use rustix::io::retry_on_intr;
use rustix::process::{Pid, WaitOptions, waitpid};

/// Sends it this signal, for example `TERM`.
pub(super) fn send(child: &Child, signal: &str) {
    let pid = child.id().to_string();
    let sent = Command::new("kill").args(["-s", signal, &pid]).status().expect("kill is there");
    assert!(sent.success());
}

/// Stops it in the middle of whatever it does. Returns once all of its threads stand still: `kill` returns before,
/// and a thread that still runs may take a lock that everybody else would then wait for.
pub(super) fn freeze(child: &Child) {
    send(child, "STOP");
    let pid = Some(Pid::from_child(child));
    let waited = retry_on_intr(|| waitpid(pid, WaitOptions::UNTRACED)).expect("it is ours to wait for");
    assert!(waited.is_some_and(|(_, status)| status.stopped()), "it ended instead of standing still");
}
