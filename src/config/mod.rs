//! The settings, from flags or environment variables. They are read and checked once. An error names the setting.
//!
//! Each section has one clap struct and one file; [`RunSettings::validate`] turns them into types that cannot be
//! invalid. A secret is a `SecretString` from the moment it is read and must never be printed.

mod api;
mod callback;
mod email;
mod inbox;
mod redis;
mod retention;
mod reveal;
mod sms;
mod store;
mod texts;
mod webhook;

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use secrecy::{ExposeSecret, SecretString};
use topup_jobs::PollStrategy;
use url::{Host, Url};

use crate::maintenance::list_poller::CardDetails;
use crate::notify::{CardForm, EmailConfig, Endpoint, SmsGateway, SsrfGuard, Templates};
use crate::orders::{CardCipher, InvalidKey};
use crate::queue::RejectedCap;
use crate::redis::{Names, RedisAddress};
use crate::telemetry::LogFormat;

pub use self::api::{ApiSettings, ListPolling};
pub use self::callback::{CallbackSettings, Callbacks};
pub use self::email::EmailSettings;
pub use self::inbox::InboxSettings;
pub use self::redis::RedisSettings;
pub use self::retention::RetentionSettings;
pub use self::reveal::{RevealConfig, RevealSettings};
pub use self::sms::SmsSettings;
pub use self::store::StoreSettings;
pub use self::texts::TextSettings;
pub use self::webhook::WebhookSettings;

/// Host of the provider's real API, which has no scaled time. A `TIME_SCALE` other than 1 is refused for this host.
const REAL_API_HOST: &str = "api.oneclickdz.com";

/// A setting, or a combination of two, cannot be used. The message names the setting.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A required setting is missing.
    #[error("{name} is not set: {advice}")]
    Missing {
        /// Name of the setting.
        name: &'static str,
        /// What the user should do.
        advice: &'static str,
    },
    /// A setting has an unusable value.
    #[error("{name} cannot be used: {why}")]
    Unusable {
        /// Name of the setting.
        name: &'static str,
        /// The reason, without the value.
        why: String,
    },
    /// The encryption key is invalid.
    #[error(transparent)]
    Key(#[from] InvalidKey),
    /// Several settings cannot be used.
    #[error("{} settings cannot be used: {}", .0.len(), in_a_row(.0))]
    Several(Vec<Self>),
}

fn in_a_row(faults: &[SettingsError]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

fn unusable(name: &'static str, why: impl Into<String>) -> SettingsError {
    SettingsError::Unusable { name, why: why.into() }
}

/// The value of a setting; an empty one counts as not set.
fn set(value: Option<&SecretString>) -> Option<&SecretString> {
    value.filter(|value| !value.expose_secret().trim().is_empty())
}

/// Whether an address is a loopback address, so that requests to it never leave this machine.
fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

/// Reads the PEM certificates in the file that a setting names, if it is set.
fn certificates(name: &'static str, file: Option<&String>) -> Result<Option<Vec<u8>>, SettingsError> {
    let Some(file) = file.filter(|file| !file.trim().is_empty()) else { return Ok(None) };
    let pem = std::fs::read(file).map_err(|error| unusable(name, error.to_string()))?;
    // A file without a certificate is an error, because a TLS stack would accept the file and then trust no server.
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    if certificates.is_ok_and(|certificates| !certificates.is_empty()) {
        Ok(Some(pem))
    } else {
        Err(unusable(name, "it must hold certificates in PEM form"))
    }
}

/// Settings of the clock.
#[derive(Debug, Clone, Args)]
pub struct ClockSettings {
    /// Factor by which the waits of orders are shortened, for demos and tests (60: a minute passes in a second)
    #[arg(long, env = "TIME_SCALE", default_value_t = 1.0)]
    pub time_scale: f64,
}

/// Settings of the log.
#[derive(Debug, Clone, Args)]
pub struct LogSettings {
    /// Form of the log
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value = "pretty", global = true)]
    pub log_format: LogFormat,

    /// Level of the log
    #[arg(long, env = "RUST_LOG", default_value = "info", hide = true, global = true)]
    pub rust_log: String,
}

