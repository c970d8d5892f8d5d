//! The section of the page behind one-time links: its addresses and the lifetime of a link.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use url::Url;

use super::{SettingsError, unusable};
use crate::reveal::Links;

/// Settings of the page behind one-time links. The page is off until `REVEAL_URL` is set.
#[derive(Debug, Clone, Args)]
pub struct RevealSettings {
    /// Public address of the page that shows a card once; a reverse proxy with TLS leads from there to `REVEAL_ADDR`
    #[arg(long, env = "REVEAL_URL")]
    pub reveal_url: Option<String>,

    /// Address the page is served at, without TLS
    #[arg(long, env = "REVEAL_ADDR", default_value = "127.0.0.1:9465")]
    pub reveal_addr: SocketAddr,

    /// Hours for which a link can be used
    #[arg(long, env = "REVEAL_HOURS", default_value_t = 72)]
    pub reveal_hours: u32,
}

/// Checked settings of the page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevealConfig {
    /// Public address and lifetime of the links.
    pub links: Links,
    /// Address at which the page is served.
    pub addr: SocketAddr,
}

impl RevealSettings {
    /// Checks the settings of the page; `None` if it is off. `needed_by` is a setting that needs the page, if any.
    pub(super) fn config(&self, needed_by: Option<&str>) -> Result<Option<RevealConfig>, SettingsError> {
        let url = self.reveal_url.as_deref().map(str::trim).filter(|url| !url.is_empty());
        let url = match (url, needed_by) {
            (Some(url), _) => url,
            (None, None) => return Ok(None),
            (None, Some(setting)) => {
                let why = format!("{setting}=link sends customers to this page; set its public address");
                return Err(unusable("REVEAL_URL", why));
            }
        };
        let refused = |why: &str| Err(unusable("REVEAL_URL", why));
        let Ok(url) = Url::parse(&format!("{}/", url.trim_end_matches('/'))) else {
            return refused("it is not a URL");
        };
        let at_home = matches!(url.host_str(), Some("127.0.0.1" | "localhost" | "[::1]"));
        if url.scheme() != "https" && !(url.scheme() == "http" && at_home) {
            return refused("the page shows card codes, so its address must begin with https://");
        }
        let beyond = url.query().is_some() || url.fragment().is_some();
        if beyond || !url.username().is_empty() || url.password().is_some() {
            return refused("it must contain only a host and a path");
        }
        if !(1..=24 * 365).contains(&self.reveal_hours) {
            return Err(unusable("REVEAL_HOURS", "it must be from 1 hour to a year"));
        }
        let lifetime = Duration::from_hours(u64::from(self.reveal_hours));
        Ok(Some(RevealConfig { links: Links { url, lifetime }, addr: self.reveal_addr }))
    }
}
