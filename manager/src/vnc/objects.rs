//! The objects that make networks and containers, field by field as the API names them.
//!
//! Only what this project uses is here; the server's other fields are ignored when read and
//! never sent, so that nothing of somebody else's is overwritten.

use uuid::Uuid;

use super::object::{Address, KeyValues, Ref, object};
use super::policy::PortRange;

object! {
    /// The root of names: `default-domain`.
    Domain = "domain" in None, {}
}

object! {
    /// What networks, interfaces and quotas belong to.
    Project = "project" in Some("domain"), {}
}

object! {
    /// Where networks get addresses from.
    NetworkIpam = "network-ipam" in Some("project"), {
        /// `user-defined-subnet`, where each network brings its own, or `flat-subnet`.
        ipam_subnet_method: Option<String>,
        /// The subnets of a flat one.
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

/// What a network takes of an ipam: its own subnets there, or none of a flat one.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct NetworkIpamSubnets {
    /// The subnets; sent even when there is none, since the server looks for the field.
    #[serde(deserialize_with = "super::object::nullable")]
    pub ipam_subnets: Vec<IpamSubnet>,
}

object! {
    /// A subnet. What is left unset the server fills in: the gateway is the last address but
    /// one, the name server the one before, and addresses are given from the top.
    IpamSubnet, {
        /// The prefix.
        subnet: Option<Prefix>,
        /// Given by the server.
        subnet_uuid: Option<Uuid>,
        /// The gateway that containers see.
        default_gateway: Address,
        /// The name server that containers see.
        dns_server_address: Address,
        /// Whether the gateway is the first address and others are given from the bottom.
        addr_from_start: Option<bool>,
        /// Whether the vRouter answers DHCP.
        enable_dhcp: Option<bool>,
        /// Where addresses are given from.
        allocation_pools: Vec<AllocationPool>,
    }
}

object! {
    /// A prefix and its length.
    Prefix, {
        /// Such as `10.40.0.0`.
        ip_prefix: String,
        /// Such as 24. Zero means everything, and must be sent.
        ip_prefix_len: Option<u8>,
    }
}

impl Prefix {
    /// The prefix of a network.
    #[must_use]
    pub fn of(network: ipnet::IpNet) -> Self {
        Self {
            ip_prefix: network.network().to_string(),
            ip_prefix_len: Some(network.prefix_len()),
        }
    }

    /// The network, where the two make one.
    #[must_use]
    pub fn network(&self) -> Option<ipnet::IpNet> {
        ipnet::IpNet::new(self.ip_prefix.parse().ok()?, self.ip_prefix_len?).ok()
    }
}

object! {
    /// Addresses, both ends included.
    AllocationPool, {
        /// The first.
        start: Address,
        /// The last.
        end: Address,
    }
}

object! {
    /// A virtual network.
    VirtualNetwork = "virtual-network" in Some("project"), {
        /// `flat-subnet-only`, `user-defined-subnet-only` or their like.
        address_allocation_mode: Option<String>,
        /// How packets are forwarded; flat subnets need `l3`.
        virtual_network_properties: Option<VirtualNetworkProperties>,
        /// Where its addresses come from.
        network_ipam_refs: Vec<Ref<NetworkIpamSubnets>>,
        /// What may pass between it and others.
        network_policy_refs: Vec<Ref<PolicyAttachment>>,
        /// Networks that it is laid upon: `ip-fabric`.
        virtual_network_refs: Vec<Ref>,
        /// Whether floating addresses of it are reached from outside.
        router_external: Option<bool>,
        /// Whether all projects may use it.
        is_shared: Option<bool>,
        /// Whether what leaves it does so with the host's address.
        fabric_snat: Option<bool>,
        /// Whether MAC and address of interfaces are checked.
        port_security_enabled: Option<bool>,
        /// Given by the server.
        #[serde(skip_serializing)]
        virtual_network_network_id: Option<i64>,
        /// Its pools of floating addresses, when children were asked for.
        #[serde(skip_serializing)]
        floating_ip_pools: Vec<Ref>,
        /// Its addresses, when what refers to it was asked for.
        #[serde(skip_serializing)]
        instance_ip_back_refs: Vec<Ref>,
        /// Its interfaces, when what refers to it was asked for.
        #[serde(skip_serializing)]
        virtual_machine_interface_back_refs: Vec<Ref>,
    }
}

object! {
    /// How packets of a network are forwarded.
    VirtualNetworkProperties, {
        /// `l2_l3`, `l3` or `l2`.
        forwarding_mode: Option<String>,
        /// The network identifier on the wire.
        vxlan_network_identifier: Option<i64>,
        /// `enable` or `disable`: reverse path forwarding checks.
        rpf: Option<String>,
        /// Whether the server may pass between networks at will.
        allow_transit: Option<bool>,
    }
}

object! {
    /// The place of a policy among those of a network.
    PolicyAttachment, {
        /// Lower comes first.
        sequence: Option<Sequence>,
    }
}

/// A place in an order. Both parts are always sent, zero too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct Sequence {
    /// Compared first.
    #[serde(deserialize_with = "super::object::nullable")]
    pub major: i64,
    /// Compared among equals.
    #[serde(deserialize_with = "super::object::nullable")]
    pub minor: i64,
}

