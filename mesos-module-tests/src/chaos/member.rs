//! A manager to which something can happen.

use std::time::Duration;

use anyhow::Result;

use super::services::{API, MARATHON, TOKEN};
use crate::Host;
use crate::manager::Manager;

/// How long a manager may be silent.
pub(super) const SESSION: Duration = Duration::from_secs(3);

/// A manager.
pub(super) struct Member {
    pub(super) manager: Manager,
    /// Whether something has been done to it that has not been undone.
    pub(super) harmed: bool,
}

/// What a manager needs to know.
pub(super) struct Surroundings<'a> {
    pub(super) services: &'a Host,
    /// `zk://…`
    pub(super) zookeeper: &'a str,
    /// The leading Mesos master.
    pub(super) mesos: &'a str,
}

impl Member {
    /// A manager that does not run yet.
    pub(super) fn new(host: Host, name: &'static str, around: &Surroundings<'_>) -> Result<Self> {
        let services = around.services.address();
        let servers = MARATHON.map(|port| format!("'http://{services}:{port}'"));
        // Short times, so that a round is short. But an agent always comes back, and ends its
        // containers itself, however slow the machine is and however long it is paused or cut off.
        let config = format!(
            "[zookeeper]\nservers = '{}'\nsession_timeout = '{}s'\n\
             [vnc]\nservers = ['http://{services}:{API}']\nrequest_timeout = '3s'\ncall_timeout = '8s'\n\
             [provision]\npod_task_subnets = ['10.32.0.0/16']\n\
             [mesos]\nmasters = '{}'\n\
             [marathon]\nservers = [{}]\n\
             [reconcile]\nresync = '2s'\nstabilization_window = '2s'\ngrace_period = '20s'\n",
            around.zookeeper,
            SESSION.as_secs(),
            around.mesos,
            servers.join(", "),
        );
        Ok(Self {
            manager: Manager::new(host, name, TOKEN, &config)?,
            harmed: false,
        })
    }
}
