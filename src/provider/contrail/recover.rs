//! After a restart: containers are taken over, and what is ours but nobody's is removed.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;
use uuid::Uuid;

use super::super::{Intent, Lost, ProviderError, failed, refused};
use super::machine::{Machine, State};
use super::pending_teardown::PendingTeardown;
use super::{BoxError, Inner, TAP, blocking, host_interface, own};
use crate::net::link_watch::{LinkEvent, LinkWatch};
use crate::net::links;
use crate::net::netlink::{NetlinkError, NetlinkSocket};
use contrail_mesos_api::agent_api;
use contrail_mesos_api::container::ContainerId;

/// More than any container has networks.
const INTERFACES: usize = 32;
/// How long the vRouter agent may take to be told that a sweep begins.
const SYNC: std::time::Duration = std::time::Duration::from_secs(5);

/// Watches for links that go away.
pub(super) fn watch(
    inner: &Arc<Inner>,
    lost: UnboundedSender<Lost>,
) -> Result<LinkWatch, NetlinkError> {
    let inner = Arc::downgrade(inner);
    let mut socket = NetlinkSocket::route()?;
    LinkWatch::start(move |event| {
        let Some(inner) = inner.upgrade() else {
            return;
        };
        let machines: Vec<Arc<Machine>> = inner.machines().values().cloned().collect();
        for machine in machines {
            for intent in &machine.intents {
                let Some(own) = own(intent) else { continue };
                let name = &own.host_interface;
                let concerned = match &event {
                    LinkEvent::Deleted(deleted) => deleted == name,
                    LinkEvent::Missed => true,
                };
                if concerned
                    && machine.state() == State::Attached
                    && matches!(links::by_name(&mut socket, name), Ok(None))
                    && machine.go(State::Attached, State::Lost)
                {
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
        }
    })
}

impl Inner {
    /// Takes over one network of a container that was attached before.
    pub(super) async fn adopt(self: &Arc<Self>, intent: &Intent) -> Result<(), ProviderError> {
        let network = &intent.network;
        let Some(own) = own(intent) else {
            return Ok(());
        };
        let name = own.host_interface.clone();
        let link = blocking(move || {
            let mut socket = NetlinkSocket::route()?;
            Ok(links::by_name(&mut socket, &name)?)
        })
        .await
        .map_err(|error| failed(network, "look for the container's interface", error))?;
        if link.is_none() {
            return Err(refused(
                network,
                format!(
                    "the host's end {} of {} is gone",
                    own.host_interface, intent.interface
                ),
            ));
        }
        let machine = {
            let mut machines = self.machines();
            let mut intents = machines
                .get(&own.machine)
                .map_or_else(Vec::new, |machine| machine.intents.clone());
            if !intents.contains(intent) {
                intents.push(intent.clone());
            }
            let machine = Arc::new(Machine::new(intents, None, State::Attached));
            machines.insert(own.machine, Arc::clone(&machine));
            machine
        };
        let (inner, uuid) = (Arc::clone(self), own.machine);
        // The agent may be starting as well, and nobody has to wait for it.
        tokio::spawn(async move { inner.register(uuid, &machine).await });
        Ok(())
    }

    /// Removes links and ports of ours that belong to nobody.
    pub(super) async fn sweep(
        self: &Arc<Self>,
        known: &[Intent],
        damaged: &HashSet<ContainerId>,
    ) -> Result<(), Vec<ProviderError>> {
        let keep = Keep::new(known, damaged);
        let fail = |error: BoxError| vec![failed("*", "remove what belongs to nobody", error)];
        if self.options.sync_ports
            && let Err(error) = self.vrouter.sync(Instant::now() + SYNC).await
        {
            log::warn!("{error}");
        }
        let (inner, links) = (Arc::clone(self), keep.links);
        let strangers = blocking(move || inner.strange_links(&links)).await;
        let strangers = strangers.map_err(fail)?;
        for link in strangers {
            log::warn!("removing the interface {link}, which belongs to no container");
            let deleted = self.reaper.delete(link).await;
            deleted.map_err(|error| fail(error.into()))?;
        }
        let (inner, machines) = (Arc::clone(self), keep.machines);
        let teardowns = blocking(move || inner.strange_ports(&machines)).await;
        for teardown in teardowns.map_err(fail)? {
            log::warn!(
                "removing the ports of {}, which is no container of this host",
                teardown.vm_uuid
            );
            self.pending_teardowns
                .record(teardown)
                .await
                .map_err(fail)?;
        }
        Ok(())
    }

    /// Links with our mark that are not among `keep`.
    fn strange_links(&self, keep: &HashSet<String>) -> Result<Vec<String>, BoxError> {
        let mut socket = NetlinkSocket::route()?;
        let is_strange = |link: &links::Link| {
            link.name.starts_with(TAP)
                && link
                    .alias
                    .as_ref()
                    .is_some_and(|alias| alias.starts_with(&self.tag.prefix()))
                && !keep.contains(&link.name)
        };
        Ok(links::all(&mut socket)?
            .into_iter()
            .filter(is_strange)
            .map(|link| link.name)
            .collect())
    }

    /// Port files with names of our making whose links are gone and whose containers are not
    /// among `keep`.
    fn strange_ports(&self, keep: &HashSet<Uuid>) -> Result<Vec<PendingTeardown>, BoxError> {
        let mut socket = NetlinkSocket::route()?;
        let mut teardowns = Vec::new();
        for machine in self.files.machines()? {
            if keep.contains(&machine) {
                continue;
            }
            let mut links = Vec::new();
            let mut is_ours = true;
            for port in self.files.ports(machine)? {
                let name = port?.host_ifname;
                is_ours &=
                    is_host_interface(&name) && links::by_name(&mut socket, &name)?.is_none();
                links.push(name);
            }
            if is_ours && !links.is_empty() {
                teardowns.push(PendingTeardown {
                    vm_uuid: machine,
                    links: vec![],
                });
            }
        }
        Ok(teardowns)
    }
}

/// Whether a name is one that `host_interface` makes.
fn is_host_interface(name: &str) -> bool {
    name.strip_prefix(TAP).is_some_and(|rest| {
        rest.len() == 12 && rest.bytes().all(|byte| b"0123456789abcdef".contains(&byte))
    })
}

/// What a sweep leaves alone.
struct Keep {
    links: HashSet<String>,
    machines: HashSet<Uuid>,
}

impl Keep {
    fn new(known: &[Intent], damaged: &HashSet<ContainerId>) -> Self {
        let own: Vec<_> = known.iter().filter_map(own).collect();
        let of_damaged = damaged.iter().flat_map(|container| {
            (0..INTERFACES).map(|index| host_interface(container, &format!("eth{index}")))
        });
        Self {
            links: own
                .iter()
                .map(|own| own.host_interface.clone())
                .chain(of_damaged)
                .collect(),
            machines: own
                .iter()
                .map(|own| own.machine)
                .chain(damaged.iter().map(agent_api::vm_uuid))
                .collect(),
        }
    }
}
