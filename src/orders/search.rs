//! Criteria and results of a search for orders. No result contains a card.

use topup_jobs::{OrderStatus, Secret, Timestamp};

use super::Order;

/// Criteria of a search. An order must meet all that are set; without criteria every order is found.
#[derive(Debug, Clone, Default)]
pub struct Search {
    /// The merchant's reference, exactly as sent.
    pub reference: Option<String>,
    /// The number that is topped up, however it is written.
    pub number: Option<Secret>,
    /// The customer's phone number, however it is written.
    pub phone: Option<Secret>,
    /// The customer's e-mail address, in upper or lower case.
    pub email: Option<Secret>,
    /// Accepted statuses; any status if empty.
    pub statuses: Vec<OrderStatus>,
    /// The order or one of its notifications is dead-lettered, with a reason that starts with this text.
    pub dead_letter: Option<String>,
    /// A notification of the order was refused or failed at every attempt, or no channel could deliver an outcome.
    pub undelivered: bool,
    /// A message cancelled the order.
    pub cancelled: bool,
    /// Tracking began at this time or later.
    pub since: Option<Timestamp>,
    /// Tracking began before this time.
    pub until: Option<Timestamp>,
}

/// An order found by a search.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The order as it is stored, without its card.
    pub order: Order,
    /// Why the order is dead-lettered, if it is.
    pub given_up: Option<String>,
    /// Number of notifications that were refused or failed at every attempt, and of outcomes without a channel.
    pub undelivered: u32,
}
