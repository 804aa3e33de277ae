//! The changes between what this host has and what it must have, in their order: pure.
//!
//! ```text
//! sources ─ settings ─ devices ─ addresses ─ forwarding, neighbours ─ routes        what is added
//! routes ─ neighbours ─ forwarding ─ addresses ─ devices ─ sources                  what is removed
//! ```
//! Invariants: a route is there only while its neighbour is, a neighbour only while its forwarding
//! entry is. So a packet is either sent to the right node or not at all, at whatever step the daemon
//! ends. If a node gets another MAC address, its neighbour entry changes from one complete forwarding
//! entry to another.

use std::collections::{BTreeMap, BTreeSet};

use contrail_mesos::net::forwarding::Setting;
use contrail_mesos::net::nft::sources::SourceDifference;
use contrail_mesos::net::routes::{FoundRoute, GatewayRoute};
use contrail_mesos::net::vxlan::VxlanDevice;
use contrail_mesos_api::container::Mac;
use ipnet::IpNet;

use super::actual::{Devices, Entries};
use super::desired::{DesiredState, Device, Mac6};
use super::operation::{Entry, Operation};

/// The kernel settings of a device. It sends what comes from containers, and packets may come in by
/// it that the host would send by another one.
pub(super) fn device_settings(name: &str, has_v6: bool) -> Vec<Setting> {
    let v4 = |setting: &str, value| Setting::new(format!("net/ipv4/conf/{name}/{setting}"), value);
    let v6 = |setting: &str, value| Setting::new(format!("net/ipv6/conf/{name}/{setting}"), value);
    let mut settings = vec![v4("forwarding", "1"), v4("rp_filter", "2")];
    if has_v6 {
        settings.extend([
            v6("disable_ipv6", "0"),
            v6("forwarding", "1"),
            v6("accept_ra", "0"),
            v6("accept_dad", "0"),
            // No link-local address: nothing is solicited on the device.
            v6("addr_gen_mode", "1"),
        ]);
    }
    settings
}

/// Forwarded packets respect the path MTU that the kernel has learned. Otherwise it fragments the outer
/// packets, at a tenth of the throughput.
pub(super) fn path_mtu_setting() -> Setting {
    Setting::new("net/ipv4/ip_forward_use_pmtu", "1")
}

/// The changes to devices, and what must be there before they are up. `missing` are the settings of
/// the host that are to be changed; `is_set` tells whether a setting is right.
pub(super) fn devices(
    desired: &DesiredState,
    actual: &Devices,
    sources: &SourceDifference,
    missing: Vec<Setting>,
    is_set: impl Fn(&Setting) -> bool,
    alias: &str,
) -> Vec<Operation> {
    let mut operations = Vec::new();
    if !desired.devices.is_empty() && (sources.lacks_rules || !sources.missing.is_empty()) {
        operations.push(Operation::AddSources(sources.clone()));
    }
    operations.extend(missing.into_iter().map(Operation::Setting));
    for (name, wanted) in &desired.devices {
        if actual.foreign.contains_key(name) {
            continue;
        }
        let present = actual.own.get(name);
        let kept = present.filter(|device| can_keep(device, wanted));
        if let Some(device) = kept {
            if device.link.mac != wanted.mac.0 {
                operations.push(Operation::Mac(name.clone(), wanted.mac));
            }
            if device.link.alias.as_deref() != Some(alias) {
                operations.push(Operation::Mark(name.clone()));
            }
        } else {
            if let Some(device) = present {
                operations.push(Operation::Delete(Box::new(device.link.clone())));
            }
            operations.push(Operation::Create(name.clone(), Box::new(wanted.clone())));
            operations.push(Operation::Mark(name.clone()));
        }
        let settings = device_settings(name, desired.has_v6);
        let settings = settings
            .into_iter()
            .filter(|setting| kept.is_none() || !is_set(setting));
        operations.extend(settings.map(Operation::Setting));
        if kept.is_none_or(|device| !device.link.up || device.link.mtu != wanted.mtu) {
            operations.push(Operation::Up {
                device: name.clone(),
                mtu: wanted.mtu,
                port: wanted.tunnel.port,
            });
        }
    }
    operations
}

