//! Rules for a host that Docker runs on, too.
//!
//! ```text
//! ip filter, ip6 filter            the tables of iptables
//!   DOCKER-USER                    Docker's, for rules of others: here it jumps to the next one
//!   CONTRAIL-MESOS                 accepts packets to bridges of Mesos' containers
//!   CONTRAIL-MESOS-OVERLAY         accepts packets between interfaces of overlays
//!   CONTRAIL-MESOS-FROM            accepts packets from bridges of Mesos' containers, unless they go
//!                                  to a bridge of Docker, which its own rules decide
//! inet contrail_mesos_docker       masquerades what Docker's containers on overlays send elsewhere
//! ```
//! Docker gives the chain FORWARD the policy DROP. An accept in a table of our own does not overrule
//! it, so what must pass is accepted in Docker's table, in the chain that Docker leaves to others.
//!
//! Invariants: of Docker's chains only DOCKER-USER is changed, and only by a rule with our comment. It
//! stands before the RETURN at the end, so that what an operator drops there stays dropped. There are
//! only expressions that the programs of iptables can read. Docker's containers on overlays are reached
//! from overlays only. What goes to another network of Docker is never accepted here.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use contrail_mesos_api::overlay_modules::DOCKER_BRIDGE_PREFIX;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netlink_bindings::nftables::{
    ExprOps, Nfgenmsg, OpDelruleDo, OpGetchainDo, OpGetruleDump, OpNewchainDo, OpNewruleDo,
};
use netlink_bindings::traits::Pusher;
use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_NONREC, NlasIterator};
use nix::errno::Errno;

use super::batch::{self, Message, message_type, request};
use super::element::{comment, read_comment};
use super::expressions::Side;
use super::expressions::{Expressions, NFPROTO_IPV4, NFPROTO_IPV6};
use super::read::only_expression;
use super::ruleset::{delete_table, new_table};
use crate::net::netlink::{NetlinkError, NetlinkSocket, Request};

#[cfg(test)]
mod root_tests;

/// The table with the masquerading; its family is `inet`.
pub const TABLE: &str = "contrail_mesos_docker";
/// The table of iptables that filters.
const FILTER: &str = "filter";
/// The chain of Docker that is left to others.
const DOCKER_USER: &str = "DOCKER-USER";
/// The chain with the rules about single interfaces.
const CHAIN: &str = "CONTRAIL-MESOS";
/// The chain for packets that come from an interface of an overlay.
const OVERLAY_CHAIN: &str = "CONTRAIL-MESOS-OVERLAY";
/// The chain for packets that come from a bridge of Mesos' containers.
const FROM_CHAIN: &str = "CONTRAIL-MESOS-FROM";
/// Our chains in a table of iptables; the first one jumps to the others.
const CHAINS: [&str; 3] = [CHAIN, OVERLAY_CHAIN, FROM_CHAIN];
/// What the names of Docker's bridges begin with: that of its default network and of Swarm, those of
/// networks of operators, and those of overlays.
const DOCKER_BRIDGES: [&str; 3] = ["docker", "br-", DOCKER_BRIDGE_PREFIX];
/// What Docker names a network's bridge after `br-`: the beginning of the network's identifier.
const DOCKER_ID_BYTES: usize = 12;
/// What the comment of each rule in the tables of iptables begins with.
const MARK: &str = "contrail-mesos-node: ";
/// What the comment of a rule about a bridge of an overlay ends with.
const TO_OVERLAYS: &str = " to overlays";
const POSTROUTING: &str = "postrouting";
const LEAVING: &str = "leaving";
const NFPROTO_INET: u8 = 1;
/// The codes of verdicts.
const JUMP: u32 = (-3_i32).cast_unsigned();
const RETURN: u32 = (-5_i32).cast_unsigned();
const MAX_INTERFACE_NAME_BYTES: usize = 15;
/// How often a change is tried if Docker changes the same chain meanwhile.
const MAX_ATTEMPTS: usize = 3;

