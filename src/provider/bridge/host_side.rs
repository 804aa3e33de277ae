//! Keeps the host's side of the containers as it must be: bridges, their ports, forwarding, the
//! nftables table.
//!
//! What it must be follows from the intents of the registered containers (`desired`). It is
//! compared with what is there only when a comparison is due: when a network gets its first
//! container of a form, when a notification reports a change (`net::host_watch`), and every ten
//! seconds for the settings that have no notification. An attach first handles the notifications
//! that have arrived. What another program changed is put back and logged; what cannot be put back
//! fails the attaches that need it, and is tried again.
//!
//! Locks, in this order: that of the checkpoints (`repair`), the file lock of the leases' directory,
//! the state here, the table.

use std::collections::{BTreeSet, HashMap};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use ipnet::IpNet;
use tokio::sync::mpsc::UnboundedSender;

use super::BridgeIntent;
use super::comparison::{Comparison, DueComparisons};
use super::conflicts::{ConflictSeverity, HostAddresses, NetworkSubnets};
use super::desired::{BridgeSpec, cluster_subnets, shared_elements};
use super::flows;
use super::host::{Bridge, Fault, HostBridges, HostError};
use super::registry::{Entry, InterfaceState, NetworkForm, Registry};
use super::repair_log::RepairLog;
use crate::net::bridge_ports::PortFlags;
use crate::net::host_watch::{HostEvent, HostEvents};
use crate::net::links::{self, Link};
use crate::net::netlink::NetlinkSocket;
use crate::net::nft::{Element, NftError, Set, Table};
use crate::node_state::{NodeState, NodeStateFile};
use crate::provider::ownership::OwnerTag;
use crate::provider::{BoxError, Intent, LostInterface};

mod ports;
mod repair;

use ports::{ForwardingEntries, is_right_port};
pub(super) use ports::{add_forwarding_entry, bridge_port};
pub use repair::{HostRepair, RepairOutcome};

/// How often a bridge is corrected before another program counts as changing it all the time.
const MAX_CORRECTIONS: usize = 4;

/// The host's side of the containers of one instance.
#[derive(Debug)]
pub(super) struct HostSide {
    owner: OwnerTag,
    pub(super) bridges: HostBridges,
    pub(super) table: Table,
    pub(super) registry: Registry,
    pub(super) node_state: Arc<NodeStateFile>,
    lost: UnboundedSender<LostInterface>,
    state: Mutex<SideState>,
}

#[derive(Debug)]
struct SideState {
    events: HostEvents,
    realized: HashMap<String, RealizedBridge>,
    /// Why bridges are not as they must be.
    failures: HashMap<String, HostError>,
    /// Why the table is not as it must be.
    table_failure: Option<String>,
    due: DueComparisons,
    /// What the node daemon had published when it was last looked at for containers on overlays.
    node_state: Option<Arc<NodeState>>,
    log: RepairLog,
}

/// A bridge that was brought to its desired state.
#[derive(Clone, Debug)]
struct RealizedBridge {
    bridge: Bridge,
    forms: Vec<NetworkForm>,
    spec: BridgeSpec,
    /// Subnets of containers that other processes of this instance attached.
    more: Vec<IpNet>,
}

impl HostSide {
    pub(super) fn new(
        state_dir: &Path,
        owner: OwnerTag,
        lost: UnboundedSender<LostInterface>,
    ) -> Result<Self, BoxError> {
        let table = Table::open()?;
        let events = HostEvents::subscribe(table.port())?;
        Ok(Self {
            bridges: HostBridges::new(state_dir, owner.clone()),
            owner,
            table,
            registry: Registry::default(),
            node_state: Arc::new(NodeStateFile::new(state_dir)),
            lost,
            state: Mutex::new(SideState {
                events,
                realized: HashMap::new(),
                failures: HashMap::new(),
                table_failure: None,
                due: DueComparisons::default(),
                node_state: None,
                log: RepairLog::default(),
            }),
        })
    }

    fn state(&self) -> MutexGuard<'_, SideState> {
        // Whatever a panic left half done is due again at the next notification or poll.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Descriptors that become readable when notifications arrive.
    pub(super) fn descriptors(&self) -> std::io::Result<[OwnedFd; 2]> {
        let state = self.state();
        let [route, nftables] = state.events.descriptors();
        Ok([route.try_clone_to_owned()?, nftables.try_clone_to_owned()?])
    }

