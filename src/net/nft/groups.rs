//! The nftables tables `inet contrail_mesos_groups` and `bridge contrail_mesos_groups`: which packets
//! reach the containers of networks that isolate groups, or of isolated overlays.
//!
//! ```text
//! inet, prerouting, after the translation of destinations:
//!   prerouting    drops sources that claim to be containers of this host, but came in by another
//!                 interface than theirs; then packets to a guarded subnet
//!   guarded4, 6   drops sources that claim to be of a guarded subnet, but are reached by another
//!                 interface than the one that the packet came in by
//!   filter4, 6    accepts replies, errors about known connections, and packets to the host itself;
//!                 drops packets between isolated overlays; goes to the chain of the container
//!   container4_*, container6_*   one for each combination of groups, rules and admission
//!   drop_*        remembers, counts and drops: one for each reason
//! inet, output, only if a container does not admit its host:
//!   output, output4, output6
//! bridge, prerouting:
//!   prerouting, frames*  drops frames whose sender's addresses are not those of the port's container
//! ```
//! What is allowed gets the mark [`ALLOWED_MARK`]: the host routes nothing to these containers without
//! it, so that a table that is missing allows nothing.
//!
//! Invariants: a group has one set of addresses a family, and each container one element in one map. The
//! cost of a packet does not depend on how many members or containers there are. The original direction
//! of a connection is decided for each packet, so that a change of groups cuts running connections.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use contrail_mesos_api::cluster::{IngressRule, RuleSource};
use contrail_mesos_api::container::Mac;
use contrail_mesos_api::text::hex;
use ipnet::IpNet;
use sha2::{Digest as _, Sha256};

use self::drops::REASONS;
use super::batch::{NFPROTO_BRIDGE, NFPROTO_INET};
use super::expressions::{Expressions, NFPROTO_IPV4, NFPROTO_IPV6, Side, family_of};
use super::program::{
    self, ChainKind, Difference, Hook, SetKind, Table, TableChain, TableName, TableRule, TableSet,
};
use super::verdict::{address_in_set, table_exists};
use crate::net::netlink::{NetlinkError, NetlinkSocket};
use crate::net::rules::ALLOWED_MARK;

pub(super) mod drops;
mod frames;
#[cfg(test)]
mod root_tests;

pub use drops::{DropReason, DroppedPackets, Drops};

/// The tables' name.
pub const TABLE: &str = "contrail_mesos_groups";

const DESCRIPTION: &str = "contrail-mesos-node: groups of containers; rebuilt if changed";
const INET: TableName = TableName {
    family: NFPROTO_INET,
    name: TABLE,
    description: DESCRIPTION,
};
const BRIDGE: TableName = TableName {
    family: NFPROTO_BRIDGE,
    name: TABLE,
    description: DESCRIPTION,
};
const TABLES: [TableName; 2] = [INET, BRIDGE];

const HOOK_PREROUTING: u32 = 0;
const HOOK_OUTPUT: u32 = 3;
/// After the translation of destinations, at -100.
const PRIORITY: i32 = -90;
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const SCTP: u8 = 132;
/// How many dropped packets are remembered, by their addresses and ports.
const MAX_REMEMBERED: u32 = 2048;
/// How long they are remembered.
const REMEMBERED_FOR: Duration = Duration::from_mins(5);
/// How often a transaction is tried again with fresh tables.
const MAX_ATTEMPTS: usize = 4;

/// Addresses that may be sources.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MemberSet {
    /// The containers of a group.
    Group(String),
    /// The containers that name a group, as a group or as a security group.
    Named(String),
    /// The containers without any group.
    Ungrouped,
}

impl MemberSet {
    /// What an operator reads.
    #[must_use]
    pub fn label(&self) -> String {
        match self {
            Self::Group(name) => format!("the members of group {name}"),
            Self::Named(name) => format!("the containers that name {name}"),
            Self::Ungrouped => "the containers without a group".to_owned(),
        }
    }

    /// The name of its set in a family.
    fn set_name(&self, family: u8) -> String {
        let (kind, name) = match self {
            Self::Group(name) => ("group", name.as_str()),
            Self::Named(name) => ("named", name.as_str()),
            Self::Ungrouped => ("ungrouped", ""),
        };
        format!("{kind}{}_{}", digit(family), short_hash(name))
    }
}

