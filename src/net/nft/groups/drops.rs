//! What the tables have dropped: counters, and what was dropped lately.

use std::collections::BTreeMap;
use std::ffi::CStr;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_bindings::nftables::{OpGetruleDump, OpGetsetelemDump};
use netlink_packet_core::NlasIterator;
use nix::errno::Errno;

use super::super::batch::{Message, header_of, request};
use super::super::program::TableName;
use super::{BRIDGE, INET, TABLES, drop_chain};
use crate::net::netlink::{NetlinkError, NetlinkSocket};

/// Why a packet is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DropReason {
    /// The source is a container that shares no group with the destination, and no rule admits it.
    NoSharedGroup,
    /// The destination is an address of no known container.
    UnknownContainer,
    /// The source is an address that belongs to somebody else.
    SpoofedSource,
    /// The source is outside of the networks that isolate groups, and is not admitted.
    Outside,
    /// The source is a container of another overlay, and that of the destination is isolated.
    IsolatedOverlay,
}

/// All reasons.
pub(super) const REASONS: [DropReason; 5] = DropReason::ALL;

impl DropReason {
    /// All reasons.
    pub const ALL: [Self; 5] = [
        Self::NoSharedGroup,
        Self::UnknownContainer,
        Self::SpoofedSource,
        Self::Outside,
        Self::IsolatedOverlay,
    ];

    /// Its stable code.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::NoSharedGroup => "no-shared-group",
            Self::UnknownContainer => "unknown-container",
            Self::SpoofedSource => "spoofed-source",
            Self::Outside => "outside",
            Self::IsolatedOverlay => "isolated-overlay",
        }
    }

    /// Its number in the set of dropped packets.
    pub(super) fn number(self) -> u32 {
        match self {
            Self::NoSharedGroup => 1,
            Self::UnknownContainer => 2,
            Self::SpoofedSource => 3,
            Self::Outside => 4,
            Self::IsolatedOverlay => 5,
        }
    }

    fn of_number(number: u32) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|reason| reason.number() == number)
    }
}

/// Packets that were dropped in the last minutes, with the same addresses, protocol and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DroppedPackets {
    /// Why.
    pub reason: DropReason,
    /// Their source.
    pub source: IpAddr,
    /// Their destination.
    pub destination: IpAddr,
    /// The number of their IP protocol.
    pub protocol: u8,
    /// Their destination port, if the protocol has ports.
    pub port: Option<u16>,
    /// How many there were.
    pub packets: u64,
}

/// What the tables have dropped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Drops {
    /// The packets by reason, since the tables were made. Frames with a false source are among them.
    pub totals: BTreeMap<DropReason, u64>,
    /// What was dropped lately, as far as there is room for it; frames are not among them.
    pub recent: Vec<DroppedPackets>,
}

impl Drops {
    /// Reads the counters of the calling thread's network namespace.
    pub fn read_totals() -> Result<BTreeMap<DropReason, u64>, NetlinkError> {
        let mut socket = NetlinkSocket::netfilter()?;
        totals(&mut socket)
    }

    /// Reads the counters and what was dropped lately in the calling thread's network namespace.
    pub fn read() -> Result<Self, NetlinkError> {
        let mut socket = NetlinkSocket::netfilter()?;
        let totals = totals(&mut socket)?;
        let mut recent = Vec::new();
        for set in ["dropped4", "dropped6"] {
            read_packets(&mut socket, set, &mut recent)?;
        }
        Ok(Self { totals, recent })
    }
}

fn totals(socket: &mut NetlinkSocket) -> Result<BTreeMap<DropReason, u64>, NetlinkError> {
    let mut totals: BTreeMap<_, _> = DropReason::ALL.map(|reason| (reason, 0)).into();
    for table in TABLES {
        for reason in DropReason::ALL {
            if table == BRIDGE && reason != DropReason::SpoofedSource {
                continue;
            }
            let packets = packets_of_chain(socket, table, &drop_chain(reason))?;
            *totals.entry(reason).or_default() += packets;
        }
    }
    Ok(totals)
}

