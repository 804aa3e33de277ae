//! The nftables table `inet contrail_mesos_overlay`: which hosts may send VXLAN packets to this one.
//! Without it, any host of the underlay could send packets into the overlays.
//!
//! ```text
//! chain input  filter, input: drops packets to a port of @ports that come in by another interface
//!              than @uplinks, or not from @sources4 or @sources6
//! ```
//! The rules are constant: a new host changes only elements. They are added after the elements, so
//! that building the table drops no packet of a known host.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_bindings::nftables::{OpGetsetelemDump, OpNewsetelemDo};
use netlink_packet_core::NLM_F_CREATE;
use nix::errno::Errno;

use super::MAX_ELEMENTS_AT_ONCE;
use super::batch::{self, Message, header, message_type, request};
use super::element::MAX_ELEMENTS_PER_MESSAGE;
use super::expressions::{NFPROTO_IPV4, NFPROTO_IPV6};
use super::read::{has_rules, message_about};
use super::ruleset::{self, Chain, Rule, SetDefinition};
use crate::net::netlink::{NetlinkError, NetlinkSocket, Request};

/// The table's name; its family is `inet`.
pub const TABLE: &str = "contrail_mesos_overlay";

const PORTS: &str = "ports";
const UPLINKS: &str = "uplinks";
const SOURCES4: &str = "sources4";
const SOURCES6: &str = "sources6";

const CHAINS: [Chain; 1] = [Chain {
    name: "input",
    kind: "filter",
    hook: 1,
    priority: -150,
    rules: &[
        Rule {
            comment: "VXLAN packets come in by the uplink",
            expressions: |rule| {
                rule.udp_port_in(PORTS);
                rule.input_interface_not_in(UPLINKS);
                rule.count_and_drop();
            },
        },
        Rule {
            comment: "VXLAN packets come from known hosts, IPv4",
            expressions: |rule| {
                rule.udp_port_in(PORTS);
                rule.source_not_in(NFPROTO_IPV4, SOURCES4);
                rule.count_and_drop();
            },
        },
        Rule {
            comment: "VXLAN packets come from known hosts, IPv6",
            expressions: |rule| {
                rule.udp_port_in(PORTS);
                rule.source_not_in(NFPROTO_IPV6, SOURCES6);
                rule.count_and_drop();
            },
        },
    ],
}];

/// An element of one of the table's sets.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// A UDP port that VXLAN packets are sent to.
    Port(u16),
    /// The name of an interface by which they come in.
    Uplink(String),
    /// The address of a host that sends them.
    Host(IpAddr),
}

impl fmt::Display for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(port) => write!(formatter, "the port {port}"),
            Self::Uplink(name) => write!(formatter, "the uplink {name}"),
            Self::Host(address) => write!(formatter, "the host {address}"),
        }
    }
}

impl Source {
    fn set(&self) -> &'static str {
        match self {
            Self::Port(_) => PORTS,
            Self::Uplink(_) => UPLINKS,
            Self::Host(IpAddr::V4(_)) => SOURCES4,
            Self::Host(IpAddr::V6(_)) => SOURCES6,
        }
    }

    fn key(&self) -> Vec<u8> {
        match self {
            Self::Port(port) => port.to_be_bytes().to_vec(),
            Self::Uplink(name) => {
                let mut key = name.as_bytes().to_vec();
                key.resize(16, 0);
                key
            }
            Self::Host(IpAddr::V4(address)) => address.octets().to_vec(),
            Self::Host(IpAddr::V6(address)) => address.octets().to_vec(),
        }
    }

    fn parse(set: &str, key: &[u8]) -> Option<Self> {
        match set {
            PORTS => Some(Self::Port(u16::from_be_bytes(key.try_into().ok()?))),
            UPLINKS => {
                let name = String::from_utf8_lossy(key);
                Some(Self::Uplink(name.trim_end_matches('\0').to_owned()))
            }
            SOURCES4 => {
                let octets = <[u8; 4]>::try_from(key).ok()?;
                Some(Self::Host(Ipv4Addr::from(octets).into()))
            }
            _ => {
                let octets = <[u8; 16]>::try_from(key).ok()?;
                Some(Self::Host(Ipv6Addr::from(octets).into()))
            }
        }
    }
}

