//! Connection tracking: which flows the kernel knows, and making it forget some.
//!
//! The kernel decides about the translation of a flow with its first packet. UDP and SCTP clients
//! may go on with the same source port for ever, so without this they would never meet a port
//! mapping that came later, or that has another target now.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netlink_packet_core::NlasIterator;
use nix::errno::Errno;

use super::netlink::{NetlinkError, NetlinkSocket, Request};
use super::sysctl;

const NFNL_SUBSYS_CTNETLINK: u16 = 1;
const IPCTNL_MSG_CT_GET: u16 = 1;
const IPCTNL_MSG_CT_DELETE: u16 = 2;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
/// Length of the header of all netfilter messages.
const HEADER_BYTES: usize = 4;
const ATTRIBUTE_HEADER_BYTES: usize = 4;

/// A flow of a protocol with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The protocol's number.
    pub protocol: u8,
    /// Where its first packet was sent to.
    pub destination: SocketAddr,
    /// Where replies come from: the same, unless the destination is translated.
    pub reply_source: SocketAddr,
}

/// How full the kernel's table of flows is, and what was lost because of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConntrackUse {
    /// The flows of this network namespace.
    pub flows: u64,
    /// The most flows that there may be.
    pub limit: u64,
    /// Flows that could not be added, and packets that were dropped with them, since the start.
    pub failed: u64,
    /// Flows that were forgotten early to make room for others, since the start.
    pub evicted: u64,
}

/// Reads how full the table of flows of the calling thread's network namespace is.
pub fn table_use() -> Result<ConntrackUse, NetlinkError> {
    const GET_STATISTICS: u16 = 4;
    const CTA_STATS_INSERT_FAILED: u16 = 9;
    const CTA_STATS_DROP: u16 = 10;
    const CTA_STATS_EARLY_DROP: u16 = 11;
    let mut result = ConntrackUse {
        flows: setting("nf_conntrack_count"),
        limit: setting("nf_conntrack_max"),
        ..ConntrackUse::default()
    };
    let list = Request::new(
        message_type(GET_STATISTICS),
        0,
        vec![0; HEADER_BYTES],
        "count the tracked flows",
    );
    // One message for each processor.
    NetlinkSocket::netfilter()?.dump(&list, |bytes| {
        let Some(attributes) = bytes.get(HEADER_BYTES..) else {
            return;
        };
        let count = |kind| {
            let value = attribute(attributes, kind).and_then(|value| value.first_chunk::<4>());
            value.map_or(0, |value| u64::from(u32::from_be_bytes(*value)))
        };
        result.failed += count(CTA_STATS_INSERT_FAILED) + count(CTA_STATS_DROP);
        result.evicted += count(CTA_STATS_EARLY_DROP);
    })?;
    Ok(result)
}

/// What flows are counted by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FlowKind {
    /// `ipv4`, `ipv6`, or the number of another family.
    pub family: String,
    /// `tcp`, `udp` and the like, or the number of another protocol.
    pub protocol: String,
    /// The state of a TCP connection such as `established`; of others `replied` or `unreplied`.
    pub state: String,
}

/// Counts the flows of the calling thread's network namespace.
pub fn count_flows() -> Result<BTreeMap<FlowKind, u64>, NetlinkError> {
    let mut counts = BTreeMap::new();
    let list = Request::new(
        message_type(IPCTNL_MSG_CT_GET),
        0,
        vec![0; HEADER_BYTES],
        "count the tracked flows",
    );
    NetlinkSocket::netfilter()?.dump(&list, |bytes| {
        if let Some(kind) = parse_kind(bytes) {
            *counts.entry(kind).or_insert(0) += 1;
        }
    })?;
    Ok(counts)
}

