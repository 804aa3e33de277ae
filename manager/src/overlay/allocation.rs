//! Which node has what: a pure state machine.
//!
//! Invariants:
//! - No address is given twice, and no MAC address: neither as a tunnel endpoint nor as a part of a
//!   block, whatever the configuration was when it was given.
//! - What a node is given is chosen as a whole before any of it is marked as used.
//! - A block is kept for its node until the node is released. It is in use while the overlay is
//!   configured and its subnet holds the block, whatever the overlay's prefix is now. It is retired
//!   when the overlay's subnet no longer holds it, and in use again when it does.
//! - A block of an overlay that lends blocks stays with its node until the node gives it back. Then it
//!   rests, and no other node gets it before [`OverlayConfig::block_rest`] has passed in
//!   this term.
//! - A node gives blocks back once for each number of returns, so that an old report takes nothing.
//! - Two steps for all nodes apply a configuration: first the endpoints that are no longer valid are
//!   given back, then what is missing is given. Any beginning of these changes is a valid state.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::time::Instant;

use contrail_mesos_api::cluster::{
    BlockReport, Node, NodeAnswer, NodeSubnets, Object, Vtep, block_capacity,
};
use contrail_mesos_api::container::Mac;
use contrail_mesos_api::text::Quoted;
use ipnet::IpNet;

use super::config::{OverlayConfig, OverlayDefinition, SubnetPool};
use super::error::AllocatorError;
use super::record::{NodeBlocks, NodeRecord, is_node_address, is_node_name, is_same_family};
use super::space::{Space, address4, address6, number, range};
use super::usage::{EndpointUsage, OverlayUsage};

/// The most blocks that a node gets of an overlay and family.
pub(super) const MAX_BLOCKS: usize = 256;

/// What is given to nodes of the overlays of one configuration.
#[derive(Clone, Debug)]
pub(super) struct Allocation {
    config: OverlayConfig,
    /// By name.
    overlays: BTreeMap<String, OverlayDefinition>,
    /// By name.
    nodes: BTreeMap<String, NodeRecord>,
    /// The names of nodes by their underlay addresses.
    addresses: HashMap<IpAddr, String>,
    /// The names of nodes by the last three bytes of their endpoints' MAC addresses.
    macs: HashMap<[u8; 3], String>,
    /// The used addresses of both families.
    space4: Space,
    space6: Space,
    /// How many nodes have a block in use of an overlay, by its name: of IPv4, and of IPv6.
    block_counts: HashMap<String, [u64; 2]>,
    /// The nodes with blocks that rest.
    resting: BTreeSet<String>,
    /// Since when blocks rest, as far as this term knows.
    rests: HashMap<IpNet, Instant>,
    /// How many nodes have an IPv6 address of an endpoint.
    endpoint6_count: u64,
}

/// A change of a node's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RecordChange {
    pub(super) name: String,
    pub(super) before: Option<NodeRecord>,
    pub(super) after: Option<NodeRecord>,
}

/// A stored state that cannot be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the record of the node {node} cannot be right: {problem}")]
pub(super) struct InvalidRecord {
    /// Quoted.
    pub(super) node: String,
    pub(super) problem: String,
}

/// What is missing after everything possible was given.
struct Shortage {
    problems: Vec<String>,
    endpoints: Option<AllocatorError>,
}

impl Allocation {
    /// Nothing is given.
    pub(super) fn new(config: OverlayConfig) -> Self {
        let mut allocation = Self {
            config: config.clone(),
            overlays: BTreeMap::new(),
            nodes: BTreeMap::new(),
            addresses: HashMap::new(),
            macs: HashMap::new(),
            space4: Space::default(),
            space6: Space::default(),
            block_counts: HashMap::new(),
            resting: BTreeSet::new(),
            rests: HashMap::new(),
            endpoint6_count: 0,
        };
        allocation.set_config(config);
        allocation
    }

