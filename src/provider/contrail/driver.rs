//! Starting, attaching, adopting, detaching and sweeping containers: what the provider and its
//! background task share.

use std::collections::{HashMap, HashSet};
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::join_all;
use ipnet::IpNet;
use tokio::sync::OwnedMutexGuard;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::container::{ContainerState, ContrailContainer, StartError, StartedPorts};
use super::pending_teardown::{PendingTeardown, PendingTeardowns};
use super::plug::{Interface, PlugRequest};
use super::{ContrailIntent, TAP_PREFIX, host_interface, request};
use crate::config::Contrail;
use crate::net::link_reaper::LinkReaper;
use crate::net::link_watch::{LinkEvent, LinkWatch};
use crate::net::links;
use crate::net::netlink::{NetlinkError, NetlinkSocket};
use crate::net::netns::NamespaceThreads;
use crate::provider::ownership::OwnerTag;
use crate::provider::stray::SweepScope;
use crate::provider::{
    Attachment, BoxError, Intent, LostInterface, ProviderError, ProviderErrors, blocking, failed,
    refused,
};
use crate::vrouter::{ExpectedPorts, PortFiles, VrouterClient};
use contrail_mesos_api::agent_api::{self, ManagerErrorKind, Ports, PortsClient};
use contrail_mesos_api::container::ContainerId;

/// More interfaces than any container has.
const MAX_INTERFACES: usize = 32;
/// How long the vRouter agent may take to synchronize its ports before a sweep.
const SYNC_TIMEOUT: Duration = Duration::from_secs(5);

/// Attaches containers to the vRouter of this host.
pub(super) struct ContrailDriver {
    pub(super) options: Contrail,
    pub(super) owner: OwnerTag,
    pub(super) manager: PortsClient,
    pub(super) vrouter: VrouterClient,
    pub(super) files: PortFiles,
    pub(super) threads: NamespaceThreads,
    pub(super) reaper: LinkReaper,
    pub(super) pending_teardowns: PendingTeardowns,
    /// By the uuid of the virtual-machine object.
    pub(super) containers: Mutex<HashMap<Uuid, Arc<ContrailContainer>>>,
}

impl ContrailDriver {
    pub(super) fn containers(&self) -> MutexGuard<'_, HashMap<Uuid, Arc<ContrailContainer>>> {
        // Every critical section is a single map operation, or leaves the map consistent.
        self.containers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to create a container's objects, and to wait until the vRouter agent has their
    /// configuration. `None` without a network.
    pub(super) fn start(
        self: &Arc<Self>,
        intents: &[Intent<ContrailIntent>],
    ) -> Option<Arc<ContrailContainer>> {
        let vm_uuid = intents.first()?.provider.vm_uuid;
        // A task, so that it makes progress before anyone awaits it.
        let task = tokio::spawn(Arc::clone(self).create_ports(intents.to_vec()));
        let start = async move {
            task.await
                .unwrap_or_else(|error| {
                    Err(StartError::Failed {
                        action: "start the container",
                        problem: error.to_string(),
                    })
                })
                .map(Arc::new)
                .map_err(Arc::new)
        };
        let container = Arc::new(ContrailContainer::starting(
            intents.to_vec(),
            start.boxed().shared(),
        ));
        self.containers().insert(vm_uuid, Arc::clone(&container));
        Some(container)
    }

    async fn create_ports(
        self: Arc<Self>,
        intents: Vec<Intent<ContrailIntent>>,
    ) -> Result<StartedPorts, StartError> {
        let deadline = Instant::now() + self.options.deadline;
        let (Some(first), Some(request)) = (
            intents.first(),
            request::ports_request(&self.options, &intents),
        ) else {
            return Err(StartError::Refused("there is nothing to attach".to_owned()));
        };
        let vm_uuid = first.provider.vm_uuid;
        // The pending teardown of an earlier container with this id would hit this one.
        timeout_at(deadline, self.retry_teardown(vm_uuid))
            .await
            .unwrap_or_else(|_| Err("the deadline has passed".into()))
            .map_err(|error| StartError::Failed {
                action: "complete the teardown of an earlier container with the same id",
                problem: error.to_string(),
            })?;
        let ports = self
            .manager
            .put(vm_uuid, &request, deadline)
            .await
            .map_err(|error| match error.kind {
                ManagerErrorKind::Refused { message, .. } => StartError::Refused(message),
                ManagerErrorKind::Unavailable { .. } => StartError::Failed {
                    action: "attach",
                    problem: error.to_string(),
                },
            })?;
        let interface_uuids: Vec<Uuid> = intents
            .iter()
            .map(|intent| intent.provider.interface_uuid)
            .collect();
        let configuration = self
            .vrouter
            .await_configuration(vm_uuid, ExpectedPorts::Uuids(&interface_uuids), deadline)
            .await
            .map_err(|error| StartError::Failed {
                action: "attach",
                problem: error.to_string(),
            })?;
        Ok(StartedPorts {
            ports,
            configuration,
        })
    }

