//! The nftables rules of a plan: two tables, which are replaced together.
//!
//! Marks are local to the host: they are lost when a packet enters another namespace.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;

use ipnet::IpNet;
use uuid::Uuid;

use super::access::{End, Match, Verdict};
use super::items::GATEWAY;
use super::plan::{Floating, Network, Plan, Tap, hash};
use crate::vrouter::options::Forwarding;
use contrail_mesos_api::container::Mac;

/// The name of both tables.
const TABLE: &str = "contrail_vrouter_sim";
/// The mark of packets of known connections.
const KNOWN: &str = "0x10000000";
/// The mark of packets of the host itself, if it has access.
const HOST: &str = "0x20000000";
const NEIGHBOURS: &str = "meta l4proto 58 icmpv6 type { 133, 134, 135, 136 } accept";

/// Removes both tables, whether or not they exist.
pub(super) fn none() -> String {
    ["inet", "bridge"]
        .map(|family| format!("table {family} {TABLE}\ndelete table {family} {TABLE}\n"))
        .concat()
}

/// Replaces both tables.
pub(super) fn rules(plan: &Plan, forwarding: &Forwarding, own: IpAddr) -> String {
    let mut out = none();
    bridge(&mut out, plan, forwarding, own);
    inet(&mut out, plan, forwarding, own);
    out
}

/// Writes a line; text takes whatever it is given.
macro_rules! say {
    ($out:expr, $($text:tt)*) => { let _ = writeln!($out, $($text)*); };
}

fn bridge(out: &mut String, plan: &Plan, forwarding: &Forwarding, own: IpAddr) {
    say!(out, "table bridge {TABLE} {{");
    let vxlans = plan.networks.values().map(|network| network.vxlan.as_str());
    set(out, "vxlans", "ifname", vxlans.map(quoted));
    let local: BTreeSet<_> = plan
        .networks
        .values()
        .flat_map(|network| &network.local)
        .collect();
    let local = local.into_iter().filter(|address| address.is_ipv4());
    set(out, "gateways", "ipv4_addr", local.map(ToString::to_string));
    for (group, addresses) in &plan.members {
        for (letter, kind, v6) in [("m", "ipv4_addr", false), ("n", "ipv6_addr", true)] {
            let of_family = addresses.iter().filter(|address| address.is_ipv6() == v6);
            let name = format!("{letter}{}", hash(*group));
            set(out, &name, kind, of_family.map(ToString::to_string));
        }
    }
    for (uuid, group) in &plan.groups {
        for (letter, rules) in [("i", &group.incoming), ("o", &group.outgoing)] {
            say!(out, "chain {letter}{} {{", hash(*uuid));
            for rule in rules.iter().flat_map(conditions) {
                say!(out, "{rule} accept");
            }
            say!(out, "}}");
        }
    }
    for tap in plan.taps.values() {
        tap_chains(out, tap, forwarding.host_access.then_some(own));
    }
    for (name, hook, priority, interface, prefix) in [
        ("forward_from", "forward", 10, "iifname", "from"),
        ("forward_to", "forward", 20, "oifname", "to"),
        ("input_from", "input", 10, "iifname", "from"),
        ("output_to", "output", 10, "oifname", "to"),
    ] {
        say!(out, "chain {name} {{");
        say!(out, "type filter hook {hook} priority {priority}");
        if name == "forward_from" {
            // Each host answers for the gateways itself.
            say!(out, "oifname @vxlans arp daddr ip @gateways drop");
        }
        let taps = plan.taps.iter();
        let taps: Vec<_> = taps
            .map(|(name, tap)| format!("{} : jump {prefix}_{}", quoted(name), hash(tap.interface)))
            .collect();
        if !taps.is_empty() {
            say!(out, "{interface} vmap {{ {} }}", taps.join(", "));
        }
        say!(out, "}}");
    }
    say!(out, "chain leave {{");
    say!(out, "type filter hook postrouting priority 0");
    let source = host_mac(own);
    say!(
        out,
        "oifname @vxlans ether saddr {GATEWAY} ether saddr set {source}"
    );
    say!(out, "}}");
    say!(out, "}}");
}

