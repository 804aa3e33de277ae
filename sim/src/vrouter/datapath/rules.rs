//! The nftables rules of a plan: two tables, which are replaced together.
//!
//! Marks are local to the host: they are lost when a packet enters another namespace.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;

use ipnet::IpNet;
use uuid::Uuid;

use super::access::{Endpoint, Match, Verdict};
use super::items::GATEWAY_MAC;
use super::plan::{FloatingIp, Network, Plan, Tap, hash};
use super::virtual_ips;
use crate::vrouter::options::Forwarding;
use contrail_mesos_api::container::Mac;

/// The name of both tables.
const TABLE: &str = "contrail_vrouter_sim";
/// The mark of packets of known connections.
const CONNECTION_MARK: &str = "0x10000000";
/// The mark of packets of the host itself, if it has access.
const HOST_MARK: &str = "0x20000000";
/// What fits into a segment of an uplink with an MTU of 1500, in a VXLAN, with IPv6 inside and outside.
const MAX_SEGMENT_BYTES: u16 = 1370;
const ACCEPT_NEIGHBOUR_DISCOVERY: &str =
    "meta l4proto 58 icmpv6 type { 133, 134, 135, 136 } accept";

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

/// Writes a line; writing to a string cannot fail.
macro_rules! emit {
    ($out:expr, $($text:tt)*) => { let _ = writeln!($out, $($text)*); };
}
pub(super) use emit;

fn bridge(out: &mut String, plan: &Plan, forwarding: &Forwarding, own: IpAddr) {
    emit!(out, "table bridge {TABLE} {{");
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
        for (prefix, kind, v6) in [("m", "ipv4_addr", false), ("n", "ipv6_addr", true)] {
            let of_family = addresses.iter().filter(|address| address.is_ipv6() == v6);
            let name = format!("{prefix}{}", hash(*group));
            set(out, &name, kind, of_family.map(ToString::to_string));
        }
    }
    for (uuid, group) in &plan.groups {
        for (prefix, rules) in [("i", &group.incoming), ("o", &group.outgoing)] {
            emit!(out, "chain {prefix}{} {{", hash(*uuid));
            for rule in rules.iter().flat_map(conditions) {
                emit!(out, "{rule} accept");
            }
            emit!(out, "}}");
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
        emit!(out, "chain {name} {{");
        emit!(out, "type filter hook {hook} priority {priority}");
        if name == "forward_from" {
            // Each host answers for the gateways itself.
            emit!(out, "oifname @vxlans arp daddr ip @gateways drop");
        }
        let taps: Vec<_> = plan
            .taps
            .iter()
            .map(|(name, tap)| format!("{} : jump {prefix}_{}", quoted(name), hash(tap.interface)))
            .collect();
        if !taps.is_empty() {
            emit!(out, "{interface} vmap {{ {} }}", taps.join(", "));
        }
        emit!(out, "}}");
    }
    emit!(out, "chain leave {{");
    emit!(out, "type filter hook postrouting priority 0");
    let source = host_mac(own);
    emit!(
        out,
        "oifname @vxlans ether saddr {GATEWAY_MAC} ether saddr set {source}"
    );
    emit!(out, "}}");
    emit!(out, "}}");
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
    emit!(out, "chain from_{name} {{");
    if let Some(sources) = &tap.sources {
        emit!(out, "ether saddr != {} drop", Mac(tap.mac));
        let family = |v6: bool| {
            let of_family = sources.iter().filter(move |net| net.addr().is_ipv6() == v6);
            of_family.map(IpNet::to_string).collect::<Vec<_>>()
        };
        let v4 = family(false);
        if v4.is_empty() {
            emit!(out, "ether type {{ ip, arp }} drop");
        } else {
            let v4 = v4.join(", ");
            emit!(out, "ether type arp arp saddr ip != {{ {v4} }} drop");
            emit!(out, "ip saddr != {{ {v4} }} drop");
        }
        let mut v6 = family(true);
        // Link-local addresses, and the unspecified one during duplicate address detection.
        v6.extend(["fe80::/10".to_owned(), "::".to_owned()]);
        emit!(out, "ip6 saddr != {{ {} }} drop", v6.join(", "));
        emit!(out, "ether type != {{ ip, arp, ip6 }} drop");
    }
    emit!(out, "ether type arp accept");
    emit!(out, "{ACCEPT_NEIGHBOUR_DISCOVERY}");
    if let Some(host) = host {
        let family = if host.is_ipv4() { "ip" } else { "ip6" };
        emit!(out, "{family} daddr {host} accept");
    }
    check_groups(out, tap, "o");
    emit!(out, "}}");
    emit!(out, "chain to_{name} {{");
    emit!(out, "ether type arp accept");
    emit!(out, "{ACCEPT_NEIGHBOUR_DISCOVERY}");
    emit!(out, "meta mark & {HOST_MARK} == {HOST_MARK} accept");
    check_groups(out, tap, "i");
    emit!(out, "}}");
}

