//! Reads what there is on the way of a packet. Changes nothing.

mod groups;
mod host_side;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use contrail_mesos_api::cluster::NodeSubnets;
use contrail_mesos_api::container::ContainerId;
use contrail_mesos_api::http::Limits;
use contrail_mesos_api::text::{Quoted, with_causes};
use ipnet::IpNet;
use tokio::time::Instant;

use self::host_side::{forwarding, host_end, mapping, masquerade, sockets, switched, translations};
use super::cluster::KnownCluster;
use super::host::{
    Host, LocalContainer, LocalInterface, SourceEnd, container_named, remote_named, resolve,
    routing,
};
use super::path::{
    Branch, ContainerFacts, Crossing, FlowsFacts, NodeFacts, Path, RoutedFacts, Routing,
    SocketFacts, SourceSide, TargetSide, VrouterFacts,
};
use super::target::{Destination, Origin};
use super::{RecentDrops, Trace, decide, namespaces};
use crate::config::Config;
use crate::isolator::attacher::Attacher;
use crate::isolator::checkpoint::{CheckpointError, StoredCheckpoint};
use crate::net::links;
use crate::net::listeners::Transport;
use crate::net::netlink::{NetlinkError, NetlinkSocket};
use crate::net::netns::{self, NetnsError};
use crate::net::nft::groups::Drops;
use crate::net::nft::verdict::{FirstPacket, PacketHook};
use crate::net::nft::{self, NftError};
use crate::net::route_answer::{self, RouteQuestion};
use crate::net::rules::ALLOWED_MARK;
use crate::net::{addressing, conntrack, neighbours, vxlan};
use crate::provider::contrail::ContrailIntent;
use crate::vrouter::{VrouterClient, VrouterOptions};

/// An address for documentation, for a source that stands for any.
const ANY_OUTSIDE_V4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 1));
const ANY_OUTSIDE_V6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1));
/// How many backends of a service are followed.
const MAX_BRANCHES: usize = 8;
/// How long the vRouter agent has to answer.
const VROUTER_TIME_LIMIT: Duration = Duration::from_secs(5);

/// A trace is not possible.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// Nothing has that name.
    #[error(
        "this host has no container or task {0}, and knows no service or container of another node by that name; \
         contrail-mesos status lists the containers"
    )]
    NotFound(String),
    /// Several have it.
    #[error("{name} is not clear: it is {}", candidates.join(", "))]
    Ambiguous {
        /// The name.
        name: String,
        /// What has it.
        candidates: Vec<String>,
    },
    /// A container, or another end, has no address of the family.
    #[error("{0} has no address of the family of the other end")]
    NoAddress(String),
    /// The checkpoints cannot be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The kernel does not answer.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The kernel does not answer about its rules.
    #[error(transparent)]
    Nft(#[from] NftError),
    /// A namespace cannot be used.
    #[error(transparent)]
    Netns(#[from] NetnsError),
}

/// Traces packets on the host of the calling thread's network namespace.
pub struct Tracer<'a> {
    attacher: &'a Attacher,
    config: &'a Config,
    /// Those that neither a handle nor a process leads to.
    namespaces: Vec<(ContainerId, OwnedFd)>,
}

pub(super) fn quoted(text: &str) -> String {
    Quoted(text.as_bytes()).to_string()
}

pub(super) fn protocol_number(transport: Transport) -> u8 {
    match transport {
        Transport::Tcp => 6,
        Transport::Udp => 17,
    }
}

pub(super) fn protocol_name(transport: Transport) -> &'static str {
    match transport {
        Transport::Tcp => "tcp",
        Transport::Udp => "udp",
    }
}

/// The packet whose way is read.
#[derive(Clone, Copy)]
struct Packet {
    source: Option<IpAddr>,
    destination: IpAddr,
    port: u16,
    transport: Transport,
}

impl<'a> Tracer<'a> {
    /// A tracer for the containers of `attacher`.
    #[must_use]
    pub fn new(attacher: &'a Attacher, config: &'a Config) -> Self {
        Self {
            attacher,
            config,
            namespaces: vec![],
        }
    }

    /// The same with the network namespace of a container, which then is not looked for.
    #[must_use]
    pub fn with_namespace(mut self, container: ContainerId, namespace: OwnedFd) -> Self {
        self.namespaces.push((container, namespace));
        self
    }