/// What reaches a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerRules {
    /// The sources of which everything reaches it.
    pub sources: BTreeSet<MemberSet>,
    /// The rules of its security groups.
    pub rules: BTreeSet<IngressRule>,
    /// Whether the nodes of the cluster reach it.
    pub admits_nodes: bool,
    /// Whether clients of mapped ports reach it.
    pub admits_mapped_ports: bool,
}

impl ContainerRules {
    /// The member sets that the rules need.
    pub fn member_sets(&self) -> impl Iterator<Item = MemberSet> + '_ {
        let named = self.rules.iter().filter_map(|rule| match &rule.source {
            RuleSource::Group(name) => Some(MemberSet::Named(name.clone())),
            RuleSource::Subnet(_) => None,
        });
        self.sources.iter().cloned().chain(named)
    }

    fn chain_name(&self, family: u8) -> String {
        format!(
            "container{}_{}",
            digit(family),
            short_hash(&format!("{self:?}"))
        )
    }
}

/// A container's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProtectedAddress {
    /// What reaches it.
    pub rules: ContainerRules,
    /// Whether its own host reaches it in any case.
    pub admits_own_host: bool,
}

/// The port of a bridge to which a container is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardedPort {
    /// The container's MAC address.
    pub mac: Mac,
    /// The container's addresses.
    pub addresses: BTreeSet<IpAddr>,
}

/// An overlay whose containers other overlays' containers do not reach.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct IsolatedOverlay {
    /// The overlay's name.
    pub name: String,
    /// A subnet of all nodes together.
    pub subnet: IpNet,
    /// The part of it that this host has.
    pub local_subnet: IpNet,
}

/// What the tables must have. Without anything in it there are no tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupPolicy {
    /// The subnets of this host's networks that isolate groups.
    pub protected: BTreeSet<IpNet>,
    /// The subnets whose addresses nobody else may use as sources.
    pub guarded: BTreeSet<IpNet>,
    /// The subnets of all networks that isolate groups.
    pub isolating: BTreeSet<IpNet>,
    /// The subnets of all overlays.
    pub overlays: BTreeSet<IpNet>,
    /// The overlays on this host that are isolated.
    pub isolated: BTreeSet<IsolatedOverlay>,
    /// The addresses of the cluster's nodes in the overlays, and of this host's bridges.
    pub nodes: BTreeSet<IpAddr>,
    /// The interfaces whose packets other hosts have judged: VXLAN devices.
    pub tunnels: BTreeSet<String>,
    /// The members of the groups that containers of this host need.
    pub members: BTreeMap<MemberSet, BTreeSet<IpAddr>>,
    /// The containers of this host, by address.
    pub containers: BTreeMap<IpAddr, ProtectedAddress>,
    /// The bridge ports of these containers, by interface name.
    pub ports: BTreeMap<String, GuardedPort>,
}

