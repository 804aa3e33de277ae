//! The fixed part of the table: chains and rules that never change, whatever containers do.
//!
//! ```text
//! chain protect     filter, prerouting raw: bridges reach no 127.0.0.0/8 of the host, nor claim it
//! chain prerouting  nat, dstnat:  a local address and a port of @ports → the container
//! chain output      nat, dstnat:  the same for what the host itself sends
//! chain postrouting nat, srcnat:  what leaves a network, and what comes back into its own subnet
//!                                 or from the host's loopback by a mapped port, is masqueraded
//! ```

use netlink_bindings::nftables::{
    OpNewchainDo, OpNewruleDo, OpNewsetDo, OpNewtableDo, PushExprAttrs, PushExprListAttrs,
};
use netlink_bindings::traits::Pusher;
use netlink_bindings::utils::push_header;
use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_NONREC};

use super::super::netlink::Request;
use super::TABLE;
use super::batch::{Message, header, request};
use super::element::{Set, comment};

const NFPROTO_IPV4: u8 = 2;
const NFPROTO_IPV6: u8 = 10;
/// The first of the 32-bit registers; an address in it starts a concatenation.
const REG32_00: u32 = 8;
const REG32_01: u32 = 9;
const REG32_04: u32 = 12;
const REG_1: u32 = 1;
const REG_2: u32 = 2;
const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;

/// A chain of the table.
#[derive(Debug)]
pub(super) struct Chain {
    pub(super) name: &'static str,
    kind: &'static str,
    hook: u32,
    priority: i32,
    pub(super) rules: &'static [Rule],
}

/// A rule: its comment, by which it is recognised, and what it does. A rule whose meaning changes
/// must change its comment, so that an older version's table is rebuilt.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) comment: &'static str,
    expressions: fn(&mut Expressions),
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
                comment: "answers of IPv4 neighbours by a mapped port come back by the host",
                expressions: |rule| {
                    rule.family(NFPROTO_IPV4);
                    rule.translated();
                    rule.addresses_in(Set::Local4);
                    rule.masquerade();
                },
            },
            Rule {
                comment: "answers of IPv6 neighbours by a mapped port come back by the host",
                expressions: |rule| {
                    rule.family(NFPROTO_IPV6);
                    rule.translated();
                    rule.addresses_in(Set::Local6);
                    rule.masquerade();
                },
            },
            Rule {
                comment: "answers to the host's IPv4 loopback by a mapped port",
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
            rule.to_local_address();
            rule.to_container(NFPROTO_IPV4, Set::Ports4, REG32_01);
        },
    },
    Rule {
        // The kernel cannot lead answers back to ::1. Left alone, a connection to it is refused
        // at once, and whoever asked for `localhost` goes on to 127.0.0.1.
        comment: "mapped ports to IPv6 containers, but for ::1",
        expressions: |rule| {
            rule.family(NFPROTO_IPV6);
            rule.not_to_loopback6();
            rule.to_local_address();
            rule.to_container(NFPROTO_IPV6, Set::Ports6, REG32_04);
        },
    },
];

/// Builds the expressions of one rule.
#[derive(Debug, Default)]
pub(super) struct Expressions {
    bytes: Vec<u8>,
}

impl Expressions {
    fn next(&mut self) -> PushExprAttrs<PushExprListAttrs<&mut Vec<u8>>> {
        PushExprListAttrs::new(&mut self.bytes).nested_elem()
    }

    fn compare(&mut self, register: u32, value: &[u8]) {
        self.compare_by(EQUAL, register, value);
    }

    fn compare_by(&mut self, operation: u32, register: u32, value: &[u8]) {
        self.next()
            .nested_data_cmp()
            .push_sreg(register)
            .push_op(operation)
            .nested_data()
            .push_value(value);
    }

    fn meta(&mut self, key: u32, register: u32) {
        self.next()
            .nested_data_meta()
            .push_key(key)
            .push_dreg(register);
    }

    fn payload(&mut self, base: u32, offset: u32, length: u32, register: u32) {
        self.next()
            .nested_data_payload()
            .push_dreg(register)
            .push_base(base)
            .push_offset(offset)
            .push_len(length);
    }

    fn mask(&mut self, register: u32, mask: &[u8]) {
        let length = u32::try_from(mask.len()).unwrap_or(0);
        self.next()
            .nested_data_bitwise()
            .push_sreg(register)
            .push_dreg(register)
            .push_len(length)
            .nested_mask()
            .push_value(mask)
            .end_nested()
            .nested_xor()
            .push_value(&vec![0; mask.len()]);
    }

