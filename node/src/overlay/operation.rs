//! The single changes to the host, in words and as requests.

use std::net::IpAddr;

use contrail_mesos::net::forwarding::Setting;
use contrail_mesos::net::links::{self, Link};
use contrail_mesos::net::netlink::{NetlinkError, Request};
use contrail_mesos::net::nft::sources::{self, SourceDifference};
use contrail_mesos::net::routes::{self, FoundRoute, GatewayRoute};
use contrail_mesos::net::vxlan::{self, VxlanLink};
use contrail_mesos::net::{addressing, bridge_address, neighbours};
use contrail_mesos_api::container::Mac;
use contrail_mesos_api::text::Quoted;
use ipnet::IpNet;
use nix::errno::Errno;

use super::ROUTE_PROTOCOL;
use super::desired::{Device, Mac6, Route};
use crate::subsystem::Change;

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    /// Let more hosts send VXLAN packets, and drop those of others.
    AddSources(SourceDifference),
    /// Let fewer hosts send VXLAN packets.
    RemoveSources(SourceDifference),
    /// Remove the table of the sources.
    RemoveTable,
    /// Change a kernel setting.
    Setting(Setting),
    /// Create a device, which is down.
    Create(String, Box<Device>),
    /// Delete a device with everything on it.
    Delete(Box<Link>),
    /// Mark a device as ours.
    Mark(String),
    /// Change the MAC address of a device.
    Mac(String, Mac),
    /// Set a device up, with this MTU.
    Up { device: String, mtu: u32, port: u16 },
    /// Change something on a device.
    Entry {
        /// The index of the device; zero in a dry run, if there is none.
        index: u32,
        device: String,
        entry: Entry,
    },
}

/// A change on a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    AddAddress(IpNet),
    RemoveAddress(IpNet),
    SetForwarding(Mac6, IpAddr),
    RemoveForwarding(Mac6),
    SetNeighbour(IpAddr, Mac),
    RemoveNeighbour(IpAddr),
    AddRoute(IpNet, Box<Route>),
    RemoveRoute(FoundRoute),
}

impl Operation {
    /// The change in words.
    pub(super) fn change(&self) -> Change {
        Change(match self {
            Self::AddSources(difference) => {
                let rules = if difference.lacks_rules {
                    "the rules, "
                } else {
                    ""
                };
                let hosts = list(&difference.missing);
                format!(
                    "add to the nftables table inet {}: {rules}{hosts}",
                    sources::TABLE
                )
            }
            Self::RemoveSources(difference) => format!(
                "remove from the nftables table inet {}: {}",
                sources::TABLE,
                list(&difference.surplus)
            ),
            Self::RemoveTable => format!("remove the nftables table inet {}", sources::TABLE),
            Self::Setting(setting) => {
                format!(
                    "set {} to {}",
                    setting.name.replace('/', "."),
                    setting.value
                )
            }
            Self::Create(name, device) => {
                let tunnel = &device.tunnel;
                format!(
                    "create device {name}: vni {} local {} port {} mac {} mtu {}",
                    tunnel.vni, tunnel.local, tunnel.port, device.mac, device.mtu
                )
            }
            Self::Delete(link) => format!("delete device {}", link.name),
            Self::Mark(name) => format!("mark device {name} as ours"),
            Self::Mac(name, mac) => format!("set the mac of {name} to {mac}"),
            Self::Up { device, mtu, .. } => format!("set {device} up with mtu {mtu}"),
            Self::Entry { device, entry, .. } => match entry {
                Entry::AddAddress(net) => format!("add address {net} dev {device}"),
                Entry::RemoveAddress(net) => format!("remove address {net} dev {device}"),
                Entry::SetForwarding(mac, remote) => {
                    format!("set forwarding {} dst {remote} dev {device}", Mac(*mac))
                }
                Entry::RemoveForwarding(mac) => {
                    format!("remove forwarding {} dev {device}", Mac(*mac))
                }
                Entry::SetNeighbour(address, mac) => {
                    format!("set neighbour {address} lladdr {mac} dev {device}")
                }
                Entry::RemoveNeighbour(address) => {
                    format!("remove neighbour {address} dev {device}")
                }
                Entry::AddRoute(destination, route) => {
                    format!("add route {destination} via {} dev {device}", route.gateway)
                }
                Entry::RemoveRoute(route) => {
                    format!("remove route {} dev {device}", route.destination)
                }
            },
        })
    }

