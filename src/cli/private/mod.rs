//! A folder, processes and a Redis for `demo` and `bench`, removed on drop. The user's own data and Redis are not used.

mod folder;
mod process;
pub(super) mod redis_server;

pub(super) use folder::Folder;
pub(super) use process::Process;
