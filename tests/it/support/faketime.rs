//! libfaketime, which gives a program another time than the clock of the machine.

use std::path::Path;

use super::skip_or_fail;

/// Paths of the library in Debian and other systems.
const PATHS: [&str; 4] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/faketime/libfaketimeMT.so.1",
    "/usr/lib64/faketime/libfaketimeMT.so.1",
];

/// Path of the library. Without it the test prints a line and is skipped; `TOPUP_TEST_REQUIRE_FAKETIME=1` fails it.
pub(crate) fn libfaketime(what: &str) -> Option<String> {
    let set = std::env::var("LIBFAKETIME").ok();
    let mut paths = set.into_iter().chain(PATHS.map(str::to_owned));
    let found = paths.find(|path| Path::new(path).exists());
    if found.is_none() {
        skip_or_fail(what, "libfaketime is not installed", "TOPUP_TEST_REQUIRE_FAKETIME");
    }
    found
}
