//! The chains and the small sets of the table. Apart from the chains for numbers of backends they are
//! the same for any number of services.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::super::expressions::{
    Choice, Expressions, NFPROTO_IPV4, NFPROTO_IPV6, Side, family_of, octets,
};
use super::super::program::{ChainKind, Hook, SetKind, Table, TableChain, TableRule, TableSet};
use super::{ICMP, ICMPV6, ServicePolicy, TCP, UDP};

const HOOK_PREROUTING: u32 = 0;
const HOOK_INPUT: u32 = 1;
const HOOK_FORWARD: u32 = 2;
const HOOK_OUTPUT: u32 = 3;
const HOOK_POSTROUTING: u32 = 4;
/// Before the translation of mapped ports, ours and those of other programs, at -100: a service and a
/// mapped port may have the same port. The kernel runs all chains of this kind at one place, in the
/// order of their priorities.
const TRANSLATION_PRIORITY: i32 = -110;
/// Before other programs masquerade, at 100.
const MASQUERADE_PRIORITY: i32 = 90;
/// After the translation also in `output`, and before most filters: a refusal comes at once.
const REFUSAL_PRIORITY: i32 = -50;
const DNS_PORT: u16 = 53;

/// The chain of services that are refused.
pub(super) const KEEP: &str = "keep";

/// The chain that chooses one of so many backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct BalanceChain {
    pub(super) is_v4: bool,
    pub(super) has_affinity: bool,
    pub(super) backends: u32,
}

impl BalanceChain {
    pub(super) fn name(self) -> String {
        let kind = if self.has_affinity {
            "affinity"
        } else {
            "random"
        };
        let digit = if self.is_v4 { '4' } else { '6' };
        format!("{kind}{digit}_{}", self.backends)
    }

    fn parse(name: &str) -> Option<Self> {
        let (kind, backends) = name.split_once('_')?;
        let (has_affinity, is_v4) = match kind {
            "affinity4" => (true, true),
            "affinity6" => (true, false),
            "random4" => (false, true),
            "random6" => (false, false),
            _ => return None,
        };
        let chain = Self {
            is_v4,
            has_affinity,
            backends: backends.parse().ok()?,
        };
        let is_valid = (1..=super::MAX_BACKENDS_NUMBER).contains(&chain.backends);
        (is_valid && chain.name() == name).then_some(chain)
    }

    fn chain(self) -> TableChain {
        let family = if self.is_v4 {
            NFPROTO_IPV4
        } else {
            NFPROTO_IPV6
        };
        let map = format!("backends{}", digit(family));
        let choice = if self.has_affinity {
            Choice::BySource(self.backends)
        } else {
            Choice::Random(self.backends)
        };
        let rules = vec![
            TableRule::new("one of the backends", |rule| {
                rule.balance(family, &map, choice);
            }),
            // The packet may have found this chain before a change that it finds now.
            TableRule::new("a backend that is always there", |rule| {
                rule.balance(family, &map, Choice::First);
            }),
        ];
        TableChain { hook: None, rules }
    }
}

/// What the chains and small sets depend on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Structure {
    ranges: BTreeSet<IpNet>,
    dns: BTreeSet<IpAddr>,
    vips: BTreeSet<IpAddr>,
    own: BTreeSet<IpAddr>,
    bridges: BTreeSet<String>,
    inside: BTreeSet<String>,
    pub(super) chains: BTreeSet<BalanceChain>,
}

impl Structure {
    pub(super) fn new(policy: &ServicePolicy, chains: BTreeSet<BalanceChain>) -> Self {
        Self {
            ranges: policy.ranges.clone(),
            dns: policy.dns.clone(),
            vips: policy.vips.clone(),
            own: policy.own.clone(),
            bridges: policy.bridges.clone(),
            inside: policy.inside.clone(),
            chains,
        }
    }

    /// The chains for numbers of backends that a table has. They stay, because another service may need
    /// them.
    pub(super) fn balance_chains(table: &Table) -> BTreeSet<BalanceChain> {
        let names = table.chains.keys();
        names.filter_map(|name| BalanceChain::parse(name)).collect()
    }