impl GroupPolicy {
    /// Whether nothing has to be decided on this host.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.guarded.is_empty()
    }

    fn tables(&self) -> [Option<Table>; 2] {
        if self.is_empty() {
            return [None, None];
        }
        // Containers of other bridges may use addresses of protected subnets too.
        let has_bridges = !self.ports.is_empty() || !self.protected.is_empty();
        let bridge = has_bridges.then(|| self.bridge_table());
        [Some(self.inet_table()), bridge]
    }

    fn inet_table(&self) -> Table {
        let mut table = Table::default();
        let protocols = [TCP, UDP, SCTP];
        let mut with_ports = TableSet::new(SetKind::Protocols, "protocols with ports");
        for protocol in protocols {
            with_ports.add(vec![protocol]);
        }
        table
            .sets
            .insert("protocols_with_ports".to_owned(), with_ports);
        let mut tunnels = TableSet::new(SetKind::Interfaces, "the tunnels between hosts");
        tunnels.add_interface("lo");
        for name in &self.tunnels {
            tunnels.add_interface(name);
        }
        table.sets.insert("tunnels".to_owned(), tunnels);
        for reason in REASONS {
            table.chains.insert(drop_chain(reason), drop_rules(reason));
        }
        let is_closed = self
            .containers
            .values()
            .any(|container| !container.admits_own_host);
        let mut prerouting = base_chain(HOOK_PREROUTING, PRIORITY);
        let mut output = base_chain(HOOK_OUTPUT, PRIORITY);
        for family in [NFPROTO_IPV4, NFPROTO_IPV6] {
            self.add_subnets(&mut table, family);
            self.add_members(&mut table, family);
            self.add_containers(&mut table, family, is_closed);
            let digit = digit(family);
            let guarded = format!("guarded{digit}");
            let protected = format!("protected{digit}");
            // Wherever they go: a connection that such a packet opens would have replies, which are
            // accepted below.
            prerouting.rules.push(TableRule::new(
                "sources of this host's containers",
                |rule| {
                    rule.address_in(family, Side::Source, &protected);
                    rule.input_interface_not_in("tunnels");
                    rule.reverse_path_differs();
                    drop_spoofed(rule);
                },
            ));
            prerouting
                .rules
                .push(TableRule::new("packets to guarded subnets", |rule| {
                    rule.address_in(family, Side::Destination, &guarded);
                    rule.goto(&guarded);
                }));
            output.rules.push(TableRule::new(
                "packets of the host to containers",
                |rule| {
                    rule.address_in(family, Side::Destination, &protected);
                    rule.goto(&format!("output{digit}"));
                },
            ));
        }
        table.chains.insert("prerouting".to_owned(), prerouting);
        if is_closed {
            table.chains.insert("output".to_owned(), output);
        }
        table
    }

    /// The sets of subnets.
    fn add_subnets(&self, table: &mut Table, family: u8) {
        let kind = match family {
            NFPROTO_IPV4 => SetKind::Subnets4,
            _ => SetKind::Subnets6,
        };
        let filtered: BTreeSet<IpNet> = self
            .protected
            .iter()
            .copied()
            .chain(self.isolated.iter().map(|overlay| overlay.local_subnet))
            .collect();
        for (name, label, subnets) in [
            ("protected", "subnets that isolate groups", &self.protected),
            ("filtered", "subnets to which packets are judged", &filtered),
            (
                "guarded",
                "subnets that nobody else may use as sources",
                &self.guarded,
            ),
            (
                "isolating",
                "subnets of all networks that isolate groups",
                &self.isolating,
            ),
            ("overlays", "subnets of all overlays", &self.overlays),
        ] {
            let mut set = TableSet::new(kind, label);
            let subnets: Vec<_> = subnets
                .iter()
                .filter(|subnet| family_of(subnet.addr()) == family)
                .copied()
                .collect();
            set.add_subnets(IpNet::aggregate(&subnets));
            table.sets.insert(format!("{name}{}", digit(family)), set);
        }
    }

    /// The sets of addresses, and of packets.
    fn add_members(&self, table: &mut Table, family: u8) {
        let timeout = u64::try_from(REMEMBERED_FOR.as_millis()).unwrap_or(u64::MAX);
        let size = MAX_REMEMBERED;
        let (addresses, packets) = match family {
            NFPROTO_IPV4 => (SetKind::Addresses4, SetKind::Packets4 { size, timeout }),
            _ => (SetKind::Addresses6, SetKind::Packets6 { size, timeout }),
        };
        let of_family = |address: &IpAddr| family_of(*address) == family;
        let digit = digit(family);
        let nodes = self.nodes.iter().copied().filter(of_family);
        table.sets.insert(
            format!("nodes{digit}"),
            TableSet::of_addresses(addresses, "the cluster's nodes and this host", nodes),
        );
        for (set, members) in &self.members {
            let members = members.iter().copied().filter(of_family);
            table.sets.insert(
                set.set_name(family),
                TableSet::of_addresses(addresses, set.label(), members),
            );
        }
        table.sets.insert(
            format!("dropped{digit}"),
            TableSet::new(packets, "packets that were dropped lately"),
        );
    }

    /// The maps of containers, and the chains.
    fn add_containers(&self, table: &mut Table, family: u8, is_closed: bool) {
        let (chains, addresses) = match family {
            NFPROTO_IPV4 => (SetKind::Chains4, SetKind::Addresses4),
            _ => (SetKind::Chains6, SetKind::Addresses6),
        };
        let digit = digit(family);
        let mut containers = TableSet::new(chains, "the containers");
        let mut closed = TableSet::new(chains, "the containers that do not admit their host");
        for (address, container) in self
            .containers
            .iter()
            .filter(|(address, _)| family_of(**address) == family)
        {
            let chain = container.rules.chain_name(family);
            table
                .chains
                .entry(chain.clone())
                .or_insert_with(|| container_chain(family, &container.rules));
            // The rules may name a group that has no members yet.
            for set in container.rules.member_sets() {
                table
                    .sets
                    .entry(set.set_name(family))
                    .or_insert_with(|| TableSet::new(addresses, set.label()));
            }
            if !container.admits_own_host {
                closed.add_chain(*address, chain.clone());
            }
            containers.add_chain(*address, chain);
        }
        table.sets.insert(format!("containers{digit}"), containers);
        table
            .chains
            .insert(format!("guarded{digit}"), guarded_chain(family));
        table
            .chains
            .insert(format!("filter{digit}"), self.filter_chain(family));
        if is_closed {
            let closed_name = format!("closed{digit}");
            let chain = output_chain(family, &closed_name);
            table.chains.insert(format!("output{digit}"), chain);
            table.sets.insert(closed_name, closed);
        }
    }

    fn filter_chain(&self, family: u8) -> TableChain {
        let digit = digit(family);
        let mut rules = reply_rules();
        rules.push(TableRule::new("packets to the host itself", |rule| {
            rule.is_for_local_address();
            rule.accept();
        }));
        let isolated = self
            .isolated
            .iter()
            .filter(|overlay| family_of(overlay.subnet.addr()) == family);
        for overlay in isolated {
            let description = format!("isolated overlay {}", overlay.name);
            rules.push(TableRule::new(&description, |rule| {
                rule.address_in_subnet(Side::Destination, overlay.local_subnet);
                rule.address_in(family, Side::Source, &format!("overlays{digit}"));
                rule.address_not_in_subnet(Side::Source, overlay.subnet);
                rule.address_not_in(family, Side::Source, &format!("nodes{digit}"));
                rule.goto(&drop_chain(DropReason::IsolatedOverlay));
            }));
        }
        rules.push(TableRule::new(
            "packets to networks without groups",
            |rule| {
                let protected = format!("protected{digit}");
                rule.address_not_in(family, Side::Destination, &protected);
                rule.accept();
            },
        ));
        rules.push(TableRule::new("packets to known containers", |rule| {
            rule.verdict_of_destination(family, &format!("containers{digit}"));
        }));
        rules.push(TableRule::new("packets to unknown containers", |rule| {
            rule.goto(&drop_chain(DropReason::UnknownContainer));
        }));
        TableChain { hook: None, rules }
    }
}

