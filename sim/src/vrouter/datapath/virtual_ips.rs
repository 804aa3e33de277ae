//! Addresses that stand for others inside of virtual networks: floating IPs, and link-local services.
//!
//! A floating IP is reached by the interfaces of its own network, and of those that policies connect
//! with it. Each host answers for it itself, and balances the connections of its own interfaces over
//! the interfaces of all hosts. A link-local service is reached from every network.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};

use uuid::Uuid;

use super::access::{self, Verdict};
use super::plan::{FABRIC_NETWORK, FloatingIp, Plan, Tap};
use super::rules::{destinations, emit, emit_turns, family, quoted, set, steps};
use crate::vrouter::config::{Config, Object};

/// The protocols of link-local services.
const LINK_LOCAL_PROTOCOLS: [u8; 2] = [6, 17];

/// A floating IP inside of virtual networks.
#[derive(Debug)]
pub(super) struct VirtualIp {
    /// Its own network.
    pub(super) network: Uuid,
    /// The networks whose interfaces reach it, with the verdicts of the policies of both networks; none
    /// for its own network.
    pub(super) clients: BTreeMap<Uuid, Option<[Vec<Verdict>; 2]>>,
    /// The interfaces behind it on all hosts, with their networks.
    pub(super) behind: BTreeSet<(Uuid, FloatingIp)>,
}

/// A link-local service: where it is.
#[derive(Debug)]
pub(super) struct LinkLocalService {
    pub(super) servers: BTreeSet<Ipv4Addr>,
    pub(super) port: u16,
}

/// The interface behind a floating IP with this address; none if it has no address of that family.
pub(super) fn behind(
    config: &Config,
    interface: Uuid,
    object: &Object,
    outer: IpAddr,
) -> Option<FloatingIp> {
    let addresses = config.addresses(interface);
    let mut own = addresses
        .iter()
        .copied()
        .filter(|own| own.is_ipv4() == outer.is_ipv4());
    let fixed = object
        .address("floating_ip_fixed_ip_address")
        .filter(|fixed| addresses.contains(fixed));
    let ports = ports(object);
    let direction = object.field("floating_ip_traffic_direction").as_str();
    Some(FloatingIp {
        fixed: fixed.or_else(|| own.next())?,
        outgoing: ports.is_none() && direction != Some("ingress"),
        ports,
    })
}

fn ports(floating: &Object) -> Option<Vec<(u8, u16, u16)>> {
    if floating.field("floating_ip_port_mappings_enable") != true {
        return None;
    }
    let mappings = floating.field("floating_ip_port_mappings");
    let mappings = mappings["port_mappings"].as_array().into_iter().flatten();
    let ports = mappings.filter_map(|mapping| {
        let protocol = match mapping["protocol"].as_str()?.to_lowercase().as_str() {
            "tcp" => 6,
            "udp" => 17,
            _ => return None,
        };
        let port = |name: &str| u16::try_from(mapping[name].as_u64()?).ok();
        Some((protocol, port("src_port")?, port("dst_port")?))
    });
    Some(ports.collect())
}

/// Whether a floating IP is below an instance-ip: it is an address of services inside of networks.
pub(super) fn is_internal(config: &Config, object: &Object) -> bool {
    let parent = object.parent.and_then(|parent| config.get(parent));
    parent.is_none_or(|parent| parent.kind == "instance-ip")
}

/// The network that has the address.
fn network_of<'a>(config: &'a Config, object: &Object) -> Option<&'a Object> {
    let parent = config.get(object.parent?)?;
    match parent.kind.as_str() {
        "instance-ip" => config.network(parent),
        "floating-ip-pool" => config.get(parent.parent?),
        _ => None,
    }
}

/// The floating IPs that some network of this host may have to do with.
pub(super) fn virtual_ips(
    config: &Config,
    taps: &BTreeMap<String, Tap>,
    places: &BTreeMap<Uuid, IpAddr>,
) -> BTreeMap<IpAddr, VirtualIp> {
    let local: BTreeSet<Uuid> = taps.values().map(|tap| tap.interface).collect();
    let is_up = |interface: &Object| {
        let mut machines = config.targets(interface, "virtual-machine");
        local.contains(&interface.uuid)
            || machines.any(|(machine, _)| places.contains_key(&machine.uuid))
    };
    let mut clients_of = BTreeMap::new();
    let mut virtual_ips = BTreeMap::new();
    for object in config.of_kind("floating-ip") {
        let Some(outer) = object.address("floating_ip_address") else {
            continue;
        };
        let Some(network) = network_of(config, object) else {
            continue;
        };
        if object.field("floating_ip_traffic_direction") == "egress" {
            continue;
        }
        let interfaces = config.targets(object, "virtual-machine-interface");
        let behind = interfaces
            .filter(|(interface, _)| is_up(interface))
            .filter_map(|(interface, _)| {
                let network = config.network(interface)?;
                Some((network.uuid, behind(config, interface.uuid, object, outer)?))
            });
        let clients = clients_of
            .entry(network.uuid)
            .or_insert_with(|| clients(config, network));
        let vip = VirtualIp {
            network: network.uuid,
            clients: clients.clone(),
            behind: behind.collect(),
        };
        virtual_ips.entry(outer).or_insert(vip);
    }
    virtual_ips
}

