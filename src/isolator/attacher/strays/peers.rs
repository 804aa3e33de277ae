//! What the agent and the managers know of this host's containers, compared with the checkpoints.
//!
//! Invariants: an attached container has a checkpoint before anybody else knows it, and until everybody
//! else has forgotten it. So the checkpoints are read before a peer is asked for what it lacks, and after it
//! was asked for what it has too much. A peer that does not answer is named, and nothing is concluded.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use contrail_mesos_api::agent_api::{Ports, vm_uuid};
use contrail_mesos_api::container::ContainerId;
use serde::Serialize;
use tokio::task::spawn_blocking;
use uuid::Uuid;

use super::{Origin, Stray, container_of};
use crate::isolator::attacher::{Attacher, intents};
use crate::isolator::checkpoint::{Checkpoint, Owner, StoredCheckpoint};
use crate::isolator::error::IsolatorError;
use crate::net::netns;
use crate::net::netns::processes::OccupiedNamespaces;
use crate::provider::stray::StrayKind;
use crate::provider::{PendingTeardown, ProviderErrors, ProviderIntent, is_label_of};

type AgentAnswer = Pin<Box<dyn Future<Output = Result<Option<HashSet<String>>, String>> + Send>>;

/// Who else knows the containers of this host.
pub struct Peers {
    agent: Box<dyn Fn() -> AgentAnswer + Send + Sync>,
}

impl Peers {
    /// The managers of the configuration, and the agents as this function asks them: it returns the values
    /// of the ids of all containers that they know, none without an agent, or why an agent does not answer.
    pub fn new<F>(agent: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Option<HashSet<String>>, String>> + Send + 'static,
    {
        Self {
            agent: Box::new(move || Box::pin(agent())),
        }
    }
}

/// A peer that was not compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SilentPeer {
    /// `agent` or `managers`.
    pub peer: &'static str,
    /// Why.
    pub problem: String,
}

/// The checkpoints at one moment.
#[derive(Default)]
struct Snapshot {
    intact: HashMap<ContainerId, Checkpoint>,
    attached: HashSet<ContainerId>,
    /// The machines of containers that are known in any way, and of those with a pending teardown.
    machines: HashSet<Uuid>,
}

impl Attacher {
    /// What the agent and the managers lack, or have too much of.
    pub(super) async fn look_at_peers(
        &self,
        peers: &Peers,
    ) -> Result<(Vec<Stray>, Vec<SilentPeer>), IsolatorError> {
        let before = self.snapshot().await?;
        let (agent, ports) = tokio::join!((peers.agent)(), self.providers.contrail_ports());
        let after = self.snapshot().await?;
        let (mut strays, mut silent) = (vec![], vec![]);
        match agent {
            Ok(None) => {}
            Ok(Some(known)) => {
                strays.extend(self.unknown_containers(&known, &before, &after).await?);
            }
            Err(problem) => silent.push(SilentPeer {
                peer: "agent",
                problem,
            }),
        }
        match ports {
            None => {}
            Some(Ok(ports)) => {
                strays.extend(missing_objects(&ports, &before, &after));
                strays.extend(self.surplus_objects(ports, &after).await?);
            }
            Some(Err(error)) => silent.push(SilentPeer {
                peer: "managers",
                problem: error.to_string(),
            }),
        }
        Ok((strays, silent))
    }

    async fn snapshot(&self) -> Result<Snapshot, IsolatorError> {
        let (checkpoints, providers) = (self.checkpoints.clone(), Arc::clone(&self.providers));
        spawn_blocking(move || {
            let mut snapshot = Snapshot::default();
            for teardown in providers.pending_teardowns() {
                if let PendingTeardown::Contrail(teardown) = teardown {
                    snapshot.machines.insert(teardown.vm_uuid);
                }
            }
            for stored in checkpoints.load_all()? {
                match stored {
                    StoredCheckpoint::Intact {
                        checkpoint,
                        attachments,
                    } => {
                        let container = checkpoint.container.clone();
                        snapshot.machines.insert(vm_uuid(&container));
                        if attachments.is_some() {
                            snapshot.attached.insert(container.clone());
                        }
                        snapshot.intact.insert(container, *checkpoint);
                    }
                    StoredCheckpoint::Damaged { file_name, .. } => {
                        let name = file_name.to_string_lossy();
                        let ids = [ContainerId::top_level(&name), container_of(&name)];
                        snapshot.machines.extend(ids.iter().map(vm_uuid));
                    }
                }
            }
            Ok(snapshot)
        })
        .await?
    }

