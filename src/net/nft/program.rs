//! A table whose sets and chains are data, compared with the kernel's and changed in one transaction.
//!
//! Invariants: all tables that are given together change together or not at all. In a transaction sets
//! and chains come before what uses them, and are removed after it. Where chains stay as they are, only
//! elements change. A rule is recognised by its comment, which has a hash of its expressions.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use contrail_mesos_api::text::hex;
use ipnet::IpNet;
use sha2::{Digest as _, Sha256};

use self::messages::{
    delete_chain, delete_set, delete_table, element_message, flush_chain, flush_set, new_chain,
    new_rule, new_set, new_table,
};
use super::batch::{self, Message, NFPROTO_BRIDGE, NFPROTO_INET};
use super::expressions::{Expressions, octets};
use crate::net::netlink::{NetlinkError, NetlinkSocket, Request};

mod messages;
mod read;

/// How many elements one message carries: their list must be shorter than 64 KiB.
const MAX_ELEMENTS_PER_MESSAGE: usize = 400;
/// How many changes of elements are described one by one.
const MAX_DESCRIBED_ELEMENTS: usize = 1000;
/// The flag of an element that is the end of an interval.
const INTERVAL_END: u32 = 1;
const HASH_CHARS: usize = 8;

// The type numbers of `nft`.
const IPV4: u32 = 0x07;
const IPV6: u32 = 0x08;
const ETHER: u32 = 0x09;
const PROTOCOL: u32 = 0x0c;
const PORT: u32 = 0x0d;
const MARK: u32 = 0x13;
const INTERFACE: u32 = 0x29;

const FLAG_INTERVAL: u32 = 4;
const FLAG_MAP: u32 = 8;
const FLAG_TIMEOUT: u32 = 0x10;
const FLAG_DYNAMIC: u32 = 0x20;

/// The name of a table with its family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TableName {
    pub(super) family: u8,
    pub(super) name: &'static str,
    /// What an operator reads beside the name.
    pub(super) description: &'static str,
}

impl fmt::Display for TableName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = match self.family {
            NFPROTO_BRIDGE => "bridge",
            NFPROTO_INET => "inet",
            _ => "other",
        };
        write!(formatter, "{family} {}", self.name)
    }
}

/// What the elements of a set are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SetKind {
    /// IPv4 addresses.
    Addresses4,
    /// IPv6 addresses.
    Addresses6,
    /// IPv4 subnets.
    Subnets4,
    /// IPv6 subnets.
    Subnets6,
    /// Names of interfaces.
    Interfaces,
    /// Numbers of protocols.
    Protocols,
    /// Chains by IPv4 address.
    Chains4,
    /// Chains by IPv6 address.
    Chains6,
    /// Names of interfaces with an IPv4 address.
    InterfaceAddresses4,
    /// Names of interfaces with an IPv6 address.
    InterfaceAddresses6,
    /// Names of interfaces with a MAC address.
    InterfaceMacs,
    /// Names of two interfaces.
    InterfacePairs,
    /// Two IPv4 addresses.
    AddressPairs4,
    /// Two IPv6 addresses.
    AddressPairs6,
    /// IPv4 address, protocol and port.
    Frontends4,
    /// IPv6 address, protocol and port.
    Frontends6,
    /// The same, of which the program keeps the elements apart from the table.
    ManyFrontends4,
    /// The same of IPv6.
    ManyFrontends6,
    /// Chains by IPv4 address, protocol and port, each with a counter; kept apart.
    FrontendChains4,
    /// The same of IPv6.
    FrontendChains6,
    /// IPv4 address and port by address, protocol, port and slot; kept apart.
    Backends4,
    /// The same of IPv6.
    Backends6,
    /// IPv4 packets, which rules add: source, destination, protocol, port and a number.
    Packets4 {
        /// The most elements.
        size: u32,
        /// How long an element stays after its last packet, in milliseconds.
        timeout: u64,
    },
    /// The same of IPv6.
    Packets6 {
        /// The most elements.
        size: u32,
        /// How long an element stays after its last packet, in milliseconds.
        timeout: u64,
    },
}

impl SetKind {
    fn flags(self) -> u32 {
        match self {
            Self::Subnets4 | Self::Subnets6 => FLAG_INTERVAL,
            Self::Chains4
            | Self::Chains6
            | Self::FrontendChains4
            | Self::FrontendChains6
            | Self::Backends4
            | Self::Backends6 => FLAG_MAP,
            Self::Packets4 { .. } | Self::Packets6 { .. } => FLAG_TIMEOUT | FLAG_DYNAMIC,
            _ => 0,
        }
    }

