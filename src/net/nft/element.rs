//! The elements of the table's sets and maps, which are all that an attach changes.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use netlink_bindings::nftables::{OpNewsetelemDo, PushDataAttrs, PushSetelemListElemAttrs};
use netlink_bindings::traits::Pusher;
use netlink_bindings::utils::{finalize_nested_header, push_nested_header};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NlasIterator};

use super::TABLE;
use super::batch::{Message, header, request};
use crate::net::netlink::Request;

const NFTA_SET_ELEM_KEY_END: u16 = 10;

/// The sets and maps of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Set {
    /// Map of protocol and port of the host to IPv4 address and port of a container.
    Ports4,
    /// Map of protocol and port of the host to IPv6 address and port of a container.
    Ports6,
    /// Names of the bridges.
    Bridges,
    /// IPv4 source and destination of packets that get the host's address.
    Masquerade4,
    /// IPv6 source and destination of packets that get the host's address.
    Masquerade6,
    /// IPv4 source and destination of packets to mapped ports that need the host's address, because
    /// the container would not answer by the host: of neighbours in its subnet, and from where its
    /// routes do not lead.
    Local4,
    /// The same of IPv6.
    Local6,
}

impl Set {
    /// All sets.
    pub const ALL: [Self; 7] = [
        Self::Ports4,
        Self::Ports6,
        Self::Bridges,
        Self::Masquerade4,
        Self::Masquerade6,
        Self::Local4,
        Self::Local6,
    ];

    /// The set's name in the table.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ports4 => "ports4",
            Self::Ports6 => "ports6",
            Self::Bridges => "bridges",
            Self::Masquerade4 => "masquerade4",
            Self::Masquerade6 => "masquerade6",
            Self::Local4 => "local4",
            Self::Local6 => "local6",
        }
    }

    /// Whether each element belongs to one container, so that a second one with the same key must
    /// be refused.
    #[must_use]
    pub fn is_exclusive(self) -> bool {
        matches!(self, Self::Ports4 | Self::Ports6)
    }
}

/// An element of one of the sets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Element {
    /// Its set.
    pub set: Set,
    /// Its key, in the kernel's format.
    pub key: Vec<u8>,
    /// The inclusive end of its interval.
    pub key_end: Option<Vec<u8>>,
    /// The value, in a map.
    pub data: Option<Vec<u8>>,
    /// Its owner.
    pub comment: String,
}

