//! Creates a container: virtual-machine, interfaces, addresses, and at last the virtual-router's
//! reference.

use std::net::IpAddr;
use std::sync::Arc;

use futures::future::join_all;
use tokio::time::Instant;
use uuid::Uuid;

use super::Containers;
use super::read::{ContainerState, actual, mac_of, port_address, sort_addresses, uuids};
use super::rollback::Rollback;
use crate::desired::{DesiredInterface, DesiredState};
use crate::diff::{self, Change};
use crate::error::ManagerError;
use crate::model::Network;
use crate::objects::{self, PlannedAddress, PlannedPort};
use crate::stores::listing;
use crate::vnc::{
    Ensured, InstanceIp, Object, VirtualMachine, VirtualMachineInterface, VncError, VncErrorKind,
};
use contrail_mesos_api::agent_api::{Port, Ports};
use contrail_mesos_api::container::Mac;

/// A port whose objects exist.
struct CreatedPort {
    /// Without the addresses of `unread`.
    port: Port,
    network: Arc<Network>,
    /// Instance-ips that have got an address.
    unread: Vec<Uuid>,
}

/// An address that an instance-ip has.
enum NewAddress {
    Known(IpAddr),
    /// To be read of the instance-ip.
    Unread(Uuid),
}

impl Containers {
    /// Creates what is missing of a container, and deletes what the request no longer asks for. The
    /// container's lock is held. Sets `rollback` to what may be deleted if this fails.
    pub(super) async fn create(
        &self,
        agent: &str,
        router: Uuid,
        vm: VirtualMachine,
        desired: &DesiredState,
        rollback: &mut Rollback,
    ) -> Result<Ports, ManagerError> {
        let container = objects::container_id(&vm.common.annotations);
        let (uuid, existing) = self.create_vm(agent, vm, rollback).await?;
        let changes = match &existing {
            Some(state) => {
                let cached = self.cached_vm(state, Instant::now());
                let changes = diff::diff(actual(&cached, state), desired);
                self.apply_to_interfaces(state, desired, &changes).await?;
                changes
            }
            None => vec![Change::Link(router)],
        };
        let ports = desired.interfaces.iter().filter_map(|interface| {
            let port = interface.planned.as_ref()?;
            let existing = existing
                .iter()
                .flat_map(|state| &state.interfaces)
                .find(|object| object.common.uuid == Some(port.uuid) && is_on(object, port));
            Some(self.create_port(interface, port, existing))
        });
        // All end before an error is returned: none goes on in the background.
        let ports = join_all(ports).await;
        let ports = ports.into_iter().collect::<Result<Vec<_>, _>>()?;
        // Last, so that the vRouter agent sees a complete container. What is only read does not hold
        // it up.
        let reads = join_all(ports.into_iter().map(|port| self.read_addresses_of(port)));
        let (linked, ports) = tokio::join!(self.apply_links(uuid, &changes), reads);
        linked?;
        Ok(Ports {
            machine: uuid,
            container,
            ports: ports.into_iter().collect::<Result<_, _>>()?,
        })
    }

    /// Creates the virtual-machine, or reads the container that has it.
    async fn create_vm(
        &self,
        agent: &str,
        vm: VirtualMachine,
        rollback: &mut Rollback,
    ) -> Result<(Uuid, Option<ContainerState>), ManagerError> {
        let error = match self.client.create(&vm).await {
            Ok(uuid) => {
                *rollback = Rollback::Always;
                return Ok((uuid, None));
            }
            Err(error) => error,
        };
        let exists = matches!(error.kind, VncErrorKind::Exists { .. });
        // Whatever the error, the server may have created it.
        if !exists && *rollback == Rollback::Never {
            *rollback = Rollback::IfUnlinked;
        }
        let Some(uuid) = vm.common.uuid.filter(|_| exists) else {
            return Err(error.into());
        };
        let Some(state) = self.read_state(uuid).await? else {
            // Another object has the name.
            return Err(error.into());
        };
        self.check_owner(uuid, &state.vm.common.annotations, Some(agent))?;
        if *rollback == Rollback::Never && !state.is_linked() {
            *rollback = Rollback::IfUnlinked;
        }
        Ok((uuid, Some(state)))
    }

    /// Creates what is missing of one port. An `existing` interface has had its changes applied.
    async fn create_port(
        &self,
        desired: &DesiredInterface,
        port: &PlannedPort,
        existing: Option<&VirtualMachineInterface>,
    ) -> Result<CreatedPort, ManagerError> {
        let mac = match existing {
            Some(interface) if self.is_ours(&interface.common.annotations) => mac_of(interface)?,
            // Somebody removed our annotations.
            Some(interface) => self.restore_interface(interface, desired).await?,
            None => self.create_interface(desired, port).await?,
        };
        let addresses = join_all(
            port.addresses
                .iter()
                .map(|address| self.create_address(port, address)),
        );
        let floating_ips = join_all(
            port.floating_ips
                .iter()
                .map(|floating_ip| self.ensure_floating_ip_or_defer(port.uuid, floating_ip)),
        );
        let (addresses, floating_ips) = tokio::join!(addresses, floating_ips);
        let mut created = CreatedPort {
            port: Port {
                interface: port.name.clone(),
                uuid: port.uuid,
                virtual_network: port.network.uuid,
                virtual_network_name: port.network.name.to_string(),
                mac,
                addresses: vec![],
                floating_ips: floating_ips
                    .into_iter()
                    .filter_map(Result::transpose)
                    .collect::<Result<_, _>>()?,
            },
            network: port.network.clone(),
            unread: vec![],
        };
        for address in addresses {
            match address? {
                NewAddress::Known(address) => {
                    let address = port_address(&port.network, address);
                    created.port.addresses.push(address);
                }
                NewAddress::Unread(uuid) => created.unread.push(uuid),
            }
        }
        Ok(created)
    }

