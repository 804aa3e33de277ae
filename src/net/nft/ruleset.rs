//! The constant part of the table: its chains and rules.
//!
//! ```text
//! chain protect     filter, prerouting raw: drops packets between bridges and the host's 127.0.0.0/8
//! chain prerouting  nat, dstnat:  translates a local address and a port of @ports to the container's
//! chain output      nat, dstnat:  the same for packets of the host itself
//! chain postrouting nat, srcnat:  masquerades packets that leave a network, and packets to mapped
//!                                 ports that come from the same subnet or the host's loopback
//! ```

use netlink_bindings::nftables::{OpNewchainDo, OpNewruleDo, OpNewsetDo, OpNewtableDo};
use netlink_bindings::traits::Pusher;
use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_NONREC};

use super::TABLE;
use super::batch::{Message, header, request};
use super::element::{Set, comment};
use super::expressions::{Expressions, NFPROTO_IPV4, NFPROTO_IPV6, REG32_01, REG32_04};
use crate::net::netlink::Request;

/// A chain of the table.
#[derive(Debug)]
pub(super) struct Chain {
    pub(super) name: &'static str,
    pub(super) kind: &'static str,
    pub(super) hook: u32,
    pub(super) priority: i32,
    pub(super) rules: &'static [Rule],
}

/// A rule, recognised by its comment. If its expressions change, its comment must change, too, so
/// that the table of an older version is rebuilt.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) comment: &'static str,
    pub(super) expressions: fn(&mut Expressions),
}

pub(super) const CHAINS: [Chain; 4] = [
    Chain {
        name: "protect",
        kind: "filter",
        hook: 0,
        priority: -300,
        rules: &[
            Rule {
                comment: "containers do not reach the host's loopback",
                expressions: |rule| {
                    rule.family(NFPROTO_IPV4);
                    rule.interface_is_bridge(6);
                    rule.loopback(16);
                    rule.drop();
                },
            },
            Rule {
                comment: "containers do not claim to be the host's loopback",
                expressions: |rule| {
                    rule.family(NFPROTO_IPV4);
                    rule.interface_is_bridge(6);
                    rule.loopback(12);
                    rule.drop();
                },
            },
        ],
    },
    Chain {
        name: "prerouting",
        kind: "nat",
        hook: 0,
        priority: -100,
        rules: PORT_RULES,
    },
    Chain {
        name: "output",
        kind: "nat",
        hook: 3,
        priority: -100,
        rules: PORT_RULES,
    },
    Chain {
        name: "postrouting",
        kind: "nat",
        hook: 4,
        priority: 100,
        rules: &[
            Rule {
                comment: "IPv4 leaves a network with the host's address",
                expressions: |rule| {
                    rule.family(NFPROTO_IPV4);
                    rule.addresses_in(Set::Masquerade4);
                    rule.masquerade();
                },
            },
            Rule {
                comment: "IPv6 leaves a network with the host's address",
                expressions: |rule| {
                    rule.family(NFPROTO_IPV6);
                    rule.addresses_in(Set::Masquerade6);
                    rule.masquerade();
                },
            },
            Rule {
                comment: "replies of IPv4 containers of the same subnet to mapped ports pass the host",
                expressions: |rule| {
                    rule.family(NFPROTO_IPV4);
                    rule.translated();
                    rule.addresses_in(Set::Local4);
                    rule.masquerade();
                },
            },
            Rule {
                comment: "replies of IPv6 containers of the same subnet to mapped ports pass the host",
                expressions: |rule| {
                    rule.family(NFPROTO_IPV6);
                    rule.translated();
                    rule.addresses_in(Set::Local6);
                    rule.masquerade();
                },
            },
            Rule {
                comment: "replies of mapped ports to the host's IPv4 loopback pass the host",
                expressions: |rule| {
                    rule.family(NFPROTO_IPV4);
                    rule.translated();
                    rule.loopback(12);
                    rule.interface_is_bridge(7);
                    rule.masquerade();
                },
            },
        ],
    },
];

