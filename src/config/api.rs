//! The provider.

use clap::Args;
use secrecy::SecretString;
use url::Url;

use super::{SettingsError, set, unusable};

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
    pub(super) fn key(&self) -> Result<SecretString, SettingsError> {
        let advice = "copy it from the provider's dashboard";
        let missing = SettingsError::Missing { name: "ONECLICKDZ_API_KEY", advice };
        set(self.oneclickdz_api_key.as_ref()).cloned().ok_or(missing)
    }

    pub(super) fn url(&self) -> Result<&Url, SettingsError> {
        if matches!(self.oneclickdz_api_url.scheme(), "http" | "https") {
            Ok(&self.oneclickdz_api_url)
        } else {
            Err(unusable("ONECLICKDZ_API_URL", "it begins with neither https:// nor http://"))
        }
    }
}
