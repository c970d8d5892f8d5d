//! Orders whose events go to an address of their own, `callbackUrl`, instead of to the merchant's endpoint.
//!
//! A card must not go wherever a message says: only to hosts that the merchant has named. The address may
//! hold a token and is never shown.

use std::sync::Arc;

use topup_jobs::Secret;
use url::{Host, Url};

use super::ssrf_guard::{Blocked, SsrfGuard};
use crate::orders::Order;

/// The hosts to which callbacks may go; none unless they are set.
#[derive(Debug, Clone, Default)]
pub struct CallbackHosts {
    hosts: Arc<[Pattern]>,
    guard: SsrfGuard,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    /// This host.
    Exactly(Host),
    /// Every host below this one: with the dot before it.
    Below(String),
}

/// A word names no host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "each must be a host such as shop.example.dz, or *.example.dz for all below it, without https:// and port; several are separated by spaces or commas"
)]
pub struct InvalidHost;

/// Why an order is not told at its own address, in words for its producer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallbackRefused {
    /// No host is allowed.
    #[error("\"data.callbackUrl\" is not accepted here: CALLBACK_ALLOWED_HOSTS is not set")]
    NotAllowed,
    /// It cannot be read.
    #[error("\"data.callbackUrl\" is no address; send one that begins with https://")]
    NoAddress,
    /// Its host is none of those that are allowed.
    #[error("\"data.callbackUrl\" has a host that CALLBACK_ALLOWED_HOSTS does not name")]
    Host,
    /// The guard lets nothing go there.
    #[error("\"data.callbackUrl\" cannot be used: {0}")]
    Blocked(#[from] Blocked),
}

impl CallbackHosts {
    /// These hosts, separated by spaces or commas, as far as the guard lets webhooks go there.
    ///
    /// # Errors
    /// [`InvalidHost`] where one of them is none.
    pub fn new(hosts: &str, guard: SsrfGuard) -> Result<Self, InvalidHost> {
        let words = hosts.split([' ', ',']).filter(|word| !word.is_empty());
        Ok(Self { hosts: words.map(pattern).collect::<Result<_, _>>()?, guard })
    }

    /// The address, if events may go there.
    ///
    /// # Errors
    /// [`CallbackRefused`] says why it may not.
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

    /// Whether they name this host, exactly or as one below another.
    #[must_use]
    pub fn name(&self, host: &Host) -> bool {
        self.hosts.iter().any(|pattern| pattern.names(host))
    }

    /// The callback URL of this order, if it has one.
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

/// The host of an address, in the form in which hosts are compared.
pub(super) fn host_of(url: &Url) -> Option<Host> {
    url.host().map(|host| without_root(host.to_owned()))
}

/// A host by its name, in the form in which hosts are compared: lower case, in ASCII, without the dot of the root.
///
/// # Errors
/// [`InvalidHost`] where that is no host.
pub fn parse_host(word: &str) -> Result<Host, InvalidHost> {
    match Host::parse(word).map(without_root) {
        Ok(Host::Domain(domain)) if domain.is_empty() || domain.contains('*') => Err(InvalidHost),
        Ok(host) => Ok(host),
        Err(_) => Err(InvalidHost),
    }
}

/// `shop.example.` is the host `shop.example`.
fn without_root(host: Host) -> Host {
    match host {
        Host::Domain(domain) => Host::Domain(domain.strip_suffix('.').map_or(domain.clone(), str::to_owned)),
        address => address,
    }
}

fn pattern(word: &str) -> Result<Pattern, InvalidHost> {
    let below = word.strip_prefix("*.");
    match parse_host(below.unwrap_or(word)) {
        // A whole top-level domain is no merchant's.
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
    fn only_named_hosts_are_told() {
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
    fn a_named_host_does_not_open_what_the_guard_closes() {
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
    fn what_names_no_host_is_no_setting() {
        for bad in
            ["https://shop.example", "*", "*.dz", "shop.*", "*.*.dz", "shop.example:443", "*.10.0.0.1", "a/b"]
        {
            assert_eq!(CallbackHosts::new(bad, SsrfGuard::default()).err(), Some(InvalidHost), "{bad}");
        }
    }
}
