//! The overlays' data path between hosts: routed VXLAN.
//!
//! ```text
//! desired      what this host must have: a pure function of the cluster's state
//! actual       what it has, as the kernel lists it
//! diff         the changes between both, in their order
//! operation    a single change, in words and as requests
//! expectation  which notifications make a comparison due
//! ```
//! Each VXLAN network has one device. For each other node it has one neighbour entry a family, one
//! forwarding entry, and a route for each of the node's subnets: nothing is learned, nothing is
//! flooded, and a container that starts or ends changes nothing.
//!
//! Invariants: only devices with this daemon's alias and routes with [`ROUTE_PROTOCOL`] by these
//! devices are changed or removed. Another program's device or route in the place of ours is a
//! problem, and stays. If this node is not registered, or no interface has its address, nothing is
//! touched. Packets of unknown hosts are dropped before a device is up.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::BorrowedFd;
use std::path::Path;

use contrail_mesos::net::forwarding::{self, Setting};
use contrail_mesos::net::netlink::{NetlinkError, NetlinkSocket};
use contrail_mesos::net::nft::sources::SourceTable;
use contrail_mesos::net::overlay_watch::OverlayEvents;
use contrail_mesos::net::{routes, sysctl};
use contrail_mesos::provider::instance_tag;
use contrail_mesos_api::cluster::Node;
use contrail_mesos_api::text::Quoted;

use self::actual::Devices;
pub(crate) use self::desired::device_name;
use self::desired::{DesiredError, DesiredState, OwnNode, desired};
use self::expectation::{Contradictions, Expectation};
use self::operation::{Entry, Operation, foreign_route};
use crate::cluster_state::ClusterState;
use crate::subsystem::{BoxError, Mode, Outcome, Subsystem};
use crate::uplink::{self, Uplink};

mod actual;
mod desired;
mod diff;
mod expectation;
mod operation;
#[cfg(test)]
pub(crate) mod root_tests;

/// The protocol number of the overlays' routes, `ip route show proto 133`.
pub const ROUTE_PROTOCOL: u8 = 133;
/// How many changes are made before notifications are read, so that those about the changes do not
/// overflow.
const MAX_OPERATIONS_AT_ONCE: usize = 512;
/// How many failures a comparison names.
const MAX_FAILURES: usize = 10;

/// The subsystem `overlay`.
#[derive(Debug)]
pub struct OverlaySubsystem {
    /// Marks the devices of this instance.
    alias: String,
    socket: NetlinkSocket,
    sources: SourceTable,
    events: OverlayEvents,
    /// What the last comparison left; none if it touched nothing.
    expectation: Option<Expectation>,
    /// Whether the last comparison found no uplink.
    lacks_uplink: bool,
    contradictions: Contradictions,
    /// Of tests: the changes after which the process ends.
    #[cfg(test)]
    remaining: Option<usize>,
}

/// The changes that are being made.
#[derive(Debug, Default)]
struct Progress {
    outcome: Outcome,
    /// How many changes failed.
    failures: usize,
    /// The devices that could not be created.
    failed_devices: BTreeSet<String>,
    /// Whether the sources could not be restricted.
    is_open: bool,
}

impl Progress {
    fn record(&mut self, operation: &Operation, result: Result<(), NetlinkError>) {
        match result {
            Ok(()) => self.outcome.changes.push(operation.change()),
            Err(error) if operation.is_made(error.errno()) => {}
            Err(error) => self.fail(operation, operation.problem(&error)),
        }
    }

    fn fail(&mut self, operation: &Operation, problem: String) {
        match operation {
            Operation::Create(device, _) => {
                self.failed_devices.insert(device.clone());
            }
            Operation::AddSources(_) => self.is_open = true,
            _ => {}
        }
        self.failures += 1;
        if self.failures <= MAX_FAILURES {
            self.outcome.problems.push(problem);
        }
    }

    /// Whether a change is pointless, or harmful, after an earlier failure.
    fn is_blocked(&self, operation: &Operation) -> bool {
        let mut failed = self.failed_devices.iter();
        let has_failed = match operation {
            Operation::Setting(setting) => {
                failed.any(|device| setting.name.contains(&format!("/conf/{device}/")))
            }
            _ => failed.any(|device| operation.device() == Some(device)),
        };
        has_failed || (self.is_open && matches!(operation, Operation::Up { .. }))
    }

    fn finish(mut self) -> Outcome {
        if let Some(more) = self
            .failures
            .checked_sub(MAX_FAILURES)
            .filter(|more| *more > 0)
        {
            self.outcome
                .problems
                .push(format!("{more} more changes for the overlays failed"));
        }
        self.outcome
    }
}