/// A protocol number or port, padded to a field of a concatenation.
fn field<const N: usize>(bytes: [u8; N]) -> [u8; 4] {
    let mut field = [0; 4];
    field[..N].copy_from_slice(&bytes);
    field
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

impl Element {
    /// A port of the host that is mapped to `port` of `target`.
    #[must_use]
    pub fn port(protocol: u8, host_port: u16, target: IpAddr, port: u16, comment: &str) -> Self {
        let mut data = octets(target);
        data.extend(field(port.to_be_bytes()));
        Self {
            set: if target.is_ipv4() {
                Set::Ports4
            } else {
                Set::Ports6
            },
            key: [field([protocol]), field(host_port.to_be_bytes())].concat(),
            key_end: None,
            data: Some(data),
            comment: comment.to_owned(),
        }
    }

    /// The protocol, the port of the host, and where packets to it go, of a mapped port.
    #[must_use]
    pub fn mapped_port(&self) -> Option<(u8, u16, SocketAddr)> {
        if !self.set.is_exclusive() {
            return None;
        }
        let [protocol, _, _, _, high, low, ..] = *self.key.as_slice() else {
            return None;
        };
        let data = self.data.as_ref()?;
        let (target, port) = data.split_at_checked(data.len().checked_sub(4)?)?;
        let target = match target.len() {
            4 => IpAddr::from(*target.first_chunk::<4>()?),
            _ => IpAddr::from(*target.first_chunk::<16>()?),
        };
        let port = u16::from_be_bytes(*port.first_chunk::<2>()?);
        let host_port = u16::from_be_bytes([high, low]);
        Some((protocol, host_port, SocketAddr::new(target, port)))
    }

    /// A packet from `source` to `destination`, to be looked for among the masqueraded ones with
    /// [`Element::overlaps`].
    #[must_use]
    pub fn masqueraded_packet(source: IpAddr, destination: IpAddr) -> Self {
        let set = if destination.is_ipv4() {
            Set::Masquerade4
        } else {
            Set::Masquerade6
        };
        Self::pair(set, (source, source), (destination, destination), "")
    }

    /// A bridge of containers.
    #[must_use]
    pub fn bridge(name: &str, comment: &str) -> Self {
        let mut key = name.as_bytes().to_vec();
        key.resize(16, 0);
        Self {
            set: Set::Bridges,
            key,
            key_end: None,
            data: None,
            comment: comment.to_owned(),
        }
    }

    /// Packets from `sources`, which are inclusive, to `subnet`.
    #[must_use]
    pub fn local(sources: (IpAddr, IpAddr), subnet: IpNet, comment: &str) -> Self {
        let set = match subnet {
            IpNet::V4(_) => Set::Local4,
            IpNet::V6(_) => Set::Local6,
        };
        Self::pair(set, sources, (subnet.network(), last(subnet)), comment)
    }

    /// Packets from `subnet` to addresses outside all of `subnets`, except multicast: an interval
    /// for each gap between them.
    #[must_use]
    pub fn masquerade(subnet: IpNet, subnets: &[IpNet], comment: &str) -> Vec<Self> {
        let (set, end, is_v4) = match subnet {
            IpNet::V4(_) => {
                let multicast = u32::from(Ipv4Addr::new(224, 0, 0, 0));
                (Set::Masquerade4, u128::from(multicast) - 1, true)
            }
            IpNet::V6(_) => {
                let multicast = u128::from(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0));
                (Set::Masquerade6, multicast - 1, false)
            }
        };
        let mut ranges: Vec<(u128, u128)> = subnets
            .iter()
            .filter(|other| other.addr().is_ipv4() == is_v4)
            .map(|other| (number(other.network()), number(last(*other))))
            .collect();
        ranges.sort_unstable();
        let mut gaps = Vec::new();
        let mut next = Some(0);
        for (first, last) in ranges {
            if let Some(start) = next.filter(|start| *start < first) {
                gaps.push((start, first - 1));
            }
            next = next.and_then(|start| Some(start.max(last.checked_add(1)?)));
        }
        gaps.extend(next.map(|start| (start, end)));
        gaps.into_iter()
            .filter(|(from, _)| *from <= end)
            .map(|(from, to)| {
                let range = (address(from, is_v4), address(to.min(end), is_v4));
                Self::pair(set, (subnet.network(), last(subnet)), range, comment)
            })
            .collect()
    }

    /// Whether an interval of this element overlaps with the other's in every field, so that the
    /// kernel takes only one of them.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let half = self.key.len() / 2;
        let end = |element: &Self| {
            element
                .key_end
                .clone()
                .unwrap_or_else(|| element.key.clone())
        };
        let (own_end, other_end) = (end(self), end(other));
        self.set == other.set
            && self.key.len() == other.key.len()
            && [0..half, half..self.key.len()].into_iter().all(|field| {
                let of = |bytes: &[u8]| bytes.get(field.clone()).unwrap_or_default().to_vec();
                of(&self.key) <= of(&other_end) && of(&other.key) <= of(&own_end)
            })
    }

    /// Whether both masquerade packets from the same addresses.
    #[must_use]
    pub fn shares_sources(&self, other: &Self) -> bool {
        let is_masquerade = matches!(self.set, Set::Masquerade4 | Set::Masquerade6);
        match (self.subnet(), other.subnet()) {
            (Some(subnet), Some(other_subnet)) if is_masquerade && self.set == other.set => {
                subnet.contains(&other_subnet) || other_subnet.contains(&subnet)
            }
            _ => false,
        }
    }

    /// Whether this element, which is in the table, does what `other` does: it has the same
    /// key and value, or its subnet has the other's in it.
    pub(super) fn serves(&self, other: &Self) -> bool {
        match (self.subnet(), other.subnet()) {
            (Some(subnet), Some(other_subnet)) => {
                self.set == other.set && subnet.contains(&other_subnet)
            }
            _ => self.set == other.set && self.key == other.key && self.data == other.data,
        }
    }

    /// The subnet of containers that the element is about, in sets of subnets.
    #[must_use]
    pub fn subnet(&self) -> Option<IpNet> {
        let end = self.key_end.as_ref()?;
        let half = self.key.len() / 2;
        let field = match self.set {
            Set::Masquerade4 | Set::Masquerade6 => 0..half,
            Set::Local4 | Set::Local6 => half..self.key.len(),
            Set::Ports4 | Set::Ports6 | Set::Bridges => return None,
        };
        let number = |bytes: &[u8]| {
            let mut padded = [0; 16];
            padded
                .get_mut(16 - half..)?
                .copy_from_slice(bytes.get(field.clone())?);
            Some(u128::from_be_bytes(padded))
        };
        let (first, last) = (number(&self.key)?, number(end)?);
        let host_bits = u8::try_from((first ^ last).count_ones()).ok()?;
        let bits = if half == 4 { 32_u8 } else { 128 };
        IpNet::new(address(first, half == 4), bits.checked_sub(host_bits)?).ok()
    }

    fn pair(
        set: Set,
        source: (IpAddr, IpAddr),
        destination: (IpAddr, IpAddr),
        comment: &str,
    ) -> Self {
        Self {
            set,
            key: [octets(source.0), octets(destination.0)].concat(),
            key_end: Some([octets(source.1), octets(destination.1)].concat()),
            data: None,
            comment: comment.to_owned(),
        }
    }

    /// The request to read the element.
    pub(super) fn get(&self) -> Request {
        message(
            Message::GetElement,
            0,
            self.set,
            std::slice::from_ref(&self),
            "look up",
        )
    }

    pub(super) fn encode<P: Pusher>(
        &self,
        list: PushSetelemListElemAttrs<P>,
        with_data: bool,
    ) -> PushSetelemListElemAttrs<P> {
        let mut element = list
            .nested_elem()
            .nested_key()
            .push_value(&self.key)
            .end_nested();
        if let Some(end) = &self.key_end {
            // The specification from which the bindings are generated has this attribute off by
            // one.
            let buffer = element.as_vec_mut();
            let start = push_nested_header(buffer, NFTA_SET_ELEM_KEY_END);
            drop(PushDataAttrs::new(&mut *buffer).push_value(end));
            finalize_nested_header(buffer, start);
        }
        if with_data {
            if let Some(data) = &self.data {
                element = element.nested_data().push_value(data).end_nested();
            }
            element = element.push_userdata(&comment(&self.comment));
        }
        element.end_nested()
    }
}

