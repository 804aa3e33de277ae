//! The containers with networks of their own that the isolator tracks.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::checkpoint::{Checkpoint, CheckpointedNetwork, ExecutorKey};
use crate::proto::mesos::network_info::{IpAddress, Protocol};
use crate::proto::mesos::{ContainerStatus, Label, NetworkInfo};
use crate::provider::Attachment;
use contrail_mesos_api::container::ContainerId;

/// A container with networks of its own.
pub(super) struct Container {
    pub(super) id: ContainerId,
    /// The executor that the container belongs to, if known.
    pub(super) executor: Option<ExecutorKey>,
    /// Held during each step that changes the container: one at a time, in the order of the calls.
    pub(super) lock: tokio::sync::Mutex<()>,
    state: Mutex<NetworkState>,
    /// Why the container has lost its network, once it has.
    pub(super) lost: watch::Sender<Option<String>>,
}

/// The networks of a container, for answers from memory.
#[derive(Clone, Default)]
pub(super) struct NetworkState {
    /// `None` before the reservation, and for a container whose checkpoint is damaged.
    pub(super) checkpoint: Option<Checkpoint>,
    /// One per network of the checkpoint, once the attach is complete.
    pub(super) attachments: Option<Vec<Attachment>>,
    /// Of a living container without a checkpoint: the networks that it requested, with the addresses
    /// that it has.
    pub(super) networks_without_checkpoint: Vec<NetworkInfo>,
}

impl NetworkState {
    /// The networks in order, each with its attachment once there is one.
    pub(super) fn networks(
        &self,
    ) -> impl Iterator<Item = (&CheckpointedNetwork, Option<&Attachment>)> {
        self.checkpoint
            .iter()
            .flat_map(|checkpoint| &checkpoint.networks)
            .enumerate()
            .map(|(index, network)| {
                let attachments = self.attachments.as_ref();
                (network, attachments.and_then(|all| all.get(index)))
            })
    }
}

impl Container {
    pub(super) fn new(id: ContainerId, executor: Option<ExecutorKey>, state: NetworkState) -> Self {
        Self {
            id,
            executor,
            lock: tokio::sync::Mutex::default(),
            state: Mutex::new(state),
            lost: watch::Sender::new(None),
        }
    }

    /// Must not be held across an await or a call out of this module's callers.
    pub(super) fn state(&self) -> MutexGuard<'_, NetworkState> {
        lock(&self.state)
    }

    /// What the container's task status shows: the requested networks with the addresses that the
    /// container has, in order.
    pub(super) fn status(&self) -> ContainerStatus {
        let state = self.state();
        let network_infos = state.networks().map(|(network, attachment)| {
            let addresses = attachment.map_or(&network.intent.addresses, |attachment| {
                &attachment.addresses
            });
            NetworkInfo {
                ip_addresses: addresses
                    .iter()
                    .map(|address| ip_address(address.addr()))
                    .collect(),
                ..network.network_info.to_message(&network.intent.network)
            }
        });
        ContainerStatus {
            network_infos: network_infos
                .chain(state.networks_without_checkpoint.iter().cloned())
                .collect(),
            ..ContainerStatus::default()
        }
    }
}

/// What the last updates of a task show whose container has ended: an executor sends them after the
/// end of a nested container. Without this they would show the networks of its parent.
#[derive(Clone, Debug, Default)]
pub(super) struct EndedContainer {
    pub(super) network_infos: Vec<NetworkInfo>,
    pub(super) labels: Vec<Label>,
}

/// The container whose network namespace another one is in.
pub(super) enum NamespaceOwner {
    /// It is tracked.
    Tracked(Arc<Container>),
    /// It has ended.
    Ended(Arc<EndedContainer>),
}

/// How many ended nested containers are remembered. The oldest are forgotten first.
const MAX_ENDED_CONTAINERS: usize = 1024;

/// All containers with networks of their own.
#[derive(Default)]
pub(super) struct Containers {
    by_id: HashMap<ContainerId, Arc<Container>>,
    /// Every update of a task's status looks up its executor's container.
    by_executor: HashMap<ExecutorKey, ContainerId>,
    /// Nested containers with networks of their own that have ended, as long as their top-level
    /// container lives.
    ended: HashMap<ContainerId, Arc<EndedContainer>>,
    /// The ids of `ended`, the oldest first.
    ended_order: VecDeque<ContainerId>,
}

impl Containers {
    /// By the parts of its id.
    pub(super) fn get(&self, id: &[String]) -> Option<&Arc<Container>> {
        self.by_id.get(id)
    }

    pub(super) fn by_executor(&self, executor: &ExecutorKey) -> Option<&Arc<Container>> {
        self.by_id.get(self.by_executor.get(executor)?)
    }

    /// The container whose network namespace `id` is in: itself, or its nearest ancestor that has
    /// networks of its own.
    pub(super) fn namespace_owner(&self, id: &ContainerId) -> Option<NamespaceOwner> {
        id.with_ancestors().find_map(|parts| {
            let tracked = self.get(parts).cloned().map(NamespaceOwner::Tracked);
            tracked.or_else(|| self.ended.get(parts).cloned().map(NamespaceOwner::Ended))
        })
    }

    /// Remembers what a nested container had that has ended.
    pub(super) fn insert_ended(&mut self, id: ContainerId, ended: EndedContainer) {
        if self.ended.insert(id.clone(), Arc::new(ended)).is_none() {
            self.ended_order.push_back(id);
        }
        if self.ended_order.len() > MAX_ENDED_CONTAINERS
            && let Some(oldest) = self.ended_order.pop_front()
        {
            self.ended.remove(&oldest);
        }
    }

    fn forget_ended_in(&mut self, top_level: &ContainerId) {
        let is_inside = |id: &ContainerId| id.parts().next() == top_level.parts().next();
        self.ended.retain(|id, _| !is_inside(id));
        self.ended_order.retain(|id| !is_inside(id));
    }

    pub(super) fn insert(&mut self, container: Arc<Container>) {
        if let Some(executor) = &container.executor {
            self.by_executor
                .insert(executor.clone(), container.id.clone());
        }
        self.by_id.insert(container.id.clone(), container);
    }

    pub(super) fn remove(&mut self, id: &ContainerId) {
        let removed = self.by_id.remove(id);
        if id.depth() == 0 && !self.ended.is_empty() {
            self.forget_ended_in(id);
        }
        let executor = removed.and_then(|container| container.executor.clone());
        // The executor may have another container by now.
        if let Some(executor) = executor
            && self.by_executor.get(&executor) == Some(id)
        {
            self.by_executor.remove(&executor);
        }
    }
}

pub(super) fn ip_address(address: IpAddr) -> IpAddress {
    let family = match address {
        IpAddr::V4(_) => Protocol::Ipv4,
        IpAddr::V6(_) => Protocol::Ipv6,
    };
    IpAddress {
        protocol: Some(family.into()),
        ip_address: Some(address.to_string().into_bytes()),
    }
}

/// Locks a mutex, poisoned or not: its users replace the value as a whole, so a panic cannot
/// leave it half-changed.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
