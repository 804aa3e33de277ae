//! Parses `NetworkInfo` messages into typed requests. Pure; reports all problems at once.
//!
//! A `NetworkInfo` is written by a framework and is not trusted until it has passed through here:
//! strings are checked before use, and quoted and shortened in messages. What is too much of
//! anything is refused before its parts are looked at, so that time and memory are linear in what
//! the framework wrote.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::config::{Config, Network, NetworkProvider};
use crate::membership::membership;
use crate::proto::mesos::network_info::{self, IpAddress};
use crate::proto::mesos::{ContainerInfo, NetworkInfo, container_info};
use crate::provider::{AddressRequest, NetworkRequest, PortMapping, Protocol};
use contrail_mesos_api::cluster::Membership;
use contrail_mesos_api::container::ContainerId;
use contrail_mesos_api::limits::{
    MAX_ADDRESSES, MAX_CONTAINER_DEPTH, MAX_CONTAINER_ID_BYTES, MAX_LABEL_BYTES, MAX_LABELS,
    MAX_NETWORKS, MAX_PORT_MAPPINGS,
};
use contrail_mesos_api::text::Quoted;

/// The longest hostname that the kernel accepts, in bytes.
const MAX_HOSTNAME_BYTES: usize = 64;
/// The longest list of protocols of a port mapping, in bytes: there are three protocols.
const MAX_PROTOCOLS_BYTES: usize = 64;
/// The label by which a framework selects Contrail's virtual networks.
pub(crate) const NETWORKS_LABEL: &str = "networks";
/// The only interface of a container that is on no network.
const LOOPBACK: &str = "lo";
/// The label by which a framework names groups, besides the field of that name, which Marathon drops.
const GROUPS_LABEL: &str = "netgroups";
/// The label by which a framework names security groups.
const SECURITY_GROUPS_LABEL: &str = "security-groups";
/// The label by which a framework requests floating IPs.
const FLOATING_IPS_LABEL: &str = "floating-ips";

/// Everything that is wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct RequestError(pub Vec<String>);

/// A framework's valid request for one container.
#[derive(Clone, Debug)]
pub struct ContainerRequest {
    /// One request per interface, in the order of the `NetworkInfo`s; never empty.
    pub networks: Vec<NetworkRequest>,
    /// For each of `networks`, the `NetworkInfo` that it came from.
    pub network_infos: Vec<NetworkInfo>,
    /// The container's hostname.
    pub hostname: String,
}

/// Whether the container requests networks of its own: a `NetworkInfo` without a name does not.
#[must_use]
pub fn requests_networks(container: &ContainerInfo) -> bool {
    container
        .network_infos
        .iter()
        .any(|info| info.name.is_some())
}