    /// Brings the bridge of an intent that is being attached, and what its containers share, to
    /// the desired state, and adds the elements `ports` of its mapped ports, or none of them. The
    /// caller holds the shared lock. Costs no request to the kernel but that for `ports` if all is
    /// known to be right.
    pub(super) fn ensure(
        &self,
        socket: &mut NetlinkSocket,
        intent: &Intent<BridgeIntent>,
        ports: &[Element],
    ) -> Result<Bridge, HostError> {
        let name = &intent.provider.bridge;
        let mut state = self.state();
        self.collect(&mut state);
        if !state.due.is_empty() {
            self.compare(socket, &mut state);
            if let Some(error) = state.failures.get(name) {
                return Err(error.clone());
            }
        }
        if let Some(error) = &state.table_failure
            && (intent.provider.masquerade || !intent.ports.is_empty())
        {
            return Err(HostError::Netlink(error.clone()));
        }
        let forms = self.registry.forms(name);
        refuse_mixture(intent, &forms)?;
        match state.realized.get(name) {
            Some(realized) if realized.forms == forms => {
                let bridge = realized.bridge;
                drop(state);
                self.table.add(ports)?;
                Ok(bridge)
            }
            realized => {
                let subnets = new_subnets(intent, realized);
                let host = if subnets.is_empty() {
                    HostAddresses::read_links(socket)?
                } else {
                    HostAddresses::read(socket)?
                };
                self.refuse_mixture_with_others(&host, intent)?;
                self.refuse_conflicts(&host, intent, subnets)?;
                self.realize(socket, &mut state, name, forms, ports, Some(&host))
                    .map(|(bridge, _)| bridge)
            }
        }
    }

    /// Takes over a container that was attached before a restart: registers it, and brings its
    /// bridge to the desired state. The caller holds the shared lock.
    pub(super) fn adopt(
        &self,
        socket: &mut NetlinkSocket,
        intent: &Intent<BridgeIntent>,
        link: &Link,
    ) -> Result<(), HostError> {
        self.registry.adopt(intent);
        let name = &intent.provider.bridge;
        let mut state = self.state();
        let forms = self.registry.forms(name);
        let bridge = match state.realized.get(name) {
            Some(realized) if realized.forms == forms => realized.bridge,
            _ => self.realize(socket, &mut state, name, forms, &[], None)?.0,
        };
        if !is_right_port(intent, link, bridge) {
            self.put_on_bridge(socket, intent, link, bridge)?;
        } else if intent.provider.policy.is_some() {
            add_forwarding_entry(socket, intent, link.index)?;
        }
        Ok(())
    }

    /// Compares everything, and puts back what differs.
    pub(super) fn repair(&self, socket: &mut NetlinkSocket) -> Comparison {
        let mut state = self.state();
        state.due = DueComparisons {
            deleted: std::mem::take(&mut state.due.deleted),
            ..DueComparisons::everything()
        };
        self.table.mark_unknown();
        self.compare(socket, &mut state)
    }

    /// Notes that a bridge of an attach may be gone.
    pub(super) fn suspect(&self) {
        let mut state = self.state();
        state.due.bridges = true;
        state.due.all_ports = true;
    }

    /// Handles the notifications that have arrived. `is_poll` also makes a comparison of the
    /// settings due that have no notification. Returns whether a comparison is due.
    pub(super) fn receive(&self, is_poll: bool) -> bool {
        let mut state = self.state();
        self.collect(&mut state);
        if is_poll && !state.realized.is_empty() {
            state.due.bridges = true;
            // Forwarding entries have no notification here.
            state.due.all_ports |= isolates(&state.realized);
        }
        !state.due.is_empty()
    }

    /// Makes the comparisons that are due. The caller holds the shared lock.
    pub(super) fn compare_due(&self, socket: &mut NetlinkSocket) -> Comparison {
        let mut state = self.state();
        if state.due.is_empty() {
            return Comparison::default();
        }
        self.compare(socket, &mut state)
    }