    fn lookup(&mut self, set: Set, source: u32, destination: Option<u32>) {
        // NFTA_LOOKUP_SREG and NFTA_LOOKUP_DREG: the specification that the bindings are made
        // of has them one off.
        const SOURCE: u16 = 2;
        const DESTINATION: u16 = 3;
        let mut expression = self
            .next()
            .nested_data_lookup()
            .push_set_bytes(set.name().as_bytes());
        let registers = [(SOURCE, Some(source)), (DESTINATION, destination)];
        for (attribute, register) in registers {
            if let Some(register) = register {
                push_header(expression.as_vec_mut(), attribute, 4);
                expression.as_vec_mut().extend(register.to_be_bytes());
            }
        }
    }

    /// `meta nfproto`
    fn family(&mut self, family: u8) {
        self.meta(15, REG_1);
        self.compare(REG_1, &[family]);
    }

    /// `iifname @bridges` with key 6, `oifname @bridges` with key 7
    fn interface_is_bridge(&mut self, key: u32) {
        self.meta(key, REG_1);
        self.lookup(Set::Bridges, REG_1, None);
    }

    /// `ip saddr 127.0.0.0/8` with offset 12, `ip daddr 127.0.0.0/8` with offset 16
    fn loopback(&mut self, offset: u32) {
        self.payload(1, offset, 4, REG_1);
        self.mask(REG_1, &[255, 0, 0, 0]);
        self.compare(REG_1, &[127, 0, 0, 0]);
    }

    /// `ip6 daddr != ::1`
    fn not_to_loopback6(&mut self) {
        self.payload(1, 24, 16, REG_1);
        self.compare_by(NOT_EQUAL, REG_1, &std::net::Ipv6Addr::LOCALHOST.octets());
    }

    fn drop(&mut self) {
        self.next()
            .nested_data_immediate()
            .push_dreg(0)
            .nested_data()
            .nested_verdict()
            .push_code(0);
    }

    /// `ip saddr . ip daddr @set`, or the same of IPv6
    fn addresses_in(&mut self, set: Set) {
        if matches!(set, Set::Masquerade4 | Set::Local4) {
            self.payload(1, 12, 4, REG32_00);
            self.payload(1, 16, 4, REG32_01);
        } else {
            self.payload(1, 8, 16, REG_1);
            self.payload(1, 24, 16, REG_2);
        }
        self.lookup(set, REG32_00, None);
    }

    fn masquerade(&mut self) {
        self.next().push_name(c"masq");
    }

    /// `ct status dnat`
    fn translated(&mut self) {
        const STATUS: u32 = 2;
        const DESTINATION_NAT: u32 = 1 << 5;
        self.next()
            .nested_data_ct()
            .push_key(STATUS)
            .push_dreg(REG_1);
        self.mask(REG_1, &DESTINATION_NAT.to_ne_bytes());
        self.compare_by(NOT_EQUAL, REG_1, &[0; 4]);
    }

    /// `fib daddr type local`
    fn to_local_address(&mut self) {
        const RESULT_ADDRESS_TYPE: u32 = 3;
        const BY_DESTINATION: u32 = 2;
        const LOCAL: u32 = 2;
        self.next()
            .nested_data_fib()
            .push_dreg(REG_1)
            .push_result(RESULT_ADDRESS_TYPE)
            .push_flags(BY_DESTINATION);
        self.compare(REG_1, &LOCAL.to_ne_bytes());
    }

    /// `dnat to meta l4proto . th dport map @set`
    fn to_container(&mut self, family: u8, set: Set, port_register: u32) {
        const DESTINATION: u32 = 1;
        self.meta(16, REG32_00);
        self.payload(2, 2, 2, REG32_01);
        self.lookup(set, REG32_00, Some(REG_1));
        self.next()
            .nested_data_nat()
            .push_type(DESTINATION)
            .push_family(u32::from(family))
            .push_reg_addr_min(REG_1)
            .push_reg_proto_min(port_register);
    }
}

