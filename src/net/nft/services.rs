//! The nftables table `inet contrail_mesos_services`: what is sent to a service reaches one of its
//! backends.
//!
//! ```text
//! prerouting, output   nat, before mapped ports: from address, protocol and port to a chain by a map
//!   random4_3, …       one for each number of backends: chooses one of 3 by a second map
//!   affinity4_3, …     the same by the client's address
//!   keep               of services without a ready backend, and of the other addresses of the ranges:
//!                      no later chain translates these
//! postrouting          nat, before others masquerade
//!   masquerade4, 6     masquerades where the backend's answer would not come back by this host
//! refuse_input, refuse_forward, refuse_output    filter
//!   refuse4, 6, refuse refuses what no service takes, but DNS and ICMP
//! ```
//! Invariants: a service has no chain of its own: a change is a few elements, in one transaction with
//! all changes of the same service. The cost of a packet does not depend on the number of services.
//! Once the table is complete, there is no moment at which a packet to a ready service is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use self::elements::{ElementChanges, Elements, FoundElements};
use self::structure::Structure;
use super::batch::NFPROTO_INET;
use super::program::{self, Difference, Table, TableName};
use crate::net::netlink::{NetlinkError, NetlinkSocket};

mod elements;
#[cfg(test)]
mod root_tests;
mod structure;

/// The table's name; its family is `inet`.
pub const TABLE: &str = "contrail_mesos_services";
/// The most backends of a service.
pub const MAX_BACKENDS: usize = 1024;
const MAX_BACKENDS_NUMBER: u32 = 1024;

const NAME: TableName = TableName {
    family: NFPROTO_INET,
    name: TABLE,
    description: "contrail-mesos-node: services; rebuilt if changed",
};
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
/// How often a transaction is tried again with a fresh table.
const MAX_ATTEMPTS: usize = 4;
/// How many elements one transaction changes at most, but for those of its last service: the kernel
/// holds up all other transactions meanwhile.
const MAX_ELEMENTS_AT_ONCE: usize = 8192;
/// How many changes of services are described one by one.
const MAX_DESCRIBED_SERVICES: usize = 1000;

/// What clients address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    /// The address.
    pub address: IpAddr,
    /// The protocol's number.
    pub protocol: u8,
    /// The port.
    pub port: u16,
}

impl fmt::Display for Frontend {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = SocketAddr::new(self.address, self.port);
        match self.protocol {
            TCP => write!(formatter, "{address}/tcp"),
            UDP => write!(formatter, "{address}/udp"),
            132 => write!(formatter, "{address}/sctp"),
            other => write!(formatter, "{address}/{other}"),
        }
    }
}

/// Where new connections go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    /// The backends, distinct, of the frontend's family, at most [`MAX_BACKENDS`]. Without any,
    /// connections are refused.
    pub backends: Vec<SocketAddr>,
    /// Whether the connections of a client go to the same backend.
    pub has_affinity: bool,
}

/// What the table must have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServicePolicy {
    /// The ranges of the addresses of named services: what no service takes is refused.
    pub ranges: BTreeSet<IpNet>,
    /// The addresses of them at which this host answers DNS queries.
    pub dns: BTreeSet<IpAddr>,
    /// The addresses of services outside of the ranges.
    pub vips: BTreeSet<IpAddr>,
    /// The addresses of containers of this host that are backends.
    pub own: BTreeSet<IpAddr>,
    /// The bridges whose containers reach each other without the host's IP layer.
    pub bridges: BTreeSet<String>,
    /// The interfaces to containers: bridges and VXLAN devices.
    pub inside: BTreeSet<String>,
    /// The services.
    pub frontends: BTreeMap<Frontend, Balance>,
}

/// Which services may differ from what the table has.
#[derive(Clone, Copy, Debug)]
pub enum Scope<'a> {
    /// Any.
    All {
        /// Whether services that the policy does not have are removed.
        removes: bool,
    },
    /// These only, if nobody else has changed the table.
    Changed(&'a BTreeSet<Frontend>),
}

