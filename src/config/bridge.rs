//! The keys of networks of provider `bridge`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use sha2::{Digest, Sha256};

use super::fields::{MIN_MTU_V4, MIN_MTU_V6, mtu};
use super::overlay::OverlayPart;
use contrail_mesos_api::cluster::Admission;
use contrail_mesos_api::config_reader::{Section, known_word};
use contrail_mesos_api::text::hex;

/// The longest interface name of the kernel, in bytes.
const MAX_INTERFACE_NAME_BYTES: usize = 15;
/// What an interface name may be.
pub(super) const INTERFACE_NAME: &str = "a name has 1 to 15 letters, digits and any of . _ -";
/// Names of the kernel, which has a loopback interface and settings for all interfaces.
const KERNEL_NAMES: [&str; 3] = ["lo", "all", "default"];
/// What an entry of `routes` may be.
pub(super) const ROUTE: &str = "a destination such as \"0.0.0.0/0\"";
/// What an entry of `admit` may be.
const ADMIT: &str = "\"hosts\" or \"mapped-ports\"";
/// The keys of a `[[network]]` of provider `bridge` only.
pub(super) const KEYS: &[&str] = &[
    "admit",
    "bridge",
    "gateway",
    "gateway6",
    "groups",
    "hairpin",
    "masquerade",
    "mtu",
    "range",
    "range6",
    "reserved",
    "reserved6",
    "routes",
    "subnet",
    "subnet6",
];

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
    /// The overlay, if this is what a network of provider `overlay` is on this host.
    pub overlay: Option<OverlayPart>,
    /// What reaches its containers besides members of their groups; none if it does not isolate groups.
    pub groups: Option<Admission>,
    /// Whether its subnets are blocks of an overlay, which come and go while containers run.
    pub has_blocks: bool,
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
    /// More subnets of the network on this host, which begin with an address of the bridge as well: the
    /// other blocks of an overlay that lends blocks. `subnet` is the lowest of them.
    pub more: Vec<N>,
}

/// Addresses that are not for containers.
#[derive(Clone, Copy, Debug)]
pub struct SpecialSubnet {
    subnet: &'static str,
    /// What they are.
    description: &'static str,
    /// Whether they cannot work, or are only unusual.
    is_refused: bool,
}

const fn refused(subnet: &'static str, description: &'static str) -> SpecialSubnet {
    SpecialSubnet {
        subnet,
        description,
        is_refused: true,
    }
}

