//! Raises the limit of open files and connections of this process.
//!
//! Many systems start a process with a limit of 1,024, for the sake of programs that use `select`, but let the process
//! raise it. A worker with hundreds of slow receivers and visitors of one-time links may need more.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// More files and connections than a worker ever has open.
const ENOUGH: u64 = 65_536;

/// Raises the limit to [`ENOUGH`], or as far as the system allows.
pub(crate) fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(ENOUGH, |most| most.min(ENOUGH));
    if limit.current.is_some_and(|current| current < wanted) {
        // If the system refuses, the process runs with its original limit.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum });
    }
}
