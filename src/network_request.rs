//! `NetworkInfo` → typed requests: pure, and every error at once.
//!
//! Everything in a `NetworkInfo` was written by a framework and is hostile until it has passed
//! through here: text is quoted and shortened in messages and checked before it is used.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::config::{Config, Network, NetworkProvider};
use crate::proto::mesos::network_info::{self, IpAddress};
use crate::proto::mesos::{ContainerInfo, NetworkInfo, container_info};
use crate::provider::{AddressRequest, NetworkRequest, PortMapping, Protocol};
use contrail_mesos_api::container::ContainerId;
use contrail_mesos_api::text::Quoted;

/// Longest hostname that the kernel takes, in bytes.
const LONGEST_HOSTNAME: usize = 64;

/// Everything that is wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct RequestError(pub Vec<String>);

/// What a framework asks for one container, checked.
#[derive(Clone, Debug)]
pub struct Request {
    /// The named networks, in the order of the `NetworkInfo`s; never empty.
    pub networks: Vec<NetworkRequest>,
    /// The `NetworkInfo`s that `networks` came from, same order, to be reported with addresses.
    pub infos: Vec<NetworkInfo>,
    /// The container's hostname.
    pub hostname: String,
}

/// Whether the container asks for networks of its own: a `NetworkInfo` without a name does not.
#[must_use]
pub fn asks_for_networks(container: &ContainerInfo) -> bool {
    container
        .network_infos
        .iter()
        .any(|info| info.name.is_some())
}

/// The request of a container that [asks for networks](asks_for_networks).
pub fn request(
    id: &ContainerId,
    container: &ContainerInfo,
    config: &Config,
) -> Result<Request, RequestError> {
    let mut problems = Vec::new();
    if container.r#type() != container_info::Type::Mesos {
        problems.push(
            "only containers of type MESOS can join a network; a DOCKER container belongs to the \
             Docker containerizer"
                .to_owned(),
        );
    }
    let hostname = hostname(id, container.hostname.as_deref(), &mut problems);
    let mut seen = BTreeSet::new();
    let mut host_ports = BTreeSet::new();
    let mut networks = Vec::new();
    let named = container.network_infos.iter().filter_map(|info| {
        let name = info.name.as_deref()?;
        Some((name, info))
    });
    let mut infos = Vec::new();
    for (name, info) in named {
        if !seen.insert(name) {
            problems.push(format!("network {} is named twice", Quoted(name)));
            continue;
        }
        let Some(network) = known(name, config, &mut problems) else {
            continue;
        };
        let mut problem =
            |message: String| problems.push(format!("network {:?}: {message}", network.name));
        let addresses = addresses(&info.ip_addresses, &mut problem);
        let ports = ports(info, &mut host_ports, &mut problem);
        let labels = labels(info, &mut problem);
        let dns = match network.provider {
            // Contrail has name servers for each of its networks.
            NetworkProvider::Contrail(_) => network.dns.clone(),
            NetworkProvider::Bridge(_) | NetworkProvider::Cni(_) => {
                network.dns.clone().or_else(|| config.dns.clone())
            }
        };
        let first = NetworkRequest {
            container: id.clone(),
            interface: String::new(),
            network: Network {
                dns,
                ..network.clone()
            },
            addresses,
            ports,
            labels,
            info: info.clone(),
        };
        for request in one_each(first, &mut problem) {
            networks.push(NetworkRequest {
                interface: format!("eth{}", networks.len()),
                ..request
            });
            infos.push(info.clone());
        }
    }
    if problems.is_empty() {
        Ok(Request {
            networks,
            infos,
            hostname,
        })
    } else {
        Err(RequestError(problems))
    }
}