const fn warned(subnet: &'static str, description: &'static str) -> SpecialSubnet {
    SpecialSubnet {
        subnet,
        description,
        is_refused: false,
    }
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
    /// The addresses that are not for containers, as subnets.
    const SPECIAL: &'static [SpecialSubnet];

    /// The subnet without host bits.
    #[must_use]
    fn truncated(&self) -> Self;
    /// The subnet's first address.
    fn first_address(&self) -> Self::Address;
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
    const SPECIAL: &'static [SpecialSubnet] = &[
        refused("0.0.0.0/8", "no host's addresses"),
        refused("127.0.0.0/8", "the loopback addresses"),
        refused("169.254.0.0/16", "the link-local addresses"),
        refused("224.0.0.0/4", "the multicast addresses"),
        refused("255.255.255.255/32", "the broadcast address"),
        warned("240.0.0.0/4", "reserved addresses, which many routers drop"),
        warned("192.0.2.0/24", "addresses for documentation"),
        warned("198.51.100.0/24", "addresses for documentation"),
        warned("203.0.113.0/24", "addresses for documentation"),
    ];

    fn truncated(&self) -> Self {
        self.trunc()
    }

    fn first_address(&self) -> Ipv4Addr {
        self.network()
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
    const SPECIAL: &'static [SpecialSubnet] = &[
        refused("::/127", "the unspecified and the loopback address"),
        refused("::ffff:0:0/96", "the IPv4-mapped addresses"),
        refused("fe80::/10", "the link-local addresses"),
        refused("ff00::/8", "the multicast addresses"),
        warned("2001:db8::/32", "addresses for documentation"),
    ];

    fn truncated(&self) -> Self {
        self.trunc()
    }

    fn first_address(&self) -> Ipv6Addr {
        self.network()
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

pub(super) fn is_interface_name(name: &str) -> bool {
    (1..=MAX_INTERFACE_NAME_BYTES).contains(&name.len())
        && name != "."
        && name != ".."
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// The default name of a network's bridge: `cmb-` and the start of the hash of the network's name.
pub(super) fn default_bridge(network: &str) -> String {
    let digest = Sha256::digest(network);
    format!("cmb-{}", &hex(&digest)[..11])
}

/// Reads the keys of a `[[network]]` of provider `bridge`.
pub(super) fn network(section: &Section<'_>, name: &str) -> BridgeNetwork {
    let bridge = section
        .checked("bridge", "an interface name such as \"mesos0\"", |name| {
            if !is_interface_name(name) {
                Err(INTERFACE_NAME.to_owned())
            } else if KERNEL_NAMES.contains(&name) {
                Err("the kernel uses this name; take another one".to_owned())
            } else {
                Ok(name.to_owned())
            }
        })
        .unwrap_or_else(|| default_bridge(name));
    let v4 = subnet::<Ipv4Net>(section, &IPV4_KEYS);
    let v6 = subnet::<Ipv6Net>(section, &IPV6_KEYS);
    if !section.has("subnet") && !section.has("subnet6") {
        section.problem(
            "subnet",
            "a bridge network needs a subnet: subnet = \"10.32.0.0/16\" or subnet6 = \"fd00:32::/64\"",
        );
    }
    let minimum_mtu = if section.has("subnet6") {
        MIN_MTU_V6
    } else {
        MIN_MTU_V4
    };
    let mtu = mtu(section, minimum_mtu);
    let routes: Option<Vec<IpNet>> = section.checked_list("routes", ROUTE, |route: &str| {
        let route: IpNet = route.parse().map_err(|_| String::new())?;
        let family_key = match route {
            IpNet::V4(_) => "subnet",
            IpNet::V6(_) => "subnet6",
        };
        if section.has(family_key) {
            Ok(route)
        } else {
            Err(format!("this network has no {family_key}"))
        }
    });
    let default_routes = || {
        let v4 = v4.is_some().then_some(IpNet::V4(Ipv4Net::default()));
        let v6 = v6.is_some().then_some(IpNet::V6(Ipv6Net::default()));
        v4.into_iter().chain(v6).collect()
    };
    BridgeNetwork {
        bridge,
        mtu,
        masquerade: section.boolean("masquerade", true),
        hairpin: section.boolean("hairpin", true),
        routes: routes.unwrap_or_else(default_routes),
        overlay: None,
        groups: groups(section),
        has_blocks: false,
        v4,
        v6,
    }
}

/// Whether the network isolates groups, and what else reaches its containers.
fn groups(section: &Section<'_>) -> Option<Admission> {
    let admit = section.checked_list("admit", ADMIT, |word| {
        known_word(word, &["hosts", "mapped-ports"])
    });
    if section.boolean("groups", false) {
        let admission = admit.map(|words| Admission {
            hosts: words.contains(&"hosts"),
            mapped_ports: words.contains(&"mapped-ports"),
        });
        return Some(admission.unwrap_or_default());
    }
    if section.has("admit") {
        section.problem(
            "admit",
            "has a meaning only for a network that isolates groups: add groups = true",
        );
    }
    None
}

impl BridgeNetwork {
    /// The subnets of both families.
    pub fn subnets(&self) -> impl Iterator<Item = IpNet> + '_ {
        let v4 = self.v4.iter().flat_map(Subnet::all).map(IpNet::V4);
        let v6 = self.v6.iter().flat_map(Subnet::all).map(IpNet::V6);
        v4.chain(v6)
    }

    /// The bridge's own address in each subnet, with the subnet's prefix length.
    pub fn gateways(&self) -> impl Iterator<Item = IpNet> + '_ {
        let v4 = self.v4.iter().flat_map(Subnet::gateways);
        v4.chain(self.v6.iter().flat_map(Subnet::gateways))
    }
}