    /// Opens the namespace of a container. The error says why it cannot be found.
    async fn namespace(&self, interface: LocalInterface<'_>) -> Result<OwnedFd, String> {
        let checkpoint = &interface.container.checkpoint;
        let mut given = self.namespaces.iter();
        match given.find(|(container, _)| *container == checkpoint.container) {
            Some((_, namespace)) => namespace.try_clone().map_err(|error| error.to_string()),
            None => namespaces::open(self.attacher, checkpoint, interface.intent).await,
        }
    }

    /// Follows a packet. Blocks for requests to the kernel.
    pub async fn trace(
        &self,
        origin: &Origin,
        destination: &Destination,
    ) -> Result<Trace, TraceError> {
        let host = self.host()?;
        let source = match origin {
            Origin::Host => SourceEnd::Host,
            Origin::Outside => SourceEnd::Outside(None),
            Origin::Address(address) => match host.interface_with(*address) {
                Some(interface) => SourceEnd::Container(interface.container),
                None if host.is_own(*address) => SourceEnd::Host,
                None => SourceEnd::Outside(Some(*address)),
            },
            Origin::Named(name) => match container_named(&host, name)? {
                Some(container) => SourceEnd::Container(container),
                None => match remote_named(&host, name)? {
                    Some((address, _)) => SourceEnd::Outside(Some(address)),
                    None => return Err(TraceError::NotFound(quoted(name))),
                },
            },
        };
        let (address, to) = resolve(&host, source, destination)?;
        let (path, source_address) = self.path(&host, source, address, destination).await?;
        let (steps, verdict, cause) = decide(&path);
        let from = match source {
            SourceEnd::Container(container) => match container.task() {
                Some(task) => format!("container {} (task {})", container.name(), quoted(task)),
                None => format!("container {}", container.name()),
            },
            SourceEnd::Host => "this host".to_owned(),
            SourceEnd::Outside(None) => "any address outside".to_owned(),
            SourceEnd::Outside(Some(address)) => address.to_string(),
        };
        let drops = Drops::read().unwrap_or_default();
        let recent = drops.recent.iter().filter(|drop| {
            Some(drop.source) == source_address
                && path
                    .branches
                    .iter()
                    .any(|branch| branch.destination.ip() == drop.destination)
        });
        Ok(Trace {
            from,
            to,
            protocol: protocol_name(destination.transport),
            source: source_address,
            destination: address,
            port: destination.port,
            verdict,
            cause,
            steps,
            recent_drops: recent
                .map(|drop| RecentDrops {
                    reason: drop.reason.code(),
                    protocol: drop.protocol,
                    port: drop.port,
                    packets: drop.packets,
                })
                .collect(),
            drops: drops
                .totals
                .into_iter()
                .map(|(reason, packets)| (reason.code(), packets))
                .collect::<BTreeMap<_, _>>(),
        })
    }

    fn host(&self) -> Result<Host, TraceError> {
        let stored = self.attacher.checkpoints().load_all()?.into_iter();
        let containers = stored.filter_map(|stored| match stored {
            StoredCheckpoint::Intact {
                checkpoint,
                attachments,
            } => Some(LocalContainer {
                checkpoint: *checkpoint,
                attachments,
            }),
            StoredCheckpoint::Damaged { .. } => None,
        });
        let mut socket = NetlinkSocket::route()?;
        Ok(Host {
            containers: containers.collect(),
            cluster: KnownCluster::read(&self.config.state_dir, &self.config.node.socket),
            links: links::all(&mut socket)?,
            addresses: addressing::addresses(&mut socket)?,
            elements: nft::Table::open()?.elements()?,
        })
    }