    /// Reads the stored records, by name. [`Allocation::settle`] then applies the configuration.
    pub(super) fn load(
        config: OverlayConfig,
        records: impl IntoIterator<Item = (String, Vec<u8>)>,
    ) -> Result<Self, InvalidRecord> {
        let mut allocation = Self::new(config);
        for (name, bytes) in records {
            let invalid = |problem| InvalidRecord {
                node: Quoted(name.as_bytes()).to_string(),
                problem,
            };
            let record = NodeRecord::parse(&name, &bytes).map_err(invalid)?;
            if allocation.nodes.contains_key(&name) {
                return Err(invalid("it is there twice".to_owned()));
            }
            allocation.replace(&name, Some(record)).map_err(invalid)?;
        }
        Ok(allocation)
    }

    /// Sets another configuration. [`Allocation::settle`] applies it.
    pub(super) fn set_config(&mut self, config: OverlayConfig) {
        self.overlays = config
            .overlays
            .iter()
            .map(|overlay| (overlay.name.clone(), overlay.clone()))
            .collect();
        self.config = config;
    }

    /// Registers a node, or renews its registration, takes back the blocks that it returns, and lends
    /// it those that it needs. Returns the change of its record, if any, and what the node is answered.
    pub(super) fn register(
        &mut self,
        name: &str,
        address: IpAddr,
        reports: &[BlockReport],
    ) -> Result<(Option<RecordChange>, NodeAnswer), AllocatorError> {
        let address = address.to_canonical();
        if !is_node_name(name) {
            return Err(AllocatorError::InvalidName(name.to_owned()));
        }
        if !is_node_address(address) {
            return Err(AllocatorError::InvalidAddress(address));
        }
        if let Some(node) = self.addresses.get(&address)
            && node != name
        {
            let node = node.clone();
            return Err(AllocatorError::AddressTaken { address, node });
        }
        let mut record = match self.nodes.get(name) {
            Some(known) => known.clone(),
            None => NodeRecord::new(name, address),
        };
        record.address = address;
        self.retire(&mut record);
        let mut shortage = self.fill(&mut record);
        if let Some(error) = shortage.endpoints {
            return Err(error);
        }
        self.take_back(&mut record, reports);
        shortage.problems.extend(self.lend(&mut record, reports));
        for block in record.overlays.values().flat_map(|blocks| &blocks.blocks) {
            self.rests.remove(block);
        }
        let change = self.change(name, Some(record));
        let answer = NodeAnswer {
            node: self.node(name),
            problems: shortage.problems,
            send_endpoints: false,
        };
        Ok((change, answer))
    }

    /// Gives back all that a node has. Returns the change, if the node is known.
    pub(super) fn release(&mut self, name: &str) -> Option<RecordChange> {
        self.change(name, None)
    }

    /// Frees the blocks that have rested long enough. Returns the changes.
    pub(super) fn end_rests(&mut self, now: Instant) -> Vec<RecordChange> {
        let block_rest = self.config.block_rest;
        let mut changes = vec![];
        let mut rests = HashMap::new();
        for name in self.resting.clone() {
            let Some(mut record) = self.nodes.get(&name).cloned() else {
                continue;
            };
            for blocks in record.overlays.values_mut() {
                blocks.resting.retain(|block| {
                    let since = self.rests.get(block).copied().unwrap_or(now);
                    let is_over = now.saturating_duration_since(since) >= block_rest;
                    if !is_over {
                        rests.insert(*block, since);
                    }
                    !is_over
                });
            }
            changes.extend(self.change(&name, Some(record)));
        }
        self.rests = rests;
        changes
    }

    /// Applies the configuration to all nodes. Returns the changes, in the order in which they must
    /// be stored.
    pub(super) fn settle(&mut self) -> Vec<RecordChange> {
        let names: Vec<String> = self.nodes.keys().cloned().collect();
        let mut changes = vec![];
        for name in &names {
            let Some(mut record) = self.nodes.get(name).cloned() else {
                continue;
            };
            let endpoints = (record.vtep, record.vtep6);
            self.retire(&mut record);
            if (record.vtep, record.vtep6) != endpoints {
                changes.extend(self.change(name, Some(record)));
            }
        }
        for name in &names {
            let Some(mut record) = self.nodes.get(name).cloned() else {
                continue;
            };
            self.retire(&mut record);
            self.fill(&mut record);
            changes.extend(self.change(name, Some(record)));
        }
        changes
    }

