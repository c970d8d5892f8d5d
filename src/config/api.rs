//! The section of the provider's API: address, keys, limits and use of the list.

use clap::{Args, ValueEnum};
use secrecy::SecretString;
use url::Url;

use super::{REAL_API_HOST, SettingsError, is_loopback, set, unusable};
use crate::maintenance::list_poller::CardDetails;

/// Settings of the provider's API.
#[derive(Debug, Clone, Args)]
pub struct ApiSettings {
    /// Address of the provider's API; /v3 at its end is removed
    #[arg(long, env = "ONECLICKDZ_API_URL", default_value = "https://api.oneclickdz.com")]
    pub oneclickdz_api_url: Url,

    /// Allow an address of the API without TLS on another machine, such as a simulator in another container
    #[arg(long, env = "ALLOW_INSECURE_API")]
    pub allow_insecure_api: bool,

    /// Key of the provider's API
    #[arg(long, env = "ONECLICKDZ_API_KEY", hide_env_values = true)]
    pub oneclickdz_api_key: Option<SecretString>,

    /// Second key, used once the provider refuses the first
    #[arg(long, env = "ONECLICKDZ_API_KEY_SECONDARY", hide_env_values = true)]
    pub oneclickdz_api_key_secondary: Option<SecretString>,

    /// Requests that the provider allows a key in a minute: 120, in the sandbox 60
    #[arg(long, env = "ONECLICKDZ_RATE_LIMIT", default_value_t = 120)]
    pub oneclickdz_rate_limit: u32,

    /// Maximum number of requests with one key that all workers together have in flight. A revoked key is refused that
    /// many times before all workers know, and the provider blocks an address after five
    #[arg(long, env = "ONECLICKDZ_MAX_IN_FLIGHT", default_value_t = 2)]
    pub oneclickdz_max_in_flight: u32,

    /// Read the list of orders when more orders wait than can be checked one by one: auto or off
    #[arg(long, env = "LIST_POLLING", value_enum, default_value = "auto")]
    pub list_polling: ListPolling,

    /// How cards are delivered while the list shows more incomplete cards than can be checked: complete waits for all
    /// three fields, fast delivers what the list shows
    #[arg(long, env = "CARD_DETAILS", value_enum, default_value = "complete")]
    pub card_details: CardDetails,
}

/// Whether many orders may be checked with one request for the list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ListPolling {
    /// When it saves requests.
    Auto,
    /// Never.
    Off,
}

impl ApiSettings {
    pub(super) fn key(&self) -> Result<SecretString, SettingsError> {
        let advice = "copy it from the provider's dashboard";
        let missing = SettingsError::Missing { name: "ONECLICKDZ_API_KEY", advice };
        set(self.oneclickdz_api_key.as_ref()).cloned().ok_or(missing)
    }

    pub(super) fn secondary_key(&self) -> Option<SecretString> {
        set(self.oneclickdz_api_key_secondary.as_ref()).cloned()
    }

    pub(super) fn rate_limit(&self) -> Result<u32, SettingsError> {
        in_range("ONECLICKDZ_RATE_LIMIT", self.oneclickdz_rate_limit, 1_000_000)
    }

    pub(super) fn max_in_flight(&self) -> Result<u32, SettingsError> {
        // With a revoked key each request in flight is refused. The provider blocks an address after five refusals.
        let most = if self.oneclickdz_api_url.host_str() == Some(REAL_API_HOST) { 3 } else { 10_000 };
        in_range("ONECLICKDZ_MAX_IN_FLIGHT", self.oneclickdz_max_in_flight, most)
    }

    pub(super) fn url(&self) -> Result<Url, SettingsError> {
        let mut url = self.oneclickdz_api_url.clone();
        if let Some(path) = url.path().trim_end_matches('/').strip_suffix("/v3").map(str::to_owned) {
            url.set_path(&path);
        }
        let real = url.host_str() == Some(REAL_API_HOST);
        let why = match url.scheme() {
            "https" => return Ok(url),
            "http" if is_loopback(&url) || (self.allow_insecure_api && !real) => return Ok(url),
            "http" if real => "the API key and card codes travel over TLS only; write https://",
            "http" => {
                "the API key and card codes travel over TLS only; write https://, or set ALLOW_INSECURE_API=true for a \
                 simulator on another machine"
            }
            _ => "it must begin with https:// or http://",
        };
        Err(unusable("ONECLICKDZ_API_URL", why))
    }
}

fn in_range(name: &'static str, value: u32, most: u32) -> Result<u32, SettingsError> {
    if (1..=most).contains(&value) {
        Ok(value)
    } else {
        Err(unusable(name, format!("it must be from 1 to {most}")))
    }
}
