//! The section of webhooks: endpoints of the merchant and the operator, secrets and allowed networks.

use clap::Args;
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::{SettingsError, set, unusable};
use crate::notify::{Endpoint, SsrfGuard, WebhookSecret};

const SECRET_ADVICE: &str = "the receiver verifies your events with it; it begins with whsec_";

/// Settings of the webhook endpoints.
#[derive(Debug, Clone, Args)]
pub struct WebhookSettings {
    /// The merchant's endpoint for every outcome; if it is not set, outcomes are logged with masked data
    #[arg(long, env = "WEBHOOK_URL", hide_env_values = true)]
    pub webhook_url: Option<SecretString>,

    /// Signing secret of the endpoint, `whsec_…`; several, separated by spaces or commas, while rotating
    #[arg(long, env = "WEBHOOK_SECRET", hide_env_values = true)]
    pub webhook_secret: Option<SecretString>,

    /// The operator's endpoint, for orders that a human must look at
    #[arg(long, env = "OPERATOR_WEBHOOK_URL", hide_env_values = true)]
    pub operator_webhook_url: Option<SecretString>,

    /// Signing secret of the operator's endpoint; WEBHOOK_SECRET by default
    #[arg(long, env = "OPERATOR_WEBHOOK_SECRET", hide_env_values = true)]
    pub operator_webhook_secret: Option<SecretString>,

    /// Allow endpoints without TLS, on this machine and in private networks; for demos and tests
    #[arg(long, env = "ALLOW_INSECURE_WEBHOOKS")]
    pub allow_insecure_webhooks: bool,

    /// Networks that are not public and that webhooks may go to, such as `10.20.0.0/16`; several, separated by
    /// spaces or commas
    #[arg(long, env = "WEBHOOK_ALLOWED_NETWORKS")]
    pub webhook_allowed_networks: Option<String>,
}

impl WebhookSettings {
    pub(super) fn merchant(&self) -> Result<Option<Endpoint>, SettingsError> {
        let Some(url) = set(self.webhook_url.as_ref()) else { return Ok(None) };
        let secret = set(self.webhook_secret.as_ref());
        self.endpoint(["WEBHOOK_URL", "WEBHOOK_SECRET"], url, secret).map(Some)
    }

    pub(super) fn operator(&self) -> Result<Option<Endpoint>, SettingsError> {
        let Some(url) = set(self.operator_webhook_url.as_ref()) else { return Ok(None) };
        let secret = set(self.operator_webhook_secret.as_ref()).or(set(self.webhook_secret.as_ref()));
        self.endpoint(["OPERATOR_WEBHOOK_URL", "OPERATOR_WEBHOOK_SECRET"], url, secret).map(Some)
    }

    /// The guard that checks where webhooks may go.
    pub(super) fn guard(&self) -> Result<SsrfGuard, SettingsError> {
        let networks = self.webhook_allowed_networks.as_deref().unwrap_or_default();
        SsrfGuard::new(self.allow_insecure_webhooks, networks)
            .map_err(|error| unusable("WEBHOOK_ALLOWED_NETWORKS", error.to_string()))
    }

    /// The checked value of `WEBHOOK_SECRET`, which may hold several secrets.
    pub(super) fn secret(&self) -> Result<&SecretString, SettingsError> {
        let secret = set(self.webhook_secret.as_ref());
        read_secret("WEBHOOK_SECRET", secret)?;
        secret.ok_or(SettingsError::Missing { name: "WEBHOOK_SECRET", advice: SECRET_ADVICE })
    }

    fn endpoint(
        &self,
        [url_name, secret_name]: [&'static str; 2],
        url: &SecretString,
        secret: Option<&SecretString>,
    ) -> Result<Endpoint, SettingsError> {
        let url: Url = url.expose_secret().parse().map_err(|_| unusable(url_name, "it is not a URL"))?;
        // Without valid networks there is no guard to check the URL. `RunSettings::validate` reports invalid networks.
        if let Ok(guard) = self.guard() {
            guard.check_url(&url).map_err(|refused| unusable(url_name, refused.to_string()))?;
        }
        Ok(Endpoint { url, secret: read_secret(secret_name, secret)? })
    }
}

fn read_secret(name: &'static str, secret: Option<&SecretString>) -> Result<WebhookSecret, SettingsError> {
    let secret = secret.ok_or(SettingsError::Missing { name, advice: SECRET_ADVICE })?;
    WebhookSecret::parse(secret).map_err(|error| unusable(name, error.to_string()))
}
