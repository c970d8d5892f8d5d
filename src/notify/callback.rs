//! Callback URLs: the events of an order with a `callbackUrl` go to that URL instead of the merchant's endpoint.
//!
//! Only hosts in `CALLBACK_ALLOWED_HOSTS` are accepted, because events contain cards and a message may name any URL.
//! The URL may contain a token and is never logged.

use std::sync::Arc;

use topup_jobs::Secret;
use url::{Host, Url};

use super::ssrf_guard::{Blocked, SsrfGuard};
use crate::orders::Order;

/// The hosts that callbacks may go to; none by default.
#[derive(Debug, Clone, Default)]
pub struct CallbackHosts {
    hosts: Arc<[Pattern]>,
    guard: SsrfGuard,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    Exactly(Host),
    /// Every host below a domain, stored with a leading dot.
    Below(String),
}

/// An entry of `CALLBACK_ALLOWED_HOSTS` is not a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "each must be a host such as shop.example.dz, or *.example.dz for all below it, without https:// and port; several are separated by spaces or commas"
)]
pub struct InvalidHost;

/// Why a callback URL is refused, in words for the producer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallbackRefused {
    /// `CALLBACK_ALLOWED_HOSTS` is not set.
    #[error("\"data.callbackUrl\" is not accepted here: CALLBACK_ALLOWED_HOSTS is not set")]
    NotAllowed,
    /// The value is not a URL with a host.
    #[error("\"data.callbackUrl\" is not a URL with a host; send one that begins with https://")]
    NoAddress,
    /// `CALLBACK_ALLOWED_HOSTS` does not name the host.
    #[error("\"data.callbackUrl\" has a host that CALLBACK_ALLOWED_HOSTS does not name")]
    Host,
    /// The SSRF guard blocks the URL.
    #[error("\"data.callbackUrl\" cannot be used: {0}")]
    Blocked(#[from] Blocked),
}

impl CallbackHosts {
    /// Allows the hosts in `hosts`, separated by spaces or commas. A callback URL must also pass the guard.
    ///
    /// # Errors
    /// [`InvalidHost`] if an entry is not a host.
    pub fn new(hosts: &str, guard: SsrfGuard) -> Result<Self, InvalidHost> {
        let words = hosts.split([' ', ',']).filter(|word| !word.is_empty());
        Ok(Self { hosts: words.map(pattern).collect::<Result<_, _>>()?, guard })
    }

    /// Parses a callback URL and checks it against the allowed hosts and the guard.
    ///
    /// # Errors
    /// [`CallbackRefused`] if events may not go to this URL.
    pub fn check(&self, address: &Secret) -> Result<Url, CallbackRefused> {
        let url: Url = address.reveal().parse().map_err(|_| CallbackRefused::NoAddress)?;
        let host = host_of(&url).ok_or(CallbackRefused::NoAddress)?;
        if self.hosts.is_empty() {
            return Err(CallbackRefused::NotAllowed);
        }
        if !self.name(&host) {
            return Err(CallbackRefused::Host);
        }
        self.guard.check_url(&url)?;
        Ok(url)
    }

    /// Whether an entry of the setting allows this host: the entry is the host itself, or `*.` and a domain above it.
    #[must_use]
    pub fn name(&self, host: &Host) -> bool {
        self.hosts.iter().any(|pattern| pattern.names(host))
    }

    /// The callback URL of this order; `None` if it has none or events may not go to it.
    #[must_use]
    pub fn of(&self, order: &Order) -> Option<Url> {
        self.check(order.callback_url.as_ref()?).ok()
    }
}

impl Pattern {
    fn names(&self, host: &Host) -> bool {
        match (self, host) {
            (Self::Exactly(named), host) => named == host,
            (Self::Below(domain), Host::Domain(host)) => host.ends_with(domain.as_str()),
            (Self::Below(_), _) => false,
        }
    }
}

