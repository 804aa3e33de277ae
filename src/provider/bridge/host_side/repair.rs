//! The repair of the host's side by another process than the one that attached the containers: the
//! node daemon, also while no agent runs.
//!
//! Invariants:
//! - Only what attached containers need is put back, and only while their interfaces exist: a
//!   container whose interface is gone, as after a reboot, needs nothing.
//! - Nothing is removed or reduced. What the agent made for a container that is not attached yet, or
//!   of another configuration, stays as it is, so the two never undo each other's work.
//! - The caller keeps detaches from going on meanwhile, until a deadline after which nothing is
//!   changed. The shared lock of the leases' directory keeps bridges from being removed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Instant;

use super::HostSide;
use super::ports::{ForwardingEntries, is_right_port, port_fault};
use crate::net::bridge_address;
use crate::net::host_watch::HostEvent;
use crate::net::links::{self, Link};
use crate::net::netlink::NetlinkSocket;
use crate::net::nft::{Element, NftError};
use crate::provider::bridge::BridgeIntent;
use crate::provider::bridge::desired::BridgeSpec;
use crate::provider::bridge::driver::port_elements;
use crate::provider::bridge::flows;
use crate::provider::bridge::host::{Bridge, Fault, HostError};
use crate::provider::bridge::registry::NetworkForm;
use crate::provider::ownership::{OwnerTag, is_program_label};
use crate::provider::{BoxError, Intent, ProviderError, ProviderIntent, failed};

/// How long the name of a host end is, in bytes.
const HOST_INTERFACE_BYTES: usize = 15;
/// How often a bridge that was created is compared again, because it was not watched before.
const MAX_COMPARISONS: usize = 2;

/// What came of a repair.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepairOutcome {
    /// What was not as it must be and was put back, or is to be put back.
    pub faults: Vec<String>,
    /// What could not be put back, and why.
    pub failures: Vec<String>,
}

/// Repairs the host's side of the containers that another process of the instance has attached to
/// bridges, in the network namespace of the thread that created it.
#[derive(Debug)]
pub struct HostRepair {
    host: HostSide,
    socket: NetlinkSocket,
    /// The bridges of the attached containers, as they must be.
    bridges: HashMap<String, BridgeSpec>,
}

/// An attached container whose interface exists.
struct AttachedPort<'a> {
    intent: Intent<BridgeIntent>,
    link: &'a Link,
}

impl HostRepair {
    /// Subscribes to the notifications of the calling thread's network namespace. Changes nothing.
    pub fn new(state_dir: &Path) -> Result<Self, ProviderError> {
        let fail = |error| failed("*", "watch the host's side of containers", error);
        // Who has lost an interface is the agent's matter.
        let (lost, _) = tokio::sync::mpsc::unbounded_channel();
        Ok(Self {
            host: HostSide::new(state_dir, OwnerTag::new(state_dir), lost).map_err(fail)?,
            socket: NetlinkSocket::route().map_err(|error| fail(error.into()))?,
            bridges: HashMap::new(),
        })
    }

