//! Contrail: the manager makes a container's objects, the vRouter agent of this host forwards for
//! its interfaces.
//!
//! ```text
//! start       ask the manager for the ports; wait until the vRouter agent has heard of them
//! attach_all  veth pairs, port files, registration; wait for the addresses; the container's side
//! detach_all  unregister, remove links and port files; only then let the manager remove the objects
//! ```
//!
//! - The names of everything (uuids, links) follow from the container's id, so that the intent is
//!   complete before anybody was asked, and a detach needs nothing else.
//! - The vRouter agent forgets silently nothing that it no longer has configuration for, so it is
//!   told first and the objects go last (`pending_teardown`). Where it or the manager cannot be reached,
//!   what is still to be told is kept on the disk and told later: a container's end waits for
//!   nobody, and nothing is left.
//! - Nothing here knows whether the other side is real or simulated.

mod attach;
mod detach;
mod machine;
mod pending_teardown;
pub mod plug;
mod recover;
mod registration;
mod request;
mod teardown_retry;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::AbortHandle;
use uuid::Uuid;

use self::machine::Machine;
use self::pending_teardown::PendingTeardowns;
pub(crate) use self::request::asked;
use super::mark::Tag;
use super::{
    Attachment, BoxError, Intent, Lost, NetworkRequest, Provider, ProviderError, ProviderIntent,
    Statistics, blocking, counters, failed, refused,
};
use crate::config::{Config, Contrail, ContrailNetwork, NetworkProvider, Vif};
use crate::net::link_reaper::LinkReaper;
use crate::net::link_watch::LinkWatch;
use crate::vrouter::{PortFiles, VrouterClient, VrouterOptions};
use contrail_mesos_api::agent_api::{self, PortAddressRequest, PortsClient, PortsOptions};
use contrail_mesos_api::container::ContainerId;
use contrail_mesos_api::http::Limits;

/// What the contrail provider needs to undo an attach, and to do it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContrailIntent {
    /// The uuid of the container's virtual-machine object.
    pub machine: Uuid,
    /// The uuid of the interface's virtual-machine-interface object.
    pub uuid: Uuid,
    /// The host's end of the interface; of a macvlan, the VLAN below it.
    pub host_interface: String,
    /// The interface of the host that the VLAN is on; `None` for a veth pair.
    #[serde(default)]
    pub parent: Option<String>,
    /// The virtual network of containers whose labels name none.
    #[serde(default)]
    pub virtual_network: Option<String>,
    /// The labels of the `NetworkInfo`.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// The addresses that the framework asks for.
    #[serde(default)]
    pub asked: Vec<PortAddressRequest>,
}

/// The provider `contrail`, in the network namespace where it was made.
pub struct ContrailProvider {
    /// `None` where the configuration has no `[contrail]`.
    inner: Option<Arc<Inner>>,
    background_task: Option<AbortHandle>,
    _watch: Option<LinkWatch>,
}

/// What the provider's tasks share.
struct Inner {
    options: Contrail,
    tag: Tag,
    manager: PortsClient,
    vrouter: VrouterClient,
    files: PortFiles,
    reaper: LinkReaper,
    pending_teardowns: PendingTeardowns,
    machines: Mutex<HashMap<Uuid, Arc<Machine>>>,
}

/// Our part of an intent; of another provider's intent there is none.
fn own(intent: &Intent) -> Option<&ContrailIntent> {
    match &intent.provider {
        ProviderIntent::Contrail(own) => Some(own),
        ProviderIntent::Bridge(_) | ProviderIntent::Cni(_) => None,
    }
}

impl ContrailProvider {
    /// A provider that keeps what it owes below the state directory, and tells `lost` of interfaces
    /// that go away without a detach. Needs a tokio runtime; works in the network namespace of the
    /// calling thread, in which all later calls have to be made, too. Changes nothing on the host.
    pub fn new(config: &Config, lost: UnboundedSender<Lost>) -> Result<Self, ProviderError> {
        let Some(options) = &config.contrail else {
            return Ok(Self {
                inner: None,
                background_task: None,
                _watch: None,
            });
        };
        let fail = |error: BoxError| failed("*", "set up the contrail provider", error);
        let manager = PortsClient::new(&PortsOptions {
            managers: options.managers.clone(),
            agent: options.agent.clone(),
            token_file: options.token_file.clone(),
            tls: options.tls.clone(),
            limits: Limits {
                // One attempt: the next manager is asked within the container's deadline.
                connect_timeout: options.deadline / 8,
                request_timeout: options.deadline,
                max_body_bytes: 4 << 20,
            },
        })
        .map_err(|error| fail(error.into()))?;
        let vrouter = VrouterClient::new(&VrouterOptions {
            host: options.vrouter_host.clone(),
            port: options.vrouter_port,
            ..VrouterOptions::default()
        })
        .map_err(|error| fail(error.into()))?;
        let inner = Arc::new(Inner {
            tag: Tag::of(&config.state_dir),
            manager,
            vrouter,
            files: PortFiles::new(&options.port_directory),
            reaper: LinkReaper::start().map_err(|error| fail(error.into()))?,
            pending_teardowns: PendingTeardowns::open(&config.state_dir)
                .map_err(|error| fail(error.into()))?,
            machines: Mutex::default(),
            options: options.clone(),
        });
        let watch = recover::watch(&inner, lost).map_err(|error| fail(error.into()))?;
        let background_task =
            tokio::spawn(teardown_retry::run(Arc::downgrade(&inner))).abort_handle();
        Ok(Self {
            inner: Some(inner),
            background_task: Some(background_task),
            _watch: Some(watch),
        })
    }

