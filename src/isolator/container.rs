//! The containers with networks of their own that the isolator tracks.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::checkpoint::{Checkpoint, CheckpointedNetwork, ExecutorKey};
use crate::proto::mesos::network_info::{IpAddress, Protocol};
use crate::proto::mesos::{ContainerStatus, NetworkInfo};
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
            network_infos: network_infos.collect(),
            ..ContainerStatus::default()
        }
    }
}

/// All containers with networks of their own.
#[derive(Default)]
pub(super) struct Containers {
    by_id: HashMap<ContainerId, Arc<Container>>,
    /// Every update of a task's status looks up its executor's container.
    by_executor: HashMap<ExecutorKey, ContainerId>,
}

impl Containers {
    /// By the parts of its id.
    pub(super) fn get(&self, id: &[String]) -> Option<&Arc<Container>> {
        self.by_id.get(id)
    }

    pub(super) fn by_executor(&self, executor: &ExecutorKey) -> Option<&Arc<Container>> {
        self.by_id.get(self.by_executor.get(executor)?)
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
        let executor = removed.and_then(|container| container.executor.clone());
        // The executor may have another container by now.
        if let Some(executor) = executor
            && self.by_executor.get(&executor) == Some(id)
        {
            self.by_executor.remove(&executor);
        }
    }
}

fn ip_address(address: IpAddr) -> IpAddress {
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
