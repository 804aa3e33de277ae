//! The baseline: what every correct attach must do, in the fewest requests, by one thread.
//!
//! - A file that names what is made, durable before it is made.
//! - For the first container: forwarding and the bridge. Both are gone with the last one.
//! - A veth pair, and a socket in the container's namespace, which cannot be opened before there is
//!   one. By that socket: loopback, the interface, its address and its route.
//! - For a mapped port: an element of a map of nftables. The table comes with the first one, and goes
//!   with the bridge.
//!
//! It looks for no conflict, shares nothing with other processes, keeps no lease, and makes neither
//! a handle nor files below `/etc`.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use contrail_mesos::net::addressing::{self, NewRoute};
use contrail_mesos::net::links::{self, VethPair};
use contrail_mesos::net::netlink::NetlinkSocket;
use contrail_mesos::net::netns::{self, Kind};
use contrail_mesos::net::nft::{Element, Table};
use contrail_mesos::net::sysctl;
use ipnet::{IpNet, Ipv4Net};
use nix::sched::{CloneFlags, setns};

use crate::subject::{Attach, Container, subdirectory};

const BRIDGE: &str = "floor0";
/// The protocol's number.
const TCP: u8 = 6;
/// Group of the links that go together.
const GROUP: u32 = 0x666c;

pub(crate) struct NetlinkBaseline {
    host: NetlinkSocket,
    host_namespace: OwnedFd,
    table: Table,
    /// The bridge comes with the first container and goes with the last, as ours does.
    bridge: Option<u32>,
    files: PathBuf,
    next: u32,
    numbers: HashMap<String, u32>,
}

/// Writes a file as long as a checkpoint of ours, and waits until it is durable.
pub(crate) fn write_durably(path: &Path) -> Result<()> {
    let mut file = File::create(path)?;
    file.write_all(&[b'x'; 700])?;
    Ok(file.sync_data()?)
}

impl NetlinkBaseline {
    pub(crate) fn new(directory: &Path) -> Result<Self> {
        Ok(Self {
            host: NetlinkSocket::route()?,
            host_namespace: netns::of_this_thread(Kind::Net)?,
            table: Table::open()?,
            bridge: None,
            files: subdirectory(directory, "floor")?,
            next: u32::from(Ipv4Addr::new(10, 88, 0, 2)),
            numbers: HashMap::new(),
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
        sysctl::set("net/ipv4/ip_forward", "1")?;
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
            self.table.remove_if_unused()?;
        }
        Ok(())
    }

    /// A socket in the container's namespace. This thread enters it and returns; an
    /// error in between ends the benchmark.
    fn socket_inside(&self, container: &Container) -> Result<NetlinkSocket> {
        setns(&container.namespace, CloneFlags::CLONE_NEWNET)?;
        let socket = NetlinkSocket::route();
        setns(&self.host_namespace, CloneFlags::CLONE_NEWNET)?;
        Ok(socket?)
    }

    /// The elements that map the container's port.
    fn port_elements(&mut self, container: &Container) -> Vec<Element> {
        let address = Ipv4Addr::from(self.number(container));
        let port = container.port.into_iter();
        port.map(|port| Element::port(TCP, port, address.into(), 80, "floor"))
            .collect()
    }

    fn host_end(&mut self, container: &Container) -> String {
        format!("fl{:08x}", self.number(container))
    }
}

impl Attach for NetlinkBaseline {
    fn attach(&mut self, container: &Container) -> Result<()> {
        let host_end = self.host_end(container);
        let address = Ipv4Addr::from(self.number(container));
        write_durably(&self.files.join(&container.id))?;
        let bridge = self.bridge()?;
        let ports = self.port_elements(container);
        self.table.add(&ports)?;
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
                    is_isolated: false,
                }),
            },
            container.namespace.as_fd(),
            [],
        )
        .map_err(|error| anyhow!("cannot make the pair: {error:?}"))?;
        let mut inside = self.socket_inside(container)?;
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
        let ports = self.port_elements(container);
        self.table.remove(&ports)?;
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
