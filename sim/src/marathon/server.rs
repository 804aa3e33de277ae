//! The servers of one Marathon: one address and one log each, and all else in common, as the real
//! ones have it in common in ZooKeeper. One of them leads, or none.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use super::events::Bus;
use super::http;
use super::options::Options;
use super::store::Store;
use crate::vnc::Fault;
use crate::vnc::log::Log;
use crate::vnc::wire::{Peer, Wire};

/// What all servers and the scheduler share.
pub(super) struct Shared {
    pub(super) options: Options,
    pub(super) servers: Vec<Server>,
    pub(super) leader: watch::Sender<Option<usize>>,
    pub(super) bus: Arc<Bus>,
    pub(super) changed: Notify,
    /// Each with the server that it is of, or for whoever a client asks.
    pub(super) faults: Mutex<Vec<(Option<usize>, Fault)>>,
    pub(super) delay: Mutex<Duration>,
    store: Mutex<Store>,
}

/// One server.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    pub(super) online: AtomicBool,
    pub(super) log: Mutex<Log>,
    task: Mutex<Option<JoinHandle<()>>>,
}

/// What a panic left behind cannot be half changed in a way that matters here.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The store; what happens to it is told when it is let go.
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
        // Still under the lock: events come in the order of what they tell.
        for event in self.store.take_events() {
            self.bus.publish(event);
        }
    }
}

impl Shared {
    /// Opens every server.
    pub(super) async fn open(mut options: Options) -> io::Result<Arc<Self>> {
        let mut listeners = vec![TcpListener::bind(options.listen).await?];
        for address in &options.standbys {
            listeners.push(TcpListener::bind(address).await?);
        }
        let mut servers = Vec::new();
        for listener in &listeners {
            servers.push(Server {
                address: listener.local_addr()?,
                online: AtomicBool::new(true),
                log: Mutex::new(Log::new(options.log_limit)),
                task: Mutex::default(),
            });
        }
        options.listen = servers[0].address;
        let mut store = Store::new(options.defaults.clone(), options.images.clone());
        store.version = options.version;
        let shared = Arc::new(Self {
            servers,
            leader: watch::channel(Some(0)).0,
            bus: Bus::new(options.version, options.outstanding, options.heartbeat),
            changed: Notify::new(),
            faults: Mutex::default(),
            delay: Mutex::default(),
            store: Mutex::new(store),
            options,
        });
        for (server, listener) in listeners.into_iter().enumerate() {
            shared.serve(server, listener);
        }
        Ok(shared)
    }

    fn serve(self: &Arc<Self>, server: usize, tcp: TcpListener) {
        let Some(own) = self.servers.get(server) else {
            return;
        };
        own.online.store(true, Ordering::SeqCst);
        let router = http::router(Arc::clone(self), server);
        let service = router.into_make_service_with_connect_info::<Peer>();
        let task = tokio::spawn(async move {
            let ended = axum::serve(Wire { tcp, split: false }, service).await;
            if let Err(error) = ended {
                log::error!("server {server} of the Marathon ended: {error}");
            }
        });
        *lock(&own.task) = Some(task);
    }

    /// Nobody can reach this server any more.
    pub(super) fn unplug(&self, server: usize) {
        if let Some(own) = self.servers.get(server) {
            own.online.store(false, Ordering::SeqCst);
            if let Some(task) = lock(&own.task).take() {
                task.abort();
            }
            self.bus.close(Some(server));
        }
    }

    /// It can be reached again, at the same address.
    pub(super) async fn plug(self: &Arc<Self>, server: usize) -> io::Result<()> {
        let own = self.servers.get(server).ok_or(io::ErrorKind::NotFound)?;
        if own.online.load(Ordering::SeqCst) {
            return Ok(());
        }
        // The listener is gone once its task has ended, which may be a moment after.
        let mut tries = 0;
        let listener = loop {
            match TcpListener::bind(own.address).await {
                Ok(listener) => break listener,
                Err(problem) if tries >= 500 => return Err(problem),
                Err(_) => tries += 1,
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        self.serve(server, listener);
        Ok(())
    }

    /// The store. Hold it for no longer than it takes to look or to change.
    pub(super) fn store(&self) -> StoreGuard<'_> {
        StoreGuard {
            store: lock(&self.store),
            bus: &self.bus,
        }
    }

    /// Tells the scheduler that there is something to do.
    pub(super) fn wake(&self) {
        self.changed.notify_one();
    }

    /// Who leads.
    pub(super) fn leader(&self) -> Option<usize> {
        *self.leader.borrow()
    }

    /// From now on this server leads, or none.
    pub(super) fn set_leader(&self, leader: Option<usize>) {
        let leader = leader.filter(|leader| *leader < self.servers.len());
        let before = self.leader.send_replace(leader);
        if before != leader {
            self.bus.close(None);
        }
    }

    /// Where the leader is.
    pub(super) fn leader_address(&self) -> Option<SocketAddr> {
        Some(self.servers.get(self.leader()?)?.address)
    }
}