/// The settings of our devices that are to be changed.
pub(super) fn missing_device_settings(
    desired: &DesiredState,
    actual: &Devices,
    is_set: impl Fn(&Setting) -> bool,
) -> Vec<Operation> {
    let devices = desired.devices.keys();
    devices
        .filter(|name| actual.own.contains_key(*name))
        .flat_map(|name| device_settings(name, desired.has_v6))
        .filter(|setting| !is_set(setting))
        .map(Operation::Setting)
        .collect()
}

/// Whether a device needs no replacement.
pub(super) fn can_keep(device: &VxlanDevice, wanted: &Device) -> bool {
    device.tunnel == wanted.tunnel && !device.is_altered
}

/// The changes on devices, and of devices that are no longer needed. `replaced` are devices that are
/// to be created: in a dry run, they are not there yet.
pub(super) fn entries(
    desired: &DesiredState,
    actual: &Devices,
    entries: &BTreeMap<String, Entries>,
    routes: &BTreeMap<IpNet, Vec<FoundRoute>>,
    replaced: &BTreeSet<String>,
) -> Vec<Operation> {
    let nothing = Entries::default();
    let mut added = Vec::new();
    let mut addresses = Vec::new();
    let mut neighbours = Vec::new();
    let mut forwarding = Vec::new();
    let mut indexes = BTreeMap::new();
    for (name, wanted) in &desired.devices {
        let (index, found) = match actual.own.get(name) {
            Some(device) if !replaced.contains(name) => {
                (device.link.index, entries.get(name).unwrap_or(&nothing))
            }
            _ if replaced.contains(name) => (0, &nothing),
            _ => continue,
        };
        indexes.insert(name.as_str(), index);
        let difference = DeviceDifference::new(wanted, index, found, actual);
        let operation = |entry| Operation::Entry {
            index,
            device: name.clone(),
            entry,
        };
        added.extend(difference.added.into_iter().map(operation));
        neighbours.extend(difference.surplus_neighbours.into_iter().map(operation));
        forwarding.extend(difference.surplus_forwarding.into_iter().map(operation));
        addresses.extend(difference.surplus_addresses.into_iter().map(operation));
    }
    let mut operations = added;
    operations.extend(route_changes(desired, actual, routes, &indexes));
    operations.extend(neighbours);
    operations.extend(forwarding);
    operations.extend(addresses);
    let surplus = actual.own.iter();
    operations.extend(
        surplus
            .filter(|(name, _)| !desired.devices.contains_key(*name))
            .map(|(_, device)| Operation::Delete(Box::new(device.link.clone()))),
    );
    operations
}

/// The changes of sources that come last: of hosts that nothing is received from any more.
pub(super) fn surplus_sources(
    desired: &DesiredState,
    sources: &SourceDifference,
) -> Option<Operation> {
    if desired.devices.is_empty() {
        let exists = !sources.lacks_rules || !sources.surplus.is_empty();
        return exists.then_some(Operation::RemoveTable);
    }
    let has_surplus = !sources.surplus.is_empty();
    has_surplus.then(|| Operation::RemoveSources(sources.clone()))
}

/// What differs on one device.
struct DeviceDifference {
    added: Vec<Entry>,
    surplus_addresses: Vec<Entry>,
    surplus_neighbours: Vec<Entry>,
    surplus_forwarding: Vec<Entry>,
}

impl DeviceDifference {
    fn new(wanted: &Device, index: u32, found: &Entries, actual: &Devices) -> Self {
        let present: BTreeSet<IpNet> = actual.addresses_of(index).collect();
        let (missing, surplus_addresses) = addresses(wanted, &present);
        let (set_forwarding, surplus_forwarding) = forwarding(wanted, found);
        let (set_neighbours, surplus_neighbours) = neighbours(wanted, found);
        Self {
            added: [missing, set_forwarding, set_neighbours].concat(),
            surplus_addresses,
            surplus_neighbours,
            surplus_forwarding,
        }
    }
}