    /// Undoes changes that could not be stored: all since the first of them.
    pub(super) fn undo(&mut self, changes: Vec<RecordChange>) {
        for change in changes.into_iter().rev() {
            self.change(&change.name, change.before);
        }
    }

    /// Gives back the endpoints that are no longer valid, and retires such blocks.
    fn retire(&self, record: &mut NodeRecord) {
        let hosts4 = hosts(IpNet::V4(self.config.vtep_subnet));
        record.vtep = record
            .vtep
            .filter(|address| hosts4.contains(&number(IpAddr::V4(*address))));
        let hosts6 = self
            .config
            .vtep_subnet6
            .map(|subnet| hosts(IpNet::V6(subnet)));
        record.vtep6 = record.vtep6.filter(|address| {
            let number = number(IpAddr::V6(*address));
            hosts6.as_ref().is_some_and(|hosts| hosts.contains(&number))
        });
        for (name, blocks) in &mut record.overlays {
            let Some(overlay) = self.overlays.get(name) else {
                continue;
            };
            let (valid, retired) = std::mem::take(&mut blocks.subnets)
                .into_iter()
                .partition(|block| is_in(*block, overlay));
            blocks.subnets = valid;
            blocks.retired.extend::<Vec<IpNet>>(retired);
        }
    }

    /// Gives a node what it lacks, as far as it is there.
    fn fill(&self, record: &mut NodeRecord) -> Shortage {
        let endpoints = self.fill_endpoints(record).err();
        let mut problems = vec![];
        let divided = self.overlays.values();
        for overlay in divided.filter(|overlay| !overlay.lends_blocks) {
            let mut blocks = record.overlays.remove(&overlay.name).unwrap_or_default();
            let before = blocks.clone();
            let mut has_any = !before.subnets.is_empty();
            let mut used_up = vec![];
            for pool in overlay.pools() {
                if blocks.current(pool.subnet).is_some() {
                    continue;
                }
                match own_block(&mut blocks, pool.subnet) {
                    Some(block) => {
                        blocks.subnets.push(block);
                        has_any = true;
                    }
                    // Its containers go on, but no other node needs a subnet.
                    None if !overlay.enabled => {}
                    None => match self.free_block(pool) {
                        Some(block) => blocks.subnets.push(block),
                        None => used_up.push(pool),
                    },
                }
            }
            if !has_any && !used_up.is_empty() {
                // Containers would otherwise start with one family where they expect both.
                blocks = before;
            }
            problems.extend(used_up.iter().map(|pool| used_up_problem(overlay, *pool)));
            if blocks != NodeBlocks::default() {
                record.overlays.insert(overlay.name.clone(), blocks);
            }
        }
        Shortage {
            problems,
            endpoints,
        }
    }

    /// Takes back the blocks that a node returns, if its report is about the last that it was given.
    fn take_back(&self, record: &mut NodeRecord, reports: &[BlockReport]) {
        for report in reports {
            let is_lent = self
                .overlays
                .get(&report.overlay)
                .is_some_and(|overlay| overlay.lends_blocks);
            let Some(blocks) = record.overlays.get_mut(&report.overlay) else {
                continue;
            };
            if !is_lent || blocks.returned != report.returned {
                continue;
            }
            let (returned, kept): (Vec<IpNet>, Vec<IpNet>) = std::mem::take(&mut blocks.blocks)
                .into_iter()
                .partition(|block| report.returns.contains(block));
            blocks.blocks = kept;
            if !returned.is_empty() {
                blocks.resting.extend(returned);
                blocks.returned += 1;
            }
        }
    }

    /// Lends a node the blocks that it lacks, as far as they are there. Returns what is missing.
    fn lend(&self, record: &mut NodeRecord, reports: &[BlockReport]) -> Vec<String> {
        let mut problems = vec![];
        let lending = self.overlays.values();
        for overlay in lending.filter(|overlay| overlay.lends_blocks && overlay.enabled) {
            let Some(report) = reports.iter().find(|one| one.overlay == overlay.name) else {
                continue;
            };
            let mut blocks = record.overlays.remove(&overlay.name).unwrap_or_default();
            for pool in overlay.pools() {
                let wanted = match pool.subnet {
                    IpNet::V4(_) => report.wanted,
                    IpNet::V6(_) => report.wanted6,
                };
                problems.extend(self.lend_of(pool, &mut blocks, wanted, overlay));
            }
            if blocks != NodeBlocks::default() {
                record.overlays.insert(overlay.name.clone(), blocks);
            }
        }
        problems
    }

