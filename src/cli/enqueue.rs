//! `topup-worker enqueue`: validates a message and sends it with one XADD, as a producer does.

use clap::Args;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};

use super::messages::{Fields, check, send};
use super::store::has_had_workers;
use super::{connect, say};
use crate::config::{RedisSettings, SettingsError};

#[derive(Debug, Args)]
pub(super) struct EnqueueSettings {
    #[command(flatten)]
    redis: RedisSettings,

    /// The provider's id of the order, 24 hexadecimal digits
    topup_id: String,

    /// Name of the message: poll-topup, or recheck-topup for an order that is known to be QUEUED
    #[arg(long, default_value = "poll-topup")]
    name: String,

    /// The merchant's reference
    #[arg(long)]
    topup_ref: Option<String>,

    /// The customer as a JSON object: name, email, phone, locale
    #[arg(long)]
    customer: Option<String>,

    /// A JSON object that every event of the order repeats
    #[arg(long)]
    metadata: Option<String>,

    /// Endpoint for the events of this order, instead of the merchant's
    #[arg(long)]
    callback_url: Option<SecretString>,

    /// Options as a JSON object: delay, attempts, backoff, force
    #[arg(long)]
    opts: Option<String>,
}

pub(super) async fn enqueue(settings: EnqueueSettings) -> anyhow::Result<()> {
    let mut data = Map::from_iter([("topupId".to_owned(), json!(settings.topup_id))]);
    data.extend(settings.topup_ref.map(|reference| ("topupRef".to_owned(), json!(reference))));
    let callback_url =
        settings.callback_url.map(|url| ("callbackUrl".to_owned(), json!(url.expose_secret())));
    data.extend(callback_url);
    for (name, text) in [("customer", settings.customer), ("metadata", settings.metadata)] {
        if let Some(text) = text {
            let value: Value = serde_json::from_str(&text)
                .map_err(|_| SettingsError::Unusable { name, why: "it is not JSON".to_owned() })?;
            data.insert(name.to_owned(), value);
        }
    }
    let mut fields: Fields = vec![("name", settings.name), ("data", Value::Object(data).to_string())];
    fields.extend(settings.opts.map(|opts| ("opts", opts)));
    check(&fields)?;
    let connection = connect(&settings.redis)?;
    let names = &settings.redis.prefix;
    if has_had_workers(&connection, names).await == Some(false) {
        tracing::warn!(
            "no worker has ever run with the prefix {names} in this Redis; the message waits in the inbox for one"
        );
    }
    let ids = send(&connection, &settings.redis, &[fields]).await?;
    say(ids.concat())
}