/// Sets the source MAC address of frames that a host routed to another host.
fn host_mac(own: IpAddr) -> Mac {
    let last = match own {
        IpAddr::V4(own) => own.octets(),
        IpAddr::V6(own) => {
            let octets = own.octets();
            [octets[12], octets[13], octets[14], octets[15]]
        }
    };
    Mac([0x06, 0x5e, last[0], last[1], last[2], last[3]])
}

fn tap_chains(out: &mut String, tap: &Tap, host: Option<IpAddr>) {
    let name = hash(tap.interface);
    say!(out, "chain from_{name} {{");
    if let Some(sources) = &tap.sources {
        say!(out, "ether saddr != {} drop", Mac(tap.mac));
        let family = |v6: bool| {
            let of_family = sources.iter().filter(move |net| net.addr().is_ipv6() == v6);
            of_family.map(IpNet::to_string).collect::<Vec<_>>()
        };
        let v4 = family(false);
        if v4.is_empty() {
            say!(out, "ether type {{ ip, arp }} drop");
        } else {
            let v4 = v4.join(", ");
            say!(out, "ether type arp arp saddr ip != {{ {v4} }} drop");
            say!(out, "ip saddr != {{ {v4} }} drop");
        }
        let mut v6 = family(true);
        // Link-local addresses, and the unspecified one during duplicate address detection.
        v6.extend(["fe80::/10".to_owned(), "::".to_owned()]);
        say!(out, "ip6 saddr != {{ {} }} drop", v6.join(", "));
        say!(out, "ether type != {{ ip, arp, ip6 }} drop");
    }
    say!(out, "ether type arp accept");
    say!(out, "{NEIGHBOURS}");
    if let Some(host) = host {
        let family = if host.is_ipv4() { "ip" } else { "ip6" };
        say!(out, "{family} daddr {host} accept");
    }
    judge(out, tap, "o");
    say!(out, "}}");
    say!(out, "chain to_{name} {{");
    say!(out, "ether type arp accept");
    say!(out, "{NEIGHBOURS}");
    say!(out, "meta mark & {HOST} == {HOST} accept");
    judge(out, tap, "i");
    say!(out, "}}");
}

fn judge(out: &mut String, tap: &Tap, letter: &str) {
    say!(out, "meta mark & {KNOWN} == {KNOWN} accept");
    let Some(groups) = &tap.groups else {
        return;
    };
    for group in groups {
        say!(out, "jump {letter}{}", hash(*group));
    }
    say!(out, "drop");
}

fn inet(out: &mut String, plan: &Plan, forwarding: &Forwarding, own: IpAddr) {
    say!(out, "table inet {TABLE} {{");
    let bridges = plan
        .networks
        .values()
        .map(|network| network.bridge.as_str());
    set(out, "bridges", "ifname", bridges.map(quoted));
    let to_fabric = plan.ways.iter().filter(|way| way.to.is_none());
    let masked = to_fabric.filter_map(|way| plan.networks.get(&way.from?));
    let masked: BTreeSet<_> = masked.flat_map(|network| network.hosts.keys()).collect();
    for (name, kind, v6) in [
        ("masked4", "ipv4_addr", false),
        ("masked6", "ipv6_addr", true),
    ] {
        let of_family = masked.iter().filter(|address| address.is_ipv6() == v6);
        set(out, name, kind, of_family.map(ToString::to_string));
    }
    for (number, way) in plan.ways.iter().enumerate() {
        let [first, second] = &way.steps;
        // A chain has to be defined before another jumps to it.
        steps(out, &format!("way{number}b"), second, "accept");
        steps(
            out,
            &format!("way{number}a"),
            first,
            &format!("goto way{number}b"),
        );
    }
    say!(
        out,
        "chain zones {{\ntype filter hook prerouting priority -300"
    );
    for network in plan.networks.values().filter(|network| !network.routed) {
        say!(
            out,
            "iifname {} ct zone set {}",
            quoted(&network.bridge),
            zone(network)
        );
    }
    say!(out, "}}");
    say!(
        out,
        "chain known {{\ntype filter hook prerouting priority -150"
    );
    say!(
        out,
        "iifname @bridges ct state established,related meta mark set meta mark | {KNOWN}"
    );
    say!(out, "}}");
    forward(out, plan, forwarding);
    host(out, plan, forwarding, own);
    nat(out, plan, forwarding);
    say!(out, "}}");
}