/// The keys of one address family.
struct FamilyKeys {
    subnet: &'static str,
    gateway: &'static str,
    range: &'static str,
    reserved: &'static str,
}

const IPV4_KEYS: FamilyKeys = FamilyKeys {
    subnet: "subnet",
    gateway: "gateway",
    range: "range",
    reserved: "reserved",
};
const IPV6_KEYS: FamilyKeys = FamilyKeys {
    subnet: "subnet6",
    gateway: "gateway6",
    range: "range6",
    reserved: "reserved6",
};

fn subnet<N: AddressFamily>(section: &Section<'_>, keys: &FamilyKeys) -> Option<Subnet<N>> {
    let configured: Option<N> = section.checked(keys.subnet, N::EXAMPLE, |text| {
        let subnet = text.parse().map_err(|_| String::new())?;
        check_subnet(subnet).map(|()| subnet)
    });
    // Of a subnet that is not known it is not known which addresses are in it.
    let check = |address: N::Address| match configured {
        Some(subnet) => check_host(subnet, address),
        None => Ok(()),
    };
    let gateway: Option<N::Address> =
        section.checked(keys.gateway, &format!("an {} address", N::NAME), |text| {
            let address = text.parse().map_err(|_| String::new())?;
            check(address)?;
            Ok(address)
        });
    let address_range = |text: &str| {
        let range = AddressRange::<N>::parse(text)?;
        check(range.first)?;
        check(range.last)?;
        Ok(range)
    };
    let range = section.checked(
        keys.range,
        &format!("two {} addresses, first-last", N::NAME),
        address_range,
    );
    let reserved: Vec<_> = section
        .checked_list(
            keys.reserved,
            &format!("an {} address, or two as first-last", N::NAME),
            address_range,
        )
        .unwrap_or_default()
        .into_iter()
        .map(|range| (range.first, range.last))
        .collect();
    if !section.has(keys.subnet) {
        for key in [keys.gateway, keys.range, keys.reserved] {
            if section.has(key) {
                section.problem(key, format!("needs {}, too", keys.subnet));
            }
        }
    }
    let configured = configured?;
    let subnet = configured.truncated();
    warn_of_subnet(section, keys, configured);
    let mut subnet = Subnet::of(subnet);
    if let Some(range) = range {
        (subnet.first, subnet.last) = (range.first, range.last);
    }
    subnet.gateway = gateway.unwrap_or(subnet.gateway);
    subnet.reserved = reserved;
    if !subnet.has_free_address() {
        let key = [keys.reserved, keys.range, keys.subnet]
            .into_iter()
            .find(|key| section.has(key))
            .unwrap_or(keys.subnet);
        section.warning(
            key,
            "no address is left for containers that request none: all are reserved or the gateway's",
        );
    }
    Some(subnet)
}

/// A subnet that can be a network's.
fn check_subnet<N: AddressFamily>(subnet: N) -> Result<(), String> {
    if subnet.prefix() > N::MAX_PREFIX {
        return Err(format!(
            "it has no room for a gateway and a container; the longest prefix is /{}",
            N::MAX_PREFIX
        ));
    }
    match special_subnet(subnet, true) {
        Some(special) => Err(format!(
            "it overlaps {} ({})",
            special.subnet, special.description
        )),
        None => Ok(()),
    }
}

/// The special addresses that are part of a subnet.
fn special_subnet<N: AddressFamily>(subnet: N, is_refused: bool) -> Option<&'static SpecialSubnet> {
    N::SPECIAL.iter().find(|special| {
        special.is_refused == is_refused
            && special.subnet.parse::<N>().is_ok_and(|special| {
                special.has(subnet.first_address()) || subnet.has(special.first_address())
            })
    })
}

