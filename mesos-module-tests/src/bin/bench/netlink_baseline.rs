//! The baseline: only the netlink requests that an attach needs and one fsynced file. Its sockets
//! are open beforehand, also the one in the container's namespace.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use contrail_mesos::net::addressing::{self, NewRoute};
use contrail_mesos::net::links::{self, VethPair};
use contrail_mesos::net::netlink::NetlinkSocket;
use contrail_mesos::net::netns;
use ipnet::{IpNet, Ipv4Net};

use crate::subject::{Attach, Container, subdirectory};

const BRIDGE: &str = "floor0";
/// Group of the links that go together.
const GROUP: u32 = 0x666c;

pub(crate) struct NetlinkBaseline {
    host: NetlinkSocket,
    /// The bridge comes with the first container and goes with the last, as ours does.
    bridge: Option<u32>,
    files: PathBuf,
    next: u32,
    numbers: HashMap<String, u32>,
    inside: HashMap<String, NetlinkSocket>,
    runtime: tokio::runtime::Runtime,
    content: Vec<u8>,
}

impl NetlinkBaseline {
    pub(crate) fn new(directory: &Path) -> Result<Self> {
        Ok(Self {
            host: NetlinkSocket::route()?,
            bridge: None,
            files: subdirectory(directory, "floor")?,
            next: u32::from(Ipv4Addr::new(10, 88, 0, 2)),
            numbers: HashMap::new(),
            inside: HashMap::new(),
            runtime: tokio::runtime::Builder::new_current_thread().build()?,
            // As long as a checkpoint of ours.
            content: vec![b'x'; 700],
        })
    }

    /// The same container has the same number for as long as it is there.
    fn number(&mut self, container: &Container) -> u32 {
        *self.numbers.entry(container.id.clone()).or_insert_with(|| {
            self.next += 1;
            self.next
        })
    }

    fn bridge(&mut self) -> Result<u32> {
        if let Some(bridge) = self.bridge {
            return Ok(bridge);
        }
        let host = &mut self.host;
        host.execute_all(&[
            links::create_bridge(BRIDGE, [2, 0, 0, 0, 0, 1], 1500),
            links::set_alias(BRIDGE, "floor"),
            links::set_up(BRIDGE, None),
        ])?;
        let index = links::by_name(host, BRIDGE)?
            .context("the bridge is gone")?
            .index;
        host.execute_all(&[addressing::add_address(
            index,
            BRIDGE,
            "10.88.0.1/16".parse()?,
        )])?;
        self.bridge = Some(index);
        Ok(index)
    }

    fn end_bridge(&mut self) -> Result<()> {
        if self.numbers.is_empty() && self.bridge.take().is_some() {
            self.host.execute_all(&[links::delete(BRIDGE)])?;
        }
        Ok(())
    }

    fn host_end(&mut self, container: &Container) -> String {
        format!("fl{:08x}", self.number(container))
    }
}

impl Attach for NetlinkBaseline {
    fn ready(&mut self, container: &Container) -> Result<()> {
        let namespace = container.namespace.try_clone()?;
        let socket = netns::run_in(namespace, NetlinkSocket::route);
        let socket = self.runtime.block_on(socket)??;
        self.inside.insert(container.id.clone(), socket);
        Ok(())
    }

    fn attach(&mut self, container: &Container) -> Result<()> {
        let bridge = self.bridge()?;
        let host_end = self.host_end(container);
        let address = Ipv4Addr::from(self.number(container));
        let mut inside = self.inside.remove(&container.id).context("not ready")?;
        let mut file = File::create(self.files.join(&container.id))?;
        file.write_all(&self.content)?;
        file.sync_data()?;
        let [_, _, c, d] = address.octets();
        links::create_veth(
            &mut self.host,
            &VethPair {
                host: &host_end,
                inner: "eth0",
                mac: [2, 1, 0, 0, c, d],
                mtu: 1500,
                alias: &host_end,
                bridge: Some(links::BridgePort {
                    bridge,
                    hairpin: true,
                }),
            },
            container.namespace.as_fd(),
            [],
        )
        .map_err(|error| anyhow!("cannot make the pair: {error:?}"))?;
        let index = links::by_name(&mut inside, "eth0")?
            .context("eth0 is gone")?
            .index;
        let default = NewRoute {
            destination: "0.0.0.0/0".parse()?,
            gateway: Some(Ipv4Addr::new(10, 88, 0, 1).into()),
            index,
            table: None,
            metric: None,
        };
        inside.execute_all(&[
            links::set_up("lo", None),
            links::set_up("eth0", None),
            addressing::add_address(index, "eth0", IpNet::V4(Ipv4Net::new(address, 16)?)),
            default.request(),
        ])?;
        Ok(())
    }

    fn detach(&mut self, container: &Container) -> Result<()> {
        let host_end = self.host_end(container);
        self.host.execute_all(&[links::delete(&host_end)])?;
        fs::remove_file(self.files.join(&container.id))?;
        self.numbers.remove(&container.id);
        self.end_bridge()
    }

    fn detach_all(&mut self, containers: &[Container]) -> Result<()> {
        // The kernel knows no empty group.
        if containers.is_empty() {
            return Ok(());
        }
        let groups: Vec<_> = containers
            .iter()
            .map(|container| links::set_group(&self.host_end(container), GROUP))
            .collect();
        for groups in groups.chunks(100) {
            self.host.execute_all(groups)?;
        }
        self.host.execute_all(&[links::delete_group(GROUP)])?;
        for container in containers {
            fs::remove_file(self.files.join(&container.id))?;
            self.numbers.remove(&container.id);
        }
        self.end_bridge()
    }
}
