//! The bridges of this host, and the kernel settings that they need: comparing a bridge with its
//! desired state, and changing what differs.
//!
//! Creating a bridge or one of its ports requires a shared lock, removing a bridge or what its
//! containers share an exclusive one. It is a file lock on the directory of the leases, so it
//! excludes all processes of an instance and leaves no file.

use std::collections::BTreeSet;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use ipnet::{IpNet, Ipv4Net};
use nix::errno::Errno;

use super::conflicts::HostAddresses;
use super::desired::BridgeSpec;
use crate::net::forwarding::{self, Setting};
use crate::net::links::{self, Link};
use crate::net::netlink::{NetlinkError, NetlinkSocket};
use crate::net::nft::{Element, NftError};
use crate::net::rules::{self, DeadEnds, FoundDeadEnds, Rule, RuleKind};
use crate::net::{addressing, bridge_address, sysctl};
use crate::provider::ownership::{OwnerTag, is_program_label};
use contrail_mesos_api::container::Mac;

/// Why a bridge could not be brought to its desired state.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum HostError {
    #[error("{0}")]
    Netlink(String),
    #[error("{0}")]
    Sysctl(String),
    #[error(
        "the interface {0} exists, but is no bridge; remove it, or configure another bridge for the network"
    )]
    NotABridge(String),
    #[error(
        "the bridge {0} belongs to another contrail-mesos on this host, with another state_dir; give the network another bridge and another subnet"
    )]
    OtherInstance(String),
    #[error(
        "the bridge {0} was not made by contrail-mesos, and what else is on it would reach containers of other groups; give the network another bridge, or set groups = false"
    )]
    NotClosed(String),
    #[error("{0}")]
    Conflict(String),
    #[error("{element} is taken by {holder}")]
    Taken {
        element: Box<Element>,
        /// The comment of the element that is there.
        holder: String,
    },
    #[error("the bridge {0} was deleted while it was set up; try again")]
    Deleted(String),
    #[error(
        "{0} again right after it was corrected; another program on this host seems to change it all the time"
    )]
    Contested(String),
}

impl From<NetlinkError> for HostError {
    fn from(error: NetlinkError) -> Self {
        Self::Netlink(error.to_string())
    }
}

impl From<NftError> for HostError {
    fn from(error: NftError) -> Self {
        match error {
            NftError::Taken { element, holder } => Self::Taken { element, holder },
            other @ NftError::Netlink(_) => Self::Netlink(other.to_string()),
        }
    }
}

impl From<sysctl::SysctlError> for HostError {
    fn from(error: sysctl::SysctlError) -> Self {
        Self::Sysctl(error.to_string())
    }
}

/// One change to the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Setting {
        name: String,
        value: &'static str,
    },
    Create {
        mac: [u8; 6],
        mtu: u32,
    },
    Mark,
    Mac([u8; 6]),
    Up {
        mtu: u32,
    },
    Address(IpNet),
    /// The IPv6 address is there with another prefix.
    Prefix {
        old: IpNet,
        new: IpNet,
    },
    Rule(Rule),
    /// The gateway of the dead ends has the bridge's MAC address.
    DeadEndGateway,
    /// Packets to the subnet that nobody allowed have a route to that gateway.
    DeadEnd(Ipv4Net),
}

/// Describes a change before it is made.
pub(super) struct PlannedChange<'a> {
    pub(super) change: &'a Change,
    pub(super) bridge: &'a str,
}

impl fmt::Display for PlannedChange<'_> {
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
            Change::Mark => write!(formatter, "mark the bridge {bridge} as ours"),
            Change::Mac(mac) => write!(
                formatter,
                "set the MAC address of {bridge} to {}",
                Mac(*mac)
            ),
            Change::Up { mtu } => write!(formatter, "turn {bridge} up, MTU {mtu}"),
            Change::Address(net) => write!(formatter, "give {net} to {bridge}"),
            Change::Prefix { old, new } => {
                write!(formatter, "replace {old} of {bridge} by {new}")
            }
            Change::Rule(rule) => write!(formatter, "add the {rule}"),
            Change::DeadEndGateway => {
                write!(formatter, "add the gateway of the dead ends to {bridge}")
            }
            Change::DeadEnd(subnet) => write!(
                formatter,
                "lead packets to {subnet} that nobody allowed to a dead end"
            ),
        }
    }
}