impl OverlaySubsystem {
    /// The subsystem of the daemon with this state directory, in the calling thread's network
    /// namespace. Changes nothing.
    pub fn new(state_dir: &Path) -> Result<Self, NetlinkError> {
        let sources = SourceTable::open()?;
        Ok(Self {
            alias: format!("contrail-mesos-node {} overlay", instance_tag(state_dir)),
            socket: NetlinkSocket::strict_route()?,
            events: OverlayEvents::subscribe(ROUTE_PROTOCOL, sources.port())?,
            sources,
            expectation: None,
            lacks_uplink: false,
            contradictions: Contradictions::default(),
            #[cfg(test)]
            remaining: None,
        })
    }

    /// Compares the devices, then their entries.
    fn compare(
        &mut self,
        own: &Node,
        desired: &DesiredState,
        uplink: &Uplink,
        mode: Mode,
        progress: &mut Progress,
    ) -> Result<(), NetlinkError> {
        let mut devices = Devices::read(&mut self.socket, desired, &self.alias)?;
        let difference = self.sources.compare(&desired.sources)?;
        for (name, found) in &devices.foreign {
            progress.outcome.problems.push(format!(
                "the interface {name} is not this daemon's but {}, so the overlays on it have no connection to other hosts; remove it, or give the overlay another identifier",
                Quoted(found.as_bytes())
            ));
        }
        let operations = diff::devices(
            desired,
            &devices,
            &difference,
            missing_settings(desired),
            Setting::is_set,
            &self.alias,
        );
        if mode == Mode::Apply && !operations.is_empty() {
            self.apply(&operations, progress)?;
            devices = Devices::read(&mut self.socket, desired, &self.alias)?;
            // The settings of IPv6 are new if the device had a small MTU.
            let settings = diff::missing_device_settings(desired, &devices, Setting::is_set);
            self.apply(&settings, progress)?;
        } else {
            let changes = operations.iter().map(Operation::change);
            progress.outcome.changes.extend(changes);
        }
        let replaced = to_be_created(mode, &operations);
        if mode == Mode::Apply {
            self.expect(own, desired, uplink, &devices);
        }
        let found = devices.entries(&mut self.socket)?;
        let routes = devices.routes(&mut self.socket)?;
        let mut operations = diff::entries(desired, &devices, &found, &routes, &replaced);
        self.refuse_foreign_routes(&mut operations, &devices, progress)?;
        operations.extend(diff::surplus_sources(desired, &difference));
        if mode == Mode::DryRun {
            let changes = operations.iter().map(Operation::change);
            progress.outcome.changes.extend(changes);
            return Ok(());
        }
        self.apply(&operations, progress)?;
        if !self.contradictions.is_empty() {
            // Somebody has changed something since it was read.
            self.events.wake();
        }
        Ok(())
    }

    /// Leaves out the routes that another program has, too: they would take its traffic.
    fn refuse_foreign_routes(
        &mut self,
        operations: &mut Vec<Operation>,
        devices: &Devices,
        progress: &mut Progress,
    ) -> Result<(), NetlinkError> {
        let mut refused = Vec::new();
        for (position, operation) in operations.iter().enumerate() {
            let Operation::Entry {
                entry: Entry::AddRoute(destination, route),
                ..
            } = operation
            else {
                continue;
            };
            let found = routes::lookup(&mut self.socket, destination.network())?;
            let is_foreign = |found: &routes::FoundRoute| {
                let is_ours = found.protocol == ROUTE_PROTOCOL
                    && found
                        .index
                        .is_some_and(|index| devices.name(index).is_some());
                found.destination == *destination && !is_ours
            };
            if let Some(found) = found.filter(is_foreign) {
                progress.fail(operation, foreign_route(*destination, route, Some(&found)));
                refused.push(position);
            }
        }
        for position in refused.into_iter().rev() {
            operations.remove(position);
        }
        Ok(())
    }

    /// Notes what this comparison leaves, and watches it.
    fn expect(&mut self, own: &Node, desired: &DesiredState, uplink: &Uplink, devices: &Devices) {
        let of_devices: BTreeMap<u32, String> = devices
            .own
            .iter()
            .filter(|(name, _)| desired.devices.contains_key(*name))
            .map(|(name, device)| (device.link.index, name.clone()))
            .collect();
        let links = of_devices.keys().copied().chain([uplink.index]).collect();
        self.events.watch_links(links);
        let expectation =
            Expectation::new(desired.clone(), own.address, uplink.clone(), of_devices);
        self.expectation = Some(expectation);
    }

    /// Makes the changes, and goes on after a failure.
    fn apply(
        &mut self,
        operations: &[Operation],
        progress: &mut Progress,
    ) -> Result<(), NetlinkError> {
        #[cfg(test)]
        let operations = self.before_end(operations);
        let mut rest = operations;
        while let [first, ..] = rest {
            // Many entries go into one call. What comes before them depends on one another.
            let is_entry = |operation: &Operation| matches!(operation, Operation::Entry { .. });
            let length = if is_entry(first) {
                let entries = rest.iter().take_while(|operation| is_entry(operation));
                entries.take(MAX_OPERATIONS_AT_ONCE).count()
            } else {
                1
            };
            let (part, others) = rest.split_at(length);
            rest = others;
            if is_entry(first) {
                self.apply_entries(part, progress)?;
                self.read_events()?;
            } else if !progress.is_blocked(first) {
                self.apply_one(first, progress);
            }
        }
        Ok(())
    }

