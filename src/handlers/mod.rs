//! The handlers, one file per job: load → ask → decide → apply. They know neither apalis nor Redis nor HTTP.
//!
//! A handler commits to the store before its job is settled. After a crash between the two, the job runs again: the
//! store ignores the repeated change, and the job enqueues the notifications that are still pending in the store. The
//! event stream and the log get an event before the settlement, without a job, see `local_channels`.

mod announce;
mod apply;
mod check;
mod environment;
mod instruct;
mod local_channels;
mod notify_customer;
mod observe;
mod poll_topup;
mod recheck_topup;
mod stored_dead_letter;
mod undelivered;

pub(crate) use apply::{give_up, is_by_a_check, seen_in_list};
pub use environment::{Environment, random_jitter};
pub use notify_customer::NotifyCustomerHandler;
pub use poll_topup::PollTopupHandler;
pub use recheck_topup::RecheckTopupHandler;
pub(crate) use stored_dead_letter::StoredDeadLetter;
pub(crate) use undelivered::{give_up_notification, is_by_the_handler};