/// What the kernel has.
#[derive(Clone, Debug)]
struct AppliedTable {
    structure: Structure,
    table: Table,
    frontends: BTreeMap<Frontend, Balance>,
}

/// The table, in the network namespace where this was opened.
#[derive(Debug)]
pub struct ServiceTable {
    socket: NetlinkSocket,
    /// What the kernel has; none if that is not known.
    known: Option<AppliedTable>,
}

/// The changes of services that are due.
#[derive(Debug, Default)]
struct ServiceChanges {
    /// One transaction each.
    parts: Vec<ElementChanges>,
    /// The services as they are then; none if they are gone.
    frontends: Vec<(Frontend, Option<Balance>)>,
    descriptions: Vec<String>,
    more: usize,
}

impl ServiceChanges {
    fn part(&mut self) -> &mut ElementChanges {
        let is_full = |part: &ElementChanges| part.count() >= MAX_ELEMENTS_AT_ONCE;
        if self.parts.last().is_none_or(is_full) {
            self.parts.push(ElementChanges::default());
        }
        let last = self.parts.len() - 1;
        &mut self.parts[last]
    }

    /// Adds the changes of a service from what there is.
    fn add(&mut self, frontend: &Frontend, old: &Elements, wanted: Option<&Balance>) {
        let balance = wanted.map(|wanted| old.arrange(wanted));
        let new = balance
            .as_ref()
            .map_or_else(Elements::default, |balance| Elements::of(frontend, balance));
        if *old != new {
            self.part().add(frontend, old, &new);
            self.describe(frontend, *old == Elements::default(), balance.as_ref());
        }
        self.frontends.push((*frontend, balance));
    }

    fn describe(&mut self, frontend: &Frontend, is_new: bool, balance: Option<&Balance>) {
        if self.descriptions.len() == MAX_DESCRIBED_SERVICES {
            self.more += 1;
            return;
        }
        let description = match balance {
            None => format!("remove the service {frontend}"),
            Some(balance) => {
                let verb = if is_new { "add" } else { "change" };
                let count = balance.backends.len();
                format!("{verb} the service {frontend} with {count} ready backends")
            }
        };
        self.descriptions.push(description);
    }
}

impl ServiceTable {
    /// Opens the table of the calling thread's network namespace. Changes nothing.
    pub fn open() -> Result<Self, NetlinkError> {
        Ok(Self {
            socket: NetlinkSocket::netfilter()?,
            known: None,
        })
    }

    /// The port of the socket that changes the table.
    #[must_use]
    pub fn port(&self) -> u32 {
        self.socket.port()
    }

    /// How many requests were sent. Wraps.
    #[must_use]
    pub fn sent(&self) -> u32 {
        self.socket.sent()
    }

    /// Notes that somebody else may have changed the table: the next comparison lists it.
    pub fn forget(&mut self) {
        self.known = None;
    }

