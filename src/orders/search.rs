//! What orders are looked for by, and what is found. Reads only; never a card.

use topup_jobs::{OrderStatus, Secret, Timestamp};

use super::Order;

/// What orders must have in common; without any of it all are meant.
#[derive(Debug, Clone, Default)]
pub struct Search {
    /// The merchant's reference.
    pub reference: Option<String>,
    /// The number that is topped up, however it is written.
    pub number: Option<Secret>,
    /// The customer's phone number, however it is written.
    pub phone: Option<Secret>,
    /// The customer's e-mail address, in upper or lower case.
    pub email: Option<Secret>,
    /// One of these statuses; any where there is none.
    pub statuses: Vec<OrderStatus>,
    /// It was given up, or a notification of it was, for a reason that begins with this.
    pub dead_letter: Option<String>,
    /// A notification of it was refused or failed at every attempt, or no channel could deliver an outcome.
    pub undelivered: bool,
    /// A message ends its tracking.
    pub cancelled: bool,
    /// Tracked at this time or later.
    pub since: Option<Timestamp>,
    /// Tracked before this time.
    pub until: Option<Timestamp>,
}

/// An order that was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The order.
    pub order: Order,
    /// Why it was given up, if it was.
    pub given_up: Option<String>,
    /// Notifications of it that were refused or failed at every attempt, and outcomes that no channel could deliver.
    pub undelivered: u32,
}
