//! The one writer of containers' objects. Knows no HTTP.
//!
//! Each container is on its own, and many are worked on at once: what concerns one container
//! waits for what is under way for it, and for nothing else. Whatever is asked can be asked
//! again, also of another manager after this one died at any call.

mod create;
mod floating;
mod keep;
mod puts;
mod read;
mod remove;
mod state;
mod undo;

use std::net::IpAddr;
use std::sync::Arc;

use futures::future::join_all;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use tokio::time::Instant;
use uuid::Uuid;

use super::config::{Config, Default};
use super::error::ManagerError;
use super::fence::Fence;
use super::history::{Action, Actor, History};
use super::labels::Wish;
use super::locks::Locks;
use super::names::{Names, Network};
use super::plan::{self, OWNER};
use crate::vnc::{KeyValues, VirtualMachineInterface, VncClient};
use contrail_mesos_api::agent_api::{Port, PortAddress, Ports, PortsRequest};
use contrail_mesos_api::container::Mac;
use contrail_mesos_api::text::Quoted;

pub(crate) use floating::Adopted;
use puts::Puts;
use undo::{Undo, Undos};

/// The containers of all agents.
#[derive(Debug)]
pub struct Containers {
    client: VncClient,
    defaults: Default,
    most_ports: usize,
    names: Names,
    locks: Locks,
    undos: Undos,
    puts: Puts,
    fence: Fence,
    metrics: ContainerMetrics,
    history: History,
    /// Whether somebody comes back to what could not be given.
    kept_true: bool,
}

/// The outcomes of requests.
#[derive(Debug, std::default::Default)]
pub(super) struct ContainerMetrics {
    made: Counter,
    removed: Counter,
    failed: Counter,
}

impl ContainerMetrics {
    /// Adds the metrics to a registry.
    pub(super) fn register(&self, registry: &mut Registry) {
        for (name, help, counter) in [
            (
                "containers_made",
                "Containers whose ports were created, or existed already",
                &self.made,
            ),
            (
                "containers_removed",
                "Containers whose ports were removed",
                &self.removed,
            ),
            (
                "containers_failed",
                "Requests for containers that failed",
                &self.failed,
            ),
        ] {
            registry.register(name, help, counter.clone());
        }
    }

    fn count<T>(&self, result: &Result<T, ManagerError>, success: &Counter) {
        let counter = if result.is_ok() {
            success
        } else {
            &self.failed
        };
        counter.inc();
    }
}

impl Containers {
    /// A writer with these defaults, where there is no other manager; asks nothing yet.
    #[must_use]
    pub fn new(client: VncClient, config: &Config) -> Arc<Self> {
        Self::fenced(client, config, Fence::alone())
    }

    /// A writer that writes nothing but behind this fence.
    #[must_use]
    pub fn fenced(client: VncClient, config: &Config, fence: Fence) -> Arc<Self> {
        Arc::new(Self {
            names: Names::new(client.clone(), config),
            client,
            defaults: config.defaults.clone(),
            most_ports: config.ports,
            locks: Locks::default(),
            undos: Undos::new(config.rollback_delay),
            fence,
            metrics: ContainerMetrics::default(),
            history: History::default(),
            puts: Puts::default(),
            kept_true: config.follow.is_some(),
        })
    }

    /// What everything that writes has to be held by.
    pub(crate) fn fence(&self) -> &Fence {
        &self.fence
    }

    pub(super) fn metrics(&self) -> &ContainerMetrics {
        &self.metrics
    }

    /// What happened to each container.
    pub(crate) fn history(&self) -> &History {
        &self.history
    }