/// Parses the request of a container that [requests networks](requests_networks).
pub fn parse(
    id: &ContainerId,
    container: &ContainerInfo,
    config: &Config,
) -> Result<ContainerRequest, RequestError> {
    check_id(id)?;
    check_limits(&container.network_infos)?;
    let mut problems = Vec::new();
    if container.r#type() != container_info::Type::Mesos {
        problems.push(
            "only containers of type MESOS can join a network; a DOCKER container belongs to the \
             Docker containerizer"
                .to_owned(),
        );
    }
    let hostname = hostname(id, container.hostname.as_deref(), &mut problems);
    let mut names = BTreeSet::new();
    let mut host_ports = BTreeSet::new();
    let mut networks = Vec::new();
    let mut network_infos = Vec::new();
    for info in &container.network_infos {
        let Some(name) = info.name.as_deref() else {
            continue;
        };
        if !names.insert(name) {
            problems.push(format!("network {} is named twice", Quoted(name)));
            continue;
        }
        let Some(network) = find_network(name, config, &mut problems) else {
            continue;
        };
        let mut problem =
            |message: String| problems.push(format!("network {:?}: {message}", network.name));
        let addresses = addresses(&info.ip_addresses, &mut problem);
        let ports = ports(info, &mut host_ports, &mut problem);
        let labels = labels(info, &mut problem);
        let membership = match network.provider {
            NetworkProvider::Bridge(_) | NetworkProvider::Overlay(_) => {
                groups(info, &labels, &mut problem)
            }
            NetworkProvider::Contrail(_) | NetworkProvider::Cni(_) | NetworkProvider::None => {
                Membership::default()
            }
        };
        let dns = match network.provider {
            // Contrail provides name servers for each of its networks.
            NetworkProvider::Contrail(_) => network.dns.clone(),
            NetworkProvider::Bridge(_)
            | NetworkProvider::Overlay(_)
            | NetworkProvider::Cni(_)
            | NetworkProvider::None => network.dns.clone().or_else(|| config.dns.clone()),
        };
        let request = NetworkRequest {
            container: id.clone(),
            interface: String::new(),
            network: Network {
                dns,
                ..network.clone()
            },
            addresses,
            ports,
            membership,
            labels,
            info: info.clone(),
        };
        for request in split_by_virtual_network(request, &mut problem) {
            networks.push(NetworkRequest {
                interface: interface(&request.network.provider, networks.len()),
                ..request
            });
            network_infos.push(info.clone());
        }
    }
    problems.extend(check_interfaces(&networks));
    if problems.is_empty() {
        Ok(ContainerRequest {
            networks,
            network_infos,
            hostname,
        })
    } else {
        Err(RequestError(problems))
    }
}

/// The name of the interface in the container of its network number `index`.
fn interface(provider: &NetworkProvider, index: usize) -> String {
    match provider {
        NetworkProvider::None => LOOPBACK.to_owned(),
        NetworkProvider::Bridge(_)
        | NetworkProvider::Overlay(_)
        | NetworkProvider::Contrail(_)
        | NetworkProvider::Cni(_) => format!("eth{index}"),
    }
}

/// Refuses an id that no agent gives to a container.
fn check_id(id: &ContainerId) -> Result<(), RequestError> {
    let problem = if id.depth() > MAX_CONTAINER_DEPTH {
        format!(
            "the container is nested in {} others; at most {MAX_CONTAINER_DEPTH} are possible",
            id.depth()
        )
    } else if let Some(part) = id.parts().find(|part| part.len() > MAX_CONTAINER_ID_BYTES) {
        format!(
            "the container's id {} is longer than {MAX_CONTAINER_ID_BYTES} bytes",
            Quoted(part.as_bytes())
        )
    } else {
        return Ok(());
    };
    Err(RequestError(vec![problem]))
}

/// Refuses too much of anything. Only counts, so that its cost is linear.
fn check_limits(infos: &[NetworkInfo]) -> Result<(), RequestError> {
    let named = || infos.iter().filter(|info| info.name.is_some());
    let labels = |info: &NetworkInfo| {
        let labels = info.labels.iter().flat_map(|labels| &labels.labels);
        let (count, bytes) = labels.fold((0, 0), |(count, bytes), label| {
            let value = label.value.as_ref().map_or(0, Vec::len);
            (count + 1, bytes + label.key.len() + value)
        });
        let groups: usize = info.groups.iter().map(Vec::len).sum();
        (count + info.groups.len(), bytes + groups)
    };
    let limits = [
        (
            named().count(),
            MAX_NETWORKS,
            "requests",
            "networks; a container can have",
        ),
        (
            named().map(|info| info.ip_addresses.len()).sum(),
            MAX_ADDRESSES,
            "requests",
            "addresses; a container can request",
        ),
        (
            named().map(|info| info.port_mappings.len()).sum(),
            MAX_PORT_MAPPINGS,
            "maps",
            "ports; a container can map",
        ),
        (
            named().map(|info| labels(info).0).sum(),
            MAX_LABELS,
            "has",
            "labels and groups of networks; a container can have",
        ),
        (
            named().map(|info| labels(info).1).sum(),
            MAX_LABEL_BYTES,
            "has",
            "bytes of labels and groups of networks; a container can have",
        ),
    ];
    let problems: Vec<String> = limits
        .into_iter()
        .filter(|(count, limit, ..)| count > limit)
        .map(|(count, limit, verb, what)| {
            format!("the container {verb} {count} {what} at most {limit}")
        })
        .collect();
    if problems.is_empty() {
        Ok(())
    } else {
        Err(RequestError(problems))
    }
}

