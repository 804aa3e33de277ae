//! What there should be on this host, derived from the configuration and the ports.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::access::{self, Group, Verdict};
use super::virtual_ips::{self, LinkLocalService, VirtualIp};
use crate::vrouter::config::{Config, Object, prefix};
use crate::vrouter::options::{Forwarding, Options};
use crate::vrouter::rest;
use crate::vrouter::state::State;
use contrail_mesos_api::container::Mac;
use contrail_mesos_api::text::hex;

/// The network of the host itself.
pub(super) const FABRIC_NETWORK: &str = "default-domain:default-project:ip-fabric";

/// A MAC address that can be ordered.
pub(super) type MacOctets = [u8; 6];

/// A plan.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) networks: BTreeMap<Uuid, Network>,
    /// By name.
    pub(super) taps: BTreeMap<String, Tap>,
    pub(super) groups: BTreeMap<Uuid, Group>,
    /// The addresses of the interfaces of security groups, on all hosts.
    pub(super) members: BTreeMap<Uuid, BTreeSet<IpAddr>>,
    pub(super) connections: Vec<Connection>,
    /// What is reached through the uplink.
    pub(super) floating: BTreeMap<IpAddr, Vec<FloatingIp>>,
    /// What is reached from virtual networks.
    pub(super) virtual_ips: BTreeMap<IpAddr, VirtualIp>,
    pub(super) link_local: BTreeMap<(Ipv4Addr, u16), LinkLocalService>,
    /// The other hosts.
    pub(super) peers: BTreeSet<IpAddr>,
    pub(super) problems: BTreeSet<String>,
}

/// A virtual network with interfaces on this host, or one that a policy connects with such a
/// network.
#[derive(Debug)]
pub(super) struct Network {
    /// The VXLAN id, the same on all hosts.
    pub(super) number: u64,
    pub(super) bridge: String,
    pub(super) vxlan: String,
    /// Gateways and name servers.
    pub(super) local: BTreeSet<IpAddr>,
    /// The addresses of all interfaces.
    pub(super) hosts: BTreeMap<IpAddr, MacOctets>,
    /// The hosts of interfaces on other hosts.
    pub(super) remote: BTreeMap<MacOctets, IpAddr>,
    pub(super) routed: bool,
}

/// The host's end of an interface.
#[derive(Debug)]
pub(super) struct Tap {
    pub(super) interface: Uuid,
    pub(super) network: Uuid,
    pub(super) mac: MacOctets,
    /// The addresses that it may send from; none for any.
    pub(super) sources: Option<BTreeSet<IpNet>>,
    /// Its security groups; none for no restriction.
    pub(super) groups: Option<BTreeSet<Uuid>>,
}

/// From one network to another; none is the host and everything beyond it.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) from: Option<Uuid>,
    pub(super) to: Option<Uuid>,
    pub(super) steps: [Vec<Verdict>; 2],
}

/// The interface behind a floating IP.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FloatingIp {
    pub(super) fixed: IpAddr,
    /// Protocol, floating port and interface port; none for all traffic.
    pub(super) ports: Option<Vec<(u8, u16, u16)>>,
    /// Whether packets from the interface have the floating IP as their source.
    pub(super) outgoing: bool,
}

/// Derives the plan.
pub(super) fn plan(state: &State, options: &Options, forwarding: &Forwarding) -> Plan {
    let config = &state.config;
    let mut plan = Plan::default();
    for router in config.of_kind("virtual-router") {
        let address = router
            .field("virtual_router_ip_address")
            .as_str()
            .and_then(|address| address.parse::<IpAddr>().ok());
        plan.peers
            .extend(address.filter(|address| *address != options.address));
    }
    plan.add_taps(state, options, forwarding);
    let places = places(config, options);
    plan.virtual_ips = virtual_ips::virtual_ips(config, &plan.taps, &places);
    plan.link_local = virtual_ips::link_local(config);
    plan.add_networks(config, &places);
    plan.add_connections(config);
    plan.add_groups(config);
    plan.add_floating(config);
    plan
}