fn drop_spoofed(rule: &mut Expressions) {
    rule.goto(&drop_chain(DropReason::SpoofedSource));
}

fn digit(family: u8) -> char {
    if family == NFPROTO_IPV4 { '4' } else { '6' }
}

fn short_hash(text: &str) -> String {
    let hash = hex(&Sha256::digest(text));
    hash.get(..32).unwrap_or_default().to_owned()
}

fn base_chain(number: u32, priority: i32) -> TableChain {
    TableChain {
        hook: Some(Hook {
            kind: ChainKind::Filter,
            number,
            priority,
        }),
        rules: vec![],
    }
}

fn drop_chain(reason: DropReason) -> String {
    format!("drop_{}", reason.code().replace('-', "_"))
}

/// Remembers the packet, counts it and drops it. The set may be full, which ends only its own rule.
fn drop_rules(reason: DropReason) -> TableChain {
    let mut rules = Vec::new();
    for family in [NFPROTO_IPV4, NFPROTO_IPV6] {
        for has_ports in [true, false] {
            rules.push(TableRule::new("remember", |rule| {
                rule.family(family);
                rule.transport_protocol_in("protocols_with_ports", has_ports);
                let set = format!("dropped{}", digit(family));
                rule.remember_packet(family, &set, has_ports, reason.number());
            }));
        }
    }
    rules.push(TableRule::new(
        "count and drop",
        Expressions::count_and_drop,
    ));
    TableChain { hook: None, rules }
}

fn allow(rule: &mut Expressions) {
    rule.add_mark(ALLOWED_MARK);
    rule.accept();
}

/// The rules that accept what belongs to connections which are allowed: replies, and errors about what
/// the container has sent. The original direction is never accepted here.
fn reply_rules() -> Vec<TableRule> {
    let mut rules = vec![TableRule::new("replies", |rule| {
        rule.is_reply();
        allow(rule);
    })];
    for protocol in [ICMP, ICMPV6] {
        rules.push(TableRule::new("errors", |rule| {
            rule.is_error(protocol);
            allow(rule);
        }));
    }
    rules
}

