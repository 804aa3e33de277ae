//! What services become on Contrail: for each address one floating-ip with port maps. Pure.
//!
//! A floating-ip has one port map and one set of interfaces, which all its ports share. So services
//! of one address can be expressed together if they have the same backends, and each of them if its
//! backends listen on the same port. What cannot be expressed is left out with a problem, and the
//! services beside it are kept.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use contrail_mesos_api::cluster::{BackendState, ServiceKey, ServiceProtocol, Vip};

use super::ServiceMap;
use super::snapshot::Pool;
use crate::model::Network;
use crate::objects;
use crate::services::{ContrailInterface, DesiredBackend, DesiredService, ServiceProblem};
use crate::vnc::{FqName, PortMap};

/// How many ports or services a message lists.
const MAX_LISTED: usize = 10;

/// What there must be on Contrail.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ServicePlan {
    pub vips: BTreeMap<IpAddr, PlannedVip>,
    /// Ordered, distinct.
    pub problems: Vec<ServiceProblem>,
}

/// An address of services.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct PlannedVip {
    /// The pool that has the address; none if the network of services has it.
    pub pool: Option<FqName>,
    /// The names that it has below the zone of services.
    pub names: BTreeSet<String>,
    pub ports: Ports,
    /// The interfaces that get new connections.
    pub interfaces: BTreeSet<ContrailInterface>,
}

/// The port of the containers for each port of an address. Of both there is one for each protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ports(pub BTreeMap<(ServiceProtocol, u16), u16>);

impl Ports {
    /// As the API has it, always in the same order.
    pub(super) fn port_maps(&self) -> Vec<PortMap> {
        let maps = self.0.iter();
        maps.map(|((protocol, src_port), dst_port)| PortMap {
            protocol: protocol.as_str().to_uppercase(),
            src_port: *src_port,
            dst_port: *dst_port,
        })
        .collect()
    }

    /// Reads those of a floating-ip. What is not valid is left out.
    pub(super) fn of(maps: &[PortMap]) -> Self {
        let ports = maps.iter().filter_map(|map| {
            let protocol = ServiceProtocol::ALL
                .into_iter()
                .find(|protocol| map.protocol.eq_ignore_ascii_case(protocol.as_str()))?;
            Some(((protocol, map.src_port), map.dst_port))
        });
        Self(ports.collect())
    }
}

/// A service at one of its addresses.
struct Candidate<'a> {
    key: &'a ServiceKey,
    service: &'a DesiredService,
    /// The port of its containers.
    port: u16,
    interfaces: BTreeSet<ContrailInterface>,
}

/// Where addresses of services may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct AddressSpace<'a> {
    /// The network of services.
    pub network: &'a Network,
    /// The pools, for addresses that this network does not have.
    pub pools: &'a [Pool],
}

impl<'a> AddressSpace<'a> {
    /// The pool with an address that the network of services does not have.
    fn pool(&self, address: IpAddr) -> Option<&'a Pool> {
        if self.network.subnet(address).is_some() {
            return None;
        }
        let mut pools = self.pools.iter();
        pools.find(|pool| pool.network.subnet(address).is_some())
    }
}

/// What these services are on Contrail, with their addresses in these networks.
pub(super) fn plan(services: &ServiceMap, space: AddressSpace<'_>) -> ServicePlan {
    let mut problems = vec![];
    let mut candidates: BTreeMap<IpAddr, Vec<Candidate<'_>>> = BTreeMap::new();
    for (key, (addresses, service)) in services {
        for address in addresses {
            match candidate(key, service, *address, space, &mut problems) {
                Ok(Some(candidate)) => candidates.entry(*address).or_default().push(candidate),
                Ok(None) => {}
                Err(message) => problems.push(problem(key, service, message)),
            }
        }
    }
    let vips = candidates
        .into_iter()
        .map(|(address, candidates)| {
            let mut vip = combine(&candidates, &mut problems);
            vip.pool = space.pool(address).map(|pool| pool.name.clone());
            (address, vip)
        })
        .collect();
    problems.sort();
    problems.dedup();
    ServicePlan { vips, problems }
}

fn problem(key: &ServiceKey, service: &DesiredService, message: String) -> ServiceProblem {
    let task = service
        .backends
        .iter()
        .find(|backend| backend.interface.is_some())
        .map(|backend| backend.backend.task.clone());
    ServiceProblem {
        framework: service.frameworks.join(", "),
        task: task.unwrap_or_default(),
        subject: key.to_string(),
        message,
    }
}