impl Plan {
    fn add_taps(&mut self, state: &State, options: &Options, forwarding: &Forwarding) {
        let config = &state.config;
        for ((_, machine, interface), port) in state.ports.all() {
            let desired = port.enabled && !port.is_remote() && port.machine == *machine;
            let Some(interface) = config.get(*interface).filter(|_| desired) else {
                continue;
            };
            let of_machine = config
                .targets(interface, "virtual-machine")
                .any(|(of, _)| of.uuid == *machine);
            if !of_machine || !rest::has_configuration(state, &options.name, *machine) {
                continue;
            }
            let Some(network) = config.network(interface) else {
                continue;
            };
            if !is_tap_name(&port.tap) || forwarding.uplink.as_ref() == Some(&port.tap) {
                self.problems.insert(format!(
                    "{:?} is not a valid tap name: the interface {} is not connected",
                    port.tap, interface.uuid
                ));
                continue;
            }
            let Some(mac) = mac_of(interface) else {
                let text = format!("{:?} is not a MAC address", interface.mac());
                self.problems
                    .insert(format!("the interface {}: {text}", interface.uuid));
                continue;
            };
            let tap = Tap {
                interface: interface.uuid,
                network: network.uuid,
                mac,
                sources: sources(config, interface),
                groups: groups(config, interface),
            };
            if self.taps.insert(port.tap.clone(), tap).is_some() {
                let problem = format!("{} is the tap of two interfaces", port.tap);
                self.problems.insert(problem);
            }
        }
    }

    fn add_networks(&mut self, config: &Config, places: &BTreeMap<Uuid, IpAddr>) {
        let mut desired: BTreeSet<_> = self.taps.values().map(|tap| tap.network).collect();
        let own = desired.clone();
        for network in config.of_kind("virtual-network") {
            let own = own.iter().filter_map(|uuid| config.get(*uuid));
            let near = own.filter(|own| own.uuid != network.uuid);
            if network.name() != FABRIC_NETWORK
                && near
                    .into_iter()
                    .any(|own| is_connected(config, own, network))
            {
                desired.insert(network.uuid);
            }
        }
        for vip in self.virtual_ips.values() {
            let clients = vip.clients.keys().copied();
            let behind = vip.behind.iter().map(|(network, _)| *network);
            // Its connections leave for the networks behind it, and the responses for those of clients.
            if clients.clone().any(|network| own.contains(&network)) {
                desired.extend(behind.clone());
            }
            if behind.clone().any(|network| own.contains(&network)) {
                desired.extend(clients);
            }
        }
        let mut found: Vec<_> = desired
            .into_iter()
            .filter_map(|uuid| config.get(uuid))
            .filter_map(|object| Some((number(object)?, object)))
            .collect();
        found.sort_by_key(|(number, _)| *number);
        let mut owners: BTreeMap<IpAddr, String> = BTreeMap::new();
        for (number, object) in found {
            let mut network = network(config, object, number, places);
            if own.contains(&object.uuid) {
                // Interfaces of its own network ask for it as for a neighbour.
                let vips = self.virtual_ips.iter();
                let vips = vips.filter(|(_, vip)| vip.network == object.uuid);
                network.local.extend(vips.map(|(address, _)| *address));
            }
            let used = network.hosts.keys().find_map(|address| owners.get(address));
            if let Some(other) = used {
                network.routed = false;
                let name = object.name();
                self.problems.insert(format!(
                    "{name} has an address that {other} also has: it is switched, not routed"
                ));
            } else {
                let addresses = network.hosts.keys();
                owners.extend(addresses.map(|address| (*address, object.name())));
            }
            self.networks.insert(object.uuid, network);
        }
    }

    fn add_connections(&mut self, config: &Config) {
        let mut ends: Vec<_> = self
            .networks
            .iter()
            .filter(|(_, network)| network.routed)
            .filter_map(|(uuid, _)| config.get(*uuid))
            .map(|object| (Some(object.uuid), object))
            .collect();
        let fabric = config
            .of_kind("virtual-network")
            .find(|network| network.name() == FABRIC_NETWORK);
        ends.extend(fabric.map(|fabric| (None, fabric)));
        for (from, from_object) in &ends {
            for (to, to_object) in &ends {
                if from == to || !is_connected(config, from_object, to_object) {
                    continue;
                }
                let steps = [from_object, to_object]
                    .map(|of| access::policy(config, of, from_object, to_object));
                let (from, to) = (*from, *to);
                self.connections.push(Connection { from, to, steps });
            }
        }
    }

    fn add_groups(&mut self, config: &Config) {
        let mut used = BTreeSet::new();
        for tap in self.taps.values() {
            used.extend(tap.groups.iter().flatten().copied());
        }
        for object in used.iter().filter_map(|uuid| config.get(*uuid)) {
            let group = access::group(config, object);
            for peer in &group.peers {
                let interfaces = config.referrers(*peer, "virtual-machine-interface");
                let addresses = interfaces.flat_map(|interface| config.addresses(interface.uuid));
                self.members.insert(*peer, addresses.collect());
            }
            self.groups.insert(object.uuid, group);
        }
    }

