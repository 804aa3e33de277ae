//! The containers with networks of their own, as the isolator remembers them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::checkpoint::{Checkpoint, ExecutorKey};
use crate::proto::mesos::network_info::{IpAddress, Protocol};
use crate::proto::mesos::{ContainerStatus, NetworkInfo};
use crate::provider::Attachment;
use contrail_mesos_api::container::ContainerId;

/// A container with networks of its own.
pub(super) struct Container {
    pub(super) id: ContainerId,
    /// Whose container it is, where that is known.
    pub(super) executor: Option<ExecutorKey>,
    /// Held by whoever changes the container: one step at a time, in the order of the calls.
    pub(super) gate: tokio::sync::Mutex<()>,
    known: Mutex<Known>,
    /// Why the container's network is lost, once it is.
    pub(super) lost: watch::Sender<Option<String>>,
}

/// What is known of a container, for answers from memory.
#[derive(Clone, Default)]
pub(super) struct Known {
    /// `None` before the reservation, and for a container whose checkpoint is damaged.
    pub(super) checkpoint: Option<Checkpoint>,
    /// What was made beyond the checkpoint, once the attach has come to its end.
    pub(super) made: Option<Vec<Attachment>>,
}

impl Container {
    pub(super) fn new(id: ContainerId, executor: Option<ExecutorKey>, known: Known) -> Self {
        Self {
            id,
            executor,
            gate: tokio::sync::Mutex::default(),
            known: Mutex::new(known),
            lost: watch::Sender::new(None),
        }
    }

    /// For a moment only: never across an await, never while calling out.
    pub(super) fn known(&self) -> MutexGuard<'_, Known> {
        lock(&self.known)
    }

    /// What the container's task status shows: what was asked for, with the addresses it has, in
    /// the order of the networks.
    pub(super) fn status(&self) -> ContainerStatus {
        let known = self.known();
        let networks = known
            .checkpoint
            .iter()
            .flat_map(|checkpoint| &checkpoint.networks);
        let network_infos = networks.enumerate().map(|(index, network)| {
            let made = known.made.as_ref().and_then(|made| made.get(index));
            let addresses = made.map_or(&network.intent.addresses, |made| &made.addresses);
            NetworkInfo {
                ip_addresses: addresses
                    .iter()
                    .map(|address| ip_address(address.addr()))
                    .collect(),
                ..network.asked.network_info(&network.intent.network)
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
    /// Every update of a task's status asks for its executor's.
    by_executor: HashMap<ExecutorKey, ContainerId>,
}

impl Containers {
    pub(super) fn get(&self, id: &ContainerId) -> Option<&Arc<Container>> {
        self.by_id.get(id)
    }

    pub(super) fn of_executor(&self, executor: &ExecutorKey) -> Option<&Arc<Container>> {
        self.by_id.get(self.by_executor.get(executor)?)
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = &ContainerId> {
        self.by_id.keys()
    }

    pub(super) fn insert(&mut self, container: Arc<Container>) {
        if let Some(executor) = &container.executor {
            self.by_executor
                .insert(executor.clone(), container.id.clone());
        }
        self.by_id.insert(container.id.clone(), container);
    }

    pub(super) fn remove(&mut self, id: &ContainerId) {
        let executor = self.by_id.remove(id).and_then(|gone| gone.executor.clone());
        // The executor may have another container by now.
        if let Some(executor) = executor
            && self.by_executor.get(&executor) == Some(id)
        {
            self.by_executor.remove(&executor);
        }
    }
}

fn ip_address(address: std::net::IpAddr) -> IpAddress {
    let family = if address.is_ipv4() {
        Protocol::Ipv4
    } else {
        Protocol::Ipv6
    };
    IpAddress {
        protocol: Some(family.into()),
        ip_address: Some(address.to_string().into_bytes()),
    }
}

/// A lock that a panic elsewhere does not take away: what it guards is replaced whole, never
/// left half-changed.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
