//! `topup-worker doctor`: checks everything `run` needs, and says what is wrong and how to correct it.
//!
//! It changes nothing of anybody's data and sends nothing to anybody: the database is written in a
//! transaction that is rolled back, the provider is asked one harmless question, a webhook's receiver and a
//! mail server are greeted and not told. Every check runs for itself under a time limit, and one that fails hides no
//! other; only those that need a Redis which is not there are skipped.
//!
//! `report` holds the findings and prints them; every other file is one thing that is looked at.

mod addresses;
mod deployment;
mod email;
mod keys;
mod permissions;
mod postgres;
mod provider;
mod redis;
mod report;
mod settings;
mod sms;
mod store;
mod webhook;

use std::time::Duration;

use clap::Args;
use secrecy::ExposeSecret;

use super::effective::Setting;
use super::{Exit, say};
use crate::app::key_fingerprints;
use crate::config::{Config, RunSettings};
use crate::notify::CardForm;
use crate::provider::Client;

use self::deployment::Own;
use self::report::{Check, Report, Verdict};

/// Longest time one check may take. Long enough for a name that resolves slowly and a TLS handshake.
const LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(super) struct DoctorSettings {
    #[command(flatten)]
    pub(super) run: RunSettings,

    /// Print the findings as one JSON object
    #[arg(long)]
    json: bool,

    /// The settings as `run` would use them.
    #[arg(skip)]
    pub(super) effective: Vec<Setting>,
}

pub(super) async fn doctor(settings: DoctorSettings) -> anyhow::Result<Exit> {
    let (json, effective) = (settings.json, settings.effective);
    let (checks, usable) = match settings::read(settings.run) {
        // Boxed: all checks run at once, and their states would weigh on every future around this one.
        Ok((config, client)) => (Box::pin(look(config, &client)).await, true),
        Err(wrong) => (wrong, false),
    };
    let report = Report::new(checks, effective);
    if json {
        say(serde_json::to_string_pretty(&report)?)?;
    } else {
        say(&report)?;
    }
    Ok(match (usable, report.is_ok()) {
        (false, _) => Exit::BadSettings,
        (true, false) => Exit::Failed,
        (true, true) => Exit::Done,
    })
}

/// Carries out every check.
async fn look(config: Config, client: &Client) -> Vec<Check> {
    let names = &config.names;
    let api_keys = key_fingerprints(&config);
    // The provider is asked only where Redis does not say that no order may be checked.
    let redis_then_provider = async {
        let (reached, connection) = redis::reach(&config.redis).await;
        let (redis, shared, provider) = match &connection {
            Some(connection) => tokio::join!(
                redis::look(connection, names, &api_keys, config.time_scale),
                async { Some(deployment::read(connection, names).await) },
                provider::look(client, &api_keys[0], Some((connection, names)))
            ),
            None => (redis::skipped(), None, provider::look(client, &api_keys[0], None).await),
        };
        (reached, redis, shared, provider)
    };
    let told_otherwise = is_told_otherwise(&config);
    let notified_otherwise =
        config.webhook.is_some() || config.email.as_ref().is_some_and(|email| !email.operator.is_empty());
    let templates = settings::templates(&config.templates);
    let page = config.reveal.map(|reveal| reveal.addr);
    let ((reached, redis, shared, provider), (store, store_id), webhook, operator, email, sms, http, page) = tokio::join!(
        redis_then_provider,
        store::look(config.database_url.expose_secret(), &config.cipher),
        webhook::merchant(config.webhook, &config.webhook_guard, told_otherwise),
        webhook::operator(config.operator_webhook, &config.webhook_guard, notified_otherwise),
        email::look(config.email),
        sms::look(config.sms.map(|gateway| gateway.url)),
        addresses::http(config.http_addr),
        addresses::reveal(page),
    );
    let mut checks = vec![settings::usable(config.time_scale), reached];
    checks.extend(redis);
    let own = match &store_id {
        Some(id) => Own::Is(id),
        None if store.iter().any(|check| check.verdict == Verdict::Fail) => Own::Unknown,
        None => Own::NotThere,
    };
    checks.extend(deployment::look(shared.as_ref(), own, &config.cipher, names));
    checks.extend(store);
    checks.extend([provider, webhook, operator, templates, email, sms, http, page]);
    checks
}

/// Whether cards are delivered without the merchant's webhook: to customers, or to callback URLs.
fn is_told_otherwise(config: &Config) -> bool {
    let by_mail = config.email.as_ref().is_some_and(|email| email.card != CardForm::Nothing);
    let by_sms = config.sms.is_some() && config.sms_card != CardForm::Nothing;
    by_mail || by_sms || config.callbacks.is_some()
}

/// The finding of this check, or that it took too long.
async fn limited(name: &'static str, check: impl Future<Output = Check>) -> Check {
    tokio::time::timeout(LIMIT, check).await.unwrap_or_else(|_elapsed| {
        let found = format!("no answer within {} s", LIMIT.as_secs());
        Check::fail(name, found, "something on the way holds it up; look at the load and the network between")
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        run: RunSettings,
    }

    fn told_otherwise(more: &[&str]) -> bool {
        let key = "00112233445566778899aabbccddeeff".repeat(2);
        let good = ["x", "--oneclickdz-api-key", "k", "--encryption-key", &key];
        let settings = Command::try_parse_from(good.iter().chain(more)).unwrap().run;
        is_told_otherwise(&settings.validate().unwrap())
    }

    #[test]
    fn only_a_channel_that_carries_cards_stands_in_for_the_webhook() {
        let email = ["--smtp-url", "smtps://m.example", "--email-from", "a@shop.example"];
        let body = "[{{ phone | tojson }},{{ text | tojson }}]";
        let sms = ["--sms-url", "https://sms.example", "--sms-body", body];
        let callbacks = [
            "--callback-allowed-hosts",
            "shop.example",
            "--webhook-secret",
            "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        ];
        let linked = ["--email-card", "link", "--reveal-url", "https://shop.example"];
        assert!(!told_otherwise(&[]));
        assert!(!told_otherwise(&[&email[..], &sms[..]].concat()), "that a card is ready is no card");
        assert!(!told_otherwise(&["--sms-card", "code"]), "no gateway carries it");
        assert!(told_otherwise(&[&email[..], &linked[..]].concat()));
        assert!(told_otherwise(&[&sms[..], &["--sms-card", "code"]].concat()));
        assert!(told_otherwise(&callbacks));
    }
}