    /// The request of rtnetlink that makes the change; none if something else makes it.
    pub(super) fn request(&self, alias: &str) -> Option<Request> {
        Some(match self {
            Self::AddSources(_) | Self::RemoveSources(_) | Self::RemoveTable | Self::Setting(_) => {
                return None;
            }
            Self::Create(name, device) => vxlan::create(&VxlanLink {
                name,
                tunnel: &device.tunnel,
                mac: device.mac.0,
                mtu: device.mtu,
            }),
            Self::Delete(link) => links::delete_link(link),
            Self::Mark(name) => vxlan::mark(name, alias),
            Self::Mac(name, mac) => links::set_mac(name, mac.0),
            Self::Up { device, mtu, .. } => links::set_up(device, Some(*mtu)),
            Self::Entry {
                index,
                device,
                entry,
            } => entry.request(*index, device),
        })
    }

    /// Whether an error means that the change is made already, or there is nothing to change.
    pub(super) fn is_made(&self, error: Option<Errno>) -> bool {
        let Some(error) = error else {
            return false;
        };
        match self {
            Self::Delete(_) => error == Errno::ENODEV,
            Self::Entry { entry, .. } => match entry {
                Entry::AddAddress(_) => error == Errno::EEXIST,
                Entry::RemoveAddress(_) => matches!(error, Errno::EADDRNOTAVAIL | Errno::ENODEV),
                Entry::RemoveForwarding(_) | Entry::RemoveNeighbour(_) => {
                    matches!(error, Errno::ENOENT | Errno::ENODEV)
                }
                Entry::RemoveRoute(_) => matches!(error, Errno::ESRCH | Errno::ENODEV),
                _ => false,
            },
            _ => false,
        }
    }

    /// The problem when the change failed.
    pub(super) fn problem(&self, error: &NetlinkError) -> String {
        match (self, error.errno()) {
            (Self::Create(name, device), Some(Errno::EEXIST)) => format!(
                "cannot create the device {name}: another program on this host has a VXLAN device with the network identifier {} on port {}; remove it, or give the overlay another identifier",
                device.tunnel.vni, device.tunnel.port
            ),
            (Self::Up { device, port, .. }, Some(Errno::EADDRINUSE)) => format!(
                "cannot set the device {device} up: another program on this host uses the UDP port {port}, or has a VXLAN device with other options on it; stop it, or set another port in the managers' configuration"
            ),
            (
                Self::Entry {
                    entry: Entry::AddRoute(destination, route),
                    ..
                },
                Some(Errno::EEXIST),
            ) => foreign_route(*destination, route, None),
            _ => error.to_string(),
        }
    }

    /// The device that the change needs.
    pub(super) fn device(&self) -> Option<&str> {
        match self {
            Self::Create(device, _)
            | Self::Mark(device)
            | Self::Mac(device, _)
            | Self::Up { device, .. }
            | Self::Entry { device, .. } => Some(device),
            _ => None,
        }
    }
}

impl Entry {
    fn request(&self, index: u32, device: &str) -> Request {
        match self {
            Self::AddAddress(net) => addressing::add_address(index, device, *net),
            Self::RemoveAddress(net) => bridge_address::remove(index, device, *net),
            Self::SetForwarding(mac, remote) => neighbours::set_forwarding(index, *mac, *remote),
            Self::RemoveForwarding(mac) => neighbours::delete_forwarding(index, *mac),
            Self::SetNeighbour(address, mac) => addressing::add_neighbour(index, *address, mac.0),
            Self::RemoveNeighbour(address) => addressing::delete_neighbour(index, *address),
            Self::AddRoute(destination, route) => {
                let route = GatewayRoute {
                    destination: *destination,
                    gateway: route.gateway,
                    index,
                };
                routes::add(&route, ROUTE_PROTOCOL)
            }
            Self::RemoveRoute(route) => routes::delete(route),
        }
    }
}

/// The problem with a route of another program.
pub(super) fn foreign_route(
    destination: IpNet,
    route: &Route,
    found: Option<&FoundRoute>,
) -> String {
    let found = found.map_or_else(String::new, |found| {
        let gateway = found.gateway.map(|gateway| format!("gateway {gateway}, "));
        format!(
            " ({}protocol number {})",
            gateway.unwrap_or_default(),
            found.protocol
        )
    });
    format!(
        "there is no route to {destination} of the node {} in the overlay {}: another program on this host has a route to it{found}; remove that, or give the overlay another subnet",
        Quoted(route.node.as_bytes()),
        Quoted(route.overlay.as_bytes())
    )
}

/// How many things a list names.
const MAX_LISTED: usize = 5;

fn list<T: ToString>(things: &[T]) -> String {
    let mut names: Vec<_> = things.iter().take(MAX_LISTED).map(T::to_string).collect();
    if things.len() > MAX_LISTED {
        names.push(format!("{} more", things.len() - MAX_LISTED));
    }
    names.join(", ")
}
