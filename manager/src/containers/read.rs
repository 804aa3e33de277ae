//! Reading containers: one, or all of an agent.

use std::collections::HashMap;
use std::net::IpAddr;

use futures::future::try_join_all;
use uuid::Uuid;

use super::remove::uuids;
use super::{Containers, mac_of, port_address, sort};
use crate::error::ManagerError;
use crate::plan;
use crate::vnc::{
    FloatingIp, InstanceIp, Object, Query, VirtualMachine, VirtualMachineInterface, VirtualRouter,
};
use contrail_mesos_api::agent_api::{Port, Ports, PortsList};

impl Containers {
    /// The ports of a container.
    pub async fn get(&self, agent: Option<&str>, machine: Uuid) -> Result<Ports, ManagerError> {
        let found = self.client.read::<VirtualMachine>(machine).await?;
        let found = found.ok_or(ManagerError::NotFound(machine))?;
        self.check_owner(machine, &found.common.annotations, agent)?;
        let mut ports = self.ports(vec![found]).await?;
        ports.pop().ok_or(ManagerError::NotFound(machine))
    }

    /// All complete containers of an agent: those that its virtual-router refers to. What was
    /// only begun is known to the agent, which asked for it.
    pub async fn list(
        &self,
        agent: &str,
        router_address: Option<IpAddr>,
    ) -> Result<PortsList, ManagerError> {
        let router = self.names.router(agent, router_address).await?;
        let Some(router) = self.client.read::<VirtualRouter>(router).await? else {
            self.names.forget();
            return Ok(PortsList::default());
        };
        let query = Query::new().uuids(uuids(&router.virtual_machine_refs));
        let mut machines = self.client.list::<VirtualMachine>(&query).await?;
        machines.retain(|machine| {
            let annotations = &machine.common.annotations;
            self.is_ours(annotations) && annotations.get("agent") == Some(agent)
        });
        let containers = self.ports(machines).await?;
        Ok(PortsList { containers })
    }

    /// The ports of these containers, with three lists however many they are.
    async fn ports(&self, machines: Vec<VirtualMachine>) -> Result<Vec<Ports>, ManagerError> {
        let query = Query::new().referring_to(machines.iter().filter_map(uuid));
        let interfaces = self.client.list::<VirtualMachineInterface>(&query).await?;
        let query = Query::new().referring_to(interfaces.iter().filter_map(uuid));
        let (addresses, floating) = tokio::try_join!(
            self.client.list::<InstanceIp>(&query),
            self.client.list::<FloatingIp>(&query),
        )?;
        let mut of_interface: HashMap<Uuid, (Vec<&InstanceIp>, Vec<&FloatingIp>)> = HashMap::new();
        for address in &addresses {
            for interface in uuids(&address.virtual_machine_interface_refs) {
                of_interface.entry(interface).or_default().0.push(address);
            }
        }
        for address in &floating {
            for interface in uuids(&address.virtual_machine_interface_refs) {
                of_interface.entry(interface).or_default().1.push(address);
            }
        }
        let ports = interfaces
            .iter()
            .filter(|interface| self.is_ours(&interface.common.annotations));
        let ports = try_join_all(ports.map(async |interface| {
            let empty = (vec![], vec![]);
            let found = uuid(interface).and_then(|uuid| of_interface.get(&uuid));
            let (addresses, floating) = found.unwrap_or(&empty);
            self.read_port(interface, addresses, floating).await
        }))
        .await?;
        let mut of_machine: HashMap<Uuid, Vec<(usize, Port)>> = HashMap::new();
        for (machine, index, port) in ports.into_iter().flatten() {
            of_machine.entry(machine).or_default().push((index, port));
        }
        let machines = machines.into_iter().filter_map(|machine| {
            let uuid = uuid(&machine)?;
            let mut ports = of_machine.remove(&uuid).unwrap_or_default();
            ports.sort_by_key(|(index, _)| *index);
            Some(Ports {
                machine: uuid,
                container: plan::container(&machine.common.annotations),
                ports: ports.into_iter().map(|(_, port)| port).collect(),
            })
        });
        Ok(machines.collect())
    }

    /// A port, its place, and whose it is; `None` for what is half made.
    async fn read_port(
        &self,
        interface: &VirtualMachineInterface,
        addresses: &[&InstanceIp],
        floating: &[&FloatingIp],
    ) -> Result<Option<(Uuid, usize, Port)>, ManagerError> {
        let annotations = &interface.common.annotations;
        let (Some(uuid), Some(machine), Some(network), Some(name)) = (
            uuid(interface),
            uuids(&interface.virtual_machine_refs).next(),
            interface.virtual_network_refs.first(),
            annotations.get("interface"),
        ) else {
            return Ok(None);
        };
        let network = self.names.network(&network.to, &[]).await?;
        let index = annotations
            .get("index")
            .and_then(|index| index.split('/').next()?.parse().ok());
        let addresses = addresses
            .iter()
            .filter_map(|address| address.instance_ip_address.0);
        let mut port = Port {
            interface: name.to_owned(),
            uuid,
            virtual_network: network.uuid,
            virtual_network_name: network.name.to_string(),
            mac: mac_of(interface)?,
            addresses: addresses
                .map(|address| port_address(&network, address))
                .collect(),
            floating_ips: floating
                .iter()
                .filter_map(|address| address.floating_ip_address.0)
                .collect(),
        };
        sort(&mut port);
        Ok(Some((machine, index.unwrap_or(0), port)))
    }
}

fn uuid<T: Object>(object: &T) -> Option<Uuid> {
    object.common().uuid
}
