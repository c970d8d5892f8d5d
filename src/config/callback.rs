//! The section of callback URLs, which get an order's events instead of the merchant's endpoint.

use clap::Args;
use secrecy::SecretString;

use super::{SettingsError, WebhookSettings, set, unusable};
use crate::notify::{CallbackHosts, CallbackSecrets};

/// Hosts and secrets of callback URLs.
#[derive(Debug, Clone, Args)]
pub struct CallbackSettings {
    /// Hosts that the `callbackUrl` of an order may have, such as `shop.example.dz` or `*.example.dz`; several,
    /// separated by spaces or commas
    #[arg(long, env = "CALLBACK_ALLOWED_HOSTS")]
    pub callback_allowed_hosts: Option<String>,

    /// Secrets of these hosts, `host=whsec_…`, separated by spaces or commas; the other hosts use a secret derived from
    /// WEBHOOK_SECRET, which `topup-worker callback-secret` shows
    #[arg(long, env = "CALLBACK_SECRETS", hide_env_values = true)]
    pub callback_secrets: Option<SecretString>,
}

/// The hosts of callback URLs, and the secrets that sign their events.
#[derive(Debug, Clone)]
pub struct Callbacks {
    /// Allowed hosts.
    pub hosts: CallbackHosts,
    /// Signing secrets, one or more for each host.
    pub secrets: CallbackSecrets,
}

impl CallbackSettings {
    /// The allowed hosts and their secrets; `None` if no host is allowed.
    pub(crate) fn callbacks(&self, webhook: &WebhookSettings) -> Result<Option<Callbacks>, SettingsError> {
        let hosts = self.callback_allowed_hosts.as_deref().unwrap_or_default();
        if hosts.trim().is_empty() {
            return Ok(None);
        }
        // An invalid `WEBHOOK_ALLOWED_NETWORKS` is reported by `RunSettings::validate`; here it counts as not set.
        let guard = webhook.guard().unwrap_or_default();
        let hosts = CallbackHosts::new(hosts, guard)
            .map_err(|error| unusable("CALLBACK_ALLOWED_HOSTS", error.to_string()))?;
        let secrets = CallbackSecrets::new(webhook.secret()?, set(self.callback_secrets.as_ref()), &hosts)
            .map_err(|error| unusable("CALLBACK_SECRETS", error.to_string()))?;
        Ok(Some(Callbacks { hosts, secrets }))
    }
}
