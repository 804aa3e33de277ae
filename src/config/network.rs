//! A `[[network]]` table: what it may say, and what must hold of all of them together.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::reader::Section;

/// Resolver configuration, as it becomes `/etc/resolv.conf`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dns {
    /// Name servers, in order.
    pub nameservers: Vec<IpAddr>,
    /// The local domain.
    pub domain: Option<String>,
    /// Search list.
    pub search: Vec<String>,
    /// Resolver options, such as `ndots:2`.
    pub options: Vec<String>,
}

/// One network that containers can name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// What frameworks call it in `NetworkInfo.name`.
    pub name: String,
    /// Resolver configuration for its containers; `None` leaves it to the agent's default.
    pub dns: Option<Dns>,
    /// Its provider, with the provider's own keys.
    pub provider: NetworkProvider,
}

/// The provider of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkProvider {
    /// One host, a Linux bridge, nothing else needed.
    Bridge(BridgeNetwork),
}

/// A network of provider `bridge`. At least one of `v4` and `v6` is there, every address lies in
/// its subnet, and no subnet overlaps another network's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BridgeNetwork {
    /// The bridge's interface name.
    pub bridge: String,
    /// IPv4.
    pub v4: Option<Subnet<Ipv4Net>>,
    /// IPv6.
    pub v6: Option<Subnet<Ipv6Net>>,
    /// MTU of the bridge and of the containers' interfaces, in bytes.
    pub mtu: u32,
    /// Whether what leaves the network's subnet does so with the host's address.
    pub masquerade: bool,
    /// Whether a frame may leave by the bridge port that it came in by.
    pub hairpin: bool,
    /// Routes of the containers, by the gateway. Default: everything.
    pub routes: Vec<IpNet>,
}

/// Where a network's addresses of one family come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subnet<N: AddressFamily> {
    /// The subnet, with its prefix.
    pub subnet: N,
    /// The bridge's own address.
    pub gateway: N::Address,
    /// First address that containers are given, inclusive.
    pub first: N::Address,
    /// Last address that containers are given, inclusive.
    pub last: N::Address,
    /// Addresses, as inclusive ranges, that only a static request gets.
    pub reserved: Vec<(N::Address, N::Address)>,
}

/// The two address families.
pub trait AddressFamily: Copy + FromStr + fmt::Display {
    /// An address of the family.
    type Address: Copy + Ord + fmt::Display + fmt::Debug + FromStr + Into<IpAddr>;

    /// `IPv4` or `IPv6`.
    const NAME: &'static str;
    /// What a subnet of the family looks like, for messages.
    const EXAMPLE: &'static str;
    /// The longest prefix that leaves a network room for a gateway and a container.
    const LONGEST_PREFIX: u8;

    /// The subnet without host bits.
    #[must_use]
    fn truncated(&self) -> Self;
    /// The prefix length in bits.
    fn prefix(&self) -> u8;
    /// Whether the address is one of the subnet's.
    fn has(&self, address: Self::Address) -> bool;
    /// The first address that a host may have: the gateway's by default.
    fn first_host(&self) -> Self::Address;
    /// The last address that a host may have.
    fn last_host(&self) -> Self::Address;
    /// The address after this one; saturates.
    fn next(address: Self::Address) -> Self::Address;
}

impl AddressFamily for Ipv4Net {
    type Address = Ipv4Addr;

    const NAME: &'static str = "IPv4";
    const EXAMPLE: &'static str = "an IPv4 subnet such as \"10.32.0.0/16\"";
    const LONGEST_PREFIX: u8 = 30;

    fn truncated(&self) -> Self {
        self.trunc()
    }

    fn prefix(&self) -> u8 {
        self.prefix_len()
    }

    fn has(&self, address: Ipv4Addr) -> bool {
        self.contains(&address)
    }

    fn first_host(&self) -> Ipv4Addr {
        Self::next(self.network())
    }

    fn last_host(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.broadcast().to_bits().saturating_sub(1))
    }

    fn next(address: Ipv4Addr) -> Ipv4Addr {
        Ipv4Addr::from_bits(address.to_bits().saturating_add(1))
    }
}

impl AddressFamily for Ipv6Net {
    type Address = Ipv6Addr;

    const NAME: &'static str = "IPv6";
    const EXAMPLE: &'static str = "an IPv6 subnet such as \"fd00:32::/64\"";
    const LONGEST_PREFIX: u8 = 126;

    fn truncated(&self) -> Self {
        self.trunc()
    }

    fn prefix(&self) -> u8 {
        self.prefix_len()
    }

    fn has(&self, address: Ipv6Addr) -> bool {
        self.contains(&address)
    }

    fn first_host(&self) -> Ipv6Addr {
        // The subnet's own address is the routers' anycast address.
        Self::next(self.network())
    }

    fn last_host(&self) -> Ipv6Addr {
        self.broadcast()
    }

