//! Reads containers from the API server: one, or all of an agent.

use std::collections::HashMap;
use std::net::IpAddr;

use futures::future::try_join_all;
use ipnet::IpNet;
use tokio::time::Instant;
use uuid::Uuid;

use super::Containers;
use crate::diff::Actual;
use crate::error::ManagerError;
use crate::model::{Adoption, CachedVm, Network, SERVICES_OWNER, annotation};
use crate::objects;
use crate::stores::listing;
use crate::vnc::{
    Detail, FloatingIp, InstanceIp, Object, Query, ReadOptions, Ref, VirtualMachine,
    VirtualMachineInterface, VirtualRouter,
};
use contrail_mesos_api::agent_api::{Port, PortAddress, Ports, PortsList};
use contrail_mesos_api::container::Mac;

/// The objects of a container with their back references.
#[derive(Clone, Debug)]
pub(super) struct ContainerState {
    pub vm: VirtualMachine,
    /// All interfaces, ours or not.
    pub interfaces: Vec<VirtualMachineInterface>,
    /// The floating-ips of operators that stand for ours.
    pub adoptions: Vec<Adoption>,
}

impl ContainerState {
    /// Whether it is linked to a virtual-router, which is the last step of its creation.
    pub(super) fn is_linked(&self) -> bool {
        !self.vm.virtual_router_back_refs.is_empty()
    }
}

/// A read with back references.
fn with_back_refs() -> ReadOptions {
    ReadOptions {
        back_refs: true,
        ..ReadOptions::default()
    }
}

impl Containers {
    /// Reads a container; `None` where it has no virtual-machine. Then there is nothing of it:
    /// everything else refers to that.
    pub(super) async fn read_state(
        &self,
        vm: Uuid,
    ) -> Result<Option<ContainerState>, ManagerError> {
        let found = self
            .client
            .read_with::<VirtualMachine>(vm, &with_back_refs())
            .await?;
        let Some(vm) = found else {
            return Ok(None);
        };
        let interfaces = try_join_all(
            uuids(&vm.virtual_machine_interface_back_refs).map(|uuid| self.read_interface(uuid)),
        )
        .await?;
        let interfaces: Vec<_> = interfaces.into_iter().flatten().collect();
        let adoptions =
            try_join_all(interfaces.iter().map(|interface| self.adoptions(interface))).await?;
        Ok(Some(ContainerState {
            vm,
            adoptions: adoptions.concat(),
            interfaces,
        }))
    }

    pub(super) async fn read_interface(
        &self,
        uuid: Uuid,
    ) -> Result<Option<VirtualMachineInterface>, ManagerError> {
        Ok(self
            .client
            .read_with::<VirtualMachineInterface>(uuid, &with_back_refs())
            .await?)
    }