    /// Lends blocks of one family until they have `wanted` addresses for containers.
    fn lend_of(
        &self,
        pool: SubnetPool<IpNet>,
        blocks: &mut NodeBlocks,
        wanted: u32,
        overlay: &OverlayDefinition,
    ) -> Option<String> {
        let is_of_pool =
            |block: &IpNet| is_same_family(*block, pool.subnet) && pool.subnet.contains(block);
        let lent: Vec<IpNet> = blocks.blocks.iter().copied().filter(is_of_pool).collect();
        let mut count = lent.len();
        let mut capacity = lent
            .into_iter()
            .map(block_capacity)
            .fold(0_u32, u32::saturating_add);
        let mut range = range(pool.subnet);
        while capacity < wanted {
            if count >= MAX_BLOCKS {
                return Some(format!(
                    "this node has {MAX_BLOCKS} blocks of {} in the overlay {}, which is all that a node \
                     gets; run fewer containers on it, or configure larger blocks",
                    pool.subnet, overlay.name
                ));
            }
            // Its neighbours still know that it is here.
            let own = blocks.resting.iter().position(is_of_pool);
            let block = match own {
                Some(index) => blocks.resting.remove(index),
                None => match self.free_block_in(pool, &range) {
                    Some(block) => {
                        range = number(block.broadcast()).saturating_add(1)..=*range.end();
                        block
                    }
                    None => return Some(no_block_problem(overlay, pool, capacity, wanted)),
                },
            };
            blocks.blocks.push(block);
            count += 1;
            capacity = capacity.saturating_add(block_capacity(block));
        }
        None
    }

    fn fill_endpoints(&self, record: &mut NodeRecord) -> Result<(), AllocatorError> {
        if record.vtep.is_none() {
            let subnet = self.config.vtep_subnet;
            record.vtep = self.endpoint4();
            if record.vtep.is_none() {
                return Err(endpoints_exhausted(IpNet::V4(subnet)));
            }
        }
        if let Some(subnet) = self.config.vtep_subnet6
            && record.vtep6.is_none()
        {
            let subnet = IpNet::V6(subnet);
            let free = self.space6.lowest_free(&hosts(subnet), 1);
            record.vtep6 = free.map(address6);
            if record.vtep6.is_none() {
                return Err(endpoints_exhausted(subnet));
            }
        }
        Ok(())
    }

    /// The lowest free address of an endpoint whose MAC address is free as well.
    fn endpoint4(&self) -> Option<Ipv4Addr> {
        let hosts = hosts(IpNet::V4(self.config.vtep_subnet));
        let mut start = *hosts.start();
        loop {
            let free = self.space4.lowest_free(&(start..=*hosts.end()), 1)?;
            let address = address4(free)?;
            if !self.macs.contains_key(&mac_suffix(address)) {
                return Some(address);
            }
            start = free + 1;
        }
    }

    /// The lowest free block.
    fn free_block(&self, pool: SubnetPool<IpNet>) -> Option<IpNet> {
        self.free_block_in(pool, &range(pool.subnet))
    }

    /// The lowest free block in a part of a pool.
    fn free_block_in(&self, pool: SubnetPool<IpNet>, part: &RangeInclusive<u128>) -> Option<IpNet> {
        let size = 1_u128.checked_shl((pool.subnet.max_prefix_len() - pool.prefix).into())?;
        let space = self.space(pool.subnet);
        let first = space.lowest_free(part, size)?;
        let address = match pool.subnet {
            IpNet::V4(_) => IpAddr::V4(address4(first)?),
            IpNet::V6(_) => IpAddr::V6(address6(first)),
        };
        IpNet::new(address, pool.prefix).ok()
    }

    fn space(&self, family_of: IpNet) -> &Space {
        match family_of {
            IpNet::V4(_) => &self.space4,
            IpNet::V6(_) => &self.space6,
        }
    }

