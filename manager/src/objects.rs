//! The objects of a container in the VNC API, made from a request and its resolved names. Pure.
//!
//! Every name and uuid derives from the container's id and the interface, so a repeated request
//! finds the objects of the first one. The same rule tells our address objects from others': their
//! uuid derives from their name and their interface.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use uuid::Uuid;

use crate::labels::{self, FloatingIpSpec, PortSpec};
use crate::model::{Defaults, MAX_ANNOTATION_BYTES, Network, OWNER, Subnet, annotation};
use crate::vnc::{
    Address, FloatingIp, FqName, InstanceIp, KeyValues, MacAddresses, Object as _, Ref,
    VirtualMachine, VirtualMachineInterface,
};
use contrail_mesos_api::agent_api::{self, PortAddressRequest, PortRequest, PortsRequest};
use contrail_mesos_api::container::{ContainerId, Mac};
use contrail_mesos_api::text::Quoted;

/// Annotations that a request cannot set.
const RESERVED_ANNOTATIONS: [&str; 4] = [
    annotation::OWNER,
    annotation::CLUSTER,
    annotation::AGENT,
    annotation::CONTAINER,
];
const MAX_ANNOTATIONS: usize = 32;
const MAX_ANNOTATION_KEY_BYTES: usize = 128;

/// The objects of one port.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PlannedPort {
    pub interface: VirtualMachineInterface,
    pub uuid: Uuid,
    pub name: String,
    pub mac: Mac,
    pub network: Arc<Network>,
    pub addresses: Vec<PlannedAddress>,
    pub floating_ips: Vec<FloatingIp>,
}

/// One address of a port.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PlannedAddress {
    pub instance_ip: InstanceIp,
    /// The subnets to request it from, in this order; `None` leaves the choice to the server. Never
    /// empty.
    pub subnets: Vec<Option<Uuid>>,
    /// The subnets that it must be in; any if empty.
    pub selected: Vec<IpNet>,
}

impl PlannedAddress {
    /// Whether the server may give this address.
    pub(crate) fn accepts(&self, address: IpAddr) -> bool {
        self.selected.is_empty() || self.selected.iter().any(|net| net.contains(&address))
    }
}

/// Validates a request as far as that needs no lookup. Returns the specification of every port, or
/// every problem.
pub(crate) fn validate(
    vm: Uuid,
    request: &PortsRequest,
    defaults: &Defaults,
    max_ports: usize,
) -> Result<Vec<PortSpec>, Vec<String>> {
    let mut problems = vec![];
    let expected_vm = agent_api::vm_uuid(&request.container);
    if expected_vm != vm {
        problems.push(format!(
            "the virtual-machine of container {} is {expected_vm}, not {vm}",
            Quoted(request.container.to_string().as_bytes()),
        ));
    }
    if request.ports.is_empty() || request.ports.len() > max_ports {
        problems.push(format!(
            "{} ports are not between 1 and {max_ports}, which is limits.ports of the manager",
            request.ports.len()
        ));
    }
    validate_annotations(&request.annotations, &mut problems);
    let mut interfaces = BTreeSet::new();
    let mut specs = vec![];
    for port in request.ports.iter().take(max_ports) {
        let name = Quoted(port.interface.as_bytes());
        if !is_interface_name(&port.interface) {
            problems.push(format!(
                "{name} is not an interface name: 1 to 15 letters, digits and any of . _ -"
            ));
        }
        if !interfaces.insert(&port.interface) {
            problems.push(format!("interface {name} is there twice"));
        }
        match labels::parse_labels(&port.labels, port.virtual_network.as_deref(), defaults) {
            Ok(spec) => specs.push(spec),
            Err(invalid) => {
                let network = Quoted(port.network.as_bytes());
                problems.extend(
                    invalid
                        .iter()
                        .map(|problem| format!("network {network}: {problem}")),
                );
            }
        }
    }
    if problems.is_empty() {
        Ok(specs)
    } else {
        Err(problems)
    }
}

fn validate_annotations(annotations: &BTreeMap<String, String>, problems: &mut Vec<String>) {
    if annotations.len() > MAX_ANNOTATIONS {
        problems.push(format!(
            "{} annotations are more than {MAX_ANNOTATIONS}",
            annotations.len()
        ));
    }
    for (key, value) in annotations {
        let quoted = Quoted(key.as_bytes());
        if RESERVED_ANNOTATIONS.contains(&key.as_str()) {
            problems.push(format!("annotation {quoted} is reserved for the manager"));
        } else if key.is_empty()
            || key.len() > MAX_ANNOTATION_KEY_BYTES
            || value.len() > MAX_ANNOTATION_BYTES
        {
            problems.push(format!(
                "annotation {quoted} is empty, or longer than {MAX_ANNOTATION_KEY_BYTES} bytes \
                 with a value of {MAX_ANNOTATION_BYTES}"
            ));
        }
    }
}

