//! Making a container: machine, interfaces, addresses, and at last the virtual-router's reference.

use futures::future::join_all;
use uuid::Uuid;

use super::remove::{first_error, uuids};
use super::state::State;
use super::undo::Undo;
use super::{Containers, mac_of, port_address, sort};
use crate::error::ManagerError;
use crate::plan::{self, PlannedAddress};
use crate::vnc::{
    Ensured, FloatingIp, InstanceIp, Object, Patch, Ref, VirtualMachine, VirtualMachineInterface,
    VirtualRouter, VncError, VncErrorKind,
};
use contrail_mesos_api::agent_api::{Port, PortAddress, Ports};

impl Containers {
    /// Makes what is missing of a container, and removes what it is not to have. The container's
    /// lock is held. Says in `undo` what is to be removed should this fail.
    pub(super) async fn make(
        &self,
        agent: &str,
        router: Uuid,
        machine: VirtualMachine,
        ports: Vec<plan::Port>,
        undo: &mut Undo,
    ) -> Result<Ports, ManagerError> {
        let container = plan::container(&machine.common.annotations);
        let (uuid, existing) = self.machine(agent, machine, undo).await?;
        if let Some(state) = &existing {
            self.prune(state, &ports).await?;
        }
        let made = ports.iter().map(|port| self.port(port, existing.as_ref()));
        // All end before an error is told: nothing is left under way behind our back.
        let made = join_all(made).await;
        let ports = made.into_iter().collect::<Result<Vec<_>, _>>()?;
        let links = existing
            .as_ref()
            .map_or(&[][..], |state| &state.machine.virtual_router_back_refs);
        let others = uuids(links).filter(|other| *other != router);
        let unlinked = others.map(|other| {
            self.client
                .unlink::<VirtualRouter, VirtualMachine>(other, uuid)
        });
        first_error(join_all(unlinked).await)?;
        if !uuids(links).any(|other| other == router) {
            // The last, so that the vRouter agent sees a whole container.
            self.client
                .link::<VirtualRouter, VirtualMachine>(router, uuid)
                .await?;
        }
        Ok(Ports {
            machine: uuid,
            container,
            ports,
        })
    }

    /// The machine: a new one, or what there is of it.
    async fn machine(
        &self,
        agent: &str,
        object: VirtualMachine,
        undo: &mut Undo,
    ) -> Result<(Uuid, Option<State>), ManagerError> {
        let error = match self.client.create(&object).await {
            Ok(uuid) => {
                *undo = Undo::Always;
                return Ok((uuid, None));
            }
            Err(error) => error,
        };
        let exists = matches!(error.kind, VncErrorKind::Exists { .. });
        // Whatever it answers, the server may have made it.
        if !exists && *undo == Undo::Never {
            *undo = Undo::Unlinked;
        }
        let Some(uuid) = object.common.uuid.filter(|_| exists) else {
            return Err(error.into());
        };
        let Some(state) = self.state(uuid).await? else {
            // Somebody else's has the name.
            return Err(error.into());
        };
        self.check_owner(uuid, &state.machine.common.annotations, Some(agent))?;
        if *undo == Undo::Never && !state.is_linked() {
            *undo = Undo::Unlinked;
        }
        Ok((uuid, Some(state)))
    }

    /// Removes what an earlier request made and this one does not want.
    async fn prune(&self, state: &State, ports: &[plan::Port]) -> Result<(), ManagerError> {
        let pruned = state
            .interfaces
            .iter()
            .map(|interface| self.prune_one(interface, ports));
        first_error(join_all(pruned).await)
    }

    async fn prune_one(
        &self,
        interface: &VirtualMachineInterface,
        ports: &[plan::Port],
    ) -> Result<(), ManagerError> {
        let Some(uuid) = interface.common.uuid else {
            return Ok(());
        };
        if !self.is_ours(&interface.common.annotations) {
            return Ok(());
        }
        let Some(port) = wanted(interface, ports) else {
            return self.remove_interface(interface).await;
        };
        let unwanted = |references: &[Ref], wanted: &dyn Fn(Uuid) -> bool| -> Vec<Ref> {
            let ours = references
                .iter()
                .filter(|reference| plan::is_ours(uuid, reference));
            ours.filter(|reference| !reference.uuid.is_some_and(wanted))
                .cloned()
                .collect()
        };
        let floating = unwanted(&interface.floating_ip_back_refs, &|uuid| {
            port.floating_ips
                .iter()
                .any(|ip| ip.common.uuid == Some(uuid))
        });
        self.remove_all::<FloatingIp>(uuid, &floating).await?;
        for adopted in self.adopted(interface).await? {
            let mut wanted = port.floating_ips.iter();
            if !wanted.any(|ip| ip.common.uuid == Some(adopted.stands_for)) {
                self.give_back(adopted).await?;
            }
        }
        let addresses = unwanted(&interface.instance_ip_back_refs, &|uuid| {
            port.addresses
                .iter()
                .any(|ip| ip.instance_ip.common.uuid == Some(uuid))
        });
        self.remove_all::<InstanceIp>(uuid, &addresses).await
    }