    /// Reads the notifications that have arrived, and notes the comparisons that they make due. So does
    /// a new node state, if there are containers on overlays.
    fn collect(&self, state: &mut SideState) {
        let mut forms = state.realized.values().flat_map(|bridge| &bridge.forms);
        if forms.any(|form| form.overlay.is_some()) {
            let current = self.node_state.current_or_last();
            // Compared by value: the daemon may have written the same again.
            if current != state.node_state {
                state.due.bridges = true;
                state.node_state = current;
            }
        }
        let SideState {
            events,
            realized,
            due,
            ..
        } = state;
        let received = events.receive(|event| match event {
            HostEvent::LinkDeleted(name) => {
                if realized.contains_key(&name) {
                    due.bridges = true;
                    due.all_ports = true;
                } else if self
                    .registry
                    .get(&name)
                    .is_some_and(|entry| entry.state() == InterfaceState::Attached)
                {
                    due.deleted.insert(name);
                }
            }
            HostEvent::PortChanged(name) => {
                let entry = self.registry.get(&name);
                if entry.is_some_and(|entry| is_present(&entry)) {
                    due.ports.insert(name);
                }
            }
            HostEvent::PortFlagsChanged(name, flags) => {
                let entry = self.registry.get(&name).filter(|entry| {
                    let is_isolated = entry.intent.provider.policy.is_some();
                    is_isolated && entry.state() == InterfaceState::Attached
                });
                if entry.is_some() && flags != PortFlags::ISOLATED {
                    due.ports.insert(name);
                }
            }
            HostEvent::RulesChanged => due.bridges |= isolates(realized),
            HostEvent::BridgeLinkChanged(link) => {
                let is_right = realized
                    .get(&link.name)
                    .is_some_and(|realized| self.bridges.is_right(&link, &realized.spec));
                due.bridges |= !is_right && !realized.is_empty();
            }
            HostEvent::BridgeChanged | HostEvent::ForwardingChanged => {
                due.bridges |= !realized.is_empty();
            }
            HostEvent::TableChanged(change) => due.table |= self.table.mark_changed(&change),
            HostEvent::Missed => {
                self.table.mark_unknown();
                *due = DueComparisons::everything();
            }
        });
        if let Err(error) = received {
            self.table.mark_unknown();
            state.due = DueComparisons::everything();
            let line = format!("notifications of the kernel cannot be read: {error}");
            for line in state.log.lines(vec![line], Instant::now()) {
                log::error!("{line}");
            }
        }
    }

    fn compare(&self, socket: &mut NetlinkSocket, state: &mut SideState) -> Comparison {
        let mut due = std::mem::take(&mut state.due);
        let mut comparison = Comparison::default();
        let mut failures = Vec::new();
        if due.bridges {
            // What has no container yet, or no longer, is brought up and released elsewhere.
            let bridges: Vec<_> = state
                .realized
                .iter()
                .filter(|(_, realized)| !realized.forms.is_empty())
                .map(|(name, realized)| {
                    (name.clone(), realized.forms.clone(), realized.bridge.index)
                })
                .collect();
            for (name, forms, index) in bridges {
                match self.realize(socket, state, &name, forms, &[], None) {
                    Ok((bridge, faults)) => {
                        due.all_ports |= index != bridge.index;
                        comparison.faults.extend(faults);
                    }
                    Err(error) => {
                        failures.push(format!("bridge {name}: {error}"));
                        state.failures.insert(name, error);
                        state.due.bridges = true;
                    }
                }
            }
        }
        if due.table {
            match self.table.repair() {
                Ok(repairs) => {
                    state.table_failure = None;
                    if !repairs.is_empty() {
                        self.forget_untranslated_flows();
                    }
                    comparison
                        .faults
                        .extend(repairs.iter().map(|repair| format!("{repair} is gone")));
                }
                Err(error) => {
                    failures.push(error.to_string());
                    state.table_failure = Some(error.to_string());
                    state.due.table = true;
                }
            }
        }
        self.compare_ports(socket, state, &due, &mut comparison, &mut failures);
        comparison.has_failed = !failures.is_empty();
        let now = Instant::now();
        let restored = state.log.lines(comparison.faults.clone(), now);
        if let Some(line) = RepairLog::joined(&restored) {
            log::warn!("restored the host's side of containers: {line}");
        }
        let failed = state.log.lines(failures, now);
        if let Some(line) = RepairLog::joined(&failed) {
            log::error!("cannot restore the host's side of containers: {line}");
        }
        comparison
    }

