//! What must be allowed on this host: a pure function of its endpoints and of the cluster's state.
//!
//! Invariants: a container of another host is a member only with addresses of that host's subnets, in
//! overlays that isolate groups. What this host knows of its own containers comes from its checkpoints,
//! never from the managers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use contrail_mesos::endpoints::LocalEndpoint;
use contrail_mesos::net::nft::groups::{
    ContainerRules, GroupPolicy, GuardedPort, IsolatedOverlay, MemberSet, ProtectedAddress,
};
use contrail_mesos_api::cluster::{IngressRule, Membership, Node, NodeSubnets, Overlay, halves};
use contrail_mesos_api::text::Quoted;
use ipnet::IpNet;

use crate::cluster_state::ClusterState;
use crate::overlay::device_name;

/// What must be allowed, and what is wrong.
pub(super) fn desired(
    cluster: Option<&ClusterState>,
    endpoints: &[LocalEndpoint],
) -> (GroupPolicy, Vec<String>) {
    let mut policy = GroupPolicy::default();
    let mut problems = Vec::new();
    let overlays = || {
        cluster
            .into_iter()
            .flat_map(|cluster| cluster.overlays.values())
    };
    let isolates = |overlay: &Overlay| overlay.groups.is_some() || overlay.isolated;
    // A host without such containers keeps its own from using the addresses of others.
    if endpoints.is_empty() && !overlays().any(isolates) {
        return (policy, problems);
    }
    policy.protected = endpoints
        .iter()
        .flat_map(|endpoint| &endpoint.bridge_addresses)
        .map(IpNet::trunc)
        .collect();
    policy.isolating = overlays()
        .filter(|overlay| overlay.groups.is_some())
        .flat_map(Overlay::subnets)
        .map(|subnet| subnet.trunc())
        .chain(policy.protected.iter().copied())
        .collect();
    policy.overlays = overlays()
        .flat_map(Overlay::subnets)
        .map(|subnet| subnet.trunc())
        .collect();
    policy.tunnels = overlays().map(|overlay| device_name(overlay.vni)).collect();
    policy.guarded = policy.protected.union(&policy.overlays).copied().collect();
    let bridges = endpoints.iter().flat_map(|one| &one.bridge_addresses);
    policy.nodes = bridges.map(IpNet::addr).collect();
    if let Some(cluster) = cluster {
        let underlay = cluster.underlay.iter();
        policy.guarded.extend(underlay.flat_map(|underlay| {
            let v4 = std::iter::once(IpNet::V4(underlay.vtep_subnet.trunc()));
            v4.chain(
                underlay
                    .vtep_subnet6
                    .map(|subnet| IpNet::V6(subnet.trunc())),
            )
        }));
        policy
            .nodes
            .extend(cluster.nodes.values().flat_map(node_addresses));
        policy.isolated = isolated_overlays(cluster);
    }
    add_containers(&mut policy, cluster, endpoints, &mut problems);
    add_members(&mut policy, cluster, endpoints, &mut problems);
    problems.sort();
    problems.dedup();
    (policy, problems)
}

/// The addresses of a node in the overlays: its tunnel endpoint, and those of its bridges.
fn node_addresses(node: &Node) -> impl Iterator<Item = IpAddr> + '_ {
    let v6 = node.vtep.address6.map(IpAddr::V6);
    let endpoint = std::iter::once(IpAddr::V4(node.vtep.address)).chain(v6);
    endpoint.chain(node.subnets.iter().flat_map(bridge_addresses))
}

/// The addresses of a node's bridges: the first one of each half of its subnet, and of each block.
fn bridge_addresses(subnets: &NodeSubnets) -> impl Iterator<Item = IpAddr> + '_ {
    let v4 = subnets.subnet.map(IpNet::V4);
    let divided = v4.into_iter().chain(subnets.subnet6.map(IpNet::V6));
    let halves = divided.filter_map(halves);
    let of_halves = halves.flat_map(|(lower, upper)| [first_host(lower), first_host(upper)]);
    of_halves.chain(subnets.blocks.iter().copied().map(first_host))
}