fn parse_kind(bytes: &[u8]) -> Option<FlowKind> {
    const CTA_STATUS: u16 = 3;
    const CTA_PROTOINFO: u16 = 4;
    const CTA_PROTOINFO_TCP: u16 = 1;
    const CTA_PROTOINFO_TCP_STATE: u16 = 1;
    const IPS_SEEN_REPLY: u32 = 1 << 1;
    const TCP_STATES: [&str; 10] = [
        "none",
        "syn-sent",
        "syn-received",
        "established",
        "fin-wait",
        "close-wait",
        "last-ack",
        "time-wait",
        "close",
        "syn-sent2",
    ];
    let family = match *bytes.first()? {
        2 => "ipv4".to_owned(),
        10 => "ipv6".to_owned(),
        other => other.to_string(),
    };
    let attributes = bytes.get(HEADER_BYTES..)?;
    let original = attribute(attributes, CTA_TUPLE_ORIG)?;
    let protocol = *attribute(attribute(original, CTA_TUPLE_PROTO)?, CTA_PROTO_NUM)?.first()?;
    let tcp_state = attribute(attributes, CTA_PROTOINFO)
        .and_then(|info| attribute(info, CTA_PROTOINFO_TCP))
        .and_then(|info| attribute(info, CTA_PROTOINFO_TCP_STATE))
        .and_then(|state| TCP_STATES.get(usize::from(*state.first()?)));
    let status = attribute(attributes, CTA_STATUS).and_then(|status| status.first_chunk::<4>());
    let status = status.map_or(0, |status| u32::from_be_bytes(*status));
    let state = match tcp_state {
        Some(state) => state,
        None if status & IPS_SEEN_REPLY != 0 => "replied",
        None => "unreplied",
    };
    Some(FlowKind {
        family,
        protocol: match protocol {
            1 => "icmp".to_owned(),
            6 => "tcp".to_owned(),
            17 => "udp".to_owned(),
            58 => "icmpv6".to_owned(),
            132 => "sctp".to_owned(),
            other => other.to_string(),
        },
        state: state.to_owned(),
    })
}

/// A number below `/proc/sys/net/netfilter`; 0 if there is none, because nothing tracks flows.
fn setting(name: &str) -> u64 {
    let text = sysctl::get(&format!("net/netfilter/{name}"));
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Makes the kernel forget the flows for which `is_stale` returns true, and returns how many they
/// were. The next packet of each begins a new flow.
pub fn forget(
    socket: &mut NetlinkSocket,
    mut is_stale: impl FnMut(&Flow) -> bool,
) -> Result<usize, NetlinkError> {
    let mut deletions = Vec::new();
    let list = Request::new(
        message_type(IPCTNL_MSG_CT_GET),
        0,
        vec![0; HEADER_BYTES],
        "list the tracked flows",
    );
    socket.dump(&list, |bytes| {
        if let Some(flow) = parse(bytes)
            && is_stale(&flow)
        {
            deletions.push(deletion(bytes, &flow));
        }
    })?;
    let count = deletions.len();
    for result in socket.execute(&deletions)? {
        match result {
            // It has ended meanwhile.
            Err(error) if error.errno() == Some(Errno::ENOENT) => {}
            other => other?,
        }
    }
    Ok(count)
}

fn message_type(message: u16) -> u16 {
    (NFNL_SUBSYS_CTNETLINK << 8) | message
}

/// The attributes: the kind of each, and its bytes with the header.
fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(bytes).flatten().filter_map(|attribute| {
        let (kind, length) = (attribute.kind(), usize::from(attribute.length()));
        Some((kind, attribute.into_inner().get(..length)?))
    })
}

/// The value of the attribute of that kind.
fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes)
        .find(|(other, _)| *other == kind)
        .and_then(|(_, attribute)| attribute.get(ATTRIBUTE_HEADER_BYTES..))
}

fn parse(bytes: &[u8]) -> Option<Flow> {
    let bytes = bytes.get(HEADER_BYTES..)?;
    let original = attribute(bytes, CTA_TUPLE_ORIG)?;
    let reply = attribute(bytes, CTA_TUPLE_REPLY)?;
    let protocol = *attribute(attribute(original, CTA_TUPLE_PROTO)?, CTA_PROTO_NUM)?.first()?;
    Some(Flow {
        protocol,
        destination: endpoint(original, Side::Destination)?,
        reply_source: endpoint(reply, Side::Source)?,
    })
}