    /// How many requests went to API servers so far.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.client.requests()
    }

    /// The networks with these uuids.
    pub(crate) async fn networks(&self, uuids: Vec<Uuid>) -> Result<Vec<Network>, ManagerError> {
        self.names.read(uuids).await
    }

    /// Forgets the uuids of names: one of them is gone.
    pub(super) fn forget_names(&self) {
        self.names.forget();
    }

    /// Makes a container's ports, completes them, or finds them made.
    pub async fn put(
        &self,
        agent: &str,
        machine: Uuid,
        request: &PortsRequest,
    ) -> Result<Ports, ManagerError> {
        let started = Instant::now();
        let work = self.put_locked(agent, machine, request);
        let made = self.fence.hold(work).await;
        self.metrics.count(&made, &self.metrics.made);
        let elapsed = started.elapsed();
        let container = request.container.to_string();
        let shown = Quoted(container.as_bytes());
        let outcome = match &made {
            Ok(ports) => {
                let summary = summary(ports);
                log::info!(container:% = shown, machine:%, agent, elapsed:?; "ports made: {summary}");
                (Action::Created, summary)
            }
            Err(error) => {
                log::error!(container:% = shown, machine:%, agent, elapsed:?, error:%; "cannot make ports");
                (Action::Failed, format!("cannot make ports: {error}"))
            }
        };
        let actor = Actor::Agent(agent.into());
        let outcome = (outcome.0, outcome.1.as_str());
        self.history
            .record(machine, Some(&container), actor, elapsed, outcome);
        made
    }

    async fn put_locked(
        &self,
        agent: &str,
        machine: Uuid,
        request: &PortsRequest,
    ) -> Result<Ports, ManagerError> {
        let checked = plan::check(machine, request, &self.defaults, self.most_ports)
            .map_err(ManagerError::Invalid)?;
        let _held = self.locks.lock(machine).await;
        // Whatever there is of the container, it is this call's now.
        self.undos.forget(machine);
        self.puts.note(machine);
        let mut undo = Undo::Never;
        let mut made = self
            .attempt(agent, machine, request, &checked.wishes, &mut undo)
            .await;
        if made.as_ref().is_err_and(ManagerError::is_missing) {
            // Something was deleted that we had in mind. What is there now?
            self.names.forget();
            made = self
                .attempt(agent, machine, request, &checked.wishes, &mut undo)
                .await;
        }
        if let Err(error) = &made
            && undo != Undo::Never
        {
            if error.is_transient() {
                self.undos.later(machine, undo, self.fence.term());
            } else {
                self.undo(machine, undo).await;
            }
        }
        made
    }

    async fn attempt(
        &self,
        agent: &str,
        machine: Uuid,
        request: &PortsRequest,
        wishes: &[Wish],
        undo: &mut Undo,
    ) -> Result<Ports, ManagerError> {
        let router = self.names.router(agent, request.virtual_router_address);
        let resolved = join_all(wishes.iter().map(|wish| self.resolve(wish)));
        let (router, resolved) = tokio::join!(router, resolved);
        let mut problems = vec![];
        let router = sort_out(router, &mut problems)?;
        let object = plan::machine(machine, agent, request, &self.defaults);
        let mut ports = vec![];
        let count = request.ports.len();
        for (index, network) in resolved.into_iter().enumerate() {
            let Some(network) = sort_out(network, &mut problems)? else {
                continue;
            };
            let asked = &request.ports[index];
            let annotations = &object.common.annotations;
            match plan::port(
                machine,
                (index, count),
                asked,
                &wishes[index],
                network,
                annotations,
            ) {
                Ok(port) => ports.push(port),
                Err(wrong) => problems.extend(wrong),
            }
        }
        match router {
            Some(router) if problems.is_empty() => {
                self.make(agent, router, object, ports, undo).await
            }
            _ => Err(ManagerError::Invalid(problems)),
        }
    }

    /// Looks up every name of a wish.
    async fn resolve(&self, wish: &Wish) -> Result<Arc<Network>, ManagerError> {
        // In this order, since a project that may be created has to be there for its network.
        let project = self.names.project(&wish.project).await;
        let network = self.names.network(&wish.network, &wish.subnets);
        let groups = wish
            .security_groups
            .iter()
            .map(|group| self.names.security_group(group));
        let pools = wish
            .floating_ips
            .iter()
            .map(|floating| self.names.pool(&floating.pool));
        let (network, groups, pools) = tokio::join!(network, join_all(groups), join_all(pools));
        let mut problems = vec![];
        sort_out(project, &mut problems)?;
        let network = sort_out(network, &mut problems)?;
        for found in groups.into_iter().chain(pools) {
            sort_out(found, &mut problems)?;
        }
        match network {
            Some(network) if problems.is_empty() => Ok(network),
            _ => Err(ManagerError::Invalid(problems)),
        }
    }

    /// Whether an object says that it is of this cluster's manager.
    fn is_ours(&self, annotations: &KeyValues) -> bool {
        annotations.get("owner") == Some(OWNER)
            && annotations.get("cluster") == Some(&self.defaults.cluster)
    }

    /// Refuses a container that is not ours, or another agent's.
    fn check_owner(
        &self,
        machine: Uuid,
        annotations: &KeyValues,
        agent: Option<&str>,
    ) -> Result<(), ManagerError> {
        if !self.is_ours(annotations) {
            return Err(ManagerError::Foreign(format!(
                "the virtual-machine {machine} was not made by the manager of cluster {:?}, so it is left alone",
                self.defaults.cluster
            )));
        }
        match (agent, annotations.get("agent")) {
            (Some(agent), Some(owner)) if owner != agent => Err(ManagerError::Foreign(format!(
                "the container with the machine {machine} is not agent {agent:?}'s; an agent \
                 touches its own containers only"
            ))),
            _ => Ok(()),
        }
    }
}