/// How the table differs from what it must be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceDifference {
    /// Whether it lacks rules, or has others.
    pub lacks_rules: bool,
    /// The elements that it lacks.
    pub missing: Vec<Source>,
    /// The elements that it must not have.
    pub surplus: Vec<Source>,
}

/// The table, in the network namespace where this was opened.
#[derive(Debug)]
pub struct SourceTable {
    socket: NetlinkSocket,
}

impl SourceTable {
    /// Opens the table of the calling thread's network namespace. Changes nothing.
    pub fn open() -> Result<Self, NetlinkError> {
        let socket = NetlinkSocket::netfilter()?;
        Ok(Self { socket })
    }

    /// The port of the socket that changes the table.
    #[must_use]
    pub fn port(&self) -> u32 {
        self.socket.port()
    }

    /// How many requests were sent. Wraps.
    #[must_use]
    pub fn sent(&self) -> u32 {
        self.socket.sent()
    }

    /// Compares the table with the elements that it must have.
    pub fn compare(
        &mut self,
        desired: &BTreeSet<Source>,
    ) -> Result<SourceDifference, NetlinkError> {
        let lacks_rules = !has_rules(&mut self.socket, TABLE, &CHAINS)?;
        let mut present = BTreeSet::new();
        for set in [PORTS, UPLINKS, SOURCES4, SOURCES6] {
            present.extend(self.elements(set)?);
        }
        Ok(SourceDifference {
            lacks_rules,
            missing: desired.difference(&present).cloned().collect(),
            surplus: present.difference(desired).cloned().collect(),
        })
    }

    fn elements(&mut self, set: &str) -> Result<Vec<Source>, NetlinkError> {
        let action = format!("list the elements of {set}");
        let list = request(Message::GetElement, 0, action, |buffer| {
            OpGetsetelemDump::encode_request(buffer, &header())
                .push_table_bytes(TABLE.as_bytes())
                .push_set_bytes(set.as_bytes());
        });
        let mut elements = Vec::new();
        let result = self.socket.dump(&list, |bytes| {
            let (_, attributes) = OpNewsetelemDo::decode_request(bytes);
            let Ok(list) = attributes.get_elements() else {
                return;
            };
            elements.extend(list.get_elem().filter_map(|element| {
                let key = element.get_key().ok()?.get_value().ok()?;
                Source::parse(set, key)
            }));
        });
        match result {
            Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(Vec::new()),
            other => other.and(Ok(elements)),
        }
    }

    /// Adds what is missing: elements, then rules.
    pub fn add(&mut self, difference: &SourceDifference) -> Result<(), NetlinkError> {
        let mut changes = Vec::new();
        if difference.lacks_rules {
            changes.push(ruleset::new_table(
                TABLE,
                "contrail-mesos-node: who may send VXLAN packets; rebuilt if changed",
            ));
            let sets = [
                (PORTS, SetDefinition::PORTS),
                (UPLINKS, SetDefinition::INTERFACES),
                (SOURCES4, SetDefinition::ADDRESSES4),
                (SOURCES6, SetDefinition::ADDRESSES6),
            ];
            let sets = sets.iter().zip(1..);
            changes.extend(
                sets.map(|((name, definition), id)| ruleset::new_set(TABLE, name, id, definition)),
            );
        }
        for part in difference.missing.chunks(MAX_ELEMENTS_AT_ONCE) {
            changes.extend(messages(Message::NewElement, NLM_F_CREATE, part));
            self.commit(std::mem::take(&mut changes))?;
        }
        if difference.lacks_rules {
            changes.extend(ruleset::rules(TABLE, &CHAINS));
        }
        self.commit(changes)
    }

    /// Removes the elements that the table must not have.
    pub fn remove_surplus(&mut self, difference: &SourceDifference) -> Result<(), NetlinkError> {
        for part in difference.surplus.chunks(MAX_ELEMENTS_AT_ONCE) {
            self.commit(messages(Message::DelElement, 0, part))?;
        }
        Ok(())
    }

    /// Removes the table with all of its elements. Succeeds if there is none.
    pub fn remove(&mut self) -> Result<(), NetlinkError> {
        match self.commit(vec![ruleset::delete_table(TABLE, 0)]) {
            Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(()),
            other => other,
        }
    }