fn forward(out: &mut String, plan: &Plan, forwarding: &Forwarding) {
    say!(out, "chain forward {{\ntype filter hook forward priority 0");
    say!(out, "iifname != @bridges oifname != @bridges accept");
    say!(
        out,
        "oifname @bridges ct state established,related meta mark set meta mark | {KNOWN}"
    );
    let same = plan.networks.values().map(|network| {
        let bridge = quoted(&network.bridge);
        format!("{bridge} . {bridge} : accept")
    });
    let same: Vec<_> = same.collect();
    if !same.is_empty() {
        say!(out, "iifname . oifname vmap {{ {} }}", same.join(", "));
    }
    say!(out, "ct state established,related accept");
    if let Some(uplink) = &forwarding.uplink {
        let uplink = quoted(uplink);
        say!(
            out,
            "iifname {uplink} oifname @bridges ct status dnat accept"
        );
        for behind in plan
            .floating
            .values()
            .flatten()
            .filter(|behind| behind.outgoing)
        {
            let family = family(behind.fixed);
            say!(
                out,
                "iifname @bridges oifname {uplink} {family} saddr {} accept",
                behind.fixed
            );
        }
    }
    for (number, way) in plan.ways.iter().enumerate() {
        let from = interface(plan, way.from);
        let to = interface(plan, way.to);
        if let (Some(from), Some(to)) = (from, to) {
            say!(out, "iifname {from} oifname {to} goto way{number}a");
        }
    }
    say!(out, "drop\n}}");
}

/// Traffic between the host itself and its networks.
fn host(out: &mut String, plan: &Plan, forwarding: &Forwarding, own: IpAddr) {
    say!(out, "chain input {{\ntype filter hook input priority 0");
    say!(out, "iifname != @bridges accept");
    say!(out, "ct state established,related accept");
    say!(out, "meta l4proto {{ 1, 58 }} accept");
    if forwarding.host_access {
        say!(out, "{} daddr {own} accept", family(own));
    }
    for (number, way) in plan
        .ways
        .iter()
        .enumerate()
        .filter(|(_, way)| way.to.is_none())
    {
        if let Some(from) = interface(plan, way.from) {
            say!(out, "iifname {from} goto way{number}a");
        }
    }
    say!(out, "drop\n}}");
    say!(out, "chain output {{\ntype filter hook output priority 0");
    say!(out, "oifname != @bridges accept");
    say!(
        out,
        "ct state established,related meta mark set meta mark | {KNOWN} accept"
    );
    say!(out, "meta l4proto 58 accept");
    if forwarding.host_access {
        say!(out, "meta mark set meta mark | {HOST} accept");
    }
    for (number, way) in plan
        .ways
        .iter()
        .enumerate()
        .filter(|(_, way)| way.from.is_none())
    {
        if let Some(to) = interface(plan, way.to) {
            say!(out, "oifname {to} goto way{number}a");
        }
    }
    say!(out, "drop\n}}");
}

fn nat(out: &mut String, plan: &Plan, forwarding: &Forwarding) {
    say!(
        out,
        "chain outside {{\ntype nat hook prerouting priority -100"
    );
    if let Some(uplink) = &forwarding.uplink {
        for (outer, behind) in &plan.floating {
            let to = format!(
                "iifname {} {} daddr {outer}",
                quoted(uplink),
                family(*outer)
            );
            destinations(out, &to, *outer, behind);
        }
    }
    say!(out, "}}");
    say!(
        out,
        "chain leave {{\ntype nat hook postrouting priority 100"
    );
    if let Some(uplink) = &forwarding.uplink {
        for (outer, behind) in &plan.floating {
            for behind in behind.iter().filter(|behind| behind.outgoing) {
                let family = family(*outer);
                let from = format!("oifname {} {family} saddr {}", quoted(uplink), behind.fixed);
                say!(out, "{from} snat {family} to {outer}");
            }
        }
    }
    say!(out, "oifname != @bridges ip saddr @masked4 masquerade");
    say!(out, "oifname != @bridges ip6 saddr @masked6 masquerade");
    say!(out, "}}");
}

