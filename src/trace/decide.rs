//! The steps of a packet: a pure function of what was found on its way.

use std::net::IpAddr;

use contrail_mesos_api::text::Quoted;

use super::path::{
    Branch, ContainerFacts, Crossing, FlowsFacts, HostEnd, MappingFacts, NodeFacts, Path,
    PolicyFacts, RoutedFacts, Routing, ServiceFacts, SocketFacts, SourceSide, TargetSide,
};
use super::policy::{JudgedPacket, PolicyVerdict, judge};
use super::{Outcome, Step, Verdict};
use crate::net::listeners::Transport;
use crate::net::nft::groups::DropReason;
use crate::net::nft::verdict::{FirewallVerdict, PacketHook};
use crate::net::route_answer::RouteRefusal;

/// The place of the host's steps.
const HOST: &str = "host";
/// What is done about the host's side of containers.
const REPAIR: &str = "a running contrail-mesos-node or agent puts it back; see why it does not";
/// What is done about the rules for groups.
const GROUP_RULES_REPAIR: &str = "start contrail-mesos-node and see its log; it makes the rules from the checkpoints and the managers' state";
/// What is done about the way to other nodes.
const OVERLAY_REPAIR: &str =
    "contrail-mesos-node puts it back; see its log and contrail-mesos status --cluster";

#[derive(Default)]
struct Steps {
    steps: Vec<Step>,
    place: String,
}

impl Steps {
    fn at(&mut self, place: impl Into<String>) {
        self.place = place.into();
    }

    fn add(&mut self, outcome: Outcome, code: &'static str, text: String, remedy: Option<String>) {
        self.steps.push(Step {
            place: self.place.clone(),
            code,
            outcome,
            text,
            remedy,
        });
    }

    fn passes(&mut self, code: &'static str, text: impl Into<String>) {
        self.add(Outcome::Passes, code, text.into(), None);
    }

    fn stops(&mut self, code: &'static str, text: impl Into<String>, remedy: impl Into<String>) {
        self.add(Outcome::Stops, code, text.into(), Some(remedy.into()));
    }

    fn unknown(&mut self, code: &'static str, text: impl Into<String>, remedy: impl Into<String>) {
        self.add(Outcome::Unknown, code, text.into(), Some(remedy.into()));
    }
}

/// Says what happens to the packet: the steps, the verdict, and the code of what stops it.
#[must_use]
pub fn decide(path: &Path) -> (Vec<Step>, Verdict, Option<&'static str>) {
    let mut steps = Steps::default();
    match &path.source {
        SourceSide::Container(facts) => {
            container(&mut steps, facts);
            sends(&mut steps, facts, path.destination);
            if let Some(end) = &facts.host_end {
                host_end(&mut steps, end);
            }
        }
        SourceSide::Host => {}
        SourceSide::Outside { interface } => outside(&mut steps, interface.as_deref()),
    }
    let is_inside = path
        .branches
        .iter()
        .all(|branch| matches!(branch.crossing, Crossing::None));
    steps.at(HOST);
    if !is_inside {
        flows(&mut steps, path.flows);
    }
    if let Some(facts) = &path.service {
        service(&mut steps, facts);
    }
    if let Some(facts) = &path.mapping {
        mapping(&mut steps, facts, path.port);
    }
    for branch in &path.branches {
        follow(&mut steps, path, branch);
    }
    let first = |outcome| {
        let mut steps = steps.steps.iter();
        steps.find(|step| step.outcome == outcome)
    };
    let leaves = |branch: &Branch| {
        matches!(
            branch.target,
            TargetSide::Elsewhere | TargetSide::Node(_) | TargetSide::Nobody { .. }
        )
    };
    let (verdict, cause) = if let Some(step) = first(Outcome::Stops) {
        (Verdict::Blocked, Some(step.code))
    } else if let Some(step) = first(Outcome::Unknown) {
        (Verdict::Unknown, Some(step.code))
    } else if path.branches.iter().any(leaves) {
        (Verdict::Leaves, None)
    } else {
        (Verdict::Reachable, None)
    };
    (steps.steps, verdict, cause)
}

fn quoted(text: &str) -> Quoted<'_> {
    Quoted(text.as_bytes())
}

