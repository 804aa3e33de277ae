//! What the configured bridge networks have in common with the rest of the host: a subnet that the
//! host has already, or a bridge of another instance.
//!
//! A bridge of this instance and an operator's existing bridge are no conflicts for the network
//! whose configuration names them.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::path::Path;

use ipnet::IpNet;

use super::host::HostError;
use crate::config::{BridgeNetwork, Network, NetworkProvider};
use crate::net::links::{self, Link};
use crate::net::netlink::{NetlinkError, NetlinkSocket};
use crate::net::routes::{self, Route};
use crate::net::{addressing, sysctl};
use crate::provider::overlay::OverlayNetworks;
use crate::provider::ownership::{OwnerTag, is_program_label};
use crate::provider::{ProviderError, failed};

/// How serious a conflict is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConflictSeverity {
    /// Containers of the network cannot be launched.
    Refusal,
    /// The network works, but hides something from the host, or is limited.
    Warning,
}

/// A conflict between a configured network and the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The network's name.
    pub network: String,
    /// How serious it is.
    pub severity: ConflictSeverity,
    /// What is in conflict, with the interface's name, and what the operator can do.
    pub message: String,
}

impl fmt::Display for Conflict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "network {:?}: {}", self.network, self.message)
    }
}

/// The conflicts of those of `networks` that are of provider `bridge` or `overlay` with the host: the
/// network namespace of the calling thread. `state_dir` identifies the instance, whose own bridges
/// are known, and has the node state; an overlay that is not in it has no conflict. Changes nothing;
/// blocks for a few requests to the kernel and on the file system.
pub fn conflicts(state_dir: &Path, networks: &[Network]) -> Result<Vec<Conflict>, ProviderError> {
    let overlays = OverlayNetworks::new(state_dir);
    let networks: Vec<(&str, Cow<'_, BridgeNetwork>)> = networks
        .iter()
        .filter_map(|network| {
            let bridge = match &network.provider {
                NetworkProvider::Bridge(bridge) => Cow::Borrowed(bridge),
                NetworkProvider::Overlay(overlay) => {
                    Cow::Owned(overlays.bridge_network(overlay).ok()?)
                }
                _ => return None,
            };
            Some((network.name.as_str(), bridge))
        })
        .collect();
    if networks.is_empty() {
        return Ok(Vec::new());
    }
    let owner = OwnerTag::new(state_dir);
    let host = NetlinkSocket::route()
        .and_then(|mut socket| HostAddresses::read(&mut socket))
        .map_err(|error| failed("*", "compare the networks with the host's", error))?;
    Ok(networks
        .iter()
        .flat_map(|(name, bridge)| {
            let network = NetworkSubnets {
                name,
                bridge: &bridge.bridge,
                subnets: bridge.subnets().collect(),
                isolates: bridge.groups.is_some(),
            };
            host.conflicts(&network, &owner)
        })
        .collect())
}

/// What of a network may be in conflict.
#[derive(Clone, Debug)]
pub(super) struct NetworkSubnets<'a> {
    pub(super) name: &'a str,
    pub(super) bridge: &'a str,
    pub(super) subnets: Vec<IpNet>,
    /// Whether it isolates groups.
    pub(super) isolates: bool,
}

/// The interfaces, addresses and routes of the host.
#[derive(Debug, Default)]
pub(super) struct HostAddresses {
    links: HashMap<u32, Link>,
    addresses: Vec<(u32, IpNet)>,
    routes: Vec<Route>,
}

impl HostAddresses {
    pub(super) fn read(socket: &mut NetlinkSocket) -> Result<Self, NetlinkError> {
        Ok(Self {
            addresses: addressing::addresses(socket)?,
            routes: routes::all(socket)?,
            ..Self::read_links(socket)?
        })
    }

    /// The interfaces alone.
    pub(super) fn read_links(socket: &mut NetlinkSocket) -> Result<Self, NetlinkError> {
        let links = links::all(socket)?.into_iter();
        Ok(Self {
            links: links.map(|link| (link.index, link)).collect(),
            ..Self::default()
        })
    }

    /// The interfaces.
    pub(super) fn links(&self) -> impl Iterator<Item = &Link> {
        self.links.values()
    }