/// The destinations of packets to a floating IP, in turn if there are several.
fn destinations(out: &mut String, to: &str, outer: IpAddr, behind: &[Floating]) {
    let family = family(outer);
    let mut outer_ports = BTreeSet::new();
    for (protocol, port, _) in behind
        .iter()
        .flat_map(|behind| behind.ports.iter().flatten())
    {
        outer_ports.insert((*protocol, *port));
    }
    let turns = |out: &mut String, from: &str, targets: &[IpAddr], port: Option<u16>| {
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        match targets {
            [] => {}
            [target] if target.is_ipv6() && !port.is_empty() => {
                say!(out, "{from} dnat {family} to [{target}]{port}");
            }
            [target] => {
                say!(out, "{from} dnat {family} to {target}{port}");
            }
            targets => {
                let map = targets.iter().enumerate();
                let map: Vec<_> = map
                    .map(|(turn, target)| format!("{turn} : {target}"))
                    .collect();
                let turn = format!(
                    "numgen inc mod {} map {{ {} }}",
                    targets.len(),
                    map.join(", ")
                );
                say!(out, "{from} dnat {family} to {turn}{port}");
            }
        }
    };
    for (protocol, outer_port) in outer_ports {
        let mut targets = vec![];
        let mut inner_port = None;
        for behind in behind {
            let mut ports = behind.ports.iter().flatten();
            if let Some((_, _, inner)) =
                ports.find(|(of, port, _)| (*of, *port) == (protocol, outer_port))
            {
                targets.push(behind.fixed);
                inner_port = Some(*inner);
            }
        }
        let from = format!("{to} meta l4proto {protocol} th dport {outer_port}");
        turns(out, &from, &targets, inner_port);
    }
    let whole = behind.iter().filter(|behind| behind.ports.is_none());
    let whole: Vec<_> = whole.map(|behind| behind.fixed).collect();
    turns(out, to, &whole, None);
}

fn steps(out: &mut String, name: &str, verdicts: &[Verdict], pass: &str) {
    say!(out, "chain {name} {{");
    for verdict in verdicts {
        let then = if verdict.pass { pass } else { "drop" };
        for rule in conditions(&verdict.matches) {
            say!(out, "{rule} {then}");
        }
    }
    say!(out, "drop\n}}");
}

/// The conditions of a rule, one for each address family that it can match.
fn conditions(rule: &Match) -> Vec<String> {
    let mut out = vec![];
    for v6 in [false, true] {
        let fits = |end: &End| match end {
            End::Prefix(net) => net.addr().is_ipv6() == v6,
            End::Anything | End::Group(_) => true,
        };
        if rule.v6.is_some_and(|only| only != v6) || !fits(&rule.from) || !fits(&rule.to) {
            continue;
        }
        let family = if v6 { "ip6" } else { "ip" };
        let mut text = format!("meta protocol {family}");
        for (side, end) in [("saddr", &rule.from), ("daddr", &rule.to)] {
            let _ = match end {
                End::Anything => Ok(()),
                End::Prefix(net) => write!(text, " {family} {side} {net}"),
                End::Group(group) => {
                    let letter = if v6 { "n" } else { "m" };
                    write!(text, " {family} {side} @{letter}{}", hash(*group))
                }
            };
        }
        if let Some(protocol) = rule.protocol {
            let _ = write!(text, " meta l4proto {protocol}");
        }
        for (side, ports) in [("sport", rule.from_ports), ("dport", rule.to_ports)] {
            if let Some((first, last)) = ports {
                let _ = write!(text, " th {side} {first}-{last}");
            }
        }
        out.push(text);
    }
    out
}

/// The interface of a network, or any interface that is not ours.
fn interface(plan: &Plan, network: Option<Uuid>) -> Option<String> {
    match network {
        Some(uuid) => plan
            .networks
            .get(&uuid)
            .map(|network| quoted(&network.bridge)),
        None => Some("!= @bridges".to_owned()),
    }
}

fn set(out: &mut String, name: &str, kind: &str, elements: impl Iterator<Item = String>) {
    let elements: Vec<_> = elements.collect();
    say!(out, "set {name} {{\ntype {kind}");
    if !elements.is_empty() {
        say!(out, "elements = {{ {} }}", elements.join(", "));
    }
    say!(out, "}}");
}

fn quoted(name: &str) -> String {
    format!("\"{name}\"")
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "ip" } else { "ip6" }
}

/// Separates connections of networks with the same addresses.
fn zone(network: &Network) -> u64 {
    network.number % 65535 + 1
}