    /// After the table was restored: clients may have begun flows that no rule translated.
    fn forget_untranslated_flows(&self) {
        let entries = self.registry.list();
        let intents: Vec<_> = entries
            .iter()
            .filter(|entry| entry.state() == InterfaceState::Attached)
            .map(|entry| &entry.intent)
            .collect();
        flows::forget_untranslated(&intents);
    }

    /// Brings a bridge, and what its containers share, to the desired state of `forms`, and adds
    /// the elements `ports`. Returns what was wrong, if that state is not new. `host` is what the host
    /// has, if that was read just now.
    fn realize(
        &self,
        socket: &mut NetlinkSocket,
        state: &mut SideState,
        name: &str,
        forms: Vec<NetworkForm>,
        ports: &[Element],
        mut host: Option<&HostAddresses>,
    ) -> Result<(Bridge, Vec<String>), HostError> {
        let spec = BridgeSpec::new(&self.owner, name, &forms);
        let previous = state.realized.get(name).cloned();
        let is_new = previous
            .as_ref()
            .is_none_or(|previous| previous.forms != forms);
        let mut faults = Vec::new();
        let mut corrections = 0;
        let bridge = loop {
            let (bridge, changes) = self.bridges.ensure(socket, &spec, host.take())?;
            let is_watched = state.realized.get(name).is_some_and(|realized| {
                let watches_isolation = realized.spec.isolates || !spec.isolates;
                realized.bridge.index == bridge.index && watches_isolation
            });
            if !is_watched {
                let others = state.realized.iter().filter(|(other, _)| *other != name);
                let mut indexes: BTreeSet<u32> =
                    others.map(|(_, other)| other.bridge.index).collect();
                indexes.insert(bridge.index);
                let watches_isolation = spec.isolates || isolates(&state.realized);
                state.events.watch_bridges(indexes, watches_isolation);
                state.realized.insert(
                    name.to_owned(),
                    RealizedBridge {
                        bridge,
                        // The state of `forms` is not reached yet.
                        forms: previous
                            .as_ref()
                            .map_or_else(Vec::new, |previous| previous.forms.clone()),
                        spec: spec.clone(),
                        more: Vec::new(),
                    },
                );
            }
            let first = changes.first().map(|change| {
                let bridge = name;
                Fault { change, bridge }.to_string()
            });
            if corrections == 0 && !is_new {
                let described = changes.iter().map(|change| {
                    let bridge = name;
                    Fault { change, bridge }.to_string()
                });
                faults.extend(described);
            }
            // What changed before the bridge was watched is seen in another comparison.
            if first.is_none() && (is_watched || corrections > 0) {
                break bridge;
            }
            if let Some(fault) = first.filter(|_| corrections >= MAX_CORRECTIONS) {
                return Err(HostError::Contested(fault));
            }
            corrections += 1;
        };
        let more = previous.map_or_else(Vec::new, |previous| previous.more);
        let more = self.share_elements(name, &forms, more, ports)?;
        state.failures.remove(name);
        state.realized.insert(
            name.to_owned(),
            RealizedBridge {
                bridge,
                forms,
                spec,
                more,
            },
        );
        Ok((bridge, faults))
    }

    /// The nftables elements that the containers of one bridge share, with the cluster's subnets as
    /// the node daemon published them. Blocks on the file system for containers on an overlay.
    pub(super) fn shared_elements(&self, forms: &[NetworkForm], more: &[IpNet]) -> Vec<Element> {
        let has_overlay = forms.iter().any(|form| form.overlay.is_some());
        let state = has_overlay
            .then(|| self.node_state.current_or_last())
            .flatten();
        let cluster = cluster_subnets(forms, state.as_deref());
        shared_elements(&self.owner, forms, more, &cluster)
    }