/// The networks with interfaces whose packets to a network pass.
fn clients(config: &Config, network: &Object) -> BTreeMap<Uuid, Option<[Vec<Verdict>; 2]>> {
    let has_interfaces = |of: &Object| {
        let mut interfaces = config.referrers(of.uuid, "virtual-machine-interface");
        interfaces.next().is_some()
    };
    let networks = config.of_kind("virtual-network");
    networks
        .filter(|other| other.name() != FABRIC_NETWORK && has_interfaces(other))
        .filter_map(|other| {
            if other.uuid == network.uuid {
                return Some((other.uuid, None));
            }
            let steps = [other, network].map(|of| access::policy(config, of, other, network));
            let is_connected = steps.iter().all(|step| !step.is_empty());
            is_connected.then_some((other.uuid, Some(steps)))
        })
        .collect()
}

/// The link-local services by their address and port.
pub(super) fn link_local(config: &Config) -> BTreeMap<(Ipv4Addr, u16), LinkLocalService> {
    let mut services = BTreeMap::new();
    for object in config.of_kind("global-vrouter-config") {
        let entries = &object.field("linklocal_services")["linklocal_service_entry"];
        for entry in entries.as_array().into_iter().flatten() {
            let port = |name: &str| u16::try_from(entry[name].as_u64()?).ok();
            let address = entry["linklocal_service_ip"].as_str();
            let (Some(address), Some(outer), Some(inner)) = (
                address.and_then(|text| text.parse::<Ipv4Addr>().ok()),
                port("linklocal_service_port"),
                port("ip_fabric_service_port"),
            ) else {
                continue;
            };
            let servers = entry["ip_fabric_service_ip"].as_array();
            let service = LinkLocalService {
                servers: servers
                    .into_iter()
                    .flatten()
                    .filter_map(|server| server.as_str()?.parse().ok())
                    .collect(),
                port: inner,
            };
            // The real agent keeps the first of two.
            services.entry((address, outer)).or_insert(service);
        }
    }
    services
}

impl Plan {
    /// What is behind a floating IP, as far as this host reaches it; none if no interface of this host
    /// may use it.
    fn reached_behind(&self, vip: &VirtualIp) -> Option<Vec<FloatingIp>> {
        let is_here = |uuid: &Uuid| {
            self.networks
                .get(uuid)
                .is_some_and(|network| network.routed)
        };
        vip.clients.keys().any(is_here).then(|| {
            let reached = vip.behind.iter().filter(|(network, _)| is_here(network));
            reached.map(|(_, behind)| behind.clone()).collect()
        })
    }
}

/// Which packets to floating IPs pass. It has to be decided before their destinations are replaced.
pub(super) fn filter(out: &mut String, plan: &Plan) {
    let mut jumps = vec![];
    for (number, (address, vip)) in plan.virtual_ips.iter().enumerate() {
        let Some(behind) = plan.reached_behind(vip) else {
            continue;
        };
        let mut from = String::new();
        for (client, (network, verdicts)) in vip.clients.iter().enumerate() {
            let Some(network) = plan.networks.get(network).filter(|network| network.routed) else {
                continue;
            };
            let bridge = quoted(&network.bridge);
            let Some([first, second]) = verdicts else {
                emit!(from, "iifname {bridge} accept");
                continue;
            };
            let name = format!("vip{number}client{client}");
            // A chain has to be defined before another jumps to it.
            steps(out, &format!("{name}b"), second, "accept");
            steps(out, &format!("{name}a"), first, &format!("goto {name}b"));
            emit!(from, "iifname {bridge} goto {name}a");
        }
        emit!(out, "chain vip{number}from {{\n{from}drop\n}}");
        emit!(out, "chain vip{number} {{");
        emit!(out, "ct state established,related accept");
        let mapped: BTreeSet<(u8, u16)> = behind
            .iter()
            .flat_map(|behind| behind.ports.iter().flatten())
            .map(|(protocol, port, _)| (*protocol, *port))
            .collect();
        for (protocol, port) in mapped {
            emit!(
                out,
                "meta l4proto {protocol} th dport {port} goto vip{number}from"
            );
        }
        if behind.iter().any(|behind| behind.ports.is_none()) {
            emit!(out, "goto vip{number}from");
        }
        emit!(out, "drop\n}}");
        let family = family(*address);
        jumps.push(format!(
            "iifname @bridges {family} daddr {address} goto vip{number}"
        ));
    }
    emit!(
        out,
        "chain virtual_ips {{\ntype filter hook prerouting priority -110"
    );
    for jump in jumps {
        emit!(out, "{jump}");
    }
    emit!(out, "}}");
    let addresses: BTreeSet<_> = plan
        .link_local
        .keys()
        .map(|(address, _)| *address)
        .collect();
    let addresses = addresses.iter().map(ToString::to_string);
    set(out, "link_local", "ipv4_addr", addresses);
}

/// The destinations of packets to floating IPs and to link-local services.
pub(super) fn nat(out: &mut String, plan: &Plan) {
    for (address, vip) in &plan.virtual_ips {
        let behind = plan.reached_behind(vip).unwrap_or_default();
        let to = format!("iifname @bridges {} daddr {address}", family(*address));
        destinations(out, &to, *address, &behind);
    }
    for ((address, port), service) in &plan.link_local {
        let servers: Vec<_> = service.servers.iter().copied().map(IpAddr::V4).collect();
        for protocol in LINK_LOCAL_PROTOCOLS {
            let from = format!(
                "iifname @bridges ip daddr {address} meta l4proto {protocol} th dport {port}"
            );
            emit_turns(out, "ip", &from, &servers, Some(service.port));
        }
    }
}

/// Servers of link-local services see the address of the host.
pub(super) fn masquerade(out: &mut String) {
    emit!(
        out,
        "oifname != @bridges ct original ip daddr @link_local masquerade"
    );
}
