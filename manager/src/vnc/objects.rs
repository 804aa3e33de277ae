//! The objects of networks and containers. Fields have the API's names.
//!
//! Only fields that this project uses are declared. Others are ignored when read and never sent,
//! so other clients' values are not overwritten.

use uuid::Uuid;

use super::object::{Address, KeyValues, Ref, object};
use super::policy::PortRange;

object! {
    /// The root of the name hierarchy: `default-domain`.
    Domain = "domain" in None, {}
}

object! {
    /// The owner of networks, interfaces and quotas.
    Project = "project" in Some("domain"), {}
}

object! {
    /// The address management of networks.
    NetworkIpam = "network-ipam" in Some("project"), {
        /// `user-defined-subnet`, where each network has its own subnets, or `flat-subnet`.
        ipam_subnet_method: Option<String>,
        /// The subnets, for `flat-subnet`.
        ipam_subnets: Option<IpamSubnets>,
        /// The networks that use it.
        #[serde(skip_serializing)]
        virtual_network_back_refs: Vec<Ref<NetworkIpamSubnets>>,
    }
}

object! {
    /// The subnets of a flat [`NetworkIpam`].
    IpamSubnets, {
        /// The subnets.
        subnets: Vec<IpamSubnet>,
    }
}

/// The network's own subnets in an IPAM; empty for `flat-subnet`.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct NetworkIpamSubnets {
    /// The subnets; sent even if empty, since the server requires the field.
    #[serde(deserialize_with = "super::object::nullable")]
    pub ipam_subnets: Vec<IpamSubnet>,
}

object! {
    /// A subnet. The server fills in unset fields: the gateway is the second to last address, the
    /// name server the one before it, and addresses are allocated from the end.
    IpamSubnet, {
        /// The prefix.
        subnet: Option<Prefix>,
        /// Assigned by the server.
        subnet_uuid: Option<Uuid>,
        /// The containers' gateway.
        default_gateway: Address,
        /// The containers' name server.
        dns_server_address: Address,
        /// Whether the gateway is the first address and addresses are allocated from the start.
        addr_from_start: Option<bool>,
        /// Whether the vRouter answers DHCP.
        enable_dhcp: Option<bool>,
        /// The ranges that addresses are allocated from.
        allocation_pools: Vec<AllocationPool>,
    }
}

object! {
    /// A prefix and its length.
    Prefix, {
        /// Such as `10.40.0.0`.
        ip_prefix: String,
        /// Such as 24. Zero matches every address, and must be sent.
        ip_prefix_len: Option<u8>,
    }
}

impl Prefix {
    /// Converts from a network.
    #[must_use]
    pub fn of(network: ipnet::IpNet) -> Self {
        Self {
            ip_prefix: network.network().to_string(),
            ip_prefix_len: Some(network.prefix_len()),
        }
    }

    /// Converts to a network, if prefix and length are valid.
    #[must_use]
    pub fn network(&self) -> Option<ipnet::IpNet> {
        ipnet::IpNet::new(self.ip_prefix.parse().ok()?, self.ip_prefix_len?).ok()
    }
}

object! {
    /// A range of addresses, inclusive.
    AllocationPool, {
        /// The first address.
        start: Address,
        /// The last address.
        end: Address,
    }
}

object! {
    /// A virtual network.
    VirtualNetwork = "virtual-network" in Some("project"), {
        /// Such as `flat-subnet-only` or `user-defined-subnet-only`.
        address_allocation_mode: Option<String>,
        /// The forwarding mode and others; flat subnets need `l3`.
        virtual_network_properties: Option<VirtualNetworkProperties>,
        /// The IPAMs of its addresses.
        network_ipam_refs: Vec<Ref<NetworkIpamSubnets>>,
        /// The policies for traffic with other networks.
        network_policy_refs: Vec<Ref<PolicyAttachment>>,
        /// Provider networks: `ip-fabric`.
        virtual_network_refs: Vec<Ref>,
        /// Whether its floating IPs are reachable from outside.
        router_external: Option<bool>,
        /// Whether all projects may use it.
        is_shared: Option<bool>,
        /// Whether outgoing traffic gets the host's address (source NAT).
        fabric_snat: Option<bool>,
        /// Whether MAC and IP addresses of interfaces are checked.
        port_security_enabled: Option<bool>,
        /// Assigned by the server.
        #[serde(skip_serializing)]
        virtual_network_network_id: Option<i64>,
        /// Its floating IP pools; only with children.
        #[serde(skip_serializing)]
        floating_ip_pools: Vec<Ref>,
        /// Its addresses; only with back references.
        #[serde(skip_serializing)]
        instance_ip_back_refs: Vec<Ref>,
        /// Its interfaces; only with back references.
        #[serde(skip_serializing)]
        virtual_machine_interface_back_refs: Vec<Ref>,
    }
}