/// The first address after that of the subnet itself.
fn first_host(subnet: IpNet) -> IpAddr {
    match subnet {
        IpNet::V4(net) => Ipv4Addr::from(u32::from(net.network()) | 1).into(),
        IpNet::V6(net) => Ipv6Addr::from(u128::from(net.network()) | 1).into(),
    }
}

fn isolated_overlays(cluster: &ClusterState) -> BTreeSet<IsolatedOverlay> {
    let Some(own) = cluster.own_node() else {
        return BTreeSet::new();
    };
    let overlays = cluster.overlays.values().filter(|overlay| overlay.isolated);
    overlays
        .flat_map(|overlay| {
            let given = own
                .subnets
                .iter()
                .filter(|subnets| subnets.overlay == overlay.name);
            let local = given.flat_map(NodeSubnets::subnets);
            local.filter_map(|local| {
                let subnet = overlay.subnets().find(|subnet| subnet.contains(&local))?;
                Some(IsolatedOverlay {
                    name: overlay.name.clone(),
                    subnet: subnet.trunc(),
                    local_subnet: local.trunc(),
                })
            })
        })
        .collect()
}

fn add_containers(
    policy: &mut GroupPolicy,
    cluster: Option<&ClusterState>,
    endpoints: &[LocalEndpoint],
    problems: &mut Vec<String>,
) {
    for endpoint in endpoints {
        // Its container has ended: another one has its addresses, and perhaps its interface's name.
        if !endpoint.addresses.is_empty() {
            policy.ports.insert(
                endpoint.host_interface.clone(),
                GuardedPort {
                    mac: endpoint.mac,
                    addresses: endpoint.addresses.iter().copied().collect(),
                },
            );
        }
        // Nothing reaches it, but its addresses are its own all the same.
        let Some(allowed) = &endpoint.policy else {
            continue;
        };
        let admission = allowed.admission;
        let membership = &allowed.membership;
        let sources = if membership.is_empty() {
            [MemberSet::Ungrouped].into()
        } else {
            let groups = membership.groups.iter().cloned();
            groups.map(MemberSet::Group).collect()
        };
        let mut rules = BTreeSet::new();
        for name in &membership.security_groups {
            match cluster.and_then(|cluster| cluster.security_groups.get(name)) {
                Some(group) => rules.extend(group.rules.iter().cloned()),
                None => problems.push(format!(
                    "the managers have no security group {}, which the container {} has on the network {}: its rules allow nothing; add it to the managers' configuration",
                    quoted(name),
                    quoted(&endpoint.container.to_string()),
                    quoted(&endpoint.network)
                )),
            }
        }
        problems.extend(rules.iter().filter_map(useless_rule));
        let rules = ContainerRules {
            sources,
            rules,
            admits_nodes: endpoint.overlay.is_some() && admission.hosts,
            admits_mapped_ports: admission.mapped_ports,
        };
        for address in &endpoint.addresses {
            policy.containers.insert(
                *address,
                ProtectedAddress {
                    rules: rules.clone(),
                    admits_own_host: admission.hosts,
                },
            );
        }
    }
}

/// Why a rule allows nothing, if it does not.
fn useless_rule(rule: &IngressRule) -> Option<String> {
    const WITH_PORTS: [u8; 3] = [6, 17, 132];
    let protocol = rule.protocol.filter(|_| rule.ports.is_some())?;
    (!WITH_PORTS.contains(&protocol)).then(|| {
        format!(
            "a rule of a security group names ports of the protocol {protocol}, which has none, so it allows nothing; correct it in the managers' configuration"
        )
    })
}

/// The sets that a group's name is needed for.
#[derive(Clone, Copy, Default)]
struct NeededSets {
    group: bool,
    named: bool,
}

