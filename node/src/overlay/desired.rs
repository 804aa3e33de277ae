//! What this host must have for the overlays: a pure function of the cluster's state and of the
//! uplink.
//!
//! Invariants: an entry leads only to the node that was given its addresses. What contradicts
//! (a subnet outside of its overlay, one that two nodes have, a tunnel endpoint of another node) is
//! refused and named as a problem, and the rest goes on. No route covers an underlay address of any
//! node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use contrail_mesos::net::nft::sources::Source;
use contrail_mesos::net::vxlan::Tunnel;
use contrail_mesos_api::cluster::{Node, NodeSubnets, Overlay, Underlay};
use contrail_mesos_api::container::Mac;
use contrail_mesos_api::text::Quoted;
use ipnet::IpNet;

use crate::cluster_state::ClusterState;
use crate::uplink::{Uplink, vxlan_overhead};

/// The smallest MTU with IPv6.
const MIN_MTU_V6: u32 = 1280;
/// VXLAN network identifiers have 24 bits.
const MAX_VNI: u32 = (1 << 24) - 1;

/// What this host must have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct DesiredState {
    /// The VXLAN devices, by name.
    pub(super) devices: BTreeMap<String, Device>,
    /// The routes, by destination, which is without host bits.
    pub(super) routes: BTreeMap<IpNet, Route>,
    /// Who may send VXLAN packets to this host.
    pub(super) sources: BTreeSet<Source>,
    /// Whether there is IPv6 in an overlay.
    pub(super) has_v6: bool,
}

/// A VXLAN device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Device {
    /// Its tunnel.
    pub(super) tunnel: Tunnel,
    /// Its MAC address.
    pub(super) mac: Mac,
    /// Its MTU, in bytes.
    pub(super) mtu: u32,
    /// Its addresses, with the prefix of the subnet of all tunnel endpoints.
    pub(super) addresses: BTreeSet<IpNet>,
    /// The MAC addresses of the other nodes' tunnel endpoints, by their addresses.
    pub(super) neighbours: BTreeMap<IpAddr, Mac>,
    /// The underlay addresses of the other nodes, by the MAC addresses of their tunnel endpoints.
    pub(super) forwarding: BTreeMap<Mac6, IpAddr>,
}

/// The bytes of a MAC address, which have an order.
pub(super) type Mac6 = [u8; 6];

/// A route to a subnet of another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    /// The name of the device.
    pub(super) device: String,
    /// The other node's tunnel endpoint.
    pub(super) gateway: IpAddr,
    /// The node's name.
    pub(super) node: String,
    /// The overlay's name.
    pub(super) overlay: String,
}

/// Why nothing can be said about what this host must have: nothing is touched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum DesiredError {
    /// The managers have no overlays.
    #[error("the managers have no overlays")]
    NoUnderlay,
    /// This node is not registered yet.
    #[error("the node {} is not registered with the managers yet", Quoted(.0.as_bytes()))]
    NotRegistered(String),
    /// What the managers gave this node contradicts itself.
    #[error(
        "the managers gave this node {0}, so the overlays of this host are left as they are; remove the node from the managers, so that it gets others"
    )]
    Contradiction(String),
    /// No interface has the underlay address.
    #[error(
        "no interface of this host has {0}, its underlay address, so its overlays are left as they are; write the address that other nodes reach as address in [node], or give it to an interface"
    )]
    NoUplink(IpAddr),
    /// The underlay address is on the loopback interface.
    #[error(
        "{0}, the underlay address of this host, is on the interface {1}, which no packets of other hosts come in by, so its overlays are left as they are; write an address of the uplink as address in [node]"
    )]
    Loopback(IpAddr, String),
}

/// This node and what all overlays share.
pub(super) struct OwnNode<'a> {
    pub(super) node: &'a Node,
    pub(super) underlay: &'a Underlay,
}

impl<'a> OwnNode<'a> {
    /// What the state says of this node, if it is usable.
    pub(super) fn of(cluster: &'a ClusterState) -> Result<Self, DesiredError> {
        let underlay = cluster.underlay.as_ref().ok_or(DesiredError::NoUnderlay)?;
        let node = cluster
            .own_node()
            .ok_or_else(|| DesiredError::NotRegistered(cluster.node.clone()))?;
        if let Some(fault) = vtep_fault(node, underlay) {
            return Err(DesiredError::Contradiction(fault));
        }
        if !is_host_address(node.address) {
            let fault = format!("the underlay address {}", node.address);
            return Err(DesiredError::Contradiction(fault));
        }
        Ok(Self { node, underlay })
    }

    /// The MTU of the VXLAN devices.
    fn mtu(&self, uplink: &Uplink) -> u32 {
        uplink.mtu.saturating_sub(vxlan_overhead(self.node.address))
    }