    /// Replaces a node's record. Returns the change, if it is one.
    fn change(&mut self, name: &str, after: Option<NodeRecord>) -> Option<RecordChange> {
        if self.nodes.get(name) == after.as_ref() {
            return None;
        }
        match self.replace(name, after.clone()) {
            Ok(before) => Some(RecordChange {
                name: name.to_owned(),
                before,
                after,
            }),
            Err(problem) => {
                // Only free addresses are chosen, so this is a mistake here. Nothing was changed.
                log::error!(node:% = Quoted(name.as_bytes()), problem:%; "a node's record is not changed");
                None
            }
        }
    }

    /// Replaces a node's record and marks what it has as used. Changes nothing, and returns why, if
    /// another node has a part of it. Returns the record before.
    fn replace(
        &mut self,
        name: &str,
        after: Option<NodeRecord>,
    ) -> Result<Option<NodeRecord>, String> {
        let before = self.nodes.remove(name);
        if let Some(before) = &before {
            self.unmark(before);
        }
        let Some(after) = after else {
            return Ok(before);
        };
        let marked = self.mark(&after);
        let kept = if marked.is_ok() {
            Some(after)
        } else {
            before.clone()
        };
        if let Some(kept) = kept {
            if marked.is_err() {
                // It was marked a moment ago.
                let _ = self.mark(&kept);
            }
            self.nodes.insert(name.to_owned(), kept);
        }
        marked.map(|()| before)
    }

    /// Marks all that a record has as used, or nothing.
    fn mark(&mut self, record: &NodeRecord) -> Result<(), String> {
        if let Some(other) = self.addresses.get(&record.address) {
            let (address, other) = (record.address, Quoted(other.as_bytes()));
            return Err(format!(
                "the node {other} has its address {address} as well"
            ));
        }
        if let Some(vtep) = record.vtep
            && let Some(other) = self.macs.get(&mac_suffix(vtep))
        {
            let other = Quoted(other.as_bytes());
            return Err(format!(
                "the tunnel endpoint of the node {other} has the MAC address of its endpoint {vtep}"
            ));
        }
        let ranges = used(record);
        for (index, part) in ranges.iter().enumerate() {
            if !self.space_mut(*part).insert(&range(*part)) {
                for part in &ranges[..index] {
                    self.space_mut(*part).remove(&range(*part));
                }
                return Err(self.describe_overlap(*part, record));
            }
        }
        self.addresses.insert(record.address, record.name.clone());
        if let Some(vtep) = record.vtep {
            self.macs.insert(mac_suffix(vtep), record.name.clone());
        }
        self.endpoint6_count += u64::from(record.vtep6.is_some());
        for (name, blocks) in &record.overlays {
            let counts = self.block_counts.entry(name.clone()).or_default();
            for block in &blocks.subnets {
                counts[family_index(*block)] += 1;
            }
            if !blocks.resting.is_empty() {
                self.resting.insert(record.name.clone());
            }
        }
        Ok(())
    }

    fn unmark(&mut self, record: &NodeRecord) {
        for part in used(record) {
            self.space_mut(part).remove(&range(part));
        }
        self.addresses.remove(&record.address);
        if let Some(vtep) = record.vtep {
            self.macs.remove(&mac_suffix(vtep));
        }
        self.endpoint6_count -= u64::from(record.vtep6.is_some());
        self.resting.remove(&record.name);
        for (name, blocks) in &record.overlays {
            if let Some(counts) = self.block_counts.get_mut(name) {
                for block in &blocks.subnets {
                    counts[family_index(*block)] -= 1;
                }
            }
        }
    }

    fn space_mut(&mut self, family_of: IpNet) -> &mut Space {
        match family_of {
            IpNet::V4(_) => &mut self.space4,
            IpNet::V6(_) => &mut self.space6,
        }
    }

    /// Says who has an address of a part of a record that cannot be marked.
    fn describe_overlap(&self, part: IpNet, record: &NodeRecord) -> String {
        let overlaps = |other: &IpNet| other.contains(&part) || part.contains(other);
        let other = self
            .nodes
            .values()
            .find_map(|node| Some((node.name.as_str(), used(node).into_iter().find(overlaps)?)));
        if let Some((name, other)) = other {
            let name = Quoted(name.as_bytes());
            return format!("its {part} overlaps {other} of the node {name}");
        }
        let same = used(record).into_iter().filter(overlaps).count();
        format!("it has addresses of {part} {same} times")
    }