/// What a `NetworkInfo` asks of Contrail: one request for each virtual network, in order.
pub(crate) fn of_contrail(
    id: &ContainerId,
    info: &NetworkInfo,
    network: crate::config::ContrailNetwork,
) -> Result<Vec<NetworkRequest>, RequestError> {
    let mut problems = Vec::new();
    let mut problem = |message: String| problems.push(message);
    let name = info.name.as_deref().unwrap_or_default();
    let first = NetworkRequest {
        container: id.clone(),
        interface: String::new(),
        network: Network {
            name: String::from_utf8_lossy(name).into_owned(),
            dns: None,
            provider: NetworkProvider::Contrail(network),
        },
        addresses: addresses(&info.ip_addresses, &mut problem),
        ports: vec![],
        labels: labels(info, &mut problem),
        info: info.clone(),
    };
    let requests = one_each(first, &mut problem)
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

/// The label by which a framework chooses among Contrail's virtual networks.
pub(crate) const NETWORKS_LABEL: &str = "networks";

/// One request for each virtual network of Contrail that the label `networks` lists. What is asked
/// for beyond the networks (addresses, ports) is the first one's.
fn one_each(request: NetworkRequest, problem: &mut impl FnMut(String)) -> Vec<NetworkRequest> {
    let list = match request.network.provider {
        NetworkProvider::Contrail(_) => request.labels.get(NETWORKS_LABEL).cloned(),
        NetworkProvider::Bridge(_) | NetworkProvider::Cni(_) => None,
    };
    let Some(list) = list.filter(|list| list.contains(',')) else {
        return vec![request];
    };
    let mut seen = BTreeSet::new();
    let mut requests = Vec::new();
    for name in list.split(',').map(str::trim) {
        if name.is_empty() || !seen.insert(name) {
            problem(format!(
                "the label {NETWORKS_LABEL} is {}, where each name may stand once: \"blue,red\"",
                Quoted(list.as_bytes())
            ));
            break;
        }
        let mut one = request.clone();
        one.labels
            .insert(NETWORKS_LABEL.to_owned(), name.to_owned());
        if !requests.is_empty() {
            one.addresses = vec![AddressRequest::Any];
            one.ports = vec![];
            // They would lead to two interfaces.
            one.labels.remove(FLOATING_IPS_LABEL);
        }
        requests.push(one);
    }
    requests
}

/// The label by which a framework asks for floating addresses.
const FLOATING_IPS_LABEL: &str = "floating-ips";

fn known<'a>(name: &[u8], config: &'a Config, problems: &mut Vec<String>) -> Option<&'a Network> {
    let network = std::str::from_utf8(name)
        .ok()
        .and_then(|name| config.network(name));
    if network.is_none() {
        let known = config
            .networks
            .iter()
            .map(|network| network.name.as_str())
            .collect::<Vec<_>>()
            .join(", ");
        let known = match known.as_str() {
            "" => "no network is configured on this agent",
            known => &format!("this agent has: {known}"),
        };
        let unusable = config.unusable.iter().fold(String::new(), |text, problem| {
            text + "; not usable: " + &problem.to_string()
        });
        problems.push(format!(
            "unknown network {}; {known}{unusable}",
            Quoted(name)
        ));
    }
    network
}

fn hostname(id: &ContainerId, asked: Option<&[u8]>, problems: &mut Vec<String>) -> String {
    let Some(asked) = asked else {
        // A nested container's id may be longer than the kernel allows a hostname to be.
        return id
            .value()
            .chars()
            .map(|letter| {
                if is_hostname_letter(letter) {
                    letter
                } else {
                    '-'
                }
            })
            .take(LONGEST_HOSTNAME)
            .collect();
    };
    match std::str::from_utf8(asked) {
        Ok(name)
            if (1..=LONGEST_HOSTNAME).contains(&name.len())
                && name.chars().all(is_hostname_letter)
                && !name.starts_with(['.', '-']) =>
        {
            name.to_owned()
        }
        _ => {
            problems.push(format!(
                "{} is not a hostname: 1 to {LONGEST_HOSTNAME} letters, digits and any of . _ -",
                Quoted(asked)
            ));
            String::new()
        }
    }
}

fn is_hostname_letter(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || "._-".contains(letter)
}

fn addresses(asked: &[IpAddress], problem: &mut impl FnMut(String)) -> Vec<AddressRequest> {
    if asked.is_empty() {
        // Marathon's pods carry no entry at all and mean what an empty entry means.
        return vec![AddressRequest::Any];
    }
    let mut addresses = Vec::new();
    for entry in asked {
        match address(entry) {
            Ok(AddressRequest::Static(address))
                if addresses.contains(&AddressRequest::Static(address)) =>
            {
                problem(format!("address {address} is asked for twice"));
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
                format!("there is no address family {family}; IPv4 is 1 and IPv6 is 2")
            })
        })
        .transpose()?;
    // A framework may also leave the text empty where it means that there is none.
    let Some(text) = entry.ip_address.as_deref().filter(|text| !text.is_empty()) else {
        return Ok(match family {
            None => AddressRequest::Any,
            Some(Family::Ipv4) => AddressRequest::V4,
            Some(Family::Ipv6) => AddressRequest::V6,
        });
    };
    let address: IpAddr = std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or_else(|| format!("{} is not an IP address", Quoted(text)))?;
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
    taken: &mut BTreeSet<(u16, Protocol)>,
    problem: &mut impl FnMut(String),
) -> Vec<PortMapping> {
    let mut ports = Vec::new();
    for mapping in &info.port_mappings {
        let mut port = |what: &str, port: u32| {
            let number = u16::try_from(port).ok().filter(|port| *port != 0);
            if number.is_none() {
                problem(format!("{what} port {port} is not between 1 and 65535"));
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
            if taken.insert((host_port, protocol)) {
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

/// Marathon passes on what the user wrote, `udp,tcp` included.
fn protocols(text: Option<&[u8]>) -> Result<Vec<Protocol>, String> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(vec![Protocol::Tcp]);
    };
    text.split(|byte| *byte == b',')
        .map(
            |word| match word.trim_ascii().to_ascii_lowercase().as_slice() {
                b"tcp" => Ok(Protocol::Tcp),
                b"udp" => Ok(Protocol::Udp),
                b"sctp" => Ok(Protocol::Sctp),
                _ => Err(format!(
                    "{} is not a transport protocol; known are tcp, udp and sctp",
                    Quoted(text)
                )),
            },
        )
        .collect()
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