    /// Passes the descriptors to `use_descriptors` that become readable when notifications arrive.
    pub fn descriptors<T>(&self, use_descriptors: impl FnOnce([BorrowedFd<'_>; 2]) -> T) -> T {
        use_descriptors(self.host.state().events.descriptors())
    }

    /// Reads the notifications that have arrived, without waiting. Returns whether something may have
    /// to be put back.
    pub fn receive(&mut self) -> bool {
        let (host, bridges) = (&self.host, &self.bridges);
        let mut is_due = false;
        let received = host.state().events.receive(|event| {
            is_due |= match event {
                HostEvent::LinkDeleted(name) => bridges.contains_key(&name),
                // It may be one that was attached since the last repair.
                HostEvent::PortChanged(name) | HostEvent::PortFlagsChanged(name, _) => {
                    is_host_interface(&name)
                }
                HostEvent::RulesChanged => bridges.values().any(|spec| spec.isolates),
                HostEvent::BridgeLinkChanged(link) => bridges
                    .get(&link.name)
                    .is_some_and(|spec| !host.bridges.is_right(&link, spec)),
                HostEvent::BridgeChanged | HostEvent::ForwardingChanged => !bridges.is_empty(),
                HostEvent::TableChanged(change) => host.table.mark_changed(&change),
                HostEvent::Missed => true,
            };
        });
        if let Err(error) = received {
            log::error!("notifications of the kernel cannot be read: {error}");
            is_due = true;
        }
        is_due
    }

    /// Compares the host's side of the containers with these intents, which are attached, with what
    /// it must be, and puts back what is missing; unless `is_dry_run`, which only says what that is.
    /// Nothing is changed after `deadline`. Blocks.
    pub fn repair<'a>(
        &mut self,
        intents: impl IntoIterator<Item = &'a Intent>,
        deadline: Instant,
        is_dry_run: bool,
    ) -> Result<RepairOutcome, ProviderError> {
        let intents: Vec<_> = intents.into_iter().filter_map(bridge_intent).collect();
        if intents.is_empty() {
            self.bridges.clear();
            self.watch(std::iter::empty(), false);
            self.host.table.expect([]);
            return Ok(RepairOutcome::default());
        }
        let fail = |error: BoxError| failed("*", "restore the host's side of containers", error);
        let _shared = self
            .host
            .bridges
            .lock_shared()
            .map_err(|error| fail(error.into()))?;
        let links: HashMap<String, Link> = links::all(&mut self.socket)
            .map_err(|error| fail(error.into()))?
            .into_iter()
            .map(|link| (link.name.clone(), link))
            .collect();
        let ports = self.attached_ports(intents, &links);
        let mut by_bridge: BTreeMap<&str, BTreeSet<NetworkForm>> = BTreeMap::new();
        for port in &ports {
            let forms = by_bridge
                .entry(port.intent.provider.bridge.as_str())
                .or_default();
            forms.insert(NetworkForm::from(&port.intent));
        }
        self.bridges
            .retain(|name, _| by_bridge.contains_key(name.as_str()));
        let mut pass = Pass {
            deadline,
            is_dry_run,
            is_late: false,
            isolates: by_bridge.values().flatten().any(|form| form.isolates),
            outcome: RepairOutcome::default(),
        };
        let bridges = by_bridge.keys().filter_map(|name| links.get(*name));
        self.watch(bridges, pass.isolates);
        let mut elements = Vec::new();
        let mut indexes = HashMap::new();
        for (name, forms) in by_bridge {
            let forms: Vec<NetworkForm> = forms.into_iter().collect();
            elements.extend(self.host.shared_elements(&forms, &[]));
            match self.repair_bridge(name, &forms, links.get(name), &mut pass) {
                Ok(Some(bridge)) => {
                    indexes.insert(name.to_owned(), bridge);
                }
                Ok(None) => {}
                Err(error) => pass.fail(format!("cannot restore the bridge {name}: {error}")),
            }
        }
        for port in &ports {
            elements.extend(port_elements(&self.host.owner, &port.intent));
        }
        self.repair_table(elements, &ports, &mut pass);
        let mut forwarding = ForwardingEntries::default();
        for port in &ports {
            if let Some(bridge) = indexes.get(&port.intent.provider.bridge) {
                self.repair_port(port, *bridge, &mut forwarding, &mut pass);
            }
        }
        Ok(pass.outcome)
    }

    /// Those of the containers whose host ends are there.
    fn attached_ports<'a>(
        &self,
        intents: Vec<Intent<BridgeIntent>>,
        links: &'a HashMap<String, Link>,
    ) -> Vec<AttachedPort<'a>> {
        let is_ours = |link: &Link| {
            let alias = link.alias.as_deref().unwrap_or_default();
            self.host.owner.owns(alias) || !is_program_label(alias)
        };
        intents
            .into_iter()
            .filter_map(|intent| {
                let link = links.get(&intent.provider.host_interface)?;
                is_ours(link).then_some(AttachedPort { intent, link })
            })
            .collect()
    }

    /// Asks for notifications about these bridges, and no others, and about their isolation if any of
    /// them has it.
    fn watch<'a>(&self, bridges: impl Iterator<Item = &'a Link>, isolates: bool) {
        let indexes = bridges.map(|link| link.index).collect();
        self.host.state().events.watch_bridges(indexes, isolates);
    }

    /// Brings a bridge and the host's forwarding to what `forms` need. Returns the bridge; none in a
    /// dry run without one.
    fn repair_bridge(
        &mut self,
        name: &str,
        forms: &[NetworkForm],
        link: Option<&Link>,
        pass: &mut Pass,
    ) -> Result<Option<Bridge>, HostError> {
        let mut spec = BridgeSpec::new(&self.host.owner, name, forms);
        if let Some(link) = link {
            self.tolerate(&mut spec, link)?;
        }
        self.bridges.insert(name.to_owned(), spec.clone());
        match pass.step() {
            Step::Change => {}
            Step::Describe => {
                let (link, faults) = self.host.bridges.faults(&mut self.socket, &spec)?;
                pass.note(faults);
                return Ok(link.map(|link| Bridge {
                    index: link.index,
                    mac: None,
                }));
            }
            Step::Omit => return Ok(None),
        }
        let mut watched = link.map(|link| link.index);
        for _ in 0..MAX_COMPARISONS {
            let (bridge, changes) = self.host.bridges.ensure(&mut self.socket, &spec, None)?;
            pass.note(changes.iter().map(|change| {
                let bridge = name;
                Fault { change, bridge }.to_string()
            }));
            if watched == Some(bridge.index) {
                return Ok(Some(bridge));
            }
            // What changed before the bridge was watched is seen in another comparison.
            watched = Some(bridge.index);
            let others = links::all(&mut self.socket)?;
            self.watch(
                others
                    .iter()
                    .filter(|link| self.bridges.contains_key(&link.name)),
                pass.isolates,
            );
        }
        Err(HostError::Deleted(name.to_owned()))
    }

    /// Changes `spec` so that what the bridge has beyond it stays: containers that are being attached
    /// may need it.
    fn tolerate(&mut self, spec: &mut BridgeSpec, link: &Link) -> Result<(), HostError> {
        spec.mtu = spec.mtu.max(link.mtu);
        if !spec.has_v6() {
            return Ok(());
        }
        for present in bridge_address::of_link(&mut self.socket, link.index)? {
            for net in &mut spec.addresses {
                // A link has an IPv6 address only once.
                let is_same = net.addr() == present.net.addr() && net.addr().is_ipv6();
                if is_same && present.net.contains(&*net) {
                    *net = present.net;
                }
            }
        }
        Ok(())
    }

    /// Puts back what is missing of the table.
    fn repair_table(
        &mut self,
        elements: Vec<Element>,
        ports: &[AttachedPort<'_>],
        pass: &mut Pass,
    ) {
        let table = &self.host.table;
        let step = pass.step();
        let outcome = match step {
            Step::Change => self.expected_elements(elements).and_then(|expected| {
                table.expect(expected);
                table.repair_until(pass.deadline)
            }),
            Step::Describe => self
                .expected_elements(elements)
                .and_then(|expected| table.missing(&expected)),
            Step::Omit => return,
        };
        match outcome {
            Ok(missing) if step == Step::Describe => pass.note(missing),
            Ok(missing) => {
                if !missing.is_empty() {
                    let intents: Vec<_> = ports.iter().map(|port| &port.intent).collect();
                    // Clients may have begun flows that no rule translated.
                    flows::forget_untranslated(&intents);
                }
                pass.note(missing.into_iter().map(|part| format!("{part} is gone")));
            }
            Err(error) => pass.fail(error.to_string()),
        }
    }

    /// `elements`; in place of those that the agent has in another form for containers of several
    /// configurations, those that are there. The kernel does not take intervals that overlap.
    fn expected_elements(&self, elements: Vec<Element>) -> Result<Vec<Element>, NftError> {
        if elements.iter().all(|element| element.subnet().is_none()) {
            return Ok(elements);
        }
        let present: Vec<Element> = self
            .host
            .table
            .elements()?
            .into_iter()
            .filter(|element| element.subnet().is_some() && self.host.owner.owns(&element.comment))
            .collect();
        let mut expected = Vec::new();
        for element in elements {
            let is_same = |other: &Element| {
                (other.set, &other.key, &other.key_end)
                    == (element.set, &element.key, &element.key_end)
            };
            let mut overlapping = present
                .iter()
                .filter(|other| element.subnet().is_some() && element.overlaps(other))
                .peekable();
            if overlapping.peek().is_none() || overlapping.clone().any(is_same) {
                expected.push(element);
            } else {
                expected.extend(overlapping.cloned());
            }
        }
        Ok(expected)
    }

    /// Makes a host end the port that it must be. `forwarding` has the forwarding entries of the bridges
    /// that were read so far.
    fn repair_port(
        &mut self,
        port: &AttachedPort<'_>,
        bridge: Bridge,
        forwarding: &mut ForwardingEntries,
        pass: &mut Pass,
    ) {
        let AttachedPort { intent, link } = port;
        let step = pass.step();
        if step == Step::Omit {
            return;
        }
        let is_right = is_right_port(intent, link, bridge);
        let outcome = match (is_right, step) {
            (true, Step::Describe) => forwarding.fault(intent, link, bridge.index),
            (true, _) => {
                HostSide::compare_forwarding(&mut self.socket, intent, link, bridge, forwarding)
            }
            (false, Step::Describe) => Ok(Some(port_fault(intent, link, bridge))),
            (false, _) => {
                let fault = port_fault(intent, link, bridge);
                let corrected = self
                    .host
                    .put_on_bridge(&mut self.socket, intent, link, bridge);
                corrected.map(|()| Some(fault))
            }
        };
        match outcome {
            Ok(fault) => pass.note(fault),
            // The container has just ended, and its interface with it.
            Err(_) if !links::exists(&link.name) => {}
            Err(error) => pass.fail(error.to_string()),
        }
    }
}

