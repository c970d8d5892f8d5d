//! The background loops of a worker: list polling, restoring lost jobs, retention, watching Redis and the database.

pub(crate) mod list_poller;
pub(crate) mod redis_watch;
pub(crate) mod restore;
pub(crate) mod retention;
pub(crate) mod store_watch;
