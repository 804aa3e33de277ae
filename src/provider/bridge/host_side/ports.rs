//! The host ends of containers: ports of their bridges.

use std::collections::{HashMap, HashSet, hash_map};

use super::{DueComparisons, HostSide, SideState, is_present};
use crate::net::bridge_ports::{self, PortFlags};
use crate::net::links::{self, BridgePort, Link};
use crate::net::netlink::{NetlinkError, NetlinkSocket};
use crate::provider::bridge::BridgeIntent;
use crate::provider::bridge::comparison::Comparison;
use crate::provider::bridge::driver::needs_hairpin;
use crate::provider::bridge::host::Bridge;
use crate::provider::bridge::registry::{Entry, InterfaceState};
use crate::provider::{Intent, LostInterface};

/// The permanent forwarding entries of bridges, read once each.
#[derive(Debug, Default)]
pub(super) struct ForwardingEntries(HashMap<u32, HashSet<(u32, [u8; 6])>>);

impl ForwardingEntries {
    /// What is wrong with the forwarding entry of a container at `link`, a port of the bridge `index`, if
    /// its groups are isolated.
    pub(super) fn fault(
        &mut self,
        intent: &Intent<BridgeIntent>,
        link: &Link,
        index: u32,
    ) -> Result<Option<String>, NetlinkError> {
        if intent.provider.policy.is_none() {
            return Ok(None);
        }
        let entries = match self.0.entry(index) {
            hash_map::Entry::Occupied(entry) => entry.into_mut(),
            hash_map::Entry::Vacant(entry) => entry.insert(bridge_ports::permanent_entries(index)?),
        };
        let (mac, name) = (intent.mac, &link.name);
        let is_there = entries.contains(&(link.index, mac.0));
        Ok((!is_there).then(|| format!("the forwarding entry of {mac} at {name} is gone")))
    }
}

impl HostSide {
    /// Makes the comparisons of ports that are due.
    pub(super) fn compare_ports(
        &self,
        socket: &mut NetlinkSocket,
        state: &mut SideState,
        due: &DueComparisons,
        comparison: &mut Comparison,
        failures: &mut Vec<String>,
    ) {
        let entries: Vec<_> = if due.all_ports {
            self.registry.list()
        } else {
            let names = due.ports.union(&due.deleted);
            names.filter_map(|name| self.registry.get(name)).collect()
        };
        if entries.is_empty() {
            return;
        }
        let links: Result<HashMap<String, Link>, NetlinkError> = if due.all_ports {
            links::all(socket).map(|links| {
                links
                    .into_iter()
                    .map(|link| (link.name.clone(), link))
                    .collect()
            })
        } else {
            entries
                .iter()
                .map(|entry| &entry.intent.provider.host_interface)
                .filter_map(|name| {
                    let link = links::by_name(socket, name).transpose()?;
                    Some(link.map(|link| (name.clone(), link)))
                })
                .collect()
        };
        let links = match links {
            Ok(links) => links,
            Err(error) => {
                failures.push(error.to_string());
                state.due.all_ports = true;
                return;
            }
        };
        let mut forwarding = ForwardingEntries::default();
        for entry in entries {
            let name = &entry.intent.provider.host_interface;
            let Some(link) = links.get(name) else {
                self.report_lost(&entry);
                continue;
            };
            let realized = state.realized.get(&entry.intent.provider.bridge);
            let Some(bridge) = realized.map(|realized| realized.bridge) else {
                continue;
            };
            if !is_present(&entry) {
                continue;
            }
            let corrected = if is_right_port(&entry.intent, link, bridge) {
                // An attach adds the entry last.
                if !due.all_ports || entry.state() != InterfaceState::Attached {
                    continue;
                }
                Self::compare_forwarding(socket, &entry.intent, link, bridge, &mut forwarding)
            } else {
                let fault = port_fault(&entry.intent, link, bridge);
                let corrected = self.put_on_bridge(socket, &entry.intent, link, bridge);
                corrected.map(|()| Some(fault))
            };
            match corrected {
                Ok(fault) => comparison.faults.extend(fault),
                // A detach that began meanwhile has deleted it.
                Err(_) if !is_present(&entry) => {}
                Err(error) => {
                    failures.push(error.to_string());
                    state.due.ports.insert(name.clone());
                }
            }
        }
    }

