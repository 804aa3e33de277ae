//! The elements of services: which the kernel has, and the messages that change them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use netlink_bindings::nftables::{OpGetsetelemDump, OpNewsetelemDo};
use netlink_packet_core::NLM_F_CREATE;
use nix::errno::Errno;

use super::super::batch::{Message, header, request};
use super::super::expressions::{VERDICT_GOTO, octets};
use super::super::groups::drops::packets_of_element;
use super::structure::{BalanceChain, KEEP};
use super::{Balance, Frontend, TABLE};
use crate::net::netlink::{NetlinkError, NetlinkSocket, Request};

/// How many elements one message carries: their list must be shorter than 64 KiB.
const MAX_ELEMENTS_PER_MESSAGE: usize = 400;
/// The bytes of protocol and port in a key.
const FIELDS_BYTES: usize = 8;

/// The sets, in the order in which a transaction changes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ElementSet {
    Backends4,
    Backends6,
    Services4,
    Services6,
    Refused4,
    Refused6,
}

impl ElementSet {
    const ALL: [Self; 6] = [
        Self::Backends4,
        Self::Backends6,
        Self::Services4,
        Self::Services6,
        Self::Refused4,
        Self::Refused6,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Backends4 => "backends4",
            Self::Backends6 => "backends6",
            Self::Services4 => "services4",
            Self::Services6 => "services6",
            Self::Refused4 => "refused4",
            Self::Refused6 => "refused6",
        }
    }

    fn of(frontend: &Frontend, v4: Self, v6: Self) -> Self {
        if frontend.address.is_ipv4() { v4 } else { v6 }
    }
}

/// A protocol number, port or other field of a concatenation.
fn field<const N: usize>(bytes: [u8; N]) -> [u8; 4] {
    let mut field = [0; 4];
    field[..N].copy_from_slice(&bytes);
    field
}

pub(super) fn frontend_key(address: IpAddr, protocol: u8, port: u16) -> Vec<u8> {
    let mut key = octets(address);
    key.extend(field([protocol]));
    key.extend(field(port.to_be_bytes()));
    key
}

impl Frontend {
    fn key(&self) -> Vec<u8> {
        frontend_key(self.address, self.protocol, self.port)
    }

    fn parse(key: &[u8]) -> Option<Self> {
        let (address, fields) = key.split_at_checked(key.len().checked_sub(FIELDS_BYTES)?)?;
        let [protocol, 0, 0, 0, high, low, 0, 0] = fields else {
            return None;
        };
        Some(Self {
            address: parse_address(address)?,
            protocol: *protocol,
            port: u16::from_be_bytes([*high, *low]),
        })
    }
}

fn parse_address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Some(octets.into());
    }
    Some(<[u8; 16]>::try_from(bytes).ok()?.into())
}

fn parse_target(bytes: &[u8]) -> Option<SocketAddr> {
    let (address, port) = bytes.split_at_checked(bytes.len().checked_sub(4)?)?;
    let [high, low, ..] = port else {
        return None;
    };
    let port = u16::from_be_bytes([*high, *low]);
    Some(SocketAddr::new(parse_address(address)?, port))
}

/// The elements of one service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Elements {
    /// The chain to which its packets go.
    chain: Option<String>,
    /// The backends, by their number.
    slots: BTreeMap<u32, SocketAddr>,
    is_refused: bool,
}

impl Elements {
    /// Those of a service, whose backends have the numbers of their places.
    pub(super) fn of(frontend: &Frontend, balance: &Balance) -> Self {
        let chain = chain(frontend, balance).map_or_else(|| KEEP.to_owned(), BalanceChain::name);
        Self {
            chain: Some(chain),
            slots: (0..).zip(balance.backends.iter().copied()).collect(),
            is_refused: balance.backends.is_empty(),
        }
    }

    /// The backends.
    pub(super) fn targets(self) -> Vec<SocketAddr> {
        self.slots.into_values().collect()
    }

