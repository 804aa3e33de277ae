//! The objects of the cluster's state.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use super::groups::{Admission, Endpoint, SecurityGroup};
use super::services::{Service, ServiceKey, ServiceSettings, TaskName};
use crate::container::Mac;

/// One object of the cluster's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Object {
    /// What all overlays share. There is at most one.
    Underlay(Underlay),
    /// An overlay network.
    Overlay(Overlay),
    /// A node with what it was given.
    Node(Node),
    /// A security group.
    SecurityGroup(SecurityGroup),
    /// A container on an overlay that isolates groups.
    Endpoint(Endpoint),
    /// All endpoints of a node are published: what a client knows beyond them is gone.
    EndpointsComplete {
        /// The node's name.
        node: String,
    },
    /// What all services share. There is at most one.
    ServiceSettings(ServiceSettings),
    /// A service.
    Service(Service),
    /// The name of tasks.
    TaskName(TaskName),
    /// All services and names of tasks are published: what a client knows beyond them is gone.
    ServicesComplete,
    /// An object of a later version.
    #[serde(other)]
    #[cfg_attr(feature = "schema", schemars(skip))]
    Unknown,
}

/// The identity of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ObjectKey {
    /// The [`Underlay`].
    Underlay,
    /// An [`Overlay`].
    Overlay {
        /// Its name.
        name: String,
    },
    /// A [`Node`].
    Node {
        /// Its name.
        name: String,
    },
    /// A [`SecurityGroup`].
    SecurityGroup {
        /// Its name.
        name: String,
    },
    /// An [`Endpoint`].
    Endpoint {
        /// The name of its node.
        node: String,
        /// Its id.
        id: String,
    },
    /// An [`Object::EndpointsComplete`].
    EndpointsComplete {
        /// The node's name.
        node: String,
    },
    /// The [`ServiceSettings`].
    ServiceSettings,
    /// A [`Service`].
    Service {
        /// Its identity.
        service: ServiceKey,
    },
    /// A [`TaskName`].
    TaskName {
        /// The name.
        name: String,
    },
    /// The [`Object::ServicesComplete`].
    ServicesComplete,
    /// An object of a later version.
    #[serde(other)]
    #[cfg_attr(feature = "schema", schemars(skip))]
    Unknown,
}

impl Object {
    /// The identity of the object.
    #[must_use]
    pub fn key(&self) -> ObjectKey {
        match self {
            Self::Underlay(_) => ObjectKey::Underlay,
            Self::Overlay(overlay) => ObjectKey::Overlay {
                name: overlay.name.clone(),
            },
            Self::Node(node) => ObjectKey::Node {
                name: node.name.clone(),
            },
            Self::SecurityGroup(group) => ObjectKey::SecurityGroup {
                name: group.name.clone(),
            },
            Self::Endpoint(endpoint) => ObjectKey::Endpoint {
                node: endpoint.node.clone(),
                id: endpoint.id.clone(),
            },
            Self::EndpointsComplete { node } => ObjectKey::EndpointsComplete { node: node.clone() },
            Self::ServiceSettings(_) => ObjectKey::ServiceSettings,
            Self::Service(service) => ObjectKey::Service {
                service: service.service.clone(),
            },
            Self::TaskName(name) => ObjectKey::TaskName {
                name: name.name.clone(),
            },
            Self::ServicesComplete => ObjectKey::ServicesComplete,
            Self::Unknown => ObjectKey::Unknown,
        }
    }
}

/// What all overlays share: the addresses of the nodes' VXLAN tunnel endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Underlay {
    /// The subnet of the endpoints' IPv4 addresses.
    pub vtep_subnet: Ipv4Net,
    /// The subnet of the endpoints' IPv6 addresses, if an overlay has an IPv6 subnet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vtep_subnet6: Option<Ipv6Net>,
    /// The UDP port of VXLAN.
    pub vxlan_port: u16,
}

