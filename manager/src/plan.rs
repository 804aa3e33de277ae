//! A request, and what its names resolve to → the objects of a container: pure.
//!
//! Every name and uuid derives from the container's id and the interface, so that a request that
//! comes again finds what the first one made. An object of ours is known by that too: its uuid is
//! the one that its name and its interface give.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use uuid::Uuid;

use super::config::Default;
use super::labels::{self, Wish};
use super::names::{Network, Subnet};
use crate::vnc::{
    Address, FloatingIp, FqName, InstanceIp, KeyValues, MacAddresses, Object as _, Ref,
    VirtualMachine, VirtualMachineInterface,
};
use contrail_mesos_api::agent_api::{self, PortAddressRequest, PortRequest, PortsRequest};
use contrail_mesos_api::container::{ContainerId, Mac};
use contrail_mesos_api::text::Quoted;

/// Who makes our objects, in their annotations.
pub(super) const OWNER: &str = "contrail-mesos";
/// Annotations that are ours alone.
const RESERVED: [&str; 4] = ["owner", "cluster", "agent", "container"];
/// The most that an agent may add, and how long each key and value may be.
const ANNOTATIONS: usize = 32;
const LONGEST_KEY: usize = 128;
pub(super) const LONGEST_VALUE: usize = 1024;

/// A request that makes sense, its names not looked up yet.
#[derive(Clone, Debug)]
pub(super) struct Checked {
    pub wishes: Vec<Wish>,
}

/// The objects of one port, as they are to be.
#[derive(Clone, Debug)]
pub(super) struct Port {
    pub interface: VirtualMachineInterface,
    pub uuid: Uuid,
    pub name: String,
    pub mac: Mac,
    pub network: Arc<Network>,
    pub addresses: Vec<PlannedAddress>,
    pub floating_ips: Vec<FloatingIp>,
}

/// An address as it is to be.
#[derive(Clone, Debug)]
pub(super) struct PlannedAddress {
    pub instance_ip: InstanceIp,
    /// Subnets to take it from instead, once that in `instance_ip` is used up.
    pub otherwise: Vec<Uuid>,
}

/// What must hold of a request whatever exists. Every problem at once.
pub(super) fn check(
    machine: Uuid,
    request: &PortsRequest,
    defaults: &Default,
    most: usize,
) -> Result<Checked, Vec<String>> {
    let mut problems = vec![];
    if agent_api::vm_uuid(&request.container) != machine {
        problems.push(format!(
            "the machine of container {} is {}, not {machine}",
            Quoted(request.container.to_string().as_bytes()),
            agent_api::vm_uuid(&request.container)
        ));
    }
    if request.ports.is_empty() || request.ports.len() > most {
        problems.push(format!(
            "{} ports are not between 1 and {most}, which is limits.ports of the manager",
            request.ports.len()
        ));
    }
    annotations(&request.annotations, &mut problems);
    let mut interfaces = BTreeSet::new();
    let mut wishes = vec![];
    for port in request.ports.iter().take(most) {
        let name = Quoted(port.interface.as_bytes());
        if !is_interface(&port.interface) {
            problems.push(format!(
                "{name} is not an interface's name: 1 to 15 letters, digits and any of . _ -"
            ));
        }
        if !interfaces.insert(&port.interface) {
            problems.push(format!("interface {name} is there twice"));
        }
        match labels::wish(&port.labels, port.virtual_network.as_deref(), defaults) {
            Ok(wish) => wishes.push(wish),
            Err(wrong) => {
                let network = Quoted(port.network.as_bytes());
                problems.extend(
                    wrong
                        .iter()
                        .map(|wrong| format!("network {network}: {wrong}")),
                );
            }
        }
    }
    if problems.is_empty() {
        Ok(Checked { wishes })
    } else {
        Err(problems)
    }
}

fn annotations(annotations: &BTreeMap<String, String>, problems: &mut Vec<String>) {
    if annotations.len() > ANNOTATIONS {
        problems.push(format!(
            "{} annotations are more than {ANNOTATIONS}",
            annotations.len()
        ));
    }
    for (key, value) in annotations {
        let quoted = Quoted(key.as_bytes());
        if RESERVED.contains(&key.as_str()) {
            problems.push(format!("annotation {quoted} is the manager's own"));
        } else if key.is_empty() || key.len() > LONGEST_KEY || value.len() > LONGEST_VALUE {
            problems.push(format!(
                "annotation {quoted} is empty, or longer than {LONGEST_KEY} bytes with a value of {LONGEST_VALUE}"
            ));
        }
    }
}

