//! The request to the manager for a container's ports.

use super::ContrailIntent;
use crate::config::{Contrail, Vif};
use crate::provider::{AddressRequest, Intent, NetworkRequest, ProviderError, refused};
use contrail_mesos_api::agent_api::{PortAddressRequest, PortRequest, PortsRequest};

/// The longest label key or value that is sent to the manager; Contrail's own names are shorter.
const MAX_LABEL_BYTES: usize = 4096;

/// Refuses labels that no manager accepts.
pub(super) fn check_labels(request: &NetworkRequest) -> Option<ProviderError> {
    request
        .labels
        .iter()
        .any(|(key, value)| key.len() > MAX_LABEL_BYTES || value.len() > MAX_LABEL_BYTES)
        .then(|| {
            refused(
                &request.network.name,
                format!("has a label of more than {MAX_LABEL_BYTES} bytes"),
            )
        })
}

/// The address requests for the manager, without those that are its default.
pub(crate) fn port_address_requests(addresses: &[AddressRequest]) -> Vec<PortAddressRequest> {
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

/// The request for the ports of all networks of a container; `None` without a network.
pub(super) fn ports_request(
    options: &Contrail,
    intents: &[Intent<ContrailIntent>],
) -> Option<PortsRequest> {
    let port_request = |intent: &Intent<ContrailIntent>| PortRequest {
        interface: intent.interface.clone(),
        network: intent.network.clone(),
        virtual_network: intent.provider.virtual_network.clone(),
        labels: intent.provider.labels.clone(),
        addresses: intent.provider.requested_addresses.clone(),
    };
    Some(PortsRequest {
        container: intents.first()?.container.clone(),
        virtual_router_address: options.virtual_router_address,
        annotations: intents.first()?.provider.annotations.clone(),
        ports: intents.iter().map(port_request).collect(),
    })
}

/// Describes what an attach would do.
pub(super) fn plan(options: &Contrail, intent: &Intent<ContrailIntent>) -> Vec<String> {
    let ContrailIntent {
        vm_uuid,
        interface_uuid,
        host_interface,
        ..
    } = &intent.provider;
    let managers: Vec<String> = options.managers.iter().map(ToString::to_string).collect();
    let mut plan = vec![format!(
        "request from {} the port {} (virtual-machine-interface {interface_uuid}) of container {} (virtual-machine {vm_uuid}), linked to virtual-router {}",
        managers.join(" or "),
        intent.interface,
        intent.container,
        options.agent
    )];
    plan.push(match &options.vif {
        Vif::Veth => format!(
            "create the veth pair {host_interface} (up) and {} (in the container), MTU {}",
            intent.interface, intent.mtu
        ),
        Vif::Macvlan { parent } => format!(
            "create the VLAN {host_interface} on {parent} and the macvlan {} on it (in the container), MTU {}",
            intent.interface, intent.mtu
        ),
    });
    if options.vif == Vif::Veth {
        plan.push(format!(
            "write {}/{vm_uuid}/{interface_uuid} and register the port with the vRouter agent at {}:{}",
            options.port_directory.display(),
            options.vrouter_host,
            options.vrouter_port
        ));
    }
    plan.push(format!(
        "in the container: set the MAC address, addresses and gateway of {} that Contrail assigns",
        intent.interface
    ));
    plan
}
