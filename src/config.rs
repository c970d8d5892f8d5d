//! Settings: flags and environment variables are the same, read once, checked once, in words.
//!
//! One clap struct a section; [`RunSettings::validate`] turns them into types that cannot be wrong. A
//! secret is a `SecretString` from the moment it is read and is never printed.

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Args, ValueEnum};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use secrecy::{ExposeSecret, SecretString};
use topup_jobs::PollStrategy;
use url::Url;

use crate::notify::WebhookSecret;
use crate::orders::{CardCipher, InvalidKey};
use crate::queue::{Names, RedisAddress};

/// Host of the real API: a scaled clock is refused with it.
const REAL_API_HOST: &str = "api.oneclickdz.com";

/// A setting, or two settings together, cannot be used. The words name the setting.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A required setting is missing.
    #[error("{name} is not set: {advice}")]
    Missing {
        /// The setting.
        name: &'static str,
        /// What to do.
        advice: &'static str,
    },
    /// A setting has an unusable value.
    #[error("{name} cannot be used: {why}")]
    Unusable {
        /// The setting.
        name: &'static str,
        /// Why, without the value.
        why: String,
    },
    /// The encryption key.
    #[error(transparent)]
    Key(#[from] InvalidKey),
}

fn unusable(name: &'static str, why: impl Into<String>) -> SettingsError {
    SettingsError::Unusable { name, why: why.into() }
}

/// The value of a setting, unless it is empty: an empty variable is one that is not set.
fn set(value: Option<&SecretString>) -> Option<&SecretString> {
    value.filter(|value| !value.expose_secret().trim().is_empty())
}

/// Where Redis is.
#[derive(Debug, Clone, Args)]
pub struct RedisSettings {
    /// Address of Redis: redis://, redis+sentinel:// or redis+cluster://; rediss… for TLS
    #[arg(long, env = "REDIS_URL", default_value = "redis://127.0.0.1:6379", hide_env_values = true)]
    pub redis_url: SecretString,

    /// Certificates (PEM) of the authorities to trust with Redis, instead of the system's
    #[arg(long, env = "REDIS_CA_FILE")]
    pub redis_ca_file: Option<String>,

    /// Prefix of every key, a name in braces
    #[arg(long = "prefix", env = "TOPUP_PREFIX", default_value = "{topup}")]
    pub prefix: Names,
}

impl RedisSettings {
    /// The address of that Redis; it does not connect.
    ///
    /// # Errors
    /// [`SettingsError`] where the address or the file of certificates is unusable.
    pub fn address(&self) -> Result<RedisAddress, SettingsError> {
        let address = RedisAddress::parse(self.redis_url.expose_secret(), &self.prefix)
            .map_err(|error| unusable("REDIS_URL", error.to_string()))?;
        let Some(file) = self.redis_ca_file.as_ref().filter(|file| !file.trim().is_empty()) else {
            return Ok(address);
        };
        if !address.is_encrypted() {
            return Err(unusable(
                "REDIS_CA_FILE",
                "REDIS_URL is without TLS; its TLS forms begin with rediss",
            ));
        }
        let pem = std::fs::read(file).map_err(|error| unusable("REDIS_CA_FILE", error.to_string()))?;
        // The client would take a file without any certificate and then trust nobody.
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
        if certificates.is_ok_and(|certificates| !certificates.is_empty()) {
            Ok(address.trusting(pem))
        } else {
            Err(unusable("REDIS_CA_FILE", "it must hold certificates in PEM form"))
        }
    }
}

/// Where orders are stored.
#[derive(Debug, Clone, Args)]
pub struct StoreSettings {
    /// Database of the orders
    #[arg(long, env = "DATABASE_URL", default_value = "sqlite://topup-worker.db", hide_env_values = true)]
    pub database_url: String,

    /// Key of the card codes at rest: 64 hexadecimal digits, from `topup-worker keygen`
    #[arg(long, env = "ENCRYPTION_KEY", hide_env_values = true)]
    pub encryption_key: Option<SecretString>,
}

impl StoreSettings {
    /// The database's address.
    ///
    /// # Errors
    /// [`SettingsError`] where it is no SQLite address.
    pub fn database_url(&self) -> Result<&str, SettingsError> {
        let path = self.database_url.strip_prefix("sqlite://").filter(|path| !path.contains(":memory:"));
        if path.is_some_and(|path| !path.is_empty()) {
            Ok(&self.database_url)
        } else {
            Err(unusable("DATABASE_URL", "it must be sqlite:// and the path of a file"))
        }
    }