/// An overlay network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Overlay {
    /// The name that frameworks use: 1 to 13 characters.
    pub name: String,
    /// The VXLAN network identifier; distinct for each overlay unless they share one device.
    pub vni: u32,
    /// The IPv4 subnet of all nodes together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet: Option<Ipv4Net>,
    /// The IPv6 subnet of all nodes together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet6: Option<Ipv6Net>,
    /// The MTU of the containers' interfaces, in bytes. Without it each node computes its own from
    /// its uplink.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Whether containers may be launched on it. What runs keeps its network.
    pub enabled: bool,
    /// What reaches its containers besides members of their groups; none if it does not isolate groups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<Admission>,
    /// Whether containers of other overlays cannot reach its containers.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub isolated: bool,
    /// Whether nodes borrow small blocks of it instead of having a subnet each.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lends_blocks: bool,
}

impl Overlay {
    /// The subnets of both families.
    pub fn subnets(&self) -> impl Iterator<Item = IpNet> + '_ {
        let v4 = self.subnet.map(IpNet::V4);
        v4.into_iter().chain(self.subnet6.map(IpNet::V6))
    }
}

/// A node, and what it was given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Node {
    /// Its name: the key of its allocations.
    pub name: String,
    /// Its address in the underlay, which other nodes send VXLAN packets to.
    pub address: IpAddr,
    /// Its tunnel endpoint.
    pub vtep: Vtep,
    /// Its subnets, one entry for each overlay in which it has one, ordered by the overlay's name.
    pub subnets: Vec<NodeSubnets>,
}

/// The VXLAN tunnel endpoint of a node, the same for all overlays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Vtep {
    /// Its IPv4 address, of the subnet of [`Underlay`].
    pub address: Ipv4Addr,
    /// Its IPv6 address, if there is an IPv6 subnet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address6: Option<Ipv6Addr>,
    /// Its MAC address.
    pub mac: Mac,
}

/// The subnets of a node in one overlay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NodeSubnets {
    /// The overlay's name.
    pub overlay: String,
    /// The IPv4 subnet. [`halves`] divides it between Mesos and Docker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet: Option<Ipv4Net>,
    /// The IPv6 subnet. [`halves`] divides it between Mesos and Docker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet6: Option<Ipv6Net>,
    /// The blocks of both families that it has borrowed of an overlay that lends blocks. They are for
    /// containers of Mesos as a whole.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blocks: Vec<IpNet>,
    /// How often the managers have taken blocks back from it. A node gives blocks back once for each
    /// number, so that a report which arrives late takes nothing.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub returned: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl NodeSubnets {
    /// The subnets and blocks of both families.
    pub fn subnets(&self) -> impl Iterator<Item = IpNet> + '_ {
        let v4 = self.subnet.map(IpNet::V4);
        let v6 = self.subnet6.map(IpNet::V6);
        v4.into_iter().chain(v6).chain(self.blocks.iter().copied())
    }
}

/// The halves of a node's subnet: the lower one is for containers of Mesos, the upper one for those
/// of Docker. `None` for a subnet that cannot be divided.
#[must_use]
pub fn halves(subnet: IpNet) -> Option<(IpNet, IpNet)> {
    let prefix = subnet.prefix_len() + 1;
    let mut halves = match subnet {
        IpNet::V4(net) => net.subnets(prefix).ok().map(ipnet::IpSubnets::from),
        IpNet::V6(net) => net.subnets(prefix).ok().map(ipnet::IpSubnets::from),
    }?;
    Some((halves.next()?, halves.next()?))
}

/// How many addresses of a block are for containers. The first one is that of the bridge; that of the
/// block itself and, in IPv4, the last one are nobody's.
#[must_use]
pub fn block_capacity(block: IpNet) -> u32 {
    let bits = block.max_prefix_len() - block.prefix_len();
    let not_assigned = if block.addr().is_ipv4() { 3 } else { 2 };
    let addresses = 1_u32.checked_shl(bits.into()).unwrap_or(u32::MAX);
    addresses.saturating_sub(not_assigned)
}
