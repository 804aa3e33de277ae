//! Contrail: the manager creates a container's objects, the vRouter agent of this host forwards
//! for its interfaces.
//!
//! ```text
//! start       request the ports from the manager; wait for the vRouter agent's configuration
//! attach_all  veth pairs, port files, registration; wait for addresses; the container's side
//! detach_all  unregister, remove links and port files; then let the manager delete the objects
//! ```
//!
//! - All names (uuids, links) follow from the container's id, so the intent is complete before
//!   any peer is contacted, and a detach needs nothing else.
//! - The vRouter agent silently keeps ports whose configuration is gone, so it unregisters them
//!   first, and the objects go last. If it or the manager cannot be reached, the container still
//!   ends, and the remaining steps are stored on disk and retried (`pending_teardown`).
//! - Nothing here depends on whether the peers are real or simulated.

mod container;
mod driver;
mod pending_teardown;
pub mod plug;
mod registration;
mod request;
#[cfg(test)]
mod root_tests;
mod teardown_retry;

use std::collections::{BTreeMap, HashSet};
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::AbortHandle;
use uuid::Uuid;

use self::driver::ContrailDriver;
pub(super) use self::driver::ContrailStray;
pub use self::pending_teardown::PendingTeardown;
use self::pending_teardown::PendingTeardowns;
pub use self::pending_teardown::{count_pending, forget_pending_container, pending_containers};
pub(crate) use self::request::port_address_requests;
use super::inspection::{ExpectedInterface, container_side};
use super::ownership::{OwnerTag, refuse_existing_link};
use super::stray::{ProviderStray, StrayKind, StrayOrigin, SweepScope};
use super::{
    Attachment, BoxError, Intent, LostInterface, NetworkRequest, Provider, ProviderError,
    ProviderErrors, Statistics, counters, failed, refused,
};
use crate::config::{Config, ContrailNetwork, Vif};
use crate::net::link_reaper::LinkReaper;
use crate::net::link_watch::LinkWatch;
use crate::net::netns::NamespaceThreads;
use crate::vrouter::{PortFiles, VrouterClient, VrouterOptions};
use contrail_mesos_api::agent_api::{self, PortAddressRequest, Ports};
use contrail_mesos_api::container::ContainerId;

/// The contrail provider's part of an intent. Part of the checkpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContrailIntent {
    /// The uuid of the container's virtual-machine object.
    #[serde(rename = "machine")]
    pub vm_uuid: Uuid,
    /// The uuid of the interface's virtual-machine-interface object.
    #[serde(rename = "uuid")]
    pub interface_uuid: Uuid,
    /// The host end of the interface; of a macvlan, the VLAN below it.
    pub host_interface: String,
    /// The host's interface that carries the VLAN; `None` for a veth pair.
    #[serde(default)]
    pub parent: Option<String>,
    /// The virtual network of containers whose labels name none.
    #[serde(default)]
    pub virtual_network: Option<String>,
    /// The labels of the `NetworkInfo`.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The addresses that the framework requests.
    #[serde(default, rename = "asked")]
    pub requested_addresses: Vec<PortAddressRequest>,
    /// For whom the container was launched, as the manager shows it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// The provider `contrail`, for the network namespace in which it was created.
pub struct ContrailProvider {
    /// `None` if the configuration has no table `[contrail]`.
    driver: Option<Arc<ContrailDriver>>,
    background_task: Option<AbortHandle>,
    _watch: Option<LinkWatch>,
}

impl ContrailProvider {
    /// Creates a provider that keeps its pending teardowns below the state directory and reports
    /// interfaces that are deleted without a detach to `lost`. Needs a tokio runtime. It works in
    /// the network namespace of the calling thread; all later calls must be made there, too.
    /// Changes nothing on the host.
    pub fn new(
        config: &Config,
        lost: UnboundedSender<LostInterface>,
    ) -> Result<Self, ProviderError> {
        let Some(options) = &config.contrail else {
            return Ok(Self {
                driver: None,
                background_task: None,
                _watch: None,
            });
        };
        let fail = |error: BoxError| failed("*", "set up the contrail provider", error);
        let manager = options
            .manager_client()
            .map_err(|error| fail(error.into()))?;
        let vrouter = VrouterClient::new(&VrouterOptions {
            host: options.vrouter_host.clone(),
            port: options.vrouter_port,
            ..VrouterOptions::default()
        })
        .map_err(|error| fail(error.into()))?;
        let driver = Arc::new(ContrailDriver {
            owner: OwnerTag::new(&config.state_dir),
            manager,
            vrouter,
            files: PortFiles::new(&options.port_directory),
            threads: NamespaceThreads::new("cm-plug").map_err(|error| fail(error.into()))?,
            reaper: LinkReaper::start().map_err(|error| fail(error.into()))?,
            pending_teardowns: PendingTeardowns::open(&config.state_dir)
                .map_err(|error| fail(error.into()))?,
            containers: Mutex::default(),
            options: options.clone(),
        });
        let watch = driver::watch(&driver, lost).map_err(|error| fail(error.into()))?;
        let background_task =
            tokio::spawn(teardown_retry::run(Arc::downgrade(&driver))).abort_handle();
        Ok(Self {
            driver: Some(driver),
            background_task: Some(background_task),
            _watch: Some(watch),
        })
    }