    /// Our interfaces of a container.
    pub(super) fn own_interfaces<'a>(
        &self,
        state: &'a ContainerState,
    ) -> impl Iterator<Item = &'a VirtualMachineInterface> {
        state
            .interfaces
            .iter()
            .filter(|interface| self.is_ours(&interface.common.annotations))
    }

    /// The cache entry of a container that was just read.
    pub(super) fn cached_vm(&self, state: &ContainerState, first_seen: Instant) -> CachedVm {
        let interfaces: Vec<_> = self.own_interfaces(state).collect();
        listing::cached_vm(&state.vm, &interfaces, &state.adoptions, first_seen)
    }

    /// Reads a container of ours for the cache; `None` where there is none.
    pub(crate) async fn read_vm(
        &self,
        vm: Uuid,
        first_seen: Instant,
    ) -> Result<Option<CachedVm>, ManagerError> {
        let state = self.read_state(vm).await?;
        let ours = state.filter(|state| self.is_ours(&state.vm.common.annotations));
        Ok(ours.map(|state| self.cached_vm(&state, first_seen)))
    }

    /// Reads the addresses of a cache entry that are not known yet. They are shown only: an error
    /// is left to the next full listing.
    pub(crate) async fn read_addresses(&self, vm: &mut CachedVm) {
        let unread: Vec<Uuid> = vm.unread_addresses().map(|(uuid, _)| *uuid).collect();
        if unread.is_empty() {
            return;
        }
        let query = |field: &str| {
            let detail = Detail::Fields(vec![field.to_owned()]);
            Query::new().uuids(unread.iter().copied()).detail(detail)
        };
        let instance_ips = query("instance_ip_address");
        let floating_ips = query("floating_ip_address");
        let has_floating_ips = vm
            .interfaces
            .iter()
            .any(|interface| !interface.floating_ips.is_empty());
        let floating_ips = async {
            if has_floating_ips {
                self.client.list::<FloatingIp>(&floating_ips).await
            } else {
                Ok(vec![])
            }
        };
        let instance_ips = self.client.list::<InstanceIp>(&instance_ips);
        let (instance_ips, floating_ips) = tokio::join!(instance_ips, floating_ips);
        let instance_ips = instance_ips
            .unwrap_or_default()
            .into_iter()
            .map(|ip| (ip.common.uuid, ip.instance_ip_address.0));
        let floating_ips = floating_ips
            .unwrap_or_default()
            .into_iter()
            .map(|ip| (ip.common.uuid, ip.floating_ip_address.0));
        let addresses: HashMap<_, _> = instance_ips.chain(floating_ips).collect();
        for (uuid, address) in vm.unread_addresses() {
            *address = addresses.get(&Some(*uuid)).copied().flatten();
        }
    }

    /// The ports of a container.
    pub async fn get(&self, agent: Option<&str>, vm: Uuid) -> Result<Ports, ManagerError> {
        let found = self.client.read::<VirtualMachine>(vm).await?;
        let found = found.ok_or(ManagerError::NotFound(vm))?;
        self.check_owner(vm, &found.common.annotations, agent)?;
        let mut ports = self.read_ports(vec![found]).await?;
        ports.pop().ok_or(ManagerError::NotFound(vm))
    }

    /// The complete containers of an agent: those that its virtual-router refers to. The agent
    /// knows the others, which it requested itself.
    pub async fn list(
        &self,
        agent: &str,
        router_address: Option<IpAddr>,
    ) -> Result<PortsList, ManagerError> {
        let router = self.resolver.router(agent, router_address).await?;
        let Some(router) = self.client.read::<VirtualRouter>(router).await? else {
            self.resolver.clear();
            return Ok(PortsList::default());
        };
        let query = Query::new().uuids(uuids(&router.virtual_machine_refs));
        let mut vms = self.client.list::<VirtualMachine>(&query).await?;
        vms.retain(|vm| {
            let annotations = &vm.common.annotations;
            self.is_ours(annotations) && annotations.get(annotation::AGENT) == Some(agent)
        });
        let containers = self.read_ports(vms).await?;
        Ok(PortsList { containers })
    }

    /// The ports of these containers, with three lists however many they are.
    async fn read_ports(&self, vms: Vec<VirtualMachine>) -> Result<Vec<Ports>, ManagerError> {
        let query = Query::new().referring_to(vms.iter().filter_map(uuid));
        let interfaces = self.client.list::<VirtualMachineInterface>(&query).await?;
        let query = Query::new().referring_to(interfaces.iter().filter_map(uuid));
        let (instance_ips, floating_ips) = tokio::try_join!(
            self.client.list::<InstanceIp>(&query),
            self.client.list::<FloatingIp>(&query),
        )?;
        let mut ips_of_interface: HashMap<Uuid, (Vec<&InstanceIp>, Vec<&FloatingIp>)> =
            HashMap::new();
        for ip in &instance_ips {
            for interface in uuids(&ip.virtual_machine_interface_refs) {
                ips_of_interface.entry(interface).or_default().0.push(ip);
            }
        }
        // Those below an instance-ip, and some of pools, are addresses of services.
        let is_own = |ip: &&FloatingIp| {
            ip.common.parent_type.as_deref() != Some(InstanceIp::TYPE)
                && ip.common.annotations.get(annotation::OWNER) != Some(SERVICES_OWNER)
        };
        for ip in floating_ips.iter().filter(is_own) {
            for interface in uuids(&ip.virtual_machine_interface_refs) {
                ips_of_interface.entry(interface).or_default().1.push(ip);
            }
        }
        let own_interfaces = interfaces
            .iter()
            .filter(|interface| self.is_ours(&interface.common.annotations));
        let ports = try_join_all(own_interfaces.map(async |interface| {
            let none = (vec![], vec![]);
            let ips = uuid(interface).and_then(|uuid| ips_of_interface.get(&uuid));
            let (instance_ips, floating_ips) = ips.unwrap_or(&none);
            self.read_port(interface, instance_ips, floating_ips).await
        }))
        .await?;
        let mut ports_of_vm: HashMap<Uuid, Vec<(usize, Port)>> = HashMap::new();
        for (vm, index, port) in ports.into_iter().flatten() {
            ports_of_vm.entry(vm).or_default().push((index, port));
        }
        let containers = vms.into_iter().filter_map(|vm| {
            let uuid = uuid(&vm)?;
            let mut ports = ports_of_vm.remove(&uuid).unwrap_or_default();
            ports.sort_by_key(|(index, _)| *index);
            Some(Ports {
                machine: uuid,
                container: objects::container_id(&vm.common.annotations),
                ports: ports.into_iter().map(|(_, port)| port).collect(),
            })
        });
        Ok(containers.collect())
    }

    /// The virtual-machine of a port, its index, and the port; `None` for an incomplete one.
    async fn read_port(
        &self,
        interface: &VirtualMachineInterface,
        instance_ips: &[&InstanceIp],
        floating_ips: &[&FloatingIp],
    ) -> Result<Option<(Uuid, usize, Port)>, ManagerError> {
        let annotations = &interface.common.annotations;
        let (Some(uuid), Some(vm), Some(network), Some(name)) = (
            uuid(interface),
            uuids(&interface.virtual_machine_refs).next(),
            interface.virtual_network_refs.first(),
            annotations.get(annotation::INTERFACE),
        ) else {
            return Ok(None);
        };
        let network = self.resolver.network(&network.to, &[]).await?;
        let index = annotations
            .get(annotation::INDEX)
            .and_then(|index| index.split('/').next()?.parse().ok());
        let mut port = Port {
            interface: name.to_owned(),
            uuid,
            virtual_network: network.uuid,
            virtual_network_name: network.name.to_string(),
            mac: mac_of(interface)?,
            addresses: instance_ips
                .iter()
                .filter_map(|ip| ip.instance_ip_address.0)
                .map(|address| port_address(&network, address))
                .collect(),
            floating_ips: floating_ips
                .iter()
                .filter_map(|ip| ip.floating_ip_address.0)
                .collect(),
        };
        sort_addresses(&mut port);
        Ok(Some((vm, index.unwrap_or(0), port)))
    }
}