/// The chain of packets of the host to containers, some of which do not admit it.
fn output_chain(family: u8, closed: &str) -> TableChain {
    let mut rules = reply_rules();
    // It belongs to no connection, and without it the container does not find its gateway.
    rules.push(TableRule::new("neighbour discovery", |rule| {
        rule.is_neighbour_discovery();
        rule.accept();
    }));
    rules.push(TableRule::new("packets of the host", |rule| {
        rule.verdict_of_destination(family, closed);
    }));
    TableChain { hook: None, rules }
}

fn guarded_chain(family: u8) -> TableChain {
    let digit = digit(family);
    let (guarded, filtered) = (format!("guarded{digit}"), format!("filtered{digit}"));
    let rules = vec![
        TableRule::new("sources that belong to others", |rule| {
            rule.input_interface_not_in("tunnels");
            rule.address_in(family, Side::Source, &guarded);
            rule.reverse_path_differs();
            drop_spoofed(rule);
        }),
        TableRule::new("packets that are judged here", |rule| {
            rule.address_in(family, Side::Destination, &filtered);
            rule.goto(&format!("filter{digit}"));
        }),
    ];
    TableChain { hook: None, rules }
}

fn container_chain(family: u8, container: &ContainerRules) -> TableChain {
    let digit = digit(family);
    let mut rules = Vec::new();
    for source in &container.sources {
        rules.push(TableRule::new(&source.label(), |rule| {
            rule.address_in(family, Side::Source, &source.set_name(family));
            allow(rule);
        }));
    }
    for ingress in &container.rules {
        rules.extend(ingress_rules(family, ingress));
    }
    if container.admits_nodes {
        rules.push(TableRule::new("nodes", |rule| {
            rule.address_in(family, Side::Source, &format!("nodes{digit}"));
            allow(rule);
        }));
    }
    if container.admits_mapped_ports {
        rules.push(TableRule::new("mapped ports", |rule| {
            rule.address_not_in(family, Side::Source, &format!("isolating{digit}"));
            rule.translated();
            allow(rule);
        }));
    }
    rules.push(TableRule::new("containers of other groups", |rule| {
        rule.address_in(family, Side::Source, &format!("isolating{digit}"));
        rule.address_not_in(family, Side::Source, &format!("nodes{digit}"));
        rule.goto(&drop_chain(DropReason::NoSharedGroup));
    }));
    rules.push(TableRule::new("others", |rule| {
        rule.goto(&drop_chain(DropReason::Outside));
    }));
    TableChain { hook: None, rules }
}

/// The rules for one kind of traffic: none if it is of the other family, or if its protocol has no
/// ports but it names some.
fn ingress_rules(family: u8, ingress: &IngressRule) -> Vec<TableRule> {
    if let RuleSource::Subnet(subnet) = ingress.source
        && family_of(subnet.addr()) != family
    {
        return vec![];
    }
    let with_ports = [TCP, UDP, SCTP];
    let protocols: Vec<Option<u8>> = match (ingress.protocol, ingress.ports) {
        (protocol, None) => vec![protocol],
        (Some(protocol), Some(_)) if with_ports.contains(&protocol) => vec![Some(protocol)],
        (Some(_), Some(_)) => vec![],
        (None, Some(_)) => with_ports.map(Some).to_vec(),
    };
    let rule = |protocol: Option<u8>| {
        TableRule::new("a rule of a security group", |rule| {
            match &ingress.source {
                RuleSource::Group(name) => {
                    let set = MemberSet::Named(name.clone()).set_name(family);
                    rule.address_in(family, Side::Source, &set);
                }
                RuleSource::Subnet(subnet) => rule.address_in_subnet(Side::Source, *subnet),
            }
            if let Some(protocol) = protocol {
                rule.transport_protocol(protocol);
            }
            if let Some((first, last)) = ingress.ports {
                rule.destination_ports(first, last);
            }
            allow(rule);
        })
    };
    protocols.into_iter().map(rule).collect()
}

/// The tables, in the network namespace where this was opened.
#[derive(Debug)]
pub struct GroupTables {
    socket: NetlinkSocket,
    /// What the kernel has; none if that is not known.
    known: Option<[Option<Table>; 2]>,
}

impl GroupTables {
    /// Opens the tables of the calling thread's network namespace. Changes nothing.
    pub fn open() -> Result<Self, NetlinkError> {
        Ok(Self {
            socket: NetlinkSocket::netfilter()?,
            known: None,
        })
    }

    /// The port of the socket that changes the tables.
    #[must_use]
    pub fn port(&self) -> u32 {
        self.socket.port()
    }

