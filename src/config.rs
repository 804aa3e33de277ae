//! The agent's configuration: one TOML file, read again at every launch.
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

/// Resolver configuration, as it becomes `/etc/resolv.conf`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
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

/// A network of provider `bridge`. At least one of `subnet` and `subnet6` is there, every address
/// lies in its subnet, and no subnet overlaps another network's.
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
pub trait AddressFamily {
    /// An address of the family.
    type Address: Copy + Ord + std::fmt::Display + std::fmt::Debug;
}

impl AddressFamily for Ipv4Net {
    type Address = std::net::Ipv4Addr;
}

impl AddressFamily for Ipv6Net {
    type Address = std::net::Ipv6Addr;
}