object! {
    /// Forwarding properties of a network.
    VirtualNetworkProperties, {
        /// `l2_l3`, `l3` or `l2`.
        forwarding_mode: Option<String>,
        /// The network identifier on the wire.
        vxlan_network_identifier: Option<i64>,
        /// `enable` or `disable`: reverse path forwarding checks.
        rpf: Option<String>,
        /// Whether the network may route transit traffic between other networks.
        allow_transit: Option<bool>,
    }
}

object! {
    /// The position of a policy among those of a network.
    PolicyAttachment, {
        /// Policies apply in ascending order.
        sequence: Option<Sequence>,
    }
}

/// A position in an order. Both parts are always sent, even if zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Sequence {
    /// The primary sort key.
    #[serde(deserialize_with = "super::object::nullable")]
    pub major: i64,
    /// The secondary sort key.
    #[serde(deserialize_with = "super::object::nullable")]
    pub minor: i64,
}

object! {
    /// Contrail's object for a container. Its uuid is the container's id.
    VirtualMachine = "virtual-machine" in None, {
        /// `container`.
        server_type: Option<String>,
        /// Its interfaces; only with back references.
        #[serde(skip_serializing)]
        virtual_machine_interface_back_refs: Vec<Ref>,
        /// Its host; only with back references.
        #[serde(skip_serializing)]
        virtual_router_back_refs: Vec<Ref>,
    }
}

object! {
    /// An interface of a container.
    VirtualMachineInterface = "virtual-machine-interface" in Some("project"), {
        /// Its network; required by the server.
        virtual_network_refs: Vec<Ref>,
        /// Its container.
        virtual_machine_refs: Vec<Ref>,
        /// Its security groups.
        security_group_refs: Vec<Ref>,
        /// The parent interface of a VLAN sub-interface.
        virtual_machine_interface_refs: Vec<Ref>,
        /// Its MAC address; by default derived from its uuid.
        virtual_machine_interface_mac_addresses: Option<MacAddresses>,
        /// The creator: `mesos`.
        virtual_machine_interface_device_owner: Option<String>,
        /// Such as `host_id`.
        virtual_machine_interface_bindings: KeyValues,
        /// Further properties, such as the VLAN of a sub-interface.
        virtual_machine_interface_properties: Option<InterfaceProperties>,
        /// Whether MAC and IP addresses are checked.
        port_security_enabled: Option<bool>,
        /// Its addresses; only with back references.
        #[serde(skip_serializing)]
        instance_ip_back_refs: Vec<Ref>,
        /// Its floating IPs; only with back references.
        #[serde(skip_serializing)]
        floating_ip_back_refs: Vec<Ref>,
    }
}

object! {
    /// MAC addresses as strings: the server accepts any.
    MacAddresses, {
        /// The addresses.
        mac_address: Vec<String>,
    }
}

object! {
    /// Further properties of an interface.
    InterfaceProperties, {
        /// The VLAN of a sub-interface.
        sub_interface_vlan_tag: Option<i64>,
    }
}

