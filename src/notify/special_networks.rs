//! Networks without public endpoints: IANA's special-purpose registries for IPv4 and IPv6, and the addresses at which
//! clouds hand out credentials.
//!
//! The first entry that contains an address decides, so networks that no setting allows are listed before the larger
//! networks that contain them. An IPv6 address outside global unicast (2000::/3) is special even if no entry matches.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Which setting allows webhooks into a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opened {
    /// No setting allows webhooks into the network.
    Never,
    /// `WEBHOOK_ALLOWED_NETWORKS` allows webhooks if it names the network.
    ByName,
    /// `WEBHOOK_ALLOWED_NETWORKS` or, in demos and tests, `ALLOW_INSECURE_WEBHOOKS` allows webhooks.
    ByNameOrForTests,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SpecialNetwork {
    pub(super) network: IpNet,
    /// Description of the network in error messages.
    pub(super) what: &'static str,
    pub(super) opened: Opened,
}

/// The special network of this address; `None` for a public address.
pub(super) fn of(address: IpAddr) -> Option<SpecialNetwork> {
    let listed = SPECIAL.iter().find(|special| special.network.contains(&address));
    let elsewhere = || match address {
        IpAddr::V6(v6) if !GLOBAL_UNICAST.contains(&v6) => Some(NOT_PUBLIC),
        _ => None,
    };
    listed.copied().or_else(elsewhere)
}

/// The IPv4 address that an IPv6 address embeds; any other address is returned unchanged.
pub(super) fn embedded(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    match v6.octets() {
        // IPv4-mapped addresses, and NAT64's well-known prefix, through which IPv6-only hosts reach IPv4 hosts.
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
        | [0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d] => Ipv4Addr::new(a, b, c, d).into(),
        _ => address,
    }
}

const GLOBAL_UNICAST: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);
const NOT_PUBLIC: SpecialNetwork = v6([0; 8], 0, "a network that is not public", Opened::ByName);

const fn v4(address: [u8; 4], length: u8, what: &'static str, opened: Opened) -> SpecialNetwork {
    let network = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::from_octets(address), length));
    SpecialNetwork { network, what, opened }
}

const fn v6(address: [u16; 8], length: u8, what: &'static str, opened: Opened) -> SpecialNetwork {
    let network = IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::from_segments(address), length));
    SpecialNetwork { network, what, opened }
}

const METADATA: &str = "an address at which a cloud hands out credentials";
const DOCUMENTATION: &str = "a network for documentation";
const PRIVATE: &str = "a private network";

const SPECIAL: [SpecialNetwork; 37] = [
    v4([169, 254, 0, 0], 16, "a link-local network, where clouds hand out credentials", Opened::Never),
    v4([100, 100, 100, 200], 32, METADATA, Opened::Never),
    v4([168, 63, 129, 16], 32, METADATA, Opened::Never),
    v4([192, 0, 0, 192], 32, METADATA, Opened::Never),
    v4([0, 0, 0, 0], 8, "this host", Opened::Never),
    v4([224, 0, 0, 0], 4, "multicast", Opened::Never),
    v4([255, 255, 255, 255], 32, "broadcast", Opened::Never),
    v4([127, 0, 0, 0], 8, "this machine", Opened::ByNameOrForTests),
    v4([10, 0, 0, 0], 8, PRIVATE, Opened::ByNameOrForTests),
    v4([172, 16, 0, 0], 12, PRIVATE, Opened::ByNameOrForTests),
    v4([192, 168, 0, 0], 16, PRIVATE, Opened::ByNameOrForTests),
    v4([100, 64, 0, 0], 10, "a network behind a carrier's NAT", Opened::ByName),
    v4([192, 0, 0, 0], 24, "a network for protocols", Opened::ByName),
    v4([192, 0, 2, 0], 24, DOCUMENTATION, Opened::ByName),
    v4([198, 51, 100, 0], 24, DOCUMENTATION, Opened::ByName),
    v4([203, 0, 113, 0], 24, DOCUMENTATION, Opened::ByName),
    v4([192, 88, 99, 0], 24, "an abandoned relay network", Opened::ByName),
    v4([198, 18, 0, 0], 15, "a network for benchmarks", Opened::ByName),
    v4([240, 0, 0, 0], 4, "a reserved network", Opened::ByName),
    v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, "a link-local network", Opened::Never),
    v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254], 128, METADATA, Opened::Never),
    v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128, METADATA, Opened::Never),
    v6([0; 8], 128, "the unspecified address", Opened::Never),
    v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8, "multicast", Opened::Never),
    v6([0, 0, 0, 0, 0, 0, 0, 1], 128, "this machine", Opened::ByNameOrForTests),
    v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7, PRIVATE, Opened::ByNameOrForTests),
    v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10, "an abandoned private network", Opened::ByName),
    v6([0; 8], 96, "an abandoned notation of IPv4", Opened::ByName),
    v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48, "a private NAT64 network", Opened::ByName),
    v6([0x100, 0, 0, 0, 0, 0, 0, 0], 64, "a network that discards all traffic", Opened::ByName),
    v6([0x100, 0, 0, 1, 0, 0, 0, 0], 64, "a dummy network", Opened::ByName),
    v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 32, "Teredo, a tunnel over IPv4", Opened::ByName),
    v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23, "a network for protocols", Opened::ByName),
    v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32, DOCUMENTATION, Opened::ByName),
    v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16, "6to4, a tunnel over IPv4", Opened::ByName),
    v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20, DOCUMENTATION, Opened::ByName),
    v6([0x5f00, 0, 0, 0, 0, 0, 0, 0], 16, "a network for segment routing", Opened::ByName),
];