/// The rules that a host must have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DesiredRules {
    /// Bridges of Mesos' containers: what goes to them is accepted, and what comes from them, unless it
    /// goes to a bridge of Docker.
    pub bridges: BTreeSet<String>,
    /// Those of `bridges` that are of overlays: packets pass from them to the interfaces of overlays.
    pub overlay_bridges: BTreeSet<String>,
    /// Interfaces that are no bridges of Docker, although their names look like it.
    pub other_interfaces: BTreeSet<String>,
    /// The interfaces of overlays, which are Docker's bridges and VXLAN devices: packets pass between
    /// any two of them.
    pub overlays: BTreeSet<String>,
    /// What is masqueraded; none if that is to stay as it is.
    pub masquerade: Option<Masquerade>,
}

/// Which packets of Docker's containers leave with the host's address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Masquerade {
    /// The subnets of the containers.
    pub sources: BTreeSet<IpNet>,
    /// The subnets to which these send with their own addresses.
    pub cluster: BTreeSet<IpNet>,
}

impl DesiredRules {
    fn accepts_nothing(&self) -> bool {
        self.bridges.is_empty() && self.overlays.is_empty()
    }

    /// What our chains in a table of iptables must have.
    fn accepting_chains(&self) -> [Chain; 3] {
        let accept_to = |name: &String| {
            Rule::new(about(Side::Destination, name), |rule| {
                rule.interface_is(Side::Destination, name);
                rule.count();
                rule.accept();
            })
        };
        let jump = |comment, name: &String, chain| {
            Rule::new(comment, |rule| {
                rule.interface_is(Side::Source, name);
                rule.count();
                rule.jump(chain);
            })
        };
        let from_overlays = self.overlays.iter();
        let from_overlays =
            from_overlays.map(|name| jump(about(Side::Source, name), name, OVERLAY_CHAIN));
        let from_overlay_bridges = self.overlay_bridges.iter();
        let from_overlay_bridges =
            from_overlay_bridges.map(|name| jump(about_overlay_bridge(name), name, OVERLAY_CHAIN));
        let from_bridges = self.bridges.iter();
        let from_bridges =
            from_bridges.map(|name| jump(about(Side::Source, name), name, FROM_CHAIN));
        let to_docker = DOCKER_BRIDGES.map(|prefix| {
            Rule::new(about(Side::Destination, &format!("{prefix}+")), |rule| {
                rule.interface_begins_with(Side::Destination, prefix);
                rule.count();
                rule.go_back();
            })
        });
        let elsewhere = Rule::new(format!("{MARK}to others"), |rule| {
            rule.count();
            rule.accept();
        });
        [
            Chain {
                name: CHAIN,
                rules: self
                    .bridges
                    .iter()
                    .map(accept_to)
                    .chain(from_overlays)
                    .chain(from_overlay_bridges)
                    .chain(from_bridges)
                    .collect(),
            },
            Chain {
                name: OVERLAY_CHAIN,
                rules: self.overlays.iter().map(accept_to).collect(),
            },
            Chain {
                name: FROM_CHAIN,
                rules: self
                    .other_interfaces
                    .iter()
                    .map(accept_to)
                    .chain(to_docker)
                    .chain([elsewhere])
                    .collect(),
            },
        ]
    }
}

impl Masquerade {
    /// What our table must have.
    fn chains(&self) -> [Chain; 2] {
        let leaving = self.sources.iter().map(|net| {
            Rule::new(format!("from {net}"), |rule| {
                rule.address_in_subnet(Side::Source, *net);
                rule.jump(LEAVING);
            })
        });
        // Multicast, and what no host has.
        let never = [
            IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 3)),
            IpNet::V6(Ipv6Net::new_assert(
                Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0),
                8,
            )),
        ];
        let kept = self.cluster.iter().copied().chain(never).map(|net| {
            Rule::new(format!("to {net} with the container's address"), |rule| {
                rule.address_in_subnet(Side::Destination, net);
                rule.go_back();
            })
        });
        let masqueraded = Rule::new(
            "elsewhere with the host's address".to_owned(),
            Expressions::masquerade,
        );
        [
            Chain {
                name: POSTROUTING,
                rules: leaving.collect(),
            },
            Chain {
                name: LEAVING,
                rules: kept.chain([masqueraded]).collect(),
            },
        ]
    }
}

/// The comment of a rule about an interface.
fn about(side: Side, interface: &str) -> String {
    let word = match side {
        Side::Source => "from",
        Side::Destination => "to",
    };
    format!("{MARK}{word} {interface}")
}