    /// The table. Without hooks, nothing enters it yet.
    pub(super) fn table(&self, has_hooks: bool) -> Table {
        let mut table = Table::default();
        for family in [NFPROTO_IPV4, NFPROTO_IPV6] {
            self.add_sets(&mut table, family);
        }
        let mut inside = TableSet::new(SetKind::Interfaces, "bridges and tunnels");
        for name in &self.inside {
            inside.add_interface(name);
        }
        table.sets.insert("inside".to_owned(), inside);
        let label = "bridges whose containers reach each other without the host";
        let mut same = TableSet::new(SetKind::InterfacePairs, label);
        for name in &self.bridges {
            same.add_interface_twice(name);
        }
        table.sets.insert("same_bridge".to_owned(), same);
        for chain in &self.chains {
            table.chains.insert(chain.name(), chain.chain());
        }
        if has_hooks {
            add_chains(&mut table);
        }
        table
            .chains
            .entry(KEEP.to_owned())
            .or_insert_with(keep_chain);
        table
    }

    fn add_sets(&self, table: &mut Table, family: u8) {
        let is_v4 = family == NFPROTO_IPV4;
        let digit = digit(family);
        let of_family = |address: &&IpAddr| family_of(**address) == family;
        let kind = |v4: SetKind, v6: SetKind| if is_v4 { v4 } else { v6 };
        for (name, kind, label) in [
            (
                "services",
                kind(SetKind::FrontendChains4, SetKind::FrontendChains6),
                "the services",
            ),
            (
                "backends",
                kind(SetKind::Backends4, SetKind::Backends6),
                "the backends of the services, by a number of each",
            ),
            (
                "refused",
                kind(SetKind::ManyFrontends4, SetKind::ManyFrontends6),
                "the services without a ready backend",
            ),
        ] {
            let set = TableSet::new(kind, label);
            table.sets.insert(format!("{name}{digit}"), set);
        }
        let mut ranges = TableSet::new(
            kind(SetKind::Subnets4, SetKind::Subnets6),
            "the addresses of named services",
        );
        let of_ranges: Vec<IpNet> = self
            .ranges
            .iter()
            .filter(|range| family_of(range.addr()) == family)
            .copied()
            .collect();
        ranges.add_subnets(IpNet::aggregate(&of_ranges));
        table.sets.insert(format!("ranges{digit}"), ranges);
        let addresses = kind(SetKind::Addresses4, SetKind::Addresses6);
        let vips = self.vips.iter().filter(of_family).copied();
        let label = "addresses that frameworks chose for services";
        let vips = TableSet::of_addresses(addresses, label, vips);
        table.sets.insert(format!("vips{digit}"), vips);
        let mut own = TableSet::new(
            kind(SetKind::AddressPairs4, SetKind::AddressPairs6),
            "the backends of this host, twice",
        );
        for address in self.own.iter().filter(of_family) {
            let octets = octets(*address);
            own.add([octets.as_slice(), &octets].concat());
        }
        table.sets.insert(format!("own{digit}"), own);
        let mut dns = TableSet::new(
            kind(SetKind::Frontends4, SetKind::Frontends6),
            "where this host answers DNS queries",
        );
        for address in self.dns.iter().filter(of_family) {
            for protocol in [TCP, UDP] {
                dns.add(super::elements::frontend_key(*address, protocol, DNS_PORT));
            }
        }
        table.sets.insert(format!("dns{digit}"), dns);
    }
}

fn digit(family: u8) -> char {
    if family == NFPROTO_IPV4 { '4' } else { '6' }
}

fn base_chain(kind: ChainKind, number: u32, priority: i32) -> TableChain {
    TableChain {
        hook: Some(Hook {
            kind,
            number,
            priority,
        }),
        rules: vec![],
    }
}

fn keep_chain() -> TableChain {
    let rule = |family| {
        TableRule::new("no later chain translates the address", move |rule| {
            rule.family(family);
            rule.keep_destination(family);
        })
    };
    TableChain {
        hook: None,
        rules: [NFPROTO_IPV4, NFPROTO_IPV6].map(rule).into(),
    }
}

