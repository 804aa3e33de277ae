//! The host's side that containers share: bridges, and the kernel settings that they need.
//!
//! Whoever makes a bridge or puts a port on one holds a lock shared; whoever removes a bridge
//! holds it exclusively. It is a lock of the file system, on the directory of the leases, so it
//! holds between all processes of an instance and leaves no file.

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;
use nix::errno::Errno;

use super::super::mark::Tag;
use crate::net::links::{self, Link};
use crate::net::netlink::{NetlinkError, NetlinkSocket};
use crate::net::{addressing, sysctl};
use contrail_mesos_api::container::Mac;

/// A bridge as it has to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BridgeSpec {
    pub(super) name: String,
    pub(super) mac: [u8; 6],
    pub(super) mtu: u32,
    pub(super) addresses: Vec<IpNet>,
    /// Whether mapped ports lead from the host's 127.0.0.1 to its containers.
    pub(super) reaches_loopback: bool,
}

/// Why a bridge is not as it has to be.
#[derive(Debug, thiserror::Error)]
pub(super) enum HostError {
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error(transparent)]
    Sysctl(#[from] sysctl::SysctlError),
    #[error(
        "the interface {0} is there, but is no bridge; remove it, or give the network another bridge"
    )]
    NotABridge(String),
    #[error("the bridge {0} went away while it was made; try again")]
    Vanished(String),
}

/// One change to the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Setting { name: String, value: &'static str },
    Create { mac: [u8; 6], mtu: u32 },
    Up { mtu: u32 },
    Address(IpNet),
}

/// A change, with the bridge that it is about, in words.
pub(super) struct Words<'a>(pub(super) &'a Change, pub(super) &'a str);

impl fmt::Display for Words<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bridge = self.1;
        match self.0 {
            Change::Setting { name, value } => {
                write!(formatter, "set /proc/sys/{name} to {value}")
            }
            Change::Create { mac, mtu } => {
                let mac = Mac(*mac);
                write!(
                    formatter,
                    "create the bridge {bridge}, MAC {mac}, MTU {mtu}"
                )
            }
            Change::Up { mtu } => write!(formatter, "turn {bridge} up, MTU {mtu}"),
            Change::Address(net) => write!(formatter, "give {net} to {bridge}"),
        }
    }
}

/// A bridge that is as it has to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bridge {
    pub(super) index: u32,
    /// Its Ethernet address, if it is ours and so stays as it is.
    pub(super) mac: Option<Mac>,
}

/// The bridges of this host.
#[derive(Debug)]
pub(super) struct Host {
    tag: Tag,
    directory: PathBuf,
    /// Bridges that are as they have to be.
    ready: Mutex<HashMap<String, (Bridge, BridgeSpec)>>,
}

impl Host {
    pub(super) fn new(state_dir: &Path, tag: Tag) -> Self {
        Self {
            tag,
            directory: state_dir.join("networks"),
            ready: Mutex::default(),
        }
    }

