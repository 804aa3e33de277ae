//! The only writer of containers' objects. Knows no HTTP.
//!
//! Containers are independent, and many are worked on at once; work on one container is serialised.
//! Every request can be repeated, also at another manager after this one died at any call.

mod apply;
mod create;
mod floating_ips;
mod read;
mod recent_requests;
mod rollback;

use std::sync::Arc;

use futures::future::join_all;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tokio::time::Instant;
use uuid::Uuid;

use crate::config::Config;
use crate::desired::{DesiredInterface, DesiredState};
use crate::error::ManagerError;
use crate::fence::Fence;
use crate::history::{Action, Actor, History};
use crate::labels::PortSpec;
use crate::locks::KeyedLocks;
use crate::logging::millis;
use crate::model::{self, Defaults, Network, annotation};
use crate::objects;
use crate::resolver::NameResolver;
use crate::vnc::{KeyValues, VncClient};
use contrail_mesos_api::agent_api::{Ports, PortsRequest};

use recent_requests::RecentRequests;
use rollback::{Rollback, RollbackQueue};

/// The containers of all agents.
#[derive(Debug)]
pub struct Containers {
    client: VncClient,
    defaults: Defaults,
    max_ports: usize,
    resolver: NameResolver,
    locks: KeyedLocks,
    rollbacks: RollbackQueue,
    requests: RecentRequests,
    fence: Fence,
    metrics: ContainerMetrics,
    history: History,
    /// Whether a reconciler adds later what a request leaves out.
    is_reconciled: bool,
}

/// The outcomes of requests.
#[derive(Debug, Default)]
pub(crate) struct ContainerMetrics {
    created: Counter,
    deleted: Counter,
    failed: Family<CauseLabel, Counter>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CauseLabel {
    cause: &'static str,
}

impl ContainerMetrics {
    /// Adds the metrics to a registry.
    pub(crate) fn register(&self, registry: &mut Registry) {
        for (name, help, counter) in [
            (
                "containers_made",
                "Containers whose ports were created, or existed already",
                &self.created,
            ),
            (
                "containers_removed",
                "Containers whose ports were removed",
                &self.deleted,
            ),
        ] {
            registry.register(name, help, counter.clone());
        }
        registry.register(
            "containers_failed",
            "Requests for containers that failed, by cause",
            self.failed.clone(),
        );
    }

    fn count<T>(&self, result: &Result<T, ManagerError>, success: &Counter) {
        match result {
            Ok(_) => success.inc(),
            Err(error) => {
                let cause = error.cause();
                self.failed.get_or_create(&CauseLabel { cause }).inc()
            }
        };
    }
}

impl Containers {
    /// A writer without a fence, where there is only one manager. Makes no call yet.
    #[must_use]
    pub fn new(client: VncClient, config: &Config) -> Arc<Self> {
        Self::fenced(client, config, Fence::alone())
    }

    /// A writer that writes only behind this fence.
    #[must_use]
    pub fn fenced(client: VncClient, config: &Config, fence: Fence) -> Arc<Self> {
        Arc::new(Self {
            resolver: NameResolver::new(client.clone(), config),
            client,
            defaults: config.defaults.clone(),
            max_ports: config.ports,
            locks: KeyedLocks::default(),
            rollbacks: RollbackQueue::new(config.rollback_delay),
            fence,
            metrics: ContainerMetrics::default(),
            history: History::default(),
            requests: RecentRequests::default(),
            is_reconciled: config.follow.is_some(),
        })
    }

    /// The fence of everything that writes.
    pub(crate) fn fence(&self) -> &Fence {
        &self.fence
    }

    /// The metrics.
    pub(crate) fn metrics(&self) -> &ContainerMetrics {
        &self.metrics
    }

    /// What happened to each container.
    pub(crate) fn history(&self) -> &History {
        &self.history
    }