    /// Reads the addresses of a port that its instance-ips got.
    async fn read_addresses_of(&self, created: CreatedPort) -> Result<Port, ManagerError> {
        let CreatedPort {
            mut port,
            network,
            unread,
        } = created;
        let reads = unread.into_iter().map(async |uuid| {
            let read = self.client.read::<InstanceIp>(uuid).await?;
            let address = read.and_then(|ip| ip.instance_ip_address.0);
            address.ok_or_else(|| {
                ManagerError::InvalidResponse(format!("the instance-ip {uuid} has no address"))
            })
        });
        for address in join_all(reads).await {
            port.addresses.push(port_address(&network, address?));
        }
        sort_addresses(&mut port);
        Ok(port)
    }

    /// Creates an interface; one that has appeared meanwhile gets its changes applied.
    async fn create_interface(
        &self,
        desired: &DesiredInterface,
        port: &PlannedPort,
    ) -> Result<Mac, ManagerError> {
        let Some(existing) = self.client.ensure(&port.interface).await?.existing else {
            return Ok(port.mac);
        };
        let interface = existing.object;
        self.check_owner(port.uuid, &interface.common.annotations, None)?;
        self.restore_interface(&interface, desired).await
    }

    /// Brings an interface into its desired state; returns its MAC address.
    async fn restore_interface(
        &self,
        interface: &VirtualMachineInterface,
        desired: &DesiredInterface,
    ) -> Result<Mac, ManagerError> {
        if let Some(cached) = listing::cached_interface(interface, &[]) {
            let changes = diff::diff_interface(&cached, Some(interface), desired);
            self.apply_to_interface(interface, Some(desired), None, &[], &changes)
                .await?;
        }
        mac_of(interface)
    }

    async fn create_address(
        &self,
        port: &PlannedPort,
        planned: &PlannedAddress,
    ) -> Result<NewAddress, ManagerError> {
        let mut instance_ip = planned.instance_ip.clone();
        let mut unknown_subnet = None;
        for subnet in &planned.subnets {
            instance_ip.subnet_uuid = *subnet;
            match self.allocate_address(&instance_ip, planned).await {
                Ok(Some(address)) => return Ok(address),
                Ok(None)
                | Err(ManagerError::Vnc(VncError {
                    kind: VncErrorKind::Exhausted { .. },
                    ..
                })) => {}
                Err(ManagerError::Vnc(error))
                    if matches!(error.kind, VncErrorKind::NoSuchSubnet { .. }) =>
                {
                    unknown_subnet = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        if let Some(error) = unknown_subnet {
            return Err(error.into());
        }
        let selected: Vec<String> = planned.selected.iter().map(ToString::to_string).collect();
        let place = match &selected[..] {
            [] => String::new(),
            nets => format!(" in {}", nets.join(", ")),
        };
        Err(ManagerError::NoFreeAddress(format!(
            "the network has no free address{place}; end containers that have one, or add a subnet \
             to \"{}\"",
            port.network.name
        )))
    }

    /// The address of an instance-ip that exists now; `None` if the server has no free one. Where a named
    /// subnet is used up, the server may create the instance-ip all the same: without an address, or
    /// with one of another subnet. Such an object is deleted, also one of an earlier request.
    async fn allocate_address(
        &self,
        instance_ip: &InstanceIp,
        planned: &PlannedAddress,
    ) -> Result<Option<NewAddress>, ManagerError> {
        let requested = instance_ip.instance_ip_address.0;
        let mut may_replace = true;
        loop {
            let ensured = self.client.ensure(instance_ip).await?;
            let (uuid, is_new) = (ensured.uuid, ensured.existing.is_none());
            // An instance-ip without a named subnet is refused if no address is free.
            if is_new
                && requested.is_none()
                && planned.subnets == [None]
                && planned.selected.is_empty()
            {
                return Ok(Some(NewAddress::Unread(uuid)));
            }
            let address = self
                .address_of(ensured, requested, |ip| ip.instance_ip_address.0)
                .await?;
            if let Some(address) = address
                && planned.accepts(address)
            {
                return Ok(Some(NewAddress::Known(address)));
            }
            if Some(uuid) != instance_ip.common.uuid {
                return Err(ManagerError::InvalidResponse(format!(
                    "the instance-ip {} {uuid} of somebody else has {}; delete it",
                    instance_ip.common.fq_name,
                    address.map_or_else(|| "no address".to_owned(), |address| address.to_string()),
                )));
            }
            self.client.delete::<InstanceIp>(uuid).await?;
            if is_new || !may_replace {
                return Ok(None);
            }
            may_replace = false;
        }
    }

    /// The address of an object, if it has one: requested, found, or read, since a create does not
    /// return it.
    pub(super) async fn address_of<T: Object>(
        &self,
        ensured: Ensured<T>,
        requested: Option<IpAddr>,
        address: impl Fn(&T) -> Option<IpAddr>,
    ) -> Result<Option<IpAddr>, ManagerError> {
        let object = match (ensured.existing, requested) {
            (None, Some(requested)) => return Ok(Some(requested)),
            (None, None) => self.client.read::<T>(ensured.uuid).await?,
            (Some(existing), _) => Some(existing.object),
        };
        Ok(object.as_ref().and_then(address))
    }
}

fn is_on(interface: &VirtualMachineInterface, port: &PlannedPort) -> bool {
    uuids(&interface.virtual_network_refs).any(|network| network == port.network.uuid)
}