fn is_interface(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && name != "."
        && name != ".."
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// The container's virtual-machine.
pub(super) fn machine(
    machine: Uuid,
    agent: &str,
    request: &PortsRequest,
    defaults: &Default,
) -> VirtualMachine {
    let mut object = VirtualMachine::named(FqName::new([machine.to_string()]));
    object.common.uuid = Some(machine);
    object.server_type = Some("container".to_owned());
    let container = Vec::<String>::from(request.container.clone());
    let ours = [
        ("owner", OWNER.to_owned()),
        ("cluster", defaults.cluster.clone()),
        ("agent", agent.to_owned()),
        ("container", serde_json::json!(container).to_string()),
    ];
    let ours = ours.into_iter().map(|(key, value)| (key.to_owned(), value));
    object.common.annotations = request
        .annotations
        .clone()
        .into_iter()
        .chain(ours)
        .collect();
    object
}

/// The container that a virtual-machine says it is.
pub(super) fn container(annotations: &KeyValues) -> Option<ContainerId> {
    serde_json::from_str(annotations.get("container")?).ok()
}

/// The objects of the port at `index` of a container with `count` of them.
pub(super) fn port(
    machine: Uuid,
    (index, count): (usize, usize),
    request: &PortRequest,
    wish: &Wish,
    network: Arc<Network>,
    annotations: &KeyValues,
) -> Result<Port, Vec<String>> {
    let uuid = agent_api::interface_uuid(machine, &request.interface);
    let mac = mac(uuid);
    let name = wish
        .project
        .child(format!("{machine}-{}", request.interface));
    let mut interface = VirtualMachineInterface::named(name.clone());
    interface.common.uuid = Some(uuid);
    interface.virtual_network_refs = vec![Ref::to(network.name.clone())];
    interface.virtual_machine_refs = vec![Ref::to(FqName::new([machine.to_string()]))];
    interface.security_group_refs = wish.security_groups.iter().cloned().map(Ref::to).collect();
    interface.port_security_enabled = Some(true);
    interface.virtual_machine_interface_mac_addresses = Some(MacAddresses {
        mac_address: vec![mac.to_string()],
    });
    // The vRouter agent hands these to CNI plugins in JSON of its own making, so no value may
    // have a quote in it, nor a line break. A plugin waits until it has seen `count` of them.
    interface.common.annotations = [
        ("index".to_owned(), format!("{index}/{count}")),
        ("interface".to_owned(), request.interface.clone()),
    ]
    .into_iter()
    .chain(is_harmless(&request.network).then(|| ("network".to_owned(), request.network.clone())))
    .chain(
        ["owner", "cluster", "agent"]
            .into_iter()
            .filter_map(|key| Some((key.to_owned(), annotations.get(key)?.to_owned()))),
    )
    .collect();

    let mut addresses = addresses(uuid, &name, request, wish, &network)?;
    for address in &mut addresses {
        address.instance_ip.common.annotations = interface.common.annotations.clone();
    }
    let floating_ips = floating_ips(&name, uuid, wish, &interface.common.annotations);
    Ok(Port {
        uuid,
        name: request.interface.clone(),
        mac,
        interface,
        network,
        addresses,
        floating_ips,
    })
}

/// The floating addresses that an interface is to have.
pub(super) fn floating_ips(
    name: &FqName,
    interface: Uuid,
    wish: &Wish,
    annotations: &KeyValues,
) -> Vec<FloatingIp> {
    let floating_ips = wish.floating_ips.iter().enumerate();
    let floating_ips = floating_ips.map(|(index, floating)| {
        let own = match floating.address {
            None => format!("{interface}-{index}"),
            Some(address) => format!("{interface}-{index}-{}", in_a_name(address)),
        };
        let mut object = FloatingIp::named(floating.pool.child(own));
        object.common.uuid = Some(of_name(interface, &object.common.fq_name));
        object.common.annotations = annotations.clone();
        object.floating_ip_address = Address(floating.address);
        object.project_refs = vec![Ref::to(wish.project.clone())];
        object.virtual_machine_interface_refs = vec![Ref::to(name.clone())];
        object
    });
    floating_ips.collect()
}

/// Says on a floating address of somebody else's which of ours it stands for.
pub(super) const ADOPTED: &str = "contrail-mesos-adopted";

/// What the mark says.
pub(super) fn adoption(interface: Uuid, stands_for: Uuid) -> String {
    format!("{interface}/{stands_for}")
}

/// Which of ours a floating address at this interface stands for, if it was adopted for that one.
pub(super) fn adopted(interface: Uuid, annotations: &KeyValues) -> Option<Uuid> {
    let (of, stands_for) = annotations.get(ADOPTED)?.split_once('/')?;
    (of.parse() == Ok(interface)).then(|| stands_for.parse().ok())?
}

/// Whether a text is the same in the JSON that the vRouter agent makes of it.
pub(super) fn is_harmless(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= LONGEST_VALUE
        && !text.chars().any(|letter| {
            letter.is_control() || matches!(letter, '"' | '\\' | '\u{fffe}'..='\u{ffff}')
        })
}

fn addresses(
    interface: Uuid,
    name: &FqName,
    request: &PortRequest,
    wish: &Wish,
    network: &Network,
) -> Result<Vec<PlannedAddress>, Vec<String>> {
    let mut problems = vec![];
    let chosen = chosen(wish, network, &mut problems);
    if !problems.is_empty() {
        return Err(problems);
    }
    let has = |v4: bool| {
        chosen
            .iter()
            .any(|subnet| subnet.net.addr().is_ipv4() == v4)
    };
    let mut asked = request.addresses.clone();
    if asked.is_empty() {
        asked.extend(has(true).then_some(PortAddressRequest::V4));
        asked.extend(has(false).then_some(PortAddressRequest::V6));
    }
    if asked.is_empty() {
        problems.push(format!(
            "network \"{}\" has no subnets; give it one",
            network.name
        ));
    }
    let mut planned: Vec<PlannedAddress> = vec![];
    let mut count = [0, 0];
    for address in asked {
        let (v4, fixed) = match address {
            PortAddressRequest::V4 => (true, None),
            PortAddressRequest::V6 => (false, None),
            PortAddressRequest::Static(address) => (address.is_ipv4(), Some(address)),
        };
        let right = fixed.map_or_else(
            || has(v4),
            |fixed| chosen.iter().any(|subnet| subnet.net.contains(&fixed)),
        );
        if !right {
            let what = match fixed {
                Some(fixed) => format!("{fixed} is in none of its subnets"),
                None => format!("it has no subnet of IPv{}", if v4 { 4 } else { 6 }),
            };
            problems.push(format!(
                "network \"{}\": {what}: {}",
                network.name,
                network.list()
            ));
            continue;
        }
        count[usize::from(v4)] += 1;
        let own = match (fixed, v4, count[usize::from(v4)]) {
            (Some(fixed), ..) => in_a_name(fixed),
            (None, true, 1) => "v4".to_owned(),
            (None, false, 1) => "v6".to_owned(),
            (None, v4, nth) => format!("v{}-{nth}", if v4 { 4 } else { 6 }),
        };
        let mut object = InstanceIp::named(FqName::new([format!("{interface}-{own}")]));
        let uuid = of_name(interface, &object.common.fq_name);
        if planned
            .iter()
            .any(|other| other.instance_ip.common.uuid == Some(uuid))
        {
            problems.push(format!("address {own} is asked for twice"));
            continue;
        }
        object.common.uuid = Some(uuid);
        object.instance_ip_address = Address(fixed);
        object.instance_ip_family = Some(if v4 { "v4" } else { "v6" }.to_owned());
        object.virtual_network_refs = vec![Ref::to(network.name.clone())];
        object.virtual_machine_interface_refs = vec![Ref::to(name.clone())];
        let mut otherwise = vec![];
        if fixed.is_none() && !wish.subnets.is_empty() {
            let of_family = chosen
                .iter()
                .filter(|subnet| subnet.net.addr().is_ipv4() == v4);
            otherwise.extend(of_family.filter_map(|subnet| subnet.uuid));
            otherwise.dedup();
            if !otherwise.is_empty() {
                object.subnet_uuid = Some(otherwise.remove(0));
            }
        }
        planned.push(PlannedAddress {
            instance_ip: object,
            otherwise,
        });
    }
    if problems.is_empty() {
        Ok(planned)
    } else {
        Err(problems)
    }
}

/// The subnets that the labels choose, or all.
fn chosen<'a>(wish: &Wish, network: &'a Network, problems: &mut Vec<String>) -> Vec<&'a Subnet> {
    if wish.subnets.is_empty() {
        return network.subnets.iter().collect();
    }
    let mut chosen: Vec<&Subnet> = vec![];
    for asked in &wish.subnets {
        match network.subnets.iter().find(|subnet| subnet.net == *asked) {
            Some(subnet) => chosen.push(subnet),
            None => problems.push(format!(
                "network \"{}\" has no subnet {asked}; it has {}",
                network.name,
                network.list()
            )),
        }
    }
    // The server takes the uuid of a flat ipam's subnets, and then any of them.
    for subnet in &network.subnets {
        let of_family = |other: &&Subnet| {
            other.uuid == subnet.uuid && other.net.addr().is_ipv4() == subnet.net.addr().is_ipv4()
        };
        if !chosen.contains(&subnet)
            && let Some(beside) = chosen.iter().copied().find(of_family)
        {
            problems.push(format!(
                "network \"{}\" gives addresses of {} and {} alike; name both or neither in \
                 network-subnets",
                network.name, beside.net, subnet.net
            ));
        }
    }
    chosen
}

/// An address without the colons that a name may not have.
fn in_a_name(address: IpAddr) -> String {
    address.to_string().replace(':', "_")
}

/// The uuid of an object of an interface.
fn of_name(interface: Uuid, name: &FqName) -> Uuid {
    Uuid::new_v5(&interface, name.to_string().as_bytes())
}

/// Whether an object that refers to an interface is one that we made for it.
pub(super) fn is_ours(interface: Uuid, reference: &Ref) -> bool {
    reference.uuid == Some(of_name(interface, &reference.to))
}

/// The Ethernet address that the server gives an interface without one.
fn mac(interface: Uuid) -> Mac {
    let mut mac = [2; 6];
    mac[1..].copy_from_slice(&interface.as_bytes()[..5]);
    Mac(mac)
}
