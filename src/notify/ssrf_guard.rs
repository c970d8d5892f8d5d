//! The SSRF guard: keeps webhooks out of networks that only the worker can reach.
//!
//! Neither the author of a URL nor the DNS owner of its host may make the worker connect to its own database or to the
//! cloud's metadata. Every address is checked right before the worker connects, because a DNS answer may change after
//! an earlier check. Literal addresses are checked as `url` parses them, so an unusual spelling hides nothing.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use url::{Host, Url};

use super::special_networks::{self, Opened};

/// The rules for addresses that webhooks may connect to.
#[derive(Debug, Clone, Default)]
pub struct SsrfGuard {
    insecure: bool,
    named: Arc<[IpNet]>,
}

/// Why an address is blocked. The text names at most the network, never the address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Blocked {
    /// The URL does not use TLS.
    #[error(
        "card codes travel over TLS only; use https://, or ALLOW_INSECURE_WEBHOOKS=true for a demo or a test"
    )]
    NoTls,
    /// The URL has no host.
    #[error("the address has no host")]
    NoHost,
    /// The URL contains a user or a password.
    #[error("a user or a password is in the address; remove it, since the signature identifies the sender")]
    UserInfo,
    /// The network is blocked unless `WEBHOOK_ALLOWED_NETWORKS` names it.
    #[error(
        "the address leads to {0}; no webhook goes there unless WEBHOOK_ALLOWED_NETWORKS names that network"
    )]
    Special(String),
    /// No setting allows webhooks into this network.
    #[error("the address leads to {0}, where no webhook ever goes")]
    Never(String),
}

/// An entry of `WEBHOOK_ALLOWED_NETWORKS` is not a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "each must be a network such as 10.20.0.0/16 or fd12:3456::/48, or one address; several are separated by spaces or commas"
)]
pub struct InvalidNetwork;

impl SsrfGuard {
    /// A guard that allows public addresses and the `named` networks, separated by spaces or commas. `insecure` also
    /// allows URLs without TLS, this machine and private networks.
    ///
    /// # Errors
    /// [`InvalidNetwork`] if an entry is not a network.
    pub fn new(insecure: bool, named: &str) -> Result<Self, InvalidNetwork> {
        let words = named.split([' ', ',']).filter(|word| !word.is_empty());
        let networks = words.map(|word| {
            let address = word.parse::<IpAddr>().map(IpNet::from);
            word.parse::<IpNet>().or(address).map_err(|_| InvalidNetwork)
        });
        Ok(Self { insecure, named: networks.collect::<Result<_, _>>()? })
    }

    /// Checks the scheme, the user info and a literal address; host names are checked when they are resolved.
    ///
    /// # Errors
    /// [`Blocked`] if no webhook may go to this URL.
    pub fn check_url(&self, url: &Url) -> Result<(), Blocked> {
        match url.scheme() {
            "https" => {}
            "http" if self.insecure => {}
            _ => return Err(Blocked::NoTls),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Blocked::UserInfo);
        }
        match url.host() {
            Some(Host::Ipv4(address)) => self.check_address(address.into()),
            Some(Host::Ipv6(address)) => self.check_address(address.into()),
            Some(Host::Domain(_)) => Ok(()),
            None => Err(Blocked::NoHost),
        }
    }

    /// Checks an address right before the worker connects to it.
    ///
    /// # Errors
    /// [`Blocked`] if no webhook may go to this address.
    pub fn check_address(&self, address: IpAddr) -> Result<(), Blocked> {
        let meant = special_networks::embedded(address);
        let Some(special) = special_networks::of(meant) else { return Ok(()) };
        let named = || self.named.iter().any(|named| named.contains(&address) || named.contains(&meant));
        let place = format!("{} ({})", special.what, special.network);
        match special.opened {
            Opened::Never => Err(Blocked::Never(place)),
            Opened::ByNameOrForTests if self.insecure || named() => Ok(()),
            Opened::ByName if named() => Ok(()),
            Opened::ByName | Opened::ByNameOrForTests => Err(Blocked::Special(place)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(guard: &SsrfGuard, address: &str) -> Result<(), Blocked> {
        guard.check_address(address.parse().unwrap())
    }

    #[test]
    fn public_addresses_are_allowed_in_every_notation() {
        for address in
            ["1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"]
        {
            assert_eq!(check(&SsrfGuard::default(), address), Ok(()), "{address}");
        }
    }

    #[test]
    fn a_named_network_is_allowed_and_its_neighbours_are_not() {
        let guard = SsrfGuard::new(false, "10.20.0.0/16, fd12:3456::/48 192.168.1.7").unwrap();
        for address in ["10.20.0.1", "::ffff:10.20.0.1", "64:ff9b::10.20.0.1", "fd12:3456::1", "192.168.1.7"]
        {
            assert_eq!(check(&guard, address), Ok(()), "{address}");
        }
        for address in ["10.21.0.1", "fd12:3457::1", "192.168.1.8", "127.0.0.1"] {
            assert!(matches!(check(&guard, address), Err(Blocked::Special(_))), "{address}");
        }
        for bad in ["10.20", "10.20.0.0/33", "intranet", "10.20.0.0/16;10.21.0.0/16"] {
            assert_eq!(SsrfGuard::new(false, bad).err(), Some(InvalidNetwork), "{bad}");
        }
    }

    #[test]
    fn no_setting_allows_metadata_and_multicast() {
        let guard = SsrfGuard::new(true, "0.0.0.0/0 ::/0").unwrap();
        for address in [
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "fd00:ec2::254",
            "fd20:ce::254",
            "fe80::1",
            "0.0.0.0",
            "::",
            "224.0.0.1",
            "ff02::1",
            "255.255.255.255",
        ] {
            assert!(matches!(check(&guard, address), Err(Blocked::Never(_))), "{address}");
        }
        for address in ["127.0.0.1", "::1", "10.0.0.1", "203.0.113.1", "2002:a00:1::", "4000::1"] {
            assert_eq!(check(&guard, address), Ok(()), "{address}");
        }
    }

    #[test]
    fn insecure_allows_loopback_and_private_networks_only() {
        let guard = SsrfGuard::new(true, "").unwrap();
        for address in ["127.0.0.1", "::1", "10.1.2.3", "172.16.0.1", "192.168.0.1", "fd12::1"] {
            assert_eq!(check(&guard, address), Ok(()), "{address}");
        }
        for address in ["100.64.0.1", "192.0.2.1", "240.0.0.1", "2001:db8::1", "fec0::1"] {
            assert!(matches!(check(&guard, address), Err(Blocked::Special(_))), "{address}");
        }
        assert_eq!(guard.check_url(&"http://shop.example:8080/".parse().unwrap()), Ok(()));
        assert_eq!(guard.check_url(&"ftp://shop.example/".parse().unwrap()), Err(Blocked::NoTls));
    }
}
