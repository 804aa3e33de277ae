//! One container with networks of its own, as the isolator remembers it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::checkpoint::Checkpoint;
use crate::container::ContainerId;
use crate::proto::mesos::network_info::{IpAddress, Protocol};
use crate::proto::mesos::{ContainerStatus, NetworkInfo};
use crate::provider::Attachment;

/// A container with networks of its own.
pub(super) struct Container {
    pub(super) id: ContainerId,
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
    pub(super) fn new(id: ContainerId, known: Known) -> Self {
        Self {
            id,
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
