//! libfaketime, which has a program see another time than the machine's.

use std::path::Path;

use super::leave_out;

/// Where Debian, and others, put it.
const PLACES: [&str; 4] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/faketime/libfaketimeMT.so.1",
    "/usr/lib64/faketime/libfaketimeMT.so.1",
];

/// The library. Without it a line is printed that this is left out, unless `TOPUP_TEST_REQUIRE_FAKETIME=1` says that it
/// must be tested.
pub(crate) fn libfaketime(what: &str) -> Option<String> {
    let set = std::env::var("LIBFAKETIME").ok();
    let mut places = set.into_iter().chain(PLACES.map(str::to_owned));
    let found = places.find(|place| Path::new(place).exists());
    if found.is_none() {
        leave_out(what, "libfaketime is not installed", "TOPUP_TEST_REQUIRE_FAKETIME");
    }
    found
}
