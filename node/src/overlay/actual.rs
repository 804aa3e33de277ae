//! What this host has: devices, addresses, neighbours, forwarding entries and routes, as the kernel
//! lists them. The number of requests does not depend on the number of nodes.

use std::collections::BTreeMap;

use contrail_mesos::net::neighbours::{self, ForwardingEntry, Neighbour};
use contrail_mesos::net::netlink::{NetlinkError, NetlinkSocket};
use contrail_mesos::net::routes::{self, FoundRoute};
use contrail_mesos::net::vxlan::{self, VxlanDevice};
use contrail_mesos::net::{addressing, links};
use ipnet::IpNet;

use super::ROUTE_PROTOCOL;
use super::desired::DesiredState;

/// The devices of the overlays.
#[derive(Clone, Debug, Default)]
pub(super) struct Devices {
    /// Those of this daemon, by name.
    pub(super) own: BTreeMap<String, VxlanDevice>,
    /// The links of others that have the name of a device that is missing, with what they are.
    pub(super) foreign: BTreeMap<String, String>,
    /// The addresses of all links.
    pub(super) addresses: Vec<(u32, IpNet)>,
}

/// The entries of a device.
#[derive(Clone, Debug, Default)]
pub(super) struct Entries {
    pub(super) neighbours: Vec<Neighbour>,
    pub(super) forwarding: Vec<ForwardingEntry>,
}

impl Devices {
    /// Reads the devices. Ours have the alias `alias`, or are what `desired` has but for an alias.
    pub(super) fn read(
        socket: &mut NetlinkSocket,
        desired: &DesiredState,
        alias: &str,
    ) -> Result<Self, NetlinkError> {
        let mut devices = Self::default();
        let mut others = BTreeMap::new();
        for device in vxlan::all(socket)? {
            let name = device.link.name.clone();
            let is_ours = match &device.link.alias {
                Some(other) => other == alias,
                None => desired.devices.get(&name).is_some_and(|wanted| {
                    wanted.tunnel == device.tunnel && wanted.mac.0[..] == device.link.mac[..]
                }),
            };
            if is_ours {
                devices.own.insert(name, device);
            } else {
                others.insert(name, describe_alias(device.link.alias.as_deref()));
            }
        }
        for name in desired.devices.keys() {
            if devices.own.contains_key(name) {
                continue;
            }
            if let Some(description) = others.remove(name) {
                devices.foreign.insert(name.clone(), description);
            } else if let Some(link) = links::by_name(socket, name)? {
                let description = link
                    .kind
                    .unwrap_or_else(|| "a physical interface".to_owned());
                devices.foreign.insert(name.clone(), description);
            }
        }
        devices.addresses = addressing::addresses(socket)?;
        Ok(devices)
    }

    /// Reads the neighbours and forwarding entries of our devices, by their names.
    pub(super) fn entries(
        &self,
        socket: &mut NetlinkSocket,
    ) -> Result<BTreeMap<String, Entries>, NetlinkError> {
        let mut all = BTreeMap::new();
        for (name, device) in &self.own {
            let index = device.link.index;
            let entries = Entries {
                neighbours: neighbours::of_link(socket, index)?,
                forwarding: neighbours::forwarding_of(socket, index)?,
            };
            all.insert(name.clone(), entries);
        }
        Ok(all)
    }

    /// Reads our routes: those with our protocol number, by our devices.
    pub(super) fn routes(
        &self,
        socket: &mut NetlinkSocket,
    ) -> Result<BTreeMap<IpNet, Vec<FoundRoute>>, NetlinkError> {
        let mut by_destination: BTreeMap<IpNet, Vec<FoundRoute>> = BTreeMap::new();
        for route in routes::of_protocol(socket, ROUTE_PROTOCOL)? {
            if route.index.is_some_and(|index| self.name(index).is_some()) {
                let routes = by_destination.entry(route.destination).or_default();
                routes.push(route);
            }
        }
        Ok(by_destination)
    }

    /// The name of our device with that index.
    pub(super) fn name(&self, index: u32) -> Option<&str> {
        let mut devices = self.own.values();
        devices
            .find(|device| device.link.index == index)
            .map(|device| device.link.name.as_str())
    }

    /// The addresses of the link with that index.
    pub(super) fn addresses_of(&self, index: u32) -> impl Iterator<Item = IpNet> {
        let addresses = self.addresses.iter();
        addresses.filter_map(move |(of, net)| (*of == index).then_some(*net))
    }
}

fn describe_alias(alias: Option<&str>) -> String {
    alias.map_or_else(
        || "a VXLAN device without an alias".to_owned(),
        |alias| format!("a VXLAN device with the alias {alias:?}"),
    )
}