    /// Brings the nftables elements that the containers of a bridge share to their desired state,
    /// and adds `ports` in the same transaction.
    /// Returns `more`, with the subnets of elements that other processes of this instance added, or
    /// this one before a restart: they are joined with ours, because intervals must not overlap.
    fn share_elements(
        &self,
        bridge: &str,
        forms: &[NetworkForm],
        mut more: Vec<IpNet>,
        ports: &[Element],
    ) -> Result<Vec<IpNet>, HostError> {
        let mut elements = self.shared_elements(forms, &more);
        let mut takes_over = !self.table.has_group(bridge) && !elements.is_empty();
        loop {
            if takes_over {
                let mut sets: Vec<Set> = elements.iter().map(|element| element.set).collect();
                sets.dedup();
                let mut strangers = self.table.strangers(&sets)?;
                strangers.retain(|stranger| {
                    self.owner.owns(&stranger.comment)
                        && stranger.subnet().is_some()
                        && elements.iter().any(|element| {
                            element.overlaps(stranger) || element.shares_sources(stranger)
                        })
                });
                more.extend(strangers.iter().filter_map(Element::subnet));
                more = IpNet::aggregate(&more);
                elements = self.shared_elements(forms, &more);
                self.table
                    .take_over_group(bridge, &strangers, &elements, ports)?;
                return Ok(more);
            }
            match self.table.set_group(bridge, &elements, ports) {
                Err(NftError::Taken { element, holder })
                    if !element.set.is_exclusive() && self.owner.owns(&holder) =>
                {
                    takes_over = true;
                }
                other => return Ok(other.map(|()| more)?),
            }
        }
    }

    /// Refuses a mixture as [`refuse_mixture`] does, with the containers that other processes of this
    /// instance have on the bridge.
    fn refuse_mixture_with_others(
        &self,
        host: &HostAddresses,
        intent: &Intent<BridgeIntent>,
    ) -> Result<(), HostError> {
        let name = &intent.provider.bridge;
        let Some(bridge) = host.links().find(|link| link.name == *name) else {
            return Ok(());
        };
        let isolates = intent.provider.policy.is_some();
        let is_other = |link: &Link| {
            let alias = link.alias.as_deref().unwrap_or_default();
            link.controller == Some(bridge.index)
                && self.owner.owns(alias)
                && self.registry.get(&link.name).is_none()
        };
        let is_mixed = host.links().any(|link| {
            let is_isolated = link.port.is_some_and(|port| port.is_isolated);
            is_isolated != isolates && is_other(link)
        });
        if is_mixed {
            return Err(mixture(intent));
        }
        Ok(())
    }

    /// Refuses those of `subnets` that the host has already.
    fn refuse_conflicts(
        &self,
        host: &HostAddresses,
        intent: &Intent<BridgeIntent>,
        subnets: Vec<IpNet>,
    ) -> Result<(), HostError> {
        if subnets.is_empty() {
            return Ok(());
        }
        let network = NetworkSubnets {
            name: &intent.network,
            bridge: &intent.provider.bridge,
            subnets,
            isolates: intent.provider.policy.is_some(),
        };
        let mut refusals = Vec::new();
        for conflict in host.conflicts(&network, &self.owner) {
            match conflict.severity {
                ConflictSeverity::Refusal => refusals.push(conflict.message),
                ConflictSeverity::Warning => log::warn!("{conflict}"),
            }
        }
        if refusals.is_empty() {
            Ok(())
        } else {
            Err(HostError::Conflict(refusals.join("; ")))
        }
    }

    /// Removes what the containers of a bridge no longer need, after that of `intent` was removed
    /// from the registry: the bridge itself after the last, else the addresses and the elements of
    /// forms that none of them has any more.
    /// `is_foreign`: another process of this instance attached it.
    pub(super) fn release(
        &self,
        intent: &Intent<BridgeIntent>,
        is_foreign: bool,
    ) -> Result<(), BoxError> {
        let bridge = &intent.provider.bridge;
        let forms = self.registry.forms(bridge);
        let is_unchanged = self
            .state()
            .realized
            .get(bridge)
            .is_some_and(|realized| realized.forms == forms);
        if is_unchanged {
            return Ok(());
        }
        let Some(_exclusive) = self.bridges.lock_exclusive()? else {
            return Ok(());
        };
        let mut state = self.state();
        // An attach may have begun before the lock was acquired.
        let forms = self.registry.forms(bridge);
        if forms.is_empty() {
            return self.remove(&mut state, intent, is_foreign);
        }
        let mut socket = NetlinkSocket::route()?;
        self.reduce(&mut socket, &mut state, bridge, forms, false)
    }

