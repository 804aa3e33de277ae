//! Rules of security groups and network policies, reduced to simple matches.

use std::collections::BTreeSet;

use ipnet::IpNet;
use serde_json::Value;
use uuid::Uuid;

use crate::vrouter::config::{Config, Object, prefix};

/// One end of a rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Endpoint {
    Any,
    Prefix(IpNet),
    /// The interfaces of a security group.
    Group(Uuid),
}

/// What a rule matches.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Match {
    /// IPv6, IPv4, or none for both.
    pub(super) v6: Option<bool>,
    pub(super) protocol: Option<u8>,
    pub(super) from: Endpoint,
    pub(super) to: Endpoint,
    pub(super) from_ports: Option<(u16, u16)>,
    pub(super) to_ports: Option<(u16, u16)>,
}

/// A rule of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) matches: Match,
    pub(super) pass: bool,
}

/// What a security group allows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) incoming: BTreeSet<Match>,
    pub(super) outgoing: BTreeSet<Match>,
    /// The groups that its rules refer to.
    pub(super) peers: BTreeSet<Uuid>,
}

/// Reads the rules of a security group.
pub(super) fn group(config: &Config, group: &Object) -> Group {
    let mut out = Group::default();
    for rule in list(&group.field("security_group_entries")["policy_rule"]) {
        let (from, to) = (list(&rule["src_addresses"]), list(&rule["dst_addresses"]));
        let is_local = |ends: &[Value]| ends.iter().any(|end| end["security_group"] == "local");
        if is_local(to) {
            let peers = group_ends(config, group, from);
            out.incoming
                .extend(matches(rule, &peers, &[Endpoint::Any], false));
            out.note(&peers);
        }
        if is_local(from) {
            let peers = group_ends(config, group, to);
            out.outgoing
                .extend(matches(rule, &[Endpoint::Any], &peers, false));
            out.note(&peers);
        }
    }
    out
}

impl Group {
    fn note(&mut self, ends: &[Endpoint]) {
        self.peers.extend(ends.iter().filter_map(|end| match end {
            Endpoint::Group(group) => Some(*group),
            _ => None,
        }));
    }
}

fn group_ends(config: &Config, own: &Object, ends: &[Value]) -> Vec<Endpoint> {
    let mut out = vec![];
    for end in ends {
        match end["security_group"].as_str() {
            None | Some("local" | "") => {}
            Some("any") => out.push(Endpoint::Any),
            Some(name) if name == own.name() => out.push(Endpoint::Group(own.uuid)),
            Some(name) => {
                let mut groups = config.of_kind("security-group");
                let peer = groups.find(|group| group.name() == name);
                out.extend(peer.map(|peer| Endpoint::Group(peer.uuid)));
            }
        }
        out.extend(prefixes(end));
    }
    out
}

fn prefixes(end: &Value) -> impl Iterator<Item = Endpoint> {
    let all = list(&end["subnet_list"]).iter().chain([&end["subnet"]]);
    all.filter_map(prefix).map(Endpoint::Prefix)
}

/// The verdicts of the policies of network `of` on packets between two networks, in order.
pub(super) fn policy(config: &Config, of: &Object, from: &Object, to: &Object) -> Vec<Verdict> {
    let mut attached: Vec<_> = config.targets(of, "network-policy").collect();
    attached.sort_by_key(|(_, attr)| {
        let part = |name: &str| attr["sequence"][name].as_i64().unwrap_or(0);
        (part("major"), part("minor"))
    });
    let mut verdicts = vec![];
    for (policy, _) in attached {
        for rule in list(&policy.field("network_policy_entries")["policy_rule"]) {
            let pass = match rule["action_list"]["simple_action"].as_str() {
                Some("deny") => false,
                Some("pass") => true,
                _ => continue,
            };
            let ends = |side: &str, network| {
                let ends = list(&rule[side])
                    .iter()
                    .filter_map(|end| policy_ends(config, of, end, network));
                ends.flatten().collect::<Vec<_>>()
            };
            let mut add = |from_side, to_side, reversed| {
                let (from, to) = (ends(from_side, from), ends(to_side, to));
                let found = matches(rule, &from, &to, reversed).into_iter();
                verdicts.extend(found.map(|matches| Verdict { matches, pass }));
            };
            let direction = rule["direction"].as_str().unwrap_or("<>");
            if direction.contains('>') {
                add("src_addresses", "dst_addresses", false);
            }
            if direction.contains('<') {
                add("dst_addresses", "src_addresses", true);
            }
        }
    }
    verdicts
}

/// What one end of a rule matches in a network; none if it does not apply to the network.
fn policy_ends(
    config: &Config,
    of: &Object,
    end: &Value,
    network: &Object,
) -> Option<Vec<Endpoint>> {
    let named = |name: &str| end[name].as_str().filter(|text| !text.is_empty());
    let meant = match (named("virtual_network"), named("network_policy")) {
        (Some("any"), _) | (None, Some("any")) => true,
        (Some("local"), _) => of.uuid == network.uuid,
        (Some(name), _) => network.name() == name,
        (None, Some(name)) => config
            .targets(network, "network-policy")
            .any(|(policy, _)| policy.name() == name),
        (None, None) => prefixes(end).next().is_some(),
    };
    let prefixes: Vec<_> = prefixes(end).collect();
    meant.then_some(if prefixes.is_empty() {
        vec![Endpoint::Any]
    } else {
        prefixes
    })
}

fn matches(rule: &Value, from: &[Endpoint], to: &[Endpoint], reversed: bool) -> Vec<Match> {
    let Some(protocol) = protocol(&rule["protocol"], rule["ethertype"] == "IPv6") else {
        return vec![];
    };
    let v6 = match rule["ethertype"].as_str() {
        Some("IPv4") => Some(false),
        Some("IPv6") => Some(true),
        _ => None,
    };
    let sides = if reversed {
        ["dst_ports", "src_ports"]
    } else {
        ["src_ports", "dst_ports"]
    };
    let [from_ports, to_ports] = sides.map(|side| ports(&rule[side], protocol));
    let mut out = vec![];
    for from in from {
        for to in to {
            for from_ports in &from_ports {
                for to_ports in &to_ports {
                    out.push(Match {
                        v6,
                        protocol,
                        from: from.clone(),
                        to: to.clone(),
                        from_ports: *from_ports,
                        to_ports: *to_ports,
                    });
                }
            }
        }
    }
    out
}

/// The protocol number; the inner none means any.
#[expect(clippy::option_option, reason = "unknown, any, or one")]
fn protocol(value: &Value, v6: bool) -> Option<Option<u8>> {
    match value.as_str()? {
        "any" => Some(None),
        "icmp" if v6 => Some(Some(58)),
        "icmp" => Some(Some(1)),
        "icmp6" => Some(Some(58)),
        "tcp" => Some(Some(6)),
        "udp" => Some(Some(17)),
        number => number.parse().ok().map(Some),
    }
}

/// The port ranges of one side; none for any port. Only TCP, UDP and SCTP have ports.
fn ports(value: &Value, protocol: Option<u8>) -> Vec<Option<(u16, u16)>> {
    let has_ports = protocol.is_some_and(|protocol| [6, 17, 132].contains(&protocol));
    let ranges = list(value).iter().filter(|_| has_ports).map(|range| {
        let port = |name: &str| u16::try_from(range[name].as_i64()?).ok();
        let range = (port("start_port")?, port("end_port")?);
        (range != (0, u16::MAX)).then_some(range)
    });
    let ranges: Vec<_> = ranges.collect();
    if ranges.is_empty() || ranges.contains(&None) {
        vec![None]
    } else {
        ranges
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
