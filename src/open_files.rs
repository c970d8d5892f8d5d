//! How many files and connections this process may have open.
//!
//! Many systems begin with a limit of 1,024 for programs that use `select`, and let a process raise it by itself. A worker
//! with hundreds of receivers that answer late, and visitors of the page of a link, may need more.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// More than a worker ever has open.
const ENOUGH: u64 = 65_536;

/// Raises the limit as far as the system lets this process, and no further than it can use.
pub(crate) fn raise_limit() {
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.map_or(ENOUGH, |most| most.min(ENOUGH));
    if limit.current.is_some_and(|current| current < wanted) {
        // Where the system refuses, the limit stays as it was: that is what the process was given.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum });
    }
}