    fn commit(&mut self, changes: Vec<Request>) -> Result<(), NetlinkError> {
        let subject = format!("the table inet {TABLE}");
        batch::commit_if_any(&mut self.socket, changes, &subject)
    }
}

/// The types of messages about a new generation of all tables, and about elements that were added or
/// removed.
pub(in crate::net) const ELEMENT_MESSAGES: [u16; 3] = [
    message_type(Message::NewGeneration),
    message_type(Message::NewElement),
    message_type(Message::DelElement),
];

/// Whether a message of the group `NFNLGRP_NFTABLES` is about the table.
pub(in crate::net) fn is_change(kind: u16, payload: &[u8]) -> bool {
    message_about(TABLE, kind, payload).is_some()
}

fn messages(kind: Message, flags: u16, elements: &[Source]) -> Vec<Request> {
    let verb = match kind {
        Message::NewElement => "add",
        _ => "remove",
    };
    let of_one_set = elements.chunk_by(|one, other| one.set() == other.set());
    of_one_set
        .flat_map(|elements| elements.chunks(MAX_ELEMENTS_PER_MESSAGE))
        .map(|elements| {
            let set = elements.first().map_or(PORTS, Source::set);
            let action = format!("{verb} {} elements of {set}", elements.len());
            request(kind, flags, action, |buffer| {
                let mut list = OpNewsetelemDo::encode_request(buffer, &header())
                    .push_table_bytes(TABLE.as_bytes())
                    .push_set_bytes(set.as_bytes())
                    .nested_elements();
                for element in elements {
                    list = list
                        .nested_elem()
                        .nested_key()
                        .push_value(&element.key())
                        .end_nested()
                        .end_nested();
                }
            })
        })
        .collect()
}

#[cfg(test)]
mod root_tests {
    use super::*;
    use crate::net::testing::{isolated, nft_ruleset, run};

    fn desired(hosts: u32) -> BTreeSet<Source> {
        let v4 = (0..hosts).map(|host| Ipv4Addr::from(0x0a00_0000 + host).into());
        let v6 = (0..hosts).map(|host| Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(host)));
        v4.chain(v6.map(IpAddr::V6))
            .map(Source::Host)
            .chain([Source::Port(4789), Source::Uplink("eth0".to_owned())])
            .collect()
    }

    #[test]
    fn table_is_built_changed_by_elements_repaired_and_removed() {
        isolated(|| {
            let mut table = SourceTable::open().unwrap();
            let apply = |table: &mut SourceTable, desired: &BTreeSet<Source>| {
                let difference = table.compare(desired).unwrap();
                table.add(&difference).unwrap();
                table.remove_surplus(&difference).unwrap();
                assert_eq!(table.compare(desired).unwrap(), SourceDifference::default());
                difference
            };
            let all = desired(1000);
            assert_eq!(apply(&mut table, &all).missing.len(), 2002);
            let rules = nft_ruleset();
            for part in [
                "udp dport @ports iifname != @uplinks counter packets 0 bytes 0 drop",
                "udp dport @ports ip saddr != @sources4 counter packets 0 bytes 0 drop",
                "udp dport @ports ip6 saddr != @sources6 counter packets 0 bytes 0 drop",
                "type filter hook input priority",
                "10.0.3.231",
                "\"eth0\"",
                "4789",
            ] {
                assert!(rules.contains(part), "{part}: {rules}");
            }
            let mut fewer = desired(1);
            fewer.insert(Source::Port(8472));
            let difference = apply(&mut table, &fewer);
            assert!(!difference.lacks_rules);
            assert_eq!(difference.missing, [Source::Port(8472)]);
            assert_eq!(difference.surplus.len(), 2 * 999);
            run("nft", "flush chain inet contrail_mesos_overlay input");
            let difference = apply(&mut table, &fewer);
            assert!(difference.lacks_rules && difference.missing.is_empty());
            run("nft", "flush ruleset");
            apply(&mut table, &fewer);
            run("nft", "add table inet other");
            table.remove().unwrap();
            table.remove().unwrap();
            assert!(table.compare(&fewer).unwrap().lacks_rules);
            assert_eq!(nft_ruleset().trim(), "table inet other {\n}");
        });
    }
}