    /// The cipher of the card codes.
    ///
    /// # Errors
    /// [`SettingsError`] where the key is missing or unusable.
    pub fn cipher(&self) -> Result<CardCipher, SettingsError> {
        let advice =
            "card codes are stored encrypted; make a key with `topup-worker keygen` and keep it safe";
        let key = set(self.encryption_key.as_ref())
            .ok_or(SettingsError::Missing { name: "ENCRYPTION_KEY", advice })?;
        Ok(CardCipher::new(key)?)
    }
}

/// The provider.
#[derive(Debug, Clone, Args)]
pub struct ApiSettings {
    /// Address of the provider's API, without the version
    #[arg(long, env = "ONECLICKDZ_API_URL", default_value = "https://api.oneclickdz.com")]
    pub oneclickdz_api_url: Url,

    /// Key of the provider's API
    #[arg(long, env = "ONECLICKDZ_API_KEY", hide_env_values = true)]
    pub oneclickdz_api_key: Option<SecretString>,
}

impl ApiSettings {
    fn key(&self) -> Result<SecretString, SettingsError> {
        let advice = "copy it from the provider's dashboard";
        let missing = SettingsError::Missing { name: "ONECLICKDZ_API_KEY", advice };
        set(self.oneclickdz_api_key.as_ref()).cloned().ok_or(missing)
    }

    fn url(&self) -> Result<&Url, SettingsError> {
        if matches!(self.oneclickdz_api_url.scheme(), "http" | "https") {
            Ok(&self.oneclickdz_api_url)
        } else {
            Err(unusable("ONECLICKDZ_API_URL", "it begins with neither https:// nor http://"))
        }
    }
}

/// Who is told.
#[derive(Debug, Clone, Args)]
pub struct NotifySettings {
    /// The merchant's endpoint for every outcome; where it is not set, outcomes are logged, masked
    #[arg(long, env = "WEBHOOK_URL", hide_env_values = true)]
    pub webhook_url: Option<SecretString>,

    /// Signing secret of the endpoint, `whsec_…`; several, separated by spaces or commas, while rotating
    #[arg(long, env = "WEBHOOK_SECRET", hide_env_values = true)]
    pub webhook_secret: Option<SecretString>,

    /// The operator's endpoint, for orders that a human must look at
    #[arg(long, env = "OPERATOR_WEBHOOK_URL", hide_env_values = true)]
    pub operator_webhook_url: Option<SecretString>,

    /// Signing secret of the operator's endpoint; that of the merchant's where it is not set
    #[arg(long, env = "OPERATOR_WEBHOOK_SECRET", hide_env_values = true)]
    pub operator_webhook_secret: Option<SecretString>,

    /// Allow endpoints without TLS; for demos and tests
    #[arg(long, env = "ALLOW_INSECURE_WEBHOOKS")]
    pub allow_insecure_webhooks: bool,
}

/// The clock.
#[derive(Debug, Clone, Args)]
pub struct ClockSettings {
    /// How many times as fast the domain's waits pass; for demos and tests
    #[arg(long, env = "TIME_SCALE", default_value_t = 1.0)]
    pub time_scale: f64,
}

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Pretty,
    /// One JSON object a line.
    Json,
}

/// The log. `RUST_LOG` sets its level.
#[derive(Debug, Clone, Args)]
pub struct LogSettings {
    /// Form of the log
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value = "pretty", global = true)]
    pub log_format: LogFormat,
}

/// Everything `run` needs.
#[derive(Debug, Clone, Args)]
pub struct RunSettings {
    /// Where Redis is.
    #[command(flatten)]
    pub redis: RedisSettings,
    /// Where orders are stored.
    #[command(flatten)]
    pub store: StoreSettings,
    /// The provider.
    #[command(flatten)]
    pub api: ApiSettings,
    /// Who is told.
    #[command(flatten)]
    pub notify: NotifySettings,
    /// The clock.
    #[command(flatten)]
    pub clock: ClockSettings,

    /// Most jobs of each kind that run at once
    #[arg(long, env = "CONCURRENCY", default_value_t = 64)]
    pub concurrency: usize,