/// The addresses to add and to remove.
fn addresses(wanted: &Device, present: &BTreeSet<IpNet>) -> (Vec<Entry>, Vec<Entry>) {
    let mut added = Vec::new();
    for missing in wanted.addresses.difference(present) {
        // The kernel has each IPv6 address once.
        let other = present
            .iter()
            .find(|other| other.addr() == missing.addr() && other.addr().is_ipv6());
        added.extend(other.copied().map(Entry::RemoveAddress));
        added.push(Entry::AddAddress(*missing));
    }
    let is_replaced = |net: &IpNet| added.contains(&Entry::RemoveAddress(*net));
    let removed = present
        .difference(&wanted.addresses)
        .filter(|net| !is_link_local(net) && !is_replaced(net))
        .copied()
        .map(Entry::RemoveAddress)
        .collect();
    (added, removed)
}

/// Whether the kernel may have given the device this address by itself.
pub(super) fn is_link_local(net: &IpNet) -> bool {
    matches!(net, IpNet::V6(net) if net.addr().is_unicast_link_local())
}

/// The forwarding entries to set and to remove.
fn forwarding(wanted: &Device, found: &Entries) -> (Vec<Entry>, Vec<Entry>) {
    let mut present: BTreeMap<Mac6, Vec<_>> = BTreeMap::new();
    for entry in &found.forwarding {
        present.entry(entry.mac).or_default().push(entry);
    }
    let mut set = Vec::new();
    for (mac, remote) in &wanted.forwarding {
        match present.get(mac).map(Vec::as_slice) {
            Some([entry]) if !entry.is_altered && entry.remote == *remote => continue,
            None => {}
            Some([entry]) if !entry.is_altered => {}
            // The kernel replaces one remote of an entry only.
            Some(_) => set.push(Entry::RemoveForwarding(*mac)),
        }
        set.push(Entry::SetForwarding(*mac, *remote));
    }
    let surplus = present
        .keys()
        .filter(|mac| !wanted.forwarding.contains_key(*mac))
        .map(|mac| Entry::RemoveForwarding(*mac))
        .collect();
    (set, surplus)
}

/// The neighbours to set and to remove. Those that the kernel looks for by itself stay.
fn neighbours(wanted: &Device, found: &Entries) -> (Vec<Entry>, Vec<Entry>) {
    let present: BTreeMap<_, _> = found
        .neighbours
        .iter()
        .filter(|neighbour| neighbour.is_permanent)
        .map(|neighbour| (neighbour.address, neighbour.mac.map(Mac)))
        .collect();
    let set = wanted
        .neighbours
        .iter()
        .filter(|(address, mac)| present.get(*address) != Some(&Some(**mac)))
        .map(|(address, mac)| Entry::SetNeighbour(*address, *mac))
        .collect();
    let surplus = present
        .keys()
        .filter(|address| !wanted.neighbours.contains_key(*address))
        .map(|address| Entry::RemoveNeighbour(*address))
        .collect();
    (set, surplus)
}

/// The routes to remove, to replace and to add. A route that is replaced is added right after it was
/// removed. `indexes` are those of the devices that are there.
fn route_changes(
    desired: &DesiredState,
    actual: &Devices,
    present: &BTreeMap<IpNet, Vec<FoundRoute>>,
    indexes: &BTreeMap<&str, u32>,
) -> Vec<Operation> {
    let remove = |route: &FoundRoute| {
        let index = route.index.unwrap_or(0);
        Operation::Entry {
            index,
            device: actual.name(index).unwrap_or("unknown").to_owned(),
            entry: Entry::RemoveRoute(*route),
        }
    };
    let mut operations: Vec<_> = present
        .iter()
        .filter(|(destination, _)| !desired.routes.contains_key(*destination))
        .flat_map(|(_, routes)| routes.iter().map(remove))
        .collect();
    for (destination, wanted) in &desired.routes {
        let routes = present.get(destination).map_or(&[][..], Vec::as_slice);
        let index = indexes.get(wanted.device.as_str()).copied();
        let is_right = |route: &&FoundRoute| {
            index.is_some_and(|index| {
                route.is(&GatewayRoute {
                    destination: *destination,
                    gateway: wanted.gateway,
                    index,
                })
            })
        };
        let has_route = routes.iter().any(|route| is_right(&route));
        operations.extend(routes.iter().filter(|route| !is_right(route)).map(remove));
        if let Some(index) = index.filter(|_| !has_route) {
            operations.push(Operation::Entry {
                index,
                device: wanted.device.clone(),
                entry: Entry::AddRoute(*destination, Box::new(wanted.clone())),
            });
        }
    }
    operations
}
