//! A place of one's own for `demo` and `bench`: a folder, child processes and a Redis that go when they are
//! dropped. Nothing of the person who runs the command is touched.

mod folder;
mod process;
pub(super) mod redis_server;

pub(super) use folder::Folder;
pub(super) use process::Process;