    pub(super) async fn attach(
        self: &Arc<Self>,
        intents: &[Intent<ContrailIntent>],
        namespace: BorrowedFd<'_>,
    ) -> Result<Vec<Attachment>, ProviderError> {
        let deadline = Instant::now() + self.options.deadline;
        let Some(first) = intents.first() else {
            return Ok(vec![]);
        };
        let network = &first.network;
        let fail = |error| failed(network, "attach", error);
        let namespace = namespace
            .try_clone_to_owned()
            .map_err(|error| fail(error.into()))?;
        let started = self.containers().get(&first.provider.vm_uuid).cloned();
        let container = match started {
            Some(container) => container,
            None => self
                .start(intents)
                .ok_or_else(|| refused(network, "there is nothing to attach"))?,
        };
        let Some(start) = container.start.clone() else {
            return Err(refused(
                network,
                format!(
                    "container {} is attached already; detach it first",
                    first.container
                ),
            ));
        };
        let started = start
            .await
            .map_err(|error| error.to_provider_error(network))?;
        let _changing = container.lock().await;
        if container.state() != ContainerState::Starting {
            return Err(refused(
                network,
                "the container was attached already, or detached before it was attached",
            ));
        }
        let attachments = self
            .plug_request(&container, &started)
            .map_err(fail)?
            .plug(
                &self.vrouter,
                &self.files,
                &self.threads,
                namespace,
                deadline,
            )
            .await
            .map_err(fail)?;
        // Has no effect if a detach has begun meanwhile; it waits for the lock.
        container.transition(ContainerState::Starting, ContainerState::Attached);
        Ok(attachments)
    }

    fn plug_request(
        &self,
        container: &ContrailContainer,
        started: &StartedPorts,
    ) -> Result<PlugRequest, BoxError> {
        let mut interfaces = Vec::new();
        for (intent, configuration) in container.intents.iter().zip(&started.configuration) {
            let ContrailIntent {
                interface_uuid,
                host_interface,
                parent,
                ..
            } = &intent.provider;
            let port = started
                .ports
                .ports
                .iter()
                .find(|port| port.uuid == *interface_uuid);
            let vlan = match parent {
                None => None,
                Some(parent) => Some((
                    parent.clone(),
                    configuration.vlan.ok_or_else(|| {
                        format!(
                            "the vRouter agent has no VLAN for {}, which a macvlan needs: its \
                             interface must be a sub-interface with a VLAN tag",
                            intent.interface
                        )
                    })?,
                )),
            };
            interfaces.push(Interface {
                name: intent.interface.clone(),
                host_interface: host_interface.clone(),
                alias: self.owner.container_label(intent, host_interface),
                uuid: *interface_uuid,
                network: configuration.network,
                mac: configuration.mac,
                mtu: intent.mtu,
                vlan,
                addresses: port.map_or_else(Vec::new, |port| port.addresses.clone()),
                dns: intent.dns.clone(),
            });
        }
        let first = container
            .intents
            .first()
            .ok_or("there is nothing to attach")?;
        Ok(PlugRequest {
            vm_uuid: started.ports.machine,
            vm_name: first.container.to_string(),
            namespace: String::new(),
            interfaces,
        })
    }

    /// Waits for what changes a container's links and registrations, and lets nothing else begin:
    /// a port that is registered after its container was unregistered would stay.
    async fn end_changes(&self, vm_uuid: Uuid) -> Option<OwnedMutexGuard<()>> {
        let container = self.containers().get(&vm_uuid).cloned()?;
        container.set_detaching();
        // The request to the manager completes before it is undone, whatever its result.
        if let Some(start) = container.start.clone() {
            let _ = start.await;
        }
        Some(container.lock().await)
    }