    /// One port with all that belongs to it.
    async fn port(
        &self,
        port: &plan::Port,
        existing: Option<&State>,
    ) -> Result<Port, ManagerError> {
        let existing = existing.and_then(|state| {
            let mut interfaces = state.interfaces.iter();
            interfaces.find(|interface| wanted(interface, std::slice::from_ref(port)).is_some())
        });
        let mac = match existing {
            Some(interface) => {
                self.correct(interface, port).await?;
                mac_of(interface)?
            }
            None => match self.client.ensure(&port.interface).await?.found {
                None => port.mac,
                Some(found) => {
                    self.check_owner(port.uuid, &found.object.common.annotations, None)?;
                    self.correct(&found.object, port).await?;
                    mac_of(&found.object)?
                }
            },
        };
        let addresses = join_all(
            port.addresses
                .iter()
                .map(|address| self.address(port, address)),
        );
        let floating = join_all(
            port.floating_ips
                .iter()
                .map(|floating| self.floating_or_later(port.uuid, floating)),
        );
        let (addresses, floating) = tokio::join!(addresses, floating);
        let mut made = Port {
            interface: port.name.clone(),
            uuid: port.uuid,
            virtual_network: port.network.uuid,
            virtual_network_name: port.network.name.to_string(),
            mac,
            addresses: addresses.into_iter().collect::<Result<_, _>>()?,
            floating_ips: floating
                .into_iter()
                .filter_map(Result::transpose)
                .collect::<Result<_, _>>()?,
        };
        sort(&mut made);
        Ok(made)
    }

    /// Gives an interface that was there what it is to have now.
    async fn correct(
        &self,
        found: &VirtualMachineInterface,
        port: &plan::Port,
    ) -> Result<(), ManagerError> {
        let mut patch = Patch::new();
        let mut differs = false;
        let groups = |interface: &VirtualMachineInterface| {
            let groups = interface.security_group_refs.iter();
            groups
                .map(|group| group.to.clone())
                .collect::<std::collections::BTreeSet<_>>()
        };
        if groups(found) != groups(&port.interface) {
            patch = patch.set("security_group_refs", &port.interface.security_group_refs);
            differs = true;
        }
        let wanted = &port.interface.common.annotations;
        if wanted
            .0
            .iter()
            .any(|(key, value)| found.common.annotations.get(key) != Some(value))
        {
            let mut annotations = found.common.annotations.clone();
            annotations.0.extend(wanted.0.clone());
            patch = patch.set("annotations", annotations);
            differs = true;
        }
        if differs {
            self.client
                .update::<VirtualMachineInterface>(port.uuid, patch)
                .await?;
        }
        Ok(())
    }

    async fn address(
        &self,
        port: &plan::Port,
        planned: &PlannedAddress,
    ) -> Result<PortAddress, ManagerError> {
        let mut instance_ip = planned.instance_ip.clone();
        let mut otherwise = planned.otherwise.iter();
        let made = loop {
            match self.client.ensure(&instance_ip).await {
                Err(VncError {
                    kind: VncErrorKind::Exhausted { .. },
                    ..
                }) if otherwise.len() > 0 => instance_ip.subnet_uuid = otherwise.next().copied(),
                made => break made?,
            }
        };
        let given = instance_ip.instance_ip_address.0;
        let address = self
            .given(made, given, |ip| ip.instance_ip_address.0)
            .await?;
        Ok(port_address(&port.network, address))
    }

    /// The address of an object: asked for, found, or read, since the server does not say which
    /// it gives.
    pub(super) async fn given<T: Object>(
        &self,
        made: Ensured<T>,
        asked: Option<std::net::IpAddr>,
        address: impl Fn(&T) -> Option<std::net::IpAddr>,
    ) -> Result<std::net::IpAddr, ManagerError> {
        let object = match (made.found, asked) {
            (None, Some(asked)) => return Ok(asked),
            (None, None) => self.client.read::<T>(made.uuid).await?,
            (Some(found), _) => Some(found.object),
        };
        object.as_ref().and_then(address).ok_or_else(|| {
            ManagerError::InvalidResponse(format!("the {} {} has no address", T::TYPE, made.uuid))
        })
    }
}

/// The port that an interface is: of that uuid, and on that network.
fn wanted<'a>(
    interface: &VirtualMachineInterface,
    ports: &'a [plan::Port],
) -> Option<&'a plan::Port> {
    ports.iter().find(|port| {
        interface.common.uuid == Some(port.uuid)
            && uuids(&interface.virtual_network_refs).any(|network| network == port.network.uuid)
    })
}