fn packets_of_chain(
    socket: &mut NetlinkSocket,
    table: TableName,
    chain: &str,
) -> Result<u64, NetlinkError> {
    let list = request(Message::GetRule, 0, "list the counters", |buffer| {
        OpGetruleDump::encode_request(buffer, &header_of(table.family))
            .push_table_bytes(table.name.as_bytes())
            .push_chain_bytes(chain.as_bytes());
    });
    let mut packets = 0;
    let result = socket.dump(&list, |bytes| {
        let (header, rule) = OpGetruleDump::decode_request(bytes);
        // Older kernels ignore the filter.
        let is_asked_for = header.nfgen_family == table.family
            && rule.get_table().map(CStr::to_bytes) == Ok(table.name.as_bytes())
            && rule.get_chain().map(CStr::to_bytes) == Ok(chain.as_bytes());
        if is_asked_for && let Some(count) = bytes.get(4..).and_then(packets_of_rule) {
            packets += count;
        }
    });
    match result {
        Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(0),
        other => other.and(Ok(packets)),
    }
}

fn attribute(attributes: &[u8], kind: u16) -> Option<Vec<u8>> {
    let found = NlasIterator::new(attributes)
        .flatten()
        .find(|attribute| attribute.kind() == kind)?;
    Some(found.value().to_vec())
}

/// The packets of the counter among the attributes of a rule.
fn packets_of_rule(attributes: &[u8]) -> Option<u64> {
    const RULE_EXPRESSIONS: u16 = 4;
    let expressions = attribute(attributes, RULE_EXPRESSIONS)?;
    NlasIterator::new(&expressions)
        .flatten()
        .find_map(|expression| packets_of_counter(expression.value()))
}

/// The packets of an expression, if it is a counter.
fn packets_of_counter(expression: &[u8]) -> Option<u64> {
    const NAME: u16 = 1;
    const DATA: u16 = 2;
    const PACKETS: u16 = 2;
    if attribute(expression, NAME)?.strip_suffix(&[0])? != b"counter" {
        return None;
    }
    let packets = attribute(&attribute(expression, DATA)?, PACKETS)?;
    Some(u64::from_be_bytes(*packets.first_chunk()?))
}

fn read_packets(
    socket: &mut NetlinkSocket,
    set: &str,
    packets: &mut Vec<DroppedPackets>,
) -> Result<(), NetlinkError> {
    let action = format!("list the elements of {set}");
    let list = request(Message::GetElement, 0, action, |buffer| {
        OpGetsetelemDump::encode_request(buffer, &header_of(INET.family))
            .push_table_bytes(INET.name.as_bytes())
            .push_set_bytes(set.as_bytes());
    });
    let result = socket.dump(&list, |bytes| {
        const SET_ELEMENTS: u16 = 3;
        let Some(elements) = bytes
            .get(4..)
            .and_then(|attributes| attribute(attributes, SET_ELEMENTS))
        else {
            return;
        };
        let elements = NlasIterator::new(&elements).flatten();
        packets.extend(elements.filter_map(|element| parse_packets(element.value())));
    });
    match result {
        Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(()),
        other => other,
    }
}

/// The packets of the counter of an element.
pub(in crate::net::nft) fn packets_of_element(element: &[u8]) -> Option<u64> {
    const EXPRESSION: u16 = 7;
    const EXPRESSIONS: u16 = 11;
    match attribute(element, EXPRESSION) {
        Some(expression) => packets_of_counter(&expression),
        None => NlasIterator::new(&attribute(element, EXPRESSIONS)?)
            .flatten()
            .find_map(|expression| packets_of_counter(expression.value())),
    }
}

fn parse_packets(element: &[u8]) -> Option<DroppedPackets> {
    const KEY: u16 = 1;
    const VALUE: u16 = 1;
    let key = attribute(&attribute(element, KEY)?, VALUE)?;
    let counter = packets_of_element(element);
    let length = (key.len().checked_sub(12)?) / 2;
    let (source, rest) = key.split_at_checked(length)?;
    let (destination, rest) = rest.split_at_checked(length)?;
    let (protocol, rest) = rest.split_first_chunk::<4>()?;
    let (port, number) = rest.split_first_chunk::<4>()?;
    let port = u16::from_be_bytes([port[0], port[1]]);
    let reason = DropReason::of_number(u32::from_ne_bytes(*number.first_chunk()?))?;
    let has_ports = [super::TCP, super::UDP, super::SCTP].contains(&protocol[0]);
    Some(DroppedPackets {
        reason,
        source: address(source)?,
        destination: address(destination)?,
        protocol: protocol[0],
        port: has_ports.then_some(port),
        packets: counter?,
    })
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(octets).into());
    }
    let octets = <[u8; 16]>::try_from(bytes).ok()?;
    Some(Ipv6Addr::from(octets).into())
}
