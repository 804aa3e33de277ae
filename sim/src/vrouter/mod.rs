//! A vRouter agent: the port service of a compute host, and a data path that forwards packets.
//!
//! The service responds as the real agent does, including its errors and oddities. Its
//! configuration comes from the simulated API server's control listener, as that of a real agent
//! comes from a control node. It has only the configuration of virtual machines that its
//! virtual-router refers to, or that a `POST /port` named. On request it is slow, wrong or
//! unreachable.
//!
//! ```text
//! server    HTTP                               control  the control listener
//! rest      the requests                       follow   changes from the API server, delayed
//! ports     the ports and their files          config   the objects, as the agent sees them
//! datapath  bridges, VXLAN and nftables; its module lists what it leaves out
//! ```
//!
//! Left out: `/gateway`, which is an unknown request here, and interfaces of type namespace or
//! remote in the data path.

mod config;
mod control;
mod datapath;
mod follow;
mod format;
mod options;
mod ports;
mod rest;
mod server;
mod state;
#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use uuid::Uuid;

pub use datapath::DataPathError;
pub use options::{DataPath, Delays, Forwarding, Options};

use crate::harness::{Fault, RequestRecord, Service, ServiceOptions, lock};
use ports::Ports;
use state::Shared;

/// Why an agent does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The port service cannot listen.
    #[error("cannot listen on {address}: {source}; is another vRouter agent running?")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// The data path cannot be set up.
    #[error(transparent)]
    DataPath(#[from] DataPathError),
}

/// An agent.
#[derive(Debug)]
pub struct Agent;

impl Agent {
    /// Starts an agent and returns the address of its port service. With a data path, it first
    /// removes what an earlier agent left in this network namespace.
    pub async fn start(options: Options) -> Result<(SocketAddr, Handle), StartError> {
        let address = options.listen;
        let listen = |source| StartError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let (ports, forwarding) = match &options.data_path {
            DataPath::Off => (Ports::load(&options.ports_dir, |_| true), None),
            DataPath::On(forwarding) => {
                let links = datapath::start_afresh(forwarding)?;
                let ports = Ports::load(&options.ports_dir, |name| links.contains(name));
                (ports, Some(forwarding.clone()))
            }
        };
        let shared = Shared::new(options, ports, forwarding.is_some());
        let data_path = forwarding
            .map(|forwarding| datapath::Thread::start(Arc::clone(&shared), forwarding))
            .transpose()?;
        let follower = tokio::spawn(follow::follow(Arc::clone(&shared)));
        let service_options = ServiceOptions {
            name: format!("the vRouter agent {}", shared.options.name),
            split_writes: false,
            online: Arc::clone(shared.frontend.online()),
            on_unplug: Box::new(|| ()),
        };
        let router = server::router(Arc::clone(&shared));
        let service = Service::start(service_options, listener, router).map_err(listen)?;
        let handle = Handle {
            shared,
            service: Arc::new(service),
            tasks: Arc::new(Mutex::new(Tasks {
                follower,
                data_path,
            })),
        };
        Ok((handle.address(), handle))
    }
}

struct Tasks {
    follower: JoinHandle<()>,
    data_path: Option<datapath::Thread>,
}

/// A running agent. It ends with [`Handle::stop`].
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
    service: Arc<Service>,
    tasks: Arc<Mutex<Tasks>>,
}

impl Handle {
    /// Where the port service listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.service.address()
    }

    /// Adds a fault. Of several that match a request, the one that was added first applies.
    pub fn fault(&self, fault: Fault) {
        self.shared.faults.add(None, fault);
    }

    /// Removes all faults.
    pub fn clear_faults(&self) {
        self.shared.faults.clear();
    }

    /// Changes the simulated delays.
    pub fn set_delays(&self, delays: Delays) {
        self.shared.set_delays(delays);
    }

    /// The latest requests, in the order of arrival.
    #[must_use]
    pub fn log(&self) -> Vec<RequestRecord> {
        self.shared.frontend.log_since(0)
    }

    /// The ports: virtual machine, interface, and name of the host's end.
    #[must_use]
    pub fn ports(&self) -> Vec<(Uuid, Uuid, String)> {
        let state = self.shared.lock();
        let ports = state.ports.all();
        ports
            .map(|((_, vm, interface), port)| (*vm, *interface, port.tap.clone()))
            .collect()
    }

    /// What the data path cannot do at present.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        self.shared.lock().problems.iter().cloned().collect()
    }

    /// Makes the port service unreachable; everything else continues.
    pub fn unplug(&self) {
        self.service.unplug();
    }

    /// Makes the port service reachable again, at the same address.
    pub async fn plug(&self) -> io::Result<()> {
        self.service.plug().await
    }

    /// Stops the agent and removes its data path; the files of its ports stay.
    pub async fn stop(&self) -> Result<(), DataPathError> {
        self.unplug();
        let data_path = {
            let mut tasks = lock(&self.tasks);
            tasks.follower.abort();
            tasks.data_path.take()
        };
        match data_path {
            Some(data_path) => data_path.stop().await,
            None => Ok(()),
        }
    }
}
