//! Channels, and the texts they carry.
//!
//! A channel gets an event whole and says whether it took it. It does not wait, repeat or remember: that
//! is the queue's and the store's business. The content of an event must not reach a log, an error or a metric.

mod bulkhead;
mod callback;
mod callback_secret;
mod channel_name;
mod email;
mod formats;
mod log;
mod phone;
mod samples;
mod sender;
mod signature;
mod sms;
mod smtp;
mod special_networks;
mod ssrf_guard;
mod stream;
mod template_context;
mod templates;
mod texts;
mod webhook;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use clap::ValueEnum;
use topup_jobs::{Event, EventId, Outcome};

use crate::orders::Order;

pub use bulkhead::{Bulkhead, EndpointSlot, Rejected, SLOW, Transition};
pub use callback::{CallbackHosts, CallbackRefused, InvalidHost, parse_host};
pub use callback_secret::{CallbackSecrets, InvalidCallbackSecret};
pub use channel_name::ChannelName;
pub use email::{Email, EmailConfig};
pub use log::LogChannel;
pub use sender::{Lookup, NoAnswer, Sender, SystemLookup};
pub use signature::{InvalidSecret, WebhookSecret};
pub use sms::{InvalidGateway, Sms, SmsGateway};
pub use smtp::{MailServer, Security};
pub use ssrf_guard::{Blocked, InvalidNetwork, SsrfGuard};
pub use stream::EventStream;
pub(crate) use template_context::processed_at;
pub use templates::{TemplateError, Templates};
pub use texts::message;
pub use webhook::{Endpoint, Webhook};

/// One event on its way to one channel.
#[derive(Debug, Clone, Copy)]
pub struct Delivery<'a> {
    /// Its id; the same for every attempt.
    pub event_id: &'a EventId,
    /// What happened.
    pub outcome: Outcome,
    /// The event, with the card of a fulfilled order where the channel carries the code.
    pub event: &'a Event,
    /// The order, for the address. The content stands in the event.
    pub order: &'a Order,
    /// Where the customer can see the code, for a channel that carries the link to it.
    pub reveal_link: Option<&'a str>,
}

/// The channel did not take it. In words without anything of the event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// It may be tried again, after this long if the receiver named a time (real time).
    #[error("{what}")]
    Failed {
        /// What went wrong.
        what: String,
        /// `Retry-After` of the receiver.
        retry_after: Option<Duration>,
    },
    /// The endpoint was not reached: no connection, or no answer in time. It may be tried again; several in a row open
    /// the endpoint's breaker.
    #[error("{0}")]
    Unavailable(String),
    /// The receiver refuses this event: a further attempt by itself would end alike.
    #[error("{0}")]
    Refused(String),
}

/// What a channel carries of the card of a fulfilled order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CardForm {
    /// Nothing of it.
    #[value(name = "none")]
    Nothing,
    /// The link to a page that shows it.
    Link,
    /// The code itself.
    Code,
}

/// Whose eyes a text is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Audience {
    /// Who ordered the top-up.
    Customer,
    /// Who runs this service.
    Operator,
}

impl Audience {
    /// Whether there is anything to tell them about this outcome.
    pub(crate) const fn concerns(self, outcome: Outcome) -> bool {
        match self {
            Self::Customer => matches!(
                outcome,
                Outcome::Fulfilled | Outcome::Scheduled | Outcome::Refunded | Outcome::Delayed
            ),
            Self::Operator => outcome.concerns_operator(),
        }
    }
}

/// How customers are notified on one channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CustomerSettings {
    /// What they get of the card.
    pub card: CardForm,
    /// Whether they are notified of a delay.
    pub delayed: bool,
}

impl CustomerSettings {
    /// Whether customers are notified of this outcome.
    fn tells(self, outcome: Outcome) -> bool {
        Audience::Customer.concerns(outcome) && (self.delayed || outcome != Outcome::Delayed)
    }
}

/// A way to notify a receiver.
#[async_trait]
pub trait Channel: Send + Sync + 'static {
    /// Name in jobs, the store and metrics.
    fn name(&self) -> &'static str;

    /// Whether this channel carries this outcome of this order.
    fn wants(&self, outcome: Outcome, order: &Order) -> bool;

    /// Whether customers or merchants learn of outcomes here. False for what keeps a record, and for the operator's.
    fn reaches_receivers(&self) -> bool {
        true
    }

    /// What it carries of a card. What a channel does not carry it is not given.
    fn card_form(&self) -> CardForm;

    /// What it depends on to carry an event of this order, if that may keep it waiting: the name of a breaker, shared by
    /// all channels that give the same, and never shown.
    fn endpoint(&self, _order: &Order) -> Option<String> {
        None
    }

    /// Tells it. `Ok` only when the receiver has it.
    async fn send(&self, delivery: Delivery<'_>) -> Result<(), SendError>;
}

/// The channels of this deployment.
#[derive(Clone)]
pub struct Channels(Vec<Arc<dyn Channel>>);

impl Channels {
    /// These channels.
    #[must_use]
    pub fn new(channels: Vec<Arc<dyn Channel>>) -> Self {
        Self(channels)
    }

    /// Puts something around each channel.
    pub fn decorate(&mut self, with: impl Fn(Arc<dyn Channel>) -> Arc<dyn Channel>) {
        self.0 = self.0.iter().map(|channel| with(Arc::clone(channel))).collect();
    }

    /// Names of the channels that want this outcome of this order.
    #[must_use]
    pub fn wanting(&self, outcome: Outcome, order: &Order) -> Vec<String> {
        let wanting = self.0.iter().filter(|channel| channel.wants(outcome, order));
        wanting.map(|channel| channel.name().to_owned()).collect()
    }

    /// Whether this deployment has channels that reach customers or merchants, and none of them delivers this outcome
    /// of this order, though one should.
    #[must_use]
    pub fn reach_no_receiver(&self, outcome: Outcome, order: &Order) -> bool {
        let due = matches!(outcome, Outcome::Fulfilled | Outcome::Scheduled | Outcome::Refunded);
        let mut reaching = self.0.iter().filter(|channel| channel.reaches_receivers()).peekable();
        due && reaching.peek().is_some() && !reaching.any(|channel| channel.wants(outcome, order))
    }

    /// The channel of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<dyn Channel>> {
        self.0.iter().find(|channel| channel.name() == name)
    }
}