    /// Gives the backends of `wanted` numbers, of which as few as possible are others than now: what the
    /// last ones had moves into the holes.
    pub(super) fn arrange(&self, wanted: &Balance) -> Balance {
        let mut left: BTreeSet<SocketAddr> = wanted.backends.iter().copied().collect();
        let kept: Vec<Option<SocketAddr>> = (0..)
            .zip(&wanted.backends)
            .map(|(slot, _)| {
                let present = self.slots.get(&slot)?;
                left.take(present)
            })
            .collect();
        let mut left = wanted
            .backends
            .iter()
            .filter(|backend| left.contains(backend));
        let backends = kept
            .into_iter()
            .filter_map(|present| present.or_else(|| left.next().copied()))
            .collect();
        Balance {
            backends,
            has_affinity: wanted.has_affinity,
        }
    }
}

/// The chain that chooses a backend, if there are any.
pub(super) fn chain(frontend: &Frontend, balance: &Balance) -> Option<BalanceChain> {
    let backends = u32::try_from(balance.backends.len()).ok()?;
    (backends > 0).then(|| BalanceChain {
        is_v4: frontend.address.is_ipv4(),
        // With one backend it is the same.
        has_affinity: balance.has_affinity && backends > 1,
        backends,
    })
}

/// An element as a message has it.
#[derive(Debug)]
struct RawElement {
    key: Vec<u8>,
    value: Value,
}

#[derive(Debug)]
enum Value {
    None,
    Chain(String),
    Target(SocketAddr),
}

/// Changes of elements, which happen in one transaction.
#[derive(Debug, Default)]
pub(super) struct ElementChanges {
    removed: BTreeMap<ElementSet, Vec<RawElement>>,
    added: BTreeMap<ElementSet, Vec<RawElement>>,
    count: usize,
}

impl ElementChanges {
    /// Adds the changes of a service.
    pub(super) fn add(&mut self, frontend: &Frontend, old: &Elements, new: &Elements) {
        let key = frontend.key();
        let set = ElementSet::of(frontend, ElementSet::Backends4, ElementSet::Backends6);
        let slot_key = |slot: u32| [key.as_slice(), &slot.to_ne_bytes()].concat();
        for (slot, target) in &old.slots {
            if new.slots.get(slot) != Some(target) {
                self.remove(set, slot_key(*slot));
            }
        }
        for (slot, target) in &new.slots {
            if old.slots.get(slot) != Some(target) {
                self.put(set, slot_key(*slot), Value::Target(*target));
            }
        }
        let set = ElementSet::of(frontend, ElementSet::Services4, ElementSet::Services6);
        if old.chain != new.chain {
            if old.chain.is_some() {
                self.remove(set, key.clone());
            }
            if let Some(chain) = &new.chain {
                self.put(set, key.clone(), Value::Chain(chain.clone()));
            }
        }
        let set = ElementSet::of(frontend, ElementSet::Refused4, ElementSet::Refused6);
        match (old.is_refused, new.is_refused) {
            (true, false) => self.remove(set, key),
            (false, true) => self.put(set, key, Value::None),
            _ => {}
        }
    }

    /// Removes an element that is none of a service.
    pub(super) fn remove(&mut self, set: ElementSet, key: Vec<u8>) {
        let value = Value::None;
        self.count += 1;
        self.removed
            .entry(set)
            .or_default()
            .push(RawElement { key, value });
    }

    fn put(&mut self, set: ElementSet, key: Vec<u8>, value: Value) {
        self.count += 1;
        self.added
            .entry(set)
            .or_default()
            .push(RawElement { key, value });
    }

    /// How many elements change.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// The messages. Elements that have another value are removed before they are added.
    pub(super) fn into_requests(self) -> Vec<Request> {
        let removed = self.removed.iter().map(|all| (Message::DelElement, all));
        let added = self.added.iter().map(|all| (Message::NewElement, all));
        removed
            .chain(added)
            .flat_map(|(kind, (set, elements))| {
                elements
                    .chunks(MAX_ELEMENTS_PER_MESSAGE)
                    .map(move |part| message(kind, *set, part))
            })
            .collect()
    }
}

