//! What a host has: its containers, what it knows of the cluster, and its interfaces; and what a name
//! means there.

use std::net::{IpAddr, SocketAddr};

use contrail_mesos_api::cluster::{Membership, SERVICE_ZONE, Vip};
use ipnet::IpNet;

use super::cluster::KnownCluster;
use super::gather::{TraceError, protocol_name, protocol_number, quoted};
use super::path::Routing;
use super::target::{Destination, Origin};
use crate::endpoints::{policy, read_groups};
use crate::isolator::attacher::Attacher;
use crate::isolator::checkpoint::Checkpoint;
use crate::net::links::Link;
use crate::net::netlink::{NetlinkError, NetlinkSocket};
use crate::net::nft::Element;
use crate::net::route_answer::{self, RouteAnswer, RouteQuestion};
use crate::net::rules::ALLOWED_MARK;
use crate::provider::bridge::BridgeIntent;
use crate::provider::contrail::ContrailIntent;
use crate::provider::{Attachment, Intent, ProviderIntent};

/// How many candidates an error names.
const MAX_CANDIDATES: usize = 8;

/// A container of this host.
pub(super) struct LocalContainer {
    pub(super) checkpoint: Checkpoint,
    pub(super) attachments: Option<Vec<Attachment>>,
}

/// An interface of a container of this host.
#[derive(Clone, Copy)]
pub(super) struct LocalInterface<'a> {
    pub(super) container: &'a LocalContainer,
    pub(super) intent: &'a Intent,
    pub(super) addresses: &'a [IpNet],
}

impl LocalContainer {
    pub(super) fn interfaces(&self) -> impl Iterator<Item = LocalInterface<'_>> {
        let networks = self.checkpoint.networks.iter().enumerate();
        networks.map(|(index, network)| {
            let attachments = self.attachments.as_ref();
            let attachment = attachments.and_then(|all| all.get(index));
            LocalInterface {
                container: self,
                intent: &network.intent,
                addresses: attachment.map_or(&network.intent.addresses, |attachment| {
                    &attachment.addresses
                }),
            }
        })
    }

    pub(super) fn name(&self) -> String {
        self.checkpoint.container.to_string()
    }

    pub(super) fn task(&self) -> Option<&str> {
        let executor = self.checkpoint.executor.as_ref()?;
        Some(&executor.executor)
    }
}

impl<'a> LocalInterface<'a> {
    pub(super) fn has(&self, address: IpAddr) -> bool {
        self.addresses.iter().any(|net| net.addr() == address)
    }

    pub(super) fn address(&self, is_v4: bool) -> Option<IpAddr> {
        let mut addresses = self.addresses.iter().map(IpNet::addr);
        addresses.find(|address| address.is_ipv4() == is_v4)
    }

    pub(super) fn bridge(self) -> Option<&'a BridgeIntent> {
        match &self.intent.provider {
            ProviderIntent::Bridge(bridge) => Some(bridge),
            _ => None,
        }
    }

    pub(super) fn contrail(self) -> Option<&'a ContrailIntent> {
        match &self.intent.provider {
            ProviderIntent::Contrail(contrail) => Some(contrail),
            _ => None,
        }
    }
}

/// What is read once.
pub(super) struct Host {
    pub(super) containers: Vec<LocalContainer>,
    pub(super) cluster: KnownCluster,
    pub(super) links: Vec<Link>,
    pub(super) addresses: Vec<(u32, IpNet)>,
    pub(super) elements: Vec<Element>,
}