    /// The conflicts of one network.
    pub(super) fn conflicts(
        &self,
        network: &NetworkSubnets<'_>,
        owner: &OwnerTag,
    ) -> Vec<Conflict> {
        let mut conflicts = Vec::new();
        let mut add = |severity, message| {
            conflicts.push(Conflict {
                network: network.name.to_owned(),
                severity,
                message,
            });
        };
        let bridge = network.bridge;
        if let Some(link) = self.links.values().find(|link| link.name == bridge) {
            self.bridge_conflicts(link, network.isolates, owner, &mut add);
        }
        for subnet in &network.subnets {
            for (index, address) in &self.addresses {
                let Some(link) = self.links.get(index) else {
                    continue;
                };
                if link.name != bridge
                    && is_usable_outside(address.addr())
                    && let Some(severity) = address_conflict(*subnet, *address, link)
                {
                    add(severity, describe_address(*subnet, *address, link, owner));
                }
            }
            for route in &self.routes {
                self.route_conflict(*subnet, route, bridge, &mut add);
            }
            self.forwarding_conflict(*subnet, bridge, &mut add);
        }
        conflicts
    }

    /// The conflicts of the bridge itself.
    fn bridge_conflicts(
        &self,
        bridge: &Link,
        isolates: bool,
        owner: &OwnerTag,
        add: &mut impl FnMut(ConflictSeverity, String),
    ) {
        let name = &bridge.name;
        let alias = bridge.alias.as_deref().unwrap_or_default();
        if bridge.kind.as_deref() != Some("bridge") {
            add(
                ConflictSeverity::Refusal,
                format!(
                    "the interface {name} exists, but is no bridge; remove it, or configure another bridge for the network"
                ),
            );
        } else if is_program_label(alias) && !owner.owns(alias) {
            add(
                ConflictSeverity::Refusal,
                format!(
                    "the bridge {name} belongs to another contrail-mesos on this host, with another state_dir, \
                     and its alias is {alias:?}; give this network another bridge and another subnet, or the two the same state_dir"
                ),
            );
        } else if isolates && !owner.owns_bridge(bridge) {
            let error = HostError::NotClosed(name.clone());
            add(ConflictSeverity::Refusal, error.to_string());
        } else if let Some(port) = self.links.values().find(|port| {
            let alias = port.alias.as_deref().unwrap_or_default();
            port.controller == Some(bridge.index) && is_program_label(alias) && !owner.owns(alias)
        }) {
            add(
                ConflictSeverity::Warning,
                format!(
                    "another contrail-mesos on this host, with another state_dir, has a container on the bridge {name} ({}); \
                     see to it that their ranges do not overlap",
                    port.name
                ),
            );
        }
    }

    fn route_conflict(
        &self,
        subnet: IpNet,
        route: &Route,
        bridge: &str,
        add: &mut impl FnMut(ConflictSeverity, String),
    ) {
        let destination = route.destination;
        let is_default = destination.prefix_len() == 0;
        if is_default || !overlap(subnet, destination) || !is_usable_outside(destination.addr()) {
            return;
        }
        // A connected route is reported by the address that it belongs to.
        let is_connected = |index: &u32| {
            self.addresses
                .iter()
                .any(|(other, address)| other == index && address.trunc() == destination)
        };
        let mut names: Vec<&str> = route
            .links
            .iter()
            .filter(|index| !is_connected(index))
            .filter_map(|index| self.links.get(index))
            .map(|link| link.name.as_str())
            .filter(|name| *name != bridge)
            .collect();
        names.dedup();
        if names.is_empty() {
            return;
        }
        let names = names.join(", ");
        if destination == subnet {
            add(
                ConflictSeverity::Refusal,
                format!(
                    "{subnet} is what the host's route by the interface {names} leads to; \
                     give the network another subnet, or remove the route"
                ),
            );
        } else if destination.contains(&subnet) {
            add(
                ConflictSeverity::Warning,
                format!(
                    "{subnet} is part of {destination}, to which the host has a route by the interface {names}; \
                     what is behind that route with addresses of {subnet} cannot be reached"
                ),
            );
        } else {
            add(
                ConflictSeverity::Warning,
                format!(
                    "{subnet} has {destination} in it, to which the host has a route by the interface {names}; \
                     containers with addresses of {destination} cannot be reached"
                ),
            );
        }
    }

