//! Where orders are stored, and the key of the cards in there.

use clap::Args;
use secrecy::SecretString;

use super::{SettingsError, set, unusable};
use crate::orders::CardCipher;

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