#[derive(Clone, Copy)]
enum Side {
    Source,
    Destination,
}

fn endpoint(tuple: &[u8], side: Side) -> Option<SocketAddr> {
    // Of addresses: source and destination of IPv4, then of IPv6.
    let (port_kind, v4_kind, v6_kind) = match side {
        Side::Source => (CTA_PROTO_SRC_PORT, 1, 3),
        Side::Destination => (CTA_PROTO_DST_PORT, 2, 4),
    };
    let port = attribute(attribute(tuple, CTA_TUPLE_PROTO)?, port_kind)?;
    let port = u16::from_be_bytes(port.try_into().ok()?);
    let addresses = attribute(tuple, CTA_TUPLE_IP)?;
    let address: IpAddr = if let Some(octets) = attribute(addresses, v4_kind) {
        Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok()?).into()
    } else {
        let octets = attribute(addresses, v6_kind)?;
        Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?).into()
    };
    Some(SocketAddr::new(address, port))
}

/// The request to forget the flow that a message describes, and no later one with the same
/// addresses.
fn deletion(message: &[u8], flow: &Flow) -> Request {
    let (header, rest) = message.split_at(HEADER_BYTES.min(message.len()));
    let mut payload = header.to_vec();
    for (kind, attribute) in attributes(rest) {
        if matches!(kind, CTA_TUPLE_ORIG | CTA_ID | CTA_ZONE) {
            payload.extend_from_slice(attribute);
            payload.resize(payload.len().next_multiple_of(4), 0);
        }
    }
    Request::new(
        message_type(IPCTNL_MSG_CT_DELETE),
        0,
        payload,
        format!("forget a flow to {}", flow.destination),
    )
}

#[cfg(test)]
mod root_tests {
    use std::net::UdpSocket;

    use super::*;
    use crate::net::testing::{isolated, run};

    #[test]
    fn only_stale_flows_are_forgotten() {
        isolated(|| {
            // Tracking begins with the first rule that needs it.
            run("nft", "add table inet t");
            run(
                "nft",
                "add chain inet t c { type filter hook output priority 0 ; }",
            );
            run("nft", "add rule inet t c ct state new accept");
            let send = |to: &str| {
                let any = if to.starts_with('[') {
                    "[::1]:0"
                } else {
                    "127.0.0.1:0"
                };
                UdpSocket::bind(any).unwrap().send_to(b"x", to).unwrap();
            };
            // Without a server, the flow ends with the ICMP error.
            let _servers: Vec<_> = ["127.0.0.1:5300", "127.0.0.1:5301", "[::1]:5300"]
                .map(|address| UdpSocket::bind(address).unwrap())
                .into();
            for to in ["127.0.0.1:5300", "127.0.0.1:5301", "[::1]:5300"] {
                send(to);
            }
            let mut socket = NetlinkSocket::netfilter().unwrap();
            let is_5300 = |flow: &Flow| flow.protocol == 17 && flow.destination.port() == 5300;
            let mut seen = Vec::new();
            forget(&mut socket, |flow| {
                assert_eq!(flow.destination, flow.reply_source);
                seen.push(flow.destination.to_string());
                false
            })
            .unwrap();
            seen.sort();
            assert_eq!(seen, ["127.0.0.1:5300", "127.0.0.1:5301", "[::1]:5300"]);
            let counts: Vec<_> = count_flows().unwrap().into_iter().collect();
            let kind = |family: &str| FlowKind {
                family: family.to_owned(),
                protocol: "udp".to_owned(),
                state: "unreplied".to_owned(),
            };
            assert_eq!(counts, [(kind("ipv4"), 2), (kind("ipv6"), 1)]);
            assert_eq!(forget(&mut socket, is_5300).unwrap(), 2);
            assert_eq!(forget(&mut socket, is_5300).unwrap(), 0);
            let table = table_use().unwrap();
            assert!(table.flows >= 1 && table.limit >= table.flows, "{table:?}");
            assert_eq!(table.failed, 0);
            assert_eq!(forget(&mut socket, |_| true).unwrap(), 1);
        });
    }
}