    /// Notes that an agent of this name exists.
    pub(crate) fn add_agent(&self, name: &str) {
        self.resolver.agents().add(name);
    }

    /// How many ports a container may have.
    pub(crate) fn max_ports(&self) -> usize {
        self.max_ports
    }

    /// The number of requests that were sent to API servers.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.client.requests()
    }

    /// When an agent last requested a container.
    pub(crate) fn last_requested(&self, vm: Uuid) -> Option<Instant> {
        self.requests.last(vm)
    }

    /// The networks with these uuids that exist.
    pub(crate) async fn read_networks(
        &self,
        uuids: Vec<Uuid>,
    ) -> Result<Vec<Network>, ManagerError> {
        self.resolver.read_networks(uuids).await
    }

    /// Empties the cache of names: an object that was cached is gone.
    pub(crate) fn clear_name_cache(&self) {
        self.resolver.clear();
    }

    /// Creates a container's ports, completes them, or finds them complete.
    pub async fn put(
        &self,
        agent: &str,
        vm: Uuid,
        request: &PortsRequest,
    ) -> Result<Ports, ManagerError> {
        let started = Instant::now();
        // Boxed: the future of a whole PUT is large, and callers hold it in theirs.
        let work = Box::pin(self.put_unfenced(agent, vm, request));
        let created = self.fence.run_in_term(work).await;
        self.metrics.count(&created, &self.metrics.created);
        let elapsed = started.elapsed();
        let container = request.container.to_string();
        let (action, description) = match &created {
            Ok(ports) => {
                let summary = summary(ports);
                log::info!(container, machine:% = vm, agent, elapsed_ms = millis(elapsed); "ports created: {summary}");
                (Action::Created, summary)
            }
            Err(error) => {
                log::error!(container, machine:% = vm, agent, elapsed_ms = millis(elapsed), error:%; "cannot create ports");
                (Action::Failed, format!("cannot create ports: {error}"))
            }
        };
        let outcome = (action, description.as_str());
        let actor = Actor::Agent(agent.into());
        self.history
            .record(vm, Some(&container), actor, elapsed, outcome);
        let annotations = &request.annotations;
        let executor = annotations
            .get(annotation::TASK)
            .or_else(|| annotations.get(annotation::EXECUTOR));
        if let (Some(framework), Some(executor)) =
            (annotations.get(annotation::FRAMEWORK_ID), executor)
        {
            self.history.set_executor(vm, framework, executor);
        }
        created
    }

    async fn put_unfenced(
        &self,
        agent: &str,
        vm: Uuid,
        request: &PortsRequest,
    ) -> Result<Ports, ManagerError> {
        let specs = objects::validate(vm, request, &self.defaults, self.max_ports)
            .map_err(ManagerError::Invalid)?;
        let _guard = self.locks.lock(vm).await;
        // From here on, whatever exists of the container belongs to this request.
        self.rollbacks.cancel(vm);
        self.requests.record(vm);
        let mut rollback = Rollback::Never;
        let mut created = self
            .resolve_and_create(agent, vm, request, &specs, &mut rollback)
            .await;
        if created.as_ref().is_err_and(ManagerError::is_object_gone) {
            // An object of a cached name was deleted: resolve the names again.
            self.resolver.clear();
            created = self
                .resolve_and_create(agent, vm, request, &specs, &mut rollback)
                .await;
        }
        if let Err(error) = &created
            && rollback != Rollback::Never
        {
            if error.is_transient() {
                self.rollbacks.schedule(vm, rollback, self.fence.term());
            } else {
                self.roll_back(vm, rollback).await;
            }
        }
        created
    }

