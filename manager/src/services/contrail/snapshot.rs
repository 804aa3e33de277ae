//! Reads what exists: our objects of services, and the interfaces of backends.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use tokio::time::Instant;
use uuid::Uuid;

use super::objects::services_of;
use super::plan::{Ports, ServicePlan};
use super::{ContrailInterface, ServiceObjects};
use crate::error::ManagerError;
use crate::model::{self, Network};
use crate::vnc::{
    Detail, FloatingIp, FloatingIpPool, FqName, InstanceIp, Object, Query, Ref, VirtualDns,
    VirtualDnsRecord, VirtualMachineInterface, VirtualNetwork,
};
use contrail_mesos_api::agent_api;
use contrail_mesos_api::container::ContainerId;

/// Our objects that exist.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub read_at: Instant,
    /// The network of the services' addresses.
    pub network: Network,
    /// The floating-ip-pools, in their order.
    pub pools: Vec<Pool>,
    pub vips: BTreeMap<IpAddr, ActualVip>,
    /// The virtual DNS server, if one is configured.
    pub dns: Option<Dns>,
    /// Whether the link-local service was compared since then.
    pub is_link_local_written: bool,
}

/// A floating-ip-pool.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Pool {
    pub uuid: Uuid,
    pub name: FqName,
    /// The network of its addresses.
    pub network: Network,
}

/// An address that has an instance-ip, or a floating-ip of a pool.
#[derive(Clone, Debug, Default)]
pub(super) struct ActualVip {
    /// The pool of the address; none if it is in the network of services.
    pub pool: Option<FqName>,
    pub floating_ip: Option<ActualFloatingIp>,
}

/// A floating-ip.
#[derive(Clone, Debug)]
pub(super) struct ActualFloatingIp {
    pub ports: Ports,
    /// Whether it forwards only mapped ports of incoming connections, and has the right address.
    pub is_set_up: bool,
    pub services: String,
    pub interfaces: BTreeSet<Uuid>,
}

/// A virtual DNS server.
#[derive(Debug)]
pub(super) struct Dns {
    pub name: FqName,
    /// The name of its zone, in lower case and without a final dot.
    pub zone: String,
    /// Our records: the data by the name.
    pub records: BTreeMap<String, ActualRecord>,
}

/// A record.
#[derive(Clone, Debug)]
pub(super) struct ActualRecord {
    pub uuid: Uuid,
    /// None if it is not an A record.
    pub address: Option<IpAddr>,
}

/// The interface of a backend.
#[derive(Clone, Debug)]
pub(super) struct Interface {
    pub uuid: Uuid,
    pub name: FqName,
}

fn fields<const N: usize>(fields: [&str; N]) -> Detail {
    Detail::Fields(fields.map(str::to_owned).to_vec())
}

fn uuids(references: &[Ref]) -> impl Iterator<Item = Uuid> {
    references.iter().filter_map(|reference| reference.uuid)
}

fn uuid<T: Object>(object: &T) -> Option<Uuid> {
    object.common().uuid
}

impl ServiceObjects {
    /// Reads our objects.
    pub(super) async fn read_snapshot(&self, now: Instant) -> Result<Snapshot, ManagerError> {
        let name = &self.options.network;
        let network = match self.client.id_of::<VirtualNetwork>(name).await? {
            Some(uuid) => self.containers.read_networks(vec![uuid]).await?.pop(),
            None => None,
        };
        let network = network.ok_or_else(|| {
            ManagerError::invalid(format!(
                "there is no virtual-network {name}, which services.contrail.network names; create it \
                 with the ranges of [services] as its subnets"
            ))
        })?;
        let mut pools = vec![];
        for name in &self.options.floating_ip_pools {
            pools.push(self.read_pool(name).await?);
        }
        let query = Query::new()
            .referring_to([network.uuid])
            .detail(fields(["annotations", "instance_ip_address"]));
        let mut instance_ips: HashMap<Uuid, IpAddr> = HashMap::new();
        for instance_ip in self.client.list::<InstanceIp>(&query).await? {
            if let (Some(uuid), Some(address)) =
                (instance_ip.common.uuid, instance_ip.instance_ip_address.0)
                && self.naming.is_ours(&instance_ip.common.annotations)
                && uuid == self.naming.instance_ip_uuid(address)
            {
                instance_ips.insert(uuid, address);
            }
        }
        let mut vips: BTreeMap<IpAddr, ActualVip> = instance_ips
            .values()
            .map(|address| (*address, ActualVip::default()))
            .collect();
        let pool_uuids: HashMap<Uuid, &FqName> =
            pools.iter().map(|pool| (pool.uuid, &pool.name)).collect();
        let parents = instance_ips.keys().chain(pool_uuids.keys());
        let query = Query::new().children_of(parents.copied());
        for floating_ip in self.client.list::<FloatingIp>(&query).await? {
            let Some(parent) = floating_ip.common.parent_uuid else {
                continue;
            };
            let pool = pool_uuids.get(&parent);
            let address = match pool {
                Some(_) => floating_ip.floating_ip_address.0,
                None => instance_ips.get(&parent).copied(),
            };
            if let Some(address) = address
                && self.naming.is_ours(&floating_ip.common.annotations)
                && floating_ip.common.uuid == Some(self.naming.floating_ip_uuid(address))
            {
                let vip = vips.entry(address).or_default();
                vip.pool = pool.map(|name| (*name).clone());
                vip.floating_ip = Some(actual_floating_ip(&floating_ip, address));
            }
        }
        let dns = match &self.options.virtual_dns {
            Some(name) => Some(self.read_dns(name).await?),
            None => None,
        };
        Ok(Snapshot {
            read_at: now,
            network,
            pools,
            vips,
            dns,
            is_link_local_written: false,
        })
    }