object! {
    /// An address of an interface.
    InstanceIp = "instance-ip" in None, {
        /// The address; by default chosen by the server. Cannot be changed.
        instance_ip_address: Address,
        /// `v4` or `v6`.
        instance_ip_family: Option<String>,
        /// `active-active` or `active-standby`, for an address of several interfaces.
        instance_ip_mode: Option<String>,
        /// The subnet to allocate it from.
        subnet_uuid: Option<Uuid>,
        /// Its network.
        virtual_network_refs: Vec<Ref>,
        /// Its interfaces.
        virtual_machine_interface_refs: Vec<Ref>,
    }
}

object! {
    /// A host. Created by the host's provisioning, not by this project.
    VirtualRouter = "virtual-router" in Some("global-system-config"), {
        /// The host's address.
        virtual_router_ip_address: Address,
        /// Such as `embedded`.
        virtual_router_type: Option<String>,
        /// The containers whose configuration its vRouter agent receives.
        virtual_machine_refs: Vec<Ref>,
    }
}

object! {
    /// A pool of floating IPs.
    FloatingIpPool = "floating-ip-pool" in Some("virtual-network"), {
        /// Its floating IPs; only with children.
        #[serde(skip_serializing)]
        floating_ips: Vec<Ref>,
    }
}

object! {
    /// A floating IP of an interface. The child of a pool or of an instance-ip.
    FloatingIp = "floating-ip" in Some("floating-ip-pool"), {
        /// The address; by default chosen by the server.
        floating_ip_address: Address,
        /// The address that it maps to, if the interface has several.
        floating_ip_fixed_ip_address: Address,
        /// `both`, `ingress` or `egress`.
        floating_ip_traffic_direction: Option<String>,
        /// Whether only the mapped ports are forwarded.
        floating_ip_port_mappings_enable: Option<bool>,
        /// The mapped ports.
        floating_ip_port_mappings: Option<PortMappings>,
        /// The owner.
        project_refs: Vec<Ref>,
        /// The interfaces that it maps to.
        virtual_machine_interface_refs: Vec<Ref>,
    }
}

object! {
    /// Port mappings of a floating IP.
    PortMappings, {
        /// The mappings.
        port_mappings: Vec<PortMap>,
    }
}

object! {
    /// One port mapping of a floating IP.
    PortMap, {
        /// `TCP` or `UDP`.
        protocol: String,
        /// The port of the floating IP.
        src_port: u16,
        /// The interface's port.
        dst_port: u16,
    }
}

object! {
    /// The configuration of all vRouter agents.
    GlobalVrouterConfig = "global-vrouter-config" in Some("global-system-config"), {
        /// The host ports for source NAT of its containers' connections. Without any pool, there
        /// is no source NAT.
        port_translation_pools: Option<PortTranslationPools>,
        /// The services that every virtual network reaches at a link-local address.
        linklocal_services: Option<LinklocalServices>,
    }
}

object! {
    /// The link-local services of all users of this Contrail. They are written as a whole.
    LinklocalServices, {
        /// The services.
        linklocal_service_entry: Vec<LinklocalService>,
    }
}

object! {
    /// A link-local service. All fields are declared, and none is interpreted, so that the services of
    /// others are written as they were read.
    LinklocalService, {
        /// Its name, which the vRouter agent's DNS answers.
        linklocal_service_name: Option<String>,
        /// The address for containers, such as `169.254.169.53`.
        linklocal_service_ip: Option<String>,
        /// The port for containers.
        linklocal_service_port: Option<i64>,
        /// The name of the servers, in place of their addresses.
        #[serde(rename = "ip_fabric_DNS_service_name")]
        ip_fabric_dns_service_name: Option<String>,
        /// The port of the servers.
        ip_fabric_service_port: Option<i64>,
        /// The addresses of the servers; the vRouter agent takes any of them for each connection.
        ip_fabric_service_ip: Vec<String>,
    }
}

object! {
    /// Port pools of every host.
    PortTranslationPools, {
        /// The pools.
        port_translation_pool: Vec<PortTranslationPool>,
    }
}

object! {
    /// A port pool of one protocol.
    PortTranslationPool, {
        /// `tcp` or `udp`.
        protocol: String,
        /// The range of ports.
        port_range: Option<PortRange>,
        /// The number of ports, as a string.
        port_count: Option<String>,
    }
}