    async fn path(
        &self,
        host: &Host,
        source: SourceEnd<'_>,
        address: IpAddr,
        destination: &Destination,
    ) -> Result<(Path, Option<IpAddr>), TraceError> {
        let mut packet = Packet {
            source: None,
            destination: address,
            port: destination.port,
            transport: destination.transport,
        };
        let (side, source_interface) = self.source_side(host, source, &mut packet).await?;
        let mut path = Path {
            source: side,
            transport: packet.transport,
            port: packet.port,
            destination: address,
            service: None,
            mapping: None,
            flows: conntrack::table_use().map_or_else(
                |_| FlowsFacts::default(),
                |flows| FlowsFacts {
                    flows: flows.flows,
                    limit: flows.limit,
                },
            ),
            branches: vec![],
        };
        if let SourceSide::Container(facts) = &path.source {
            // Nothing leaves it.
            if facts.route == Some(Routing::Local)
                && let (Some(interface), SourceEnd::Container(_)) = (source_interface, source)
            {
                let branch = self.inside(interface, facts.clone(), packet).await?;
                path.branches.push(branch);
                return Ok((path, packet.source));
            }
            let is_stuck = matches!(facts.route, None | Some(Routing::Refused(_)));
            if is_stuck && packet.source.is_none() {
                return Ok((path, None));
            }
        }
        let is_vrouter = source_interface.is_some_and(|one| one.contrail().is_some());
        let (service, mut targets) = if is_vrouter {
            (None, vec![])
        } else {
            translations(host, packet)?
        };
        path.service = service;
        if path.service.is_none() && !is_vrouter {
            path.mapping = mapping(host, packet);
            targets = match &path.mapping {
                Some(mapping) => mapping.target.into_iter().collect(),
                None => vec![SocketAddr::new(address, packet.port)],
            };
        } else if is_vrouter {
            targets = vec![SocketAddr::new(address, packet.port)];
        }
        targets.truncate(MAX_BRANCHES);
        for target in targets {
            let branch = self.branch(host, &path, source_interface, packet, target);
            path.branches.push(branch.await?);
        }
        Ok((path, packet.source))
    }

