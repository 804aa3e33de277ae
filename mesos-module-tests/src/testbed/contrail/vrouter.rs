//! The simulated vRouter agent of a host.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use contrail_mesos_manager::vnc::{FqName, Object as _, VirtualRouter, VncClient};
use contrail_mesos_sim::vrouter;

use crate::testbed::Host;
use crate::testbed::agent::WAIT_TIMEOUT;

/// The vRouter agent of a host.
pub struct Vrouter {
    /// The simulated agent.
    pub handle: vrouter::Handle,
    pub(super) host: Host,
    pub(super) name: String,
    pub(super) address: IpAddr,
    pub(super) options: vrouter::Options,
}

impl Vrouter {
    /// Makes the virtual-router `name` at that address.
    pub async fn register(client: &VncClient, name: &str, address: IpAddr) -> Result<()> {
        let router = FqName::new(["default-global-system-config", name]);
        let mut router = VirtualRouter::named(router);
        router.virtual_router_ip_address = address.into();
        client.ensure(&router).await?;
        Ok(())
    }

    /// Starts the vRouter agent of a host, whose virtual-router has been registered as `name`;
    /// `control` is the API server's control listener.
    pub fn start(control: &str, host: &Host, name: &str, uplink: Option<&str>) -> Result<Self> {
        let address = host.address();
        let ports = host.directory().join("ports");
        let options = vrouter::Options {
            address,
            data_path: vrouter::DataPath::On(vrouter::Forwarding {
                uplink: uplink.map(str::to_owned),
                host_access: true,
            }),
            ..vrouter::Options::new(name, control, &ports)
        };
        let (_, handle) = host.block_on(vrouter::Agent::start(options.clone()))?;
        // What it forwards with is there for as long as it is, and is none of a container's.
        host.sh("for i in $(seq 500); do \
             [ $(nft list tables | grep -c contrail_vrouter_sim) = 2 ] && exit 0; sleep 0.02; \
             done; exit 1")
            .context("the vRouter agent does not begin to forward")?;
        Ok(Self {
            handle,
            host: host.clone(),
            name: name.to_owned(),
            address,
            options,
        })
    }

    /// The configuration of the host's agent: this vRouter agent, and the managers.
    #[must_use]
    pub fn agent_config(&self, managers: &[SocketAddr], token_file: &Path) -> String {
        let managers = managers.iter().map(|manager| format!("'{manager}'"));
        let managers = managers.collect::<Vec<_>>().join(", ");
        format!(
            "[contrail]\n\
             managers = [{managers}]\n\
             agent = '{}'\n\
             virtual_router_address = '{}'\n\
             token_file = '{}'\n\
             vrouter = '{}'\n\
             port_directory = '{}'\n\
             [[network]]\n\
             name = 'contrail-cni-plugin'\n\
             provider = 'contrail'\n",
            self.name,
            self.address,
            token_file.display(),
            self.handle.address(),
            self.port_files().display(),
        )
    }

    /// The directory of port files that the agent's configuration names.
    #[must_use]
    pub fn port_files(&self) -> PathBuf {
        self.options.ports_dir.join("vm")
    }

    /// Waits until the agent has no port and no port file any more.
    pub fn expect_no_port(&self) -> Result<()> {
        let started = Instant::now();
        loop {
            let ports = self.handle.ports();
            let files = files(&self.port_files())?;
            if ports.is_empty() && files.is_empty() {
                return Ok(());
            }
            ensure!(
                started.elapsed() < WAIT_TIMEOUT,
                "the vRouter agent has {ports:?}, and files {files:?}"
            );
            sleep(Duration::from_millis(50));
        }
    }

    /// Ends the agent, and starts it again at the same address.
    pub fn restart(&mut self) -> Result<()> {
        self.host.block_on(self.handle.stop())?;
        let options = vrouter::Options {
            listen: self.handle.address(),
            ..self.options.clone()
        };
        let (_, handle) = self.host.block_on(vrouter::Agent::start(options))?;
        self.handle = handle;
        Ok(())
    }

    /// Ends the agent, and what it forwards with.
    pub fn stop(self) -> Result<()> {
        self.host.block_on(self.handle.stop())?;
        Ok(())
    }
}

fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    if !directory.exists() {
        return Ok(vec![]);
    }
    fs::read_dir(directory)?
        .map(|entry| Ok(entry?.path()))
        .collect()
}
