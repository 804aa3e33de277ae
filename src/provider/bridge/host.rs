//! The host side that containers share: bridges, and the kernel settings that they need.
//!
//! Creating a bridge or one of its ports requires a shared lock, removing a bridge an exclusive
//! one. It is a file lock on the directory of the leases, so it excludes all processes of an
//! instance and leaves no file.

use std::collections::HashMap;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;
use nix::errno::Errno;

use crate::net::links::{self, Link};
use crate::net::netlink::{NetlinkError, NetlinkSocket};
use crate::net::{addressing, sysctl};
use crate::provider::ownership::OwnerTag;
use contrail_mesos_api::container::Mac;

/// The desired state of a bridge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BridgeSpec {
    pub(super) name: String,
    pub(super) mac: [u8; 6],
    pub(super) mtu: u32,
    pub(super) addresses: Vec<IpNet>,
    /// Whether mapped ports on the host's 127.0.0.1 reach its containers.
    pub(super) reaches_loopback: bool,
}

/// Why a bridge could not be brought to its desired state.
#[derive(Debug, thiserror::Error)]
pub(super) enum HostError {
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error(transparent)]
    Sysctl(#[from] sysctl::SysctlError),
    #[error(
        "the interface {0} exists, but is no bridge; remove it, or configure another bridge for the network"
    )]
    NotABridge(String),
    #[error("the bridge {0} was deleted while it was set up; try again")]
    Deleted(String),
}

/// One change to the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Setting { name: String, value: &'static str },
    Create { mac: [u8; 6], mtu: u32 },
    Up { mtu: u32 },
    Address(IpNet),
}

/// Displays a change for a person to read.
pub(super) struct DescribedChange<'a> {
    pub(super) change: &'a Change,
    pub(super) bridge: &'a str,
}

impl fmt::Display for DescribedChange<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bridge = self.bridge;
        match self.change {
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

/// A bridge in its desired state.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bridge {
    pub(super) index: u32,
    /// Its MAC address, if this instance owns the bridge, so that it never changes.
    pub(super) mac: Option<Mac>,
}

/// The bridges of this host.
#[derive(Debug)]
pub(super) struct HostBridges {
    owner: OwnerTag,
    directory: PathBuf,
    /// Bridges that were brought to their desired state.
    ready: Mutex<HashMap<String, (Bridge, BridgeSpec)>>,
}

impl HostBridges {
    pub(super) fn new(state_dir: &Path, owner: OwnerTag) -> Self {
        Self {
            owner,
            directory: state_dir.join("networks"),
            ready: Mutex::default(),
        }
    }

