//! `topup-worker doctor`: checks everything `run` needs, and reports what is wrong and how to correct it. It changes no
//! data and sends no event or mail: the database is written in a transaction that is rolled back, the provider gets one
//! harmless request, webhook receivers get a `HEAD` request, and the mail server gets a login. Each check has its own
//! time limit, and all checks run even if one fails; without Redis only the checks that need Redis are skipped.
//! `report` holds and prints the findings; every other file is one group of checks.

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

/// Time limit of one check, long enough for a slow name resolution and a TLS handshake.
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
        // The future of `look` is boxed, because it runs all checks at once and is large.
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

async fn look(config: Config, client: &Client) -> Vec<Check> {
    let names = &config.names;
    let api_keys = key_fingerprints(&config);
    // Redis comes first: the provider must get no request while a breaker (a pause of all requests) in Redis is open.
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
    let delivered_otherwise = is_delivered_otherwise(&config);
    let notified_otherwise =
        config.webhook.is_some() || config.email.as_ref().is_some_and(|email| !email.operator.is_empty());
    let templates = settings::templates(&config.templates);
    let page = config.reveal.map(|reveal| reveal.addr);
    let ((reached, redis, shared, provider), (store, store_id), webhook, operator, email, sms, http, page) = tokio::join!(
        redis_then_provider,
        store::look(config.database_url.expose_secret(), &config.cipher),
        webhook::merchant(config.webhook, &config.webhook_guard, delivered_otherwise),
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

/// Whether cards are delivered without the merchant's webhook, that is, to customers or to callback URLs.
fn is_delivered_otherwise(config: &Config) -> bool {
    let by_mail = config.email.as_ref().is_some_and(|email| email.card != CardForm::Nothing);
    let by_sms = config.sms.is_some() && config.sms_card != CardForm::Nothing;
    by_mail || by_sms || config.callbacks.is_some()
}

/// Runs a check for at most [`LIMIT`]. A check that does not end by then fails.
async fn limited(name: &'static str, check: impl Future<Output = Check>) -> Check {
    tokio::time::timeout(LIMIT, check).await.unwrap_or_else(|_elapsed| {
        let found = format!("no answer within {} s", LIMIT.as_secs());
        Check::fail(name, found, "check the load of both hosts and the network between them")
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

    fn delivered_otherwise(more: &[&str]) -> bool {
        let key = "00112233445566778899aabbccddeeff".repeat(2);
        let good = ["x", "--oneclickdz-api-key", "k", "--encryption-key", &key];
        let settings = Command::try_parse_from(good.iter().chain(more)).unwrap().run;
        is_delivered_otherwise(&settings.validate().unwrap())
    }

    #[test]
    fn only_a_channel_that_carries_cards_replaces_the_webhook() {
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
        assert!(!delivered_otherwise(&[]));
        assert!(!delivered_otherwise(&[&email[..], &sms[..]].concat()), "a notice without the card");
        assert!(!delivered_otherwise(&["--sms-card", "code"]), "no SMS gateway is set");
        assert!(delivered_otherwise(&[&email[..], &linked[..]].concat()));
        assert!(delivered_otherwise(&[&sms[..], &["--sms-card", "code"]].concat()));
        assert!(delivered_otherwise(&callbacks));
    }
}