/// The comment of the rule for what comes from a bridge of an overlay.
fn about_overlay_bridge(interface: &str) -> String {
    about(Side::Source, interface) + TO_OVERLAYS
}

/// Whether an interface that may not be Docker's has a name as Docker's bridges have, other than those
/// that Docker makes up.
#[must_use]
pub fn looks_like_docker_bridge(name: &str) -> bool {
    name.strip_prefix("br-").is_some_and(|id| {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        id.len() != DOCKER_ID_BYTES || !id.bytes().all(is_digit)
    })
}

/// A chain of ours.
#[derive(Debug)]
struct Chain {
    name: &'static str,
    rules: Vec<Rule>,
}

/// A rule of ours, which its comment identifies.
#[derive(Debug)]
struct Rule {
    comment: String,
    expressions: Expressions,
}

impl Rule {
    fn new(comment: String, build: impl FnOnce(&mut Expressions)) -> Self {
        let mut expressions = Expressions::default();
        build(&mut expressions);
        Self {
            comment,
            expressions,
        }
    }
}

/// A family that iptables has a table of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    /// `ip`, of iptables.
    V4,
    /// `ip6`, of ip6tables.
    V6,
}

impl Family {
    const ALL: [Self; 2] = [Self::V4, Self::V6];

    fn number(self) -> u8 {
        match self {
            Self::V4 => NFPROTO_IPV4,
            Self::V6 => NFPROTO_IPV6,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        }
    }
}

/// A rule that a chain has.
#[derive(Debug)]
struct FoundRule {
    handle: u64,
    comment: String,
    /// What it does with every packet, if it is the same for all of them.
    verdict: Option<Verdict>,
}

/// What a rule does with a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Return,
    Jump(String),
    Other,
}

impl FoundRule {
    /// Whether it returns from the chain, whatever the packet.
    fn is_return(&self) -> bool {
        self.verdict == Some(Verdict::Return)
    }

    /// Whether it is our jump. What `iptables-restore` has read has no comment of nftables any more.
    fn is_ours(&self) -> bool {
        self.comment.starts_with(MARK) || self.verdict == Some(Verdict::Jump(CHAIN.to_owned()))
    }
}

/// A difference between the rules that are there and those that must be.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Difference {
    /// Our chains, or the jump to them.
    Accept(Family),
    /// Our chains must not be there.
    Surplus(Family),
    /// The table with the masquerading.
    Masquerade(Masquerade),
    /// This table must not be there.
    SurplusTable,
}

impl Difference {
    fn describe(&self, desired: &DesiredRules) -> String {
        let list = |names: &BTreeSet<String>| {
            let names: Vec<_> = names.iter().map(String::as_str).collect();
            names.join(", ")
        };
        match self {
            Self::Accept(family) => {
                let all: BTreeSet<_> = desired.bridges.union(&desired.overlays).cloned().collect();
                format!(
                    "accept packets of {} in the chain {DOCKER_USER} of {} {FILTER}",
                    list(&all),
                    family.name()
                )
            }
            Self::Surplus(family) => format!(
                "remove the chains {} of {} {FILTER}",
                CHAINS.join(", "),
                family.name()
            ),
            Self::Masquerade(masquerade) => {
                let sources: Vec<_> = masquerade.sources.iter().map(IpNet::to_string).collect();
                format!(
                    "masquerade what {} sends to others than the cluster's subnets",
                    sources.join(", ")
                )
            }
            Self::SurplusTable => format!("remove the table inet {TABLE}"),
        }
    }
}

/// What was done, or is to be done.
#[derive(Debug, Default)]
pub struct RuleChanges {
    /// Each change, for a person.
    pub changes: Vec<String>,
    /// The changes that failed, each with the reason.
    pub failures: Vec<(String, NetlinkError)>,
    /// Whether Docker's chain for others is there, for IPv4.
    pub has_docker_chain: bool,
}

/// The rules in the network namespace where this was opened.
#[derive(Debug)]
pub struct DockerRules {
    socket: NetlinkSocket,
}

impl DockerRules {
    /// Opens the rules of the calling thread's network namespace. Changes nothing.
    pub fn open() -> Result<Self, NetlinkError> {
        let socket = NetlinkSocket::netfilter()?;
        Ok(Self { socket })
    }