    /// Where a packet starts, and the interface of its container. Gives the packet its source.
    async fn source_side<'h>(
        &self,
        host: &Host,
        source: SourceEnd<'h>,
        packet: &mut Packet,
    ) -> Result<(SourceSide, Option<LocalInterface<'h>>), TraceError> {
        let is_v4 = packet.destination.is_ipv4();
        match source {
            SourceEnd::Container(container) => {
                let (interface, facts) = self.sender(host, container, packet.destination).await?;
                packet.source = match &facts.route {
                    Some(Routing::Leaves {
                        source: Some(source),
                        ..
                    }) => Some(*source),
                    Some(Routing::Local) => Some(packet.destination),
                    _ => interface.address(is_v4),
                };
                Ok((SourceSide::Container(Box::new(facts)), Some(interface)))
            }
            SourceEnd::Host => {
                packet.source = host.own_source(packet.destination)?;
                Ok((SourceSide::Host, None))
            }
            SourceEnd::Outside(known) => {
                let any = if is_v4 {
                    ANY_OUTSIDE_V4
                } else {
                    ANY_OUTSIDE_V6
                };
                let from = known.unwrap_or(any);
                if from.is_ipv4() != is_v4 {
                    return Err(TraceError::NoAddress(from.to_string()));
                }
                packet.source = Some(from);
                let interface = host.input(from)?;
                Ok((SourceSide::Outside { interface }, None))
            }
        }
    }

    /// The interface by which a container sends to `destination`, and what was found of it.
    async fn sender<'h>(
        &self,
        host: &Host,
        container: &'h LocalContainer,
        destination: IpAddr,
    ) -> Result<(LocalInterface<'h>, ContainerFacts), TraceError> {
        let interfaces: Vec<LocalInterface<'h>> = container.interfaces().collect();
        let is_v4 = destination.is_ipv4();
        let target = host.interface_with(destination);
        let shares_network = |one: &&LocalInterface<'_>| {
            target.is_some_and(|target| target.intent.network == one.intent.network)
        };
        let with_family = |one: &&LocalInterface<'_>| one.address(is_v4).is_some();
        let likely = interfaces
            .iter()
            .find(shares_network)
            .or_else(|| interfaces.iter().find(with_family))
            .copied()
            .ok_or_else(|| TraceError::NoAddress(container.name()))?;
        let facts = self.container(host, likely, destination).await?;
        let leaves_by = match &facts.route {
            Some(Routing::Leaves { interface, .. }) => interfaces
                .iter()
                .find(|one| one.intent.interface == *interface),
            _ => None,
        };
        match leaves_by {
            Some(other) if other.intent.interface != likely.intent.interface => {
                let facts = self.container(host, *other, destination).await?;
                Ok((*other, facts))
            }
            _ => Ok((likely, facts)),
        }
    }

    /// What is found of a container's interface; `other_side` is the address of the other side.
    async fn container(
        &self,
        host: &Host,
        interface: LocalInterface<'_>,
        other_side: IpAddr,
    ) -> Result<ContainerFacts, TraceError> {
        let LocalInterface {
            container,
            intent,
            addresses,
        } = interface;
        let mut facts = ContainerFacts {
            name: container.name(),
            network: intent.network.clone(),
            interface: intent.interface.clone(),
            is_attached: container.attachments.is_some(),
            host_end: interface.bridge().map(|bridge| host_end(host, bridge)),
            ..ContainerFacts::default()
        };
        if let Some(contrail) = interface.contrail() {
            facts.vrouter = Some(self.vrouter(contrail).await);
        }
        let namespace = match self.namespace(interface).await {
            Ok(namespace) => namespace,
            Err(error) => {
                facts.namespace_error = Some(error);
                return Ok(facts);
            }
        };
        let (name, wanted) = (intent.interface.clone(), addresses.to_vec());
        let inside = netns::run_in(namespace, move || {
            let mut socket = NetlinkSocket::route()?;
            let all = links::all(&mut socket)?;
            let link = all.iter().find(|link| link.name == name);
            let present = addressing::addresses(&mut socket)?;
            let missing = wanted.into_iter().filter(|net| {
                let has = |(index, found): &(u32, IpNet)| {
                    link.is_some_and(|link| link.index == *index) && found.addr() == net.addr()
                };
                !present.iter().any(has)
            });
            let missing: Vec<IpNet> = missing.collect();
            let question = RouteQuestion {
                destination: other_side,
                source: None,
                input: None,
                mark: 0,
            };
            let answer = route_answer::ask(&mut socket, &question)?;
            let name_of = |index| {
                let mut links = all.iter();
                let link = links.find(|link| link.index == index)?;
                Some(link.name.clone())
            };
            let is_up = link.map(|link| link.up);
            Ok::<_, NetlinkError>((is_up, missing, routing(answer, name_of)))
        });
        let (is_up, missing, route) = inside.await??;
        facts.is_up = is_up;
        facts.missing_addresses = missing;
        facts.route = Some(route);
        Ok(facts)
    }

    async fn vrouter(&self, intent: &ContrailIntent) -> VrouterFacts {
        let mut facts = VrouterFacts {
            virtual_network: intent.virtual_network.clone(),
            port: None,
        };
        let Some(contrail) = &self.config.contrail else {
            return facts;
        };
        let options = VrouterOptions {
            host: contrail.vrouter_host.clone(),
            port: contrail.vrouter_port,
            limits: Limits {
                connect_timeout: VROUTER_TIME_LIMIT / 2,
                request_timeout: VROUTER_TIME_LIMIT,
                max_body_bytes: 1 << 20,
            },
        };
        let ask = async {
            let client = VrouterClient::new(&options).map_err(|error| error.to_string())?;
            let statuses = client.addresses(intent.vm_uuid);
            let statuses = tokio::time::timeout_at(Instant::now() + VROUTER_TIME_LIMIT, statuses)
                .await
                .map_err(|_| "it takes too long".to_owned())?
                .map_err(|error| with_causes(&error))?;
            Ok::<_, String>(statuses.unwrap_or_default())
        };
        facts.port = Some(ask.await.map(|statuses| {
            let status = statuses
                .iter()
                .find(|status| status.interface == intent.interface_uuid);
            if let Some(status) = status {
                facts.virtual_network = Some(status.network.to_string());
            }
            status.is_some()
        }));
        facts
    }

    /// The way of a packet that stays in its container.
    async fn inside(
        &self,
        interface: LocalInterface<'_>,
        facts: Box<ContainerFacts>,
        packet: Packet,
    ) -> Result<Branch, TraceError> {
        let sockets = self
            .sockets(interface, packet, Some("lo".to_owned()))
            .await?;
        Ok(Branch {
            destination: SocketAddr::new(packet.destination, packet.port),
            source: packet.source,
            crossing: Crossing::None,
            target: TargetSide::Container { facts, sockets },
            policy: None,
        })
    }

    /// The sockets of a container that wait for a packet.
    async fn sockets(
        &self,
        interface: LocalInterface<'_>,
        packet: Packet,
        input: Option<String>,
    ) -> Result<Option<SocketFacts>, TraceError> {
        let Ok(namespace) = self.namespace(interface).await else {
            return Ok(None);
        };
        let facts = netns::run_in(namespace, move || sockets(packet, input)).await??;
        Ok(Some(facts))
    }

    async fn branch(
        &self,
        host: &Host,
        path: &Path,
        sender: Option<LocalInterface<'_>>,
        original: Packet,
        target: SocketAddr,
    ) -> Result<Branch, TraceError> {
        let packet = Packet {
            destination: target.ip(),
            port: target.port(),
            ..original
        };
        let is_translated =
            (packet.destination, packet.port) != (original.destination, original.port);
        let receiver = host.interface_with(packet.destination);
        let policy = match receiver {
            Some(receiver) => self.policy_here(host, sender, packet, receiver, is_translated)?,
            None => self.policy_there(host, packet),
        };
        let crossing = crossing(host, path, sender, packet, receiver, is_translated)?;
        let target_side = match (receiver, &crossing) {
            (Some(receiver), _) => {
                // Whatever the source is translated to, the gateway leads there.
                let is_masqueraded = match &crossing {
                    Crossing::Routed(routed) => routed.masquerade == Some(true),
                    _ => false,
                };
                let back = packet.source.filter(|_| !is_translated && !is_masqueraded);
                let other_side = back.unwrap_or(packet.destination);
                let mut facts = self.container(host, receiver, other_side).await?;
                if back.is_none() {
                    facts.route = None;
                }
                let input = Some(receiver.intent.interface.clone());
                let sockets = self.sockets(receiver, packet, input).await?;
                TargetSide::Container {
                    facts: Box::new(facts),
                    sockets,
                }
            }
            (None, Crossing::Routed(routed)) if routed.route == Routing::Local => {
                let input = routed.input.clone().or_else(|| Some("lo".to_owned()));
                TargetSide::Host(sockets(packet, input)?)
            }
            (None, Crossing::Vrouter) => TargetSide::Elsewhere,
            (None, _) => elsewhere(host, packet)?,
        };
        Ok(Branch {
            destination: target,
            source: packet.source,
            crossing,
            target: target_side,
            policy,
        })
    }
}

