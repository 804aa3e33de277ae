//! Adopting, sweeping, and repairing what was deleted or changed by someone else.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::mpsc::UnboundedSender;

use super::BridgeIntent;
use super::driver::{BridgeDriver, bridge_failed, holder, needs_hairpin};
use super::registry::InterfaceState;
use crate::net::link_watch::{LinkEvent, LinkWatch};
use crate::net::links::{self, Link};
use crate::net::netlink::{NetlinkError, NetlinkSocket};
use crate::net::nft::Element;
use crate::provider::ipam::Holder;
use crate::provider::ownership::describe_owner;
use crate::provider::{BoxError, Intent, LostInterface, ProviderError, ProviderErrors, failed};
use contrail_mesos_api::container::ContainerId;

/// More interfaces than any container has.
const MAX_INTERFACES: usize = 32;

/// Reports links of attached containers that are deleted, and repairs deleted bridges.
pub(super) fn watch(
    driver: Arc<BridgeDriver>,
    lost: UnboundedSender<LostInterface>,
) -> Result<LinkWatch, NetlinkError> {
    let mut socket = NetlinkSocket::route()?;
    LinkWatch::start(move |event| match event {
        LinkEvent::Deleted(name) => {
            if driver.host.forget(&name) {
                log::warn!("the bridge {name} was deleted; repairing it");
                driver.repair_in_background();
            }
            driver.report_if_lost(&mut socket, &name, &lost);
        }
        LinkEvent::Missed => {
            for entry in driver.registry.list() {
                let name = &entry.intent.provider.host_interface;
                driver.report_if_lost(&mut socket, name, &lost);
            }
            driver.repair_in_background();
        }
    })
}

impl BridgeDriver {
    /// Reports an attached interface whose host end `name` is gone.
    fn report_if_lost(
        &self,
        socket: &mut NetlinkSocket,
        name: &str,
        lost: &UnboundedSender<LostInterface>,
    ) {
        let Some(entry) = self.registry.get(name) else {
            return;
        };
        // The event may be about an earlier link with the same name.
        if entry.state() != InterfaceState::Attached
            || !matches!(links::by_name(socket, name), Ok(None))
        {
            return;
        }
        if entry.transition(InterfaceState::Attached, InterfaceState::Lost) {
            let intent = &entry.intent;
            // Fails only while the agent shuts down.
            let _ = lost.send(LostInterface {
                container: intent.container.clone(),
                message: format!(
                    "the interface {} of network {:?} is gone: it or its host end {name} was deleted, or its network namespace ended",
                    intent.interface, intent.network
                ),
            });
        }
    }

    /// Repairs on a thread of its own. The next attach retries what fails.
    pub(super) fn repair_in_background(self: &Arc<Self>) {
        let driver = Arc::clone(self);
        let started = std::thread::Builder::new()
            .name("cm-repair".to_owned())
            .spawn(move || match driver.repair() {
                Ok(repairs) => {
                    for repair in repairs {
                        log::warn!("restored {repair}");
                    }
                }
                Err(error) => log::error!("{error}"),
            });
        if let Err(error) = started {
            log::error!("cannot start a thread to repair bridges: {error}");
        }
    }

    /// Restores what is missing of the host side, and returns a description of each repair.
    /// Blocks.
    pub(super) fn repair(&self) -> Result<Vec<String>, ProviderError> {
        let fail = |error: BoxError| failed("*", "repair the host side", error);
        let mut repairs = self.table.repair().map_err(|error| fail(error.into()))?;
        let _shared = self
            .host
            .lock_shared()
            .map_err(|error| fail(error.into()))?;
        let mut socket = NetlinkSocket::route().map_err(|error| fail(error.into()))?;
        let links = links::all(&mut socket).map_err(|error| fail(error.into()))?;
        let links: HashMap<_, _> = links
            .iter()
            .map(|link| (link.name.as_str(), link))
            .collect();
        for entry in self.registry.list() {
            let bridge = entry.intent.provider.bridge.as_str();
            if !links.contains_key(bridge) {
                self.host.forget(bridge);
            }
        }
        for entry in self.registry.list() {
            let name = entry.intent.provider.host_interface.as_str();
            if entry.state() == InterfaceState::Attached
                && let Some(link) = links.get(name)
                && self.ensure_bridge_port(&mut socket, &entry.intent, link)?
            {
                repairs.push(format!("the port {name} on its bridge"));
            }
        }
        Ok(repairs)
    }