    /// The type numbers of the fields, six bits for each, and the length of the key.
    fn key(self) -> (u32, u32) {
        let join = |fields: &[u32]| fields.iter().fold(0, |all, field| (all << 6) | field);
        match self {
            Self::Addresses4 | Self::Subnets4 | Self::Chains4 => (IPV4, 4),
            Self::Addresses6 | Self::Subnets6 | Self::Chains6 => (IPV6, 16),
            Self::Interfaces => (INTERFACE, 16),
            Self::Protocols => (PROTOCOL, 1),
            Self::InterfaceAddresses4 => (join(&[INTERFACE, IPV4]), 20),
            Self::InterfaceAddresses6 => (join(&[INTERFACE, IPV6]), 32),
            Self::InterfaceMacs => (join(&[INTERFACE, ETHER]), 24),
            Self::InterfacePairs => (join(&[INTERFACE, INTERFACE]), 32),
            Self::AddressPairs4 => (join(&[IPV4, IPV4]), 8),
            Self::AddressPairs6 => (join(&[IPV6, IPV6]), 32),
            Self::Frontends4 | Self::ManyFrontends4 | Self::FrontendChains4 => {
                (join(&[IPV4, PROTOCOL, PORT]), 12)
            }
            Self::Frontends6 | Self::ManyFrontends6 | Self::FrontendChains6 => {
                (join(&[IPV6, PROTOCOL, PORT]), 24)
            }
            Self::Backends4 => (join(&[IPV4, PROTOCOL, PORT, MARK]), 16),
            Self::Backends6 => (join(&[IPV6, PROTOCOL, PORT, MARK]), 28),
            Self::Packets4 { .. } => (join(&[IPV4, IPV4, PROTOCOL, PORT, MARK]), 20),
            Self::Packets6 { .. } => (join(&[IPV6, IPV6, PROTOCOL, PORT, MARK]), 44),
        }
    }

    /// The type numbers of the fields of a map's values, and their length; none for chains.
    fn values(self) -> Option<(u32, u32)> {
        match self {
            Self::Backends4 => Some(((IPV4 << 6) | PORT, 8)),
            Self::Backends6 => Some(((IPV6 << 6) | PORT, 20)),
            _ => None,
        }
    }

    /// Whether each element counts the packets that find it.
    fn has_counters(self) -> bool {
        matches!(self, Self::FrontendChains4 | Self::FrontendChains6)
    }

    /// Whether rules, or other code than that of [`Table`], add and remove the elements.
    fn is_filled_apart(self) -> bool {
        let is_apart = matches!(
            self,
            Self::ManyFrontends4
                | Self::ManyFrontends6
                | Self::FrontendChains4
                | Self::FrontendChains6
                | Self::Backends4
                | Self::Backends6
        );
        is_apart || self.flags() & FLAG_DYNAMIC != 0
    }

    fn is_interval(self) -> bool {
        self.flags() & FLAG_INTERVAL != 0
    }

    fn is_map(self) -> bool {
        self.flags() & FLAG_MAP != 0
    }
}

/// What identifies an element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ElementKey {
    bytes: Vec<u8>,
    /// Whether it is the first address after an interval.
    is_end: bool,
}

impl Ord for ElementKey {
    /// The end of an interval comes before the beginning of the next one at the same address: the kernel
    /// takes them for overlapping otherwise.
    fn cmp(&self, other: &Self) -> Ordering {
        let by_bytes = self.bytes.cmp(&other.bytes);
        by_bytes.then_with(|| other.is_end.cmp(&self.is_end))
    }
}

impl PartialOrd for ElementKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl ElementKey {
    fn of(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            is_end: false,
        }
    }
}

fn interface(name: &str) -> Vec<u8> {
    let mut key = name.as_bytes().to_vec();
    key.resize(16, 0);
    key
}

/// A set or map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TableSet {
    kind: SetKind,
    /// What an operator reads.
    label: String,
    /// The elements, with the chains that a map leads to.
    elements: Elements,
}

/// Elements, with the chains that a map leads to.
type Elements = BTreeMap<ElementKey, Option<String>>;

impl TableSet {
    pub(super) fn new(kind: SetKind, label: impl Into<String>) -> Self {
        Self {
            kind,
            label: label.into(),
            elements: BTreeMap::new(),
        }
    }