/// The changes that make the table what it has to be, whatever there is of it. Elements stay.
pub(super) fn build() -> Vec<Request> {
    let mut changes = vec![request(
        Message::NewTable,
        NLM_F_CREATE,
        format!("create the table inet {TABLE}"),
        |buffer| {
            OpNewtableDo::encode_request(buffer, &header())
                .push_name_bytes(TABLE.as_bytes())
                .push_userdata(&comment(
                    "contrail-mesos: container networks; rebuilt if changed",
                ));
        },
    )];
    changes.extend(
        Set::ALL
            .into_iter()
            .enumerate()
            .map(|(id, set)| new_set(id, set)),
    );
    changes.extend(CHAINS.iter().map(new_chain));
    changes.extend(CHAINS.iter().map(flush_chain));
    for chain in &CHAINS {
        changes.extend(chain.rules.iter().map(|rule| new_rule(chain, rule)));
    }
    changes
}

/// The changes that remove the table, refused by the kernel as long as it has an element.
pub(super) fn tear_down() -> Vec<Request> {
    let mut changes: Vec<_> = CHAINS.iter().map(flush_chain).collect();
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
    changes.push(request(
        Message::DelTable,
        NLM_F_NONREC,
        format!("remove the table inet {TABLE}"),
        |buffer| {
            OpNewtableDo::encode_request(buffer, &header()).push_name_bytes(TABLE.as_bytes());
        },
    ));
    changes
}

fn new_set(id: usize, set: Set) -> Request {
    const MAP: u32 = 8;
    const INTERVAL: u32 = 4;
    const CONCATENATION: u32 = 0x80;
    // Types as `nft` numbers them, six bits each: only it reads them.
    const PROTOCOL_PORT: u32 = (12 << 6) | 13;
    const INTERFACE: u32 = 41;
    let (flags, key_type, key_length, data, fields): (u32, u32, u32, Option<(u32, u32)>, &[u32]) =
        match set {
            Set::Ports4 => (MAP, PROTOCOL_PORT, 8, Some(((7 << 6) | 13, 8)), &[]),
            Set::Ports6 => (MAP, PROTOCOL_PORT, 8, Some(((8 << 6) | 13, 20)), &[]),
            Set::Bridges => (0, INTERFACE, 16, None, &[]),
            Set::Masquerade4 | Set::Local4 => {
                (INTERVAL | CONCATENATION, (7 << 6) | 7, 8, None, &[4, 4])
            }
            Set::Masquerade6 | Set::Local6 => {
                (INTERVAL | CONCATENATION, (8 << 6) | 8, 32, None, &[16, 16])
            }
        };
    request(
        Message::NewSet,
        NLM_F_CREATE,
        format!("create the set {}", set.name()),
        |buffer| {
            let mut attributes = OpNewsetDo::encode_request(buffer, &header())
                .push_table_bytes(TABLE.as_bytes())
                .push_name_bytes(set.name().as_bytes())
                .push_flags(flags)
                .push_key_type(key_type)
                .push_key_len(key_length)
                .push_id(u32::try_from(id + 1).unwrap_or(1));
            if let Some((kind, length)) = data {
                attributes = attributes.push_data_type(kind).push_data_len(length);
            }
            if set == Set::Bridges {
                // Tells `nft` that the key is a string of the host, not a number of the network.
                let host_byte_order = [&[0, 4][..], &1_u32.to_ne_bytes()].concat();
                attributes = attributes.push_userdata(&host_byte_order);
            }
            if !fields.is_empty() {
                let mut concatenation = attributes.nested_desc().nested_concat();
                for length in fields {
                    concatenation = concatenation.nested_elem().push_len(*length).end_nested();
                }
            }
        },
    )
}

fn new_chain(chain: &Chain) -> Request {
    const ACCEPT: u32 = 1;
    request(
        Message::NewChain,
        NLM_F_CREATE,
        format!("create the chain {}", chain.name),
        |buffer| {
            OpNewchainDo::encode_request(buffer, &header())
                .push_table_bytes(TABLE.as_bytes())
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

fn flush_chain(chain: &Chain) -> Request {
    request(
        Message::DelRule,
        0,
        format!("empty the chain {}", chain.name),
        |buffer| {
            OpNewruleDo::encode_request(buffer, &header())
                .push_table_bytes(TABLE.as_bytes())
                .push_chain_bytes(chain.name.as_bytes());
        },
    )
}

fn new_rule(chain: &Chain, rule: &Rule) -> Request {
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
                .push_table_bytes(TABLE.as_bytes())
                .push_chain_bytes(chain.name.as_bytes())
                .nested_expressions();
            list.as_vec_mut().extend(&expressions.bytes);
            list.end_nested().push_userdata(&comment(rule.comment));
        },
    )
}