fn message(kind: Message, set: ElementSet, elements: &[RawElement]) -> Request {
    let (verb, flags) = match kind {
        Message::NewElement => ("add", NLM_F_CREATE),
        _ => ("remove", 0),
    };
    let count = elements.len();
    let action = format!("{verb} {count} elements of {} of {TABLE}", set.name());
    request(kind, flags, action, |buffer| {
        let mut list = OpNewsetelemDo::encode_request(buffer, &header())
            .push_table_bytes(TABLE.as_bytes())
            .push_set_bytes(set.name().as_bytes())
            .nested_elements();
        for RawElement { key, value } in elements {
            let mut element = list.nested_elem().nested_key().push_value(key).end_nested();
            match value {
                Value::None => {}
                Value::Chain(chain) => {
                    element = element
                        .nested_data()
                        .nested_verdict()
                        .push_code(VERDICT_GOTO)
                        .push_chain_bytes(chain.as_bytes())
                        .end_nested()
                        .end_nested();
                }
                Value::Target(target) => {
                    let mut bytes = octets(target.ip());
                    bytes.extend(field(target.port().to_be_bytes()));
                    element = element.nested_data().push_value(&bytes).end_nested();
                }
            }
            list = element.end_nested();
        }
    })
}

/// The elements that the kernel has.
#[derive(Debug, Default)]
pub(super) struct FoundElements {
    pub(super) services: BTreeMap<Frontend, Elements>,
    /// Elements that are none of a service.
    pub(super) others: Vec<(ElementSet, Vec<u8>)>,
}

impl FoundElements {
    pub(super) fn read(socket: &mut NetlinkSocket) -> Result<Self, NetlinkError> {
        let mut found = Self::default();
        for set in ElementSet::ALL {
            dump(socket, set, |element| found.add(set, element))?;
        }
        Ok(found)
    }

    fn add(&mut self, set: ElementSet, element: &FoundElement<'_>) {
        if self.add_of_service(set, element).is_none() {
            self.others.push((set, element.key.to_vec()));
        }
    }

    fn add_of_service(&mut self, set: ElementSet, element: &FoundElement<'_>) -> Option<()> {
        let key = element.key;
        match set {
            ElementSet::Services4 | ElementSet::Services6 => {
                let service = self.services.entry(Frontend::parse(key)?).or_default();
                // No name of a chain is empty: whatever else it is, it is replaced.
                service.chain = Some(element.chain.clone().unwrap_or_default());
            }
            ElementSet::Backends4 | ElementSet::Backends6 => {
                let (frontend, slot) = key.split_last_chunk::<4>()?;
                let frontend = Frontend::parse(frontend)?;
                let target = parse_target(element.target?)?;
                let service = self.services.entry(frontend).or_default();
                service.slots.insert(u32::from_ne_bytes(*slot), target);
            }
            ElementSet::Refused4 | ElementSet::Refused6 => {
                let service = self.services.entry(Frontend::parse(key)?).or_default();
                service.is_refused = true;
            }
        }
        Some(())
    }
}

/// An element of a set of the kernel.
struct FoundElement<'a> {
    key: &'a [u8],
    chain: Option<String>,
    target: Option<&'a [u8]>,
    /// Its attributes.
    bytes: &'a [u8],
}

