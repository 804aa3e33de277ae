//! The real node daemon of a host.

use std::ffi::OsString;
use std::ops::{Deref, DerefMut};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::testbed::agent::{config_path, state_dir};
use crate::testbed::service::Service;
use crate::testbed::{Host, program};

/// A node daemon. The process ends when the value is dropped, or with the thread that started it.
pub struct NodeDaemon(Service);

impl Deref for NodeDaemon {
    type Target = Service;

    fn deref(&self) -> &Service {
        &self.0
    }
}

impl DerefMut for NodeDaemon {
    fn deref_mut(&mut self) -> &mut Service {
        &mut self.0
    }
}

impl NodeDaemon {
    /// The daemon of a host, with the configuration of the host's agent. It does not run yet.
    #[must_use]
    pub fn new(host: &Host) -> Self {
        Self(Service::new(host, "node"))
    }

    /// Starts the daemon, unless it runs.
    pub fn start(&mut self) -> Result<()> {
        let command: [OsString; 3] = [
            program("contrail-mesos-node")?.into(),
            "--config".into(),
            config_path(self.host()).into(),
        ];
        self.run(command)
    }

    /// Gets a path of its API.
    pub fn get(&self, path: &str) -> Result<Value> {
        let socket = state_dir(self.host()).join("node/api.sock");
        let answer = self.host().sh(&format!(
            "curl -sS -m 10 --unix-socket {} http://localhost{path}",
            socket.display()
        ))?;
        serde_json::from_str(&answer).with_context(|| format!("{path}: {answer}"))
    }
}