    fn driver(&self, network: &str) -> Result<&Arc<ContrailDriver>, ProviderError> {
        self.driver.as_ref().ok_or_else(|| {
            refused(
                network,
                "the agent was started without a table [contrail] in its configuration; restart \
                 the agent, which leaves running containers alone",
            )
        })
    }

    fn driver_for(
        &self,
        intents: &[Intent<ContrailIntent>],
    ) -> Result<&Arc<ContrailDriver>, ProviderError> {
        self.driver(intents.first().map_or("*", |intent| &intent.network))
    }
}

impl ContrailProvider {
    /// The teardowns of detached containers that the vRouter agent or the manager has yet to
    /// complete, by container. They are retried in the background.
    #[must_use]
    pub fn pending_teardowns(&self) -> Vec<PendingTeardown> {
        let driver = self.driver.as_ref();
        driver.map_or_else(Vec::new, |driver| driver.pending_teardowns.all())
    }

    /// What this instance made and belongs to no container of the scope; nothing without a table
    /// `[contrail]`. Blocks.
    pub(super) fn strays(
        &self,
        scope: impl FnOnce() -> Result<SweepScope<ContrailIntent>, ProviderErrors>,
    ) -> Result<Vec<ProviderStray>, ProviderErrors> {
        let Some(driver) = &self.driver else {
            return Ok(Vec::new());
        };
        let describe = |stray: ContrailStray| match &stray {
            ContrailStray::Interface(name) => ProviderStray {
                kind: StrayKind::Interface,
                object: name.clone(),
                container: driver.container_of_link(name),
                network: None,
                origin: StrayOrigin::Contrail(stray),
            },
            ContrailStray::PortFiles(vm_uuid) => ProviderStray {
                kind: StrayKind::PortFiles,
                object: vm_uuid.to_string(),
                container: None,
                network: None,
                origin: StrayOrigin::Contrail(stray),
            },
        };
        Ok(driver.strays(scope)?.into_iter().map(describe).collect())
    }

    /// Removes those of `strays` that still belong to no container of the scope.
    pub(super) async fn remove_strays(
        &self,
        strays: Vec<ContrailStray>,
        scope: impl FnOnce() -> Result<SweepScope<ContrailIntent>, ProviderErrors> + Send + 'static,
    ) -> Result<(), ProviderErrors> {
        match &self.driver {
            Some(driver) => driver.remove_strays(strays, scope).await,
            None => Ok(()),
        }
    }

    /// The containers of this host as the managers have them; none without a table `[contrail]`.
    pub(super) async fn ports(&self) -> Option<Result<Vec<Ports>, ProviderError>> {
        let driver = self.driver.as_ref()?;
        let listed = driver.list_ports().await;
        Some(listed.map_err(|error| failed("*", "list the ports of this host", error)))
    }

    /// Whether this host has an interface or a port file of that container. Blocks.
    pub(super) fn has_traces(&self, ports: &Ports) -> Result<bool, ProviderError> {
        let traces = self.driver.as_ref().map(|driver| driver.has_traces(ports));
        traces
            .unwrap_or(Ok(false))
            .map_err(|error| failed("*", "list interfaces and port files", error))
    }

    /// How long an attach may take; none without a table `[contrail]`.
    pub(super) fn deadline(&self) -> Option<Duration> {
        self.driver.as_ref().map(|driver| driver.deadline())
    }

    /// Deletes the objects of a container that this host does not have.
    pub(super) async fn delete_objects(
        &self,
        vm_uuid: Uuid,
        container: Option<&ContainerId>,
    ) -> Result<(), ProviderError> {
        let deleted = self.driver("*")?.delete_objects(vm_uuid, container).await;
        deleted.map_err(|error| failed("*", format!("delete the objects of {vm_uuid}"), error))
    }

    /// Gives up a pending teardown: removes what this host still has of it, and returns what may be left
    /// elsewhere, a sentence each.
    pub async fn abandon_teardown(
        &self,
        teardown: &PendingTeardown,
    ) -> Result<Vec<String>, ProviderError> {
        let abandoned = self.driver("*")?.abandon_teardown(teardown.vm_uuid).await;
        abandoned.map_err(|error| failed("*", "give up the teardown", error))
    }

    /// Retries a pending teardown now. Does nothing if it is complete already.
    pub async fn retry_teardown(&self, teardown: &PendingTeardown) -> Result<(), ProviderError> {
        let driver = self.driver("*")?;
        let retried = driver.retry_teardown(teardown.vm_uuid).await;
        retried.map_err(|error| failed("*", "complete the teardown", error))
    }
}

impl Drop for ContrailProvider {
    fn drop(&mut self) {
        if let Some(task) = &self.background_task {
            task.abort();
        }
    }
}

/// Users of the vRouter agent's tools expect this prefix of host interfaces.
pub(crate) const TAP_PREFIX: &str = "tap";

