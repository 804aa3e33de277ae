//! Adopting, sweeping, and putting back what went away behind our back.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::mpsc::UnboundedSender;

use super::super::ipam::Holder;
use super::super::{Intent, Lost, ProviderError};
use super::attach::{bridge_failed, needs_hairpin};
use super::registry::State;
use super::{BoxError, Inner, failed, holder, own};
use crate::net::link_watch::{LinkEvent, LinkWatch};
use crate::net::links::{self, Link};
use crate::net::netlink::{NetlinkError, NetlinkSocket};
use crate::net::nft::Element;
use contrail_mesos_api::container::ContainerId;

/// More than any container has networks.
const INTERFACES: usize = 32;

/// Watches for links that go away.
pub(super) fn watch(
    inner: Arc<Inner>,
    lost: UnboundedSender<Lost>,
) -> Result<LinkWatch, NetlinkError> {
    let mut socket = NetlinkSocket::route()?;
    LinkWatch::start(move |event| match event {
        LinkEvent::Deleted(name) => {
            if inner.host.forget(&name) {
                log::warn!("the bridge {name} was deleted behind our back");
                inner.repair_later();
            }
            inner.look_after(&mut socket, &name, &lost);
        }
        LinkEvent::Missed => {
            for entry in inner.registry.all() {
                inner.look_after(&mut socket, &own(&entry.intent).host_interface, &lost);
            }
            inner.repair_later();
        }
    })
}

impl Inner {
    /// Tells of an attached link that is gone.
    fn look_after(&self, socket: &mut NetlinkSocket, name: &str, lost: &UnboundedSender<Lost>) {
        let Some(entry) = self.registry.get(name) else {
            return;
        };
        // The event may be that of an earlier link of the same name.
        if entry.state() != State::Attached || !matches!(links::by_name(socket, name), Ok(None)) {
            return;
        }
        if entry.go(State::Attached, State::Lost) {
            let intent = &entry.intent;
            // The provider's owner may be about to end.
            let _ = lost.send(Lost {
                container: intent.container.clone(),
                message: format!(
                    "the interface {} of network {:?} is gone: somebody deleted it or its host end {name}, or its network namespace ended",
                    intent.interface, intent.network
                ),
            });
        }
    }

    /// Repairs on a thread of its own. What fails is tried again at the next attach.
    pub(super) fn repair_later(self: &Arc<Self>) {
        let inner = Arc::clone(self);
        let started = std::thread::Builder::new()
            .name("cm-repair".to_owned())
            .spawn(move || match inner.repair() {
                Ok(repaired) => {
                    for what in repaired {
                        log::warn!("put back {what}");
                    }
                }
                Err(error) => log::error!("{error}"),
            });
        if let Err(error) = started {
            log::error!("cannot start a thread to repair bridges: {error}");
        }
    }

    /// Puts back whatever is missing, and says what was.
    pub(super) fn repair(&self) -> Result<Vec<String>, ProviderError> {
        let fail = |error: BoxError| failed("*", "repair the host's side", error);
        let mut repaired = self.table.repair().map_err(|error| fail(error.into()))?;
        let _shared = self.host.shared().map_err(|error| fail(error.into()))?;
        let mut socket = NetlinkSocket::route().map_err(|error| fail(error.into()))?;
        let all = links::all(&mut socket).map_err(|error| fail(error.into()))?;
        let there: HashMap<_, _> = all.iter().map(|link| (link.name.as_str(), link)).collect();
        for entry in self.registry.all() {
            let own = own(&entry.intent);
            if !there.contains_key(own.bridge.as_str()) {
                self.host.forget(&own.bridge);
            }
        }
        for entry in self.registry.all() {
            let name = own(&entry.intent).host_interface.as_str();
            if entry.state() == State::Attached
                && let Some(link) = there.get(name)
                && self.put_back(&mut socket, &entry.intent, link)?
            {
                repaired.push(format!("the port {name} on its bridge"));
            }
        }
        Ok(repaired)
    }

    /// Makes sure that a container's link is a port of its bridge. Whether it was not.
    fn put_back(
        &self,
        socket: &mut NetlinkSocket,
        intent: &Intent,
        link: &Link,
    ) -> Result<bool, ProviderError> {
        let own = own(intent);
        let bridge = self
            .host
            .ensure(socket, &self.bridge_spec(intent))
            .map_err(|error| bridge_failed(intent, error))?;
        if link.controller == Some(bridge.index) {
            return Ok(false);
        }
        let alias = self.tag.of_container(intent, &own.host_interface);
        let hairpin = needs_hairpin(intent);
        links::enslave(socket, &own.host_interface, bridge.index, &alias, hairpin)
            .map_err(|error| failed(&intent.network, "put a port back on its bridge", error))?;
        Ok(true)
    }