fn add_members(
    policy: &mut GroupPolicy,
    cluster: Option<&ClusterState>,
    endpoints: &[LocalEndpoint],
    problems: &mut Vec<String>,
) {
    let needed: BTreeSet<MemberSet> = policy
        .containers
        .values()
        .flat_map(|container| container.rules.member_sets())
        .collect();
    let mut by_name: HashMap<&str, NeededSets> = HashMap::new();
    for set in &needed {
        match set {
            MemberSet::Group(name) => by_name.entry(name).or_default().group = true,
            MemberSet::Named(name) => by_name.entry(name).or_default().named = true,
            MemberSet::Ungrouped => {}
        }
    }
    let mut members: BTreeMap<MemberSet, BTreeSet<IpAddr>> = needed
        .iter()
        .map(|set| (set.clone(), BTreeSet::new()))
        .collect();
    let mut add = |membership: &Membership, addresses: &[IpAddr]| {
        let mut add_to = |set: MemberSet| {
            if let Some(members) = members.get_mut(&set) {
                members.extend(addresses);
            }
        };
        if membership.is_empty() {
            add_to(MemberSet::Ungrouped);
        }
        for name in &membership.groups {
            let Some(needed) = by_name.get(name.as_str()) else {
                continue;
            };
            if needed.group {
                add_to(MemberSet::Group(name.clone()));
            }
            if needed.named {
                add_to(MemberSet::Named(name.clone()));
            }
        }
        for name in &membership.security_groups {
            if by_name
                .get(name.as_str())
                .is_some_and(|needed| needed.named)
            {
                add_to(MemberSet::Named(name.clone()));
            }
        }
    };
    for endpoint in endpoints {
        if let Some(allowed) = &endpoint.policy {
            add(&allowed.membership, &endpoint.addresses);
        }
    }
    if let Some(cluster) = cluster {
        add_remote_members(cluster, add, problems);
    }
    policy.members = members;
}

fn add_remote_members(
    cluster: &ClusterState,
    mut add: impl FnMut(&Membership, &[IpAddr]),
    problems: &mut Vec<String>,
) {
    let remote = cluster
        .endpoints
        .iter()
        .filter(|(node, _)| **node != cluster.node);
    for (name, endpoints) in remote {
        let Some(node) = cluster.nodes.get(name) else {
            continue;
        };
        let isolates = |subnets: &&NodeSubnets| {
            let overlay = cluster.overlays.get(&subnets.overlay);
            overlay.is_some_and(|overlay| overlay.groups.is_some())
        };
        let subnets: Vec<IpNet> = node
            .subnets
            .iter()
            .filter(isolates)
            .flat_map(NodeSubnets::subnets)
            .collect();
        let all: Vec<IpNet> = node.subnets.iter().flat_map(NodeSubnets::subnets).collect();
        let bridges: Vec<IpAddr> = node.subnets.iter().flat_map(bridge_addresses).collect();
        let mut false_addresses = 0_usize;
        for endpoint in endpoints.values() {
            let has = |nets: &[IpNet], address: &IpAddr| {
                nets.iter().any(|net| net.contains(address)) && !bridges.contains(address)
            };
            let addresses: Vec<IpAddr> = endpoint
                .addresses
                .iter()
                .copied()
                .filter(|address| has(&subnets, address))
                .collect();
            let others = endpoint.addresses.iter();
            false_addresses += others.filter(|address| !has(&all, address)).count();
            add(&endpoint.membership, &addresses);
        }
        if false_addresses > 0 {
            problems.push(format!(
                "{false_addresses} addresses of containers of the node {} are not of its subnets, so they are in no group; see the problems of that node on the managers' page",
                quoted(name)
            ));
        }
    }
}

fn quoted(name: &str) -> Quoted<'_> {
    Quoted(name.as_bytes())
}

#[cfg(test)]
mod tests;