fn dump(
    socket: &mut NetlinkSocket,
    set: ElementSet,
    mut on_element: impl FnMut(&FoundElement<'_>),
) -> Result<(), NetlinkError> {
    let action = format!("list the elements of {}", set.name());
    let list = request(Message::GetElement, 0, action, |buffer| {
        OpGetsetelemDump::encode_request(buffer, &header())
            .push_table_bytes(TABLE.as_bytes())
            .push_set_bytes(set.name().as_bytes());
    });
    let result = socket.dump(&list, |bytes| {
        let (_, attributes) = OpNewsetelemDo::decode_request(bytes);
        let Ok(list) = attributes.get_elements() else {
            return;
        };
        for element in list.get_elem() {
            let Some(key) = element.get_key().ok().and_then(|key| key.get_value().ok()) else {
                continue;
            };
            let data = element.get_data().ok();
            let verdict = data.as_ref().and_then(|data| data.get_verdict().ok());
            let chain = verdict.and_then(|verdict| {
                let is_goto = verdict.get_code() == Ok(VERDICT_GOTO);
                let chain = verdict.get_chain().ok()?.to_string_lossy().into_owned();
                is_goto.then_some(chain)
            });
            on_element(&FoundElement {
                key,
                chain,
                target: data.and_then(|data| data.get_value().ok()),
                bytes: element.get_buf(),
            });
        }
    });
    match result {
        // There is no such set.
        Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(()),
        other => other,
    }
}

/// How many connections were opened to each service, or tried to, since its number of backends changed
/// last.
pub(super) fn connections(
    socket: &mut NetlinkSocket,
) -> Result<BTreeMap<Frontend, u64>, NetlinkError> {
    let mut connections = BTreeMap::new();
    for set in [ElementSet::Services4, ElementSet::Services6] {
        dump(socket, set, |element| {
            if let Some(frontend) = Frontend::parse(element.key)
                && let Some(packets) = packets_of_element(element.bytes)
            {
                connections.insert(frontend, packets);
            }
        })?;
    }
    Ok(connections)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backends(numbers: &[u8]) -> Vec<SocketAddr> {
        let backend = |number: &u8| SocketAddr::from(([10, 0, 0, *number], 80));
        numbers.iter().map(backend).collect()
    }

    fn balance(numbers: &[u8]) -> Balance {
        Balance {
            backends: backends(numbers),
            has_affinity: false,
        }
    }

    const FRONTEND: Frontend = Frontend {
        address: IpAddr::V4(std::net::Ipv4Addr::new(198, 18, 0, 1)),
        protocol: 6,
        port: 80,
    };

    #[test]
    fn backends_keep_their_numbers_and_the_last_ones_fill_holes() {
        for (present, wanted, arranged) in [
            (&[][..], &[1, 2, 3][..], &[1, 2, 3][..]),
            (&[1, 2, 3], &[1, 3], &[1, 3]),
            (&[1, 2, 3], &[2, 3], &[3, 2]),
            (&[3, 1, 2], &[1, 2, 3, 4], &[3, 1, 2, 4]),
            (&[1, 2, 3], &[4, 5], &[4, 5]),
            (&[1, 2, 3], &[], &[]),
            (&[1, 2, 3], &[9, 3, 2, 1, 8], &[1, 2, 3, 9, 8]),
        ] {
            let elements = Elements::of(&FRONTEND, &balance(present));
            let result = elements.arrange(&balance(wanted));
            assert_eq!(
                result.backends,
                backends(arranged),
                "{present:?} {wanted:?}"
            );
        }
    }

    #[test]
    fn changes_are_those_elements_that_differ() {
        let elements = |numbers: &[u8]| Elements::of(&FRONTEND, &balance(numbers));
        let count = |old: &Elements, new: &Elements| {
            let mut changes = ElementChanges::default();
            changes.add(&FRONTEND, old, new);
            changes.count()
        };
        let none = Elements::default();
        assert_eq!(count(&elements(&[1, 2]), &elements(&[1, 2])), 0);
        // A backend more: it, and the chain in place of another one.
        assert_eq!(count(&elements(&[1, 2]), &elements(&[1, 2, 3])), 3);
        assert_eq!(count(&none, &elements(&[1, 2])), 3);
        assert_eq!(count(&none, &elements(&[])), 2);
        assert_eq!(count(&elements(&[]), &none), 2);
        // Another backend in the same place.
        assert_eq!(count(&elements(&[1]), &elements(&[2])), 2);
    }

    #[test]
    fn keys_are_read_back_and_others_are_none() {
        for address in ["198.18.0.1", "fd4a::1"] {
            let frontend = Frontend {
                address: address.parse().unwrap(),
                ..FRONTEND
            };
            let mut key = frontend.key();
            assert_eq!(Frontend::parse(&key), Some(frontend));
            let last = key.len() - 1;
            key[last] = 1;
            assert_eq!(Frontend::parse(&key), None);
        }
        assert_eq!(Frontend::parse(&[]), None);
        assert_eq!(Frontend::parse(&[0; 9]), None);
    }
}