/// How many elements one message carries, at most: their list must be shorter than 64 KiB.
pub(super) const MAX_ELEMENTS_PER_MESSAGE: usize = 64;

/// The requests to add `elements`, each with its elements: a few requests for many elements,
/// because each of them may be refused, and the answers must fit into the receive buffer.
pub(super) fn additions<'a>(
    elements: impl IntoIterator<Item = &'a Element>,
) -> Vec<(Request, Vec<&'a Element>)> {
    messages(elements, |set, elements| {
        let exclusive = if set.is_exclusive() { NLM_F_EXCL } else { 0 };
        let flags = NLM_F_CREATE | exclusive;
        message(Message::NewElement, flags, set, elements, "add")
    })
}

/// The requests to remove `elements`, as in [`additions`].
pub(super) fn removals<'a>(
    elements: impl IntoIterator<Item = &'a Element>,
) -> Vec<(Request, Vec<&'a Element>)> {
    messages(elements, |set, elements| {
        message(Message::DelElement, 0, set, elements, "remove")
    })
}

fn messages<'a>(
    elements: impl IntoIterator<Item = &'a Element>,
    message: impl Fn(Set, &[&'a Element]) -> Request,
) -> Vec<(Request, Vec<&'a Element>)> {
    let mut by_set: BTreeMap<Set, Vec<&Element>> = BTreeMap::new();
    for element in elements {
        by_set.entry(element.set).or_default().push(element);
    }
    by_set
        .into_iter()
        .flat_map(|(set, elements)| {
            let chunks = elements.chunks(MAX_ELEMENTS_PER_MESSAGE);
            chunks
                .map(|chunk| (message(set, chunk), chunk.to_vec()))
                .collect::<Vec<_>>()
        })
        .collect()
}

/// A request about `elements` of one set.
fn message(kind: Message, flags: u16, set: Set, elements: &[&Element], verb: &str) -> Request {
    let action = match elements {
        [element] => format!("{verb} the {element}"),
        _ => format!("{verb} {} elements of {}", elements.len(), set.name()),
    };
    request(kind, flags, action, |buffer| {
        let mut list = OpNewsetelemDo::encode_request(buffer, &header())
            .push_table_bytes(TABLE.as_bytes())
            .push_set_bytes(set.name().as_bytes())
            .nested_elements();
        for element in elements {
            list = element.encode(list, matches!(kind, Message::NewElement));
        }
    })
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

fn address(number: u128, is_v4: bool) -> IpAddr {
    if is_v4 {
        Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX)).into()
    } else {
        Ipv6Addr::from(number).into()
    }
}