/// The state of a container that was just read, to be compared.
pub(super) fn actual<'a>(vm: &'a CachedVm, state: &'a ContainerState) -> Actual<'a> {
    Actual {
        vm,
        objects: &state.interfaces,
    }
}

fn uuid<T: Object>(object: &T) -> Option<Uuid> {
    object.common().uuid
}

pub(super) fn uuids(references: &[Ref]) -> impl Iterator<Item = Uuid> {
    references.iter().filter_map(|reference| reference.uuid)
}

/// An address with the prefix, gateway and DNS server of its subnet.
pub(super) fn port_address(network: &Network, address: IpAddr) -> PortAddress {
    let subnet = network.subnet(address);
    let host_prefix = if address.is_ipv4() { 32 } else { 128 };
    let prefix = subnet.map_or(host_prefix, |subnet| subnet.net.prefix_len());
    PortAddress {
        // The prefix of a network of the same family is never too long.
        address: IpNet::new(address, prefix).unwrap_or_else(|_| address.into()),
        gateway: subnet.and_then(|subnet| subnet.gateway),
        dns: subnet.and_then(|subnet| subnet.dns),
    }
}

/// The MAC address of an interface.
pub(super) fn mac_of(interface: &VirtualMachineInterface) -> Result<Mac, ManagerError> {
    interface
        .virtual_machine_interface_mac_addresses
        .as_ref()
        .and_then(|macs| macs.mac_address.first())
        .and_then(|mac| mac.clone().try_into().ok())
        .ok_or_else(|| {
            let name = &interface.common.fq_name;
            ManagerError::InvalidResponse(format!(
                "the virtual-machine-interface {name} has no MAC address"
            ))
        })
}

/// IPv4 first.
pub(super) fn sort_addresses(port: &mut Port) {
    port.addresses.sort_by_key(|address| address.address.addr());
    port.floating_ips.sort();
}