    fn inner(&self, network: &str) -> Result<&Arc<Inner>, ProviderError> {
        self.inner.as_ref().ok_or_else(|| {
            refused(
                network,
                "the agent was started without a table [contrail] in its configuration; restart \
                 the agent, which leaves running containers alone",
            )
        })
    }

    fn inner_of(&self, intents: &[&Intent]) -> Result<&Arc<Inner>, ProviderError> {
        let network = intents
            .first()
            .map_or("*", |intent| intent.network.as_str());
        self.inner(network)
    }
}

impl Drop for ContrailProvider {
    fn drop(&mut self) {
        if let Some(background_task) = &self.background_task {
            background_task.abort();
        }
    }
}

impl Inner {
    fn machines(&self) -> MutexGuard<'_, HashMap<Uuid, Arc<Machine>>> {
        // Each use is one step.
        self.machines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The configuration of a network of ours.
fn network(request: &NetworkRequest) -> Result<&ContrailNetwork, ProviderError> {
    match &request.network.provider {
        NetworkProvider::Contrail(network) => Ok(network),
        NetworkProvider::Bridge(_) | NetworkProvider::Cni(_) => Err(refused(
            &request.network.name,
            "is no network of provider \"contrail\"",
        )),
    }
}

/// The container's side of a network's interfaces on this host is named by hash, as all our links
/// are; the vRouter agent's users look for `tap`.
pub(crate) fn host_interface(container: &ContainerId, interface: &str) -> String {
    let name = container.host_interface(interface);
    format!("{TAP}{}", &name[name.len() - 12..])
}

const TAP: &str = "tap";

#[async_trait]
impl Provider for ContrailProvider {
    fn validate(&self, request: &NetworkRequest) -> Result<(), Vec<ProviderError>> {
        let name = &request.network.name;
        let mut errors = Vec::new();
        errors.extend(self.inner(name).err());
        errors.extend(network(request).err());
        if !request.ports.is_empty() {
            errors.push(refused(
                name,
                "ports of the host cannot be mapped to a container of Contrail, which is reached \
                 by its own address, or by a floating one: label floating-ips",
            ));
        }
        errors.extend(request::check(request));
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors)
        }
    }

    async fn plan(&self, request: &NetworkRequest) -> Result<Vec<String>, Vec<ProviderError>> {
        self.validate(request)?;
        let inner = self
            .inner(&request.network.name)
            .map_err(|error| vec![error])?;
        let intent = self.reserve(request).await.map_err(|error| vec![error])?;
        Ok(request::plan(&inner.options, &intent))
    }

    async fn reserve(&self, request: &NetworkRequest) -> Result<Intent, ProviderError> {
        let inner = self.inner(&request.network.name)?;
        let network = network(request)?;
        let machine = agent_api::vm_uuid(&request.container);
        Ok(Intent {
            container: request.container.clone(),
            network: request.network.name.clone(),
            interface: request.interface.clone(),
            // Contrail chooses them.
            addresses: vec![],
            gateways: vec![],
            mac: request.container.mac(&request.interface),
            mtu: network.mtu,
            ports: vec![],
            dns: request.network.dns.clone().unwrap_or_default(),
            provider: ProviderIntent::Contrail(ContrailIntent {
                machine,
                uuid: agent_api::interface_uuid(machine, &request.interface),
                host_interface: host_interface(&request.container, &request.interface),
                parent: match &inner.options.vif {
                    Vif::Veth => None,
                    Vif::Macvlan { parent } => Some(parent.clone()),
                },
                virtual_network: network.virtual_network.clone(),
                labels: request.labels.clone(),
                asked: request::asked(&request.addresses),
            }),
        })
    }

    async fn release(&self, _: &Intent) -> Result<(), Vec<ProviderError>> {
        // A reservation is names only.
        Ok(())
    }

    fn start(&self, intents: &[&Intent]) {
        if let Some(inner) = &self.inner {
            inner.start(intents);
        }
    }

    async fn attach_all(
        &self,
        intents: &[&Intent],
        namespace: BorrowedFd<'_>,
    ) -> Result<Vec<Attachment>, Vec<ProviderError>> {
        let inner = self.inner_of(intents).map_err(|error| vec![error])?;
        inner
            .attach(intents, namespace)
            .await
            .map_err(|error| vec![error])
    }

    async fn detach_all(&self, intents: &[&Intent]) -> Result<(), Vec<ProviderError>> {
        let inner = self.inner_of(intents).map_err(|error| vec![error])?;
        inner.detach(intents).await
    }

    async fn adopt(&self, intent: &Intent) -> Result<(), ProviderError> {
        self.inner(&intent.network)?.adopt(intent).await
    }

    async fn sweep(
        &self,
        known: &[Intent],
        damaged: &HashSet<ContainerId>,
    ) -> Result<(), Vec<ProviderError>> {
        match &self.inner {
            Some(inner) => inner.sweep(known, damaged).await,
            None => Ok(()),
        }
    }

    async fn statistics(&self, intent: &Intent) -> Result<Statistics, ProviderError> {
        let link = own(intent).map_or_else(String::new, |own| own.host_interface.clone());
        counters::of_host_end(&intent.network, link).await
    }
}

#[cfg(test)]
mod tests;