/// What is done about a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Change,
    /// In a dry run.
    Describe,
    /// There is no time left.
    Omit,
}

/// One comparison of everything.
struct Pass {
    deadline: Instant,
    is_dry_run: bool,
    is_late: bool,
    /// Whether a bridge has containers whose groups are isolated.
    isolates: bool,
    outcome: RepairOutcome,
}

impl Pass {
    fn step(&mut self) -> Step {
        if self.is_dry_run {
            return Step::Describe;
        }
        if Instant::now() < self.deadline {
            return Step::Change;
        }
        if !self.is_late {
            self.is_late = true;
            self.fail(
                "the host's side of containers was not compared in time; the rest is tried again"
                    .to_owned(),
            );
        }
        Step::Omit
    }

    fn note(&mut self, faults: impl IntoIterator<Item = String>) {
        self.outcome.faults.extend(faults);
    }

    fn fail(&mut self, failure: String) {
        self.outcome.failures.push(failure);
    }
}

/// The intent of a container on a bridge.
fn bridge_intent(intent: &Intent) -> Option<Intent<BridgeIntent>> {
    match &intent.provider {
        ProviderIntent::Bridge(part) => Some(intent.with_provider(part.clone())),
        ProviderIntent::Contrail(_) | ProviderIntent::Cni(_) | ProviderIntent::None(_) => None,
    }
}

/// Whether a link of that name may be the host end of a container.
fn is_host_interface(name: &str) -> bool {
    name.starts_with("cm") && name.len() == HOST_INTERFACE_BYTES
}