    /// Whether the next comparison lists the table.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        self.known.is_none()
    }

    /// Describes what differs from `policy`; without one, there must be no table. Changes nothing.
    pub fn plan(&mut self, policy: Option<&ServicePolicy>) -> Result<Vec<String>, NetlinkError> {
        let Some(policy) = policy else {
            let table = self.read(&Table::default())?;
            let removal = table.map(|_| format!("remove the nftables table {NAME}"));
            return Ok(removal.into_iter().collect());
        };
        let (found, elements) = self.list(policy)?;
        let changes = all_changes(policy, &elements, true);
        let structure = structure(policy, found.as_ref(), &changes);
        let mut difference = Difference::default();
        difference.add(NAME, found.as_ref(), Some(&structure.table(true)));
        Ok(descriptions(difference, changes))
    }

    /// Makes the table what `policy` says; without one, removes it. Returns a description of each change.
    pub fn apply(
        &mut self,
        policy: Option<&ServicePolicy>,
        scope: Scope<'_>,
    ) -> Result<Vec<String>, NetlinkError> {
        let mut attempt = 1;
        loop {
            let result = match policy {
                Some(policy) => self.apply_once(policy, scope),
                None => self.remove(),
            };
            match result {
                // Somebody else has changed the table since it was listed.
                Err(_) if attempt < MAX_ATTEMPTS => attempt += 1,
                other => return other,
            }
            self.known = None;
        }
    }

    fn remove(&mut self) -> Result<Vec<String>, NetlinkError> {
        self.known = None;
        let present = self.read(&Table::default())?;
        let mut difference = Difference::default();
        difference.add(NAME, present.as_ref(), None);
        program::commit(&mut self.socket, &mut difference)?;
        Ok(difference.into_descriptions())
    }

    fn apply_once(
        &mut self,
        policy: &ServicePolicy,
        scope: Scope<'_>,
    ) -> Result<Vec<String>, NetlinkError> {
        // After a failure, what the kernel has is not known.
        let known = self.known.take();
        let (present, changes, known) = match (known, scope) {
            (Some(known), Scope::Changed(frontends)) => {
                let changes = some_changes(policy, &known, frontends.iter());
                (
                    Some(known.table),
                    changes,
                    Some((known.structure, known.frontends)),
                )
            }
            (Some(known), Scope::All { removes }) => {
                let gone = known
                    .frontends
                    .keys()
                    .filter(|frontend| removes && !policy.frontends.contains_key(frontend));
                let all = policy.frontends.keys().chain(gone);
                let changes = some_changes(policy, &known, all);
                (
                    Some(known.table),
                    changes,
                    Some((known.structure, known.frontends)),
                )
            }
            (None, scope) => {
                let (found, elements) = self.list(policy)?;
                let removes = !matches!(scope, Scope::All { removes: false });
                let changes = all_changes(policy, &elements, removes);
                (found, changes, None)
            }
        };
        let structure = structure(policy, present.as_ref(), &changes);
        let (before, mut frontends) = match known {
            Some((structure, frontends)) => (Some(structure), frontends),
            None => (None, BTreeMap::new()),
        };
        let mut difference = Difference::default();
        let is_same = before.as_ref() == Some(&structure);
        let table = match &present {
            Some(present) if is_same => present.clone(),
            _ => structure.table(true),
        };
        let mut present = present;
        if present.is_none() {
            // Nothing enters the chains before all services are in.
            let closed = structure.table(false);
            difference.add(NAME, None, Some(&closed));
            let mut ignored = Difference::default();
            std::mem::swap(&mut ignored, &mut difference);
            program::commit(&mut self.socket, &mut ignored)?;
            difference.describe(format!("create the nftables table {NAME}"));
            present = Some(closed);
            self.commit_parts(changes.parts)?;
            difference.add(NAME, present.as_ref(), Some(&table));
            program::commit(&mut self.socket, &mut difference)?;
        } else {
            let mut parts = changes.parts.into_iter();
            let first = parts.next().unwrap_or_default().into_requests();
            if is_same {
                difference.extend(first);
            } else {
                difference.add_with(NAME, present.as_ref(), Some(&table), first);
            }
            program::commit(&mut self.socket, &mut difference)?;
            self.commit_parts(parts.collect())?;
        }
        for (frontend, balance) in changes.frontends {
            match balance {
                Some(balance) => frontends.insert(frontend, balance),
                None => frontends.remove(&frontend),
            };
        }
        self.known = Some(AppliedTable {
            structure,
            table,
            frontends,
        });
        let changes = ServiceChanges {
            descriptions: changes.descriptions,
            more: changes.more,
            ..ServiceChanges::default()
        };
        Ok(descriptions(difference, changes))
    }

    fn commit_parts(&mut self, parts: Vec<ElementChanges>) -> Result<(), NetlinkError> {
        for part in parts {
            let mut difference = Difference::default();
            difference.extend(part.into_requests());
            program::commit(&mut self.socket, &mut difference)?;
        }
        Ok(())
    }

    /// The kernel's table, without the elements of services.
    fn read(&mut self, desired: &Table) -> Result<Option<Table>, NetlinkError> {
        let desired = [Some(desired.clone())];
        let mut tables = Table::read_all(&mut self.socket, &[NAME], &desired)?;
        Ok(tables.pop().flatten())
    }

    /// The kernel's table with the elements of services, as they are at one moment.
    fn list(
        &mut self,
        policy: &ServicePolicy,
    ) -> Result<(Option<Table>, FoundElements), NetlinkError> {
        let desired = Structure::new(policy, BTreeSet::new()).table(true);
        let table = self.read(&desired)?;
        let Some(table) = table else {
            return Ok((None, FoundElements::default()));
        };
        // A table that is replaced loses its elements, and so does a set.
        let kept = Structure::new(policy, Structure::balance_chains(&table)).table(true);
        if !table.can_become(&kept) {
            return Ok((Some(table), FoundElements::default()));
        }
        let elements = FoundElements::read(&mut self.socket)?;
        Ok((Some(table), elements))
    }
}

