//! Names of the channels as an enum, so that labels of metrics come from a fixed set.

/// The name of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelName {
    /// The Redis stream of events.
    Events,
    /// The log of the worker.
    Log,
    /// Webhooks to the merchant's endpoint.
    Webhook,
    /// Webhooks to the callback URL of an order.
    Callback,
    /// Webhooks to the operator's endpoint.
    OperatorWebhook,
    /// Mails to customers.
    Email,
    /// Mails to the operator.
    OperatorEmail,
    /// SMS to customers.
    Sms,
    /// A name that this version does not know; another version may have stored it.
    Other,
    /// Stands in for a channel if no channel reaches the customer or the merchant of an order.
    None,
}

impl ChannelName {
    /// All names.
    pub const ALL: [Self; 10] = [
        Self::Events,
        Self::Log,
        Self::Webhook,
        Self::Callback,
        Self::OperatorWebhook,
        Self::Email,
        Self::OperatorEmail,
        Self::Sms,
        Self::Other,
        Self::None,
    ];

    /// The name in jobs, the store and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Events => "events",
            Self::Log => "log",
            Self::Webhook => "webhook",
            Self::Callback => "callback",
            Self::OperatorWebhook => "operator-webhook",
            Self::Email => "email",
            Self::OperatorEmail => "operator-email",
            Self::Sms => "sms",
            Self::Other => "other",
            Self::None => "none",
        }
    }

    /// Parses a name; an unknown one becomes [`ChannelName::Other`].
    #[must_use]
    pub fn of(name: &str) -> Self {
        Self::ALL.into_iter().find(|known| known.as_str() == name).unwrap_or(Self::Other)
    }
}