/// Describes the fault that a change corrects.
pub(super) struct Fault<'a> {
    pub(super) change: &'a Change,
    pub(super) bridge: &'a str,
}

impl fmt::Display for Fault<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bridge = self.bridge;
        match self.change {
            Change::Setting { name, value } => {
                write!(formatter, "{} is not {value}", name.replace('/', "."))
            }
            Change::Create { .. } => write!(formatter, "the bridge {bridge} is gone"),
            Change::Mark => write!(formatter, "the bridge {bridge} has another alias"),
            Change::Mac(mac) => write!(
                formatter,
                "the MAC address of the bridge {bridge} is not {}",
                Mac(*mac)
            ),
            Change::Up { mtu } => write!(
                formatter,
                "the bridge {bridge} is down, or its MTU is not {mtu}"
            ),
            Change::Address(net) => {
                write!(formatter, "the bridge {bridge} lacks the address {net}")
            }
            Change::Prefix { old, new } => write!(
                formatter,
                "the bridge {bridge} has the address {old} instead of {new}"
            ),
            Change::Rule(rule) => write!(formatter, "the {rule} is gone"),
            Change::DeadEndGateway => write!(
                formatter,
                "the gateway of the dead ends is gone from the bridge {bridge}"
            ),
            Change::DeadEnd(subnet) => write!(formatter, "the dead end of {subnet} is gone"),
        }
    }
}

/// A bridge in its desired state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
}

impl HostBridges {
    pub(super) fn new(state_dir: &Path, owner: OwnerTag) -> Self {
        Self {
            owner,
            directory: state_dir.join("networks"),
        }
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

    pub(super) fn is_owned(&self, link: &Link) -> bool {
        self.owner.owns_bridge(link)
    }

    /// Removes the bridge that `spec` is about if it has another name now: it has the addresses of
    /// the one that takes its place. Its ports stay, without a bridge. `links` are all of the host.
    fn remove_renamed<'a>(
        &self,
        socket: &mut NetlinkSocket,
        spec: &BridgeSpec,
        links: impl IntoIterator<Item = &'a Link>,
    ) -> Result<(), NetlinkError> {
        let label = self.owner.bridge_label();
        for link in links {
            let is_renamed = link.kind.as_deref() == Some("bridge")
                && link.alias.as_deref() == Some(&label)
                && link.mac == spec.mac
                && link.name != spec.name;
            if is_renamed {
                match socket.execute_all(&[links::delete_link(link)]) {
                    Err(error) if error.errno() == Some(Errno::ENODEV) => {}
                    other => other?,
                }
            }
        }
        Ok(())
    }

    /// Compares a bridge with its desired state, and changes what differs. Returns what was
    /// changed, too. `host` is what the host has, if that was read just now.
    pub(super) fn ensure(
        &self,
        socket: &mut NetlinkSocket,
        spec: &BridgeSpec,
        host: Option<&HostAddresses>,
    ) -> Result<(Bridge, Vec<Change>), HostError> {
        let present = links::by_name(socket, &spec.name)?;
        let required = match &present {
            Some(link) => self.required_changes_of_present(socket, link, spec, false)?,
            None => Vec::new(),
        };
        let mut changes = missing_forwarding(spec);
        self.apply(socket, spec, present.as_ref(), &changes)?;
        let is_present = present.is_some();
        let (link, mut required) = match present {
            Some(link) => (link, required),
            None => self.create(socket, spec, host)?,
        };
        self.apply(socket, spec, Some(&link), &required)?;
        if !is_present {
            changes.push(Change::Create {
                mac: spec.mac,
                mtu: spec.mtu,
            });
            // Part of the creation.
            required.retain(|change| *change != Change::Mark);
        }
        changes.extend(required);
        let bridge = Bridge {
            index: link.index,
            mac: self.is_owned(&link).then_some(Mac(spec.mac)),
        };
        Ok((bridge, changes))
    }