impl Host {
    pub(super) fn interfaces(&self) -> impl Iterator<Item = LocalInterface<'_>> {
        self.containers.iter().flat_map(LocalContainer::interfaces)
    }

    pub(super) fn interface_with(&self, address: IpAddr) -> Option<LocalInterface<'_>> {
        // One that ends has given its address to another, perhaps.
        let has = |one: &LocalInterface<'_>| one.has(address);
        let mut attached = self
            .interfaces()
            .filter(|one| one.container.attachments.is_some());
        attached.find(has).or_else(|| self.interfaces().find(has))
    }

    pub(super) fn link(&self, index: u32) -> Option<&Link> {
        self.links.iter().find(|link| link.index == index)
    }

    pub(super) fn link_named(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.name == name)
    }

    pub(super) fn is_own(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.addresses.iter().any(|(_, net)| net.addr() == address)
    }

    pub(super) fn ask(&self, question: &RouteQuestion) -> Result<Routing, NetlinkError> {
        let answer = route_answer::ask(&mut NetlinkSocket::route()?, question)?;
        Ok(routing(answer, |index| {
            self.link(index).map(|link| link.name.clone())
        }))
    }

    /// The source address of a packet of the host.
    pub(super) fn own_source(&self, destination: IpAddr) -> Result<Option<IpAddr>, NetlinkError> {
        let routing = self.ask(&RouteQuestion {
            destination,
            source: None,
            input: None,
            mark: 0,
        })?;
        Ok(match routing {
            Routing::Leaves { source, .. } => source,
            Routing::Local => Some(destination),
            Routing::Refused(_) => None,
        })
    }

    /// The interface by which packets from an address come in.
    pub(super) fn input(&self, from: IpAddr) -> Result<Option<String>, NetlinkError> {
        let routing = self.ask(&RouteQuestion {
            destination: from,
            source: None,
            input: None,
            mark: ALLOWED_MARK,
        })?;
        Ok(match routing {
            Routing::Leaves { interface, .. } => Some(interface),
            _ => None,
        })
    }

    /// The groups of the container with that address, if they are known.
    pub(super) fn groups_of(&self, attacher: &Attacher, address: IpAddr) -> Option<Membership> {
        if let Some(local) = self.interface_with(address) {
            return membership(attacher, local);
        }
        let endpoint = self.cluster.endpoint(address)?;
        Some(endpoint.membership.clone())
    }
}

fn membership(attacher: &Attacher, interface: LocalInterface<'_>) -> Option<Membership> {
    let container = &interface.container.checkpoint.container;
    let changed = read_groups(attacher.checkpoints(), container).ok()?;
    policy(interface.intent, changed.as_ref()).map(|policy| policy.membership)
}

pub(super) fn routing(answer: RouteAnswer, name: impl Fn(u32) -> Option<String>) -> Routing {
    match answer {
        RouteAnswer::Local => Routing::Local,
        RouteAnswer::Refused(refusal) => Routing::Refused(refusal),
        RouteAnswer::Leaves {
            index,
            gateway,
            source,
        } => Routing::Leaves {
            interface: name(index).unwrap_or_else(|| format!("interface {index}")),
            gateway,
            source,
        },
    }
}

/// The container of this host with that id or task, or the only one whose id or task begins with it.
pub(super) fn container_named<'h>(
    host: &'h Host,
    name: &str,
) -> Result<Option<&'h LocalContainer>, TraceError> {
    let exact = |one: &&LocalContainer| one.name() == name || one.task() == Some(name);
    let mut found: Vec<&LocalContainer> = host.containers.iter().filter(exact).collect();
    if found.is_empty() {
        let begins = |one: &&LocalContainer| {
            let task = one.task();
            one.name().starts_with(name) || task.is_some_and(|task| task.starts_with(name))
        };
        found = host.containers.iter().filter(begins).collect();
    }
    match found.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(one)),
        several => Err(TraceError::Ambiguous {
            name: quoted(name),
            candidates: several
                .iter()
                .take(MAX_CANDIDATES)
                .map(|one| one.name())
                .collect(),
        }),
    }
}

/// The address and id of the only container of another node whose id begins with that text.
pub(super) fn remote_named(
    host: &Host,
    name: &str,
) -> Result<Option<(IpAddr, String)>, TraceError> {
    let found: Vec<_> = host
        .cluster
        .endpoints_named(name)
        .take(MAX_CANDIDATES)
        .collect();
    match found.as_slice() {
        [] => Ok(None),
        [one] => {
            let address = one.addresses.first();
            let address = address.ok_or_else(|| TraceError::NoAddress(quoted(&one.id)))?;
            Ok(Some((
                *address,
                format!("{} of the node {}", quoted(&one.id), quoted(&one.node)),
            )))
        }
        several => Err(TraceError::Ambiguous {
            name: quoted(name),
            candidates: several.iter().map(|one| quoted(&one.id)).collect(),
        }),
    }
}