fn add_chains(table: &mut Table) {
    let mut translation = Vec::new();
    let mut postrouting = base_chain(ChainKind::Nat, HOOK_POSTROUTING, MASQUERADE_PRIORITY);
    let mut refusal = Vec::new();
    let mut to_input = Vec::new();
    for family in [NFPROTO_IPV4, NFPROTO_IPV6] {
        let digit = digit(family);
        translation.push(TableRule::new("services", |rule| {
            rule.verdict_of_frontend(family, &format!("services{digit}"));
        }));
        let ranges = format!("ranges{digit}");
        // A mapped port is one of the host's own addresses, and these are no such ones.
        translation.push(TableRule::new("addresses without a service", |rule| {
            rule.address_in(family, Side::Destination, &ranges);
            rule.goto(KEEP);
        }));
        let masquerade = format!("masquerade{digit}");
        for set in [&ranges, &format!("vips{digit}")] {
            postrouting
                .rules
                .push(TableRule::new("packets to services", |rule| {
                    rule.family(family);
                    rule.translated();
                    rule.original_destination_in(family, set);
                    rule.goto(&masquerade);
                }));
        }
        table
            .chains
            .insert(masquerade.clone(), masquerade_chain(family));
        let refuse = format!("refuse{digit}");
        // A refusal before that would be another error for datagrams: no permission.
        to_input.push(TableRule::new("the host refuses its own packets", |rule| {
            rule.address_in(family, Side::Destination, &ranges);
            rule.is_for_local_address();
            rule.accept();
        }));
        refusal.push(TableRule::new("addresses without a service", |rule| {
            rule.address_in(family, Side::Destination, &ranges);
            rule.goto(&refuse);
        }));
        refusal.push(TableRule::new("services without a ready backend", |rule| {
            rule.frontend_in(family, &format!("refused{digit}"));
            rule.goto("refuse");
        }));
        table.chains.insert(refuse.clone(), refuse_chain(family));
    }
    for (name, number) in [("prerouting", HOOK_PREROUTING), ("output", HOOK_OUTPUT)] {
        let mut chain = base_chain(ChainKind::Nat, number, TRANSLATION_PRIORITY);
        chain.rules.clone_from(&translation);
        table.chains.insert(name.to_owned(), chain);
    }
    table.chains.insert("postrouting".to_owned(), postrouting);
    for (name, number) in [
        ("refuse_input", HOOK_INPUT),
        ("refuse_forward", HOOK_FORWARD),
        ("refuse_output", HOOK_OUTPUT),
    ] {
        let mut chain = base_chain(ChainKind::Filter, number, REFUSAL_PRIORITY);
        if number == HOOK_OUTPUT {
            chain.rules.clone_from(&to_input);
        }
        chain.rules.extend(refusal.iter().cloned());
        table.chains.insert(name.to_owned(), chain);
    }
    let refuse = TableChain {
        hook: None,
        rules: vec![
            TableRule::new("refuse connections", Expressions::reset_tcp),
            TableRule::new("refuse datagrams", Expressions::refuse_port),
        ],
    };
    table.chains.insert("refuse".to_owned(), refuse);
}

/// Masquerades what the backend would answer by another way than that of the request, or not at all.
fn masquerade_chain(family: u8) -> TableChain {
    let digit = digit(family);
    let rules = vec![
        // The backend would answer its neighbour without the host.
        TableRule::new("back to the bridge", |rule| {
            rule.interfaces_in("same_bridge");
            rule.masquerade_fully_random();
        }),
        // A container drops what comes from its own address.
        TableRule::new("back to the client itself", |rule| {
            rule.address_pair_in(family, &format!("own{digit}"));
            rule.masquerade_fully_random();
        }),
        // The address was chosen for the way to the service. Other hosts know that of a tunnel only.
        TableRule::new("of the host itself", |rule| {
            rule.output_interface_in("inside");
            rule.is_from_local_address();
            rule.masquerade_fully_random();
        }),
    ];
    TableChain { hook: None, rules }
}

fn refuse_chain(family: u8) -> TableChain {
    let digit = digit(family);
    let mut rules = vec![
        // A client may have an address of the range as its source.
        TableRule::new("replies", |rule| {
            rule.is_reply();
            rule.accept();
        }),
        TableRule::new("DNS", |rule| {
            rule.frontend_in(family, &format!("dns{digit}"));
            rule.accept();
        }),
    ];
    for protocol in [ICMP, ICMPV6] {
        rules.push(TableRule::new("echo requests and errors", |rule| {
            rule.transport_protocol(protocol);
            rule.accept();
        }));
    }
    rules.push(TableRule::new("everything else", |rule| {
        rule.goto("refuse");
    }));
    TableChain { hook: None, rules }
}