    /// The node as it is published; none if it has no tunnel endpoint.
    pub(super) fn node(&self, name: &str) -> Option<Node> {
        let record = self.nodes.get(name)?;
        let hosts4 = hosts(IpNet::V4(self.config.vtep_subnet));
        let address = record
            .vtep
            .filter(|address| hosts4.contains(&number(IpAddr::V4(*address))))?;
        let address6 = match self.config.vtep_subnet6 {
            Some(subnet) => Some(record.vtep6.filter(|address| subnet.contains(address))?),
            None => None,
        };
        let subnets = record.overlays.iter().filter_map(|(name, blocks)| {
            let overlay = self.overlays.get(name)?;
            let mut subnets = NodeSubnets {
                overlay: name.clone(),
                subnet: None,
                subnet6: None,
                blocks: vec![],
                returned: 0,
            };
            if overlay.lends_blocks {
                let mut lent = blocks.blocks.clone();
                lent.retain(|block| is_in(*block, overlay));
                lent.sort_unstable();
                subnets.returned = blocks.returned;
                subnets.blocks = lent;
                // A node without blocks must learn as well that those were taken which it gave back.
                let has_any = subnets.returned > 0 || !subnets.blocks.is_empty();
                return has_any.then_some(subnets);
            }
            for block in &blocks.subnets {
                match block {
                    // While a configuration is being applied, a block may not be valid yet.
                    _ if !is_in(*block, overlay) => {}
                    IpNet::V4(block) => subnets.subnet = Some(*block),
                    IpNet::V6(block) => subnets.subnet6 = Some(*block),
                }
            }
            let has_any = subnets.subnet.is_some() || subnets.subnet6.is_some();
            has_any.then_some(subnets)
        });
        let [first, second, third] = self.config.vtep_mac_oui;
        let [fourth, fifth, sixth] = mac_suffix(address);
        Some(Node {
            name: name.to_owned(),
            address: record.address,
            vtep: Vtep {
                address,
                address6,
                mac: Mac([first, second, third, fourth, fifth, sixth]),
            },
            subnets: subnets.collect(),
        })
    }

    /// All objects as they are published.
    pub(super) fn objects(&self) -> impl Iterator<Item = Object> + '_ {
        let overlays = self.config.overlays.iter();
        let overlays = overlays.map(|overlay| Object::Overlay(overlay.published()));
        let nodes = self.nodes.keys();
        let nodes = nodes.filter_map(|name| Some(Object::Node(self.node(name)?)));
        std::iter::once(Object::Underlay(self.config.underlay()))
            .chain(overlays)
            .chain(nodes)
    }

    /// How much of each overlay is used, an entry for each overlay and family.
    pub(super) fn usage(&self) -> Vec<OverlayUsage> {
        let pools = self.config.overlays.iter().flat_map(|overlay| {
            let name = &overlay.name;
            overlay.pools().map(move |pool| (overlay, name, pool))
        });
        let usage = pools.map(|(overlay, name, pool)| {
            let used = if overlay.lends_blocks {
                self.lent_count(name, pool.subnet)
            } else {
                let counts = self.block_counts.get(name).copied().unwrap_or_default();
                counts[family_index(pool.subnet)]
            };
            let bits = u32::from(pool.subnet.max_prefix_len() - pool.prefix);
            let size = 1_u128.checked_shl(bits).unwrap_or(u128::MAX);
            let free = self
                .space(pool.subnet)
                .count_free(&range(pool.subnet), size);
            OverlayUsage {
                overlay: name.clone(),
                enabled: overlay.enabled,
                lends_blocks: overlay.lends_blocks,
                subnet: pool.subnet,
                prefix: pool.prefix,
                used,
                free: count(free),
                total: room(pool),
            }
        });
        usage.collect()
    }

    /// How many blocks of a subnet are lent.
    fn lent_count(&self, overlay: &str, subnet: IpNet) -> u64 {
        let of_overlay = self
            .nodes
            .values()
            .filter_map(|node| node.overlays.get(overlay));
        let blocks = of_overlay.flat_map(|blocks| &blocks.blocks);
        let lent =
            blocks.filter(|block| is_same_family(**block, subnet) && subnet.contains(*block));
        lent.count() as u64
    }

    /// How much of the tunnel endpoints' subnets is used.
    pub(super) fn endpoint_usage(&self) -> Vec<EndpointUsage> {
        let v6 = self.config.vtep_subnet6.map(IpNet::V6);
        let subnets = [IpNet::V4(self.config.vtep_subnet)].into_iter().chain(v6);
        let usage = subnets.map(|subnet| EndpointUsage {
            subnet,
            used: match subnet {
                IpNet::V4(_) => self.macs.len() as u64,
                IpNet::V6(_) => self.endpoint6_count,
            },
            free: count(self.space(subnet).count_free(&hosts(subnet), 1)),
            total: endpoint_room(subnet),
        });
        usage.collect()
    }

    /// The configuration in force.
    pub(super) fn config(&self) -> &OverlayConfig {
        &self.config
    }

    /// The records of all nodes, by name.
    #[cfg(test)]
    pub(super) fn records(&self) -> &BTreeMap<String, NodeRecord> {
        &self.nodes
    }
}