fn check_groups(out: &mut String, tap: &Tap, prefix: &str) {
    emit!(
        out,
        "meta mark & {CONNECTION_MARK} == {CONNECTION_MARK} accept"
    );
    let Some(groups) = &tap.groups else {
        return;
    };
    for group in groups {
        emit!(out, "jump {prefix}{}", hash(*group));
    }
    emit!(out, "drop");
}

fn inet(out: &mut String, plan: &Plan, forwarding: &Forwarding, own: IpAddr) {
    emit!(out, "table inet {TABLE} {{");
    let bridges = plan
        .networks
        .values()
        .map(|network| network.bridge.as_str());
    set(out, "bridges", "ifname", bridges.map(quoted));
    let to_fabric = plan
        .connections
        .iter()
        .filter(|connection| connection.to.is_none());
    let masked: BTreeSet<_> = to_fabric
        .filter_map(|connection| plan.networks.get(&connection.from?))
        .flat_map(|network| network.hosts.keys())
        .collect();
    for (name, kind, v6) in [
        ("masked4", "ipv4_addr", false),
        ("masked6", "ipv6_addr", true),
    ] {
        let of_family = masked.iter().filter(|address| address.is_ipv6() == v6);
        set(out, name, kind, of_family.map(ToString::to_string));
    }
    for (number, connection) in plan.connections.iter().enumerate() {
        let [first, second] = &connection.steps;
        // A chain has to be defined before another jumps to it.
        steps(out, &format!("connection{number}b"), second, "accept");
        steps(
            out,
            &format!("connection{number}a"),
            first,
            &format!("goto connection{number}b"),
        );
    }
    emit!(
        out,
        "chain zones {{\ntype filter hook prerouting priority -300"
    );
    for network in plan.networks.values().filter(|network| !network.routed) {
        emit!(
            out,
            "iifname {} ct zone set {}",
            quoted(&network.bridge),
            zone(network)
        );
    }
    emit!(out, "}}");
    emit!(
        out,
        "chain known {{\ntype filter hook prerouting priority -150"
    );
    emit!(
        out,
        "iifname @bridges ct state established,related meta mark set meta mark | {CONNECTION_MARK}"
    );
    emit!(out, "}}");
    virtual_ips::filter(out, plan);
    forward(out, plan, forwarding);
    host(out, plan, forwarding, own);
    nat(out, plan, forwarding);
    emit!(out, "}}");
}

fn forward(out: &mut String, plan: &Plan, forwarding: &Forwarding) {
    emit!(out, "chain forward {{\ntype filter hook forward priority 0");
    emit!(out, "iifname != @bridges oifname != @bridges accept");
    // A vRouter does this for all connections. Others learn the MTU from the VXLAN, whose messages do
    // not pass replaced addresses.
    emit!(
        out,
        "ct status dnat tcp flags syn tcp option maxseg size set {MAX_SEGMENT_BYTES}"
    );
    emit!(
        out,
        "oifname @bridges ct state established,related meta mark set meta mark | {CONNECTION_MARK}"
    );
    let same = plan.networks.values().map(|network| {
        let bridge = quoted(&network.bridge);
        format!("{bridge} . {bridge} : accept")
    });
    let same: Vec<_> = same.collect();
    if !same.is_empty() {
        emit!(out, "iifname . oifname vmap {{ {} }}", same.join(", "));
    }
    emit!(out, "ct state established,related accept");
    // To virtual IPs and link-local services, by rules that have passed them.
    emit!(out, "iifname @bridges ct status dnat accept");
    if let Some(uplink) = &forwarding.uplink {
        let uplink = quoted(uplink);
        emit!(
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
            emit!(
                out,
                "iifname @bridges oifname {uplink} {family} saddr {} accept",
                behind.fixed
            );
        }
    }
    for (number, connection) in plan.connections.iter().enumerate() {
        let from = interface(plan, connection.from);
        let to = interface(plan, connection.to);
        if let (Some(from), Some(to)) = (from, to) {
            emit!(out, "iifname {from} oifname {to} goto connection{number}a");
        }
    }
    emit!(out, "drop\n}}");
}

/// Traffic between the host itself and its networks.
fn host(out: &mut String, plan: &Plan, forwarding: &Forwarding, own: IpAddr) {
    emit!(out, "chain input {{\ntype filter hook input priority 0");
    emit!(out, "iifname != @bridges accept");
    emit!(out, "ct state established,related accept");
    // A link-local service of this host.
    emit!(out, "ct status dnat accept");
    emit!(out, "meta l4proto {{ 1, 58 }} accept");
    if forwarding.host_access {
        emit!(out, "{} daddr {own} accept", family(own));
    }
    for (number, connection) in plan
        .connections
        .iter()
        .enumerate()
        .filter(|(_, connection)| connection.to.is_none())
    {
        if let Some(from) = interface(plan, connection.from) {
            emit!(out, "iifname {from} goto connection{number}a");
        }
    }
    emit!(out, "drop\n}}");
    emit!(out, "chain output {{\ntype filter hook output priority 0");
    emit!(out, "oifname != @bridges accept");
    emit!(
        out,
        "ct state established,related meta mark set meta mark | {CONNECTION_MARK} accept"
    );
    emit!(out, "meta l4proto 58 accept");
    if forwarding.host_access {
        emit!(out, "meta mark set meta mark | {HOST_MARK} accept");
    }
    for (number, connection) in plan
        .connections
        .iter()
        .enumerate()
        .filter(|(_, connection)| connection.from.is_none())
    {
        if let Some(to) = interface(plan, connection.to) {
            emit!(out, "oifname {to} goto connection{number}a");
        }
    }
    emit!(out, "drop\n}}");
}