    fn next(address: Ipv6Addr) -> Ipv6Addr {
        Ipv6Addr::from_bits(address.to_bits().saturating_add(1))
    }
}

/// The longest name that a network may have, in bytes: it becomes a directory's.
const LONGEST_NAME: usize = 128;
/// The longest name that the kernel gives an interface, in bytes.
const LONGEST_INTERFACE: usize = 15;
const DEFAULT_MTU: u32 = 1500;

/// Reads one `[[network]]`; `None` when something that it cannot do without is missing or wrong,
/// which then has been reported.
pub(super) fn read(section: Section<'_>) -> Option<Network> {
    let name = section.text("name", "the name that frameworks use, such as \"blue\"");
    let name = match name {
        Some(name) if is_network_name(&name) => Some(name),
        Some(name) => {
            section.problem(
                "name",
                format!(
                    "{name:?} is not a network name: 1 to {LONGEST_NAME} letters, digits and \
                     any of . _ : - , beginning with a letter or digit"
                ),
            );
            None
        }
        None if section.has("name") => None,
        None => {
            section.problem("", "a network needs a name: name = \"blue\"");
            None
        }
    };
    let provider = section.text("provider", "the provider, \"bridge\"");
    let dns = section.section("dns").map(dns);
    let provider = match provider.as_deref() {
        Some("bridge") => {
            bridge(&section, name.as_deref().unwrap_or_default()).map(NetworkProvider::Bridge)
        }
        Some(other) => {
            section.problem(
                "provider",
                format!("there is no provider {other:?}; this version has \"bridge\""),
            );
            return None;
        }
        None if section.has("provider") => return None,
        None => {
            section.problem("", "a network needs a provider: provider = \"bridge\"");
            return None;
        }
    };
    section.finish();
    Some(Network {
        name: name?,
        dns,
        provider: provider?,
    })
}

/// Reads a table of resolver configuration.
pub(super) fn dns(section: Section<'_>) -> Dns {
    let words = |key: &str, expected: &str| -> Vec<String> {
        let words: Vec<String> = section.parsed_list(key, expected).unwrap_or_default();
        for word in &words {
            if !is_word(word) {
                section.problem(
                    key,
                    format!("{word:?} is not one word: expected {expected}"),
                );
            }
        }
        words
    };
    let dns = Dns {
        nameservers: section
            .parsed_list("nameservers", "an address such as \"10.0.0.2\"")
            .unwrap_or_default(),
        domain: section.text("domain", "a domain such as \"example.com\""),
        search: words("search", "a domain such as \"example.com\""),
        options: words("options", "an option such as \"ndots:2\""),
    };
    if let Some(domain) = dns.domain.as_ref().filter(|domain| !is_word(domain)) {
        section.problem("domain", format!("{domain:?} is not one word"));
    }
    section.finish();
    dns
}

/// Text that may stand in a line of `resolv.conf` without becoming another line.
fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn is_network_name(name: &str) -> bool {
    name.len() <= LONGEST_NAME
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte))
}