    /// Creates a bridge. Returns it with what it lacks yet.
    fn create(
        &self,
        socket: &mut NetlinkSocket,
        spec: &BridgeSpec,
        host: Option<&HostAddresses>,
    ) -> Result<(Link, Vec<Change>), HostError> {
        if let Some(host) = host {
            self.remove_renamed(socket, spec, host.links())?;
        } else {
            let links = links::all(socket)?;
            self.remove_renamed(socket, spec, &links)?;
        }
        let create = links::create_bridge(&spec.name, spec.mac, spec.mtu);
        let is_new = match socket.execute_all(&[create]) {
            // Another process of this instance has created it.
            Err(error) if error.errno() == Some(Errno::EEXIST) => false,
            other => other.map(|()| true)?,
        };
        // What it inherits shows only now.
        let link = links::by_name(socket, &spec.name)?
            .ok_or_else(|| HostError::Deleted(spec.name.clone()))?;
        let required = self.required_changes_of_present(socket, &link, spec, is_new)?;
        Ok((link, required))
    }

    /// The bridge if it exists, and what is wrong with it for a container with the needs of `spec`,
    /// a description each. Changes nothing.
    pub(super) fn faults(
        &self,
        socket: &mut NetlinkSocket,
        spec: &BridgeSpec,
    ) -> Result<(Option<Link>, Vec<String>), HostError> {
        let mut spec = spec.clone();
        if let Some(link) = links::by_name(socket, &spec.name)? {
            // Other containers of the bridge may need more.
            spec.mtu = spec.mtu.max(link.mtu);
        }
        let (link, changes) = self.required_changes(socket, &spec)?;
        let faults = changes
            .iter()
            .filter(|change| match change {
                Change::Prefix { old, new } => !old.contains(new),
                Change::Mark => false,
                _ => true,
            })
            .map(|change| {
                let bridge = &spec.name;
                Fault { change, bridge }.to_string()
            })
            .collect();
        Ok((link, faults))
    }

    /// The bridge if it exists, and the changes that bring it and the host's forwarding to their
    /// desired state, in order.
    pub(super) fn required_changes(
        &self,
        socket: &mut NetlinkSocket,
        spec: &BridgeSpec,
    ) -> Result<(Option<Link>, Vec<Change>), HostError> {
        let (link, of_bridge) = self.required_changes_of_bridge(socket, spec)?;
        let mut changes = missing_forwarding(spec);
        changes.extend(of_bridge);
        Ok((link, changes))
    }

    fn required_changes_of_bridge(
        &self,
        socket: &mut NetlinkSocket,
        spec: &BridgeSpec,
    ) -> Result<(Option<Link>, Vec<Change>), HostError> {
        let link = links::by_name(socket, &spec.name)?;
        let Some(present) = &link else {
            let mut changes = vec![Change::Create {
                mac: spec.mac,
                mtu: spec.mtu,
            }];
            changes.extend(bridge_settings(spec, true, None));
            changes.push(Change::Up { mtu: spec.mtu });
            changes.extend(spec.addresses.iter().copied().map(Change::Address));
            changes.extend(missing_rules(socket, spec)?);
            changes.extend(missing_dead_ends(spec, None)?);
            return Ok((link, changes));
        };
        let changes = self.required_changes_of_present(socket, present, spec, false)?;
        Ok((link, changes))
    }

    /// As [`Self::required_changes`], of the bridge `link`. One that this process created just now,
    /// `is_new`, has no address yet.
    fn required_changes_of_present(
        &self,
        socket: &mut NetlinkSocket,
        link: &Link,
        spec: &BridgeSpec,
        is_new: bool,
    ) -> Result<Vec<Change>, HostError> {
        let mut changes = self.required_changes_of_link(link, spec)?;
        if is_new {
            changes.extend(spec.addresses.iter().copied().map(Change::Address));
        } else if self.is_owned(link) {
            // An operator's bridge is used as it is.
            changes.extend(missing_addresses(socket, link, spec)?);
        }
        changes.extend(missing_rules(socket, spec)?);
        changes.extend(missing_dead_ends(spec, Some(link.index))?);
        Ok(changes)
    }

