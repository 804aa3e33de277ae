//! A vRouter agent: the port service of a compute host, and a data path that forwards.
//!
//! The service answers as the real agent does, refusals and oddities included. Its configuration
//! comes from the simulated API server's control listener, as a real agent's comes from a control
//! node, and reaches it only for virtual machines that its virtual-router refers to, or that
//! `POST /port` named. In addition it can be slow, wrong or gone on request.
//!
//! ```text
//! server    HTTP, faults, log                 control   the listener for the simulation alone
//! rest      which request means what          follow    changes from the API server, delayed
//! ports     the ports and their files         config    the objects, as the agent sees them
//! datapath  bridges, VXLAN, nftables; says itself how, and what it leaves out
//! ```
//!
//! Left out: `/gateway`, which is an unknown request here; what an interface of type namespace or
//! remote is to a real data path.

mod config;
mod control;
mod datapath;
mod follow;
mod options;
mod ports;
mod rest;
mod server;
#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use uuid::Uuid;

pub use datapath::DataPathError;
pub use options::{DataPath, Delays, Forwarding, Options};

use crate::vnc::{Entry, Fault};
use ports::Ports;
use server::Shared;

/// Why an agent does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its service cannot listen.
    #[error("cannot listen on {address}: {source}; is another vRouter agent running?")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// Its data path cannot be made.
    #[error(transparent)]
    DataPath(#[from] DataPathError),
}

/// An agent.
#[derive(Debug)]
pub struct Agent;

impl Agent {
    /// Starts one; says where its service listens. With a data path, what an earlier one left in
    /// this network namespace is removed first.
    pub async fn start(options: Options) -> Result<(SocketAddr, Handle), StartError> {
        let address = options.listen;
        let listen = |source| StartError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let (ports, forwarding) = match &options.data_path {
            DataPath::Off => (Ports::load(&options.ports_dir, |_| true), None),
            DataPath::On(forwarding) => {
                let links = datapath::start_afresh(forwarding)?;
                let ports = Ports::load(&options.ports_dir, |name| links.contains(name));
                (ports, Some(forwarding.clone()))
            }
        };
        let shared = Shared::new(options, ports, forwarding.is_some());
        let path = forwarding
            .map(|forwarding| datapath::Thread::start(shared.clone(), forwarding))
            .transpose()?;
        let follower = tokio::spawn(follow::follow(shared.clone()));
        let service = tokio::spawn(server::run(listener, shared.clone()));
        let handle = Handle {
            address,
            shared,
            tasks: Arc::new(Mutex::new(Tasks {
                service: Some(service),
                follower,
                path,
            })),
        };
        Ok((address, handle))
    }
}

struct Tasks {
    service: Option<JoinHandle<io::Result<()>>>,
    follower: JoinHandle<()>,
    path: Option<datapath::Thread>,
}

/// A running agent, seen from the inside. It ends with [`Handle::stop`].
#[derive(Clone)]
pub struct Handle {
    address: SocketAddr,
    shared: Arc<Shared>,
    tasks: Arc<Mutex<Tasks>>,
}

impl Handle {
    /// Where the port service listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Makes something go wrong from now on, after what already does.
    pub fn fault(&self, fault: Fault) {
        self.shared.lock().faults.push(fault);
    }

    /// Lets everything go well again.
    pub fn clear_faults(&self) {
        self.shared.lock().faults.clear();
    }

    /// What takes how long from now on.
    pub fn set_delays(&self, delays: Delays) {
        self.shared.lock().delays = delays;
    }

    /// The latest requests in the order in which they came in.
    #[must_use]
    pub fn log(&self) -> Vec<Entry> {
        self.shared.lock().log.entries()
    }

    /// Whether everything that the API server had has been told once.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.shared.lock().synced == (true, true)
    }

    /// The ports: virtual machine, interface, name of the host's end.
    #[must_use]
    pub fn ports(&self) -> Vec<(Uuid, Uuid, String)> {
        let inner = self.shared.lock();
        let ports = inner.ports.all();
        ports
            .map(|((_, machine, interface), port)| (*machine, *interface, port.tap.clone()))
            .collect()
    }

    /// What the data path cannot do at the moment.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        self.shared.lock().problems.iter().cloned().collect()
    }

    /// Nobody can reach the port service any more; everything else goes on.
    pub fn unplug(&self) {
        self.shared.online.store(false, Ordering::SeqCst);
        if let Some(service) = self.lock().service.take() {
            service.abort();
        }
    }

    /// The port service can be reached again at the same address.
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
        self.shared.online.store(true, Ordering::SeqCst);
        let service = tokio::spawn(server::run(listener, self.shared.clone()));
        self.lock().service = Some(service);
        Ok(())
    }

    /// Ends the agent. Its data path is removed; the files of its ports stay.
    pub async fn stop(&self) -> Result<(), DataPathError> {
        self.unplug();
        let path = {
            let mut tasks = self.lock();
            tasks.follower.abort();
            tasks.path.take()
        };
        match path {
            Some(path) => path.stop().await,
            None => Ok(()),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Tasks> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
