//! Marathon's front end, on a real Mesos: what can be had of Marathon where Marathon cannot be had.
//!
//! Definitions go in through Marathon's REST API (`http`), are kept in canonical form ([`model`]),
//! become messages for Mesos exactly as Marathon 1.8 to 1.11 writes them ([`launch`]), and what
//! Mesos says of the tasks ([`status`], [`instance`]) is shown as Marathon shows it ([`view`]).
//! [`store`] decides. `http` and `scheduler` have the sockets; everything else is pure.
//!
//! One process plays all servers of a Marathon (`server`): one of them leads, or none, and what
//! they know they have in common, as the real ones have it in ZooKeeper. [`Handle`], and for other
//! processes its control listener, says who leads, who can be reached and what goes wrong. Where
//! releases differ, [`Options::version`] says which one is played.
//!
//! Left out: health checks and their events, constraints, groups, upgrade strategies (a changed
//! definition replaces all instances at once), volumes, secrets. Kept and served, though without
//! effect, where they are fields of a definition.
//!
//! `acceptedResourceRoles` is heeded: an app that accepts `slave_public` only is placed on resources
//! that are reserved for that role, by a Marathon that has that role, or never. For that, give the
//! agent `MESOS_DEFAULT_ROLE=slave_public` (or name the role in `MESOS_RESOURCES`) and [`Options::defaults`] the
//! same role, as public agents and Marathon have on DC/OS.

mod control;
pub mod events;
mod handle;
mod http;
pub mod id;
pub mod instance;
pub mod launch;
mod mesos;
pub mod model;
mod options;
mod scheduler;
mod server;
pub mod status;
pub mod store;
#[cfg(test)]
mod tests;
pub mod time;
pub mod version;
pub mod view;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::task::JoinHandle;

pub use handle::Handle;
pub use mesos::MesosError;
pub use options::{HttpCredentials, Options};

use server::Shared;

/// A running Marathon.
#[derive(Debug)]
pub struct Marathon {
    master: String,
    handle: Handle,
    scheduler: JoinHandle<()>,
}

impl Marathon {
    /// Opens the API and starts to look for the master; the master may come later.
    pub async fn start(options: Options) -> io::Result<Self> {
        let master = options.master.clone();
        let shared = Shared::open(options).await?;
        let scheduler = tokio::spawn(scheduler::run(Arc::clone(&shared)));
        Ok(Self {
            master,
            handle: Handle(shared),
            scheduler,
        })
    }

    /// Where the API of the first server listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.handle.0.options.listen
    }

    /// That address as a URL, without a slash at the end.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// It, seen from the inside.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// Ends. With `teardown` Mesos is told to kill every task of the framework; without, the tasks
    /// run on until the failover timeout.
    pub async fn stop(self, teardown: bool) -> Result<(), MesosError> {
        self.scheduler.abort();
        for server in 0..self.handle.servers().len() {
            self.handle.unplug(server);
        }
        match self.handle.framework_id() {
            Some(framework) if teardown => mesos::teardown(&self.master, &framework).await,
            _ => Ok(()),
        }
    }
}