    /// Detaches a container. If the vRouter agent or the manager cannot be reached, the host is
    /// cleaned all the same, and the teardown stays pending.
    pub(super) async fn detach(
        self: &Arc<Self>,
        intents: &[Intent<ContrailIntent>],
    ) -> Result<(), ProviderErrors> {
        let Some(first) = intents.first() else {
            return Ok(());
        };
        let (network, vm_uuid) = (&first.network, first.provider.vm_uuid);
        let _changing = self.end_changes(vm_uuid).await;
        let links: Vec<String> = intents
            .iter()
            .map(|intent| intent.provider.host_interface.clone())
            .collect();
        self.record_teardown(vm_uuid, Some(&first.container), &links)
            .await
            .map_err(|error| {
                let action = format!("record the pending teardown of container {vm_uuid}");
                failed(network, action, error)
            })?;
        let mut errors = ProviderErrors::new();
        if let Err(error) = self.retry_teardown(vm_uuid).await {
            log::warn!(
                "network {network:?}: the teardown of container {vm_uuid} is pending and will be retried: {error}"
            );
            let deletions = links.into_iter().map(|link| async move {
                self.reaper
                    .delete(self.owner.link_to_delete(&link))
                    .await
                    .map_err(|error| failed(network, format!("remove the interface {link}"), error))
            });
            errors.extend(
                join_all(deletions)
                    .await
                    .into_iter()
                    .filter_map(Result::err),
            );
            let files = self.files.clone();
            let removed = blocking(move || Ok::<_, BoxError>(files.remove(vm_uuid)?)).await;
            errors.extend(
                removed
                    .map_err(|error| failed(network, "remove the port files", error))
                    .err(),
            );
        }
        self.containers().remove(&vm_uuid);
        errors.into_result(())
    }

    /// Makes the teardown of a container durable, before its first step.
    async fn record_teardown(
        &self,
        vm_uuid: Uuid,
        container: Option<&ContainerId>,
        links: &[String],
    ) -> Result<(), BoxError> {
        let files = self.files.clone();
        let registered = blocking(move || Ok::<_, BoxError>(files.interfaces(vm_uuid)?)).await?;
        let teardown = PendingTeardown {
            vm_uuid,
            container: container.cloned(),
            links: links.to_vec(),
            registered,
        };
        self.pending_teardowns.record(teardown).await
    }

    /// Tears down a container whose intents cannot be read, if it has links of this instance.
    pub(super) async fn remove_container(
        self: &Arc<Self>,
        container: &ContainerId,
    ) -> Result<(), ProviderErrors> {
        let fail = |error: BoxError| {
            let action = format!("remove what is left of container {container}");
            failed("*", action, error)
        };
        let (driver, id) = (Arc::clone(self), container.clone());
        let links = blocking(move || driver.links_of(&id)).await.map_err(fail)?;
        if links.is_empty() {
            return Ok(());
        }
        let vm_uuid = agent_api::vm_uuid(container);
        let _changing = self.end_changes(vm_uuid).await;
        self.record_teardown(vm_uuid, Some(container), &links)
            .await
            .map_err(fail)?;
        if let Err(error) = self.retry_teardown(vm_uuid).await {
            log::warn!(
                "the teardown of container {container} is pending and will be retried: {error}"
            );
        }
        self.containers().remove(&vm_uuid);
        Ok(())
    }

    /// The Contrail links of this host whose name and alias `is_wanted` accepts.
    fn links_where(is_wanted: impl Fn(&str, &str) -> bool) -> Result<Vec<String>, BoxError> {
        let mut socket = NetlinkSocket::route()?;
        Ok(links::all(&mut socket)?
            .into_iter()
            .filter(|link| {
                link.name.starts_with(TAP_PREFIX)
                    && link
                        .alias
                        .as_ref()
                        .is_some_and(|alias| is_wanted(&link.name, alias))
            })
            .map(|link| link.name)
            .collect())
    }

    /// The links that this instance made for a container.
    fn links_of(&self, container: &ContainerId) -> Result<Vec<String>, BoxError> {
        Self::links_where(|_, alias| self.owner.owns_container(alias, container))
    }