    /// The port of the socket that changes the rules.
    #[must_use]
    pub fn port(&self) -> u32 {
        self.socket.port()
    }

    /// What [`DockerRules::apply`] would change.
    pub fn compare(&mut self, desired: &DesiredRules) -> Result<RuleChanges, NetlinkError> {
        let has_docker_chain = self.has_chain(Family::V4, DOCKER_USER)?;
        let differences = self.differences(desired)?;
        let changes = differences
            .iter()
            .map(|difference| difference.describe(desired))
            .collect();
        Ok(RuleChanges {
            changes,
            failures: vec![],
            has_docker_chain,
        })
    }

    /// Makes the rules as they must be, each table in one transaction. After a failure at one table it
    /// goes on with the others.
    pub fn apply(&mut self, desired: &DesiredRules) -> Result<RuleChanges, NetlinkError> {
        let mut done = RuleChanges {
            has_docker_chain: self.has_chain(Family::V4, DOCKER_USER)?,
            ..RuleChanges::default()
        };
        for difference in self.differences(desired)? {
            let change = difference.describe(desired);
            match self.make(&difference, desired) {
                Ok(()) => done.changes.push(change),
                Err(error) => done.failures.push((change, error)),
            }
        }
        Ok(done)
    }

    /// The bridges and the interfaces of overlays that the rules which are there are about.
    pub fn present(&mut self) -> Result<DesiredRules, NetlinkError> {
        let (from, to) = (about(Side::Source, ""), about(Side::Destination, ""));
        let mut present = DesiredRules::default();
        for family in Family::ALL {
            for rule in self.rules(family.number(), FILTER, CHAIN)? {
                let comment = &rule.comment;
                let names = if let Some(name) = comment.strip_prefix(&to) {
                    Some((&mut present.bridges, name))
                } else {
                    let name = comment.strip_prefix(&from);
                    let name = name.and_then(|name| name.strip_suffix(TO_OVERLAYS));
                    name.map(|name| (&mut present.overlay_bridges, name))
                };
                insert_interface(names);
            }
            for rule in self.rules(family.number(), FILTER, OVERLAY_CHAIN)? {
                let name = rule.comment.strip_prefix(&to);
                insert_interface(name.map(|name| (&mut present.overlays, name)));
            }
        }
        Ok(present)
    }

    fn differences(&mut self, desired: &DesiredRules) -> Result<Vec<Difference>, NetlinkError> {
        let mut differences = Vec::new();
        for family in Family::ALL {
            let is_wanted = !desired.accepts_nothing() && self.has_chain(family, DOCKER_USER)?;
            if is_wanted && !self.accepts(family, desired)? {
                differences.push(Difference::Accept(family));
            } else if !is_wanted {
                for chain in CHAINS {
                    if self.has_chain(family, chain)? {
                        differences.push(Difference::Surplus(family));
                        break;
                    }
                }
            }
        }
        if let Some(masquerade) = &desired.masquerade {
            let is_wanted = !masquerade.sources.is_empty();
            if is_wanted && !self.has_rules(NFPROTO_INET, TABLE, &masquerade.chains())? {
                differences.push(Difference::Masquerade(masquerade.clone()));
            } else if !is_wanted && self.exists(NFPROTO_INET, TABLE, POSTROUTING)? {
                differences.push(Difference::SurplusTable);
            }
        }
        Ok(differences)
    }

    /// Whether our chains are complete, and DOCKER-USER jumps to them once, where a packet gets to.
    fn accepts(&mut self, family: Family, desired: &DesiredRules) -> Result<bool, NetlinkError> {
        let rules = self.rules(family.number(), FILTER, DOCKER_USER)?;
        let mut before_return = rules.iter().take_while(|rule| !rule.is_return());
        let is_reached = before_return.any(|rule| rule.comment == jump_comment());
        let jumps = rules.iter().filter(|rule| rule.is_ours());
        Ok(is_reached
            && jumps.count() == 1
            && self.has_rules(family.number(), FILTER, &desired.accepting_chains())?)
    }