    /// An uplink that does not forward: nothing comes back to containers.
    fn forwarding_conflict(
        &self,
        subnet: IpNet,
        bridge: &str,
        add: &mut impl FnMut(ConflictSeverity, String),
    ) {
        let family = match subnet {
            IpNet::V4(_) => "ipv4",
            // For IPv6 the setting of the interface does not matter for packets.
            IpNet::V6(_) => return,
        };
        let mut uplinks: Vec<&str> = self
            .routes
            .iter()
            .filter(|route| route.destination.prefix_len() == 0)
            .filter(|route| route.destination.addr().is_ipv4() == subnet.addr().is_ipv4())
            .flat_map(|route| &route.links)
            .filter_map(|index| self.links.get(index))
            .map(|link| link.name.as_str())
            .filter(|name| *name != bridge)
            .collect();
        uplinks.sort_unstable();
        uplinks.dedup();
        // Turned on for all interfaces when the first container is attached.
        if uplinks.is_empty() || sysctl::get("net/ipv4/ip_forward").as_deref() != Some("1") {
            return;
        }
        for uplink in uplinks {
            let setting = format!("net/{family}/conf/{uplink}/forwarding");
            if sysctl::get(&setting).as_deref() == Some("0") {
                add(
                    ConflictSeverity::Warning,
                    format!(
                        "the interface {uplink}, by which the host has its default route, does not forward, \
                         so containers get no answer from there; set {} to 1",
                        setting.replace('/', ".")
                    ),
                );
            }
        }
    }
}

fn overlap(a: IpNet, b: IpNet) -> bool {
    a.contains(&b.trunc()) || b.contains(&a.trunc())
}

/// Whether an address can be in conflict: loopback and link-local addresses cannot.
fn is_usable_outside(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !address.is_loopback() && !address.is_link_local(),
        IpAddr::V6(address) => !address.is_loopback() && !address.is_unicast_link_local(),
    }
}

/// How serious it is that another interface has an address.
fn address_conflict(subnet: IpNet, address: IpNet, link: &Link) -> Option<ConflictSeverity> {
    if !overlap(subnet, address) {
        return None;
    }
    // On another bridge are other containers, which may have any address of its subnet.
    let is_bridge = link.kind.as_deref() == Some("bridge");
    if is_bridge || subnet.contains(&address.addr()) {
        Some(ConflictSeverity::Refusal)
    } else {
        Some(ConflictSeverity::Warning)
    }
}