    /// The checkpoints of containers of an agent that it does not know.
    async fn unknown_containers(
        &self,
        known: &HashSet<String>,
        before: &Snapshot,
        after: &Snapshot,
    ) -> Result<Vec<Stray>, IsolatorError> {
        let unknown: Vec<&Checkpoint> = before
            .intact
            .iter()
            .filter(|(container, checkpoint)| {
                checkpoint.owner == Owner::Agent
                    && !known.contains(container.value())
                    && after.intact.contains_key(*container)
            })
            .map(|(_, checkpoint)| checkpoint)
            .collect();
        let mut strays = vec![];
        if unknown.is_empty() {
            return Ok(strays);
        }
        let providers = Arc::clone(&self.providers);
        let (occupied, links) = spawn_blocking(move || {
            let links = providers.container_links().map_err(ProviderErrors::from)?;
            let occupied = OccupiedNamespaces::list().map_err(IsolatorError::Descriptor)?;
            Ok::<_, IsolatorError>((occupied, links))
        })
        .await??;
        for checkpoint in unknown {
            let file_name = checkpoint.container.file_name();
            let has_link = links.iter().any(|(name, _)| is_label_of(name, &file_name));
            let (problem, is_dead) = match netns::of_path(&self.handle_path(&checkpoint.container))
            {
                Ok(namespace) => match occupied
                    .process_in(&namespace)
                    .map_err(IsolatorError::Descriptor)?
                {
                    Some(pid) => (
                        format!("it is alive (process {pid}), and keeps its network until it ends"),
                        false,
                    ),
                    None => ("it has no process".to_owned(), true),
                },
                Err(_) if has_link => (
                    "its namespace has no handle, so it is not known whether it is alive"
                        .to_owned(),
                    false,
                ),
                Err(_) => ("it has no namespace".to_owned(), true),
            };
            strays.push(Stray {
                kind: StrayKind::UnknownContainer,
                object: checkpoint.container.to_string(),
                container: Some(checkpoint.container.to_string()),
                network: None,
                problem: format!("the agent does not know the container; {problem}"),
                repair: is_dead.then(|| "detach the container".to_owned()),
                origin: Origin::Unknown(Box::new(checkpoint.clone())),
            });
        }
        Ok(strays)
    }

    /// Objects in Contrail for containers of this host that it does not have.
    async fn surplus_objects(
        &self,
        ports: Vec<Ports>,
        after: &Snapshot,
    ) -> Result<Vec<Stray>, IsolatorError> {
        let mut strays = vec![];
        for ports in ports {
            if after.machines.contains(&ports.machine) {
                continue;
            }
            // Another program attaches containers by the same managers, such as contrail-mesos-cni.
            let providers = Arc::clone(&self.providers);
            let (ports, has_traces) = spawn_blocking(move || {
                let has_traces = providers.has_contrail_traces(&ports);
                (ports, has_traces)
            })
            .await?;
            if has_traces.map_err(ProviderErrors::from)? {
                continue;
            }
            let container = ports.container.as_ref().map(ToString::to_string);
            let networks: Vec<&str> = ports
                .ports
                .iter()
                .map(|port| port.virtual_network_name.as_str())
                .collect();
            strays.push(Stray {
                kind: StrayKind::ContrailObjects,
                object: format!("virtual-machine {}", ports.machine),
                container,
                network: (!networks.is_empty()).then(|| networks.join(", ")),
                problem: "the managers have objects in Contrail for a container that this host does not have"
                    .to_owned(),
                repair: Some(
                    "delete the objects, unless the container is attached within the deadline of an attach"
                        .to_owned(),
                ),
                origin: Origin::Objects(ports.machine, ports.container),
            });
        }
        Ok(strays)
    }

    /// Detaches the containers that the agent still does not know, and that have no process.
    pub(super) async fn detach_unknown(
        &self,
        unknown: Vec<Checkpoint>,
        peers: &Peers,
    ) -> Result<(), IsolatorError> {
        if unknown.is_empty() {
            return Ok(());
        }
        let (current, _) = self.look_at_peers(peers).await?;
        let mut errors = vec![];
        for checkpoint in unknown {
            let is_unknown = current.iter().any(|stray| {
                stray.repair.is_some()
                    && matches!(&stray.origin, Origin::Unknown(other) if **other == checkpoint)
            });
            if is_unknown {
                log::info!(container:% = checkpoint.container; "detaching a container that the agent does not know");
                errors.extend(self.detach(&checkpoint).await.err());
            }
        }
        IsolatorError::combine(errors)
    }

    /// Deletes objects in Contrail that still belong to no container after the deadline of an attach:
    /// that of another program, which makes the objects first, is complete then.
    pub(super) async fn delete_objects(
        &self,
        objects: &[Uuid],
        peers: &Peers,
    ) -> Result<(), IsolatorError> {
        let Some(deadline) = self
            .providers
            .contrail_deadline()
            .filter(|_| !objects.is_empty())
        else {
            return Ok(());
        };
        tokio::time::sleep(deadline).await;
        let (current, _) = self.look_at_peers(peers).await?;
        let mut errors = vec![];
        for stray in current {
            if let Origin::Objects(machine, container) = stray.origin
                && objects.contains(&machine)
            {
                log::info!("deleting the objects of {machine}, which is no container of this host");
                let deleted = self
                    .providers
                    .delete_contrail_objects(machine, container.as_ref());
                errors.extend(deleted.await.err().map(ProviderErrors::from));
            }
        }
        IsolatorError::combine(errors.into_iter().map(IsolatorError::Provider).collect())
    }
}

/// Attached containers whose objects are gone.
fn missing_objects(ports: &[Ports], before: &Snapshot, after: &Snapshot) -> Vec<Stray> {
    let machines: HashSet<Uuid> = ports.iter().map(|ports| ports.machine).collect();
    let is_attached = |container: &ContainerId| {
        before.attached.contains(container) && after.attached.contains(container)
    };
    after
        .intact
        .iter()
        .filter(|(container, _)| is_attached(container))
        .filter_map(|(container, checkpoint)| {
            let mut intents = intents(checkpoint);
            let (machine, network) = intents.find_map(|intent| match &intent.provider {
                ProviderIntent::Contrail(contrail) => Some((contrail.vm_uuid, &intent.network)),
                _ => None,
            })?;
            (!machines.contains(&machine)).then(|| Stray {
                kind: StrayKind::MissingObjects,
                object: format!("virtual-machine {machine}"),
                container: Some(container.to_string()),
                network: Some(network.clone()),
                problem: "the managers have no complete objects in Contrail for this container, so another may get \
                          its addresses: end it"
                    .to_owned(),
                repair: None,
                origin: Origin::None,
            })
        })
        .collect()
}
