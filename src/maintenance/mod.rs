//! What a worker does beside its jobs, each a loop of its own: reads the list of orders, puts back what was lost, deletes
//! what is old, and watches Redis and the database.

pub(crate) mod list_poller;
pub(crate) mod redis_watch;
pub(crate) mod restore;
pub(crate) mod retention;
pub(crate) mod store_watch;
