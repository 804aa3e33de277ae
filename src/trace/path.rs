//! What was found on the way of a packet: plain values, from which `decide` says what happens.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::net::listeners::{Transport, WaitingSocket};
use crate::net::nft::groups::{ContainerRules, EnforcedPolicy, MemberSet};
use crate::net::nft::verdict::{FirewallVerdict, PacketHook};
use crate::net::route_answer::RouteRefusal;

/// The way of a packet.
#[derive(Clone, Debug)]
pub struct Path {
    /// Where it starts.
    pub source: SourceSide,
    /// The transport protocol.
    pub transport: Transport,
    /// The destination port.
    pub port: u16,
    /// The destination address.
    pub destination: IpAddr,
    /// The service that has the destination, if one has.
    pub service: Option<ServiceFacts>,
    /// The mapped port that the packet is for, if it is for one.
    pub mapping: Option<MappingFacts>,
    /// How full the host's table of flows is.
    pub flows: FlowsFacts,
    /// Where it goes: one way for each backend of a service, else one.
    pub branches: Vec<Branch>,
}

/// Where a packet starts.
#[derive(Clone, Debug)]
pub enum SourceSide {
    /// In a container of this host.
    Container(Box<ContainerFacts>),
    /// On this host.
    Host,
    /// At another address, and comes in by this interface.
    Outside {
        /// The interface of the route back; none if there is none.
        interface: Option<String>,
    },
}

/// A container's side of a network.
#[derive(Clone, Debug, Default)]
pub struct ContainerFacts {
    /// The container.
    pub name: String,
    /// The network.
    pub network: String,
    /// Its interface.
    pub interface: String,
    /// Whether its attach is complete.
    pub is_attached: bool,
    /// Why its namespace cannot be entered, if it cannot.
    pub namespace_error: Option<String>,
    /// Whether the interface is up; none if it is gone.
    pub is_up: Option<bool>,
    /// The addresses that the interface lacks.
    pub missing_addresses: Vec<IpNet>,
    /// The way to the other side.
    pub route: Option<Routing>,
    /// The host's end.
    pub host_end: Option<HostEnd>,
    /// Whether Contrail's vRouter carries its packets.
    pub vrouter: Option<VrouterFacts>,
}

/// The host's end of a container's interface on a bridge.
#[derive(Clone, Debug, Default)]
pub struct HostEnd {
    /// The interface.
    pub interface: String,
    /// Whether it is up; none if it is gone.
    pub is_up: Option<bool>,
    /// Whether it is a port of the bridge.
    pub is_port: bool,
    /// The bridge.
    pub bridge: String,
    /// Whether the bridge is up; none if it is gone.
    pub is_bridge_up: Option<bool>,
    /// The addresses of the bridge that are missing.
    pub missing_gateways: Vec<IpNet>,
}

/// What the vRouter agent says of a container's interface.
#[derive(Clone, Debug, Default)]
pub struct VrouterFacts {
    /// The virtual network, as far as it is known.
    pub virtual_network: Option<String>,
    /// Whether the agent has the interface, or why it does not answer.
    pub port: Option<Result<bool, String>>,
}

/// The way that a namespace's routes give a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Routing {
    /// It stays in the namespace.
    Local,
    /// It leaves by an interface.
    Leaves {
        /// The interface.
        interface: String,
        /// The next hop; none if the destination is on the link.
        gateway: Option<IpAddr>,
        /// The source that the kernel chooses.
        source: Option<IpAddr>,
    },
    /// It goes nowhere.
    Refused(RouteRefusal),
}

/// A service at the destination.
#[derive(Clone, Debug)]
pub struct ServiceFacts {
    /// Its name.
    pub name: String,
    /// Whether this host's rules have it.
    pub is_programmed: bool,
    /// The backends to which this host sends new connections.
    pub backends: Vec<SocketAddr>,
    /// Those that get none, with what is known of them.
    pub draining: Vec<String>,
}

/// A port of the host that is mapped to a container.
#[derive(Clone, Debug)]
pub struct MappingFacts {
    /// The container, if one of this host has such a mapping.
    pub container: Option<String>,
    /// Where the rules send the packet; none if they lack the mapping.
    pub target: Option<SocketAddr>,
}

/// How full the table of flows is.
#[derive(Clone, Copy, Debug, Default)]
pub struct FlowsFacts {
    /// The flows.
    pub flows: u64,
    /// The most that there may be; 0 if nothing tracks flows.
    pub limit: u64,
}