/// The container's own side: attached, with its interface and addresses.
fn container(steps: &mut Steps, facts: &ContainerFacts) {
    let name = &facts.name;
    steps.at(format!("container {name}"));
    if !facts.is_attached {
        steps.stops(
            "not-attached",
            format!(
                "the attach to network {} is not complete",
                quoted(&facts.network)
            ),
            "wait until it is running; if it never is, see the agent's log",
        );
    }
    if let Some(error) = &facts.namespace_error {
        steps.stops(
            "namespace-gone",
            format!("its network namespace cannot be entered: {error}"),
            "the container has ended, or its handle was removed: contrail-mesos check names what is left",
        );
        return;
    }
    let interface = &facts.interface;
    match facts.is_up {
        None => steps.stops(
            "interface-gone",
            format!("it has no interface {interface}"),
            "somebody removed it: restart the task",
        ),
        Some(false) => steps.stops(
            "interface-down",
            format!("its interface {interface} is down"),
            format!(
                "set it up again in the container (ip link set {interface} up), or restart the task"
            ),
        ),
        Some(true) if facts.missing_addresses.is_empty() => {
            steps.passes(
                "interface",
                format!("{interface} is up, with its addresses"),
            );
        }
        Some(true) => {}
    }
    if facts.is_up.is_some() {
        for address in &facts.missing_addresses {
            steps.stops(
                "address-missing",
                format!("{interface} lacks the container's address {address}"),
                "somebody removed it in the container: restart the task",
            );
        }
    }
}

fn sends(steps: &mut Steps, facts: &ContainerFacts, destination: IpAddr) {
    match &facts.route {
        None => {}
        Some(Routing::Local) => {
            steps.passes(
                "container-route",
                format!("{destination} is its own address"),
            );
        }
        Some(Routing::Leaves {
            interface, gateway, ..
        }) => {
            let text = match gateway {
                Some(gateway) => {
                    format!("{destination} is behind the gateway {gateway} by {interface}")
                }
                None => format!("{destination} is on the link of {interface}"),
            };
            steps.passes("container-route", text);
        }
        Some(Routing::Refused(refusal)) => no_route(
            steps,
            "container-route-missing",
            *refusal,
            destination,
            "the container's routes come from the network's configuration (gateway, routes); restart the task if \
             somebody changed them",
        ),
    }
}

fn no_route(
    steps: &mut Steps,
    code: &'static str,
    refusal: RouteRefusal,
    destination: IpAddr,
    remedy: &str,
) {
    let text = match refusal {
        RouteRefusal::NoRoute => format!("there is no route to {destination}"),
        RouteRefusal::Blackhole => {
            format!("a route or rule drops packets to {destination} (blackhole)")
        }
        RouteRefusal::Unreachable => {
            format!("a route or rule refuses packets to {destination} (unreachable or prohibit)")
        }
        RouteRefusal::ReversePath => {
            steps.stops(
                "reverse-path-filter",
                "rp_filter drops the packet: one back to its source would leave by another interface",
                "correct the routes, or set rp_filter to 2 (loose) where the packet comes in",
            );
            return;
        }
        RouteRefusal::Other(errno) => {
            format!("the kernel refuses to route to {destination}: {errno}")
        }
    };
    steps.stops(code, text, remedy);
}

fn host_end(steps: &mut Steps, end: &HostEnd) {
    let HostEnd {
        interface, bridge, ..
    } = end;
    steps.at(HOST);
    let before = steps.steps.len();
    match end.is_up {
        None => steps.stops(
            "host-interface-gone",
            format!("the host's end {interface} is gone"),
            "somebody removed it: restart the task",
        ),
        Some(false) => steps.stops(
            "host-interface-down",
            format!("the host's end {interface} is down"),
            format!("ip link set {interface} up"),
        ),
        Some(true) => {}
    }
    match end.is_bridge_up {
        None => steps.stops(
            "bridge-gone",
            format!("the bridge {bridge} is gone"),
            REPAIR,
        ),
        Some(false) => steps.stops(
            "bridge-down",
            format!("the bridge {bridge} is down"),
            format!("ip link set {bridge} up; {REPAIR}"),
        ),
        Some(true) => {}
    }
    if end.is_up.is_some() && end.is_bridge_up.is_some() && !end.is_port {
        steps.stops(
            "bridge-port-missing",
            format!("{interface} is no port of the bridge {bridge}"),
            REPAIR,
        );
    }
    if end.is_bridge_up.is_some() {
        for gateway in &end.missing_gateways {
            steps.stops(
                "gateway-missing",
                format!("the bridge {bridge} lacks the gateway's address {gateway}"),
                REPAIR,
            );
        }
    }
    if steps.steps.len() == before {
        steps.passes(
            "bridge-port",
            format!("{interface} is a port of the bridge {bridge}, both are up"),
        );
    }
}