    /// The addresses of this node's endpoint, with the prefixes of their subnets.
    fn vtep_addresses(&self) -> BTreeSet<IpNet> {
        let vtep = &self.node.vtep;
        let v4 = IpNet::new(vtep.address.into(), self.underlay.vtep_subnet.prefix_len());
        let v6 = vtep
            .address6
            .zip(self.underlay.vtep_subnet6)
            .map(|(address, subnet)| IpNet::new(address.into(), subnet.prefix_len()));
        // The lengths are those of subnets of the same families.
        v4.into_iter().chain(v6.and_then(Result::ok)).collect()
    }
}

/// The name of the device of a VXLAN network.
pub(crate) fn device_name(vni: u32) -> String {
    format!("vtep{vni}")
}

/// What this host must have, and what was refused.
pub(super) fn desired(
    cluster: &ClusterState,
    own: &OwnNode<'_>,
    uplink: &Uplink,
) -> (DesiredState, Vec<String>) {
    let mut problems = Vec::new();
    let overlays = usable_overlays(cluster, &mut problems);
    let mtu = own.mtu(uplink);
    let has_v6 = own.underlay.vtep_subnet6.is_some()
        && overlays.values().any(|overlay| overlay.subnet6.is_some());
    if has_v6 && mtu < MIN_MTU_V6 {
        problems.push(format!(
            "the MTU of the uplink {} is {}, so that of the overlays would be {mtu}: IPv6 needs {MIN_MTU_V6}; enlarge it",
            uplink.name, uplink.mtu
        ));
    }
    let remotes = usable_remotes(cluster, own, &mut problems);
    let mut desired = DesiredState {
        has_v6,
        ..DesiredState::default()
    };
    for overlay in overlays.values() {
        desired
            .devices
            .entry(device_name(overlay.vni))
            .or_insert_with(|| device(own, overlay.vni, mtu, &remotes));
    }
    desired.routes = routes(own, &overlays, &remotes, cluster, &mut problems);
    if !desired.devices.is_empty() {
        desired.sources = remotes
            .iter()
            .map(|remote| Source::Host(remote.address))
            .chain([
                Source::Port(own.underlay.vxlan_port),
                Source::Uplink(uplink.name.clone()),
            ])
            .collect();
    }
    problems.sort();
    problems.dedup();
    (desired, problems)
}

fn device(own: &OwnNode<'_>, vni: u32, mtu: u32, remotes: &[&Node]) -> Device {
    let neighbours = remotes.iter().flat_map(|remote| {
        let vtep = &remote.vtep;
        let v6 = vtep
            .address6
            .filter(|_| own.underlay.vtep_subnet6.is_some());
        let addresses = [Some(IpAddr::V4(vtep.address)), v6.map(IpAddr::V6)];
        addresses
            .into_iter()
            .flatten()
            .map(|address| (address, vtep.mac))
    });
    let forwarding = remotes
        .iter()
        .map(|remote| (remote.vtep.mac.0, remote.address));
    Device {
        tunnel: Tunnel {
            vni,
            local: own.node.address,
            port: own.underlay.vxlan_port,
        },
        mac: own.node.vtep.mac,
        mtu,
        addresses: own.vtep_addresses(),
        neighbours: neighbours.collect(),
        forwarding: forwarding.collect(),
    }
}

fn quoted(name: &str) -> Quoted<'_> {
    Quoted(name.as_bytes())
}

fn usable_overlays<'a>(
    cluster: &'a ClusterState,
    problems: &mut Vec<String>,
) -> BTreeMap<&'a str, &'a Overlay> {
    let mut usable = BTreeMap::new();
    for overlay in cluster.overlays.values() {
        if (1..=MAX_VNI).contains(&overlay.vni) {
            usable.insert(overlay.name.as_str(), overlay);
        } else {
            problems.push(format!(
                "the overlay {} has the VXLAN network identifier {}, which is not between 1 and {MAX_VNI}; it is left out",
                quoted(&overlay.name),
                overlay.vni
            ));
        }
    }
    usable
}

/// Whether an address can be that of one host.
fn is_host_address(address: IpAddr) -> bool {
    let is_broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    let is_mapped = matches!(address, IpAddr::V6(address) if address.to_ipv4_mapped().is_some());
    !(address.is_unspecified()
        || address.is_loopback()
        || address.is_multicast()
        || is_broadcast
        || is_mapped)
}