    /// Makes a container's link a port of its bridge; returns whether it was not.
    fn ensure_bridge_port(
        &self,
        socket: &mut NetlinkSocket,
        intent: &Intent<BridgeIntent>,
        link: &Link,
    ) -> Result<bool, ProviderError> {
        let bridge = self
            .host
            .ensure(socket, &self.bridge_spec(intent))
            .map_err(|error| bridge_failed(intent, error))?;
        if link.controller == Some(bridge.index) {
            return Ok(false);
        }
        let host_interface = &intent.provider.host_interface;
        let alias = self.owner.container_label(intent, host_interface);
        let hairpin = needs_hairpin(intent);
        links::enslave(socket, host_interface, bridge.index, &alias, hairpin)
            .map_err(|error| failed(&intent.network, "restore a port of the bridge", error))?;
        Ok(true)
    }

    /// Takes over a container that was attached before a restart. Blocks.
    pub(super) fn adopt(&self, intent: &Intent<BridgeIntent>) -> Result<(), ProviderError> {
        let host_interface = &intent.provider.host_interface;
        let fail = |error: BoxError| {
            failed(
                &intent.network,
                format!("adopt the interface {host_interface}"),
                error,
            )
        };
        let mut socket = NetlinkSocket::route().map_err(|error| fail(error.into()))?;
        let link = links::by_name(&mut socket, host_interface)
            .map_err(|error| fail(error.into()))?
            .ok_or_else(|| fail("it is gone, as after a reboot".into()))?;
        let _shared = self
            .host
            .lock_shared()
            .map_err(|error| fail(error.into()))?;
        let elements = self.elements(intent);
        if !elements.is_empty() {
            self.table
                .adopt(&elements)
                .map_err(|error| fail(error.into()))?;
        }
        self.ensure_bridge_port(&mut socket, intent, &link)?;
        self.registry.adopt(intent);
        self.note_mac(intent);
        // Its deletion is reported only from now on, so it is checked once more.
        match links::by_name(&mut socket, host_interface) {
            Ok(Some(_)) => Ok(()),
            Ok(None) => {
                self.registry.remove(host_interface);
                Err(fail("it is gone".into()))
            }
            Err(error) => Err(fail(error.into())),
        }
    }

    /// Removes what this instance created and what belongs neither to `known`, nor to an interface
    /// of this process, nor to a container of `damaged`. Blocks.
    pub(super) fn sweep(
        &self,
        known: &[Intent<BridgeIntent>],
        damaged: &HashSet<ContainerId>,
    ) -> Result<(), ProviderErrors> {
        let mut known = known.to_vec();
        known.extend(
            self.registry
                .list()
                .iter()
                .map(|entry| entry.intent.clone()),
        );
        let leases: HashSet<(String, IpAddr, Holder)> = known
            .iter()
            .flat_map(|intent| {
                intent
                    .addresses
                    .iter()
                    .map(|net| (intent.network.clone(), net.addr(), holder(intent)))
            })
            .collect();
        let kept_links: HashSet<String> = known
            .iter()
            .map(|intent| intent.provider.host_interface.clone())
            .chain(damaged.iter().flat_map(possible_host_interfaces))
            .collect();
        self.ipam.sweep(&leases, damaged, || {
            let mut errors = ProviderErrors::new();
            let all_known = damaged.is_empty();
            errors.extend(self.sweep_elements(&known, &kept_links, all_known).err());
            errors.extend(self.sweep_links(&known, &kept_links));
            errors
        })
    }

    /// Removes what this instance made for a container whose intents cannot be read: links, mapped
    /// ports and leases by their labels and holders, and what only this container needed. Blocks.
    pub(super) fn remove_container(&self, container: &ContainerId) -> Result<(), ProviderErrors> {
        let fail = |error: BoxError| {
            let action = format!("remove what is left of container {container}");
            failed("*", action, error)
        };
        let listed = NetlinkSocket::route().and_then(|mut socket| links::all(&mut socket));
        let links = listed.map_err(|error| fail(error.into()))?;
        let is_own = |label: &str| self.owner.owns_container(label, container);
        let own_links: Vec<&Link> = links
            .iter()
            .filter(|link| {
                let alias = link.alias.as_deref().unwrap_or_default();
                is_own(alias) && self.owner.host_interface(alias) == Some(&link.name)
            })
            .collect();
        let deletions = own_links
            .iter()
            .map(|link| self.owner.link_to_delete(&link.name))
            .collect();
        let mut errors: ProviderErrors = self
            .reaper
            .delete_all(deletions)
            .into_iter()
            .map(|error| fail(error.into()))
            .collect();
        let elements = match self.table.elements() {
            Ok(elements) => elements,
            Err(error) => {
                errors.push(fail(error.into()));
                return Err(errors);
            }
        };
        let mapped_ports: Vec<Element> = elements
            .iter()
            .filter(|element| is_own(&element.comment))
            .cloned()
            .collect();
        errors.extend(
            self.table
                .remove(&mapped_ports)
                .err()
                .map(|error| fail(error.into())),
        );
        if !errors.is_empty() {
            // The addresses stay leased: the interfaces may still use them.
            return Err(errors);
        }
        let networks = self.ipam.remove_container(container)?;
        for link in &own_links {
            self.registry.remove(&link.name);
        }
        match self.remove_bridges(&links, &own_links) {
            Ok(true) => {}
            // Others need what the containers of the network share.
            Ok(false) => return Ok(()),
            Err(error) => return Err(fail(error).into()),
        }
        let labels: HashSet<String> = networks
            .iter()
            .map(|network| self.owner.network_label(network))
            .collect();
        let shared: Vec<Element> = elements
            .into_iter()
            .filter(|element| labels.contains(&element.comment))
            .collect();
        let removed = self
            .table
            .remove(&shared)
            .and_then(|()| self.table.remove_if_unused());
        errors.extend(removed.err().map(|error| fail(error.into())));
        errors.into_result(())
    }