/// The destination's address, and what it is.
pub(super) fn resolve(
    host: &Host,
    source: SourceEnd<'_>,
    destination: &Destination,
) -> Result<(IpAddr, String), TraceError> {
    let port = destination.port;
    let protocol = protocol_name(destination.transport);
    let described = |address: IpAddr, what: &str| {
        let text = format!("{what} ({}/{protocol})", SocketAddr::new(address, port));
        (address, text)
    };
    match &destination.end {
        Origin::Address(address) => {
            let what = match host.interface_with(*address) {
                Some(interface) => format!("container {}", interface.container.name()),
                None if host.is_own(*address) => "this host".to_owned(),
                None => match host.cluster.endpoint(*address) {
                    Some(endpoint) => format!("container {}", quoted(&endpoint.id)),
                    None => address.to_string(),
                },
            };
            Ok(described(*address, &what))
        }
        Origin::Host | Origin::Outside => {
            let address = host_address(host, source)?;
            Ok(described(address, "this host"))
        }
        Origin::Named(name) => {
            if let Some(container) = container_named(host, name)? {
                let address = container_address(source, container)?;
                return Ok(described(
                    address,
                    &format!("container {}", container.name()),
                ));
            }
            let number = protocol_number(destination.transport);
            let wanted = name
                .strip_suffix(SERVICE_ZONE)
                .and_then(|name| name.strip_suffix('.'))
                .unwrap_or(name);
            let mut services = host.cluster.services.values();
            let service = services.find(|service| {
                let key = &service.service;
                matches!(&key.vip, Vip::Name(name) if name == wanted)
                    && (key.port, key.protocol.number()) == (port, number)
            });
            if let Some(service) = service {
                let address = service.addresses.first();
                let address = address.ok_or_else(|| TraceError::NoAddress(quoted(name)))?;
                return Ok(described(*address, &format!("service {}", service.service)));
            }
            match remote_named(host, name)? {
                Some((address, what)) => Ok(described(address, &format!("container {what}"))),
                None => Err(TraceError::NotFound(quoted(name))),
            }
        }
    }
}

/// The address at which the source reaches this host.
fn host_address(host: &Host, source: SourceEnd<'_>) -> Result<IpAddr, TraceError> {
    let gateway = match source {
        SourceEnd::Container(container) => container
            .interfaces()
            .find_map(|one| one.intent.gateways.first().copied()),
        _ => None,
    };
    let first = || {
        let mut addresses = host.addresses.iter().map(|(_, net)| net.addr());
        addresses.find(|address| address.is_ipv4() && !address.is_loopback())
    };
    gateway
        .or_else(first)
        .ok_or_else(|| TraceError::NoAddress("this host".to_owned()))
}

/// The address of a container that the source reaches it at.
fn container_address(
    source: SourceEnd<'_>,
    container: &LocalContainer,
) -> Result<IpAddr, TraceError> {
    let families = match source {
        SourceEnd::Outside(Some(address)) if address.is_ipv6() => &[false][..],
        SourceEnd::Outside(Some(_)) => &[true][..],
        SourceEnd::Container(sender) => {
            let has_v4 = sender.interfaces().any(|one| one.address(true).is_some());
            if has_v4 {
                &[true, false][..]
            } else {
                &[false][..]
            }
        }
        _ => &[true, false][..],
    };
    let networks: Vec<&str> = match source {
        SourceEnd::Container(sender) => {
            let interfaces = sender.interfaces();
            interfaces.map(|one| one.intent.network.as_str()).collect()
        }
        _ => vec![],
    };
    for is_v4 in families {
        let shared = container
            .interfaces()
            .filter(|one| networks.contains(&one.intent.network.as_str()))
            .find_map(|one| one.address(*is_v4));
        let any = || container.interfaces().find_map(|one| one.address(*is_v4));
        if let Some(address) = shared.or_else(any) {
            return Ok(address);
        }
    }
    Err(TraceError::NoAddress(container.name()))
}

/// The source of a packet.
#[derive(Clone, Copy)]
pub(super) enum SourceEnd<'a> {
    Container(&'a LocalContainer),
    Host,
    Outside(Option<IpAddr>),
}
