//! A VNC API server, in memory.
//!
//! It answers as the real one of release 2005 does, refusals and oddities included: what was
//! recorded of the real one is replayed against it in a test. In addition it can be slow, wrong or
//! gone on request, it keeps a log of who asked what, and it tells followers of every change and
//! which virtual-routers it concerns. All of that can also be had from another process, at a
//! listener of its own.
//!
//! ```text
//! server  HTTP, faults, tokens, log
//! control the listener for the simulation alone
//! api     which address means what → create, change, list, actions, tags
//! hooks   what each type does beyond storing; addresses
//! store   the objects; schema says which there can be
//! ```

mod actions;
mod addresses;
mod answer;
mod api;
mod auth;
mod change;
mod changes;
mod collections;
mod control;
mod create;
mod db;
mod defaults;
mod home;
mod hooks;
mod list;
pub(crate) mod log;
mod options;
mod python;
mod render;
mod schema;
mod server;
mod store;
mod tags;
mod time;
mod validate;
pub(crate) mod wire;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::broadcast;
use tokio::task::JoinHandle;
use uuid::Uuid;

pub use auth::{Keystone, User};
pub use changes::{Change, Operation};
pub use control::Event;
pub use log::Entry;
pub use options::{Auth, Effect, Fault, Keep, Options};

use render::Wanted;
use schema::schema;
use server::Shared;
use wire::{Peer, Wire};

/// Serves on a listener, until the future is dropped.
pub async fn serve(listener: TcpListener, options: Options) -> io::Result<()> {
    run(listener, Shared::new(options)).await
}

async fn run(tcp: TcpListener, shared: Arc<Shared>) -> io::Result<()> {
    let split = shared.options.split_writes;
    let service = server::router(shared).into_make_service_with_connect_info::<Peer>();
    axum::serve(Wire { tcp, split }, service).await
}

/// A server.
#[derive(Debug)]
pub struct Server;

impl Server {
    /// Starts one on a free port of this machine alone.
    pub async fn start(options: Options) -> io::Result<(SocketAddr, Handle)> {
        Self::start_on(SocketAddr::from(([127, 0, 0, 1], 0)), options).await
    }

    /// Starts one at this address.
    pub async fn start_on(
        address: SocketAddr,
        options: Options,
    ) -> io::Result<(SocketAddr, Handle)> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let shared = Shared::new(options);
        let task = tokio::spawn(run(listener, shared.clone()));
        let handle = Handle {
            address,
            shared,
            task: Arc::new(Mutex::new(Some(task))),
        };
        Ok((address, handle))
    }
}

/// A running server, seen from the inside. It ends with the runtime, or when it is unplugged.
#[derive(Clone)]
pub struct Handle {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: Arc<Mutex<Option<JoinHandle<io::Result<()>>>>>,
}

impl Handle {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://host:port`
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Makes an object at once, as a request with this body would, and says its uuid; or why not,
    /// in the server's words.
    pub fn create(&self, kind: &str, body: Value) -> Result<Uuid, String> {
        let mut inner = self.shared.lock();
        let made = create::internal(&mut inner.db, kind, body);
        for change in std::mem::take(&mut inner.db.changes) {
            // Nobody has to listen.
            let _ = self.shared.changes.send(change);
        }
        made.map_err(|refusal| refusal.text)
    }

    /// Makes something go wrong from now on, after what already does.
    pub fn fault(&self, fault: Fault) {
        self.shared.lock().faults.push(fault);
    }

    /// Lets everything go well again.
    pub fn clear_faults(&self) {
        self.shared.lock().faults.clear();
    }

    /// Makes every answer take so long.
    pub fn set_delay(&self, delay: Duration) {
        self.shared.lock().delay = delay;
    }

    /// Makes every token one that has expired.
    pub fn expire_tokens(&self) {
        self.shared.lock().tokens.expire();
    }

    /// The latest requests in the order in which they came in.
    #[must_use]
    pub fn log(&self) -> Vec<Entry> {
        self.shared.lock().log.entries()
    }

    /// Every change from now on.
    #[must_use]
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.shared.changes.subscribe()
    }

    /// How many objects there are of each type that has any.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<String, usize> {
        let inner = self.shared.lock();
        let kinds = schema().kinds().iter().enumerate();
        kinds
            .map(|(id, kind)| (kind.name.clone(), inner.db.store.of_kind(id).count()))
            .filter(|(_, count)| *count > 0)
            .collect()
    }

    /// All objects of a type by name, with everything that they refer to and that refers to them.
    #[must_use]
    pub fn objects(&self, kind: &str) -> Vec<Value> {
        let inner = self.shared.lock();
        let Some(id) = schema().id(kind) else {
            return Vec::new();
        };
        let wanted = Wanted {
            back_refs: true,
            children: true,
            ..Wanted::own()
        };
        let objects = inner.db.store.of_kind(id);
        objects
            .map(|object| Value::Object(render::object(&inner.db, object, &wanted, None)))
            .collect()
    }

    /// One object, likewise.
    #[must_use]
    pub fn object(&self, uuid: &str) -> Option<Value> {
        let inner = self.shared.lock();
        let wanted = Wanted {
            back_refs: true,
            children: true,
            ..Wanted::own()
        };
        let object = inner.db.store.find(uuid)?;
        Some(render::object(&inner.db, object, &wanted, None).into())
    }

    /// Every address that somebody has: of which network or ipam, and who. The holder is the uuid
    /// of an instance-ip, a floating-ip or an alias-ip, or `ip-alloc`.
    #[must_use]
    pub fn addresses(&self) -> Vec<(Uuid, IpAddr, String)> {
        self.shared.lock().db.pools.taken()
    }

    /// Nobody can reach it any more; what it knows stays.
    pub fn unplug(&self) {
        self.shared.lock().online = false;
        let task = self
            .task
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(task) = task {
            task.abort();
        }
    }

    /// It can be reached again at the same address.
    pub async fn plug(&self) -> io::Result<()> {
        // The listener is gone once the task has ended, which may be a moment after unplugging.
        let mut tries = 0;
        let listener = loop {
            match TcpListener::bind(self.address).await {
                Ok(listener) => break listener,
                Err(problem) if tries >= 50 => return Err(problem),
                Err(_) => tries += 1,
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        self.shared.lock().online = true;
        let task = tokio::spawn(run(listener, self.shared.clone()));
        *self.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
        Ok(())
    }
}
