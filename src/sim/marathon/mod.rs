//! Marathon's front end, on a real Mesos: what can be had of Marathon where Marathon cannot be had.
//!
//! Definitions go in through Marathon's REST API (`http`), are kept in canonical form ([`model`]),
//! become messages for Mesos exactly as Marathon 1.8 to 1.11 writes them ([`launch`]), and what
//! Mesos says of the tasks ([`status`], [`instance`]) is shown as Marathon shows it ([`view`]).
//! [`store`] decides. `http` and `scheduler` have the sockets; everything else is pure.
//!
//! Left out: the event stream, several servers and their leader, health checks, constraints,
//! upgrade strategies (a changed definition replaces all instances at once), volumes, secrets.
//! Kept and served, though without effect, where they are fields of a definition.
//!
//! `acceptedResourceRoles` is heeded: an app that accepts `slave_public` only is placed on resources
//! that are reserved for that role, by a Marathon that has that role, or never. For that, give the
//! agent `MESOS_DEFAULT_ROLE=slave_public` (or name the role in `MESOS_RESOURCES`) and [`Options::defaults`] the
//! same role, as public agents and Marathon have on DC/OS.

mod http;
pub mod id;
pub mod instance;
pub mod launch;
mod mesos;
pub mod model;
mod scheduler;
pub mod status;
pub mod store;
#[cfg(test)]
mod tests;
pub mod time;
pub mod view;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

pub use mesos::MesosError;

use launch::image::Images;
use model::Defaults;
use store::Store;

/// What Marathon's command line would say.
#[derive(Clone, Debug)]
pub struct Options {
    /// The Mesos master, `host:port`.
    pub master: String,
    /// Where the API listens; port 0 takes any.
    pub listen: SocketAddr,
    /// The framework's name.
    pub framework_name: String,
    /// How long Mesos keeps the tasks when nobody is here.
    pub failover_timeout: Duration,
    /// When to ask Mesos about every task after (re)connecting.
    pub reconciliation_initial_delay: Duration,
    /// What definitions leave open, the role among it.
    pub defaults: Defaults,
    /// What stands in for images.
    pub images: Images,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            master: "127.0.0.1:5050".to_owned(),
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            framework_name: "marathon".to_owned(),
            failover_timeout: Duration::from_hours(168),
            reconciliation_initial_delay: Duration::from_secs(15),
            defaults: Defaults::default(),
            images: Images::default(),
        }
    }
}

/// What the API and the scheduler share.
struct Shared {
    options: Options,
    address: SocketAddr,
    store: Mutex<Store>,
    changed: Notify,
}

impl Shared {
    /// The store. Hold it for no longer than it takes to look or to change.
    fn store(&self) -> MutexGuard<'_, Store> {
        // A panic while it was held cannot have left it half changed in a way that matters here.
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the scheduler that there is something to do.
    fn wake(&self) {
        self.changed.notify_one();
    }
}

/// A running Marathon.
#[derive(Debug)]
pub struct Marathon {
    address: SocketAddr,
    master: String,
    shared: SharedHandle,
    api: JoinHandle<io::Result<()>>,
    scheduler: JoinHandle<()>,
}

struct SharedHandle(Arc<Shared>);

impl std::fmt::Debug for SharedHandle {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Shared")
    }
}

impl Marathon {
    /// Opens the API and starts to look for the master; the master may come later.
    pub async fn start(options: Options) -> io::Result<Self> {
        let listener = TcpListener::bind(options.listen).await?;
        let address = listener.local_addr()?;
        let store = Store::new(options.defaults.clone(), options.images.clone());
        let master = options.master.clone();
        let shared = Arc::new(Shared {
            options,
            address,
            store: Mutex::new(store),
            changed: Notify::new(),
        });
        let router = http::router(Arc::clone(&shared));
        let api = tokio::spawn(async move { axum::serve(listener, router).await });
        let scheduler = tokio::spawn(scheduler::run(Arc::clone(&shared)));
        Ok(Self {
            address,
            master,
            shared: SharedHandle(shared),
            api,
            scheduler,
        })
    }

    /// Where the API listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The API's address as a URL, without a slash at the end.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Ends. With `teardown` Mesos is told to kill every task of the framework; without, the tasks
    /// run on until the failover timeout.
    pub async fn stop(self, teardown: bool) -> Result<(), MesosError> {
        self.scheduler.abort();
        self.api.abort();
        let framework = self.shared.0.store().framework_id.clone();
        match framework {
            Some(framework) if teardown => mesos::teardown(&self.master, &framework).await,
            _ => Ok(()),
        }
    }
}