    /// Takes over one network of a container that was attached before a restart.
    pub(super) async fn adopt(
        self: &Arc<Self>,
        intent: &Intent<ContrailIntent>,
    ) -> Result<(), ProviderError> {
        let ContrailIntent {
            vm_uuid,
            host_interface,
            ..
        } = &intent.provider;
        let (network, vm_uuid) = (&intent.network, *vm_uuid);
        let name = host_interface.clone();
        let link = blocking(move || {
            let mut socket = NetlinkSocket::route()?;
            Ok::<_, BoxError>(links::by_name(&mut socket, &name)?)
        })
        .await
        .map_err(|error| failed(network, "look for the container's interface", error))?;
        if link.is_none() {
            return Err(refused(
                network,
                format!(
                    "the host end {host_interface} of {} is gone",
                    intent.interface
                ),
            ));
        }
        let container = {
            let mut containers = self.containers();
            let container = Arc::new(match containers.get(&vm_uuid) {
                Some(container) if container.state() == ContainerState::Attached => {
                    container.with_adopted(intent)
                }
                _ => ContrailContainer::adopted(intent.clone()),
            });
            containers.insert(vm_uuid, Arc::clone(&container));
            container
        };
        let driver = Arc::clone(self);
        // In the background: the vRouter agent may be starting, too.
        tokio::spawn(async move { driver.register(vm_uuid, &container).await });
        Ok(())
    }

    /// What is wrong with the host's side of an attached container, and what the vRouter agent does not
    /// forward for it. Changes nothing.
    pub(super) async fn inspect(
        &self,
        intent: &Intent<ContrailIntent>,
        attachment: Option<&Attachment>,
    ) -> Vec<String> {
        let (files, owned_intent) = (self.files.clone(), intent.provider.clone());
        let host_side = blocking(move || host_side_findings(&files, &owned_intent)).await;
        let mut findings = host_side.unwrap_or_else(|error| vec![error.to_string()]);
        let Some(attachment) = attachment else {
            return findings;
        };
        match self.vrouter.forwarded(intent.provider.vm_uuid).await {
            // It names one address of each family, also if an interface has several.
            Ok(forwarded) => findings.extend([true, false].into_iter().filter_map(|is_v4| {
                let own = attachment.addresses.iter().map(IpNet::addr);
                let mut of_family = own.filter(|own| own.is_ipv4() == is_v4);
                let first = of_family.next()?;
                let is_forwarded =
                    forwarded.contains(&first) || of_family.any(|own| forwarded.contains(&own));
                let text = format!("the vRouter agent does not forward {first}");
                (!is_forwarded).then_some(text)
            })),
            Err(error) => findings.push(error.to_string()),
        }
        findings
    }

    /// Removes links and ports that this instance created and that belong to no container.
    pub(super) async fn sweep(
        self: &Arc<Self>,
        known: &[Intent<ContrailIntent>],
        damaged: &HashSet<ContainerId>,
    ) -> Result<(), ProviderErrors> {
        let fail = |error: BoxError| failed("*", "remove orphaned interfaces and ports", error);
        if self.options.sync_ports
            && let Err(error) = self.vrouter.sync(Instant::now() + SYNC_TIMEOUT).await
        {
            log::warn!("{error}");
        }
        let kept_links = kept_links(known, damaged);
        let driver = Arc::clone(self);
        let orphans = blocking(move || driver.orphaned_links(&kept_links))
            .await
            .map_err(fail)?;
        for link in orphans {
            log::warn!("removing the interface {link}, which belongs to no container");
            self.reaper
                .delete(self.owner.link_to_delete(&link))
                .await
                .map_err(|error| fail(error.into()))?;
        }
        let kept_vms = kept_vms(known, damaged);
        let driver = Arc::clone(self);
        let machines = move || driver.orphaned_vms(driver.files.machines()?, &kept_vms, &[]);
        let orphans = blocking(machines).await.map_err(fail)?;
        for vm_uuid in orphans {
            log::warn!("removing the ports of {vm_uuid}, which is no container of this host");
            self.record_teardown(vm_uuid, None, &[])
                .await
                .map_err(fail)?;
        }
        Ok(())
    }

    /// Links of this instance that are not among `kept`.
    fn orphaned_links(&self, kept: &HashSet<String>) -> Result<Vec<String>, BoxError> {
        Self::links_where(|name, alias| self.owner.owns(alias) && !kept.contains(name))
    }