/// The service at this address; none if no backend of the address's family is on Contrail.
fn candidate<'a>(
    key: &'a ServiceKey,
    service: &'a DesiredService,
    address: IpAddr,
    space: AddressSpace<'_>,
    problems: &mut Vec<ServiceProblem>,
) -> Result<Option<Candidate<'a>>, String> {
    let of_family: Vec<&DesiredBackend> = service
        .backends
        .iter()
        .filter(|backend| backend.backend.address.is_ipv4() == address.is_ipv4())
        .collect();
    let on_contrail: Vec<(&DesiredBackend, &ContrailInterface)> = of_family
        .iter()
        .filter_map(|backend| Some((*backend, backend.interface.as_ref()?)))
        .filter(|(_, interface)| interface.address.is_ipv4() == address.is_ipv4())
        .collect();
    if on_contrail.is_empty() {
        return Ok(None);
    }
    if key.protocol == ServiceProtocol::Sctp {
        return Err(
            "Contrail forwards TCP and UDP to services, not SCTP: clients in virtual networks \
                    cannot use it"
                .to_owned(),
        );
    }
    let pool = space.pool(address);
    let network = pool.map_or(space.network, |pool| &pool.network);
    let Some(subnet) = network.subnet(address) else {
        return Err(format!(
            "{address} is in none of the subnets of the network {} ({}), nor of a network of \
             floating_ip_pools: clients in virtual networks cannot use it; let the range of [services] be a \
             subnet of that network, and addresses of the framework be in it",
            network.name,
            network.list_subnets()
        ));
    };
    if let Some(reserved) = objects::reserved(subnet, address) {
        return Err(format!(
            "{address} is {reserved} of {} in the network {}: clients in virtual networks cannot use \
             it; give that subnet another gateway and name server",
            subnet.net, network.name
        ));
    }
    let is_ready = |backend: &DesiredBackend| backend.backend.state == BackendState::Ready;
    let has_ready = on_contrail.iter().any(|(backend, _)| is_ready(backend));
    let mut ports = BTreeSet::new();
    let mut interfaces = BTreeSet::new();
    for (backend, interface) in &on_contrail {
        // One that is going away must not decide.
        if has_ready && !is_ready(backend) {
            continue;
        }
        let Some(port) = container_port(backend, interface) else {
            return Err(format!(
                "the port of the container of task {:?} is not known; map the port in the definition \
                 of the app",
                backend.backend.task
            ));
        };
        ports.insert(port);
        if has_ready {
            interfaces.insert((*interface).clone());
        }
    }
    let mut ports = ports.into_iter();
    let Some(port) = ports.next() else {
        return Ok(None);
    };
    let others: Vec<u16> = ports.collect();
    if !others.is_empty() {
        let ports = std::iter::once(port).chain(others);
        return Err(format!(
            "its containers listen on different ports ({}): Contrail forwards to one port of all of \
             them; give all tasks the same container port",
            list(ports)
        ));
    }
    let elsewhere = of_family.len() - on_contrail.len();
    if elsewhere > 0 {
        let message = format!(
            "{elsewhere} of its {} backends are not on networks of Contrail: clients in virtual \
             networks get connections to the others only",
            of_family.len()
        );
        problems.push(problem(key, service, message));
    }
    Ok(Some(Candidate {
        key,
        service,
        port,
        interfaces,
    }))
}

/// The port on which the container itself listens.
fn container_port(backend: &DesiredBackend, interface: &ContrailInterface) -> Option<u16> {
    let backend = &backend.backend;
    [Some(backend.address), backend.local]
        .into_iter()
        .flatten()
        .find(|address| address.ip() == interface.address)
        .map(|address| address.port())
}

/// The services of one address. The backends are those of the service with most of them, of several
/// the first.
fn combine(candidates: &[Candidate<'_>], problems: &mut Vec<ServiceProblem>) -> PlannedVip {
    let mut vip = PlannedVip::default();
    // The last of several maxima is found, so from the end.
    let main = candidates
        .iter()
        .rev()
        .max_by_key(|candidate| candidate.interfaces.len());
    let Some(main) = main else { return vip };
    vip.interfaces.clone_from(&main.interfaces);
    for candidate in candidates {
        let Candidate { key, service, .. } = candidate;
        if candidate.interfaces != main.interfaces {
            let message = format!(
                "its backends are not those of {}, which has the same address: Contrail has one set \
                 of backends for all ports of an address; give it a name of its own",
                main.key
            );
            problems.push(problem(key, service, message));
            continue;
        }
        let port = (key.protocol, key.port);
        if vip.ports.0.contains_key(&port) {
            let message = "another service has the same address and port".to_owned();
            problems.push(problem(key, service, message));
            continue;
        }
        vip.ports.0.insert(port, candidate.port);
        if let Vip::Name(name) = &key.vip {
            vip.names.insert(name.clone());
        }
    }
    vip
}

fn list(ports: impl Iterator<Item = u16>) -> String {
    let mut texts: Vec<String> = ports.map(|port| port.to_string()).collect();
    if texts.len() > MAX_LISTED {
        texts.truncate(MAX_LISTED);
        texts.push("…".to_owned());
    }
    texts.join(", ")
}

#[cfg(test)]
mod tests;
