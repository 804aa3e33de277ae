//! The keys of networks of provider `bridge`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use sha2::{Digest, Sha256};

use super::fields::mtu;
use contrail_mesos_api::config_reader::Section;
use contrail_mesos_api::text::hex;

/// The longest interface name of the kernel, in bytes.
const MAX_INTERFACE_NAME_BYTES: usize = 15;

/// A network of provider `bridge`. It has at least one of `v4` and `v6`, every address lies in its
/// subnet, and no subnet overlaps another network's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BridgeNetwork {
    /// The bridge's interface name.
    pub bridge: String,
    /// IPv4 addresses.
    pub v4: Option<Subnet<Ipv4Net>>,
    /// IPv6 addresses.
    pub v6: Option<Subnet<Ipv6Net>>,
    /// MTU of the bridge and of the containers' interfaces, in bytes.
    pub mtu: u32,
    /// Whether traffic that leaves the network's subnet gets the host's address.
    pub masquerade: bool,
    /// Whether a frame may leave by the bridge port by which it came in.
    pub hairpin: bool,
    /// Destinations that the containers reach by the gateway. Default: all.
    pub routes: Vec<IpNet>,
}

/// The addresses of one family of a network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subnet<N: AddressFamily> {
    /// The subnet.
    pub subnet: N,
    /// The bridge's own address.
    pub gateway: N::Address,
    /// First address for containers, inclusive.
    pub first: N::Address,
    /// Last address for containers, inclusive.
    pub last: N::Address,
    /// Inclusive ranges of addresses that only a static request gets.
    pub reserved: Vec<(N::Address, N::Address)>,
}

/// The two address families.
pub trait AddressFamily: Copy + FromStr + fmt::Display {
    /// An address of the family.
    type Address: Copy + Ord + fmt::Display + fmt::Debug + FromStr + Into<IpAddr>;

    /// `IPv4` or `IPv6`.
    const NAME: &'static str;
    /// A subnet of the family, for messages.
    const EXAMPLE: &'static str;
    /// The longest prefix that leaves room for a gateway and a container.
    const MAX_PREFIX: u8;

    /// The subnet without host bits.
    #[must_use]
    fn truncated(&self) -> Self;
    /// The prefix length in bits.
    fn prefix(&self) -> u8;
    /// Whether the address is in the subnet.
    fn has(&self, address: Self::Address) -> bool;
    /// The first address for a host, which is the gateway's by default.
    fn first_host(&self) -> Self::Address;
    /// The last address for a host.
    fn last_host(&self) -> Self::Address;
    /// The address after this one; saturates.
    fn next(address: Self::Address) -> Self::Address;
}

impl AddressFamily for Ipv4Net {
    type Address = Ipv4Addr;

    const NAME: &'static str = "IPv4";
    const EXAMPLE: &'static str = "an IPv4 subnet such as \"10.32.0.0/16\"";
    const MAX_PREFIX: u8 = 30;

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
    const MAX_PREFIX: u8 = 126;

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
        // The subnet's first address is the routers' anycast address.
        Self::next(self.network())
    }

    fn last_host(&self) -> Ipv6Addr {
        self.broadcast()
    }

    fn next(address: Ipv6Addr) -> Ipv6Addr {
        Ipv6Addr::from_bits(address.to_bits().saturating_add(1))
    }
}

fn is_interface_name(name: &str) -> bool {
    (1..=MAX_INTERFACE_NAME_BYTES).contains(&name.len())
        && name != "."
        && name != ".."
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// The default name of a network's bridge: `cmb-` and the start of the hash of the network's name.
fn default_bridge(network: &str) -> String {
    let digest = Sha256::digest(network);
    format!("cmb-{}", &hex(&digest)[..11])
}

/// Reads the keys of a `[[network]]` of provider `bridge`; `None` as in `network::read`.
pub(super) fn network(section: &Section<'_>, name: &str) -> Option<BridgeNetwork> {
    let bridge = section
        .text("bridge", "an interface name such as \"mesos0\"")
        .unwrap_or_else(|| default_bridge(name));
    if !is_interface_name(&bridge) {
        section.problem(
            "bridge",
            format!(
                "{bridge:?} is not an interface name: use 1 to {MAX_INTERFACE_NAME_BYTES} letters, \
                 digits and any of . _ -"
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
    // The kernel disables IPv6 on an interface whose MTU is below 1280.
    let minimum_mtu = if v6.is_some() { 1280 } else { 576 };
    let mtu = mtu(section, minimum_mtu);
    let routes = section.parsed_list("routes", "a destination such as \"0.0.0.0/0\"");
    let default_routes = || {
        let v4 = v4.is_some().then_some(IpNet::V4(Ipv4Net::default()));
        let v6 = v6.is_some().then_some(IpNet::V6(Ipv6Net::default()));
        v4.into_iter().chain(v6).collect()
    };
    let network = BridgeNetwork {
        bridge,
        mtu,
        masquerade: section.boolean("masquerade", true),
        hairpin: section.boolean("hairpin", true),
        routes: routes.unwrap_or_else(default_routes),
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
                format!("this network has no subnet of the address family of {route}"),
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
    let range: Option<AddressRange<N>> =
        section.parsed(range_key, &format!("two {} addresses, first-last", N::NAME));
    let reserved: Option<Vec<AddressRange<N>>> = section.parsed_list(
        reserved_key,
        &format!("an {} address, or two as first-last", N::NAME),
    );
    let Some(subnet) = subnet else {
        for key in [gateway_key, range_key, reserved_key] {
            if section.has(key) && !section.has(subnet_key) {
                section.problem(key, format!("needs {subnet_key}, too"));
            }
        }
        return None;
    };
    if subnet.prefix() > N::MAX_PREFIX {
        section.problem(
            subnet_key,
            format!(
                "{subnet} has no room for a gateway and a container; the longest prefix is /{}",
                N::MAX_PREFIX
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
struct AddressRange<N: AddressFamily> {
    first: N::Address,
    last: N::Address,
}

impl<N: AddressFamily> FromStr for AddressRange<N> {
    type Err = ();

    fn from_str(range: &str) -> Result<Self, ()> {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let first = first.trim().parse().map_err(|_| ())?;
        let last = last.trim().parse().map_err(|_| ())?;
        (first <= last).then_some(Self { first, last }).ok_or(())
    }
}