const PORT_RULES: &[Rule] = &[
    Rule {
        comment: "mapped ports to IPv4 containers",
        expressions: |rule| {
            rule.family(NFPROTO_IPV4);
            rule.is_for_local_address();
            rule.translate(NFPROTO_IPV4, Set::Ports4, REG32_01);
        },
    },
    Rule {
        // The kernel cannot route replies back to ::1. Without a translation, a connection to it
        // is refused at once, and a client of `localhost` tries 127.0.0.1 next.
        comment: "mapped ports to IPv6 containers, but for ::1",
        expressions: |rule| {
            rule.family(NFPROTO_IPV6);
            rule.not_to_loopback6();
            rule.is_for_local_address();
            rule.translate(NFPROTO_IPV6, Set::Ports6, REG32_04);
        },
    },
];

/// The changes that build the table or restore missing parts. Elements stay.
pub(super) fn build() -> Vec<Request> {
    let mut changes = vec![new_table(
        TABLE,
        "contrail-mesos: container networks; rebuilt if changed",
    )];
    changes.extend(
        Set::ALL
            .into_iter()
            .zip(1..)
            .map(|(set, id)| new_set(TABLE, set.name(), id, &SetDefinition::of(set))),
    );
    changes.extend(rules(TABLE, &CHAINS));
    changes
}

/// The change that creates a table.
pub(super) fn new_table(table: &str, description: &str) -> Request {
    request(
        Message::NewTable,
        NLM_F_CREATE,
        format!("create the table inet {table}"),
        |buffer| {
            OpNewtableDo::encode_request(buffer, &header())
                .push_name_bytes(table.as_bytes())
                .push_userdata(&comment(description));
        },
    )
}

/// The changes that give a table these chains and rules, in place of other rules of the chains.
pub(super) fn rules(table: &str, chains: &[Chain]) -> Vec<Request> {
    let mut changes: Vec<_> = chains.iter().map(|chain| new_chain(table, chain)).collect();
    changes.extend(chains.iter().map(|chain| flush_chain(table, chain)));
    for chain in chains {
        changes.extend(chain.rules.iter().map(|rule| new_rule(table, chain, rule)));
    }
    changes
}

/// The changes that remove the table. The kernel refuses them if it has an element.
pub(super) fn tear_down() -> Vec<Request> {
    let mut changes: Vec<_> = CHAINS
        .iter()
        .map(|chain| flush_chain(TABLE, chain))
        .collect();
    changes.extend(CHAINS.iter().map(|chain| {
        request(
            Message::DelChain,
            NLM_F_NONREC,
            format!("remove the chain {}", chain.name),
            |buffer| {
                OpNewchainDo::encode_request(buffer, &header())
                    .push_table_bytes(TABLE.as_bytes())
                    .push_name_bytes(chain.name.as_bytes());
            },
        )
    }));
    changes.extend(Set::ALL.into_iter().map(|set| {
        request(
            Message::DelSet,
            NLM_F_NONREC,
            format!("remove the set {}", set.name()),
            |buffer| {
                OpNewsetDo::encode_request(buffer, &header())
                    .push_table_bytes(TABLE.as_bytes())
                    .push_name_bytes(set.name().as_bytes());
            },
        )
    }));
    changes.push(delete_table(TABLE, NLM_F_NONREC));
    changes
}

/// The change that removes a table: with everything in it, or, by `NLM_F_NONREC`, only if it is
/// empty.
pub(super) fn delete_table(table: &str, flags: u16) -> Request {
    request(
        Message::DelTable,
        flags,
        format!("remove the table inet {table}"),
        |buffer| {
            OpNewtableDo::encode_request(buffer, &header()).push_name_bytes(table.as_bytes());
        },
    )
}

// The type numbers of `nft`.
const IPV4: u32 = 0x07;
const IPV6: u32 = 0x08;
const PROTOCOL: u32 = 0x0c;
const PORT: u32 = 0x0d;
const INTERFACE: u32 = 0x29;

/// The definition of a set.
pub(super) struct SetDefinition {
    flags: u32,
    /// The type numbers of `nft`, six bits for each field. The kernel does not use them.
    key_type: u32,
    key_length: u32,
    /// Type and length of a map's values.
    data: Option<(u32, u32)>,
    /// Lengths of the fields, if each is an interval.
    fields: &'static [u32],
}

impl SetDefinition {
    /// Names of interfaces.
    pub(super) const INTERFACES: Self = Self::values(INTERFACE, 16);
    /// Ports.
    pub(super) const PORTS: Self = Self::values(PORT, 2);
    /// IPv4 addresses.
    pub(super) const ADDRESSES4: Self = Self::values(IPV4, 4);
    /// IPv6 addresses.
    pub(super) const ADDRESSES6: Self = Self::values(IPV6, 16);

