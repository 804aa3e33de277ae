//! The state of a Marathon, which all its servers share, as the real ones share it in ZooKeeper.
//! One server leads, or none.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::{Notify, watch};

use super::events::Bus;
use super::options::Options;
use super::store::Store;
use crate::harness::{FaultTable, Frontend, lock};

/// What all servers and the scheduler share.
pub(super) struct Shared {
    pub(super) options: Options,
    pub(super) servers: Vec<Server>,
    pub(super) leader: watch::Sender<Option<usize>>,
    pub(super) bus: Arc<Bus>,
    pub(super) changed: Notify,
    pub(super) faults: Arc<FaultTable>,
    store: Mutex<Store>,
}

/// One server.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    pub(super) frontend: Arc<Frontend>,
}

/// The locked store. Its events are published when it is unlocked.
pub(super) struct StoreGuard<'a> {
    store: MutexGuard<'a, Store>,
    bus: &'a Bus,
}

impl std::ops::Deref for StoreGuard<'_> {
    type Target = Store;

    fn deref(&self) -> &Store {
        &self.store
    }
}

impl std::ops::DerefMut for StoreGuard<'_> {
    fn deref_mut(&mut self) -> &mut Store {
        &mut self.store
    }
}

impl Drop for StoreGuard<'_> {
    fn drop(&mut self) {
        // Still under the lock, so that events keep the order of the changes.
        for event in self.store.take_events() {
            self.bus.publish(event);
        }
    }
}

impl Shared {
    /// The state of a Marathon whose servers listen at these addresses; the first one leads.
    pub(super) fn new(options: Options, addresses: &[SocketAddr]) -> Arc<Self> {
        let servers = addresses.iter().map(|address| Server {
            address: *address,
            frontend: Frontend::new(options.log_limit, "application/json", "text/html"),
        });
        let mut store = Store::new(options.defaults.clone(), options.images.clone());
        store.version = options.version;
        Arc::new(Self {
            servers: servers.collect(),
            leader: watch::channel(Some(0)).0,
            bus: Bus::new(options.version, options.outstanding, options.heartbeat),
            changed: Notify::new(),
            faults: Arc::default(),
            store: Mutex::new(store),
            options,
        })
    }

    /// The store, locked.
    pub(super) fn store(&self) -> StoreGuard<'_> {
        StoreGuard {
            store: lock(&self.store),
            bus: &self.bus,
        }
    }

    /// Wakes the scheduler.
    pub(super) fn wake(&self) {
        self.changed.notify_one();
    }

    /// The server that leads.
    pub(super) fn leader(&self) -> Option<usize> {
        *self.leader.borrow()
    }

    /// Makes this server the leader, or none.
    pub(super) fn set_leader(&self, leader: Option<usize>) {
        let leader = leader.filter(|leader| *leader < self.servers.len());
        let before = self.leader.send_replace(leader);
        if before != leader {
            self.bus.close(None);
        }
    }

    /// The leader's address.
    pub(super) fn leader_address(&self) -> Option<SocketAddr> {
        Some(self.servers.get(self.leader()?)?.address)
    }
}