    fn ready(&self) -> MutexGuard<'_, HashMap<String, (Bridge, BridgeSpec)>> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For creating bridges and ports.
    pub(super) fn lock_shared(&self) -> io::Result<File> {
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

    /// For removing a bridge. `None` if there has never been one.
    pub(super) fn lock_exclusive(&self) -> io::Result<Option<File>> {
        let directory = match File::open(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        directory.lock()?;
        Ok(Some(directory))
    }

    fn is_owned(&self, link: &Link) -> bool {
        // A bridge that was just created has no alias yet, but its MAC address.
        link.alias.as_deref() == Some(&self.owner.bridge_label())
            || link.mac == self.owner.bridge_mac(&link.name)
    }

    /// Forgets a deleted bridge, so that `ensure` looks at it again; returns whether it was in
    /// use.
    pub(super) fn forget(&self, bridge: &str) -> bool {
        self.ready().remove(bridge).is_some()
    }

    /// Brings a bridge to its desired state.
    pub(super) fn ensure(
        &self,
        socket: &mut NetlinkSocket,
        spec: &BridgeSpec,
    ) -> Result<Bridge, HostError> {
        let mut ready = self.ready();
        let mut spec = spec.clone();
        if let Some((bridge, current)) = ready.get(&spec.name) {
            // Never reset, since running containers may need it.
            spec.reaches_loopback |= current.reaches_loopback;
            if spec == *current {
                return Ok(*bridge);
            }
        }
        for change in self.required_changes(socket, &spec)? {
            self.apply(socket, &spec, &change)?;
        }
        let link = links::by_name(socket, &spec.name)?
            .ok_or_else(|| HostError::Deleted(spec.name.clone()))?;
        let mac = <[u8; 6]>::try_from(link.mac.as_slice()).ok().map(Mac);
        let bridge = Bridge {
            index: link.index,
            mac: mac.filter(|_| self.is_owned(&link)),
        };
        ready.insert(spec.name.clone(), (bridge, spec));
        Ok(bridge)
    }

    /// The changes that bring a bridge to its desired state, in order.
    pub(super) fn required_changes(
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
        let link = links::by_name(socket, bridge)?;
        match &link {
            Some(link) if link.kind.as_deref() != Some("bridge") => {
                return Err(HostError::NotABridge(bridge.clone()));
            }
            // The operator's, which is used as it is.
            Some(link) if !self.is_owned(link) => {}
            _ => {
                let mut missing = spec.addresses.clone();
                if let Some(link) = &link {
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
                    // Containers must not become the host's routers, and the bridge's address is
                    // unique.
                    for name in ["accept_ra", "accept_dad"] {
                        let name = format!("net/ipv6/conf/{bridge}/{name}");
                        setting(name, "0", &mut changes);
                    }
                }
                if link.is_none() {
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
                let alias = self.owner.bridge_label();
                match links::create_bridge(socket, bridge, *mac, *mtu, &alias) {
                    // Another process of this instance has created it.
                    Err(error) if error.errno() == Some(Errno::EEXIST) => {}
                    other => other?,
                }
            }
            Change::Up { mtu } => {
                socket.execute_all(&[links::set_up(bridge, Some(*mtu))])?;
            }
            Change::Address(net) => {
                let link = links::by_name(socket, bridge)?
                    .ok_or_else(|| HostError::Deleted(bridge.clone()))?;
                match socket.execute_all(&[addressing::add_address(link.index, bridge, *net)]) {
                    Err(error) if error.errno() == Some(Errno::EEXIST) => {}
                    other => other?,
                }
            }
        }
        Ok(())
    }

    /// Removes a bridge that this instance owns and that has no port. Returns whether no container
    /// of this instance uses it. The caller holds the exclusive lock.
    pub(super) fn remove_bridge_if_unused(&self, bridge: &str) -> Result<bool, NetlinkError> {
        let mut ready = self.ready();
        let mut socket = NetlinkSocket::route()?;
        let Some(link) = links::by_name(&mut socket, bridge)? else {
            ready.remove(bridge);
            return Ok(true);
        };
        let is_owned = link.kind.as_deref() == Some("bridge") && self.is_owned(&link);
        for port in links::all(&mut socket)? {
            if port.controller == Some(link.index) {
                let alias = port.alias.as_deref().unwrap_or_default();
                if is_owned || self.owner.owns(alias) {
                    return Ok(false);
                }
            }
        }
        ready.remove(bridge);
        if is_owned {
            match socket.execute_all(&[links::delete(bridge)]) {
                Err(error) if error.errno() == Some(Errno::ENODEV) => {}
                other => other?,
            }
        }
        Ok(true)
    }

    /// Those of `links` that are bridges and that this instance owns.
    pub(super) fn owned_bridges(&self, links: &[Link]) -> Vec<String> {
        links
            .iter()
            .filter(|link| link.kind.as_deref() == Some("bridge") && self.is_owned(link))
            .map(|link| link.name.clone())
            .collect()
    }
}

/// The settings that make the host forward, and that keep its own interfaces working as before.
fn forwarding(spec: &BridgeSpec) -> Vec<Change> {
    let mut changes = Vec::new();
    let has_value = |name: &str, value: &str| sysctl::get(name).as_deref() == Some(value);
    if spec.addresses.iter().any(|net| net.addr().is_ipv4())
        && !has_value("net/ipv4/ip_forward", "1")
    {
        changes.push(Change::Setting {
            name: "net/ipv4/ip_forward".to_owned(),
            value: "1",
        });
    }
    let all = "net/ipv6/conf/all/forwarding";
    if spec.addresses.iter().any(|net| net.addr().is_ipv6()) && !has_value(all, "1") {
        // A forwarding host ignores router advertisements unless accept_ra is 2.
        for interface in sysctl::interfaces("ipv6") {
            let name = format!("net/ipv6/conf/{interface}/accept_ra");
            if interface != "lo" && interface != spec.name && has_value(&name, "1") {
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