fn warn_of_subnet<N: AddressFamily>(section: &Section<'_>, keys: &FamilyKeys, subnet: N) {
    if let Some(special) = special_subnet(subnet, false) {
        let message = format!(
            "{subnet} overlaps {} ({})",
            special.subnet, special.description
        );
        section.warning(keys.subnet, message);
    }
    let truncated = subnet.truncated();
    if subnet.to_string() != truncated.to_string() {
        let message = format!("{subnet} has bits beyond its prefix; it means {truncated}");
        section.warning(keys.subnet, message);
    }
}

/// Whether an address can be a host's.
fn check_host<N: AddressFamily>(subnet: N, address: N::Address) -> Result<(), String> {
    let (first, last) = (subnet.first_host(), subnet.last_host());
    if first <= address && address <= last {
        Ok(())
    } else {
        Err(format!(
            "{address} is not between {first} and {last} of {}",
            subnet.truncated()
        ))
    }
}

impl<N: AddressFamily> Subnet<N> {
    /// All of a subnet, with its first address as the gateway.
    fn of(subnet: N) -> Self {
        let subnet = subnet.truncated();
        Self {
            subnet,
            gateway: subnet.first_host(),
            first: subnet.first_host(),
            last: subnet.last_host(),
            reserved: vec![],
            more: vec![],
        }
    }

    /// All of a subnet that comes from elsewhere than a configuration, with its first address as the
    /// gateway. The error says why it cannot be a network's.
    pub fn checked(subnet: N) -> Result<Self, String> {
        check_subnet(subnet).map(|()| Self::of(subnet))
    }

    /// The same of several subnets; none if there is none.
    pub fn checked_all(subnets: impl IntoIterator<Item = N>) -> Result<Option<Self>, (N, String)> {
        let mut all: Option<Self> = None;
        for subnet in subnets {
            check_subnet(subnet).map_err(|reason| (subnet, reason))?;
            match &mut all {
                Some(all) => all.more.push(subnet.truncated()),
                None => all = Some(Self::of(subnet)),
            }
        }
        Ok(all)
    }

    /// The subnets.
    pub fn all(&self) -> impl Iterator<Item = N> + '_ {
        std::iter::once(self.subnet).chain(self.more.iter().copied())
    }

    /// The bridge's own address in each subnet, with the subnet's prefix length.
    pub fn gateways(&self) -> impl Iterator<Item = IpNet> + '_ {
        let first = std::iter::once((self.gateway, self.subnet.prefix()));
        let more = self.more.iter();
        let all = first.chain(more.map(|subnet| (subnet.first_host(), subnet.prefix())));
        // The lengths are those of subnets of the same family.
        all.filter_map(|(gateway, prefix)| IpNet::new(gateway.into(), prefix).ok())
    }

    /// Whether a container that requests no address can get one.
    fn has_free_address(&self) -> bool {
        let mut taken = self.reserved.clone();
        taken.push((self.gateway, self.gateway));
        taken.sort_unstable();
        let mut next = self.first;
        for (first, last) in taken {
            if first > next {
                break;
            }
            if last >= self.last {
                return false;
            }
            next = next.max(N::next(last));
        }
        next <= self.last
    }
}

/// `first-last`, or one address.
struct AddressRange<N: AddressFamily> {
    first: N::Address,
    last: N::Address,
}

impl<N: AddressFamily> AddressRange<N> {
    fn parse(range: &str) -> Result<Self, String> {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let address = |text: &str| text.trim().parse().map_err(|_| Self::advice(range));
        let (first, last): (N::Address, N::Address) = (address(first)?, address(last)?);
        if first <= last {
            Ok(Self { first, last })
        } else {
            Err("last is before first".to_owned())
        }
    }

    /// What to write in place of a subnet.
    fn advice(range: &str) -> String {
        range.parse::<N>().map_or_else(
            |_| String::new(),
            |subnet| format!("write \"{}-{}\"", subnet.first_host(), subnet.last_host()),
        )
    }
}