    async fn read_pool(&self, name: &FqName) -> Result<Pool, ManagerError> {
        let uuid = self.client.id_of::<FloatingIpPool>(name).await?;
        let network = match name.parent() {
            Some(network) => self.client.id_of::<VirtualNetwork>(&network).await?,
            None => None,
        };
        let network = match network {
            Some(network) => self.containers.read_networks(vec![network]).await?.pop(),
            None => None,
        };
        let (Some(uuid), Some(network)) = (uuid, network) else {
            return Err(ManagerError::invalid(format!(
                "there is no floating-ip-pool {name}, which services.contrail.floating_ip_pools names; \
                 create it, or remove it from the list"
            )));
        };
        Ok(Pool {
            uuid,
            name: name.clone(),
            network,
        })
    }

    async fn read_dns(&self, name: &FqName) -> Result<Dns, ManagerError> {
        let found = self.client.find::<VirtualDns>(name).await?;
        let found = found.and_then(|dns| Some((dns.common.uuid?, dns.virtual_dns_data?)));
        let Some((server, data)) = found else {
            return Err(ManagerError::invalid(format!(
                "there is no virtual-DNS {name}, which services.contrail.virtual_dns names; create it"
            )));
        };
        let query = Query::new().children_of([server]);
        let mut records = BTreeMap::new();
        for record in self.client.list::<VirtualDnsRecord>(&query).await? {
            if !self.naming.is_ours(&record.common.annotations) {
                continue;
            }
            if let Some(uuid) = record.common.uuid
                && let Some(data) = record.virtual_dns_record_data
                && let Some(name) = data.record_name
            {
                let address = data
                    .record_data
                    .filter(|_| data.record_type.as_deref() == Some("A"));
                let address = address.and_then(|text| text.parse().ok());
                records.insert(name, ActualRecord { uuid, address });
            }
        }
        let zone = data.domain_name.unwrap_or_default().to_ascii_lowercase();
        Ok(Dns {
            name: name.clone(),
            zone: zone.trim_end_matches('.').to_owned(),
            records,
        })
    }

    /// Finds the interfaces of a plan that are not known yet, with two lists however many they are.
    /// Forgets those that the plan does not have.
    pub(super) async fn find_interfaces(&mut self, plan: &ServicePlan) -> Result<(), ManagerError> {
        let planned: BTreeSet<&ContrailInterface> =
            plan.vips.values().flat_map(|vip| &vip.interfaces).collect();
        self.interfaces
            .retain(|interface, _| planned.contains(interface));
        let machine = |interface: &ContrailInterface| {
            agent_api::vm_uuid(&ContainerId::top_level(&interface.container))
        };
        let mut unknown: HashMap<(Uuid, IpAddr), &ContrailInterface> = HashMap::new();
        for interface in planned {
            if !self.interfaces.contains_key(interface) {
                unknown.insert((machine(interface), interface.address), interface);
            }
        }
        let machines: BTreeSet<Uuid> = unknown.keys().map(|(machine, _)| *machine).collect();
        let query = Query::new()
            .referring_to(machines)
            .detail(fields(["annotations", "virtual_machine_refs"]));
        let cluster = &self.naming.cluster;
        let interfaces = self.client.list::<VirtualMachineInterface>(&query).await?;
        let own: HashMap<Uuid, &VirtualMachineInterface> = interfaces
            .iter()
            .filter(|interface| model::is_owned(&interface.common.annotations, cluster))
            .filter_map(|interface| Some((uuid(interface)?, interface)))
            .collect();
        let query = Query::new()
            .referring_to(own.keys().copied())
            .detail(fields([
                "instance_ip_address",
                "virtual_machine_interface_refs",
            ]));
        for instance_ip in self.client.list::<InstanceIp>(&query).await? {
            let Some(address) = instance_ip.instance_ip_address.0 else {
                continue;
            };
            for of in uuids(&instance_ip.virtual_machine_interface_refs) {
                let Some(interface) = own.get(&of) else {
                    continue;
                };
                for machine in uuids(&interface.virtual_machine_refs) {
                    if let Some(wanted) = unknown.get(&(machine, address)) {
                        let found = Interface {
                            uuid: of,
                            name: interface.common.fq_name.clone(),
                        };
                        self.interfaces.insert((*wanted).clone(), found);
                    }
                }
            }
        }
        Ok(())
    }
}

fn actual_floating_ip(floating_ip: &FloatingIp, address: IpAddr) -> ActualFloatingIp {
    let maps = floating_ip.floating_ip_port_mappings.as_ref();
    ActualFloatingIp {
        ports: maps.map_or_else(Ports::default, |maps| Ports::of(&maps.port_mappings)),
        is_set_up: floating_ip.floating_ip_address.0 == Some(address)
            && floating_ip.floating_ip_port_mappings_enable == Some(true)
            && floating_ip.floating_ip_traffic_direction.as_deref() == Some("ingress"),
        services: services_of(&floating_ip.common.annotations).to_owned(),
        interfaces: uuids(&floating_ip.virtual_machine_interface_refs).collect(),
    }
}