    fn ready(&self) -> MutexGuard<'_, HashMap<String, (Bridge, BridgeSpec)>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For whoever makes bridges and ports.
    pub(super) fn shared(&self) -> io::Result<File> {
        let open = || File::open(&self.directory);
        let directory = match open() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(&self.directory)?;
                open()?
            }
            other => other?,
        };
        directory.lock_shared()?;
        Ok(directory)
    }

    /// For whoever removes a bridge. `None` if there never was any.
    pub(super) fn exclusive(&self) -> io::Result<Option<File>> {
        let directory = match File::open(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        directory.lock()?;
        Ok(Some(directory))
    }

    fn is_ours(&self, link: &Link) -> bool {
        // Between its making and its marking a bridge of ours has only its address to tell.
        link.alias.as_deref() == Some(&self.tag.of_bridge())
            || link.mac == self.tag.bridge_mac(&link.name)
    }

    /// A bridge is gone: look again before using it. Whether it was one of those in use.
    pub(super) fn forget(&self, bridge: &str) -> bool {
        self.ready().remove(bridge).is_some()
    }

    /// Makes the bridge what it has to be.
    pub(super) fn ensure(
        &self,
        socket: &mut NetlinkSocket,
        spec: &BridgeSpec,
    ) -> Result<Bridge, HostError> {
        let mut ready = self.ready();
        let mut spec = spec.clone();
        if let Some((bridge, there)) = ready.get(&spec.name) {
            // Once containers were promised their ports on 127.0.0.1, that stays.
            spec.reaches_loopback |= there.reaches_loopback;
            if spec == *there {
                return Ok(*bridge);
            }
        }
        for change in self.changes(socket, &spec)? {
            self.apply(socket, &spec, &change)?;
        }
        let link = links::by_name(socket, &spec.name)?
            .ok_or_else(|| HostError::Vanished(spec.name.clone()))?;
        let mac = <[u8; 6]>::try_from(link.mac.as_slice()).ok().map(Mac);
        let bridge = Bridge {
            index: link.index,
            mac: mac.filter(|_| self.is_ours(&link)),
        };
        ready.insert(spec.name.clone(), (bridge, spec));
        Ok(bridge)
    }

    /// What has to be changed for the bridge to be what it has to be, in order.
    pub(super) fn changes(
        &self,
        socket: &mut NetlinkSocket,
        spec: &BridgeSpec,
    ) -> Result<Vec<Change>, HostError> {
        let mut changes = forwarding(spec);
        let bridge = &spec.name;
        let setting = |name: String, value: &'static str, changes: &mut Vec<Change>| {
            if sysctl::get(&name).as_deref() != Some(value) {
                changes.push(Change::Setting { name, value });
            }
        };
        let there = links::by_name(socket, bridge)?;
        match &there {
            Some(link) if link.kind.as_deref() != Some("bridge") => {
                return Err(HostError::NotABridge(bridge.clone()));
            }
            // Not made by us: the operator's, who knows why it is as it is.
            Some(link) if !self.is_ours(link) => {}
            _ => {
                let mut missing = spec.addresses.clone();
                if let Some(link) = &there {
                    let has = addressing::addresses(socket)?;
                    missing.retain(|net| !has.contains(&(link.index, *net)));
                    if !link.up || link.mtu != spec.mtu {
                        changes.push(Change::Up { mtu: spec.mtu });
                    }
                } else {
                    changes.push(Change::Create {
                        mac: spec.mac,
                        mtu: spec.mtu,
                    });
                }
                if sysctl::get("net/ipv6/conf/all/forwarding").is_some() {
                    // Containers are no routers for the host, and nobody else has our address.
                    for name in ["accept_ra", "accept_dad"] {
                        let name = format!("net/ipv6/conf/{bridge}/{name}");
                        setting(name, "0", &mut changes);
                    }
                }
                if there.is_none() {
                    changes.push(Change::Up { mtu: spec.mtu });
                }
                changes.extend(missing.into_iter().map(Change::Address));
            }
        }
        if spec.reaches_loopback {
            let name = format!("net/ipv4/conf/{bridge}/route_localnet");
            setting(name, "1", &mut changes);
        }
        Ok(changes)
    }

    fn apply(
        &self,
        socket: &mut NetlinkSocket,
        spec: &BridgeSpec,
        change: &Change,
    ) -> Result<(), HostError> {
        let bridge = &spec.name;
        match change {
            Change::Setting { name, value } => {
                if name.starts_with("net/ipv6") {
                    sysctl::set_if_present(name, value)?;
                } else {
                    sysctl::set(name, value)?;
                }
            }
            Change::Create { mac, mtu } => {
                let alias = self.tag.of_bridge();
                match links::create_bridge(socket, bridge, *mac, *mtu, &alias) {
                    // Another process of ours was faster.
                    Err(error) if error.errno() == Some(Errno::EEXIST) => {}
                    other => other?,
                }
            }
            Change::Up { mtu } => {
                socket.execute_all(&[links::set_up(bridge, Some(*mtu))])?;
            }
            Change::Address(net) => {
                let link = links::by_name(socket, bridge)?
                    .ok_or_else(|| HostError::Vanished(bridge.clone()))?;
                match socket.execute_all(&[addressing::add_address(link.index, bridge, *net)]) {
                    Err(error) if error.errno() == Some(Errno::EEXIST) => {}
                    other => other?,
                }
            }
        }
        Ok(())
    }

    /// Removes a bridge of ours that has no port. Whether nobody of this instance uses the bridge
    /// any more. To be called under the exclusive lock.
    pub(super) fn remove_bridge_if_unused(&self, bridge: &str) -> Result<bool, NetlinkError> {
        let mut ready = self.ready();
        let mut socket = NetlinkSocket::route()?;
        let Some(link) = links::by_name(&mut socket, bridge)? else {
            ready.remove(bridge);
            return Ok(true);
        };
        let is_ours = link.kind.as_deref() == Some("bridge") && self.is_ours(&link);
        for port in links::all(&mut socket)? {
            if port.controller == Some(link.index) {
                let alias = port.alias.as_deref().unwrap_or_default();
                if is_ours || alias.starts_with(&self.tag.prefix()) {
                    return Ok(false);
                }
            }
        }
        ready.remove(bridge);
        if is_ours {
            match socket.execute_all(&[links::delete(bridge)]) {
                Err(error) if error.errno() == Some(Errno::ENODEV) => {}
                other => other?,
            }
        }
        Ok(true)
    }

    /// Bridges of ours that are there.
    pub(super) fn bridges(&self, links: &[Link]) -> Vec<String> {
        links
            .iter()
            .filter(|link| link.kind.as_deref() == Some("bridge") && self.is_ours(link))
            .map(|link| link.name.clone())
            .collect()
    }
}

/// Settings that make the host route, and nothing else of it change by that.
fn forwarding(spec: &BridgeSpec) -> Vec<Change> {
    let mut changes = Vec::new();
    let is = |name: &str, value: &str| sysctl::get(name).as_deref() == Some(value);
    if spec.addresses.iter().any(|net| net.addr().is_ipv4()) && !is("net/ipv4/ip_forward", "1") {
        changes.push(Change::Setting {
            name: "net/ipv4/ip_forward".to_owned(),
            value: "1",
        });
    }
    let all = "net/ipv6/conf/all/forwarding";
    if spec.addresses.iter().any(|net| net.addr().is_ipv6()) && !is(all, "1") {
        // A router ignores advertisements: an interface that lives by them must be told to go on.
        for interface in sysctl::interfaces("ipv6") {
            let name = format!("net/ipv6/conf/{interface}/accept_ra");
            if interface != "lo" && interface != spec.name && is(&name, "1") {
                changes.push(Change::Setting { name, value: "2" });
            }
        }
        changes.push(Change::Setting {
            name: all.to_owned(),
            value: "1",
        });
    }
    changes
}
