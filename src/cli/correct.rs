//! `topup-worker correct <topupId>`: changes details of an order for notifications that are not sent yet. The
//! command sends one message, needs only Redis and prints none of the new values.

use std::slice;

use clap::Args;
use lettre::Address;
use reqwest::Url;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};
use topup_jobs::TopupId;

use super::messages::{about, check, send};
use super::store::workers_must_have_run;
use super::{connect, say};
use crate::config::{RedisSettings, SettingsError};
use crate::queue::{Whereabouts, whereabouts};

#[derive(Debug, Args)]
pub(super) struct CorrectSettings {
    #[command(flatten)]
    redis: RedisSettings,

    /// The provider's id of the order, 24 hexadecimal digits
    topup_id: String,

    /// The customer's name; here and below, an empty value removes the detail
    #[arg(long)]
    name: Option<SecretString>,

    /// The customer's e-mail address
    #[arg(long)]
    email: Option<SecretString>,

    /// The customer's phone number
    #[arg(long)]
    phone: Option<SecretString>,

    /// The customer's language: fr, ar or en
    #[arg(long)]
    locale: Option<String>,

    /// Endpoint for the events of this order; an empty value sends them to `WEBHOOK_URL`
    #[arg(long)]
    callback_url: Option<SecretString>,

    /// A JSON object that replaces the metadata as a whole
    #[arg(long)]
    metadata: Option<String>,
}

pub(super) async fn correct(settings: CorrectSettings) -> anyhow::Result<()> {
    let topup_id: TopupId = settings.topup_id.trim().parse().map_err(|why: topup_jobs::InvalidTopupId| {
        SettingsError::Unusable { name: "<TOPUP_ID>", why: why.to_string() }
    })?;
    usable(&settings)?;
    let fields = about("correct-topup", &topup_id, details(&settings)?);
    check(&fields)?;
    let connection = connect(&settings.redis)?;
    let names = &settings.redis.prefix;
    workers_must_have_run(&connection, names).await?;
    let place = whereabouts(&connection, names, slice::from_ref(&topup_id)).await.unwrap_or_default().pop();
    let ids = send(&connection, &settings.redis, &[fields]).await?;
    let outlook = match place {
        Some(Whereabouts::Nowhere) => {
            "the order is in no queue. If it is stored, notifications not sent yet use the new details; if not, the \
             message becomes a dead letter"
        }
        _ => "notifications not sent yet use the new details; `topup-worker resend` sends an event again",
    };
    say(format_args!("{topup_id}  message {}: {outlook}", ids.concat()))
}

/// Returns an error for a value that no channel could use. An empty value is allowed, because it removes the detail.
fn usable(settings: &CorrectSettings) -> Result<(), SettingsError> {
    let given = |text: &Option<SecretString>| {
        text.as_ref().map(|text| text.expose_secret().trim().to_owned()).filter(|text| !text.is_empty())
    };
    let unusable = |name, why: &str| Err(SettingsError::Unusable { name, why: why.to_owned() });
    if given(&settings.email).is_some_and(|email| email.parse::<Address>().is_err()) {
        return unusable("--email", "it is not an e-mail address");
    }
    if given(&settings.phone).is_some_and(|phone| !phone.chars().any(char::is_numeric)) {
        return unusable("--phone", "it holds no digit");
    }
    let is_web = |url: &Url| matches!(url.scheme(), "https" | "http");
    if given(&settings.callback_url).is_some_and(|url| !url.parse().is_ok_and(|url| is_web(&url))) {
        return unusable("--callback-url", "it is not an https:// address");
    }
    Ok(())
}

fn details(settings: &CorrectSettings) -> anyhow::Result<Map<String, Value>> {
    let secret = |text: &Option<SecretString>| text.as_ref().map(|text| json!(text.expose_secret()));
    let customer = [
        ("name", secret(&settings.name)),
        ("email", secret(&settings.email)),
        ("phone", secret(&settings.phone)),
        ("locale", settings.locale.as_ref().map(|locale| json!(locale))),
    ];
    let customer: Map<String, Value> =
        customer.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
    let mut data = Map::new();
    if !customer.is_empty() {
        data.insert("customer".to_owned(), Value::Object(customer));
    }
    data.extend(secret(&settings.callback_url).map(|url| ("callbackUrl".to_owned(), url)));
    if let Some(text) = &settings.metadata {
        let value = serde_json::from_str(text)
            .map_err(|_| SettingsError::Unusable { name: "--metadata", why: "it is not JSON".to_owned() })?;
        data.insert("metadata".to_owned(), value);
    }
    Ok(data)
}