fn outside(steps: &mut Steps, interface: Option<&str>) {
    steps.at(HOST);
    match interface {
        Some(interface) => steps.passes("comes-in", format!("the packet comes in by {interface}")),
        None => steps.stops(
            "no-route-back",
            "the host has no route back to the source, so it does not get an answer",
            "add a route on the host, such as a default route",
        ),
    }
}

fn flows(steps: &mut Steps, facts: FlowsFacts) {
    let FlowsFacts { flows, limit } = facts;
    if limit > 0 && flows >= limit {
        steps.stops(
            "flow-table-full",
            format!("the table of tracked flows is full: {flows} of {limit}, so new connections are dropped"),
            "raise net.netfilter.nf_conntrack_max, and look for who opens so many connections",
        );
    }
}

fn service(steps: &mut Steps, facts: &ServiceFacts) {
    let name = quoted(&facts.name);
    let draining = match facts.draining.as_slice() {
        [] => String::new(),
        draining => format!(
            "; without new connections (killed, or their health checks fail): {}",
            draining.join(", ")
        ),
    };
    if !facts.is_programmed {
        steps.stops(
            "service-not-applied",
            format!("the rules of this host have no service {name}{draining}"),
            "see the problems of the subsystem services: contrail-mesos doctor, and the log of contrail-mesos-node",
        );
    } else if facts.backends.is_empty() {
        let code = if facts.draining.is_empty() {
            "service-without-backend"
        } else {
            "service-backends-unhealthy"
        };
        steps.stops(
            code,
            format!("the service {name} has no backend that gets connections, so they are refused{draining}"),
            "start a task with the label of the service, or see why its health checks fail",
        );
    } else {
        let backends: Vec<_> = facts.backends.iter().map(ToString::to_string).collect();
        steps.passes(
            "service",
            format!(
                "the service {name} sends it to one of {}{draining}",
                backends.join(", ")
            ),
        );
    }
}

fn mapping(steps: &mut Steps, facts: &MappingFacts, port: u16) {
    let owner = facts
        .container
        .as_ref()
        .map_or_else(String::new, |name| format!(" of the container {name}"));
    match facts.target {
        Some(target) => steps.passes(
            "port-mapping",
            format!("port {port} is mapped to {target}{owner}"),
        ),
        None => steps.stops(
            "port-mapping-missing",
            format!("port {port}{owner} is mapped, but the host's rules (table inet contrail_mesos) lack it"),
            "somebody changed the table; a running contrail-mesos-node or agent puts it back",
        ),
    }
}

fn follow(steps: &mut Steps, path: &Path, branch: &Branch) {
    steps.at(HOST);
    match &branch.crossing {
        Crossing::None => {}
        Crossing::Vrouter => vrouter(steps, path),
        Crossing::Switched {
            bridge,
            is_isolated,
            firewall,
        } => {
            if *is_isolated {
                steps.stops(
                    "bridge-ports-isolated",
                    format!("the ports of the bridge {bridge} are isolated from each other"),
                    "on a network that isolates groups, containers reach each other by their gateway: somebody \
                     changed the routes in the container",
                );
            } else {
                steps.passes(
                    "switched",
                    format!("the bridge {bridge} forwards it by itself"),
                );
            }
            if let Some(firewall) = firewall {
                self::firewall(steps, firewall, PacketHook::Forward, HOST);
            }
        }
        Crossing::Routed(facts) => routed(steps, path, branch, facts),
    }
    target(steps, path, branch);
}

