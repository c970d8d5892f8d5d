//! The section of the order database: address, connections and encryption keys.

use clap::Args;
use secrecy::{ExposeSecret, SecretString};

use super::{SettingsError, set, unusable};
use crate::orders::{CardCipher, DEFAULT_CONNECTIONS, DatabaseKind, MAX_CONNECTIONS};

/// Settings of the order database.
#[derive(Debug, Clone, Args)]
pub struct StoreSettings {
    /// Database of the orders: `sqlite://` and a file, or `postgres://user:password@host/database`
    #[arg(long, env = "DATABASE_URL", default_value = "sqlite://topup-worker.db", hide_env_values = true)]
    pub database_url: SecretString,

    /// Maximum number of connections of each worker to PostgreSQL; if the server grants fewer, the worker uses those
    #[arg(long, env = "DATABASE_CONNECTIONS", default_value_t = DEFAULT_CONNECTIONS)]
    pub database_connections: u16,

    /// Key of the card codes at rest: 64 hexadecimal digits, from `topup-worker keygen`
    #[arg(long, env = "ENCRYPTION_KEY", hide_env_values = true)]
    pub encryption_key: Option<SecretString>,

    /// Keys that stored cards may still be encrypted with, separated by spaces or commas; see `rekey`
    #[arg(long, env = "ENCRYPTION_KEYS_PREVIOUS", hide_env_values = true)]
    pub encryption_keys_previous: Option<SecretString>,
}

impl StoreSettings {
    /// The checked address of the database.
    ///
    /// # Errors
    /// [`SettingsError`] if it is neither an SQLite nor a PostgreSQL address.
    pub fn database_url(&self) -> Result<&str, SettingsError> {
        let why =
            "it must be sqlite:// and the path of a file, or postgres://user:password@host:port/database";
        let url = self.database_url.expose_secret();
        DatabaseKind::of(url).map(|_| url).ok_or_else(|| unusable("DATABASE_URL", why))
    }

    /// Maximum number of connections to the database.
    ///
    /// # Errors
    /// [`SettingsError`] if it is 0 or too large.
    pub fn database_connections(&self) -> Result<usize, SettingsError> {
        if (1..=MAX_CONNECTIONS).contains(&self.database_connections) {
            Ok(self.database_connections.into())
        } else {
            Err(unusable("DATABASE_CONNECTIONS", format!("it must be from 1 to {MAX_CONNECTIONS}")))
        }
    }

    /// The cipher of the card codes, with all previous keys.
    ///
    /// # Errors
    /// [`SettingsError`] if the key is missing or any key is unusable.
    pub fn cipher(&self) -> Result<CardCipher, SettingsError> {
        let advice =
            "card codes are stored encrypted; make a key with `topup-worker keygen` and keep it safe";
        let key = set(self.encryption_key.as_ref())
            .ok_or(SettingsError::Missing { name: "ENCRYPTION_KEY", advice })?;
        let previous = set(self.encryption_keys_previous.as_ref()).map_or("", ExposeSecret::expose_secret);
        let previous = previous.split([' ', ',']).filter(|key| !key.is_empty());
        previous.into_iter().try_fold(CardCipher::new(key)?, |cipher, key| {
            let why = "each key must be 64 hexadecimal digits; separate them by spaces or commas";
            cipher.with_previous(&key.into()).map_err(|_| unusable("ENCRYPTION_KEYS_PREVIOUS", why))
        })
    }
}
