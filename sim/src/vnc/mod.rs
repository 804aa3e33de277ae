//! A VNC API server, in memory.
//!
//! It responds as the real server of release 2005 does, including its errors and oddities: a test
//! replays recorded exchanges against it. On request it is slow, wrong or unreachable. It logs
//! requests, and it notifies followers of every change and of the virtual-routers that the change
//! concerns. Other processes use its control listener for all of that.
//!
//! ```text
//! server   HTTP and tokens
//! control  the control listener
//! api      routes → create, change, list, actions, collections, tags
//! hooks    what each type does beyond storing; addresses
//! store    the objects; schema defines their types
//! ```

mod actions;
mod addresses;
mod api;
mod auth;
mod change;
mod changes;
mod collections;
mod control;
mod create;
mod db;
mod defaults;
mod discovery_root;
mod error_page;
mod hooks;
mod list;
mod options;
mod python_repr;
mod render;
mod request;
mod response;
mod schema;
mod server;
mod store;
mod tags;
mod validate;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::broadcast;
use uuid::Uuid;

pub use crate::harness::{Effect, Fault};
pub use auth::{Keystone, User};
pub use changes::{Change, Operation};
pub use control::Event;
pub use options::{Auth, Options};

use crate::harness::{Service, ServiceOptions};
use render::FieldSelection;
use schema::schema;
use server::Shared;

/// A logged request, with the changes that it made.
pub type RequestRecord = crate::harness::RequestRecord<Change>;

/// A server.
#[derive(Debug)]
pub struct Server;

impl Server {
    /// Starts a server on a free port of the loopback interface.
    pub async fn start(options: Options) -> io::Result<(SocketAddr, Handle)> {
        Self::start_on(SocketAddr::from(([127, 0, 0, 1], 0)), options).await
    }

    /// Starts a server at this address.
    pub async fn start_on(
        address: SocketAddr,
        options: Options,
    ) -> io::Result<(SocketAddr, Handle)> {
        let listener = TcpListener::bind(address).await?;
        let shared = Shared::new(options);
        let service_options = ServiceOptions {
            name: "the API server".to_owned(),
            split_writes: shared.options.split_writes,
            online: Arc::clone(shared.frontend.online()),
            on_unplug: Box::new(|| ()),
        };
        let router = server::router(Arc::clone(&shared));
        let service = Arc::new(Service::start(service_options, listener, router)?);
        Ok((service.address(), Handle { shared, service }))
    }
}

/// A running server. It ends with the runtime, or when it is unplugged.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
    service: Arc<Service>,
}

impl Handle {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.service.address()
    }

    /// `http://host:port`
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Creates an object directly, as a request with this body would, and returns its uuid, or the
    /// server's error message.
    pub fn create(&self, kind: &str, body: Value) -> Result<Uuid, String> {
        let mut state = self.shared.lock();
        let created = create::internal(&mut state.db, kind, body);
        self.shared.publish(&mut state.db);
        created.map_err(|error| error.text)
    }

    /// Adds a fault. Of several that match a request, the one that was added first applies.
    pub fn fault(&self, fault: Fault) {
        self.shared.faults.add(None, fault);
    }

    /// Removes all faults.
    pub fn clear_faults(&self) {
        self.shared.faults.clear();
    }

    /// Delays every response.
    pub fn set_delay(&self, delay: Duration) {
        self.shared.faults.set_delay(delay);
    }

    /// Expires every token.
    pub fn expire_tokens(&self) {
        self.shared.lock().tokens.expire();
    }

    /// The latest requests, in the order of arrival.
    #[must_use]
    pub fn log(&self) -> Vec<RequestRecord> {
        self.shared.frontend.log_since(0)
    }

    /// Every change from now on.
    #[must_use]
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.shared.changes.subscribe()
    }

    /// The number of objects by type, without types that have none.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<String, usize> {
        let state = self.shared.lock();
        let kinds = schema().kinds().iter().enumerate();
        kinds
            .map(|(id, kind)| (kind.name.clone(), state.db.store.of_kind(id).count()))
            .filter(|(_, count)| *count > 0)
            .collect()
    }

    /// All objects of a type by name, with references, back references and children.
    #[must_use]
    pub fn objects(&self, kind: &str) -> Vec<Value> {
        let state = self.shared.lock();
        let Some(id) = schema().id(kind) else {
            return Vec::new();
        };
        state
            .db
            .store
            .of_kind(id)
            .map(|object| {
                render::object(&state.db, object, &FieldSelection::everything(), None).into()
            })
            .collect()
    }

    /// One object, likewise.
    #[must_use]
    pub fn object(&self, uuid: &str) -> Option<Value> {
        let state = self.shared.lock();
        let object = state.db.store.find(uuid)?;
        Some(render::object(&state.db, object, &FieldSelection::everything(), None).into())
    }

    /// Every allocated address: the network or ipam, the address and its holder. The holder is the
    /// uuid of an instance-ip, a floating-ip or an alias-ip, or `ip-alloc`.
    #[must_use]
    pub fn addresses(&self) -> Vec<(Uuid, IpAddr, String)> {
        self.shared.lock().db.pools.allocations()
    }

    /// Makes the server unreachable; its state stays.
    pub fn unplug(&self) {
        self.service.unplug();
    }

    /// Makes the server reachable again, at the same address.
    pub async fn plug(&self) -> io::Result<()> {
        self.service.plug().await
    }
}