    /// A set of these addresses, of one family.
    pub(super) fn of_addresses(
        kind: SetKind,
        label: impl Into<String>,
        addresses: impl IntoIterator<Item = IpAddr>,
    ) -> Self {
        let mut set = Self::new(kind, label);
        for address in addresses {
            set.add(octets(address));
        }
        set
    }

    pub(super) fn add(&mut self, key: Vec<u8>) {
        self.elements.insert(ElementKey::of(key), None);
    }

    pub(super) fn add_interface(&mut self, name: &str) {
        self.add(interface(name));
    }

    /// Adds twice the same interface.
    pub(super) fn add_interface_twice(&mut self, name: &str) {
        let interface = interface(name);
        self.add([interface.as_slice(), &interface].concat());
    }

    /// Adds an interface with an address, which is padded to whole words.
    pub(super) fn add_pair(&mut self, name: &str, address: &[u8]) {
        let mut key = interface(name);
        key.extend(address);
        key.resize(key.len().next_multiple_of(4), 0);
        self.add(key);
    }

    pub(super) fn add_chain(&mut self, address: IpAddr, chain: String) {
        self.elements
            .insert(ElementKey::of(octets(address)), Some(chain));
    }

    /// Whether a map of addresses has this one.
    pub(super) fn has_address(&self, address: IpAddr) -> bool {
        self.elements.contains_key(&ElementKey::of(octets(address)))
    }

    /// Adds subnets, none of which contains another one.
    pub(super) fn add_subnets(&mut self, subnets: impl IntoIterator<Item = IpNet>) {
        for subnet in subnets {
            self.add(octets(subnet.network()));
            if let Some(end) = after(subnet) {
                let key = ElementKey {
                    bytes: octets(end),
                    is_end: true,
                };
                self.elements.insert(key, None);
            }
        }
    }

    fn describe(&self, key: &ElementKey) -> String {
        let bytes = &key.bytes;
        let (name, rest) = bytes.split_at(bytes.len().min(16));
        match self.kind {
            SetKind::Interfaces => text(name),
            SetKind::InterfaceAddresses4 | SetKind::InterfaceAddresses6 => {
                format!("{} . {}", text(name), address(rest))
            }
            SetKind::InterfaceMacs => {
                let mac = rest.get(..6).unwrap_or_default();
                let parts: Vec<_> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
                format!("{} . {}", text(name), parts.join(":"))
            }
            SetKind::InterfacePairs => format!("{} . {}", text(name), text(rest)),
            SetKind::AddressPairs4 | SetKind::AddressPairs6 => {
                let (first, second) = bytes.split_at(bytes.len() / 2);
                format!("{} . {}", address(first), address(second))
            }
            SetKind::Frontends4 | SetKind::Frontends6 => {
                let (first, rest) = bytes.split_at(bytes.len().saturating_sub(8));
                let protocol = rest.first().copied().unwrap_or_default();
                let port = match rest.get(4..6) {
                    Some([high, low]) => u16::from_be_bytes([*high, *low]),
                    _ => 0,
                };
                format!("{} . {protocol} . {port}", address(first))
            }
            SetKind::Protocols => bytes.first().copied().unwrap_or_default().to_string(),
            _ => address(bytes),
        }
    }
}

/// The first address after a subnet, unless it is the last one of all.
fn after(subnet: IpNet) -> Option<IpAddr> {
    match subnet.broadcast() {
        IpAddr::V4(last) => Some(Ipv4Addr::from(u32::from(last).checked_add(1)?).into()),
        IpAddr::V6(last) => Some(Ipv6Addr::from(u128::from(last).checked_add(1)?).into()),
    }
}

fn text(name: &[u8]) -> String {
    String::from_utf8_lossy(name)
        .trim_end_matches('\0')
        .to_owned()
}

fn address(bytes: &[u8]) -> String {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        Ipv4Addr::from(octets).to_string()
    } else if let Ok(octets) = <[u8; 16]>::try_from(bytes) {
        Ipv6Addr::from(octets).to_string()
    } else {
        hex(bytes)
    }
}

/// What a chain at a hook does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ChainKind {
    /// It lets packets pass or not.
    Filter,
    /// It decides about the addresses of connections.
    Nat,
}

impl ChainKind {
    fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
        }
    }
}

/// Where packets enter a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hook {
    pub(super) kind: ChainKind,
    pub(super) number: u32,
    pub(super) priority: i32,
}

/// A rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TableRule {
    comment: String,
    /// Empty for a rule of the kernel.
    expressions: Vec<u8>,
}