/// What is wrong with the tunnel endpoint of a node, as an object of a sentence.
fn vtep_fault(node: &Node, underlay: &Underlay) -> Option<String> {
    let vtep = &node.vtep;
    let subnet = underlay.vtep_subnet;
    let is_edge = subnet.prefix_len() < 31
        && (vtep.address == subnet.network() || vtep.address == subnet.broadcast());
    if !subnet.contains(&vtep.address) || is_edge {
        return Some(format!(
            "the tunnel endpoint {}, which is no address of a host in {subnet}",
            vtep.address
        ));
    }
    if let (Some(address), Some(subnet)) = (vtep.address6, underlay.vtep_subnet6)
        && (!subnet.contains(&address) || address == subnet.network())
    {
        return Some(format!(
            "the tunnel endpoint {address}, which is no address of a host in {subnet}"
        ));
    }
    let is_group = vtep.mac.0[0] & 1 != 0;
    if is_group || vtep.mac.0 == [0; 6] {
        return Some(format!(
            "the MAC address {}, which is not that of one host",
            vtep.mac
        ));
    }
    None
}

/// The other nodes that entries can lead to: each value is of one of them alone.
fn usable_remotes<'a>(
    cluster: &'a ClusterState,
    own: &OwnNode<'_>,
    problems: &mut Vec<String>,
) -> Vec<&'a Node> {
    let mut refused = BTreeSet::new();
    let mut holders: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for remote in cluster.remote_nodes() {
        let fault = if !is_host_address(remote.address) {
            Some(format!(
                "the underlay address {}, which is not that of another host",
                remote.address
            ))
        } else if remote.address.is_ipv4() != own.node.address.is_ipv4() {
            Some(format!(
                "the underlay address {}, which is not of the family of this host's, {}",
                remote.address, own.node.address
            ))
        } else if remote.address == own.node.address {
            Some(format!(
                "the underlay address of this host, {}",
                remote.address
            ))
        } else {
            vtep_fault(remote, own.underlay)
        };
        if let Some(fault) = fault {
            refused.insert(remote.name.as_str());
            problems.push(format!(
                "the node {} has {fault}; nothing is sent to it: correct its address, or remove the node from the managers",
                quoted(&remote.name)
            ));
        }
    }
    for node in cluster.nodes.values() {
        if refused.contains(node.name.as_str()) {
            continue;
        }
        let vtep = &node.vtep;
        let v6 = vtep.address6.map(|address| address.to_string());
        for value in [vtep.address.to_string(), vtep.mac.to_string()]
            .into_iter()
            .chain(v6)
        {
            holders.entry(value).or_default().push(&node.name);
        }
    }
    for (value, nodes) in &holders {
        if let [first, second, ..] = nodes.as_slice() {
            refused.extend(nodes);
            problems.push(format!(
                "the nodes {} and {} both have the tunnel endpoint {value}; nothing is sent to it: remove one of them from the managers",
                quoted(first),
                quoted(second)
            ));
        }
    }
    same_addresses(cluster, &refused, problems);
    cluster
        .remote_nodes()
        .filter(|remote| !refused.contains(remote.name.as_str()))
        .collect()
}

/// Names nodes with one underlay address, such as a host with a new name. It is no conflict of
/// entries: the host takes only what is for its tunnel endpoint.
fn same_addresses(cluster: &ClusterState, refused: &BTreeSet<&str>, problems: &mut Vec<String>) {
    let mut names: BTreeMap<IpAddr, &str> = BTreeMap::new();
    for remote in cluster.remote_nodes() {
        if refused.contains(remote.name.as_str()) {
            continue;
        }
        if let Some(other) = names.insert(remote.address, &remote.name) {
            problems.push(format!(
                "the nodes {} and {} both have the underlay address {}; remove the one that is gone from the managers",
                quoted(other),
                quoted(&remote.name),
                remote.address
            ));
        }
    }
}

/// A subnet that is routed to a node, if nothing speaks against it.
struct Candidate<'a> {
    subnet: IpNet,
    node: &'a Node,
    overlay: &'a Overlay,
    is_refused: bool,
}