    /// As [`Self::required_changes`], of what the description of a bridge's link shows.
    fn required_changes_of_link(
        &self,
        link: &Link,
        spec: &BridgeSpec,
    ) -> Result<Vec<Change>, HostError> {
        if link.kind.as_deref() != Some("bridge") {
            return Err(HostError::NotABridge(link.name.clone()));
        }
        let alias = link.alias.as_deref().unwrap_or_default();
        if is_program_label(alias) && !self.owner.owns(alias) {
            return Err(HostError::OtherInstance(link.name.clone()));
        }
        let is_owned = self.is_owned(link);
        if spec.isolates && !is_owned {
            return Err(HostError::NotClosed(link.name.clone()));
        }
        let mut changes = Vec::new();
        if is_owned && link.mac != spec.mac {
            changes.push(Change::Mac(spec.mac));
        }
        if is_owned && link.alias.as_deref() != Some(&self.owner.bridge_label()) {
            changes.push(Change::Mark);
        }
        changes.extend(bridge_settings(spec, is_owned, Some(link)));
        if is_owned && (!link.up || link.mtu != spec.mtu) {
            changes.push(Change::Up { mtu: spec.mtu });
        }
        Ok(changes)
    }

    /// Whether the link of a bridge that was set up is as it must be.
    pub(super) fn is_right(&self, link: &Link, spec: &BridgeSpec) -> bool {
        self.required_changes_of_link(link, spec)
            .is_ok_and(|changes| changes.is_empty())
    }

