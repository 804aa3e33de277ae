//! What was found on the host: ends of interfaces, bridges, forwarding, services and mapped ports.

use std::net::{IpAddr, SocketAddr};

use contrail_mesos_api::cluster::BackendState;
use ipnet::IpNet;

use super::{Packet, TraceError, protocol_name, protocol_number, quoted};
use crate::net::listeners::waiting_sockets;
use crate::net::netlink::NetlinkError;
use crate::net::nft::services::{Frontend, backends};
use crate::net::nft::verdict::{FirstPacket, PacketHook};
use crate::net::nft::{self, Element};
use crate::net::sysctl;
use crate::provider::bridge::BridgeIntent;
use crate::trace::host::Host;
use crate::trace::path::{Crossing, HostEnd, MappingFacts, Routing, ServiceFacts, SocketFacts};

pub(super) fn host_end(host: &Host, bridge: &BridgeIntent) -> HostEnd {
    let link = host.link_named(&bridge.host_interface);
    let bridge_link = host.link_named(&bridge.bridge);
    let missing = bridge.bridge_addresses.iter().filter(|net| {
        let has = |(index, found): &(u32, IpNet)| {
            bridge_link.is_some_and(|link| link.index == *index) && found.addr() == net.addr()
        };
        !host.addresses.iter().any(has)
    });
    HostEnd {
        interface: bridge.host_interface.clone(),
        is_up: link.map(|link| link.up),
        is_port: link
            .zip(bridge_link)
            .is_some_and(|(link, bridge)| link.controller == Some(bridge.index)),
        bridge: bridge.bridge.clone(),
        is_bridge_up: bridge_link.map(|link| link.up),
        missing_gateways: missing.copied().collect(),
    }
}

/// Whether the rules translate the source of a packet that leaves its network; none if they need not.
pub(super) fn masquerade(
    host: &Host,
    bridge: &BridgeIntent,
    packet: Packet,
    route: &Routing,
) -> Option<bool> {
    let destination = packet.destination;
    let leaves = match route {
        Routing::Leaves { interface, .. } => *interface != bridge.bridge,
        _ => false,
    };
    let overlay = bridge.overlay.iter();
    let mut same = overlay
        .flat_map(|overlay| &overlay.cluster_subnets)
        .chain(&bridge.bridge_addresses);
    let is_same_network = same.any(|net| net.contains(&destination));
    let source = packet
        .source
        .filter(|_| bridge.masquerade && leaves && !is_same_network)?;
    let wanted = Element::masqueraded_packet(source, destination);
    Some(
        host.elements
            .iter()
            .any(|element| element.overlaps(&wanted)),
    )
}

pub(super) fn switched(
    host: &Host,
    from: &BridgeIntent,
    to: &BridgeIntent,
    packet: Packet,
) -> Result<Crossing, TraceError> {
    let is_isolated = |bridge: &BridgeIntent| {
        let link = host.link_named(&bridge.host_interface);
        let port = link.and_then(|link| link.port);
        port.is_some_and(|port| port.is_isolated)
    };
    let setting = if packet.destination.is_ipv4() {
        "net/bridge/bridge-nf-call-iptables"
    } else {
        "net/bridge/bridge-nf-call-ip6tables"
    };
    let is_shown = sysctl::get(setting).as_deref() == Some("1");
    let firewall = match packet.source.filter(|_| is_shown) {
        Some(source) => Some(nft::verdict::judge(
            PacketHook::Forward,
            &FirstPacket {
                source,
                destination: packet.destination,
                protocol: protocol_number(packet.transport),
                port: packet.port,
                input: Some(from.bridge.clone()),
                output: Some(from.bridge.clone()),
            },
        )?),
        None => None,
    };
    Ok(Crossing::Switched {
        bridge: from.bridge.clone(),
        is_isolated: is_isolated(from) && is_isolated(to),
        firewall,
    })
}

/// The setting that makes the host forward packets of a family from an interface, and whether it does.
pub(super) fn forwarding(destination: IpAddr, input: Option<&str>) -> (String, bool) {
    let is_on = |name: &str| sysctl::get(name).as_deref() == Some("1");
    if destination.is_ipv6() {
        let name = "net/ipv6/conf/all/forwarding";
        return (name.replace('/', "."), is_on(name));
    }
    let all = "net/ipv4/ip_forward";
    let own = input.map(|input| format!("net/ipv4/conf/{input}/forwarding"));
    match own {
        Some(own) if is_on(all) => (own.replace('/', "."), is_on(&own)),
        _ => (all.replace('/', "."), is_on(all)),
    }
}

/// The service at the packet's destination, and its backends.
pub(super) fn translations(
    host: &Host,
    packet: Packet,
) -> Result<(Option<ServiceFacts>, Vec<SocketAddr>), TraceError> {
    let protocol = protocol_number(packet.transport);
    let frontend = Frontend {
        address: packet.destination,
        protocol,
        port: packet.port,
    };
    let programmed = backends(&frontend)?;
    let known = host
        .cluster
        .service(packet.destination, packet.port, protocol);
    if programmed.is_none()
        && known.is_none()
        && !host.cluster.is_service_address(packet.destination)
    {
        return Ok((None, vec![]));
    }
    let draining = known.map_or_else(Vec::new, |service| {
        let backends = service.backends.iter();
        let draining = backends.filter(|backend| backend.state == BackendState::Draining);
        draining
            .map(|backend| format!("{} ({})", quoted(&backend.task), backend.address))
            .collect()
    });
    let targets = programmed.clone().unwrap_or_default();
    let facts = ServiceFacts {
        name: known.map_or_else(
            || frontend.to_string(),
            |service| service.service.to_string(),
        ),
        is_programmed: programmed.is_some(),
        backends: targets.clone(),
        draining,
    };
    Ok((Some(facts), targets))
}

/// The mapped port that a packet to the host is for.
pub(super) fn mapping(host: &Host, packet: Packet) -> Option<MappingFacts> {
    if !host.is_own(packet.destination) {
        return None;
    }
    let protocol = protocol_number(packet.transport);
    let mut elements = host.elements.iter().filter_map(Element::mapped_port);
    let target = elements.find(|(number, port, target)| {
        (*number, *port) == (protocol, packet.port)
            && target.is_ipv4() == packet.destination.is_ipv4()
    });
    let target = target.map(|(_, _, target)| target);
    let name = protocol_name(packet.transport);
    let owner = host.interfaces().find(|one| {
        let mut ports = one.intent.ports.iter();
        ports.any(|port| port.host_port == packet.port && port.protocol.to_string() == name)
            && one.address(packet.destination.is_ipv4()).is_some()
    });
    if target.is_none() && owner.is_none_or(|one| one.bridge().is_none()) {
        return None;
    }
    Some(MappingFacts {
        container: owner.map(|one| one.container.name()),
        target,
    })
}

/// The sockets of the calling thread's namespace that wait for a packet.
pub(super) fn sockets(packet: Packet, input: Option<String>) -> Result<SocketFacts, NetlinkError> {
    let firewall = match packet.source {
        Some(source) => nft::verdict::judge(
            PacketHook::Input,
            &FirstPacket {
                source,
                destination: packet.destination,
                protocol: protocol_number(packet.transport),
                port: packet.port,
                input,
                output: None,
            },
        )?,
        None => nft::verdict::FirewallVerdict::default(),
    };
    Ok(SocketFacts {
        waiting: waiting_sockets(packet.transport, packet.port)?,
        firewall,
    })
}