/// Keeps what is wrong with a request for later, so that all of it is said; ends with any other
/// failure.
fn sort_out<T>(
    result: Result<T, ManagerError>,
    problems: &mut Vec<String>,
) -> Result<Option<T>, ManagerError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(ManagerError::Invalid(wrong)) => {
            for problem in wrong {
                if !problems.contains(&problem) {
                    problems.push(problem);
                }
            }
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// An address, with what its subnet says.
fn port_address(network: &Network, address: IpAddr) -> PortAddress {
    let subnet = network.subnet(address);
    let whole = if address.is_ipv4() { 32 } else { 128 };
    let prefix = subnet.map_or(whole, |subnet| subnet.net.prefix_len());
    PortAddress {
        // A prefix length of a network of the same family is never too long.
        address: ipnet::IpNet::new(address, prefix).unwrap_or_else(|_| address.into()),
        gateway: subnet.and_then(|subnet| subnet.gateway),
        dns: subnet.and_then(|subnet| subnet.dns),
    }
}

/// The Ethernet address of an interface.
fn mac_of(interface: &VirtualMachineInterface) -> Result<Mac, ManagerError> {
    let macs = interface.virtual_machine_interface_mac_addresses.as_ref();
    let mac = macs.and_then(|macs| macs.mac_address.first());
    mac.and_then(|mac| mac.clone().try_into().ok())
        .ok_or_else(|| {
            let name = &interface.common.fq_name;
            ManagerError::InvalidResponse(format!(
                "the virtual-machine-interface {name} has no Ethernet address"
            ))
        })
}

/// IPv4 first.
fn sort(port: &mut Port) {
    port.addresses.sort_by_key(|address| address.address.addr());
    port.floating_ips.sort();
}

fn summary(ports: &Ports) -> String {
    let ports = ports.ports.iter().map(|port| {
        let addresses: Vec<String> = port
            .addresses
            .iter()
            .map(|address| address.address.to_string())
            .collect();
        format!(
            "{} {} on {}",
            port.interface,
            addresses.join(" "),
            port.virtual_network_name
        )
    });
    ports.collect::<Vec<_>>().join(", ")
}