    /// Reports an attached interface whose host end is gone.
    fn report_lost(&self, entry: &Entry) {
        if entry.transition(InterfaceState::Attached, InterfaceState::Lost) {
            let intent = &entry.intent;
            let name = &intent.provider.host_interface;
            // Fails only while the agent shuts down.
            let _ = self.lost.send(LostInterface {
                container: intent.container.clone(),
                message: format!(
                    "the interface {} of network {:?} is gone: it or its host end {name} was deleted, or its network namespace ended",
                    intent.interface, intent.network
                ),
            });
        }
    }

    /// Makes the host end `link` the port that it must be.
    pub(super) fn put_on_bridge(
        &self,
        socket: &mut NetlinkSocket,
        intent: &Intent<BridgeIntent>,
        link: &Link,
        bridge: Bridge,
    ) -> Result<(), NetlinkError> {
        let name = &intent.provider.host_interface;
        let alias = self.owner.container_label(intent, name);
        let port = bridge_port(intent, bridge.index);
        if link.controller == Some(bridge.index) {
            links::correct_port(socket, name, &alias, port)?;
        } else {
            links::enslave(socket, name, &alias, port)?;
        }
        if port.is_isolated {
            add_forwarding_entry(socket, intent, link.index)?;
        }
        Ok(())
    }

    /// Adds the forwarding entry of a container if it is gone, and returns the fault.
    pub(super) fn compare_forwarding(
        socket: &mut NetlinkSocket,
        intent: &Intent<BridgeIntent>,
        link: &Link,
        bridge: Bridge,
        entries: &mut ForwardingEntries,
    ) -> Result<Option<String>, NetlinkError> {
        let fault = entries.fault(intent, link, bridge.index)?;
        if fault.is_some() {
            add_forwarding_entry(socket, intent, link.index)?;
        }
        Ok(fault)
    }
}

/// Whether a container's host end is up, and the port that it must be.
pub(super) fn is_right_port(intent: &Intent<BridgeIntent>, link: &Link, bridge: Bridge) -> bool {
    let is_isolated = intent.provider.policy.is_some();
    link.controller == Some(bridge.index)
        && link.up
        && (!is_isolated || link.port == Some(PortFlags::ISOLATED))
}

/// What is wrong with a container's host end that is not as it must be.
pub(super) fn port_fault(intent: &Intent<BridgeIntent>, link: &Link, bridge: Bridge) -> String {
    let (name, bridge_name) = (&link.name, &intent.provider.bridge);
    if link.controller == Some(bridge.index) && link.up {
        format!("the port {name} of the bridge {bridge_name} is not isolated")
    } else {
        format!("the port {name} is down or not on its bridge {bridge_name}")
    }
}

/// What a container's host end must be on the bridge with that index.
pub(in crate::provider::bridge) fn bridge_port(
    intent: &Intent<BridgeIntent>,
    bridge: u32,
) -> BridgePort {
    BridgePort {
        bridge,
        hairpin: needs_hairpin(intent),
        is_isolated: intent.provider.policy.is_some(),
    }
}

/// Makes frames to a container whose groups are isolated go by the host, see [`bridge_ports`]. `port` is
/// the index of its host end.
pub(in crate::provider::bridge) fn add_forwarding_entry(
    socket: &mut NetlinkSocket,
    intent: &Intent<BridgeIntent>,
    port: u32,
) -> Result<(), NetlinkError> {
    socket.execute_all(&[bridge_ports::add_entry(port, intent.mac.0)])
}