/// What is wrong with the requests of a container together.
fn check_interfaces(networks: &[NetworkRequest]) -> Vec<String> {
    let mut problems = Vec::new();
    if networks.len() > MAX_NETWORKS {
        problems.push(format!(
            "the container requests {} networks; a container can have at most {MAX_NETWORKS}",
            networks.len()
        ));
    }
    let ports: usize = networks.iter().map(|network| network.ports.len()).sum();
    if ports > MAX_PORT_MAPPINGS {
        problems.push(format!(
            "the container maps {ports} ports; a container can map at most {MAX_PORT_MAPPINGS}"
        ));
    }
    let isolated = networks
        .iter()
        .find(|network| network.network.provider == NetworkProvider::None);
    if let Some(isolated) = isolated
        && networks.len() > 1
    {
        problems.push(format!(
            "network {:?} is of provider \"none\", so a container on it can be on no other network",
            isolated.network.name
        ));
    }
    problems
}

/// Parses a `NetworkInfo` for Contrail: one request for each virtual network, in order.
pub(crate) fn parse_contrail(
    id: &ContainerId,
    info: &NetworkInfo,
    network: crate::config::ContrailNetwork,
) -> Result<Vec<NetworkRequest>, RequestError> {
    check_limits(std::slice::from_ref(info))?;
    let mut problems = Vec::new();
    let mut problem = |message: String| problems.push(message);
    let name = info.name.as_deref().unwrap_or_default();
    let request = NetworkRequest {
        container: id.clone(),
        interface: String::new(),
        network: Network {
            name: String::from_utf8_lossy(name).into_owned(),
            dns: None,
            provider: NetworkProvider::Contrail(network),
        },
        addresses: addresses(&info.ip_addresses, &mut problem),
        ports: vec![],
        membership: Membership::default(),
        labels: labels(info, &mut problem),
        info: info.clone(),
    };
    let requests = split_by_virtual_network(request, &mut problem)
        .into_iter()
        .enumerate()
        .map(|(index, request)| NetworkRequest {
            interface: format!("eth{index}"),
            ..request
        })
        .collect();
    if problems.is_empty() {
        Ok(requests)
    } else {
        Err(RequestError(problems))
    }
}

/// Splits a request to Contrail into one for each virtual network that the label `networks` lists.
/// Addresses, ports and floating IPs go to the first.
fn split_by_virtual_network(
    request: NetworkRequest,
    problem: &mut impl FnMut(String),
) -> Vec<NetworkRequest> {
    let list = match request.network.provider {
        NetworkProvider::Contrail(_) => request.labels.get(NETWORKS_LABEL).cloned(),
        NetworkProvider::Bridge(_)
        | NetworkProvider::Overlay(_)
        | NetworkProvider::Cni(_)
        | NetworkProvider::None => None,
    };
    let Some(list) = list.filter(|list| list.contains(',')) else {
        return vec![request];
    };
    let count = list.split(',').count();
    if count > MAX_NETWORKS {
        problem(format!(
            "the label {NETWORKS_LABEL} lists {count} networks; a container can have at most \
             {MAX_NETWORKS}"
        ));
        return vec![];
    }
    let mut names = BTreeSet::new();
    let mut requests = Vec::new();
    for name in list.split(',').map(str::trim) {
        if name.is_empty() || !names.insert(name) {
            problem(format!(
                "the label {NETWORKS_LABEL} is {}; list each network once, such as \"blue,red\"",
                Quoted(list.as_bytes())
            ));
            break;
        }
        let mut part = request.clone();
        part.labels
            .insert(NETWORKS_LABEL.to_owned(), name.to_owned());
        if !requests.is_empty() {
            part.addresses = vec![AddressRequest::Any];
            part.ports = vec![];
            // A floating IP belongs to one interface.
            part.labels.remove(FLOATING_IPS_LABEL);
        }
        requests.push(part);
    }
    requests
}