impl TableRule {
    pub(super) fn new(description: &str, build: impl FnOnce(&mut Expressions)) -> Self {
        let mut expressions = Expressions::default();
        build(&mut expressions);
        let expressions = expressions.bytes().to_vec();
        let hash = hex(&Sha256::digest(&expressions));
        // A comment that the kernel would cut could not be recognised.
        let description: String = description
            .chars()
            .filter(char::is_ascii)
            .take(100)
            .collect();
        Self {
            comment: format!(
                "{description} #{}",
                hash.get(..HASH_CHARS).unwrap_or_default()
            ),
            expressions,
        }
    }
}

/// A chain.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TableChain {
    /// Where packets enter it; none if only rules and maps lead to it.
    pub(super) hook: Option<Hook>,
    pub(super) rules: Vec<TableRule>,
}

/// A table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Table {
    /// Whether it is switched off.
    pub(super) is_dormant: bool,
    pub(super) sets: BTreeMap<String, TableSet>,
    pub(super) chains: BTreeMap<String, TableChain>,
    /// The sets of the kernel that no set of ours can be.
    unknown_sets: Vec<String>,
}

/// The changes between two states of a table.
#[derive(Debug, Default)]
pub(super) struct Difference {
    requests: Vec<Request>,
    descriptions: Vec<String>,
    described_elements: usize,
    more_elements: usize,
}

impl Difference {
    fn request(&mut self, request: Request) {
        self.requests.push(request);
    }

    /// Adds changes of elements that are kept apart from the table.
    pub(super) fn extend(&mut self, apart: Vec<Request>) {
        self.requests.extend(apart);
    }

    pub(super) fn describe(&mut self, description: String) {
        self.descriptions.push(description);
    }

    fn describe_elements(&mut self, verb: &str, set: &TableSet, elements: &Elements) {
        for key in elements.keys().filter(|key| !key.is_end) {
            if self.described_elements == MAX_DESCRIBED_ELEMENTS {
                self.more_elements += 1;
                continue;
            }
            self.described_elements += 1;
            let preposition = if verb == "add" { "to" } else { "from" };
            self.descriptions.push(format!(
                "{verb} {} {preposition} {}",
                set.describe(key),
                set.label
            ));
        }
    }

    /// What changes, a description each.
    pub(super) fn into_descriptions(mut self) -> Vec<String> {
        if self.more_elements > 0 {
            self.descriptions
                .push(format!("change {} more elements", self.more_elements));
        }
        self.descriptions
    }

    pub(super) fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// Adds the changes between `present`, the kernel's table, and `desired`.
    pub(super) fn add(
        &mut self,
        name: TableName,
        present: Option<&Table>,
        desired: Option<&Table>,
    ) {
        self.add_with(name, present, desired, vec![]);
    }

    /// The same, with changes of elements that are kept apart from the table.
    pub(super) fn add_with(
        &mut self,
        name: TableName,
        present: Option<&Table>,
        desired: Option<&Table>,
        apart: Vec<Request>,
    ) {
        let empty = Table::default();
        let (present, desired) = match (present, desired) {
            (None, None) => return,
            (Some(_), None) => {
                self.describe(format!("remove the nftables table {name}"));
                self.request(delete_table(name));
                return;
            }
            (Some(present), Some(desired)) if !present.can_become(desired) => {
                self.describe(format!("replace the nftables table {name}"));
                self.request(delete_table(name));
                self.request(new_table(name));
                (&empty, desired)
            }
            (Some(present), Some(desired)) => (present, desired),
            (None, Some(desired)) => {
                self.describe(format!("create the nftables table {name}"));
                self.request(new_table(name));
                (&empty, desired)
            }
        };
        let new_sets = desired
            .sets
            .iter()
            .filter(|(set, _)| !present.sets.contains_key(*set));
        for ((set, definition), id) in new_sets.zip(1..) {
            self.request(new_set(name, set, id, definition));
        }
        for (chain, definition) in &desired.chains {
            if !present.chains.contains_key(chain) {
                self.request(new_chain(name, chain, definition.hook));
            }
        }
        self.elements(name, present, desired, Phase::Additions);
        self.rules(name, present, desired);
        self.elements(name, present, desired, Phase::Maps);
        self.elements(name, present, desired, Phase::Removals);
        self.requests.extend(apart);
        self.surplus(name, present, desired);
    }