    fn apply_entries(
        &mut self,
        operations: &[Operation],
        progress: &mut Progress,
    ) -> Result<(), NetlinkError> {
        let requests: Vec<_> = operations
            .iter()
            .filter_map(|operation| operation.request(&self.alias))
            .collect();
        let results = self.socket.execute(&requests)?;
        for (operation, result) in operations.iter().zip(results) {
            progress.record(operation, result);
        }
        Ok(())
    }

    fn apply_one(&mut self, operation: &Operation, progress: &mut Progress) {
        let result = match operation {
            Operation::AddSources(difference) => self.sources.add(difference),
            Operation::RemoveSources(difference) => self.sources.remove_surplus(difference),
            Operation::RemoveTable => self.sources.remove(),
            Operation::Setting(setting) => {
                match sysctl::set_if_present(&setting.name, setting.value) {
                    Ok(true) => progress.outcome.changes.push(operation.change()),
                    Ok(false) => {}
                    Err(error) => progress.fail(operation, error.to_string()),
                }
                return;
            }
            _ => {
                let request = operation.request(&self.alias);
                self.socket.execute_all(request.as_slice())
            }
        };
        progress.record(operation, result);
    }

    fn read_events(&mut self) -> Result<(), NetlinkError> {
        let (expectation, contradictions) = (&self.expectation, &mut self.contradictions);
        self.events.receive(|event| {
            if let Some(expectation) = expectation {
                contradictions.add(expectation, &event);
            }
        })
    }

    /// The changes up to the one before which the process of a test ends.
    #[cfg(test)]
    fn before_end<'a>(&mut self, operations: &'a [Operation]) -> &'a [Operation] {
        let Some(remaining) = &mut self.remaining else {
            return operations;
        };
        let count = operations.len().min(*remaining);
        *remaining -= count;
        &operations[..count]
    }
}

/// The settings of the host that are to be changed.
fn missing_settings(desired: &DesiredState) -> Vec<Setting> {
    if desired.devices.is_empty() {
        return Vec::new();
    }
    let path_mtu = Some(diff::path_mtu_setting()).filter(|setting| !setting.is_set());
    let v6 = if desired.has_v6 {
        forwarding::missing_v6(|interface| desired.devices.contains_key(interface))
    } else {
        Vec::new()
    };
    let v4 = forwarding::missing_v4();
    v4.into_iter().chain(path_mtu).chain(v6).collect()
}

/// The devices that a dry run does not create.
fn to_be_created(mode: Mode, operations: &[Operation]) -> BTreeSet<String> {
    let created = operations.iter().filter_map(|operation| match operation {
        Operation::Create(name, _) if mode == Mode::DryRun => Some(name.clone()),
        _ => None,
    });
    created.collect()
}

impl Subsystem for OverlaySubsystem {
    fn name(&self) -> &'static str {
        "overlay"
    }

    fn reconcile(&mut self, cluster: &ClusterState, mode: Mode) -> Result<Outcome, BoxError> {
        // What has changed before is read below.
        self.expectation = None;
        self.read_events()?;
        self.contradictions = Contradictions::default();
        self.lacks_uplink = false;
        let mut progress = Progress::default();
        let undetermined = match OwnNode::of(cluster) {
            Ok(own) => match uplink::with_address(&mut self.socket, own.node.address)? {
                Some(uplink) if uplink.name == "lo" => {
                    DesiredError::Loopback(own.node.address, uplink.name)
                }
                Some(uplink) => {
                    let (desired, problems) = desired(cluster, &own, &uplink);
                    progress.outcome.problems = problems;
                    self.compare(own.node, &desired, &uplink, mode, &mut progress)?;
                    return Ok(progress.finish());
                }
                None => DesiredError::NoUplink(own.node.address),
            },
            Err(undetermined) => undetermined,
        };
        match undetermined {
            // Both may be as intended, and there is nothing to be done here.
            DesiredError::NoUnderlay | DesiredError::NotRegistered(_) => {}
            problem => {
                self.lacks_uplink = matches!(
                    problem,
                    DesiredError::NoUplink(_) | DesiredError::Loopback(..)
                );
                progress.outcome.problems.push(problem.to_string());
            }
        }
        self.events.watch_links(BTreeSet::new());
        Ok(progress.finish())
    }

    fn notifications(&self) -> Option<BorrowedFd<'_>> {
        Some(self.events.descriptor())
    }

    fn receive(&mut self) -> bool {
        if let Err(error) = self.read_events() {
            log::warn!("overlay: cannot read notifications of the kernel: {error}");
            return true;
        }
        self.lacks_uplink || !self.contradictions.is_empty()
    }
}