fn is_interface_name(name: &str) -> bool {
    (1..=LONGEST_INTERFACE).contains(&name.len())
        && name != "."
        && name != ".."
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// The bridge of a network that names none: `cmb-` and the head of the name's hash.
fn default_bridge(network: &str) -> String {
    let digest = Sha256::digest(network);
    let hash = digest[..6]
        .iter()
        .fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    format!("cmb-{}", &hash[..11])
}

fn bridge(section: &Section<'_>, name: &str) -> Option<BridgeNetwork> {
    let bridge = section
        .text("bridge", "an interface name such as \"mesos0\"")
        .unwrap_or_else(|| default_bridge(name));
    if !is_interface_name(&bridge) {
        section.problem(
            "bridge",
            format!(
                "{bridge:?} is not an interface name: 1 to {LONGEST_INTERFACE} letters, digits \
                 and any of . _ -"
            ),
        );
    }
    let v4 = subnet::<Ipv4Net>(section, "subnet", "gateway", "range", "reserved");
    let v6 = subnet::<Ipv6Net>(section, "subnet6", "gateway6", "range6", "reserved6");
    if !section.has("subnet") && !section.has("subnet6") {
        section.problem(
            "",
            "a bridge network needs a subnet: subnet = \"10.32.0.0/16\" or subnet6 = \"fd00:32::/64\"",
        );
    }
    // The kernel takes IPv6 from an interface whose MTU is below 1280.
    let smallest_mtu = if v6.is_some() { 1280 } else { 576 };
    let mtu = section.integer("mtu", smallest_mtu..=65535);
    let routes = section.parsed_list("routes", "a destination such as \"0.0.0.0/0\"");
    let everything = || {
        let mut routes = vec![];
        routes.extend(v4.is_some().then_some(IpNet::V4(Ipv4Net::default())));
        routes.extend(v6.is_some().then_some(IpNet::V6(Ipv6Net::default())));
        routes
    };
    let network = BridgeNetwork {
        bridge,
        mtu: mtu.unwrap_or(DEFAULT_MTU),
        masquerade: section.boolean("masquerade", true),
        hairpin: section.boolean("hairpin", true),
        routes: routes.unwrap_or_else(everything),
        v4,
        v6,
    };
    for route in &network.routes {
        let reachable = match route {
            IpNet::V4(_) => network.v4.is_some(),
            IpNet::V6(_) => network.v6.is_some(),
        };
        if !reachable {
            section.problem(
                "routes",
                format!("{route} is of a family in which this network has no subnet"),
            );
        }
    }
    (network.v4.is_some() || network.v6.is_some()).then_some(network)
}

fn subnet<N: AddressFamily>(
    section: &Section<'_>,
    subnet_key: &str,
    gateway_key: &str,
    range_key: &str,
    reserved_key: &str,
) -> Option<Subnet<N>> {
    let subnet: Option<N> = section.parsed(subnet_key, N::EXAMPLE);
    let address = format!("an {} address", N::NAME);
    let gateway: Option<N::Address> = section.parsed(gateway_key, &address);
    let range: Option<Range<N>> =
        section.parsed(range_key, &format!("two {} addresses, first-last", N::NAME));
    let reserved: Option<Vec<Range<N>>> = section.parsed_list(
        reserved_key,
        &format!("an {} address, or two as first-last", N::NAME),
    );
    let Some(subnet) = subnet else {
        for key in [gateway_key, range_key, reserved_key] {
            if section.has(key) && !section.has(subnet_key) {
                section.problem(key, format!("needs {subnet_key} beside it"));
            }
        }
        return None;
    };
    if subnet.prefix() > N::LONGEST_PREFIX {
        section.problem(
            subnet_key,
            format!(
                "{subnet} has no room for a gateway and a container; the longest prefix is /{}",
                N::LONGEST_PREFIX
            ),
        );
        return None;
    }
    let (first_host, last_host) = (subnet.first_host(), subnet.last_host());
    let is_host = |address: N::Address| first_host <= address && address <= last_host;
    let check = |key: &str, address: N::Address| {
        if !is_host(address) {
            section.problem(
                key,
                format!("{address} is not between {first_host} and {last_host} of {subnet}"),
            );
        }
    };
    let subnet = subnet.truncated();
    let gateway = gateway.unwrap_or(first_host);
    check(gateway_key, gateway);
    let (first, last) = range.map_or((first_host, last_host), |range| (range.first, range.last));
    check(range_key, first);
    check(range_key, last);
    let reserved: Vec<_> = reserved
        .unwrap_or_default()
        .into_iter()
        .map(|range| (range.first, range.last))
        .collect();
    for (first, last) in &reserved {
        check(reserved_key, *first);
        check(reserved_key, *last);
    }
    Some(Subnet {
        subnet,
        gateway,
        first,
        last,
        reserved,
    })
}

/// `first-last`, or one address.
struct Range<N: AddressFamily> {
    first: N::Address,
    last: N::Address,
}

impl<N: AddressFamily> FromStr for Range<N> {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let first = first.trim().parse().map_err(|_| ())?;
        let last = last.trim().parse().map_err(|_| ())?;
        (first <= last).then_some(Self { first, last }).ok_or(())
    }
}

impl Network {
    /// The network's subnets, of both families.
    #[must_use]
    pub fn subnets(&self) -> Vec<IpNet> {
        match &self.provider {
            NetworkProvider::Bridge(bridge) => {
                let v4 = bridge.v4.as_ref().map(|v4| IpNet::V4(v4.subnet));
                let v6 = bridge.v6.as_ref().map(|v6| IpNet::V6(v6.subnet));
                v4.into_iter().chain(v6).collect()
            }
        }
    }

    /// Why this network cannot stand beside `other`.
    pub(super) fn conflicts(&self, other: &Network) -> Vec<(&'static str, String)> {
        let mut conflicts = vec![];
        if self.name == other.name {
            conflicts.push(("name", format!("network {:?} is there twice", self.name)));
        }
        let NetworkProvider::Bridge(ours) = &self.provider;
        let NetworkProvider::Bridge(theirs) = &other.provider;
        if ours.bridge == theirs.bridge {
            conflicts.push((
                "bridge",
                format!("{:?} is network {:?}'s already", ours.bridge, other.name),
            ));
        }
        for one in self.subnets() {
            for two in other.subnets() {
                if one.contains(&two) || two.contains(&one) {
                    let key = match one {
                        IpNet::V4(_) => "subnet",
                        IpNet::V6(_) => "subnet6",
                    };
                    conflicts.push((
                        key,
                        format!("{one} overlaps {two} of network {:?}", other.name),
                    ));
                }
            }
        }
        conflicts
    }
}