fn is_interface_name(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && name != "."
        && name != ".."
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// The container's virtual-machine.
pub(crate) fn virtual_machine(
    vm: Uuid,
    agent: &str,
    request: &PortsRequest,
    defaults: &Defaults,
) -> VirtualMachine {
    let mut object = VirtualMachine::named(FqName::new([vm.to_string()]));
    object.common.uuid = Some(vm);
    object.server_type = Some("container".to_owned());
    let container = Vec::<String>::from(request.container.clone());
    let reserved = [
        (annotation::OWNER, OWNER.to_owned()),
        (annotation::CLUSTER, defaults.cluster.clone()),
        (annotation::AGENT, agent.to_owned()),
        (
            annotation::CONTAINER,
            serde_json::json!(container).to_string(),
        ),
    ]
    .map(|(key, value)| (key.to_owned(), value));
    object.common.annotations = request
        .annotations
        .clone()
        .into_iter()
        .chain(reserved)
        .collect();
    object
}

/// The container of a virtual-machine.
pub(crate) fn container_id(annotations: &KeyValues) -> Option<ContainerId> {
    serde_json::from_str(annotations.get(annotation::CONTAINER)?).ok()
}

/// The objects of the port at `index` of a container with `count` of them. `annotations` are those
/// of the virtual-machine.
pub(crate) fn port(
    vm: Uuid,
    (index, count): (usize, usize),
    request: &PortRequest,
    spec: &PortSpec,
    network: Arc<Network>,
    annotations: &KeyValues,
) -> Result<PlannedPort, Vec<String>> {
    let uuid = agent_api::interface_uuid(vm, &request.interface);
    let mac = mac(uuid);
    let name = spec.project.child(format!("{vm}-{}", request.interface));
    let mut interface = VirtualMachineInterface::named(name.clone());
    interface.common.uuid = Some(uuid);
    interface.virtual_network_refs = vec![Ref::to(network.name.clone())];
    interface.virtual_machine_refs = vec![Ref::to(FqName::new([vm.to_string()]))];
    interface.security_group_refs = spec.security_groups.iter().cloned().map(Ref::to).collect();
    interface.port_security_enabled = Some(true);
    interface.virtual_machine_interface_mac_addresses = Some(MacAddresses {
        mac_address: vec![mac.to_string()],
    });
    // The vRouter agent copies these into JSON for CNI plugins without escaping, so no value may
    // contain a quote or a line break. A plugin waits until it has found `count` of them.
    let own = [
        (annotation::INDEX, format!("{index}/{count}")),
        (annotation::INTERFACE, request.interface.clone()),
    ]
    .map(|(key, value)| (key.to_owned(), value));
    let network_name = is_json_safe(&request.network)
        .then(|| (annotation::NETWORK.to_owned(), request.network.clone()));
    let ownership = [annotation::OWNER, annotation::CLUSTER, annotation::AGENT]
        .into_iter()
        .filter_map(|key| Some((key.to_owned(), annotations.get(key)?.to_owned())));
    interface.common.annotations = own
        .into_iter()
        .chain(network_name)
        .chain(ownership)
        .collect();

    let mut addresses = plan_addresses(uuid, &name, request, spec, &network)?;
    for address in &mut addresses {
        address.instance_ip.common.annotations = interface.common.annotations.clone();
    }
    let floating_ips = floating_ips(&name, uuid, spec, &interface.common.annotations);
    Ok(PlannedPort {
        uuid,
        name: request.interface.clone(),
        mac,
        interface,
        network,
        addresses,
        floating_ips,
    })
}

/// The floating-ips of the interface with that name and uuid.
pub(crate) fn floating_ips(
    name: &FqName,
    interface: Uuid,
    spec: &PortSpec,
    annotations: &KeyValues,
) -> Vec<FloatingIp> {
    spec.floating_ips
        .iter()
        .enumerate()
        .map(|(index, floating_ip)| {
            let mut object = FloatingIp::named(floating_ip_name(interface, index, floating_ip));
            object.common.uuid = Some(derived_uuid(interface, &object.common.fq_name));
            object.common.annotations = annotations.clone();
            object.floating_ip_address = Address(floating_ip.address);
            object.project_refs = vec![Ref::to(spec.project.clone())];
            object.virtual_machine_interface_refs = vec![Ref::to(name.clone())];
            object
        })
        .collect()
}

/// The uuids of [`floating_ips`].
pub(crate) fn floating_ip_uuids(
    interface: Uuid,
    floating_ips: &[FloatingIpSpec],
) -> impl Iterator<Item = Uuid> {
    floating_ips
        .iter()
        .enumerate()
        .map(move |(index, floating_ip)| {
            derived_uuid(interface, &floating_ip_name(interface, index, floating_ip))
        })
}

fn floating_ip_name(interface: Uuid, index: usize, floating_ip: &FloatingIpSpec) -> FqName {
    floating_ip.pool.child(match floating_ip.address {
        None => format!("{interface}-{index}"),
        Some(address) => format!("{interface}-{index}-{}", address_in_name(address)),
    })
}

/// The value of [`annotation::ADOPTED`]. It names the interface, so a mark that is left behind has
/// no meaning at another interface.
pub(crate) fn adoption_mark(interface: Uuid, stands_for: Uuid) -> String {
    format!("{interface}/{stands_for}")
}

/// The floating-ip of ours that one with these annotations stands for at this interface.
pub(crate) fn adopted_for(interface: Uuid, annotations: &KeyValues) -> Option<Uuid> {
    let (marked, stands_for) = annotations.get(annotation::ADOPTED)?.split_once('/')?;
    (marked.parse() == Ok(interface)).then(|| stands_for.parse().ok())?
}

/// Whether a string survives the vRouter agent's unescaped JSON.
pub(crate) fn is_json_safe(string: &str) -> bool {
    !string.is_empty()
        && string.len() <= MAX_ANNOTATION_BYTES
        && !string.chars().any(|character| {
            character.is_control() || matches!(character, '"' | '\\' | '\u{fffe}'..='\u{ffff}')
        })
}

fn plan_addresses(
    interface: Uuid,
    interface_name: &FqName,
    request: &PortRequest,
    spec: &PortSpec,
    network: &Network,
) -> Result<Vec<PlannedAddress>, Vec<String>> {
    let subnets = selected_subnets(spec, network)?;
    let has_family = |v4: bool| {
        subnets
            .iter()
            .any(|subnet| subnet.net.addr().is_ipv4() == v4)
    };
    let mut requested = request.addresses.clone();
    if requested.is_empty() {
        requested.extend(has_family(true).then_some(PortAddressRequest::V4));
        requested.extend(has_family(false).then_some(PortAddressRequest::V6));
    }
    let mut problems = vec![];
    if requested.is_empty() {
        problems.push(format!(
            "network \"{}\" has no subnets; add one",
            network.name
        ));
    }
    let mut planned: Vec<PlannedAddress> = vec![];
    let mut count = [0, 0];
    for address in requested {
        let (v4, fixed) = match address {
            PortAddressRequest::V4 => (true, None),
            PortAddressRequest::V6 => (false, None),
            PortAddressRequest::Static(address) => (address.is_ipv4(), Some(address)),
        };
        if let Err(problem) = validate_address(v4, fixed, &subnets, network) {
            problems.push(problem);
            continue;
        }
        count[usize::from(v4)] += 1;
        let suffix = address_suffix(v4, fixed, count[usize::from(v4)]);
        let name = FqName::new([format!("{interface}-{suffix}")]);
        let uuid = derived_uuid(interface, &name);
        if planned
            .iter()
            .any(|other| other.instance_ip.common.uuid == Some(uuid))
        {
            problems.push(format!("address {suffix} is requested twice"));
            continue;
        }
        let mut object = InstanceIp::named(name);
        object.common.uuid = Some(uuid);
        object.instance_ip_address = Address(fixed);
        object.instance_ip_family = Some(if v4 { "v4" } else { "v6" }.to_owned());
        object.virtual_network_refs = vec![Ref::to(network.name.clone())];
        // With the uuid: without it, the server cannot say what is wrong with an address.
        object.virtual_machine_interface_refs = vec![Ref {
            uuid: Some(interface),
            ..Ref::to(interface_name.clone())
        }];
        let is_selected = fixed.is_none() && !spec.subnets.is_empty();
        planned.push(PlannedAddress {
            instance_ip: object,
            subnets: if is_selected {
                subnet_choices(v4, &subnets, network)
            } else {
                vec![None]
            },
            selected: if is_selected {
                let nets = subnets.iter().map(|subnet| subnet.net);
                nets.filter(|net| net.addr().is_ipv4() == v4).collect()
            } else {
                vec![]
            },
        });
    }
    if problems.is_empty() {
        Ok(planned)
    } else {
        Err(problems)
    }
}

/// Why no container can have an address of this subnet; `None` if one can.
pub(crate) fn reserved(subnet: &Subnet, address: IpAddr) -> Option<&'static str> {
    if subnet.gateway == Some(address) {
        Some("the gateway")
    } else if subnet.dns == Some(address) {
        Some("the name server")
    } else if subnet.net.network() == address {
        Some("the network's own address")
    } else if subnet.net.broadcast() == address {
        Some("the last address, which is reserved,")
    } else {
        None
    }
}