fn describe_address(subnet: IpNet, address: IpNet, link: &Link, owner: &OwnerTag) -> String {
    let name = &link.name;
    let alias = link.alias.as_deref().unwrap_or_default();
    if link.kind.as_deref() == Some("bridge") && owner.owns(alias) {
        return format!(
            "{subnet} overlaps {address} of the interface {name}, the bridge of a network that was renamed, moved or removed \
             while it has containers; launch again when they have ended, or keep it with bridge = {name:?}"
        );
    }
    if is_program_label(alias) {
        return format!(
            "{subnet} overlaps {address} of the interface {name}, which belongs to another contrail-mesos on this host; \
             give the network another subnet"
        );
    }
    if address_conflict(subnet, address, link) == Some(ConflictSeverity::Warning) {
        return format!(
            "{subnet} is part of {}, the subnet of the interface {name}; \
             neighbours of the host with addresses of {subnet} cannot be reached",
            address.trunc()
        );
    }
    format!(
        "{subnet} overlaps {address} of the interface {name}; give the network another subnet, \
         or use the bridge that has it with bridge = \"NAME\""
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn host() -> HostAddresses {
        let link = |index, name: &str, kind: Option<&str>, alias: Option<&str>| Link {
            index,
            name: name.to_owned(),
            kind: kind.map(str::to_owned),
            alias: alias.map(str::to_owned),
            ..Link::default()
        };
        let own = OwnerTag::new(Path::new("/nonexistent/own")).bridge_label();
        let other = OwnerTag::new(Path::new("/nonexistent/other")).bridge_label();
        let links = [
            link(1, "lo", None, None),
            link(2, "eth9", None, None),
            link(3, "cni0", Some("bridge"), None),
            link(4, "own0", Some("bridge"), Some(&own)),
            link(5, "other0", Some("bridge"), Some(&other)),
        ];
        HostAddresses {
            links: links.map(|link| (link.index, link)).into(),
            addresses: vec![
                (1, net("127.0.0.1/8")),
                (1, net("::1/128")),
                (2, net("10.32.0.77/24")),
                (2, net("10.99.0.7/16")),
                (2, net("2001:db8::7/64")),
                (2, net("fe80::1/64")),
                (3, net("10.40.0.1/16")),
                (4, net("10.50.0.1/24")),
                (5, net("10.60.0.1/24")),
            ],
            routes: vec![
                Route {
                    destination: net("0.0.0.0/0"),
                    links: vec![2],
                },
                Route {
                    destination: net("10.32.0.0/24"),
                    links: vec![2],
                },
                Route {
                    destination: net("10.64.0.0/10"),
                    links: vec![2],
                },
                Route {
                    destination: net("172.16.0.0/24"),
                    links: vec![2],
                },
            ],
        }
    }

    fn found(bridge: &str, subnets: &[&str]) -> Vec<(ConflictSeverity, String)> {
        found_for(bridge, subnets, false)
    }

    fn found_for(
        bridge: &str,
        subnets: &[&str],
        isolates: bool,
    ) -> Vec<(ConflictSeverity, String)> {
        let network = NetworkSubnets {
            name: "blue",
            bridge,
            subnets: subnets.iter().map(|subnet| net(subnet)).collect(),
            isolates,
        };
        let owner = OwnerTag::new(Path::new("/nonexistent/own"));
        host()
            .conflicts(&network, &owner)
            .into_iter()
            .map(|conflict| (conflict.severity, conflict.message))
            .collect()
    }

    #[test]
    fn subnet_of_another_interface_is_refused_with_its_name() {
        for (subnet, interface) in [
            ("10.32.0.0/24", "eth9"),
            ("10.32.0.64/26", "eth9"),
            ("10.32.0.0/16", "eth9"),
            ("2001:db8::/64", "eth9"),
            ("2001:db8::/48", "eth9"),
            ("10.40.7.0/24", "cni0"),
            ("10.50.0.0/24", "own0"),
            ("10.60.0.128/25", "other0"),
            ("172.16.0.0/24", "eth9"),
        ] {
            let found = found("cmb-blue", &[subnet]);
            let [(ConflictSeverity::Refusal, message)] = found.as_slice() else {
                panic!("{subnet}: {found:?}");
            };
            assert!(message.contains(interface), "{message}");
        }
    }

    #[test]
    fn larger_route_or_subnet_is_a_warning() {
        for subnet in ["10.70.0.0/24", "10.99.5.0/24", "172.16.0.0/16"] {
            let found = found("cmb-blue", &[subnet]);
            assert!(!found.is_empty(), "{subnet}");
            for (severity, message) in found {
                assert_eq!(severity, ConflictSeverity::Warning, "{subnet}: {message}");
                assert!(message.contains("eth9"), "{message}");
            }
        }
    }

    #[test]
    fn configured_bridge_is_no_conflict_for_its_network() {
        assert_eq!(found("own0", &["10.50.0.0/16"]), []);
        assert_eq!(found("cni0", &["10.40.0.0/16"]), []);
        assert_eq!(found("cmb-blue", &["192.168.0.0/24", "fd00::/64"]), []);
        let other = found("other0", &["10.60.0.0/24"]);
        let [(ConflictSeverity::Refusal, message)] = other.as_slice() else {
            panic!("{other:?}");
        };
        assert!(message.contains("another contrail-mesos"), "{message}");
        let no_bridge = found("eth9", &["10.1.0.0/24"]);
        assert_eq!(no_bridge.len(), 1, "{no_bridge:?}");
        assert!(no_bridge[0].1.contains("is no bridge"));
    }

    #[test]
    fn bridge_of_others_is_refused_for_isolated_groups() {
        assert_eq!(found_for("own0", &["10.50.0.0/16"], true), []);
        let found = found_for("cni0", &["10.40.0.0/16"], true);
        let [(ConflictSeverity::Refusal, message)] = found.as_slice() else {
            panic!("{found:?}");
        };
        assert!(message.contains("not made by contrail-mesos"), "{message}");
    }
}