    fn add_floating(&mut self, config: &Config) {
        for tap in self.taps.values() {
            if !self
                .networks
                .get(&tap.network)
                .is_some_and(|network| network.routed)
            {
                continue;
            }
            for object in config.referrers(tap.interface, "floating-ip") {
                if virtual_ips::is_internal(config, object) {
                    continue;
                }
                let outer = object.address("floating_ip_address");
                let floating = outer.and_then(|outer| {
                    let behind = virtual_ips::behind(config, tap.interface, object, outer)?;
                    Some((outer, behind))
                });
                if let Some((outer, behind)) = floating {
                    self.floating.entry(outer).or_default().push(behind);
                }
            }
        }
        for behind in self.floating.values_mut() {
            behind.sort();
        }
    }
}

fn mac_of(interface: &Object) -> Option<MacOctets> {
    let mac = Mac::try_from(interface.mac()?.to_owned()).ok()?;
    Some(mac.0)
}

/// Whether a link of this name is ours.
pub(super) fn is_ours(name: &str) -> bool {
    ["cvrb", "cvrx"].into_iter().any(|prefix| {
        name.strip_prefix(prefix).is_some_and(|rest| {
            rest.len() == 10 && rest.bytes().all(|byte| byte.is_ascii_hexdigit())
        })
    })
}

/// A link name from the whole uuid, within the kernel's 15 bytes.
pub(super) fn hash(uuid: Uuid) -> String {
    let hash = Sha256::digest(uuid.as_bytes());
    hex(&hash[..5])
}

fn is_tap_name(name: &str) -> bool {
    let plain = |character: char| character.is_ascii_alphanumeric() || "-_.".contains(character);
    (1..=15).contains(&name.len())
        && name.chars().all(plain)
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && !["lo", "all", "default"].contains(&name)
        && !is_ours(name)
}

fn number(network: &Object) -> Option<u64> {
    // The VXLAN id has 24 bits.
    network
        .field("virtual_network_network_id")
        .as_u64()
        .filter(|number| (1..1 << 24).contains(number))
}

fn network(
    config: &Config,
    object: &Object,
    number: u64,
    places: &BTreeMap<Uuid, IpAddr>,
) -> Network {
    let hash = hash(object.uuid);
    let mut hosts = BTreeMap::new();
    let mut remote = BTreeMap::new();
    for interface in config.referrers(object.uuid, "virtual-machine-interface") {
        let Some(mac) = mac_of(interface) else {
            continue;
        };
        let addresses = config.addresses(interface.uuid);
        hosts.extend(addresses.into_iter().map(|address| (address, mac)));
        let mut machines = config.targets(interface, "virtual-machine");
        let place = machines.find_map(|(machine, _)| places.get(&machine.uuid));
        remote.extend(place.map(|place| (mac, *place)));
    }
    let subnets = config.subnets(object).into_iter();
    Network {
        number,
        bridge: format!("cvrb{hash}"),
        vxlan: format!("cvrx{hash}"),
        local: subnets
            .flat_map(|subnet| [subnet.gateway, subnet.dns])
            .flatten()
            .filter(|address| !hosts.contains_key(address))
            .collect(),
        hosts,
        remote,
        routed: true,
    }
}

/// The hosts of virtual machines on other hosts.
fn places(config: &Config, options: &Options) -> BTreeMap<Uuid, IpAddr> {
    let mut places = BTreeMap::new();
    for router in config.of_kind("virtual-router") {
        let address = router.field("virtual_router_ip_address").as_str();
        let Some(address) = address.and_then(|address| address.parse().ok()) else {
            continue;
        };
        let name = router.fq_name.last().map_or("", String::as_str);
        if address != options.address && name != options.name {
            let machines = config.machines(name).into_iter();
            places.extend(machines.map(|machine| (machine, address)));
        }
    }
    places
}

/// Whether the policies of both networks have rules for packets from one to the other.
fn is_connected(config: &Config, left: &Object, right: &Object) -> bool {
    [(left, right), (right, left)]
        .into_iter()
        .any(|(from, to)| {
            let mut both = [from, to].into_iter();
            both.all(|of| !access::policy(config, of, from, to).is_empty())
        })
}

fn groups(config: &Config, interface: &Object) -> Option<BTreeSet<Uuid>> {
    let groups: BTreeSet<_> = config
        .targets(interface, "security-group")
        .map(|(group, _)| group.uuid)
        .collect();
    (!groups.is_empty()).then_some(groups)
}

fn sources(config: &Config, interface: &Object) -> Option<BTreeSet<IpNet>> {
    if interface.field("port_security_enabled") == false {
        return None;
    }
    let own = config
        .addresses(interface.uuid)
        .into_iter()
        .map(IpNet::from);
    let pairs = interface.field("virtual_machine_interface_allowed_address_pairs");
    let pairs = pairs["allowed_address_pair"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|pair| prefix(&pair["ip"]));
    Some(own.chain(pairs).collect())
}