    const fn values(key_type: u32, key_length: u32) -> Self {
        Self {
            flags: 0,
            key_type,
            key_length,
            data: None,
            fields: &[],
        }
    }

    /// The definition of a set of the library's table.
    pub(super) fn of(set: Set) -> Self {
        const MAP: u32 = 8;
        const INTERVAL: u32 = 4;
        const CONCATENATION: u32 = 0x80;
        let pair = |first: u32, second: u32| (first << 6) | second;
        let ports = |address: u32, length: u32| Self {
            flags: MAP,
            key_type: pair(PROTOCOL, PORT),
            key_length: 8,
            data: Some((pair(address, PORT), length + 4)),
            fields: &[],
        };
        let addresses = |address: u32, fields: &'static [u32]| Self {
            flags: INTERVAL | CONCATENATION,
            key_type: pair(address, address),
            key_length: fields.iter().sum(),
            data: None,
            fields,
        };
        match set {
            Set::Ports4 => ports(IPV4, 4),
            Set::Ports6 => ports(IPV6, 16),
            Set::Bridges => Self::INTERFACES,
            Set::Masquerade4 | Set::Local4 => addresses(IPV4, &[4, 4]),
            Set::Masquerade6 | Set::Local6 => addresses(IPV6, &[16, 16]),
        }
    }
}

/// The change that creates a set. Its `id` is unique in the transaction.
pub(super) fn new_set(table: &str, name: &str, id: u32, definition: &SetDefinition) -> Request {
    request(
        Message::NewSet,
        NLM_F_CREATE,
        format!("create the set {name}"),
        |buffer| {
            let mut attributes = OpNewsetDo::encode_request(buffer, &header())
                .push_table_bytes(table.as_bytes())
                .push_name_bytes(name.as_bytes())
                .push_flags(definition.flags)
                .push_key_type(definition.key_type)
                .push_key_len(definition.key_length)
                .push_id(id);
            if let Some((kind, length)) = definition.data {
                attributes = attributes.push_data_type(kind).push_data_len(length);
            }
            if definition.key_type == INTERFACE {
                // NFTNL_UDATA_SET_KEYBYTEORDER: lets `nft` print the key as a string.
                let host_byte_order = [&[0, 4][..], &1_u32.to_ne_bytes()].concat();
                attributes = attributes.push_userdata(&host_byte_order);
            }
            if !definition.fields.is_empty() {
                let mut concatenation = attributes.nested_desc().nested_concat();
                for length in definition.fields {
                    concatenation = concatenation.nested_elem().push_len(*length).end_nested();
                }
            }
        },
    )
}

fn new_chain(table: &str, chain: &Chain) -> Request {
    const ACCEPT: u32 = 1;
    request(
        Message::NewChain,
        NLM_F_CREATE,
        format!("create the chain {}", chain.name),
        |buffer| {
            OpNewchainDo::encode_request(buffer, &header())
                .push_table_bytes(table.as_bytes())
                .push_name_bytes(chain.name.as_bytes())
                .nested_hook()
                .push_num(chain.hook)
                .push_priority(chain.priority)
                .end_nested()
                .push_policy(ACCEPT)
                .push_type_bytes(chain.kind.as_bytes());
        },
    )
}

fn flush_chain(table: &str, chain: &Chain) -> Request {
    request(
        Message::DelRule,
        0,
        format!("empty the chain {}", chain.name),
        |buffer| {
            OpNewruleDo::encode_request(buffer, &header())
                .push_table_bytes(table.as_bytes())
                .push_chain_bytes(chain.name.as_bytes());
        },
    )
}

fn new_rule(table: &str, chain: &Chain, rule: &Rule) -> Request {
    let mut expressions = Expressions::default();
    (rule.expressions)(&mut expressions);
    request(
        Message::NewRule,
        NLM_F_CREATE | NLM_F_APPEND,
        format!(
            "add the rule {:?} to the chain {}",
            rule.comment, chain.name
        ),
        |buffer| {
            let mut list = OpNewruleDo::encode_request(buffer, &header())
                .push_table_bytes(table.as_bytes())
                .push_chain_bytes(chain.name.as_bytes())
                .nested_expressions();
            list.as_vec_mut().extend(expressions.bytes());
            list.end_nested().push_userdata(&comment(rule.comment));
        },
    )
}