/// Everything `run` needs.
#[derive(Debug, Clone, Args)]
pub struct RunSettings {
    /// Settings of the connection to Redis.
    #[command(flatten)]
    pub redis: RedisSettings,
    /// Settings of the order database.
    #[command(flatten)]
    pub store: StoreSettings,
    /// Limits on the stored rejected messages.
    #[command(flatten)]
    pub inbox: InboxSettings,
    /// Retention of final orders.
    #[command(flatten)]
    pub retention: RetentionSettings,
    /// Settings of the provider's API.
    #[command(flatten)]
    pub api: ApiSettings,
    /// Settings of the webhook endpoints.
    #[command(flatten)]
    pub webhook: WebhookSettings,
    /// Hosts and secrets of callback URLs.
    #[command(flatten)]
    pub callback: CallbackSettings,
    /// Settings of mails.
    #[command(flatten)]
    pub email: EmailSettings,
    /// Settings of the SMS gateway.
    #[command(flatten)]
    pub sms: SmsSettings,
    /// Settings of the texts that customers read.
    #[command(flatten)]
    pub texts: TextSettings,
    /// Settings of the page behind one-time links.
    #[command(flatten)]
    pub reveal: RevealSettings,
    /// Settings of the clock.
    #[command(flatten)]
    pub clock: ClockSettings,

    /// Most jobs of each kind that run at once
    #[arg(long, env = "CONCURRENCY", default_value_t = 64)]
    pub concurrency: usize,

    /// Address of `/healthz`, `/readyz` and `/metrics`
    #[arg(long, env = "HTTP_ADDR", default_value = "127.0.0.1:9464")]
    pub http_addr: SocketAddr,

    /// Pace of fast polling: adaptive or fixed
    #[arg(long, env = "POLL_STRATEGY", default_value = "adaptive")]
    pub poll_strategy: PollStrategy,

    /// Seconds that running jobs get to finish after the first signal to stop
    #[arg(long, env = "SHUTDOWN_TIMEOUT_SECONDS", default_value_t = 25)]
    pub shutdown_timeout_seconds: u64,
}

/// Settings that have been checked.
pub struct Config {
    /// Address of Redis.
    pub redis: RedisAddress,
    /// Names of the keys in Redis.
    pub names: Names,
    /// Limits on the stored rejected messages.
    pub rejected_cap: RejectedCap,
    /// Address of the database.
    pub database_url: SecretString,
    /// Maximum number of connections to the database.
    pub database_connections: usize,
    /// Cipher of the card codes.
    pub cipher: CardCipher,
    /// Time that a final order is kept; `None` keeps it for ever.
    pub keep: Option<Duration>,
    /// Address of the provider's API.
    pub api_url: Url,
    /// Key of the provider's API.
    pub api_key: SecretString,
    /// Second key, used once the provider refuses the first.
    pub secondary_api_key: Option<SecretString>,
    /// Number of requests in a minute that the provider allows for each API key.
    pub rate_limit: u32,
    /// Maximum number of requests that all workers together have in flight with one API key.
    pub max_in_flight: u32,
    /// Whether the list of orders may be read.
    pub list_polling: bool,
    /// Whether an incomplete card from the list is delivered at once or completed first.
    pub card_details: CardDetails,
    /// Webhook endpoint of the merchant.
    pub webhook: Option<Endpoint>,
    /// Webhook endpoint of the operator.
    pub operator_webhook: Option<Endpoint>,
    /// Addresses to which webhooks may go.
    pub webhook_guard: SsrfGuard,
    /// Hosts of callback URLs and their secrets; `None` rejects callback URLs.
    pub callbacks: Option<Callbacks>,
    /// Mail server, sender and the operator's addresses; `None` if no mail server is set.
    pub email: Option<EmailConfig>,
    /// Gateway for SMS to customers.
    pub sms: Option<SmsGateway>,
    /// What an SMS to a customer shows of the card.
    pub sms_card: CardForm,
    /// Templates of mails and SMS.
    pub templates: Templates,
    /// Whether customers are notified of a delay.
    pub customer_delayed: bool,
    /// Page behind one-time links; `None` if it is off.
    pub reveal: Option<RevealConfig>,
    /// The factor by which domain time passes faster than real time.
    pub time_scale: f64,
    /// Maximum number of jobs of each kind that run at once.
    pub concurrency: usize,
    /// Address of `/healthz`, `/readyz` and `/metrics`.
    pub http_addr: SocketAddr,
    /// Pace of fast polling.
    pub poll_strategy: PollStrategy,
    /// Time that running jobs get to finish after the first signal to stop.
    pub shutdown_timeout: Duration,
}