fn nat(out: &mut String, plan: &Plan, forwarding: &Forwarding) {
    emit!(
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
    virtual_ips::nat(out, plan);
    emit!(out, "}}");
    emit!(
        out,
        "chain leave {{\ntype nat hook postrouting priority 100"
    );
    if let Some(uplink) = &forwarding.uplink {
        for (outer, behind) in &plan.floating {
            for behind in behind.iter().filter(|behind| behind.outgoing) {
                let family = family(*outer);
                let from = format!("oifname {} {family} saddr {}", quoted(uplink), behind.fixed);
                emit!(out, "{from} snat {family} to {outer}");
            }
        }
    }
    virtual_ips::masquerade(out);
    emit!(out, "oifname != @bridges ip saddr @masked4 masquerade");
    emit!(out, "oifname != @bridges ip6 saddr @masked6 masquerade");
    emit!(out, "}}");
}

/// The destinations of packets to a floating IP, in turn if there are several.
pub(super) fn destinations(out: &mut String, to: &str, outer: IpAddr, behind: &[FloatingIp]) {
    let family = family(outer);
    let mut outer_ports = BTreeSet::new();
    for (protocol, port, _) in behind
        .iter()
        .flat_map(|behind| behind.ports.iter().flatten())
    {
        outer_ports.insert((*protocol, *port));
    }
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
        emit_turns(out, family, &from, &targets, inner_port);
    }
    let whole: Vec<_> = behind
        .iter()
        .filter(|behind| behind.ports.is_none())
        .map(|behind| behind.fixed)
        .collect();
    emit_turns(out, family, to, &whole, None);
}

/// Replaces the destination of packets, in turn if there are several.
pub(super) fn emit_turns(
    out: &mut String,
    family: &str,
    from: &str,
    targets: &[IpAddr],
    port: Option<u16>,
) {
    let port = port.map(|port| format!(":{port}")).unwrap_or_default();
    match targets {
        [] => {}
        [target] if target.is_ipv6() && !port.is_empty() => {
            emit!(out, "{from} dnat {family} to [{target}]{port}");
        }
        [target] => {
            emit!(out, "{from} dnat {family} to {target}{port}");
        }
        targets => {
            let map: Vec<_> = targets
                .iter()
                .enumerate()
                .map(|(turn, target)| format!("{turn} : {target}"))
                .collect();
            let turn = format!(
                "numgen inc mod {} map {{ {} }}",
                targets.len(),
                map.join(", ")
            );
            emit!(out, "{from} dnat {family} to {turn}{port}");
        }
    }
}

pub(super) fn steps(out: &mut String, name: &str, verdicts: &[Verdict], pass: &str) {
    emit!(out, "chain {name} {{");
    for verdict in verdicts {
        let then = if verdict.pass { pass } else { "drop" };
        for rule in conditions(&verdict.matches) {
            emit!(out, "{rule} {then}");
        }
    }
    emit!(out, "drop\n}}");
}

/// The conditions of a rule, one for each address family that it can match.
fn conditions(rule: &Match) -> Vec<String> {
    let mut out = vec![];
    for v6 in [false, true] {
        let fits = |end: &Endpoint| match end {
            Endpoint::Prefix(net) => net.addr().is_ipv6() == v6,
            Endpoint::Any | Endpoint::Group(_) => true,
        };
        if rule.v6.is_some_and(|only| only != v6) || !fits(&rule.from) || !fits(&rule.to) {
            continue;
        }
        let family = if v6 { "ip6" } else { "ip" };
        let mut text = format!("meta protocol {family}");
        for (side, end) in [("saddr", &rule.from), ("daddr", &rule.to)] {
            let _ = match end {
                Endpoint::Any => Ok(()),
                Endpoint::Prefix(net) => write!(text, " {family} {side} {net}"),
                Endpoint::Group(group) => {
                    let prefix = if v6 { "n" } else { "m" };
                    write!(text, " {family} {side} @{prefix}{}", hash(*group))
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

pub(super) fn set(
    out: &mut String,
    name: &str,
    kind: &str,
    elements: impl Iterator<Item = String>,
) {
    let elements: Vec<_> = elements.collect();
    emit!(out, "set {name} {{\ntype {kind}");
    if !elements.is_empty() {
        emit!(out, "elements = {{ {} }}", elements.join(", "));
    }
    emit!(out, "}}");
}

pub(super) fn quoted(name: &str) -> String {
    format!("\"{name}\"")
}

pub(super) fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "ip" } else { "ip6" }
}

/// Separates connections of networks with the same addresses.
fn zone(network: &Network) -> u64 {
    network.number % 65535 + 1
}
