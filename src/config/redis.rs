//! The section of Redis: address, certificates and prefix of the keys.

use clap::Args;
use secrecy::{ExposeSecret, SecretString};

use super::{SettingsError, certificates, unusable};
use crate::redis::{Names, RedisAddress};

/// Settings of the connection to Redis.
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
    /// Checks the address of Redis without connecting to Redis.
    ///
    /// # Errors
    /// [`SettingsError`] if the address or the file of certificates is unusable.
    pub fn address(&self) -> Result<RedisAddress, SettingsError> {
        let address = RedisAddress::parse(self.redis_url.expose_secret(), &self.prefix)
            .map_err(|error| unusable("REDIS_URL", error.to_string()))?;
        let Some(pem) = certificates("REDIS_CA_FILE", self.redis_ca_file.as_ref())? else {
            return Ok(address);
        };
        if address.is_encrypted() {
            Ok(address.trusting(pem))
        } else {
            Err(unusable("REDIS_CA_FILE", "REDIS_URL does not use TLS; with TLS it begins with rediss"))
        }
    }
}