    fn has_rules(
        &mut self,
        family: u8,
        table: &str,
        chains: &[Chain],
    ) -> Result<bool, NetlinkError> {
        for chain in chains {
            let present = self.rules(family, table, chain.name)?;
            let present = present.iter().map(|rule| rule.comment.as_str());
            let wanted = chain.rules.iter().map(|rule| rule.comment.as_str());
            if !present.eq(wanted) || !self.exists(family, table, chain.name)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn has_chain(&mut self, family: Family, chain: &str) -> Result<bool, NetlinkError> {
        self.exists(family.number(), FILTER, chain)
    }

    fn exists(&mut self, family: u8, table: &str, chain: &str) -> Result<bool, NetlinkError> {
        let action = format!("look for the chain {chain}");
        let get = request(Message::GetChain, 0, action, |buffer| {
            OpGetchainDo::encode_request(buffer, &header(family))
                .push_table_bytes(table.as_bytes())
                .push_name_bytes(chain.as_bytes());
        });
        match self.socket.get(&get) {
            Ok(_) => Ok(true),
            Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The rules of a chain, in order; none if there is no such chain.
    fn rules(
        &mut self,
        family: u8,
        table: &str,
        chain: &str,
    ) -> Result<Vec<FoundRule>, NetlinkError> {
        let action = format!("list the rules of the chain {chain}");
        let list = request(Message::GetRule, 0, action, |buffer| {
            OpGetruleDump::encode_request(buffer, &header(family))
                .push_table_bytes(table.as_bytes())
                .push_chain_bytes(chain.as_bytes());
        });
        let mut rules = Vec::new();
        let result = self.socket.dump(&list, |bytes| {
            let (_, rule) = OpGetruleDump::decode_request(bytes);
            // Older kernels ignore the filters.
            let is = |name: Result<&std::ffi::CStr, _>, wanted: &str| {
                name.is_ok_and(|name| name.to_bytes() == wanted.as_bytes())
            };
            if !is(rule.get_table(), table) || !is(rule.get_chain(), chain) {
                return;
            }
            let comment = rule.get_userdata().ok().and_then(read_comment);
            rules.push(FoundRule {
                handle: rule.get_handle().unwrap_or_default(),
                comment: comment.unwrap_or_default(),
                verdict: rule.get_expressions().ok().and_then(|list| {
                    let data = list.get_elem().map(|expression| expression.get_data().ok());
                    verdict(&data.collect::<Vec<_>>())
                }),
            });
        });
        match result {
            Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(Vec::new()),
            other => other.and(Ok(rules)),
        }
    }

    fn make(
        &mut self,
        difference: &Difference,
        desired: &DesiredRules,
    ) -> Result<(), NetlinkError> {
        let mut attempts = 1;
        loop {
            let changes = match difference {
                Difference::Accept(family) => self.accepting_changes(*family, desired)?,
                Difference::Surplus(family) => self.removing_changes(*family)?,
                Difference::Masquerade(masquerade) => masquerading_changes(masquerade),
                Difference::SurplusTable => vec![delete_table(TABLE, 0)],
            };
            match self.commit(changes) {
                // A chain or a rule was removed since it was listed.
                Err(error) if attempts < MAX_ATTEMPTS && error.errno() == Some(Errno::ENOENT) => {
                    attempts += 1;
                }
                result => return result,
            }
        }
    }

    fn accepting_changes(
        &mut self,
        family: Family,
        desired: &DesiredRules,
    ) -> Result<Vec<Request>, NetlinkError> {
        let number = family.number();
        let chains = desired.accepting_chains();
        let mut changes: Vec<_> = chains
            .iter()
            .map(|chain| new_chain(number, FILTER, chain.name, None))
            .collect();
        changes.extend(
            chains
                .iter()
                .map(|chain| flush_chain(number, FILTER, chain.name)),
        );
        for chain in &chains {
            let rules = chain.rules.iter();
            changes.extend(rules.map(|rule| new_rule(number, FILTER, chain.name, rule, None)));
        }
        let present = self.rules(number, FILTER, DOCKER_USER)?;
        let stale = present.iter().filter(|rule| rule.is_ours());
        changes.extend(stale.map(|rule| delete_rule(number, rule.handle)));
        let jump = Rule::new(jump_comment(), |rule| {
            rule.count();
            rule.jump(CHAIN);
        });
        let before = present.iter().find(|rule| rule.is_return());
        let before = before.map(|rule| rule.handle);
        changes.push(new_rule(number, FILTER, DOCKER_USER, &jump, before));
        Ok(changes)
    }

    fn removing_changes(&mut self, family: Family) -> Result<Vec<Request>, NetlinkError> {
        let number = family.number();
        let present = self.rules(number, FILTER, DOCKER_USER)?;
        let ours = present.iter().filter(|rule| rule.is_ours());
        let mut changes: Vec<_> = ours.map(|rule| delete_rule(number, rule.handle)).collect();
        for chain in CHAINS {
            if self.has_chain(family, chain)? {
                changes.push(flush_chain(number, FILTER, chain));
                changes.push(delete_chain(number, chain));
            }
        }
        Ok(changes)
    }

    fn commit(&mut self, changes: Vec<Request>) -> Result<(), NetlinkError> {
        batch::commit_if_any(&mut self.socket, changes, "the rules for Docker")
    }
}

fn jump_comment() -> String {
    format!("{MARK}bridges and overlays")
}

/// Adds the name of an interface that a comment has to a set.
fn insert_interface(found: Option<(&mut BTreeSet<String>, &str)>) {
    if let Some((names, name)) = found
        && is_interface_name(name)
    {
        names.insert(name.to_owned());
    }
}

fn is_interface_name(name: &str) -> bool {
    (1..=MAX_INTERFACE_NAME_BYTES).contains(&name.len())
}

/// The verdict of a rule that has nothing else, apart from a counter and a comment of iptables.
fn verdict(expressions: &[Option<ExprOps<'_>>]) -> Option<Verdict> {
    let ExprOps::Immediate(immediate) = only_expression(expressions)? else {
        return None;
    };
    let verdict = immediate.get_data().ok()?.get_verdict().ok()?;
    Some(match verdict.get_code().ok()? {
        RETURN => Verdict::Return,
        JUMP => Verdict::Jump(verdict.get_chain().ok()?.to_string_lossy().into_owned()),
        _ => Verdict::Other,
    })
}

/// Whether a message of the group `NFNLGRP_NFTABLES` is about what this module keeps, or about the chain
/// of Docker that it changes.
pub(in crate::net) fn is_change(kind: u16, payload: &[u8]) -> bool {
    const TABLE_NAME: u16 = 1;
    const CHAIN_OF_RULE: u16 = 2;
    const CHAIN_NAME: u16 = 3;
    let chain_attribute = match kind {
        NEW_TABLE | DEL_TABLE => None,
        NEW_RULE | DEL_RULE => Some(CHAIN_OF_RULE),
        NEW_CHAIN | DEL_CHAIN => Some(CHAIN_NAME),
        _ => return false,
    };
    let (Some(family), Some(attributes)) = (payload.first(), payload.get(4..)) else {
        return false;
    };
    let name = |kind: u16| {
        let mut all = NlasIterator::new(attributes).flatten();
        let attribute = all.find(|attribute| attribute.kind() == kind)?;
        attribute.value().strip_suffix(&[0]).map(<[u8]>::to_vec)
    };
    let Some(table) = name(TABLE_NAME) else {
        return false;
    };
    match *family {
        NFPROTO_INET => table == TABLE.as_bytes(),
        NFPROTO_IPV4 | NFPROTO_IPV6 if table == FILTER.as_bytes() => {
            chain_attribute.is_none_or(|attribute| {
                let chain = name(attribute).unwrap_or_default();
                let mut watched = CHAINS.iter().chain([&DOCKER_USER]);
                watched.any(|watched| watched.as_bytes() == chain)
            })
        }
        _ => false,
    }
}

const NEW_TABLE: u16 = message_type(Message::NewTable);
const DEL_TABLE: u16 = message_type(Message::DelTable);
const NEW_CHAIN: u16 = message_type(Message::NewChain);
const DEL_CHAIN: u16 = message_type(Message::DelChain);
const NEW_RULE: u16 = message_type(Message::NewRule);
const DEL_RULE: u16 = message_type(Message::DelRule);
/// The types of messages about tables, chains and rules.
pub(in crate::net) const MESSAGES: [u16; 6] = [
    NEW_TABLE, DEL_TABLE, NEW_CHAIN, DEL_CHAIN, NEW_RULE, DEL_RULE,
];

fn header(family: u8) -> Nfgenmsg {
    let mut header = Nfgenmsg::new();
    header.nfgen_family = family;
    header
}

/// The changes that replace our table.
fn masquerading_changes(masquerade: &Masquerade) -> Vec<Request> {
    let table = || {
        new_table(
            TABLE,
            "contrail-mesos-node: Docker's containers on overlays; rebuilt if changed",
        )
    };
    // A table that is not there cannot be deleted.
    let mut changes = vec![table(), delete_table(TABLE, 0), table()];
    let [postrouting, leaving] = masquerade.chains();
    changes.push(new_chain(
        NFPROTO_INET,
        TABLE,
        postrouting.name,
        Some(SOURCE_NAT),
    ));
    changes.push(new_chain(NFPROTO_INET, TABLE, leaving.name, None));
    for chain in [postrouting, leaving] {
        let rules = chain.rules.iter();
        changes.extend(rules.map(|rule| new_rule(NFPROTO_INET, TABLE, chain.name, rule, None)));
    }
    changes
}

/// Where the kernel calls a chain.
#[derive(Clone, Copy, Debug)]
struct Hook {
    kind: &'static str,
    number: u32,
    priority: i32,
}

const SOURCE_NAT: Hook = Hook {
    kind: "nat",
    number: 4,
    priority: 100,
};

/// Creates a chain, or does nothing if there is one.
fn new_chain(family: u8, table: &str, chain: &str, hook: Option<Hook>) -> Request {
    let action = format!("create the chain {chain}");
    request(Message::NewChain, NLM_F_CREATE, action, |buffer| {
        let attributes = OpNewchainDo::encode_request(buffer, &header(family))
            .push_table_bytes(table.as_bytes())
            .push_name_bytes(chain.as_bytes());
        if let Some(hook) = hook {
            attributes
                .nested_hook()
                .push_num(hook.number)
                .push_priority(hook.priority)
                .end_nested()
                .push_type_bytes(hook.kind.as_bytes());
        }
    })
}

fn delete_chain(family: u8, chain: &str) -> Request {
    let action = format!("remove the chain {chain}");
    request(Message::DelChain, NLM_F_NONREC, action, |buffer| {
        OpNewchainDo::encode_request(buffer, &header(family))
            .push_table_bytes(FILTER.as_bytes())
            .push_name_bytes(chain.as_bytes());
    })
}

fn flush_chain(family: u8, table: &str, chain: &str) -> Request {
    let action = format!("empty the chain {chain}");
    request(Message::DelRule, 0, action, |buffer| {
        OpDelruleDo::encode_request(buffer, &header(family))
            .push_table_bytes(table.as_bytes())
            .push_chain_bytes(chain.as_bytes());
    })
}

fn delete_rule(family: u8, handle: u64) -> Request {
    let action = format!("remove a rule of the chain {DOCKER_USER}");
    request(Message::DelRule, 0, action, |buffer| {
        OpDelruleDo::encode_request(buffer, &header(family))
            .push_table_bytes(FILTER.as_bytes())
            .push_chain_bytes(DOCKER_USER.as_bytes())
            .push_handle(handle);
    })
}

/// Adds a rule before the one with the handle `before`, or at the end.
fn new_rule(family: u8, table: &str, chain: &str, rule: &Rule, before: Option<u64>) -> Request {
    let flags = match before {
        Some(_) => NLM_F_CREATE,
        None => NLM_F_CREATE | NLM_F_APPEND,
    };
    let action = format!("add the rule {:?} to the chain {chain}", rule.comment);
    request(Message::NewRule, flags, action, |buffer| {
        let mut list = OpNewruleDo::encode_request(buffer, &header(family))
            .push_table_bytes(table.as_bytes())
            .push_chain_bytes(chain.as_bytes())
            .nested_expressions();
        list.as_vec_mut().extend(rule.expressions.bytes());
        let attributes = list.end_nested();
        let attributes = match before {
            Some(handle) => attributes.push_position(handle),
            None => attributes,
        };
        attributes.push_userdata(&comment(&rule.comment));
    })
}