impl RunSettings {
    /// Checks every setting, alone and in combination.
    ///
    /// # Errors
    /// [`SettingsError`], or [`SettingsError::Several`] if more than one setting cannot be used.
    pub fn validate(self) -> Result<Config, SettingsError> {
        let mut faults = self.faults();
        match faults.len() {
            0 => {}
            1 => return Err(faults.remove(0)),
            _ => return Err(SettingsError::Several(faults)),
        }
        Ok(Config {
            api_key: self.api.key()?,
            secondary_api_key: self.api.secondary_key(),
            rate_limit: self.api.rate_limit()?,
            max_in_flight: self.api.max_in_flight()?,
            list_polling: self.api.list_polling == ListPolling::Auto,
            card_details: self.api.card_details,
            api_url: self.api.url()?,
            concurrency: self.concurrency()?,
            redis: self.redis.address()?,
            names: self.redis.prefix.clone(),
            rejected_cap: self.inbox.rejected_cap()?,
            database_url: self.store.database_url()?.into(),
            database_connections: self.store.database_connections()?,
            cipher: self.store.cipher()?,
            keep: self.retention.keep()?,
            time_scale: self.clock.validate(&self.api.oneclickdz_api_url)?,
            webhook: self.webhook.merchant()?,
            operator_webhook: self.webhook.operator()?,
            webhook_guard: self.webhook.guard()?,
            callbacks: self.callback.callbacks(&self.webhook)?,
            email: self.email.config()?,
            sms: self.sms.gateway()?,
            sms_card: self.sms.sms_card,
            templates: self.texts.templates()?,
            customer_delayed: self.texts.customer_delayed,
            reveal: self.reveal()?,
            http_addr: self.http_addr,
            poll_strategy: self.poll_strategy,
            shutdown_timeout: Duration::from_secs(self.shutdown_timeout_seconds),
        })
    }

    /// All errors that [`RunSettings::validate`] would report.
    #[must_use]
    pub fn faults(&self) -> Vec<SettingsError> {
        let faults = [
            self.api.key().err(),
            self.api.url().err(),
            self.api.rate_limit().err(),
            self.api.max_in_flight().err(),
            self.concurrency().err(),
            self.redis.address().err(),
            self.inbox.rejected_cap().err(),
            self.store.database_url().err(),
            self.store.database_connections().err(),
            self.store.cipher().err(),
            self.retention.keep().err(),
            self.clock.validate(&self.api.oneclickdz_api_url).err(),
            self.webhook.merchant().err(),
            self.webhook.operator().err(),
            self.webhook.guard().err(),
            self.callback.callbacks(&self.webhook).err(),
            self.sms.gateway().err(),
            self.texts.templates().err(),
            self.reveal().err(),
        ];
        faults.into_iter().flatten().chain(self.email.faults()).collect()
    }

    fn reveal(&self) -> Result<Option<RevealConfig>, SettingsError> {
        let linked = [(self.email.email_card, "EMAIL_CARD"), (self.sms.sms_card, "SMS_CARD")];
        self.reveal.config(linked.into_iter().find(|(card, _)| *card == CardForm::Link).map(|(_, name)| name))
    }

    fn concurrency(&self) -> Result<usize, SettingsError> {
        if (1..=10_000).contains(&self.concurrency) {
            Ok(self.concurrency)
        } else {
            Err(unusable("CONCURRENCY", "it must be from 1 to 10,000"))
        }
    }
}

impl ClockSettings {
    fn validate(&self, api: &Url) -> Result<f64, SettingsError> {
        let scale = self.time_scale;
        if !scale.is_finite() || !(1.0..=1_000_000.0).contains(&scale) {
            return Err(unusable("TIME_SCALE", "it must be a number from 1 to 1,000,000"));
        }
        let scaled = (scale - 1.0).abs() > f64::EPSILON;
        if scaled && api.host_str() == Some(REAL_API_HOST) {
            return Err(unusable(
                "TIME_SCALE",
                "the real API has no scaled time; use it only with the ONECLICKDZ_API_URL of a simulator",
            ));
        }
        Ok(scale)
    }
}

#[cfg(test)]
mod tests;