    /// Notes that somebody else may have changed the tables: the next comparison lists them.
    pub fn forget(&mut self) {
        self.known = None;
    }

    /// Those of these addresses of containers to which nothing is allowed, because there are no tables or
    /// they do not have the container. Changes nothing.
    pub fn missing(&mut self, addresses: &[IpAddr]) -> Result<Vec<IpAddr>, NetlinkError> {
        let mut policy = GroupPolicy::default();
        for address in addresses {
            let container = ProtectedAddress {
                rules: ContainerRules::default(),
                admits_own_host: true,
            };
            policy.containers.insert(*address, container);
        }
        let desired = [Some(policy.inet_table())];
        let present = Table::read_all(&mut self.socket, &[INET], &desired)?;
        let present = present.first().and_then(Option::as_ref);
        let is_there = |address: &IpAddr| {
            let name = format!("containers{}", digit(family_of(*address)));
            present.is_some_and(|table| {
                let chain = table.chains.get("prerouting");
                let containers = table.sets.get(&name);
                !table.is_dormant
                    && chain.is_some_and(|chain| !chain.rules.is_empty())
                    && containers.is_some_and(|containers| containers.has_address(*address))
            })
        };
        let mut missing = addresses.to_vec();
        missing.retain(|address| !is_there(address));
        Ok(missing)
    }

    /// Describes what differs from `policy`. Changes nothing.
    pub fn plan(&mut self, policy: &GroupPolicy) -> Result<Vec<String>, NetlinkError> {
        let desired = policy.tables();
        let present = Table::read_all(&mut self.socket, &TABLES, &desired)?;
        Ok(difference(&present, &desired).into_descriptions())
    }

    /// Makes the tables what `policy` says, in one transaction. Returns a description of each change.
    pub fn apply(&mut self, policy: &GroupPolicy) -> Result<Vec<String>, NetlinkError> {
        let desired = policy.tables();
        let mut attempt = 1;
        loop {
            let present = match self.known.take() {
                Some(known) => known.to_vec(),
                None => Table::read_all(&mut self.socket, &TABLES, &desired)?,
            };
            let mut difference = difference(&present, &desired);
            let result = if difference.is_empty() {
                Ok(())
            } else {
                program::commit(&mut self.socket, &mut difference)
            };
            match result {
                Ok(()) => {
                    self.known = Some(desired);
                    return Ok(difference.into_descriptions());
                }
                // Somebody else has changed the tables since they were listed.
                Err(_) if attempt < MAX_ATTEMPTS => attempt += 1,
                Err(error) => return Err(error),
            }
        }
    }
}

/// What the tables of the calling thread's network namespace have of a packet to a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "facts that do not depend on each other"
)]
pub struct EnforcedPolicy {
    /// Whether there are tables.
    pub is_active: bool,
    /// Whether the destination is a container that is known.
    pub is_known: bool,
    /// The sets of sources that have the source.
    pub members: BTreeSet<MemberSet>,
    /// Whether the source is a node of the cluster, or this host.
    pub is_node: bool,
    /// Whether the source is in the subnets of the networks that isolate groups.
    pub is_isolating: bool,
}

/// Reads what the tables of the calling thread's network namespace have of packets from `source` to
/// `destination`, of the same family: which of `sets` have the source, too.
pub fn enforced(
    source: IpAddr,
    destination: IpAddr,
    sets: &BTreeSet<MemberSet>,
) -> Result<EnforcedPolicy, NetlinkError> {
    let mut socket = NetlinkSocket::netfilter()?;
    let digit = digit(family_of(destination));
    let mut has = |set: &str, address| address_in_set(&mut socket, TABLE, set, address);
    let mut members = BTreeSet::new();
    for set in sets {
        if has(&set.set_name(family_of(destination)), source)? {
            members.insert(set.clone());
        }
    }
    let is_known = has(&format!("containers{digit}"), destination)?;
    let is_node = has(&format!("nodes{digit}"), source)?;
    let is_isolating = has(&format!("isolating{digit}"), source)?;
    Ok(EnforcedPolicy {
        is_active: table_exists(&mut socket, TABLE)?,
        is_known,
        members,
        is_node,
        is_isolating,
    })
}

fn difference(present: &[Option<Table>], desired: &[Option<Table>; 2]) -> Difference {
    let mut difference = Difference::default();
    for ((name, present), desired) in TABLES.into_iter().zip(present).zip(desired) {
        difference.add(name, present.as_ref(), desired.as_ref());
    }
    difference
}