    /// What this instance made, and what belongs to no container of the scope, which is read after all
    /// that exists was listed. Blocks.
    pub(super) fn strays(
        &self,
        scope: impl FnOnce() -> Result<SweepScope<ContrailIntent>, ProviderErrors>,
    ) -> Result<Vec<ContrailStray>, ProviderErrors> {
        let fail = |error: BoxError| failed("*", "list interfaces and port files", error);
        let mut links = self.orphaned_links(&HashSet::new()).map_err(fail)?;
        let machines = self.files.machines().map_err(|error| fail(error.into()))?;
        let scope = scope()?;
        let kept = kept_links(&scope.intents, &scope.others);
        links.retain(|link| !kept.contains(link));
        let mut kept_vms = kept_vms(&scope.intents, &scope.others);
        // Their files go with the teardown.
        kept_vms.extend(self.pending_teardowns.vm_uuids());
        let orphans = self
            .orphaned_vms(machines, &kept_vms, &links)
            .map_err(fail)?;
        Ok(links
            .into_iter()
            .map(ContrailStray::Interface)
            .chain(orphans.into_iter().map(ContrailStray::PortFiles))
            .collect())
    }

    /// Removes those of `strays` that still belong to no container of the scope.
    pub(super) async fn remove_strays(
        self: &Arc<Self>,
        mut strays: Vec<ContrailStray>,
        scope: impl FnOnce() -> Result<SweepScope<ContrailIntent>, ProviderErrors> + Send + 'static,
    ) -> Result<(), ProviderErrors> {
        let fail = |error: BoxError| failed("*", "remove what belongs to no container", error);
        let driver = Arc::clone(self);
        let current = blocking(move || driver.strays(scope)).await?;
        strays.retain(|stray| current.contains(stray));
        let mut errors = ProviderErrors::new();
        for stray in strays {
            let removed: Result<(), BoxError> = match stray {
                ContrailStray::Interface(link) => {
                    log::info!("removing the interface {link}, which belongs to no container");
                    let deleted = self.reaper.delete(self.owner.link_to_delete(&link)).await;
                    deleted.map(drop).map_err(BoxError::from)
                }
                ContrailStray::PortFiles(vm_uuid) => {
                    log::info!(
                        "removing the ports of {vm_uuid}, which is no container of this host"
                    );
                    match self.record_teardown(vm_uuid, None, &[]).await {
                        Ok(()) => self.retry_teardown(vm_uuid).await,
                        Err(error) => Err(error),
                    }
                }
            };
            errors.extend(removed.map_err(fail).err());
        }
        errors.into_result(())
    }

    /// The containers of this host as the managers have them.
    pub(super) async fn list_ports(&self) -> Result<Vec<Ports>, BoxError> {
        let deadline = Instant::now() + self.options.deadline;
        let address = self.options.virtual_router_address;
        Ok(self.manager.list(address, deadline).await?.containers)
    }

    /// How long an attach may take.
    pub(super) fn deadline(&self) -> Duration {
        self.options.deadline
    }