fn routed(steps: &mut Steps, path: &Path, branch: &Branch, facts: &RoutedFacts) {
    let destination = branch.destination.ip();
    if !facts.forwards {
        steps.stops(
            "forwarding-off",
            format!(
                "the host does not forward: {} is not 1",
                facts.forwarding_setting
            ),
            format!(
                "sysctl -w {}=1, and see what sets it to 0",
                facts.forwarding_setting
            ),
        );
    }
    if let Some(facts) = &branch.policy {
        policy(steps, path, branch, facts);
    }
    match &facts.route {
        Routing::Local => {}
        Routing::Leaves {
            interface, gateway, ..
        } => {
            let by = gateway.map_or_else(String::new, |gateway| format!(" by {gateway}"));
            steps.passes(
                "host-route",
                format!("the host routes {destination} to {interface}{by}"),
            );
        }
        // The same setting, as the kernel says it.
        Routing::Refused(RouteRefusal::Unreachable) if !facts.forwards => {}
        Routing::Refused(refusal) => no_route(
            steps,
            "host-route-missing",
            *refusal,
            destination,
            "see ip route get and ip rule; for an overlay, the log of contrail-mesos-node",
        ),
    }
    firewall(steps, &facts.firewall, facts.hook, HOST);
    match facts.masquerade {
        Some(true) => steps.passes("masquerade", "the source becomes the host's address"),
        // Other containers answer by the host, too.
        Some(false) if matches!(branch.target, TargetSide::Elsewhere) => steps.stops(
            "masquerade-missing",
            "the host's rules (table inet contrail_mesos) do not translate the source, so that no answer comes back",
            "somebody changed the table; a running contrail-mesos-node or agent puts it back",
        ),
        Some(false) | None => {}
    }
}

/// What rules of other programs do.
fn firewall(steps: &mut Steps, verdict: &FirewallVerdict, hook: PacketHook, place: &str) {
    let hook = hook.name();
    if let Some(drop) = &verdict.drop {
        let (family, table, chain) = (drop.family, quoted(&drop.table), quoted(&drop.chain));
        let what = drop.rule.map_or_else(
            || "the policy".to_owned(),
            |number| {
                let comment = drop
                    .comment
                    .as_ref()
                    .map_or_else(String::new, |comment| format!(" ({})", quoted(comment)));
                format!("rule {number}{comment}")
            },
        );
        steps.stops(
            "firewall-drop",
            format!("{what} of the chain {chain} in the table {family} {table} drops it, at the hook {hook}"),
            format!("accept it there before: nft list chain {family} {table} {chain} ({place})"),
        );
    } else if verdict.not_understood > 0 {
        steps.passes(
            "firewall",
            format!(
                "no rule of another program is known to drop it at the hook {hook}; {} rules were not understood",
                verdict.not_understood
            ),
        );
    }
}