    /// Makes `changes`, which do not create the bridge `link`.
    fn apply(
        &self,
        socket: &mut NetlinkSocket,
        spec: &BridgeSpec,
        link: Option<&Link>,
        changes: &[Change],
    ) -> Result<(), HostError> {
        let bridge = &spec.name;
        let index = link.map_or(0, |link| link.index);
        let dead_ends = DeadEnds {
            table: spec.table,
            index,
            mac: spec.mac,
        };
        let mut requests = Vec::new();
        for change in changes {
            match change {
                Change::Setting { name, value } => sysctl::write_if_present(name, value)?,
                Change::Create { .. } => {}
                Change::Mark => requests.push(links::set_alias(bridge, &self.owner.bridge_label())),
                Change::Mac(mac) => requests.push(links::set_mac(bridge, *mac)),
                Change::Up { mtu } => requests.push(links::set_up(bridge, Some(*mtu))),
                Change::Address(net) => requests.push(bridge_address::add(index, bridge, *net)),
                Change::Prefix { old, new } => requests.extend([
                    bridge_address::remove(index, bridge, *old),
                    bridge_address::add(index, bridge, *new),
                ]),
                Change::Rule(rule) => requests.push(rule.add()),
                Change::DeadEndGateway => requests.push(dead_ends.set_gateway()),
                Change::DeadEnd(subnet) => requests.push(dead_ends.set_route(*subnet)),
            }
        }
        for result in socket.execute(&requests)? {
            match result {
                // Another process of this instance has added the address or the rule.
                Err(error) if error.errno() == Some(Errno::EEXIST) => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// Removes from a bridge that this instance owns the addresses that its containers no longer
    /// need: those of `old`, and those with our mark.
    pub(super) fn remove_old_addresses(
        &self,
        socket: &mut NetlinkSocket,
        spec: &BridgeSpec,
        old: &[IpNet],
    ) -> Result<(), NetlinkError> {
        let bridge = &spec.name;
        let Some(link) = links::by_name(socket, bridge)?.filter(|link| self.is_owned(link)) else {
            return Ok(());
        };
        for address in bridge_address::of_link(socket, link.index)? {
            let is_old = address.is_marked || old.contains(&address.net);
            if !is_old || spec.addresses.contains(&address.net) {
                continue;
            }
            let remove = bridge_address::remove(link.index, bridge, address.net);
            match socket.execute_all(&[remove]) {
                // Somebody has removed it already.
                Err(error)
                    if matches!(error.errno(), Some(Errno::EADDRNOTAVAIL | Errno::ENODEV)) => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// Whether all containers of this instance on a bridge are among `known`, the names of their
    /// host ends: other processes of the instance may have attached some.
    pub(super) fn are_all_ports_known(
        &self,
        socket: &mut NetlinkSocket,
        bridge: &str,
        known: impl Fn(&str) -> bool,
    ) -> Result<bool, NetlinkError> {
        let links = links::all(socket)?;
        let Some(index) = links
            .iter()
            .find(|link| link.name == bridge)
            .map(|link| link.index)
        else {
            return Ok(true);
        };
        Ok(links
            .iter()
            .filter(|port| port.controller == Some(index))
            .all(|port| {
                let alias = port.alias.as_deref().unwrap_or_default();
                !self.owner.owns(alias) || known(&port.name)
            }))
    }

    /// Removes a bridge that this instance owns and that has no port. Returns whether no container
    /// of this instance uses it. The caller holds the exclusive lock.
    pub(super) fn remove_bridge_if_unused(&self, bridge: &str) -> Result<bool, NetlinkError> {
        let mut socket = NetlinkSocket::route()?;
        let Some(link) = links::by_name(&mut socket, bridge)? else {
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
        if is_owned {
            match socket.execute_all(&[links::delete(bridge)]) {
                Err(error) if error.errno() == Some(Errno::ENODEV) => {}
                other => other?,
            }
        }
        Ok(true)
    }

    /// No longer keeps `subnets` closed. Tolerates rules that are gone.
    pub(super) fn open_subnets(
        &self,
        socket: &mut NetlinkSocket,
        subnets: impl IntoIterator<Item = IpNet>,
    ) -> Result<(), NetlinkError> {
        let table = self.owner.routing_table();
        let requests: Vec<_> = subnets
            .into_iter()
            .flat_map(|subnet| Rule::of_subnet(subnet, table).into_iter().rev())
            .map(|rule| rule.delete())
            .collect();
        for result in socket.execute(&requests)? {
            match result {
                Err(error)
                    if matches!(error.errno(), Some(Errno::ENOENT | Errno::EAFNOSUPPORT)) => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// The subnets that this instance keeps closed although no container needs it: those that are not
    /// `needed`, and of which no bridge with isolated ports has an address. Ports that `is_gone` says are
    /// about to be removed do not count. While the caller holds the exclusive lock, no attach is between
    /// the rules and the port.
    pub(super) fn unused_subnets(
        &self,
        socket: &mut NetlinkSocket,
        needed: &BTreeSet<IpNet>,
        is_gone: impl Fn(&Link) -> bool,
    ) -> Result<BTreeSet<IpNet>, NetlinkError> {
        let table = self.owner.routing_table();
        let mut closed: BTreeSet<IpNet> = rules::all(socket)?
            .iter()
            .filter(|rule| rule.kind != RuleKind::Host && rule.table == table)
            .map(|rule| rule.subnet)
            .filter(|subnet| !needed.contains(subnet))
            .collect();
        if closed.is_empty() {
            return Ok(closed);
        }
        let bridges: BTreeSet<u32> = links::all(socket)?
            .iter()
            .filter(|link| link.port.is_some_and(|port| port.is_isolated) && !is_gone(link))
            .filter_map(|link| link.controller)
            .collect();
        for (index, net) in addressing::addresses(socket)? {
            if bridges.contains(&index) {
                closed.remove(&net.trunc());
            }
        }
        Ok(closed)
    }

    /// No longer keeps subnets closed that no container needs, see [`Self::unused_subnets`]. The caller
    /// holds the exclusive lock.
    pub(super) fn open_unused_subnets(
        &self,
        socket: &mut NetlinkSocket,
        needed: &BTreeSet<IpNet>,
    ) -> Result<(), NetlinkError> {
        let unused = self.unused_subnets(socket, needed, |_| false)?;
        self.open_subnets(socket, unused)
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
fn missing_forwarding(spec: &BridgeSpec) -> Vec<Change> {
    let v4 = spec.has_v4().then(forwarding::missing_v4).flatten();
    let v6 = if spec.has_v6() {
        forwarding::missing_v6(|interface| interface == spec.name)
    } else {
        Vec::new()
    };
    let to_change = |Setting { name, value }| Change::Setting { name, value };
    // Each interface sends redirects if this setting or its own says so.
    let redirects = (spec.sends_no_redirects && spec.has_v4())
        .then(|| Setting::new("net/ipv4/conf/all/send_redirects", "0"))
        .filter(|setting| !setting.is_set());
    v4.into_iter()
        .chain(v6)
        .chain(redirects)
        .map(to_change)
        .collect()
}

/// The settings of a bridge that differ; without a `link`, those that may. New interfaces inherit
/// them from `conf/default`, which may have any value.
fn bridge_settings(spec: &BridgeSpec, is_ours: bool, link: Option<&Link>) -> Vec<Change> {
    let (ipv4, ipv6) = (
        link.and_then(|link| link.ipv4),
        link.and_then(|link| link.ipv6),
    );
    let mut required = Vec::new();
    if spec.has_v4() {
        let present = ipv4.map(|settings| settings.forwarding);
        required.push(("ipv4", "forwarding", "1", present));
        if spec.reaches_loopback {
            let present = ipv4.map(|settings| settings.route_localnet);
            required.push(("ipv4", "route_localnet", "1", present));
        }
        if spec.sends_no_redirects {
            // Containers must not look for each other on the link.
            let present = ipv4.map(|settings| settings.send_redirects);
            required.push(("ipv4", "send_redirects", "0", present));
        }
    }
    if is_ours && links::has_ipv6() {
        if spec.has_v6() {
            let present = ipv6.map(|settings| settings.disable_ipv6);
            required.push(("ipv6", "disable_ipv6", "0", present));
            let present = ipv6.map(|settings| settings.forwarding);
            required.push(("ipv6", "forwarding", "1", present));
        }
        // Containers must not become the host's routers, and the bridge's address is unique.
        let present = ipv6.map(|settings| settings.accept_ra);
        required.push(("ipv6", "accept_ra", "0", present));
        let present = ipv6.map(|settings| settings.accept_dad);
        required.push(("ipv6", "accept_dad", "0", present));
    }
    let bridge = &spec.name;
    let mut changes: Vec<Change> = required
        .into_iter()
        // The kernel has no IPv6 settings of a link with an MTU below 1280 bytes.
        .filter(|(.., value, present)| match present {
            Some(present) => present.to_string() != *value,
            None => link.is_none(),
        })
        .map(|(family, setting, value, _)| Change::Setting {
            name: format!("net/{family}/conf/{bridge}/{setting}"),
            value,
        })
        .collect();
    // 8 answers nobody. The values up to 2 matter only for hosts with several addresses of a subnet.
    let answers_nobody = match link {
        Some(_) => ipv4.is_some_and(|settings| settings.arp_ignore == 8),
        None => sysctl::get("net/ipv4/conf/default/arp_ignore").is_some_and(|value| value == "8"),
    };
    if is_ours && spec.has_v4() && answers_nobody {
        let name = format!("net/ipv4/conf/{bridge}/arp_ignore");
        changes.push(Change::Setting { name, value: "0" });
    }
    changes
}

fn missing_addresses(
    socket: &mut NetlinkSocket,
    link: &Link,
    spec: &BridgeSpec,
) -> Result<Vec<Change>, NetlinkError> {
    let present: Vec<IpNet> = bridge_address::of_link(socket, link.index)?
        .iter()
        .map(|address| address.net)
        .collect();
    let missing = spec.addresses.iter().filter(|net| !present.contains(net));
    Ok(missing
        .map(|net| {
            let same = present
                .iter()
                .find(|other| net.addr().is_ipv6() && other.addr() == net.addr());
            match same {
                Some(old) => Change::Prefix {
                    old: *old,
                    new: *net,
                },
                None => Change::Address(*net),
            }
        })
        .collect())
}

/// The routing rules that are missing.
fn missing_rules(
    socket: &mut NetlinkSocket,
    spec: &BridgeSpec,
) -> Result<Vec<Change>, NetlinkError> {
    let mut rules = spec.rules();
    if !rules.is_empty() {
        let present = rules::all(socket)?;
        rules.retain(|rule| !present.contains(rule));
    }
    Ok(rules.into_iter().map(Change::Rule).collect())
}

/// What is missing of the dead ends by the bridge with that index, if it exists.
fn missing_dead_ends(spec: &BridgeSpec, index: Option<u32>) -> Result<Vec<Change>, NetlinkError> {
    let subnets: Vec<Ipv4Net> = spec
        .closed_subnets()
        .into_iter()
        .filter_map(|subnet| match subnet {
            IpNet::V4(subnet) => Some(subnet),
            IpNet::V6(_) => None,
        })
        .collect();
    if subnets.is_empty() {
        return Ok(Vec::new());
    }
    let found = match index {
        Some(index) => {
            let dead_ends = DeadEnds {
                table: spec.table,
                index,
                mac: spec.mac,
            };
            dead_ends.find()?
        }
        None => FoundDeadEnds::default(),
    };
    let gateway = (!found.has_gateway).then_some(Change::DeadEndGateway);
    let missing = subnets
        .into_iter()
        .filter(|subnet| !found.subnets.contains(subnet))
        .map(Change::DeadEnd);
    Ok(gateway.into_iter().chain(missing).collect())
}
