//! The real `HAProxy` on a simulated host.

use std::fs;
use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{Frontend, configuration, frontends};
use crate::testbed::Host;
use crate::testbed::manager::Response;
use crate::testbed::service::Service;

/// A balancer that follows the apps of a group on request. Everything ends with the value.
pub struct HaProxy {
    service: Service,
    address: IpAddr,
    group: String,
    current: Vec<Frontend>,
}

impl HaProxy {
    /// A balancer for a group of apps, at the host's address. It does not run yet.
    #[must_use]
    pub fn new(host: &Host, group: &str) -> Self {
        Self {
            service: Service::new(host, &format!("haproxy-{group}")),
            address: host.address(),
            group: group.to_owned(),
            current: vec![],
        }
    }

    /// Reads the apps of the Marathon at this URL, and starts or reloads the balancer if its servers
    /// have changed. Returns the ports with their servers.
    pub fn update(&mut self, marathon: &str) -> Result<&[Frontend]> {
        let url = format!("{marathon}/v2/apps?embed=apps.tasks");
        let client = reqwest::Client::builder().no_proxy().build()?;
        let response = Response::fetch(client.get(url), self.service.host())?;
        ensure!(response.status == 200, "Marathon: {}", response.status);
        let apps: Value = serde_json::from_str(&response.body)?;
        let frontends = frontends(&apps, &self.group, true);
        if frontends == self.current && self.service.is_running() {
            return Ok(&self.current);
        }
        let path = self.service.path("cfg");
        fs::write(&path, configuration(&frontends, self.address))?;
        let path = path.display().to_string();
        let check = self.service.host().sh(&format!("haproxy -c -f {path}"));
        check.context("HAProxy refuses the configuration; is the package haproxy installed?")?;
        if self.service.is_running() {
            // The master starts a new worker, and the old one ends with its last connection.
            self.service.signal(Signal::SIGUSR2)?;
        } else {
            self.service.run(["haproxy", "-W", "-db", "-f", &path])?;
        }
        self.current = frontends;
        Ok(&self.current)
    }

    /// Its log.
    #[must_use]
    pub fn log(&self) -> String {
        self.service.log()
    }

    /// Ends it, with its workers.
    pub fn stop(mut self) -> Result<()> {
        self.service.end(Signal::SIGTERM)
    }
}