fn last(net: IpNet) -> IpAddr {
    match net {
        IpNet::V4(net) => net.broadcast().into(),
        IpNet::V6(net) => net.broadcast().into(),
    }
}

/// Encodes a comment in the format of `nft`.
pub(super) fn comment(comment: &str) -> Vec<u8> {
    let comment: String = comment.chars().filter(char::is_ascii).take(127).collect();
    let mut bytes = vec![0, u8::try_from(comment.len() + 1).unwrap_or(u8::MAX)];
    bytes.extend(comment.as_bytes());
    bytes.push(0);
    bytes
}

/// Finds the end of an element's interval among its attributes.
pub(super) fn read_key_end(attributes: &[u8]) -> Option<Vec<u8>> {
    let end = NlasIterator::new(attributes)
        .flatten()
        .find(|attribute| attribute.kind() == NFTA_SET_ELEM_KEY_END)?;
    let value = NlasIterator::new(end.value()).flatten().next()?;
    Some(value.value().to_vec())
}

/// Decodes a comment.
pub(super) fn read_comment(bytes: &[u8]) -> Option<String> {
    let (header, rest) = bytes.split_first_chunk::<2>()?;
    let comment = rest.get(..usize::from(header[1]).checked_sub(1)?)?;
    (header[0] == 0).then(|| String::from_utf8_lossy(comment).into_owned())
}

impl fmt::Display for Element {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ip = |bytes: &[u8]| -> String {
            if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
                Ipv4Addr::from(octets).to_string()
            } else if let Ok(octets) = <[u8; 16]>::try_from(bytes) {
                Ipv6Addr::from(octets).to_string()
            } else {
                format!("{bytes:?}")
            }
        };
        let port = |bytes: &[u8]| match bytes {
            [high, low, ..] => u16::from_be_bytes([*high, *low]),
            _ => 0,
        };
        write!(formatter, "element ")?;
        match self.set {
            Set::Ports4 | Set::Ports6 => {
                let (protocol, host) = self.key.split_at(self.key.len().min(4));
                let protocol = match protocol.first() {
                    Some(6) => "tcp",
                    Some(17) => "udp",
                    Some(132) => "sctp",
                    _ => "protocol",
                };
                write!(formatter, "{protocol} {}", port(host))?;
                if let Some((address, to)) = self
                    .data
                    .as_ref()
                    .and_then(|data| data.split_at_checked(data.len().checked_sub(4)?))
                {
                    write!(formatter, " : {} . {}", ip(address), port(to))?;
                }
            }
            Set::Bridges => {
                let name = String::from_utf8_lossy(&self.key);
                write!(formatter, "{:?}", name.trim_end_matches('\0'))?;
            }
            Set::Masquerade4 | Set::Masquerade6 | Set::Local4 | Set::Local6 => {
                let half = self.key.len() / 2;
                let end = self.key_end.as_ref().unwrap_or(&self.key);
                let interval = |range: std::ops::Range<usize>| {
                    let at = |key: &[u8]| ip(key.get(range.clone()).unwrap_or_default());
                    format!("{}-{}", at(&self.key), at(end))
                };
                write!(
                    formatter,
                    "{} . {}",
                    interval(0..half),
                    interval(half..self.key.len())
                )?;
            }
        }
        write!(formatter, " of {}", self.set.name())
    }
}
