//! Which addresses outbound connections may go to: the public internet, and what is
//! allowed by name or network. Must not know how connections are made.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};

/// The special-purpose IPv4 networks (IANA registry): none of them is the public internet.
const SPECIAL_V4: &[Ipv4Net] = &[
    net(0, 0, 0, 0, 8),
    net(10, 0, 0, 0, 8),
    net(100, 64, 0, 0, 10),
    net(127, 0, 0, 0, 8),
    net(169, 254, 0, 0, 16),
    net(172, 16, 0, 0, 12),
    net(192, 0, 0, 0, 24),
    net(192, 0, 2, 0, 24),
    net(192, 88, 99, 0, 24),
    net(192, 168, 0, 0, 16),
    net(198, 18, 0, 0, 15),
    net(198, 51, 100, 0, 24),
    net(203, 0, 113, 0, 24),
    net(224, 0, 0, 0, 4),
    net(240, 0, 0, 0, 4),
];

const fn net(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

/// Which addresses may be connected to. Public ones always may; others (private, loopback,
/// link-local, shared, multicast, documentation, …) only where an entry allows them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EgressPolicy {
    allow: Vec<IpNet>,
    allow_hosts: Vec<HostPattern>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum HostPattern {
    Exact(String),
    /// `*.example`: the names under `.example`.
    Under(String),
}

/// An entry that is neither a network, an address nor a host name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "egress entry {entry:?}: expected a network such as 10.1.0.0/16, an address, a host name, or *.name for the hosts below it"
)]
pub struct InvalidEgressEntry {
    pub entry: String,
}

impl EgressPolicy {
    /// Nothing but the public internet.
    pub fn public_only() -> Self {
        Self::default()
    }

    /// Reads entries: networks in CIDR form, addresses, host names, `*.` and a host name.
    /// All faulty entries are reported.
    pub fn parse<'a>(entries: impl IntoIterator<Item = &'a str>) -> Result<Self, Vec<InvalidEgressEntry>> {
        let mut policy = Self::default();
        let mut faults = Vec::new();
        for entry in entries.into_iter().map(str::trim) {
            if let Ok(network) = entry.parse::<IpNet>() {
                policy.allow.push(network.trunc());
            } else if let Ok(address) = entry.parse::<IpAddr>() {
                policy.allow.push(IpNet::from(address));
            } else if let Some(pattern) = HostPattern::parse(entry) {
                policy.allow_hosts.push(pattern);
            } else {
                faults.push(InvalidEgressEntry { entry: entry.to_owned() });
            }
        }
        if faults.is_empty() { Ok(policy) } else { Err(faults) }
    }

    /// Whether a connection for `host` may go to `address`.
    pub fn allows(&self, host: &str, address: IpAddr) -> bool {
        // An address that carries another one leads to it.
        let inner = embedded_v4(address).map(IpAddr::V4);
        is_public(inner.unwrap_or(address))
            || self
                .allow
                .iter()
                .any(|network| network.contains(&address) || inner.is_some_and(|address| network.contains(&address)))
            || self.allow_hosts.iter().any(|pattern| pattern.matches(host))
    }
}

impl HostPattern {
    fn parse(entry: &str) -> Option<Self> {
        let name = entry.trim_end_matches('.').to_ascii_lowercase();
        match name.strip_prefix("*.") {
            Some(under) if is_host_name(under) => Some(Self::Under(format!(".{under}"))),
            None if is_host_name(&name) => Some(Self::Exact(name)),
            _ => None,
        }
    }

    fn matches(&self, host: &str) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host);
        match self {
            Self::Exact(name) => host.eq_ignore_ascii_case(name),
            Self::Under(suffix) => host
                .len()
                .checked_sub(suffix.len())
                .and_then(|start| host.get(start..))
                .is_some_and(|end| host.len() > suffix.len() && end.eq_ignore_ascii_case(suffix)),
        }
    }
}

fn is_host_name(name: &str) -> bool {
    name.len() <= 253
        && name.split('.').all(|label| {
            (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        })
        // What reads as a number is an address that was mistyped.
        && !name.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !SPECIAL_V4.iter().any(|network| network.contains(&address)),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

/// Global unicast is 2000::/3, less the parts that are set aside for other purposes.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let [first, second, ..] = address.segments();
    let global_unicast = first & 0xe000 == 0x2000;
    let protocol_assignments = first == 0x2001 && second < 0x0200;
    let documentation = (first == 0x2001 && second == 0x0db8) || (first == 0x3fff && second < 0x1000);
    global_unicast && !protocol_assignments && !documentation
}

/// The IPv4 address that an IPv6 address stands for: IPv4-mapped, IPv4-compatible, NAT64
/// and 6to4.
fn embedded_v4(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(address) = address else { return None };
    let pair = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match address.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0, 0, 0, 0, 0xffff, 0, high, low] => Some(pair(high, low)),
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(pair(high, low)),
        [0x2002, high, low, ..] => Some(pair(high, low)),
        // `::` and `::1` read as 0.0.0.0 and 0.0.0.1, which are not public either.
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => Some(pair(high, low)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn only_public_addresses_are_allowed_by_default() {
        let policy = EgressPolicy::public_only();
        for public in ["8.8.8.8", "1.1.1.1", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "64:ff9b::808:808"] {
            assert!(policy.allows("host.example", address(public)), "{public}");
        }
        for refused in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.100.100.200",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.192",
            "192.0.2.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.51.100.7",
            "203.0.113.9",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:0:127.0.0.1",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::1",
            "2002:7f00:1::",
            "2002:a00:1::1",
            "2001::1",
            "2001:db8::1",
            "3fff::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "100::1",
            "5f00::1",
            "4000::1",
        ] {
            assert!(!policy.allows("host.example", address(refused)), "{refused}");
        }
    }

    #[test]
    fn networks_and_hosts_open_the_policy() {
        let policy = EgressPolicy::parse(["10.1.0.0/16", "127.0.0.1", "fd12::/16", "Intern.example", "*.svc.local"])
            .expect("valid entries");
        assert!(policy.allows("x", address("10.1.2.3")));
        assert!(policy.allows("x", address("::ffff:10.1.2.3")));
        assert!(policy.allows("x", address("127.0.0.1")));
        assert!(policy.allows("x", address("fd12::1")));
        assert!(!policy.allows("x", address("10.2.0.1")));
        assert!(!policy.allows("x", address("127.0.0.2")));
        assert!(policy.allows("intern.EXAMPLE.", address("192.168.0.1")));
        assert!(policy.allows("a.b.svc.local", address("192.168.0.1")));
        assert!(!policy.allows("svc.local", address("192.168.0.1")));
        assert!(!policy.allows("evilsvc.local", address("192.168.0.1")));
        assert!(!policy.allows("sub.intern.example", address("192.168.0.1")));
    }

    #[test]
    fn every_faulty_entry_is_reported() {
        let faults = EgressPolicy::parse(["10.0.0.0/33", "ok.example", "300.1.1.1", "", "http://x", "*.", "a b"])
            .expect_err("faulty entries");
        let entries: Vec<_> = faults.iter().map(|fault| fault.entry.as_str()).collect();
        assert_eq!(entries, ["10.0.0.0/33", "300.1.1.1", "", "http://x", "*.", "a b"]);
    }
}