    /// Reduces every bridge to what the registered containers need, after a restart.
    pub(super) fn release_old_forms(&self, socket: &mut NetlinkSocket) -> Result<(), BoxError> {
        let Some(_exclusive) = self.bridges.lock_exclusive()? else {
            return Ok(());
        };
        let mut state = self.state();
        for bridge in self.registry.bridges() {
            let forms = self.registry.forms(&bridge);
            self.reduce(socket, &mut state, &bridge, forms, true)?;
        }
        Ok(())
    }

    fn reduce(
        &self,
        socket: &mut NetlinkSocket,
        state: &mut SideState,
        bridge: &str,
        forms: Vec<NetworkForm>,
        is_restart: bool,
    ) -> Result<(), BoxError> {
        let spec = BridgeSpec::new(&self.owner, bridge, &forms);
        let old: Vec<IpNet> = state
            .realized
            .get(bridge)
            .map_or_else(Vec::new, |realized| realized.spec.addresses.clone())
            .into_iter()
            .filter(|net| !spec.addresses.contains(net))
            .collect();
        let has_more = state
            .realized
            .get(bridge)
            .is_some_and(|realized| !realized.more.is_empty());
        let mut opened = closed_subnets(state, bridge);
        for subnet in spec.closed_subnets() {
            opened.remove(&subnet);
        }
        let is_known = |port: &str| self.registry.get(port).is_some();
        if (is_restart || has_more || !old.is_empty() || !opened.is_empty())
            && self.bridges.are_all_ports_known(socket, bridge, is_known)?
        {
            if let Some(realized) = state.realized.get_mut(bridge) {
                realized.more.clear();
            }
            self.bridges.remove_old_addresses(socket, &spec, &old)?;
            self.bridges.open_subnets(socket, opened)?;
        }
        // The kernel removes the secondary addresses of a subnet with its first one.
        self.realize(socket, state, bridge, forms, &[], None)?;
        Ok(())
    }

    fn remove(
        &self,
        state: &mut SideState,
        intent: &Intent<BridgeIntent>,
        is_foreign: bool,
    ) -> Result<(), BoxError> {
        let bridge = &intent.provider.bridge;
        let is_removed = self.bridges.remove_bridge_if_unused(bridge)?;
        let isolates =
            !closed_subnets(state, bridge).is_empty() || intent.provider.policy.is_some();
        state.failures.remove(bridge);
        state.realized.remove(bridge);
        // Also if others are on the bridge: none of them needs the rules if none is isolated.
        if isolates {
            let others = state.realized.values();
            let needed = others
                .flat_map(|other| other.spec.closed_subnets())
                .collect();
            self.bridges
                .open_unused_subnets(&mut NetlinkSocket::route()?, &needed)?;
        }
        if !is_removed {
            // Containers of other processes of this instance are on it.
            self.table.forget_group(bridge);
            return Ok(());
        }
        self.table.set_group(bridge, &[], &[])?;
        if is_foreign {
            self.remove_elements_of(intent)?;
        }
        if !self.table.remove_if_unused()? && !is_foreign {
            // What containers shared that ended before this one, and whose intents are lost.
            self.remove_elements_of(intent)?;
            self.table.remove_if_unused()?;
        }
        Ok(())
    }

    /// Removes what other processes of this instance left of the elements of a bridge.
    fn remove_elements_of(&self, intent: &Intent<BridgeIntent>) -> Result<(), NftError> {
        let label = self.owner.network_label(&intent.network);
        let bridge = Element::bridge(&intent.provider.bridge, &label);
        let addresses = &intent.provider.bridge_addresses;
        let orphans: Vec<_> = self
            .table
            .strangers(&Set::ALL)?
            .into_iter()
            .filter(|element| {
                element.comment == label
                    && match element.subnet() {
                        Some(subnet) => addresses.iter().any(|net| subnet.contains(&net.addr())),
                        None => element.key == bridge.key && element.set == bridge.set,
                    }
            })
            .collect();
        self.table.remove(&orphans)
    }