    /// Whether this host has an interface or a port file of a container, also of another program. Blocks.
    pub(super) fn has_traces(&self, ports: &Ports) -> Result<bool, BoxError> {
        if self.files.machines()?.contains(&ports.machine) {
            return Ok(true);
        }
        let Some(container) = &ports.container else {
            return Ok(false);
        };
        let mut socket = NetlinkSocket::route()?;
        for port in &ports.ports {
            let name = host_interface(container, &port.interface);
            if links::by_name(&mut socket, &name)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Deletes the objects of a container that this host does not have.
    pub(super) async fn delete_objects(
        &self,
        vm_uuid: Uuid,
        container: Option<&ContainerId>,
    ) -> Result<(), BoxError> {
        self.record_teardown(vm_uuid, container, &[]).await?;
        self.retry_teardown(vm_uuid).await
    }

    /// The container in the alias of a link of this instance. Blocks.
    pub(super) fn container_of_link(&self, name: &str) -> Option<String> {
        let mut socket = NetlinkSocket::route().ok()?;
        let link = links::by_name(&mut socket, name).ok()??;
        self.owner
            .container_name(link.alias.as_deref()?)
            .map(str::to_owned)
    }

    /// Those of `machines` that have port files with interface names of this program, but no such
    /// interface except those of `gone`, and are not among `kept`.
    fn orphaned_vms(
        &self,
        machines: Vec<Uuid>,
        kept: &HashSet<Uuid>,
        gone: &[String],
    ) -> Result<Vec<Uuid>, BoxError> {
        let mut socket = NetlinkSocket::route()?;
        let mut orphans = Vec::new();
        for vm_uuid in machines {
            if kept.contains(&vm_uuid) {
                continue;
            }
            let ports = self.files.ports(vm_uuid)?;
            let mut is_orphan = !ports.is_empty();
            for port in ports {
                let name = port?.host_ifname;
                is_orphan &= is_host_interface(&name)
                    && (gone.contains(&name) || links::by_name(&mut socket, &name)?.is_none());
            }
            if is_orphan {
                orphans.push(vm_uuid);
            }
        }
        Ok(orphans)
    }
}

/// What is wrong with the host end of a container, and with its port file. Blocks.
fn host_side_findings(files: &PortFiles, intent: &ContrailIntent) -> Result<Vec<String>, BoxError> {
    let name = &intent.host_interface;
    let mut findings = Vec::new();
    match links::by_name(&mut NetlinkSocket::route()?, name)? {
        None => findings.push(format!("the host's end {name} is gone")),
        Some(link) if !link.up => findings.push(format!("the host's end {name} is down")),
        Some(_) => {}
    }
    // The vRouter agent serves a VLAN without a port file.
    let is_registered = intent.parent.is_some()
        || files
            .interfaces(intent.vm_uuid)?
            .contains(&intent.interface_uuid);
    if !is_registered {
        findings.push(
            "the port file is gone: the vRouter agent forgets the interface when it restarts"
                .to_owned(),
        );
    }
    Ok(findings)
}

/// Something that belongs to no container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::provider) enum ContrailStray {
    /// A link that this instance made.
    Interface(String),
    /// The port files of a virtual machine.
    PortFiles(Uuid),
}

/// The host ends of the containers with these intents, and those that a container of `damaged` may
/// have.
fn kept_links(known: &[Intent<ContrailIntent>], damaged: &HashSet<ContainerId>) -> HashSet<String> {
    known
        .iter()
        .map(|intent| intent.provider.host_interface.clone())
        .chain(damaged.iter().flat_map(possible_host_interfaces))
        .collect()
}

/// The virtual machines of the containers with these intents, and of those of `damaged`.
fn kept_vms(known: &[Intent<ContrailIntent>], damaged: &HashSet<ContainerId>) -> HashSet<Uuid> {
    known
        .iter()
        .map(|intent| intent.provider.vm_uuid)
        .chain(damaged.iter().map(agent_api::vm_uuid))
        .collect()
}

/// The host ends that a container may have, whose networks are not known.
fn possible_host_interfaces(container: &ContainerId) -> impl Iterator<Item = String> {
    (0..MAX_INTERFACES).map(move |index| host_interface(container, &format!("eth{index}")))
}

/// Whether `name` has the form of the names that `host_interface` makes.
fn is_host_interface(name: &str) -> bool {
    name.strip_prefix(TAP_PREFIX).is_some_and(|rest| {
        rest.len() == 12 && rest.bytes().all(|byte| b"0123456789abcdef".contains(&byte))
    })
}

/// Reports links of attached containers that are deleted.
pub(super) fn watch(
    driver: &Arc<ContrailDriver>,
    lost: UnboundedSender<LostInterface>,
) -> Result<LinkWatch, NetlinkError> {
    let driver = Arc::downgrade(driver);
    let mut socket = NetlinkSocket::route()?;
    LinkWatch::start(move |event| {
        let Some(driver) = driver.upgrade() else {
            return;
        };
        let containers: Vec<Arc<ContrailContainer>> =
            driver.containers().values().cloned().collect();
        for container in containers {
            for intent in &container.intents {
                let name = &intent.provider.host_interface;
                let is_concerned = match &event {
                    LinkEvent::Deleted(deleted) => deleted == name,
                    LinkEvent::Missed => true,
                };
                if is_concerned
                    && container.state() == ContainerState::Attached
                    && matches!(links::by_name(&mut socket, name), Ok(None))
                    && container.transition(ContainerState::Attached, ContainerState::Lost)
                {
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
        }
    })
}