/// How many connections were opened to each service, or tried to, since its number of backends changed
/// last: as the kernel of the calling thread's network namespace counts.
pub fn connections() -> Result<BTreeMap<Frontend, u64>, NetlinkError> {
    elements::connections(&mut NetlinkSocket::netfilter()?)
}

/// The backends of a service, as the kernel of the calling thread's network namespace has them: none if
/// it has no such service, an empty list if it refuses connections to it.
pub fn backends(frontend: &Frontend) -> Result<Option<Vec<SocketAddr>>, NetlinkError> {
    let mut found = FoundElements::read(&mut NetlinkSocket::netfilter()?)?;
    Ok(found.services.remove(frontend).map(Elements::targets))
}

fn structure(
    policy: &ServicePolicy,
    present: Option<&Table>,
    changes: &ServiceChanges,
) -> Structure {
    let mut chains = present.map_or_else(BTreeSet::new, Structure::balance_chains);
    let of_changed = changes.frontends.iter().filter_map(|(frontend, balance)| {
        balance
            .as_ref()
            .and_then(|balance| elements::chain(frontend, balance))
    });
    chains.extend(of_changed);
    Structure::new(policy, chains)
}

fn some_changes<'a>(
    policy: &ServicePolicy,
    known: &AppliedTable,
    frontends: impl Iterator<Item = &'a Frontend>,
) -> ServiceChanges {
    let mut changes = ServiceChanges::default();
    for frontend in frontends {
        let old = known
            .frontends
            .get(frontend)
            .map_or_else(Elements::default, |balance| Elements::of(frontend, balance));
        changes.add(frontend, &old, policy.frontends.get(frontend));
    }
    changes
}

fn all_changes(policy: &ServicePolicy, found: &FoundElements, removes: bool) -> ServiceChanges {
    let mut changes = ServiceChanges::default();
    for (set, key) in &found.others {
        changes.part().remove(*set, key.clone());
    }
    if !found.others.is_empty() {
        let count = found.others.len();
        changes.descriptions.push(format!(
            "remove {count} elements that are none of a service"
        ));
    }
    let none = Elements::default();
    for (frontend, balance) in &policy.frontends {
        let old = found.services.get(frontend).unwrap_or(&none);
        changes.add(frontend, old, Some(balance));
    }
    for (frontend, old) in &found.services {
        if removes && !policy.frontends.contains_key(frontend) {
            changes.add(frontend, old, None);
        }
    }
    changes
}

fn descriptions(difference: Difference, changes: ServiceChanges) -> Vec<String> {
    let mut all = difference.into_descriptions();
    all.extend(changes.descriptions);
    if changes.more > 0 {
        all.push(format!("change {} more services", changes.more));
    }
    all
}
