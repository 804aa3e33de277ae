//! What a container's intents ask of the manager.

use std::collections::BTreeMap;

use super::super::{AddressRequest, Intent, NetworkRequest, ProviderError, refused};
use super::own;
use crate::config::{Contrail, Vif};
use contrail_mesos_api::agent_api::{PortAddressRequest, PortRequest, PortsRequest};

/// The longest label that is passed on, in bytes: Contrail's own names are shorter.
const LONGEST_LABEL: usize = 4096;

/// Refuses labels that no manager could make sense of.
pub(super) fn check(request: &NetworkRequest) -> Option<ProviderError> {
    let is_too_long =
        |(key, value): (&String, &String)| key.len() > LONGEST_LABEL || value.len() > LONGEST_LABEL;
    request.labels.iter().any(is_too_long).then(|| {
        refused(
            &request.network.name,
            format!("has a label of more than {LONGEST_LABEL} bytes"),
        )
    })
}

/// What the framework asks for, less what goes without saying.
pub(crate) fn asked(addresses: &[AddressRequest]) -> Vec<PortAddressRequest> {
    addresses
        .iter()
        .filter_map(|address| match address {
            AddressRequest::Any => None,
            AddressRequest::V4 => Some(PortAddressRequest::V4),
            AddressRequest::V6 => Some(PortAddressRequest::V6),
            AddressRequest::Static(address) => Some(PortAddressRequest::Static(*address)),
        })
        .collect()
}

/// The question to the manager, for all of a container's networks.
pub(super) fn ports(options: &Contrail, intents: &[Intent]) -> Option<PortsRequest> {
    let first = intents.first()?;
    let port = |intent: &Intent| {
        let own = own(intent)?;
        Some(PortRequest {
            interface: intent.interface.clone(),
            network: intent.network.clone(),
            virtual_network: own.virtual_network.clone(),
            labels: own.labels.clone(),
            addresses: own.asked.clone(),
        })
    };
    Some(PortsRequest {
        container: first.container.clone(),
        virtual_router_address: options.virtual_router_address,
        annotations: BTreeMap::new(),
        ports: intents.iter().filter_map(port).collect(),
    })
}

/// What an attach would do, in words.
pub(super) fn plan(options: &Contrail, intent: &Intent) -> Vec<String> {
    let Some(own) = own(intent) else {
        return vec![];
    };
    let managers: Vec<String> = options.managers.iter().map(ToString::to_string).collect();
    let mut plan = vec![format!(
        "ask {} for the port {} (virtual-machine-interface {}) of container {} (virtual-machine {}), linked to virtual-router {}",
        managers.join(" or "),
        intent.interface,
        own.uuid,
        intent.container,
        own.machine,
        options.agent
    )];
    plan.push(match &options.vif {
        Vif::Veth => format!(
            "create the veth pair {} (up) and {} (in the container), MTU {}",
            own.host_interface, intent.interface, intent.mtu
        ),
        Vif::Macvlan { parent } => format!(
            "create the VLAN {} on {parent} and the macvlan {} on it (in the container), MTU {}",
            own.host_interface, intent.interface, intent.mtu
        ),
    });
    if options.vif == Vif::Veth {
        plan.push(format!(
            "write {}/{}/{} and register the port with the vRouter agent at {}:{}",
            options.port_directory.display(),
            own.machine,
            own.uuid,
            options.vrouter_host,
            options.vrouter_port
        ));
    }
    plan.push(format!(
        "in the container: give {} the MAC, addresses and gateway that Contrail chooses",
        intent.interface
    ));
    plan
}