    /// Removes the bridges that `ports` were on, or those of this instance if there is no port.
    /// Returns whether no container of this instance uses them any more.
    fn remove_bridges(&self, links: &[Link], ports: &[&Link]) -> Result<bool, BoxError> {
        let mut bridges: Vec<String> = links
            .iter()
            .filter(|link| ports.iter().any(|port| port.controller == Some(link.index)))
            .map(|link| link.name.clone())
            .collect();
        if bridges.is_empty() {
            bridges = self.host.owned_bridges(links);
        }
        let Some(_exclusive) = self.host.lock_exclusive()? else {
            return Ok(false);
        };
        for bridge in bridges {
            if self.registry.uses_bridge(&bridge) || !self.host.remove_bridge_if_unused(&bridge)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn sweep_elements(
        &self,
        known: &[Intent<BridgeIntent>],
        kept_links: &HashSet<String>,
        all_known: bool,
    ) -> Result<(), ProviderError> {
        let network_labels: HashSet<_> = known
            .iter()
            .map(|intent| self.owner.network_label(&intent.network))
            .collect();
        let orphans: Vec<Element> = self
            .table
            .elements()
            .map_err(|error| failed("*", "list the elements of the nftables table", error))?
            .into_iter()
            .filter(|element| {
                self.owner.owns(&element.comment)
                    && match self.owner.host_interface(&element.comment) {
                        Some(link) => !kept_links.contains(link),
                        // It may belong to the network of a damaged container.
                        None => all_known && !network_labels.contains(&element.comment),
                    }
            })
            .collect();
        self.table
            .remove(&orphans)
            .and_then(|()| self.table.remove_if_unused())
            .map(drop)
            .map_err(|error| failed("*", "sweep the nftables table", error))
    }

    fn sweep_links(
        &self,
        known: &[Intent<BridgeIntent>],
        kept_links: &HashSet<String>,
    ) -> ProviderErrors {
        let fail = |error: BoxError| failed("*", "sweep the interfaces", error);
        let links = match NetlinkSocket::route().and_then(|mut socket| links::all(&mut socket)) {
            Ok(links) => links,
            Err(error) => return fail(error.into()).into(),
        };
        let orphans: Vec<_> = links
            .iter()
            .filter(|link| {
                let alias = link.alias.as_deref().unwrap_or_default();
                self.owner.host_interface(alias) == Some(&link.name)
                    && !kept_links.contains(&link.name)
            })
            .map(|link| {
                log::warn!(
                    "removing the interface {} ({}), which belongs to no container",
                    link.name,
                    link.alias
                        .as_deref()
                        .map_or_else(String::new, describe_owner)
                );
                self.owner.link_to_delete(&link.name)
            })
            .collect();
        let mut errors: ProviderErrors = self
            .reaper
            .delete_all(orphans)
            .into_iter()
            .map(|error| fail(error.into()))
            .collect();
        let used_bridges: HashSet<_> = known
            .iter()
            .map(|intent| intent.provider.bridge.as_str())
            .collect();
        for bridge in self.host.owned_bridges(&links) {
            if used_bridges.contains(bridge.as_str()) {
                continue;
            }
            let removed = self
                .host
                .lock_exclusive()
                .map_err(BoxError::from)
                .and_then(|_exclusive| Ok(self.host.remove_bridge_if_unused(&bridge)?));
            errors.extend(removed.err().map(fail));
        }
        errors
    }
}

/// The host ends that a container may have, whose networks are not known.
fn possible_host_interfaces(container: &ContainerId) -> impl Iterator<Item = String> {
    (0..MAX_INTERFACES).map(|index| container.host_interface(&format!("eth{index}")))
}