fn find_network<'a>(
    name: &[u8],
    config: &'a Config,
    problems: &mut Vec<String>,
) -> Option<&'a Network> {
    let network = std::str::from_utf8(name)
        .ok()
        .and_then(|name| config.network(name));
    if network.is_none() {
        let names: Vec<&str> = config
            .networks
            .iter()
            .map(|network| network.name.as_str())
            .collect();
        let known = if names.is_empty() {
            "no network is configured on this agent".to_owned()
        } else {
            format!("this agent has: {}", names.join(", "))
        };
        let unusable = config
            .cni_problems
            .iter()
            .chain(&config.cni_ignored)
            .fold(String::new(), |unusable, problem| {
                unusable + "; not usable: " + &problem.to_string()
            });
        problems.push(format!(
            "unknown network {}; {known}{unusable}",
            Quoted(name)
        ));
    }
    network
}

/// The requested hostname; by default the container's id, made a valid hostname.
fn hostname(id: &ContainerId, requested: Option<&[u8]>, problems: &mut Vec<String>) -> String {
    let Some(requested) = requested else {
        return id
            .value()
            .chars()
            .map(|c| if is_hostname_char(c) { c } else { '-' })
            .take(MAX_HOSTNAME_BYTES)
            .collect();
    };
    match std::str::from_utf8(requested) {
        Ok(name)
            if (1..=MAX_HOSTNAME_BYTES).contains(&name.len())
                && name.chars().all(is_hostname_char)
                && !name.starts_with(['.', '-']) =>
        {
            name.to_owned()
        }
        _ => {
            problems.push(format!(
                "{} is not a hostname: use 1 to {MAX_HOSTNAME_BYTES} letters, digits and any of . _ -",
                Quoted(requested)
            ));
            String::new()
        }
    }
}

fn is_hostname_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || "._-".contains(c)
}

fn addresses(entries: &[IpAddress], problem: &mut impl FnMut(String)) -> Vec<AddressRequest> {
    if entries.is_empty() {
        // Marathon sends an empty entry for an app's container, and none for a pod.
        return vec![AddressRequest::Any];
    }
    let mut addresses = Vec::new();
    for entry in entries {
        match address(entry) {
            Ok(AddressRequest::Static(address))
                if addresses.contains(&AddressRequest::Static(address)) =>
            {
                problem(format!("address {address} is requested twice"));
            }
            Ok(address) => addresses.push(address),
            Err(message) => problem(message),
        }
    }
    addresses
}

fn address(entry: &IpAddress) -> Result<AddressRequest, String> {
    use network_info::Protocol as Family;

    let family = entry
        .protocol
        .map(|family| {
            Family::try_from(family).map_err(|_| {
                format!("there is no address family {family}; use 1 for IPv4 or 2 for IPv6")
            })
        })
        .transpose()?;
    // Some frameworks send an empty address for none.
    let Some(bytes) = entry
        .ip_address
        .as_deref()
        .filter(|bytes| !bytes.is_empty())
    else {
        return Ok(match family {
            None => AddressRequest::Any,
            Some(Family::Ipv4) => AddressRequest::V4,
            Some(Family::Ipv6) => AddressRequest::V6,
        });
    };
    let address: IpAddr = std::str::from_utf8(bytes)
        .ok()
        .and_then(|string| string.parse().ok())
        .ok_or_else(|| format!("{} is not an IP address", Quoted(bytes)))?;
    match (family, address) {
        (Some(Family::Ipv6), IpAddr::V4(_)) => Err(format!(
            "{address} is an IPv4 address, but its protocol says IPv6"
        )),
        (Some(Family::Ipv4), IpAddr::V6(_)) => Err(format!(
            "{address} is an IPv6 address, but its protocol says IPv4"
        )),
        _ => Ok(AddressRequest::Static(address)),
    }
}