/// Checks that the selected subnets can give such an address.
fn validate_address(
    v4: bool,
    fixed: Option<IpAddr>,
    subnets: &[&Subnet],
    network: &Network,
) -> Result<(), String> {
    let is_possible = subnets.iter().any(|subnet| match fixed {
        Some(address) => subnet.net.contains(&address),
        None => subnet.net.addr().is_ipv4() == v4,
    });
    if is_possible {
        let reservation = fixed.and_then(|address| {
            let subnet = subnets
                .iter()
                .find(|subnet| subnet.net.contains(&address))?;
            Some((address, subnet.net, reserved(subnet, address)?))
        });
        return match reservation {
            None => Ok(()),
            Some((address, net, reservation)) => Err(format!(
                "network \"{}\": {address} is {reservation} of {net}; request another address",
                network.name
            )),
        };
    }
    let problem = match fixed {
        Some(address) => format!("{address} is in none of its subnets"),
        None => format!("it has no subnet of IPv{}", if v4 { 4 } else { 6 }),
    };
    Err(format!(
        "network \"{}\": {problem}: {}",
        network.name,
        network.list_subnets()
    ))
}

/// What tells the addresses of an interface apart, in their names.
fn address_suffix(v4: bool, fixed: Option<IpAddr>, nth: usize) -> String {
    let family = if v4 { 4 } else { 6 };
    match (fixed, nth) {
        (Some(address), _) => address_in_name(address),
        (None, 1) => format!("v{family}"),
        (None, nth) => format!("v{family}-{nth}"),
    }
}