fn policy(steps: &mut Steps, path: &Path, branch: &Branch, facts: &PolicyFacts) {
    let Some(source) = branch.source else {
        return;
    };
    let packet = JudgedPacket {
        source,
        protocol: match path.transport {
            Transport::Tcp => 6,
            Transport::Udp => 17,
        },
        port: branch.destination.port(),
    };
    let names = |groups: &[String]| match groups {
        [] => "none".to_owned(),
        groups => groups.join(", "),
    };
    let groups = match &facts.source_groups {
        Some(source) => format!(
            "groups of the source: {}; of the destination: {}",
            names(source),
            names(&facts.destination_groups)
        ),
        None => format!(
            "groups of the destination: {}",
            names(&facts.destination_groups)
        ),
    };
    let unknown_groups = match facts.unknown_security_groups.as_slice() {
        [] => String::new(),
        names => format!("; the managers have no security group {}", names.join(", ")),
    };
    match judge(facts, packet) {
        PolicyVerdict::Allowed(reason) if facts.isolates_groups => {
            steps.passes("group-policy", format!("allowed: {reason} ({groups})"));
        }
        PolicyVerdict::Allowed(_) => {}
        PolicyVerdict::NoRules => steps.stops(
            "group-rules-missing",
            "the network isolates groups, and the host has no rules for them, so nothing is let in",
            GROUP_RULES_REPAIR,
        ),
        PolicyVerdict::NotApplied(reason) => steps.stops(
            "group-policy-not-applied",
            format!("the rules of this host do not allow it yet, though {reason} ({groups})"),
            GROUP_RULES_REPAIR,
        ),
        PolicyVerdict::Dropped(reason) => {
            let (text, remedy) = match reason {
                DropReason::NoSharedGroup => (
                    format!(
                        "the containers share no group, and no rule admits the source ({groups}{unknown_groups})"
                    ),
                    "give them a common group (contrail-mesos groups), or a security group whose rule admits it",
                ),
                DropReason::UnknownContainer => (
                    "the rules of this host know no container with that address".to_owned(),
                    GROUP_RULES_REPAIR,
                ),
                DropReason::SpoofedSource => (
                    format!("the source {source} does not belong to the container"),
                    "the container must use the address that it was given",
                ),
                DropReason::Outside => (
                    format!(
                        "the source is no container of the networks that isolate groups, and is not admitted ({groups}{unknown_groups})"
                    ),
                    "admit it with a security group's rule, or see the keys of groups in the network's configuration",
                ),
                DropReason::IsolatedOverlay => (
                    format!(
                        "the overlay {} is isolated, and the source is a container of another one",
                        quoted(facts.isolated_overlay.as_deref().unwrap_or_default())
                    ),
                    "put both on one overlay, or remove isolated from the overlay in the managers' configuration",
                ),
            };
            steps.stops(reason.code(), text, remedy);
        }
    }
}

fn vrouter(steps: &mut Steps, path: &Path) {
    let sides = [
        match &path.source {
            SourceSide::Container(facts) => Some(&**facts),
            _ => None,
        },
        path.branches
            .iter()
            .find_map(|branch| match &branch.target {
                TargetSide::Container { facts, .. } => Some(&**facts),
                _ => None,
            }),
    ];
    let sides = sides.into_iter().flatten();
    let known = sides.filter_map(|facts| Some((facts, facts.vrouter.as_ref()?)));
    let mut networks = vec![];
    for (facts, vrouter) in known {
        match &vrouter.port {
            Some(Ok(true)) => steps.passes(
                "vrouter-port",
                format!("the vRouter agent has the interface of {}", facts.name),
            ),
            Some(Ok(false)) => steps.stops(
                "vrouter-port-missing",
                format!("the vRouter agent does not have the interface of {} with an address", facts.name),
                "see whether it is registered and has its objects: contrail-mesos status, and the manager's page",
            ),
            Some(Err(error)) => steps.unknown(
                "vrouter-silent",
                format!("the vRouter agent does not answer: {error}"),
                "start it, or correct its address in [contrail]",
            ),
            None => {}
        }
        networks.extend(vrouter.virtual_network.as_deref());
    }
    networks.dedup();
    let between = match networks.as_slice() {
        [] => String::new(),
        networks => format!(" (virtual networks: {})", networks.join(", ")),
    };
    steps.unknown(
        "vrouter-policy-unknown",
        format!("the vRouter decides by network policies and security groups of Contrail, which this host does not know{between}"),
        "see the flows on this host (flow -l, dropstats of the vRouter), and the networks' policies in Contrail",
    );
}

fn target(steps: &mut Steps, path: &Path, branch: &Branch) {
    match &branch.target {
        TargetSide::Container { facts, sockets } => {
            if !matches!(branch.crossing, Crossing::None) {
                if let Some(end) = &facts.host_end {
                    host_end(steps, end);
                }
                container(steps, facts);
                answers(steps, facts, branch.source);
            }
            steps.at(format!("container {}", facts.name));
            if let Some(sockets) = sockets {
                listens(steps, path, branch, sockets);
            }
        }
        TargetSide::Host(sockets) => {
            steps.at(HOST);
            listens(steps, path, branch, sockets);
        }
        TargetSide::Node(facts) => node(steps, facts),
        TargetSide::Nobody { network } => {
            steps.at(HOST);
            steps.stops(
                "address-unused",
                format!(
                    "no container of this host has {}, which is of its network {}",
                    branch.destination.ip(),
                    quoted(network)
                ),
                "see contrail-mesos status for the addresses that containers have",
            );
        }
        TargetSide::Elsewhere => {
            steps.at(HOST);
            steps.passes(
                "leaves",
                format!(
                    "{} is not of this host; what is on the way there is not known",
                    branch.destination.ip()
                ),
            );
        }
    }
}