    /// Takes over a container of before a restart.
    pub(super) fn adopt(&self, intent: &Intent) -> Result<(), ProviderError> {
        let network = &intent.network;
        let own = own(intent);
        let fail = |error: BoxError| {
            failed(
                network,
                format!("adopt the interface {}", own.host_interface),
                error,
            )
        };
        let mut socket = NetlinkSocket::route().map_err(|error| fail(error.into()))?;
        let link = links::by_name(&mut socket, &own.host_interface)
            .map_err(|error| fail(error.into()))?
            .ok_or_else(|| fail("it is gone, as after a reboot".into()))?;
        let _shared = self.host.shared().map_err(|error| fail(error.into()))?;
        let mut elements = self.network_elements(intent, false);
        elements.extend(self.port_elements(intent));
        if !elements.is_empty() {
            self.table
                .adopt(&elements)
                .map_err(|error| fail(error.into()))?;
        }
        self.put_back(&mut socket, intent, &link)?;
        self.registry.adopt(intent);
        // It may have gone before anybody would have been told.
        match links::by_name(&mut socket, &own.host_interface) {
            Ok(Some(_)) => Ok(()),
            Ok(None) => {
                self.registry.remove(&own.host_interface);
                Err(fail("it is gone".into()))
            }
            Err(error) => Err(fail(error.into())),
        }
    }

    /// Names of the interfaces, and leases, of `known`.
    fn known(known: &[Intent]) -> (HashSet<String>, HashSet<(String, IpAddr, Holder)>) {
        let names = known
            .iter()
            .map(|intent| own(intent).host_interface.clone())
            .collect();
        let leases = known
            .iter()
            .flat_map(|intent| {
                intent
                    .addresses
                    .iter()
                    .map(|net| (intent.network.clone(), net.addr(), holder(intent)))
            })
            .collect();
        (names, leases)
    }

    /// Removes what is ours and belongs to none of `known`, nor to what this process attached, nor
    /// to a container of `damaged`.
    pub(super) fn sweep(
        &self,
        known: &[Intent],
        damaged: &HashSet<ContainerId>,
    ) -> Vec<ProviderError> {
        let mut known = known.to_vec();
        known.extend(self.registry.all().iter().map(|entry| entry.intent.clone()));
        let (mut names, leases) = Self::known(&known);
        // Their names follow from their ids; how many networks they have is not known.
        let interfaces = (0..INTERFACES).map(|index| format!("eth{index}"));
        names.extend(interfaces.flat_map(|interface| {
            let name = |id: &ContainerId| id.host_interface(&interface);
            damaged.iter().map(name).collect::<Vec<_>>()
        }));
        self.ipam.sweep(&leases, damaged, || {
            let mut errors = Vec::new();
            let all_known = damaged.is_empty();
            errors.extend(self.sweep_elements(&known, &names, all_known).err());
            errors.extend(self.sweep_links(&known, &names));
            errors
        })
    }

    fn sweep_elements(
        &self,
        known: &[Intent],
        names: &HashSet<String>,
        all_known: bool,
    ) -> Result<(), ProviderError> {
        let networks: HashSet<_> = known
            .iter()
            .map(|intent| self.tag.of_network(&intent.network))
            .collect();
        let all = self
            .table
            .elements()
            .map_err(|error| failed("*", "list the elements of the nftables table", error))?;
        let orphans: Vec<Element> = all
            .into_iter()
            .filter(|element| {
                element.comment.starts_with(&self.tag.prefix())
                    && match self.tag.link(&element.comment) {
                        Some(link) => !names.contains(link),
                        // It may be the network of a container that we know too little of.
                        None => all_known && !networks.contains(&element.comment),
                    }
            })
            .collect();
        self.table
            .remove(&orphans)
            .and_then(|()| self.table.remove_if_unused())
            .map(drop)
            .map_err(|error| failed("*", "sweep the nftables table", error))
    }

    fn sweep_links(&self, known: &[Intent], names: &HashSet<String>) -> Vec<ProviderError> {
        let fail = |error: BoxError| failed("*", "sweep the interfaces", error);
        let all = match NetlinkSocket::route().and_then(|mut socket| links::all(&mut socket)) {
            Ok(all) => all,
            Err(error) => return vec![fail(error.into())],
        };
        let orphans: Vec<_> = all
            .iter()
            .filter(|link| {
                let alias = link.alias.as_deref().unwrap_or_default();
                self.tag.link(alias) == Some(&link.name) && !names.contains(&link.name)
            })
            .map(|link| link.name.clone())
            .collect();
        let mut errors: Vec<_> = self
            .reaper
            .delete_all(orphans)
            .into_iter()
            .map(|error| fail(error.into()))
            .collect();
        let used: HashSet<_> = known
            .iter()
            .map(|intent| own(intent).bridge.as_str())
            .collect();
        let unused = self.host.bridges(&all);
        for bridge in unused.iter().filter(|name| !used.contains(name.as_str())) {
            let removed = self
                .host
                .exclusive()
                .map_err(BoxError::from)
                .and_then(|lock| {
                    let result = self.host.remove_bridge_if_unused(bridge);
                    drop(lock);
                    result.map_err(BoxError::from)
                });
            errors.extend(removed.err().map(fail));
        }
        errors
    }
}