/// How a packet crosses the host.
fn crossing(
    host: &Host,
    path: &Path,
    sender: Option<LocalInterface<'_>>,
    packet: Packet,
    receiver: Option<LocalInterface<'_>>,
    is_translated: bool,
) -> Result<Crossing, TraceError> {
    let of_vrouter = [sender, receiver].into_iter().flatten();
    if of_vrouter.into_iter().any(|one| one.contrail().is_some()) {
        return Ok(Crossing::Vrouter);
    }
    let sends_on_link = match &path.source {
        SourceSide::Container(facts) => {
            matches!(facts.route, Some(Routing::Leaves { gateway: None, .. }))
        }
        _ => false,
    };
    let bridges = sender
        .and_then(|one| one.bridge().cloned())
        .zip(receiver.and_then(|one| one.bridge().cloned()));
    if let Some((from, to)) = bridges
        && sends_on_link
        && !is_translated
        && from.bridge == to.bridge
    {
        return switched(host, &from, &to, packet);
    }
    let input = match (sender, packet.source) {
        (Some(one), _) if one.bridge().is_some() => {
            one.bridge().map(|bridge| bridge.bridge.clone())
        }
        (Some(_), Some(source)) => host.input(source)?,
        (None, _) => match &path.source {
            SourceSide::Outside { interface } => interface.clone(),
            _ => None,
        },
        (Some(_), None) => None,
    };
    let index = input
        .as_deref()
        .and_then(|name| host.link_named(name))
        .map(|link| link.index);
    let isolates = receiver.is_some_and(|one| {
        let bridge = one.bridge();
        bridge.is_some_and(|bridge| bridge.policy.is_some())
    });
    let route = host.ask(&RouteQuestion {
        destination: packet.destination,
        source: packet.source.filter(|_| index.is_some()),
        input: index,
        mark: if isolates { ALLOWED_MARK } else { 0 },
    })?;
    let output = match &route {
        Routing::Leaves { interface, .. } => Some(interface.clone()),
        _ => None,
    };
    let is_local = route == Routing::Local;
    let (setting, forwards) = forwarding(packet.destination, input.as_deref());
    let hook = match (&input, is_local) {
        (None, _) => PacketHook::Output,
        (Some(_), true) => PacketHook::Input,
        (Some(_), false) => PacketHook::Forward,
    };
    let firewall = match (hook, packet.source) {
        // At the sockets, it is judged there.
        (PacketHook::Input, _) | (_, None) => nft::verdict::FirewallVerdict::default(),
        (_, Some(source)) => nft::verdict::judge(
            hook,
            &FirstPacket {
                source,
                destination: packet.destination,
                protocol: protocol_number(packet.transport),
                port: packet.port,
                input: input.clone(),
                output: output.clone(),
            },
        )?,
    };
    let masquerade = sender
        .and_then(LocalInterface::bridge)
        .and_then(|bridge| masquerade(host, bridge, packet, &route));
    Ok(Crossing::Routed(Box::new(RoutedFacts {
        forwards: input.is_none() || is_local || forwards,
        forwarding_setting: setting,
        input,
        route,
        hook,
        firewall,
        masquerade,
    })))
}

