//! How the simulated agent behaves, and how it misbehaves.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::vnc::Fault;

/// How an agent behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// The last part of the name of its virtual-router.
    pub name: String,
    /// The host's address, by which other hosts reach it: of its virtual-router.
    pub address: IpAddr,
    /// The API server's control listener, `http://host:port`.
    pub control: String,
    /// Where the port service listens.
    pub listen: SocketAddr,
    /// Where the files of ports are: what is `/var/lib/contrail/ports` on a real host.
    pub ports_dir: PathBuf,
    /// How long a port may be stale after `POST /syncports`.
    pub stale: Duration,
    /// Whether packets flow.
    pub data_path: DataPath,
    /// What takes how long.
    pub delays: Delays,
    /// What goes wrong; the first that fits a request is its fate.
    pub faults: Vec<Fault>,
    /// How many requests the log keeps.
    pub log_limit: usize,
}

/// Whether packets flow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DataPath {
    /// No: every interface counts as there and connected. Needs no rights.
    #[default]
    Off,
    /// Yes, in the network namespace of the thread that starts the agent. Needs root.
    On(Forwarding),
}

/// How packets flow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forwarding {
    /// The interface to the outside, where floating addresses are answered for.
    pub uplink: Option<String>,
    /// Whether every interface and the host's own address reach each other, whatever groups and
    /// policies say: a Mesos executor in a container has to reach its agent.
    pub host_access: bool,
}

/// What takes how long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delays {
    /// An answer.
    pub answer: Duration,
    /// The way of a change from the API server to here.
    pub configuration: Duration,
    /// How much longer that of an address is.
    pub address: Duration,
}

impl Delays {
    pub(crate) fn of(&self, address: bool) -> Duration {
        let more = if address {
            self.address
        } else {
            Duration::ZERO
        };
        self.configuration + more
    }
}

impl Options {
    /// An agent without a data path on a free port of this machine alone.
    #[must_use]
    pub fn new(name: &str, control: &str, ports_dir: impl Into<PathBuf>) -> Self {
        Self {
            name: name.to_owned(),
            address: Ipv4Addr::LOCALHOST.into(),
            control: control.to_owned(),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            ports_dir: ports_dir.into(),
            stale: Duration::from_mins(1),
            data_path: DataPath::Off,
            delays: Delays::default(),
            faults: Vec::new(),
            log_limit: 100_000,
        }
    }
}