fn ports(
    info: &NetworkInfo,
    host_ports: &mut BTreeSet<(u16, Protocol)>,
    problem: &mut impl FnMut(String),
) -> Vec<PortMapping> {
    let mut ports = Vec::new();
    for mapping in &info.port_mappings {
        let mut port = |side: &str, port: u32| {
            let number = u16::try_from(port).ok().filter(|port| *port != 0);
            if number.is_none() {
                problem(format!("{side} port {port} is not between 1 and 65535"));
            }
            number
        };
        let host_port = port("host", mapping.host_port);
        let container_port = port("container", mapping.container_port);
        let protocols = protocols(mapping.protocol.as_deref());
        let (Some(host_port), Some(container_port)) = (host_port, container_port) else {
            continue;
        };
        let protocols = match protocols {
            Ok(protocols) => protocols,
            Err(message) => {
                problem(message);
                continue;
            }
        };
        for protocol in protocols {
            if host_ports.insert((host_port, protocol)) {
                ports.push(PortMapping {
                    host_port,
                    container_port,
                    protocol,
                });
            } else {
                problem(format!("host port {host_port}/{protocol} is mapped twice"));
            }
        }
    }
    ports
}

/// Parses a list of protocols: Marathon passes on `udp,tcp` as the user wrote it.
fn protocols(list: Option<&[u8]>) -> Result<Vec<Protocol>, String> {
    let Some(list) = list.filter(|list| !list.is_empty()) else {
        return Ok(vec![Protocol::Tcp]);
    };
    if list.len() > MAX_PROTOCOLS_BYTES {
        return Err(format!(
            "{} is no list of transport protocols; use tcp, udp or sctp",
            Quoted(list)
        ));
    }
    list.split(|byte| *byte == b',')
        .map(
            |word| match word.trim_ascii().to_ascii_lowercase().as_slice() {
                b"tcp" => Ok(Protocol::Tcp),
                b"udp" => Ok(Protocol::Udp),
                b"sctp" => Ok(Protocol::Sctp),
                _ => Err(format!(
                    "{} is not a transport protocol; use tcp, udp or sctp",
                    Quoted(list)
                )),
            },
        )
        .collect()
}

/// The groups that a `NetworkInfo` and its labels name.
fn groups(
    info: &NetworkInfo,
    labels: &BTreeMap<String, String>,
    problem: &mut impl FnMut(String),
) -> Membership {
    let listed = |label: &str| {
        let list = labels.get(label).map(String::as_str);
        list.into_iter()
            .flat_map(|list| list.split(','))
            .map(|name| name.trim().as_bytes())
    };
    let of_field = info.groups.iter().map(Vec::as_slice);
    membership(
        of_field.chain(listed(GROUPS_LABEL)),
        listed(SECURITY_GROUPS_LABEL),
    )
    .unwrap_or_else(|error| {
        problem(error.to_string());
        Membership::default()
    })
}

fn labels(info: &NetworkInfo, problem: &mut impl FnMut(String)) -> BTreeMap<String, String> {
    let entries = info.labels.iter().flat_map(|labels| &labels.labels);
    let mut labels = BTreeMap::new();
    for label in entries {
        let value = label.value.as_deref().unwrap_or_default();
        match (std::str::from_utf8(&label.key), std::str::from_utf8(value)) {
            (Ok(key), Ok(value)) => {
                labels.insert(key.to_owned(), value.to_owned());
            }
            (Err(_), _) => problem(format!("label key {} is not UTF-8", Quoted(&label.key))),
            (_, Err(_)) => problem(format!(
                "the value {} of label {} is not UTF-8",
                Quoted(value),
                Quoted(&label.key)
            )),
        }
    }
    labels
}

#[cfg(test)]
mod tests;