/// One way from the host on.
#[derive(Clone, Debug)]
pub struct Branch {
    /// Where the packet is sent, after all translations.
    pub destination: SocketAddr,
    /// Its source.
    pub source: Option<IpAddr>,
    /// How it crosses the host.
    pub crossing: Crossing,
    /// Where it arrives.
    pub target: TargetSide,
    /// What groups say; none if no policy is for the destination.
    pub policy: Option<PolicyFacts>,
}

/// How a packet crosses the host.
#[derive(Clone, Debug)]
pub enum Crossing {
    /// It never leaves the container.
    None,
    /// It is forwarded by a bridge alone.
    Switched {
        /// The bridge.
        bridge: String,
        /// Whether both ports are isolated from each other.
        is_isolated: bool,
        /// What other rules do with it, if the bridge shows its packets to them.
        firewall: Option<FirewallVerdict>,
    },
    /// The host routes it.
    Routed(Box<RoutedFacts>),
    /// The vRouter carries it.
    Vrouter,
}

/// A packet that the host routes.
#[derive(Clone, Debug)]
pub struct RoutedFacts {
    /// The interface by which it comes in; none for one of the host itself.
    pub input: Option<String>,
    /// Whether the host forwards packets of the family from there.
    pub forwards: bool,
    /// The setting that says so.
    pub forwarding_setting: String,
    /// The route.
    pub route: Routing,
    /// The hook of other rules that it passes.
    pub hook: PacketHook,
    /// What they do with it.
    pub firewall: FirewallVerdict,
    /// Whether the source is translated to the host's; none if it need not be.
    pub masquerade: Option<bool>,
}

/// Where a packet arrives.
#[derive(Clone, Debug)]
pub enum TargetSide {
    /// In a container of this host.
    Container {
        /// The container.
        facts: Box<ContainerFacts>,
        /// The sockets there; none if its namespace cannot be entered.
        sockets: Option<SocketFacts>,
    },
    /// On this host.
    Host(SocketFacts),
    /// On another node.
    Node(NodeFacts),
    /// At an address of a network of this host that no container has.
    Nobody {
        /// The network.
        network: String,
    },
    /// Somewhere else.
    Elsewhere,
}

/// The sockets of a namespace that wait on the port.
#[derive(Clone, Debug, Default)]
pub struct SocketFacts {
    /// The sockets.
    pub waiting: Vec<WaitingSocket>,
    /// What rules of the namespace do with the packet.
    pub firewall: FirewallVerdict,
}

/// A container of another node.
#[derive(Clone, Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "facts that do not depend on each other"
)]
pub struct NodeFacts {
    /// The node.
    pub node: String,
    /// Its address.
    pub address: Option<IpAddr>,
    /// The overlay.
    pub overlay: String,
    /// The container, if the managers know it.
    pub container: Option<String>,
    /// Whether the VXLAN device is up; none if there is none.
    pub is_device_up: Option<bool>,
    /// The VXLAN device.
    pub device: String,
    /// Whether the route to the node's subnet leads to its tunnel endpoint.
    pub has_route: bool,
    /// Whether the endpoint's MAC address is known.
    pub has_neighbour: bool,
    /// Whether frames to it are sent to the node.
    pub has_forwarding_entry: bool,
    /// Whether this host has a route to the node.
    pub reaches_node: bool,
    /// The command that continues there.
    pub command: String,
}

/// What decides whether a packet may reach a container.
#[derive(Clone, Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "facts that do not depend on each other"
)]
pub struct PolicyFacts {
    /// What reaches the container, as its checkpoint and the managers have it.
    pub rules: ContainerRules,
    /// The sets of sources that should have the source.
    pub expected: BTreeSet<MemberSet>,
    /// What the kernel has; none on another node.
    pub enforced: Option<EnforcedPolicy>,
    /// Whether the packet comes from the container's own host.
    pub is_from_host: bool,
    /// Whether the container admits its own host.
    pub admits_own_host: bool,
    /// Whether the packet's destination was translated.
    pub is_translated: bool,
    /// Whether the source is an address that its container does not have.
    pub is_spoofed: bool,
    /// The isolated overlay of the destination, if the source is on another one.
    pub isolated_overlay: Option<String>,
    /// Whether the destination's network isolates groups.
    pub isolates_groups: bool,
    /// The groups of the source, as far as they are known.
    pub source_groups: Option<Vec<String>>,
    /// The groups of the destination.
    pub destination_groups: Vec<String>,
    /// The security groups of the destination that the managers have no rules for.
    pub unknown_security_groups: Vec<String>,
}