/// The host of a URL, normalised as by [`parse_host`].
pub(super) fn host_of(url: &Url) -> Option<Host> {
    url.host().map(|host| without_root(host.to_owned()))
}

/// Parses a host and normalises it for comparison: lower-case ASCII, without a trailing dot.
///
/// # Errors
/// [`InvalidHost`] if the word is not a host.
pub fn parse_host(word: &str) -> Result<Host, InvalidHost> {
    match Host::parse(word).map(without_root) {
        Ok(Host::Domain(domain)) if domain.is_empty() || domain.contains('*') => Err(InvalidHost),
        Ok(host) => Ok(host),
        Err(_) => Err(InvalidHost),
    }
}

/// Removes the trailing dot: `shop.example.` is the host `shop.example`.
fn without_root(host: Host) -> Host {
    match host {
        Host::Domain(domain) => Host::Domain(domain.strip_suffix('.').map_or(domain.clone(), str::to_owned)),
        address => address,
    }
}

fn pattern(word: &str) -> Result<Pattern, InvalidHost> {
    let below = word.strip_prefix("*.");
    match parse_host(below.unwrap_or(word)) {
        // An entry such as `*.dz` is refused, because no merchant owns a whole top-level domain.
        Ok(Host::Domain(domain)) if below.is_some() && domain.contains('.') => {
            Ok(Pattern::Below(format!(".{domain}")))
        }
        Ok(host) if below.is_none() => Ok(Pattern::Exactly(host)),
        _ => Err(InvalidHost),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(hosts: &str, url: &str) -> Result<(), CallbackRefused> {
        CallbackHosts::new(hosts, SsrfGuard::default()).unwrap().check(&Secret::new(url)).map(drop)
    }

    #[test]
    fn only_named_hosts_are_allowed() {
        let hosts = "shop.example.dz, *.partners.example.dz 1.1.1.1 Café.example. *.other.example.";
        for url in [
            "https://shop.example.dz/orders?token=t",
            "https://SHOP.example.dz:8443/",
            "https://shop.example.dz./",
            "https://a.partners.example.dz./",
            "https://CAFÉ.example/",
            "https://xn--caf-dma.example/",
            "https://a.other.example/",
            "https://a.partners.example.dz/",
            "https://a.b.partners.example.dz/",
            "https://1.1.1.1/",
        ] {
            assert_eq!(check(hosts, url), Ok(()), "{url}");
        }
        for url in [
            "https://example.dz/",
            "https://shop.example.dz../",
            "https://a.shop.example.dz/",
            "https://partners.example.dz/",
            "https://evilpartners.example.dz/",
            "https://shop.example.dz.evil.example/",
            "https://1.1.1.2/",
            "https://shop.example.dz@evil.example/",
        ] {
            assert_eq!(check(hosts, url), Err(CallbackRefused::Host), "{url}");
        }
    }

    #[test]
    fn the_guard_blocks_even_a_named_host() {
        let refused = |hosts, url| check(hosts, url).unwrap_err();
        let http = refused("shop.example.dz", "http://shop.example.dz/");
        assert_eq!(http, CallbackRefused::Blocked(Blocked::NoTls));
        let user = refused("shop.example.dz", "https://u:p@shop.example.dz/");
        assert_eq!(user, CallbackRefused::Blocked(Blocked::UserInfo));
        assert!(matches!(refused("127.0.0.1", "https://0x7f.1/"), CallbackRefused::Blocked(_)));
        assert_eq!(refused("", "https://shop.example.dz/"), CallbackRefused::NotAllowed);
        assert_eq!(refused("shop.example.dz", "shop.example.dz"), CallbackRefused::NoAddress);
    }

    #[test]
    fn an_invalid_host_is_rejected() {
        for bad in
            ["https://shop.example", "*", "*.dz", "shop.*", "*.*.dz", "shop.example:443", "*.10.0.0.1", "a/b"]
        {
            assert_eq!(CallbackHosts::new(bad, SsrfGuard::default()).err(), Some(InvalidHost), "{bad}");
        }
    }
}