/// A destination that no container of this host has.
fn elsewhere(host: &Host, packet: Packet) -> Result<TargetSide, TraceError> {
    if let Some((node, subnets)) = host.cluster.node_of(packet.destination) {
        return remote_node(host, packet, &node.name, subnets);
    }
    let has = |one: &LocalInterface<'_>| {
        let bridge = one.bridge();
        bridge.is_some_and(|bridge| {
            let mut subnets = bridge.bridge_addresses.iter();
            subnets.any(|subnet| subnet.contains(&packet.destination))
        })
    };
    Ok(match host.interfaces().find(has) {
        Some(one) => TargetSide::Nobody {
            network: one.intent.network.clone(),
        },
        None => TargetSide::Elsewhere,
    })
}

fn remote_node(
    host: &Host,
    packet: Packet,
    name: &str,
    subnets: &NodeSubnets,
) -> Result<TargetSide, TraceError> {
    let Some(node) = host.cluster.nodes.get(name) else {
        return Ok(TargetSide::Elsewhere);
    };
    let endpoint = if packet.destination.is_ipv4() {
        Some(IpAddr::V4(node.vtep.address))
    } else {
        node.vtep.address6.map(IpAddr::V6)
    };
    let mut socket = NetlinkSocket::strict_route()?;
    let vni = host
        .cluster
        .overlays
        .get(&subnets.overlay)
        .map(|overlay| overlay.vni);
    let devices = vxlan::all(&mut socket)?;
    let device = devices.iter().find(|device| Some(device.tunnel.vni) == vni);
    let destination = packet.destination;
    let own = |destination| {
        host.ask(&RouteQuestion {
            destination,
            source: None,
            input: None,
            mark: 0,
        })
    };
    let mut facts = NodeFacts {
        node: node.name.clone(),
        address: Some(node.address),
        overlay: subnets.overlay.clone(),
        container: host.cluster.endpoint(destination).map(|one| one.id.clone()),
        reaches_node: !matches!(own(node.address)?, Routing::Refused(_)),
        command: format!(
            "contrail-mesos trace {} {}/{}",
            packet
                .source
                .map_or_else(|| "outside".to_owned(), |source| source.to_string()),
            SocketAddr::new(destination, packet.port),
            protocol_name(packet.transport)
        ),
        ..NodeFacts::default()
    };
    if let Some(device) = device {
        let link = &device.link;
        facts.device.clone_from(&link.name);
        facts.is_device_up = Some(link.up);
        facts.has_route = match own(destination)? {
            Routing::Leaves {
                interface, gateway, ..
            } => interface == link.name && gateway == endpoint,
            _ => false,
        };
        let known = neighbours::of_link(&mut socket, link.index)?;
        facts.has_neighbour = known.iter().any(|neighbour| {
            Some(neighbour.address) == endpoint && neighbour.mac == Some(node.vtep.mac.0)
        });
        let entries = neighbours::forwarding_of(&mut socket, link.index)?;
        facts.has_forwarding_entry = entries
            .iter()
            .any(|entry| entry.mac == node.vtep.mac.0 && entry.remote == node.address);
    }
    Ok(TargetSide::Node(facts))
}
