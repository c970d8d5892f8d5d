//! Where a webhook may go: not into networks that only the worker can reach.
//!
//! An address given by a merchant, or by the owner of its name, must not make the worker speak to the
//! database beside it or to the cloud's metadata. Every address is judged at the moment it is connected to;
//! a judgement made earlier would be worth nothing, since a name may lead elsewhere a second later. Literal
//! addresses are judged as `url` reads them, so odd spellings of an address are that address.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use url::{Host, Url};

use super::special_networks::{self, Opened};

/// The networks webhooks may go to.
#[derive(Debug, Clone, Default)]
pub struct SsrfGuard {
    insecure: bool,
    named: Arc<[IpNet]>,
}

/// Where no webhook goes, in words that repeat nothing of the address but its network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Blocked {
    /// Without TLS.
    #[error(
        "card codes travel over TLS only; use https://, or ALLOW_INSECURE_WEBHOOKS=true for a demo or a test"
    )]
    NoTls,
    /// No host is in it.
    #[error("no host is in the address")]
    NoHost,
    /// A user or a password is in it.
    #[error("a user or a password is in the address; the signature says who sends")]
    UserInfo,
    /// It leads into a network that a setting must name before webhooks go there.
    #[error(
        "the address leads to {0}, where no webhook goes unless WEBHOOK_ALLOWED_NETWORKS names that network"
    )]
    Special(String),
    /// It leads into a network to which no webhook ever goes.
    #[error("the address leads to {0}, where no webhook ever goes")]
    Never(String),
}

/// A word is no network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "each must be a network such as 10.20.0.0/16 or fd12:3456::/48, or one address; several are separated by spaces or commas"
)]
pub struct InvalidNetwork;

impl SsrfGuard {
    /// A guard that lets webhooks into these networks, separated by spaces or commas. `insecure` also lets them
    /// go without TLS, to this machine and to private networks.
    ///
    /// # Errors
    /// [`InvalidNetwork`] where one of them is none.
    pub fn new(insecure: bool, named: &str) -> Result<Self, InvalidNetwork> {
        let words = named.split([' ', ',']).filter(|word| !word.is_empty());
        let networks = words.map(|word| {
            let address = word.parse::<IpAddr>().map(IpNet::from);
            word.parse::<IpNet>().or(address).map_err(|_| InvalidNetwork)
        });
        Ok(Self { insecure, named: networks.collect::<Result<_, _>>()? })
    }

    /// Judges what can be judged of an address before its name is resolved.
    ///
    /// # Errors
    /// [`Blocked`] says why no webhook goes there.
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

    /// Judges an address that is about to be connected to.
    ///
    /// # Errors
    /// [`Blocked`] says why no webhook goes there.
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
    fn public_addresses_are_let_through_however_they_are_reached() {
        for address in
            ["1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"]
        {
            assert_eq!(check(&SsrfGuard::default(), address), Ok(()), "{address}");
        }
    }

    #[test]
    fn a_named_network_is_open_and_its_neighbours_are_not() {
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
    fn neither_a_name_nor_a_test_opens_metadata_and_multicast() {
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
    fn a_test_may_stay_at_home_and_go_nowhere_else() {
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