/// All that a record has, as subnets. Endpoints are subnets of one address.
fn used(record: &NodeRecord) -> Vec<IpNet> {
    record
        .endpoints()
        .map(IpNet::from)
        .chain(record.blocks())
        .collect()
}

/// Takes back a block that the node had before in this subnet.
fn own_block(blocks: &mut NodeBlocks, subnet: IpNet) -> Option<IpNet> {
    let own = |block: &IpNet| is_same_family(*block, subnet) && subnet.contains(block);
    let index = blocks.retired.iter().position(own)?;
    Some(blocks.retired.remove(index))
}

/// Whether a block lies in the subnet of its family.
fn is_in(block: IpNet, overlay: &OverlayDefinition) -> bool {
    overlay
        .pools()
        .any(|pool| is_same_family(block, pool.subnet) && pool.subnet.contains(&block))
}

fn family_index(block: IpNet) -> usize {
    usize::from(matches!(block, IpNet::V6(_)))
}

/// The addresses of a subnet without the first and the last one.
fn hosts(subnet: IpNet) -> RangeInclusive<u128> {
    let all = range(subnet);
    all.start().saturating_add(1)..=all.end().saturating_sub(1)
}

/// The last three bytes of the MAC address of an endpoint.
fn mac_suffix(address: Ipv4Addr) -> [u8; 3] {
    let [_, rest @ ..] = address.octets();
    rest
}

/// How many nodes get a block of a pool.
fn room(pool: SubnetPool<IpNet>) -> u64 {
    let bits = pool.prefix.saturating_sub(pool.subnet.prefix_len());
    1_u64.checked_shl(bits.into()).unwrap_or(u64::MAX)
}

/// How many endpoints a subnet has room for.
fn endpoint_room(subnet: IpNet) -> u64 {
    let hosts = hosts(subnet);
    count((hosts.end() - hosts.start()).saturating_add(1))
}

fn count(number: u128) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

fn endpoints_exhausted(subnet: IpNet) -> AllocatorError {
    AllocatorError::EndpointsExhausted {
        subnet,
        room: endpoint_room(subnet),
        key: match subnet {
            IpNet::V4(_) => "vtep_subnet",
            IpNet::V6(_) => "vtep_subnet6",
        },
    }
}

fn no_block_problem(
    overlay: &OverlayDefinition,
    pool: SubnetPool<IpNet>,
    capacity: u32,
    wanted: u32,
) -> String {
    format!(
        "the overlay {} has no free block for this node, which has blocks with {capacity} of the {wanted} \
         addresses that it wants: {} has room for {} blocks with a /{} each; release nodes that are gone, or \
         configure a larger subnet",
        overlay.name,
        pool.subnet,
        room(pool),
        pool.prefix
    )
}

fn used_up_problem(overlay: &OverlayDefinition, pool: SubnetPool<IpNet>) -> String {
    format!(
        "the overlay {} has no free subnet for this node: {} has room for {} nodes with a /{} each; release \
         nodes that are gone, or configure a larger subnet",
        overlay.name,
        pool.subnet,
        room(pool),
        pool.prefix
    )
}
