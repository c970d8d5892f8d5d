//! Channels notify customers, merchants and the operator: webhooks, e-mails, SMS, the event stream and the log.
//!
//! A channel makes one attempt to send an event and returns the result. The queue repeats a failed attempt, and the
//! store records each attempt. The content of an event must not reach a log, an error or a metric.

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

/// One event to send over one channel.
#[derive(Debug, Clone, Copy)]
pub struct Delivery<'a> {
    /// Id of the event; the same for every attempt.
    pub event_id: &'a EventId,
    /// The outcome that the event reports.
    pub outcome: Outcome,
    /// The content of the event. It holds the card code only if the channel's card form is [`CardForm::Code`].
    pub event: &'a Event,
    /// The stored order. A channel takes the receiver's address from it, and the content from `event`.
    pub order: &'a Order,
    /// URL of the page that shows the card code, for [`CardForm::Link`].
    pub reveal_link: Option<&'a str>,
}

/// Why an attempt to send failed. The error text contains nothing of the event, so it may be logged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The attempt failed and may be retried.
    #[error("{what}")]
    Failed {
        /// The cause, for the log and the store.
        what: String,
        /// The wait that the receiver's `Retry-After` asks for, in real time (not scaled).
        retry_after: Option<Duration>,
    },
    /// No connection, or no answer in time. A retry may follow. Five such errors in a row open the endpoint's breaker.
    #[error("{0}")]
    Unavailable(String),
    /// The receiver refuses the event for good, or the order has no usable address. No retry follows.
    #[error("{0}")]
    Refused(String),
}

/// What the messages of a channel contain of a fulfilled order's card.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum CardForm {
    /// Neither the card code nor a link to it.
    #[value(name = "none")]
    Nothing,
    /// The link to the page that shows the card code.
    Link,
    /// The card code.
    Code,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Audience {
    Customer,
    Operator,
}

impl Audience {
    /// Whether this audience is notified of the outcome.
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
    /// How much of the card the message carries.
    pub card: CardForm,
    /// Whether customers are notified of [`Outcome::Delayed`].
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
    /// Name of the channel in jobs, the store and metrics.
    fn name(&self) -> &'static str;

    /// Whether this channel delivers this outcome of this order.
    fn wants(&self, outcome: Outcome, order: &Order) -> bool;

    /// Whether a repeated delivery does no harm, and takes no receiver's time. Then the job that stores an event also sends
    /// it, and an attempt is stored only after it was made. True for the log and the event stream.
    fn repeat_is_harmless(&self) -> bool {
        false
    }

    /// Whether this channel sends to customers or merchants; false for the log, the event stream and the operator.
    fn reaches_receivers(&self) -> bool {
        true
    }

    /// How much of a card this channel carries. A [`Delivery`] to this channel contains no more.
    fn card_form(&self) -> CardForm;

    /// Key of the breaker for the endpoint that receives this order's events; `None` if no breaker applies. Channels
    /// with the same key share a breaker. The key is never logged.
    fn endpoint(&self, _order: &Order) -> Option<String> {
        None
    }

    /// Makes one attempt. `Ok` only once the receiver has accepted the event.
    async fn send(&self, delivery: Delivery<'_>) -> Result<(), SendError>;
}

/// The channels of this deployment.
#[derive(Clone)]
pub struct Channels(Vec<Arc<dyn Channel>>);

impl Channels {
    /// The set of these channels.
    #[must_use]
    pub fn new(channels: Vec<Arc<dyn Channel>>) -> Self {
        Self(channels)
    }

    /// Replaces each channel with the result of `with`, which wraps it.
    pub fn decorate(&mut self, with: impl Fn(Arc<dyn Channel>) -> Arc<dyn Channel>) {
        self.0 = self.0.iter().map(|channel| with(Arc::clone(channel))).collect();
    }

    /// Names of the channels that want this outcome of this order.
    #[must_use]
    pub fn wanting(&self, outcome: Outcome, order: &Order) -> Vec<String> {
        let wanting = self.0.iter().filter(|channel| channel.wants(outcome, order));
        wanting.map(|channel| channel.name().to_owned()).collect()
    }

    /// Whether the deployment has channels to customers or merchants, but none of them wants this outcome of the order.
    /// Always false for outcomes other than `Fulfilled`, `Scheduled` and `Refunded`.
    #[must_use]
    pub fn reach_no_receiver(&self, outcome: Outcome, order: &Order) -> bool {
        let due = matches!(outcome, Outcome::Fulfilled | Outcome::Scheduled | Outcome::Refunded);
        let mut reaching = self.0.iter().filter(|channel| channel.reaches_receivers()).peekable();
        due && reaching.peek().is_some() && !reaching.any(|channel| channel.wants(outcome, order))
    }

    /// Finds a channel by its name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<dyn Channel>> {
        self.0.iter().find(|channel| channel.name() == name)
    }
}
