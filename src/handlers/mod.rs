//! One file per job: load → ask → decide → apply. Knows neither apalis nor Redis nor HTTP.
//!
//! The store is committed before the job is settled. A crash between the two repeats the job, and repeating
//! changes nothing: the store absorbs, and what is still to be told is found there.

mod announce;
mod environment;
mod follow;
mod instruct;
mod notify_customer;
mod poll_topup;
mod recheck_topup;
mod stored_dead_letter;
mod undelivered;

pub use environment::{Environment, random_jitter};
pub(crate) use follow::{give_up, is_by_a_look, sighted};
pub use notify_customer::NotifyCustomerHandler;
pub use poll_topup::PollTopupHandler;
pub use recheck_topup::RecheckTopupHandler;
pub(crate) use stored_dead_letter::StoredDeadLetter;
pub(crate) use undelivered::{give_up_telling, is_by_the_handler};