    fn elements(&mut self, name: TableName, present: &Table, desired: &Table, phase: Phase) {
        for (set_name, set) in &desired.sets {
            if set.kind.is_filled_apart() || set.kind.is_map() != (phase == Phase::Maps) {
                continue;
            }
            let none = BTreeMap::new();
            let before = present
                .sets
                .get(set_name)
                .map_or(&none, |set| &set.elements);
            // Both are sorted; most elements are in both.
            if *before == set.elements {
                continue;
            }
            let differing = |from: &Elements, others: &Elements| -> Elements {
                let differing = from
                    .iter()
                    .filter(|(key, value)| others.get(*key) != Some(*value));
                differing
                    .map(|(key, value)| (key.clone(), value.clone()))
                    .collect()
            };
            let surplus = differing(before, &set.elements);
            let missing = differing(&set.elements, before);
            if phase != Phase::Removals {
                self.describe_elements("add", set, &missing);
            }
            let removes = if set.kind.is_interval() {
                phase == Phase::Additions
            } else {
                phase != Phase::Additions
            };
            if removes {
                self.describe_elements("remove", set, &surplus);
            }
            if set.kind.is_interval() {
                // The kernel may take a part of an interval for an overlap.
                if phase == Phase::Additions {
                    if !before.is_empty() {
                        self.request(flush_set(name, set_name));
                    }
                    self.messages(name, set_name, Message::NewElement, &set.elements);
                }
                continue;
            }
            if phase != Phase::Additions {
                self.messages(name, set_name, Message::DelElement, &surplus);
            }
            if phase != Phase::Removals {
                self.messages(name, set_name, Message::NewElement, &missing);
            }
        }
    }

    fn messages(&mut self, name: TableName, set: &str, kind: Message, elements: &Elements) {
        let all: Vec<_> = elements.iter().collect();
        for part in all.chunks(MAX_ELEMENTS_PER_MESSAGE) {
            self.request(element_message(name, set, kind, part));
        }
    }

    fn rules(&mut self, name: TableName, present: &Table, desired: &Table) {
        for (chain, definition) in &desired.chains {
            let before = present.chains.get(chain);
            let is_same = before.is_some_and(|before| {
                let before = before.rules.iter().map(|rule| &rule.comment);
                before.eq(definition.rules.iter().map(|rule| &rule.comment))
            });
            if is_same {
                continue;
            }
            let verb = if before.is_some() { "replace" } else { "add" };
            self.describe(format!("{verb} the chain {chain} of {name}"));
            if before.is_some_and(|before| !before.rules.is_empty()) {
                self.request(flush_chain(name, chain));
            }
            for rule in &definition.rules {
                self.request(new_rule(name, chain, rule));
            }
        }
    }

    fn surplus(&mut self, name: TableName, present: &Table, desired: &Table) {
        let is_surplus = |chain: &&String| !desired.chains.contains_key(*chain);
        let chains: Vec<_> = present.chains.keys().filter(is_surplus).collect();
        let is_surplus = |set: &&String| !desired.sets.contains_key(*set);
        let sets = present.sets.keys().chain(&present.unknown_sets);
        let sets: Vec<_> = sets.filter(is_surplus).collect();
        // Rules use sets and chains, and maps use chains.
        for chain in &chains {
            self.request(flush_chain(name, chain));
        }
        for set in &sets {
            self.request(flush_set(name, set));
        }
        for chain in chains {
            self.describe(format!("remove the chain {chain} of {name}"));
            self.request(delete_chain(name, chain));
        }
        for set in sets {
            self.describe(format!("remove the set {set} of {name}"));
            self.request(delete_set(name, set));
        }
    }
}

/// A part of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Elements of sets are added, before rules use them.
    Additions,
    /// Elements of maps change, once the chains are complete.
    Maps,
    /// Elements of sets are removed.
    Removals,
}

impl Table {
    /// Whether the kernel can turn this table into `desired` without removing it.
    pub(super) fn can_become(&self, desired: &Self) -> bool {
        let sets = desired.sets.iter().all(|(name, set)| {
            !self.unknown_sets.contains(name)
                && self
                    .sets
                    .get(name)
                    .is_none_or(|present| present.kind == set.kind)
        });
        let chains = desired.chains.iter().all(|(name, chain)| {
            self.chains
                .get(name)
                .is_none_or(|present| present.hook == chain.hook)
        });
        sets && chains && !self.is_dormant
    }
}

/// Makes all changes, or none.
pub(super) fn commit(
    socket: &mut NetlinkSocket,
    difference: &mut Difference,
) -> Result<(), NetlinkError> {
    let requests = std::mem::take(&mut difference.requests);
    batch::commit_if_any(socket, requests, "the tables of nftables")
}