    async fn resolve_and_create(
        &self,
        agent: &str,
        vm: Uuid,
        request: &PortsRequest,
        specs: &[PortSpec],
        rollback: &mut Rollback,
    ) -> Result<Ports, ManagerError> {
        let router = self.resolver.router(agent, request.virtual_router_address);
        let networks = join_all(specs.iter().map(|spec| self.resolve(spec)));
        let (router, networks) = tokio::join!(router, networks);
        let mut problems = vec![];
        let router = collect_problems(router, &mut problems)?;
        let object = objects::virtual_machine(vm, agent, request, &self.defaults);
        let annotations = &object.common.annotations;
        let mut interfaces = vec![];
        let count = request.ports.len();
        for (index, (network, spec)) in networks.into_iter().zip(specs).enumerate() {
            let Some(network) = collect_problems(network, &mut problems)? else {
                continue;
            };
            let place = (index, count);
            match objects::port(vm, place, &request.ports[index], spec, network, annotations) {
                Ok(port) => interfaces.push(DesiredInterface {
                    uuid: port.uuid,
                    spec: spec.clone(),
                    planned: Some(port),
                }),
                Err(invalid) => problems.extend(invalid),
            }
        }
        match router {
            Some(router) if problems.is_empty() => {
                let desired = DesiredState {
                    router: Some(router),
                    interfaces,
                    is_exhaustive: true,
                    ..DesiredState::default()
                };
                self.create(agent, router, object, &desired, rollback).await
            }
            _ => Err(ManagerError::Invalid(problems)),
        }
    }

    /// Resolves every name of a port; returns its network.
    async fn resolve(&self, spec: &PortSpec) -> Result<Arc<Network>, ManagerError> {
        // First the project: one that may be created must exist before its network.
        let project = self.resolver.project(&spec.project).await;
        let network = self.resolver.network(&spec.network, &spec.subnets);
        let groups = spec
            .security_groups
            .iter()
            .map(|group| self.resolver.security_group(group));
        let pools = spec
            .floating_ips
            .iter()
            .map(|floating_ip| self.resolver.floating_ip_pool(&floating_ip.pool));
        let (network, groups, pools) = tokio::join!(network, join_all(groups), join_all(pools));
        let mut problems = vec![];
        collect_problems(project, &mut problems)?;
        let network = collect_problems(network, &mut problems)?;
        for uuid in groups.into_iter().chain(pools) {
            collect_problems(uuid, &mut problems)?;
        }
        match network {
            Some(network) if problems.is_empty() => Ok(network),
            _ => Err(ManagerError::Invalid(problems)),
        }
    }

    /// Whether an object was created by this cluster's manager.
    fn is_ours(&self, annotations: &KeyValues) -> bool {
        model::is_owned(annotations, &self.defaults.cluster)
    }

    /// Refuses a container that is not ours, or that belongs to another agent.
    fn check_owner(
        &self,
        vm: Uuid,
        annotations: &KeyValues,
        agent: Option<&str>,
    ) -> Result<(), ManagerError> {
        if !self.is_ours(annotations) {
            return Err(ManagerError::Foreign(format!(
                "the virtual-machine {vm} was not created by the manager of cluster {:?} and is \
                 not touched",
                self.defaults.cluster
            )));
        }
        match (agent, annotations.get(annotation::AGENT)) {
            (Some(agent), Some(owner)) if owner != agent => Err(ManagerError::Foreign(format!(
                "the container with the virtual-machine {vm} does not belong to agent {agent:?}; \
                 an agent touches its own containers only"
            ))),
            _ => Ok(()),
        }
    }
}

/// Collects what is invalid about a request, so that all of it is reported; passes other errors on.
fn collect_problems<T>(
    result: Result<T, ManagerError>,
    problems: &mut Vec<String>,
) -> Result<Option<T>, ManagerError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(ManagerError::Invalid(invalid)) => {
            for problem in invalid {
                if !problems.contains(&problem) {
                    problems.push(problem);
                }
            }
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn summary(ports: &Ports) -> String {
    let ports: Vec<_> = ports
        .ports
        .iter()
        .map(|port| {
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
        })
        .collect();
    ports.join(", ")
}