object! {
    /// A container, to Contrail. Its uuid is the container's id.
    VirtualMachine = "virtual-machine" in None, {
        /// `container`.
        server_type: Option<String>,
        /// Its interfaces, when what refers to it was asked for.
        #[serde(skip_serializing)]
        virtual_machine_interface_back_refs: Vec<Ref>,
        /// Its host, when what refers to it was asked for.
        #[serde(skip_serializing)]
        virtual_router_back_refs: Vec<Ref>,
    }
}

object! {
    /// An interface of a container.
    VirtualMachineInterface = "virtual-machine-interface" in Some("project"), {
        /// Its network; the server fails without.
        virtual_network_refs: Vec<Ref>,
        /// Its container.
        virtual_machine_refs: Vec<Ref>,
        /// What is let through.
        security_group_refs: Vec<Ref>,
        /// Interfaces whose VLAN it is.
        virtual_machine_interface_refs: Vec<Ref>,
        /// Its MAC address; derived from its uuid unless given.
        virtual_machine_interface_mac_addresses: Option<MacAddresses>,
        /// Who made it: `mesos`.
        virtual_machine_interface_device_owner: Option<String>,
        /// Such as `host_id`.
        virtual_machine_interface_bindings: KeyValues,
        /// Such as the VLAN of a sub-interface.
        virtual_machine_interface_properties: Option<InterfaceProperties>,
        /// Whether MAC and address are checked.
        port_security_enabled: Option<bool>,
        /// Its addresses, when what refers to it was asked for.
        #[serde(skip_serializing)]
        instance_ip_back_refs: Vec<Ref>,
        /// Its floating addresses, when what refers to it was asked for.
        #[serde(skip_serializing)]
        floating_ip_back_refs: Vec<Ref>,
    }
}

object! {
    /// MAC addresses, as text: the server takes anything.
    MacAddresses, {
        /// The addresses.
        mac_address: Vec<String>,
    }
}

object! {
    /// More of an interface.
    InterfaceProperties, {
        /// The VLAN of a sub-interface.
        sub_interface_vlan_tag: Option<i64>,
    }
}

object! {
    /// An address of an interface.
    InstanceIp = "instance-ip" in None, {
        /// The address; chosen by the server unless given, and then for ever.
        instance_ip_address: Address,
        /// `v4` or `v6`.
        instance_ip_family: Option<String>,
        /// `active-active` or `active-standby`, for an address of several interfaces.
        instance_ip_mode: Option<String>,
        /// The subnet that it is taken from.
        subnet_uuid: Option<Uuid>,
        /// Its network.
        virtual_network_refs: Vec<Ref>,
        /// Its interfaces.
        virtual_machine_interface_refs: Vec<Ref>,
    }
}

object! {
    /// A host. Made by the host's own provisioning, not by us.
    VirtualRouter = "virtual-router" in Some("global-system-config"), {
        /// The host's address.
        virtual_router_ip_address: Address,
        /// `embedded` and the like.
        virtual_router_type: Option<String>,
        /// The containers whose configuration it is given.
        virtual_machine_refs: Vec<Ref>,
    }
}

object! {
    /// Where floating addresses come from.
    FloatingIpPool = "floating-ip-pool" in Some("virtual-network"), {
        /// Its floating addresses, when children were asked for.
        #[serde(skip_serializing)]
        floating_ips: Vec<Ref>,
    }
}

object! {
    /// An address by which an interface is reached from elsewhere. The child of a pool, or of
    /// an instance-ip.
    FloatingIp = "floating-ip" in Some("floating-ip-pool"), {
        /// The address; chosen by the server unless given.
        floating_ip_address: Address,
        /// The address that it stands for, of an interface with several.
        floating_ip_fixed_ip_address: Address,
        /// `both`, `ingress` or `egress`.
        floating_ip_traffic_direction: Option<String>,
        /// Whether only the mapped ports are forwarded.
        floating_ip_port_mappings_enable: Option<bool>,
        /// The mapped ports.
        floating_ip_port_mappings: Option<PortMappings>,
        /// Whose it is.
        project_refs: Vec<Ref>,
        /// What it leads to.
        virtual_machine_interface_refs: Vec<Ref>,
    }
}

object! {
    /// Ports of a floating address.
    PortMappings, {
        /// The ports.
        port_mappings: Vec<PortMap>,
    }
}

object! {
    /// One port of a floating address.
    PortMap, {
        /// `TCP` or `UDP`.
        protocol: String,
        /// The floating address' port.
        src_port: u16,
        /// The interface's port.
        dst_port: u16,
    }
}

object! {
    /// What all vRouter agents have in common.
    GlobalVrouterConfig = "global-vrouter-config" in Some("global-system-config"), {
        /// The ports of a host that its containers' connections share, where they leave with the
        /// host's address. Without any, none leaves.
        port_translation_pools: Option<PortTranslationPools>,
    }
}

object! {
    /// Ports of every host.
    PortTranslationPools, {
        /// The pools.
        port_translation_pool: Vec<PortTranslationPool>,
    }
}

object! {
    /// Ports of a protocol.
    PortTranslationPool, {
        /// `tcp` or `udp`.
        protocol: String,
        /// Which ports.
        port_range: Option<PortRange>,
        /// How many of them; a number as text.
        port_count: Option<String>,
    }
}
