//! `topup-worker callback-secret <host>`: prints only the secret by which the host of a `callbackUrl` verifies events.
//! While the merchant's secret is rotated, the command prints several secrets, one per line, the newest first.

use clap::Args;
use secrecy::ExposeSecret;

use super::say;
use crate::config::{CallbackSettings, SettingsError, WebhookSettings};
use crate::notify::parse_host;

#[derive(Debug, Args)]
pub(super) struct CallbackSecretSettings {
    #[command(flatten)]
    webhook: WebhookSettings,
    #[command(flatten)]
    callback: CallbackSettings,

    /// The host, such as shop.example.dz; CALLBACK_ALLOWED_HOSTS must name it
    host: String,
}

pub(super) fn callback_secret(settings: &CallbackSecretSettings) -> anyhow::Result<()> {
    let unusable = |why: &str| SettingsError::Unusable { name: "<HOST>", why: why.to_owned() };
    let advice = "it names the hosts that may receive events of orders";
    let missing = SettingsError::Missing { name: "CALLBACK_ALLOWED_HOSTS", advice };
    let callbacks = settings.callback.callbacks(&settings.webhook)?.ok_or(missing)?;
    let host = parse_host(&settings.host)
        .map_err(|_| unusable("it must be a host such as shop.example.dz, without https:// and port"))?;
    if !callbacks.hosts.name(&host) {
        return Err(unusable("CALLBACK_ALLOWED_HOSTS does not name it, so no event is sent there").into());
    }
    callbacks.secrets.of(&host).expose_secret().split(' ').try_for_each(say)
}