/// The name of the host end of a container's interface: a hash, since a container's id does not
/// fit.
pub(crate) fn host_interface(container: &ContainerId, interface: &str) -> String {
    let name = container.host_interface(interface);
    format!("{TAP_PREFIX}{}", &name[name.len() - 12..])
}

#[async_trait]
impl Provider for ContrailProvider {
    type Network = ContrailNetwork;
    type Intent = ContrailIntent;

    fn validate(
        &self,
        request: &NetworkRequest,
        _: &ContrailNetwork,
    ) -> Result<(), ProviderErrors> {
        let name = &request.network.name;
        let mut errors = ProviderErrors::new();
        errors.extend(self.driver(name).err());
        if !request.ports.is_empty() {
            errors.push(refused(
                name,
                "ports of the host cannot be mapped to a container of Contrail, which is reached \
                 by its own address or by a floating IP: see the label floating-ips",
            ));
        }
        errors.extend(request::check_labels(request));
        errors.into_result(())
    }

    async fn plan(
        &self,
        request: &NetworkRequest,
        network: &ContrailNetwork,
    ) -> Result<Vec<String>, ProviderErrors> {
        self.validate(request, network)?;
        let driver = self.driver(&request.network.name)?;
        let intent = self.reserve(request, network).await?;
        Ok(request::plan(&driver.options, &intent))
    }

    fn check_unused(&self, request: &NetworkRequest) -> Result<(), ProviderError> {
        let name = host_interface(&request.container, &request.interface);
        refuse_existing_link(request, &name)
    }

    async fn reserve(
        &self,
        request: &NetworkRequest,
        network: &ContrailNetwork,
    ) -> Result<Intent<ContrailIntent>, ProviderError> {
        let driver = self.driver(&request.network.name)?;
        let vm_uuid = agent_api::vm_uuid(&request.container);
        Ok(Intent {
            container: request.container.clone(),
            network: request.network.name.clone(),
            interface: request.interface.clone(),
            // Contrail assigns them.
            addresses: vec![],
            gateways: vec![],
            mac: request.container.mac(&request.interface),
            mtu: network.mtu,
            ports: vec![],
            dns: request.network.dns.clone().unwrap_or_default(),
            provider: ContrailIntent {
                vm_uuid,
                interface_uuid: agent_api::interface_uuid(vm_uuid, &request.interface),
                host_interface: host_interface(&request.container, &request.interface),
                parent: match &driver.options.vif {
                    Vif::Veth => None,
                    Vif::Macvlan { parent } => Some(parent.clone()),
                },
                virtual_network: network.virtual_network.clone(),
                labels: request.labels.clone(),
                requested_addresses: port_address_requests(&request.addresses),
                annotations: BTreeMap::new(),
            },
        })
    }

    async fn release(&self, _: &Intent<ContrailIntent>) -> Result<(), ProviderErrors> {
        // `reserve` only chooses names.
        Ok(())
    }

    fn start(&self, intents: &[Intent<ContrailIntent>]) {
        if let Some(driver) = &self.driver {
            driver.start(intents);
        }
    }

    async fn attach_all(
        &self,
        intents: &[Intent<ContrailIntent>],
        namespace: BorrowedFd<'_>,
    ) -> Result<Vec<Attachment>, ProviderErrors> {
        Ok(self.driver_for(intents)?.attach(intents, namespace).await?)
    }

    async fn detach_all(&self, intents: &[Intent<ContrailIntent>]) -> Result<(), ProviderErrors> {
        self.driver_for(intents)?.detach(intents).await
    }

    async fn remove_container(&self, container: &ContainerId) -> Result<(), ProviderErrors> {
        match &self.driver {
            Some(driver) => driver.remove_container(container).await,
            None => Ok(()),
        }
    }

    async fn adopt(&self, intent: &Intent<ContrailIntent>) -> Result<(), ProviderError> {
        self.driver(&intent.network)?.adopt(intent).await
    }

    async fn sweep(
        &self,
        known: &[Intent<ContrailIntent>],
        damaged: &HashSet<ContainerId>,
    ) -> Result<(), ProviderErrors> {
        match &self.driver {
            Some(driver) => driver.sweep(known, damaged).await,
            None => Ok(()),
        }
    }

    async fn statistics(
        &self,
        intent: &Intent<ContrailIntent>,
    ) -> Result<Statistics, ProviderError> {
        counters::of_host_end(&intent.network, intent.provider.host_interface.clone()).await
    }

    async fn inspect(
        &self,
        intent: &Intent<ContrailIntent>,
        attachment: Option<&Attachment>,
        namespace: Option<BorrowedFd<'_>>,
    ) -> Vec<String> {
        let mut findings = match &self.driver {
            Some(driver) => driver.inspect(intent, attachment).await,
            None => vec![],
        };
        if let (Some(attachment), Some(namespace)) = (attachment, namespace) {
            let expected = ExpectedInterface {
                name: intent.interface.clone(),
                mac: Some(attachment.mac),
                addresses: attachment.addresses.clone(),
                gateways: attachment.gateways.clone(),
                ..ExpectedInterface::default()
            };
            findings.extend(container_side(expected, namespace).await);
        }
        findings
    }
}
