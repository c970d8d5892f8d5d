//! The hosts that orders may be told at instead of at the merchant's endpoint.

use clap::Args;

use super::{SettingsError, WebhookSettings, unusable};
use crate::notify::{CallbackHosts, WebhookSecret};

/// The addresses that may come with an order.
#[derive(Debug, Clone, Args)]
pub struct CallbackSettings {
    /// Hosts that the `callbackUrl` of an order may have, such as `shop.example.dz` or `*.example.dz`; several,
    /// separated by spaces or commas
    #[arg(long, env = "CALLBACK_ALLOWED_HOSTS")]
    pub callback_allowed_hosts: Option<String>,
}

/// Where orders may be told, and the secret their events are signed with.
#[derive(Debug, Clone)]
pub struct Callbacks {
    /// The hosts.
    pub hosts: CallbackHosts,
    /// The secret: the merchant's.
    pub secret: WebhookSecret,
}

impl CallbackSettings {
    /// What is allowed, if anything is.
    pub(super) fn callbacks(&self, webhook: &WebhookSettings) -> Result<Option<Callbacks>, SettingsError> {
        let hosts = self.callback_allowed_hosts.as_deref().unwrap_or_default();
        if hosts.trim().is_empty() {
            return Ok(None);
        }
        // Networks that cannot be read are told where they are read.
        let guard = webhook.guard().unwrap_or_default();
        let hosts = CallbackHosts::new(hosts, guard)
            .map_err(|error| unusable("CALLBACK_ALLOWED_HOSTS", error.to_string()))?;
        Ok(Some(Callbacks { hosts, secret: webhook.secret()? }))
    }
}
