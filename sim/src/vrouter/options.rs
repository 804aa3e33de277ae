//! Options of the simulated agent.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::harness::milliseconds;

/// How an agent behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// The last part of the name of its virtual-router.
    pub name: String,
    /// The host's address, which is also that of its virtual-router.
    pub address: IpAddr,
    /// The API server's control listener, `http://host:port`.
    pub control: String,
    /// Where the port service listens.
    pub listen: SocketAddr,
    /// The directory of port files: `/var/lib/contrail/ports` on a real host.
    pub ports_dir: PathBuf,
    /// How long a port may stay stale after `POST /syncports`.
    pub stale: Duration,
    /// Whether it forwards packets.
    pub data_path: DataPath,
    /// Simulated delays.
    pub delays: Delays,
    /// How many requests the log keeps.
    pub log_limit: usize,
}

/// Whether an agent forwards packets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum DataPath {
    /// No: every interface counts as present and connected. Needs no privileges.
    #[default]
    Off,
    /// Yes, in the network namespace of the thread that starts the agent. Needs root.
    On(Forwarding),
}

/// How an agent forwards packets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forwarding {
    /// The external interface, on which the agent answers ARP for floating IPs.
    pub uplink: Option<String>,
    /// Whether every interface and the host's own address reach each other regardless of security
    /// groups and policies: a Mesos executor in a container has to reach its agent.
    pub host_access: bool,
}

/// Simulated delays; in JSON as milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Delays {
    /// The delay of every response.
    #[serde(with = "milliseconds")]
    pub response: Duration,
    /// The delay of changes on the way from the API server.
    #[serde(with = "milliseconds")]
    pub configuration: Duration,
    /// The additional delay of changes of addresses.
    #[serde(with = "milliseconds")]
    pub address: Duration,
}

impl Delays {
    /// The delay of changes of addresses, or of other objects.
    pub(crate) fn of(&self, addresses: bool) -> Duration {
        if addresses {
            self.configuration + self.address
        } else {
            self.configuration
        }
    }
}

impl Options {
    /// An agent without a data path, on a free port of the loopback interface.
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
            log_limit: 100_000,
        }
    }
}
