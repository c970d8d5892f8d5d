//! The names of the channels, where one becomes the label of a metric.

/// A channel by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelName {
    /// The stream of events.
    Events,
    /// The log.
    Log,
    /// The merchant's endpoint.
    Webhook,
    /// The address that came with an order.
    Callback,
    /// The operator's endpoint.
    OperatorWebhook,
    /// Mails to customers.
    Email,
    /// Mails to the operator.
    OperatorEmail,
    /// SMS to customers.
    Sms,
    /// One that this version does not know; another may have stored it.
    Other,
    /// No channel at all.
    None,
}

impl ChannelName {
    /// Every name.
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

    /// The name as it stands in jobs, the store and metrics.
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

    /// The channel of this name.
    #[must_use]
    pub fn of(name: &str) -> Self {
        Self::ALL.into_iter().find(|known| known.as_str() == name).unwrap_or(Self::Other)
    }
}
