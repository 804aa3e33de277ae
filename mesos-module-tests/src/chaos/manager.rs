//! A manager that faults are injected into.

use std::time::Duration;

use anyhow::Result;

use super::services::{API_PORT, MARATHON_PORTS, TOKEN};
use crate::testbed::Host;
use crate::testbed::manager::{DEFAULT_PROJECT, ManagerProcess};

/// The session timeout of the managers in ZooKeeper.
const SESSION_TIMEOUT: Duration = Duration::from_secs(3);

/// A manager, and whether a fault affects it at present.
pub(super) struct FaultyManager {
    pub(super) process: ManagerProcess,
    pub(super) faulty: bool,
}

/// The addresses of the services that a manager depends on.
pub(super) struct ServiceAddresses<'a> {
    pub(super) services: &'a Host,
    /// A `zk://` URL.
    pub(super) zookeeper: &'a str,
    /// The leading Mesos master.
    pub(super) mesos: &'a str,
}

impl FaultyManager {
    /// Configures a manager without starting it.
    pub(super) fn new(host: &Host, name: &str, addresses: &ServiceAddresses<'_>) -> Result<Self> {
        let services = addresses.services.address();
        let servers = MARATHON_PORTS.map(|port| format!("'http://{services}:{port}'"));
        // Short intervals keep a round short. The grace period is long enough for an agent to come
        // back after a fault and end its containers itself, even on a slow machine.
        let config = format!(
            "{DEFAULT_PROJECT}[zookeeper]\nservers = '{}'\nsession_timeout = '{}s'\n\
             [vnc]\nservers = ['http://{services}:{API_PORT}']\nrequest_timeout = '3s'\ncall_timeout = '8s'\n\
             [provision]\npod_task_subnets = ['10.32.0.0/16']\n\
             [mesos]\nmasters = '{}'\n\
             [marathon]\nservers = [{}]\n\
             [reconcile]\nresync = '2s'\nstabilization_window = '2s'\ngrace_period = '20s'\n",
            addresses.zookeeper,
            SESSION_TIMEOUT.as_secs(),
            addresses.mesos,
            servers.join(", "),
        );
        Ok(Self {
            process: ManagerProcess::new(host, name, TOKEN, &config)?,
            faulty: false,
        })
    }
}