fn routes(
    own: &OwnNode<'_>,
    overlays: &BTreeMap<&str, &Overlay>,
    remotes: &[&Node],
    cluster: &ClusterState,
    problems: &mut Vec<String>,
) -> BTreeMap<IpNet, Route> {
    let protected = ReservedAddresses::new(own, cluster);
    let mut candidates = Vec::new();
    for node in remotes {
        for subnets in &node.subnets {
            let Some(overlay) = overlays.get(subnets.overlay.as_str()) else {
                if !cluster.overlays.contains_key(&subnets.overlay) {
                    problems.push(format!(
                        "the node {} has a subnet in the overlay {}, which does not exist; there is no route to it",
                        quoted(&node.name),
                        quoted(&subnets.overlay)
                    ));
                }
                continue;
            };
            for subnet in subnets.subnets().map(|subnet| subnet.trunc()) {
                match protected.fault(subnet, overlay) {
                    Some(fault) => problems.push(refusal(subnet, node, overlay, &fault)),
                    None => candidates.push(Candidate {
                        subnet,
                        node,
                        overlay,
                        is_refused: false,
                    }),
                }
            }
        }
    }
    refuse_overlaps(&mut candidates, problems);
    let mut routes = BTreeMap::new();
    for candidate in candidates.iter().filter(|candidate| !candidate.is_refused) {
        let Candidate {
            subnet,
            node,
            overlay,
            ..
        } = candidate;
        let gateway = match subnet {
            IpNet::V4(_) => Some(node.vtep.address.into()),
            IpNet::V6(_) => node
                .vtep
                .address6
                .filter(|_| own.underlay.vtep_subnet6.is_some())
                .map(IpAddr::V6),
        };
        let Some(gateway) = gateway else {
            problems.push(refusal(
                *subnet,
                node,
                overlay,
                "the node has no IPv6 tunnel endpoint",
            ));
            continue;
        };
        let route = Route {
            device: device_name(overlay.vni),
            gateway,
            node: node.name.clone(),
            overlay: overlay.name.clone(),
        };
        routes.insert(*subnet, route);
    }
    routes
}

fn refusal(subnet: IpNet, node: &Node, overlay: &Overlay, fault: &str) -> String {
    format!(
        "there is no route to {subnet} of the node {} in the overlay {}: {fault}",
        quoted(&node.name),
        quoted(&overlay.name)
    )
}

/// What no route may take.
struct ReservedAddresses {
    own_subnets: Vec<IpNet>,
    vtep_subnets: Vec<IpNet>,
    /// The underlay addresses of all nodes.
    underlay: BTreeSet<IpAddr>,
}

impl ReservedAddresses {
    fn new(own: &OwnNode<'_>, cluster: &ClusterState) -> Self {
        let subnets = own.node.subnets.iter();
        let v6 = own.underlay.vtep_subnet6.map(IpNet::V6);
        Self {
            own_subnets: subnets.flat_map(NodeSubnets::subnets).collect(),
            vtep_subnets: [IpNet::V4(own.underlay.vtep_subnet)]
                .into_iter()
                .chain(v6)
                .collect(),
            underlay: cluster.nodes.values().map(|node| node.address).collect(),
        }
    }

    /// What speaks against a route to this subnet, which another node has.
    fn fault(&self, subnet: IpNet, overlay: &Overlay) -> Option<String> {
        if !overlay.subnets().any(|whole| whole.contains(&subnet)) {
            return Some("it is outside of the overlay's subnet".to_owned());
        }
        let overlapping = |others: &[IpNet]| {
            let mut others = others.iter();
            others.find(|other| overlaps(**other, subnet)).copied()
        };
        if let Some(other) = overlapping(&self.own_subnets) {
            return Some(format!("it overlaps with {other}, a subnet of this node"));
        }
        if let Some(other) = overlapping(&self.vtep_subnets) {
            return Some(format!(
                "it overlaps with {other}, the subnet of the tunnel endpoints"
            ));
        }
        let range = subnet.network()..=subnet.broadcast();
        self.underlay
            .range(range)
            .next()
            .map(|address| format!("it has {address} in it, the underlay address of a node"))
    }
}

fn overlaps(one: IpNet, other: IpNet) -> bool {
    one.contains(&other) || other.contains(&one)
}

/// Refuses the subnets that two nodes have, for both of them: nobody can tell which of them is
/// right.
fn refuse_overlaps(candidates: &mut [Candidate<'_>], problems: &mut Vec<String>) {
    // Of two prefixes that overlap, one contains the other, and so stands before it.
    candidates.sort_by_key(|candidate| (candidate.subnet.network(), candidate.subnet.prefix_len()));
    let mut widest = 0;
    for index in 1..candidates.len() {
        let (before, rest) = candidates.split_at_mut(index);
        let (Some(wide), Some(candidate)) = (before.get_mut(widest), rest.first_mut()) else {
            return;
        };
        if !wide.subnet.contains(&candidate.subnet) {
            widest = index;
            continue;
        }
        wide.is_refused = true;
        candidate.is_refused = true;
        problems.push(refusal(
            candidate.subnet,
            candidate.node,
            candidate.overlay,
            &format!(
                "it overlaps with {} of the node {} in the overlay {}, which is not routed either; remove one of them from the managers",
                wide.subnet,
                quoted(&wide.node.name),
                quoted(&wide.overlay.name)
            ),
        ));
    }
}

#[cfg(test)]
pub(crate) mod tests;
