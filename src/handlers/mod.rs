//! One file per job: load → ask → decide → apply. Knows neither apalis nor Redis nor HTTP.
//!
//! The store is committed before the job is settled. A crash between the two repeats the job, and repeating
//! changes nothing: the store absorbs it, and pending notifications are found there.

mod announce;
mod check;
mod environment;
mod instruct;
mod notify_customer;
mod poll_topup;
mod recheck_topup;
mod stored_dead_letter;
mod undelivered;

pub(crate) use check::{give_up, is_by_a_check, seen_in_list};
pub use environment::{Environment, random_jitter};
pub use notify_customer::NotifyCustomerHandler;
pub use poll_topup::PollTopupHandler;
pub use recheck_topup::RecheckTopupHandler;
pub(crate) use stored_dead_letter::StoredDeadLetter;
pub(crate) use undelivered::{give_up_notification, is_by_the_handler};