    /// What is wrong with the host's side of an attached container. Changes nothing.
    pub(super) fn inspect(
        &self,
        socket: &mut NetlinkSocket,
        intent: &Intent<BridgeIntent>,
        port_elements: &[Element],
    ) -> Vec<String> {
        let mut findings = Vec::new();
        let bridge = &intent.provider.bridge;
        let forms = [NetworkForm::from(intent)];
        let spec = BridgeSpec::new(&self.owner, bridge, &forms);
        let mut index = None;
        match self.bridges.faults(socket, &spec) {
            Ok((link, faults)) => {
                index = link.map(|link| link.index);
                findings.extend(faults);
            }
            Err(error) => findings.push(error.to_string()),
        }
        let name = &intent.provider.host_interface;
        match links::by_name(socket, name) {
            Ok(Some(link)) => {
                if !link.up {
                    findings.push(format!("the host's end {name} is down"));
                }
                if link.controller.is_none() || link.controller != index {
                    findings.push(format!(
                        "the host's end {name} is not a port of the bridge {bridge}"
                    ));
                } else if intent.provider.policy.is_some() && link.port != Some(PortFlags::ISOLATED)
                {
                    findings.push(format!("the host's end {name} is not an isolated port"));
                } else if let Some(bridge) = index {
                    let mut entries = ForwardingEntries::default();
                    match entries.fault(intent, &link, bridge) {
                        Ok(fault) => findings.extend(fault),
                        Err(error) => findings.push(error.to_string()),
                    }
                }
            }
            Ok(None) => findings.push(format!("the host's end {name} is gone")),
            Err(error) => findings.push(error.to_string()),
        }
        let mut elements = self.shared_elements(&forms, &[]);
        elements.extend(port_elements.iter().cloned());
        match self.table.missing(&elements) {
            Ok(missing) => {
                findings.extend(missing.into_iter().map(|what| format!("{what} is missing")));
            }
            Err(error) => findings.push(error.to_string()),
        }
        findings
    }
}

/// The subnets of an intent whose gateways its bridge does not have yet.
fn new_subnets(intent: &Intent<BridgeIntent>, realized: Option<&RealizedBridge>) -> Vec<IpNet> {
    let present = realized.map_or(&[][..], |realized| realized.spec.addresses.as_slice());
    let gateways = intent.provider.bridge_addresses.iter();
    gateways
        .filter(|net| !present.contains(net))
        .map(IpNet::trunc)
        .collect()
}

/// Whether any of the bridges has containers whose groups are isolated.
fn isolates(bridges: &HashMap<String, RealizedBridge>) -> bool {
    bridges.values().any(|bridge| bridge.spec.isolates)
}

/// The subnets that are closed for the containers of a bridge.
fn closed_subnets(state: &SideState, bridge: &str) -> BTreeSet<IpNet> {
    let realized = state.realized.get(bridge);
    realized.map_or_else(BTreeSet::new, |realized| realized.spec.closed_subnets())
}

/// Refuses a container on a bridge with others of which not all have groups that are isolated, or all
/// but it: those without would be cut off, or reach the others by the bridge.
fn refuse_mixture(intent: &Intent<BridgeIntent>, forms: &[NetworkForm]) -> Result<(), HostError> {
    let isolates = intent.provider.policy.is_some();
    if forms.iter().all(|form| form.isolates == isolates) {
        return Ok(());
    }
    Err(mixture(intent))
}

/// The refusal of a container beside others with which it must not be.
fn mixture(intent: &Intent<BridgeIntent>) -> HostError {
    let others = if intent.provider.policy.is_some() {
        "does not isolate"
    } else {
        "isolates"
    };
    HostError::Conflict(format!(
        "the bridge {} still has containers that were launched while the network {others} groups; end them first, or give the network another bridge and another subnet",
        intent.provider.bridge
    ))
}

/// Whether the container's interface is to be there.
fn is_present(entry: &Entry) -> bool {
    matches!(
        entry.state(),
        InterfaceState::Attaching | InterfaceState::Attached
    )
}