/// The way back from the target.
fn answers(steps: &mut Steps, facts: &ContainerFacts, source: Option<IpAddr>) {
    if let (Some(Routing::Refused(refusal)), Some(source)) = (&facts.route, source) {
        no_route(
            steps,
            "return-route-missing",
            *refusal,
            source,
            "its answers do not come back: see the routes of its network (gateway, routes), and restart the task if \
             somebody changed them",
        );
    }
}

fn listens(steps: &mut Steps, path: &Path, branch: &Branch, facts: &SocketFacts) {
    let place = steps.place.clone();
    firewall(steps, &facts.firewall, PacketHook::Input, &place);
    let destination = branch.destination;
    let (port, address) = (destination.port(), destination.ip());
    let protocol = match path.transport {
        Transport::Tcp => "tcp",
        Transport::Udp => "udp",
    };
    if let Some(socket) = facts.waiting.iter().find(|socket| socket.serves(address)) {
        steps.passes(
            "listener",
            format!(
                "a process waits on port {port}/{protocol} of {}",
                socket.address
            ),
        );
        return;
    }
    let addresses: Vec<_> = facts
        .waiting
        .iter()
        .map(|socket| socket.address.to_string())
        .collect();
    if addresses.is_empty() {
        steps.stops(
            "no-listener",
            format!("no process waits on port {port}/{protocol}"),
            "see whether the program runs, and on which port",
        );
    } else if facts
        .waiting
        .iter()
        .all(|socket| socket.address.is_loopback())
    {
        steps.stops(
            "listens-on-loopback",
            format!(
                "the program waits on port {port}/{protocol} of {} only",
                addresses.join(", ")
            ),
            "let it listen on 0.0.0.0 or :: (all addresses)",
        );
    } else {
        steps.stops(
            "listens-on-other-address",
            format!(
                "the program waits on port {port}/{protocol} of {}, not of {address}",
                addresses.join(", ")
            ),
            "let it listen on 0.0.0.0 or :: (all addresses)",
        );
    }
}

fn node(steps: &mut Steps, facts: &NodeFacts) {
    let name = quoted(&facts.node);
    let device = &facts.device;
    steps.at(HOST);
    match facts.is_device_up {
        None => steps.stops(
            "overlay-device-missing",
            format!(
                "this host has no VXLAN device of the overlay {}",
                quoted(&facts.overlay)
            ),
            OVERLAY_REPAIR,
        ),
        Some(false) => steps.stops(
            "overlay-device-down",
            format!("the VXLAN device {device} is down"),
            OVERLAY_REPAIR,
        ),
        Some(true) => {}
    }
    if facts.is_device_up.is_some() {
        for (is_there, code, what) in [
            (
                facts.has_route,
                "overlay-route-missing",
                "no route to the subnet of",
            ),
            (
                facts.has_neighbour,
                "overlay-neighbour-missing",
                "no neighbour entry for the tunnel endpoint of",
            ),
            (
                facts.has_forwarding_entry,
                "overlay-forwarding-entry-missing",
                "no forwarding entry to",
            ),
        ] {
            if !is_there {
                let text = format!(
                    "the overlay {} has {what} the node {name}",
                    quoted(&facts.overlay)
                );
                steps.stops(code, text, OVERLAY_REPAIR);
            }
        }
    }
    let address = facts
        .address
        .map_or_else(String::new, |address| format!(" at {address}"));
    if !facts.reaches_node {
        steps.stops(
            "node-unreachable",
            format!("this host has no route to the node {name}{address}"),
            "correct the routes between the hosts",
        );
    }
    let container = facts.container.as_ref().map_or_else(
        || "a container that the managers do not know".to_owned(),
        |container| format!("the container {}", quoted(container)),
    );
    steps.passes(
        "leaves",
        format!(
            "the packet goes to the node {name}{address}, to {container}; there, run: {}",
            facts.command
        ),
    );
}

#[cfg(test)]
mod tests;