    /// Address of `/healthz` and `/readyz`
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
    /// Names of the keys.
    pub names: Names,
    /// Address of the database.
    pub database_url: String,
    /// Cipher of the card codes.
    pub cipher: CardCipher,
    /// Address of the provider.
    pub api_url: Url,
    /// Key of the provider.
    pub api_key: SecretString,
    /// The merchant's endpoint.
    pub webhook: Option<(Url, WebhookSecret)>,
    /// The operator's endpoint.
    pub operator_webhook: Option<(Url, WebhookSecret)>,
    /// Scale of the clock.
    pub time_scale: f64,
    /// Most jobs of each kind at once.
    pub concurrency: usize,
    /// Address of the health endpoints.
    pub http_addr: SocketAddr,
    /// Pace of fast polling.
    pub poll_strategy: PollStrategy,
    /// Time for running jobs to finish.
    pub shutdown_timeout: Duration,
}

impl RunSettings {
    /// Checks every setting, alone and together with the others.
    ///
    /// # Errors
    /// The first [`SettingsError`] found.
    pub fn validate(self) -> Result<Config, SettingsError> {
        Ok(Config {
            api_key: self.api.key()?,
            api_url: self.api.url()?.clone(),
            concurrency: self.concurrency()?,
            redis: self.redis.address()?,
            names: self.redis.prefix.clone(),
            database_url: self.store.database_url()?.to_owned(),
            cipher: self.store.cipher()?,
            time_scale: self.clock.validate(&self.api.oneclickdz_api_url)?,
            webhook: self.notify.webhook()?,
            operator_webhook: self.notify.operator_webhook()?,
            http_addr: self.http_addr,
            poll_strategy: self.poll_strategy,
            shutdown_timeout: Duration::from_secs(self.shutdown_timeout_seconds),
        })
    }

    /// Everything that [`RunSettings::validate`] would refuse, for somebody who wants to mend all at once.
    #[must_use]
    pub fn faults(&self) -> Vec<SettingsError> {
        let faults = [
            self.api.key().err(),
            self.api.url().err(),
            self.concurrency().err(),
            self.redis.address().err(),
            self.store.database_url().err(),
            self.store.cipher().err(),
            self.clock.validate(&self.api.oneclickdz_api_url).err(),
            self.notify.webhook().err(),
            self.notify.operator_webhook().err(),
        ];
        faults.into_iter().flatten().collect()
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
                "the real API knows no scaled time; use it only with the simulator's ONECLICKDZ_API_URL",
            ));
        }
        Ok(scale)
    }
}

impl NotifySettings {
    fn webhook(&self) -> Result<Option<(Url, WebhookSecret)>, SettingsError> {
        let Some(url) = set(self.webhook_url.as_ref()) else { return Ok(None) };
        let secret = set(self.webhook_secret.as_ref());
        self.endpoint(["WEBHOOK_URL", "WEBHOOK_SECRET"], url, secret).map(Some)
    }

    fn operator_webhook(&self) -> Result<Option<(Url, WebhookSecret)>, SettingsError> {
        let Some(url) = set(self.operator_webhook_url.as_ref()) else { return Ok(None) };
        let secret = set(self.operator_webhook_secret.as_ref()).or(set(self.webhook_secret.as_ref()));
        self.endpoint(["OPERATOR_WEBHOOK_URL", "OPERATOR_WEBHOOK_SECRET"], url, secret).map(Some)
    }

    fn endpoint(
        &self,
        [url_name, secret_name]: [&'static str; 2],
        url: &SecretString,
        secret: Option<&SecretString>,
    ) -> Result<(Url, WebhookSecret), SettingsError> {
        let url: Url = url.expose_secret().parse().map_err(|_| unusable(url_name, "it is no address"))?;
        if url.scheme() != "https" && !(self.allow_insecure_webhooks && url.scheme() == "http") {
            return Err(unusable(
                url_name,
                "card codes travel over TLS only; use https://, or ALLOW_INSECURE_WEBHOOKS=true for a test",
            ));
        }
        let advice = "the receiver needs it to tell your events from forged ones; it begins with whsec_";
        let secret = secret.ok_or(SettingsError::Missing { name: secret_name, advice })?;
        let secret =
            WebhookSecret::parse(secret).map_err(|error| unusable(secret_name, error.to_string()))?;
        Ok((url, secret))
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
