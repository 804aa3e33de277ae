//! Adopting, sweeping, and repairing what was deleted or changed by someone else.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::BridgeIntent;
use super::driver::{BridgeDriver, bridge_failed, holder};
use super::flows;
use crate::net::links::{self, Link};
use crate::net::netlink::NetlinkSocket;
use crate::net::nft::Element;
use crate::provider::ipam::Holder;
use crate::provider::ownership::describe_owner;
use crate::provider::{BoxError, Intent, ProviderError, ProviderErrors, failed};
use contrail_mesos_api::container::ContainerId;

/// More interfaces than any container has.
const MAX_INTERFACES: usize = 32;

impl BridgeDriver {
    /// Compares the host's side with what it must be, and puts back what differs. Returns a
    /// description of each repair. Blocks.
    pub(super) fn repair(&self) -> Result<Vec<String>, ProviderError> {
        let fail = |error: BoxError| failed("*", "repair the host side", error);
        let _shared = self
            .host
            .bridges
            .lock_shared()
            .map_err(|error| fail(error.into()))?;
        let mut socket = NetlinkSocket::route().map_err(|error| fail(error.into()))?;
        let comparison = self.host.repair(&mut socket);
        if comparison.has_failed {
            return Err(fail("not everything could be restored; see the log".into()));
        }
        Ok(comparison.faults)
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
            .bridges
            .lock_shared()
            .map_err(|error| fail(error.into()))?;
        let adopted = self
            .host
            .adopt(&mut socket, intent, &link)
            .map_err(|error| bridge_failed(intent, error))
            .and_then(|()| {
                let elements = self.port_elements(intent);
                let adopted = self.host.table.adopt(&elements);
                adopted.map_err(|error| fail(error.into()))
            });
        match adopted {
            Ok(false) => {}
            // Clients may have begun flows that no rule translated.
            Ok(true) => flows::forget_untranslated(&[intent]),
            Err(error) => {
                self.host.registry.remove(host_interface);
                return Err(error);
            }
        }
        self.note_mac(intent);
        // Its deletion is reported only from now on, so it is checked once more.
        match links::by_name(&mut socket, host_interface) {
            Ok(Some(_)) => Ok(()),
            Ok(None) => {
                self.host.registry.remove(host_interface);
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
        let known = self.with_registered(known);
        let kept_links = kept_links(&known, damaged);
        self.ipam.sweep(&leases(&known), damaged, || {
            let mut errors = ProviderErrors::new();
            let all_known = damaged.is_empty();
            errors.extend(self.sweep_elements(&known, &kept_links, all_known).err());
            errors.extend(self.sweep_links(&known, &kept_links));
            errors.extend(self.sweep_rules(&known).err());
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
        let elements = match self.host.table.elements() {
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
            self.host
                .table
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
            self.host.registry.remove(&link.name);
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
        let entries = self.host.registry.list();
        let known: Vec<_> = entries.iter().map(|entry| entry.intent.clone()).collect();
        errors.extend(self.sweep_rules(&known).err());
        let removed = self
            .host
            .table
            .remove(&shared)
            .and_then(|()| self.host.table.remove_if_unused());
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
            bridges = self.host.bridges.owned_bridges(links);
        }
        let Some(_exclusive) = self.host.bridges.lock_exclusive()? else {
            return Ok(false);
        };
        for bridge in bridges {
            if !self.host.registry.forms(&bridge).is_empty()
                || !self.host.bridges.remove_bridge_if_unused(&bridge)?
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// `known`, and the intents of the containers that this process has attached.
    pub(super) fn with_registered(
        &self,
        known: &[Intent<BridgeIntent>],
    ) -> Vec<Intent<BridgeIntent>> {
        let registered = self.host.registry.list();
        let registered = registered.iter().map(|entry| entry.intent.clone());
        known.iter().cloned().chain(registered).collect()
    }

    /// Those of `elements` that this instance made and no container needs.
    pub(super) fn orphaned_elements(
        &self,
        elements: Vec<Element>,
        known: &[Intent<BridgeIntent>],
        kept_links: &HashSet<String>,
        all_known: bool,
    ) -> Vec<Element> {
        // A shared element is needed by containers whose subnet is within its sources.
        let is_needed = |element: &Element| {
            known.iter().any(|intent| {
                let BridgeIntent {
                    bridge,
                    bridge_addresses,
                    ..
                } = &intent.provider;
                let label = self.owner.network_label(&intent.network);
                match element.subnet() {
                    Some(subnet) => bridge_addresses.iter().any(|net| subnet.contains(net)),
                    None => element.key == Element::bridge(bridge, &label).key,
                }
            })
        };
        elements
            .into_iter()
            .filter(|element| {
                self.owner.owns(&element.comment)
                    && match self.owner.host_interface(&element.comment) {
                        Some(link) => !kept_links.contains(link),
                        // It may belong to the network of a damaged container.
                        None => all_known && !is_needed(element),
                    }
            })
            .collect()
    }

    fn sweep_elements(
        &self,
        known: &[Intent<BridgeIntent>],
        kept_links: &HashSet<String>,
        all_known: bool,
    ) -> Result<(), ProviderError> {
        let elements = self.elements()?;
        let orphans = self.orphaned_elements(elements, known, kept_links, all_known);
        self.host
            .table
            .remove(&orphans)
            .and_then(|()| self.host.table.remove_if_unused())
            .map(drop)
            .map_err(|error| failed("*", "sweep the nftables table", error))
    }

    /// Removes the routing rules of subnets that no container needs, neither of `known` nor another one.
    fn sweep_rules(&self, known: &[Intent<BridgeIntent>]) -> Result<(), ProviderError> {
        let needed = closed_subnets(known);
        let sweep = || -> Result<(), BoxError> {
            let Some(_exclusive) = self.host.bridges.lock_exclusive()? else {
                return Ok(());
            };
            let mut socket = NetlinkSocket::route()?;
            Ok(self
                .host
                .bridges
                .open_unused_subnets(&mut socket, &needed)?)
        };
        sweep().map_err(|error| failed("*", "sweep the routing rules", error))
    }

    /// Whether this instance made a link, as the host end of a container that is not to be kept.
    pub(super) fn is_orphaned_link(&self, link: &Link, kept_links: &HashSet<String>) -> bool {
        let alias = link.alias.as_deref().unwrap_or_default();
        self.owner.host_interface(alias) == Some(&link.name) && !kept_links.contains(&link.name)
    }

    pub(super) fn elements(&self) -> Result<Vec<Element>, ProviderError> {
        let listed = self.host.table.elements();
        listed.map_err(|error| failed("*", "list the elements of the nftables table", error))
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
            .filter(|link| self.is_orphaned_link(link, kept_links))
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
        for bridge in self.host.bridges.owned_bridges(&links) {
            if used_bridges.contains(bridge.as_str()) {
                continue;
            }
            let removed = self
                .host
                .bridges
                .lock_exclusive()
                .map_err(BoxError::from)
                .and_then(|_exclusive| Ok(self.host.bridges.remove_bridge_if_unused(&bridge)?));
            errors.extend(removed.err().map(fail));
        }
        let released = NetlinkSocket::route()
            .map_err(BoxError::from)
            .and_then(|mut socket| self.host.release_old_forms(&mut socket));
        errors.extend(released.err().map(fail));
        errors
    }
}

/// The leases of containers with these intents.
pub(super) fn leases(known: &[Intent<BridgeIntent>]) -> HashSet<(String, IpAddr, Holder)> {
    let of_intent = |intent: &Intent<BridgeIntent>| -> Vec<_> {
        let addresses = intent.addresses.iter();
        addresses
            .map(|net| (intent.network.clone(), net.addr(), holder(intent)))
            .collect()
    };
    known.iter().flat_map(of_intent).collect()
}

/// The host ends of the containers with these intents, and those that a container of `damaged` may
/// have.
pub(super) fn kept_links(
    known: &[Intent<BridgeIntent>],
    damaged: &HashSet<ContainerId>,
) -> HashSet<String> {
    known
        .iter()
        .map(|intent| intent.provider.host_interface.clone())
        .chain(damaged.iter().flat_map(possible_host_interfaces))
        .collect()
}

/// The subnets that must be closed for containers with these intents.
pub(super) fn closed_subnets(known: &[Intent<BridgeIntent>]) -> BTreeSet<IpNet> {
    known
        .iter()
        .filter(|intent| intent.provider.policy.is_some())
        .flat_map(|intent| &intent.provider.bridge_addresses)
        .map(IpNet::trunc)
        .collect()
}

/// The host ends that a container may have, whose networks are not known.
fn possible_host_interfaces(container: &ContainerId) -> impl Iterator<Item = String> {
    (0..MAX_INTERFACES).map(|index| container.host_interface(&format!("eth{index}")))
}
