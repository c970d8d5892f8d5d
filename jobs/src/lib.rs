#![doc = include_str!("../README.md")]

mod completion;
mod decide;
mod event;
mod event_id;
mod instruction;
mod message;
mod name;
mod notify_customer;
mod odd_json;
mod order;
mod poll_topup;
mod recheck_topup;
mod schedule;
mod track;

pub use completion::{Completions, SPAN_COUNT};
pub use decide::{DeadLetterReason, Decision, Next, Observation, Situation, Tracking, decide};
pub use event::{Event, EventData, Outcome, Undelivered, UnknownOutcome};
pub use event_id::{EventId, Incident};
pub use instruction::{Instruction, InstructionKind};
pub use message::{Accepted, MAX_MESSAGE_BYTES, MAX_METADATA_BYTES, Opts, Rejection, accept, accept_size};
pub use name::{JobName, UnknownJobName};
pub use notify_customer::NotifyCustomer;
pub use odd_json::OddJson;
pub use order::{
    Card, Customer, InvalidTopupId, Locale, OrderStatus, ProviderOrder, Secret, TopupId, TopupStatus,
    TopupType, UnknownOrderStatus,
};
pub use poll_topup::PollTopup;
pub use recheck_topup::RecheckTopup;
pub use schedule::{
    Backoff, BackoffType, Jitter, NOTIFY_WAITS, PollStrategy, RetryPolicy, UnknownPollStrategy, notify_wait,
};
pub use track::{TrackTopup, Waited};

/// A moment of domain time (the time of orders, which demos and tests scale), always UTC.
pub type Timestamp = chrono::DateTime<chrono::Utc>;

#[cfg(test)]
mod schema_tests;