/// From which subnets of one family to request an address, in this order. The server tries only the
/// first subnet of a flat ipam that is requested by its uuid, so the choice is left to the server if
/// several of them are selected: at once if these are all subnets of the network, else at last.
fn subnet_choices(v4: bool, selected: &[&Subnet], network: &Network) -> Vec<Option<Uuid>> {
    let is_v4 = |subnet: &Subnet| subnet.net.addr().is_ipv4() == v4;
    let selected: Vec<&Subnet> = selected.iter().copied().filter(|net| is_v4(net)).collect();
    let mut choices: Vec<Option<Uuid>> = vec![];
    let mut share_uuid = false;
    for subnet in &selected {
        if choices.contains(&subnet.uuid) {
            share_uuid = true;
        } else {
            choices.push(subnet.uuid);
        }
    }
    if share_uuid {
        let mut of_family = network.subnets.iter().filter(|subnet| is_v4(subnet));
        if choices.len() == 1 && of_family.all(|subnet| selected.contains(&subnet)) {
            return vec![None];
        }
        choices.push(None);
    }
    choices
}

/// The network's subnets that the labels select, or all.
fn selected_subnets<'a>(
    spec: &PortSpec,
    network: &'a Network,
) -> Result<Vec<&'a Subnet>, Vec<String>> {
    if spec.subnets.is_empty() {
        return Ok(network.subnets.iter().collect());
    }
    let mut problems = vec![];
    let mut selected: Vec<&Subnet> = vec![];
    for net in &spec.subnets {
        match network.subnets.iter().find(|subnet| subnet.net == *net) {
            Some(subnet) => selected.push(subnet),
            None => problems.push(format!(
                "network \"{}\" has no subnet {net}; it has {}",
                network.name,
                network.list_subnets()
            )),
        }
    }
    // The server takes one uuid for all subnets of a flat ipam, and allocates from any of them.
    for subnet in &network.subnets {
        let is_alike = |other: &&Subnet| {
            other.uuid == subnet.uuid && other.net.addr().is_ipv4() == subnet.net.addr().is_ipv4()
        };
        if !selected.contains(&subnet)
            && let Some(alike) = selected.iter().copied().find(is_alike)
        {
            problems.push(format!(
                "network \"{}\" does not tell addresses of {} and {} apart; name both or neither \
                 in network-subnets",
                network.name, alike.net, subnet.net
            ));
        }
    }
    if problems.is_empty() {
        Ok(selected)
    } else {
        Err(problems)
    }
}

/// An address without colons, which a name may not have.
fn address_in_name(address: IpAddr) -> String {
    address.to_string().replace(':', "_")
}

/// The uuid of an address object of an interface.
fn derived_uuid(interface: Uuid, name: &FqName) -> Uuid {
    Uuid::new_v5(&interface, name.to_string().as_bytes())
}

/// Whether we created the referring address object for this interface.
pub(crate) fn is_created_for(interface: Uuid, reference: &Ref) -> bool {
    reference.uuid == Some(derived_uuid(interface, &reference.to))
}

/// The MAC address that the server gives an interface without one.
fn mac(interface: Uuid) -> Mac {
    let mut mac = [2; 6];
    mac[1..].copy_from_slice(&interface.as_bytes()[..5]);
    Mac(mac)
}
