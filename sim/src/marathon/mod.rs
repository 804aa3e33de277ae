//! A Marathon on a real Mesos, for machines that have none.
//!
//! Definitions arrive through Marathon's REST API (`http`), are kept in canonical form ([`model`])
//! and become messages for Mesos exactly as Marathon 1.8 to 1.11 writes them ([`launch`]). Task
//! statuses of Mesos ([`status`], [`instance`]) are shown as Marathon shows them ([`view`]).
//! [`store`] decides. `http` and `scheduler` do all input and output; everything else is pure.
//!
//! One process plays all servers of a Marathon: one of them leads, or none, and they share their
//! state (`state`). [`Handle`], and its control listener for other processes, determine which
//! server leads, which are reachable, and which faults occur. Where releases differ,
//! [`Options::version`] selects one.
//!
//! Health checks are made by Mesos, or by Marathon (`probes`), as their protocol says, and their
//! results are shown and published. Of constraints, `CLUSTER`, `UNIQUE`, `IS` and `MAX_PER` have an
//! effect.
//!
//! Left out: other constraints, HTTPS of Marathon's own checks, groups, upgrade strategies (a changed
//! definition replaces all instances at once), volumes, secrets. As fields of a definition they are
//! kept and served, without effect.
//!
//! `acceptedResourceRoles` has an effect: an app that accepts only `slave_public` is placed on
//! resources that are reserved for that role, by a Marathon that has that role, or never. For that,
//! start the agent with `MESOS_DEFAULT_ROLE=slave_public` (or name the role in `MESOS_RESOURCES`)
//! and give [`Options::defaults`] the same role, as public agents and Marathon have on DC/OS.

mod control;
pub mod deployment;
pub mod events;
mod handle;
pub mod health;
mod http;
pub mod id;
pub mod instance;
pub mod launch;
mod mesos;
pub mod model;
mod options;
mod probes;
mod scheduler;
mod state;
pub mod status;
pub mod store;
#[cfg(test)]
mod tests;
pub mod version;
pub mod view;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;

pub use crate::harness::clock::Timestamp;
pub use handle::Handle;
pub use mesos::MesosError;
pub use options::{HttpCredentials, Options};

use crate::harness::{Service, ServiceOptions};
use state::Shared;

/// A running Marathon.
#[derive(Debug)]
pub struct Marathon {
    master: String,
    handle: Handle,
    scheduler: JoinHandle<()>,
    probes: JoinHandle<()>,
}

impl Marathon {
    /// Opens the API and starts to connect to the master, which may start later.
    pub async fn start(mut options: Options) -> io::Result<Self> {
        let mut listeners = vec![TcpListener::bind(options.listen).await?];
        for address in &options.standbys {
            listeners.push(TcpListener::bind(address).await?);
        }
        let addresses = listeners
            .iter()
            .map(TcpListener::local_addr)
            .collect::<io::Result<Vec<_>>>()?;
        options.listen = addresses[0];
        let master = options.master.clone();
        let shared = Shared::new(options, &addresses);
        let mut services = Vec::new();
        for (server, listener) in listeners.into_iter().enumerate() {
            let bus = Arc::clone(&shared.bus);
            let service_options = ServiceOptions {
                name: format!("server {server} of the Marathon"),
                split_writes: false,
                online: Arc::clone(shared.servers[server].frontend.online()),
                on_unplug: Box::new(move || bus.close(Some(server))),
            };
            let router = http::router(Arc::clone(&shared), server);
            services.push(Arc::new(Service::start(service_options, listener, router)?));
        }
        let scheduler = tokio::spawn(scheduler::run(Arc::clone(&shared)));
        let probes = tokio::spawn(probes::run(Arc::clone(&shared)));
        Ok(Self {
            master,
            handle: Handle { shared, services },
            scheduler,
            probes,
        })
    }

    /// Where the API of the first server listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.handle.servers()[0]
    }

    /// That address as a URL, without a slash at the end.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Access to the running Marathon.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Stops. With `teardown` Mesos kills every task of the framework; without, the tasks run until
    /// the failover timeout.
    pub async fn stop(self, teardown: bool) -> Result<(), MesosError> {
        self.scheduler.abort();
        self.probes.abort();
        for server in 0..self.handle.servers().len() {
            self.handle.unplug(server);
        }
        match self.handle.framework_id() {
            Some(framework) if teardown => mesos::teardown(&self.master, &framework).await,
            _ => Ok(()),
        }
    }
}
