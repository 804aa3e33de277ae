//! Writes what differs, address by address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use futures::StreamExt as _;
use futures::stream;
use uuid::Uuid;

use contrail_mesos_api::text::Quoted;

use super::objects::services_text;
use super::plan::{PlannedVip, Ports, ServicePlan};
use super::snapshot::{ActualFloatingIp, ActualVip, Snapshot};
use super::{ServiceObjects, ServiceObjectsInput, ServiceObjectsStatus};
use crate::error::ManagerError;
use crate::services::ServiceProblem;
use crate::vnc::{
    Ensured, FloatingIp, FqName, InstanceIp, KeyValues, Object, Patch, PortMappings,
    VirtualMachineInterface,
};

/// How many addresses are written at once.
const CONCURRENCY: usize = 8;
/// How many failures a message lists.
const MAX_FAILURES: usize = 5;

/// What came of a comparison.
#[derive(Debug)]
pub(super) struct Outcome {
    pub problems: Vec<ServiceProblem>,
    pub failures: Vec<String>,
    /// Whether it is uncertain what exists. A request that was refused has changed nothing.
    pub must_read: bool,
    /// Whether interfaces of backends are missing, which may still come.
    pub is_waiting: bool,
}

impl Outcome {
    pub(super) fn fail(&mut self, what: &str, error: &ManagerError) {
        self.failures.push(format!("{what}: {error}"));
        self.must_read |= error.is_transient()
            || error.is_object_gone()
            || matches!(error, ManagerError::Conflict(_));
    }

    pub(super) fn status(mut self, addresses: usize) -> ServiceObjectsStatus {
        self.problems.sort();
        self.failures.sort();
        let more = self.failures.len().saturating_sub(MAX_FAILURES);
        self.failures.truncate(MAX_FAILURES);
        if more > 0 {
            self.failures.push(format!("and {more} more"));
        }
        ServiceObjectsStatus {
            addresses,
            problems: self.problems,
            failure: (!self.failures.is_empty()).then(|| self.failures.join("; ")),
        }
    }
}

/// What an address should have.
#[derive(Debug)]
struct DesiredFloatingIp {
    ports: Ports,
    services: String,
    interfaces: BTreeMap<Uuid, FqName>,
}

impl ServiceObjects {
    /// Writes the floating-ips of all addresses of a plan.
    pub(super) async fn write_vips(
        &self,
        plan: &ServicePlan,
        input: &ServiceObjectsInput,
        snapshot: &mut Snapshot,
        outcome: &mut Outcome,
    ) {
        let vips = &snapshot.vips;
        let addresses: Vec<IpAddr> = plan.vips.keys().copied().collect();
        let work = addresses.into_iter().map(|address| async move {
            let planned = plan.vips.get(&address)?;
            let actual = vips.get(&address);
            let written = self
                .write_vip(address, planned, actual, input.is_trusted)
                .await;
            Some((address, planned, written))
        });
        let results: Vec<_> = stream::iter(work)
            .buffer_unordered(CONCURRENCY)
            .collect()
            .await;
        for (address, planned, written) in results.into_iter().flatten() {
            match written {
                Ok(vip) => {
                    snapshot.vips.insert(address, vip);
                }
                Err(error) => outcome.fail(&format!("address {address}"), &error),
            }
            let missing: Vec<&str> = planned
                .interfaces
                .iter()
                .filter(|interface| !self.interfaces.contains_key(interface))
                .map(|interface| interface.container.as_str())
                .collect();
            if let Some(container) = missing.first() {
                let count = missing.len();
                let container = Quoted(container.as_bytes());
                outcome.is_waiting = true;
                outcome.problems.push(ServiceProblem {
                    framework: String::new(),
                    task: String::new(),
                    subject: format!("address {address}"),
                    message: format!(
                        "{count} of its backends have no interface of ours, such as container {container}: \
                         clients in virtual networks do not reach them"
                    ),
                });
            }
        }
    }

    /// Deletes the addresses that a plan does not have.
    pub(super) async fn delete_vips(
        &self,
        plan: &ServicePlan,
        snapshot: &mut Snapshot,
        outcome: &mut Outcome,
    ) {
        let records = snapshot.dns.iter().flat_map(|dns| dns.records.values());
        let named: BTreeSet<IpAddr> = records.filter_map(|record| record.address).collect();
        let surplus: Vec<(IpAddr, bool)> = snapshot
            .vips
            .iter()
            .filter(|(address, _)| !plan.vips.contains_key(address))
            // The name could not be changed yet.
            .filter(|(address, _)| !named.contains(address))
            .map(|(address, vip)| (*address, vip.pool.is_some()))
            .collect();
        let work = surplus.into_iter().map(|(address, in_pool)| async move {
            (address, self.delete_vip(address, in_pool).await)
        });
        let results: Vec<_> = stream::iter(work)
            .buffer_unordered(CONCURRENCY)
            .collect()
            .await;
        for (address, deleted) in results {
            match deleted {
                Ok(()) => {
                    snapshot.vips.remove(&address);
                }
                Err(error) => outcome.fail(&format!("address {address}"), &error),
            }
        }
    }

    async fn write_vip(
        &self,
        address: IpAddr,
        planned: &PlannedVip,
        actual: Option<&ActualVip>,
        is_trusted: bool,
    ) -> Result<ActualVip, ManagerError> {
        let interfaces = planned
            .interfaces
            .iter()
            .filter_map(|interface| self.interfaces.get(interface))
            .map(|interface| (interface.uuid, interface.name.clone()));
        let mut desired = DesiredFloatingIp {
            ports: planned.ports.clone(),
            services: services_text(planned.names.iter().map(String::as_str)),
            interfaces: interfaces.collect(),
        };
        // The subnet of the address has moved to another network.
        let moved = actual.filter(|vip| vip.pool != planned.pool);
        if let Some(vip) = moved {
            self.delete_vip(address, vip.pool.is_some()).await?;
        }
        let actual = actual.filter(|_| moved.is_none());
        let pool = planned.pool.as_ref();
        if actual.is_none() && pool.is_none() {
            let instance_ip = self.naming.instance_ip(address);
            let ensured = self.client.ensure(&instance_ip).await?;
            self.check_is_ours(&ensured)?;
        }
        let existing = actual.and_then(|vip| vip.floating_ip.as_ref());
        let Some(existing) = existing else {
            let names = desired.interfaces.values().cloned();
            let floating_ip =
                self.naming
                    .floating_ip(address, pool, &desired.services, &desired.ports, names);
            let ensured = self.client.ensure(&floating_ip).await?;
            self.check_is_ours(&ensured)?;
            let ports: Vec<String> = port_texts(&desired.ports);
            log::info!(address:%, services = desired.services, ports = ports.join(" "), backends = desired.interfaces.len(); "address of services created in Contrail");
            return Ok(ActualVip {
                pool: planned.pool.clone(),
                floating_ip: Some(desired.into_actual()),
            });
        };
        if !is_trusted {
            for (port, to) in &existing.ports.0 {
                desired.ports.0.entry(*port).or_insert(*to);
            }
        }
        let mut after = existing.clone();
        self.update_floating_ip(address, &desired, is_trusted, &mut after)
            .await?;
        Ok(ActualVip {
            pool: planned.pool.clone(),
            floating_ip: Some(after),
        })
    }

    /// Brings an existing floating-ip into its desired state. New backends come first, so that there is
    /// no moment without any.
    async fn update_floating_ip(
        &self,
        address: IpAddr,
        desired: &DesiredFloatingIp,
        is_trusted: bool,
        actual: &mut ActualFloatingIp,
    ) -> Result<(), ManagerError> {
        let uuid = self.naming.floating_ip_uuid(address);
        let new: Vec<Uuid> = desired
            .interfaces
            .keys()
            .filter(|interface| !actual.interfaces.contains(interface))
            .copied()
            .collect();
        for interface in &new {
            self.client
                .link::<FloatingIp, VirtualMachineInterface>(uuid, *interface)
                .await?;
            actual.interfaces.insert(*interface);
        }
        if !actual.is_set_up || actual.ports != desired.ports || actual.services != desired.services
        {
            let floating_ip = self.naming.floating_ip(
                address,
                None,
                &desired.services,
                &desired.ports,
                std::iter::empty(),
            );
            let patch = Patch::new()
                .set("floating_ip_address", floating_ip.floating_ip_address)
                .set(
                    "floating_ip_traffic_direction",
                    floating_ip.floating_ip_traffic_direction,
                )
                .set("floating_ip_port_mappings_enable", true)
                .set(
                    "floating_ip_port_mappings",
                    PortMappings {
                        port_mappings: desired.ports.port_maps(),
                    },
                )
                .set("annotations", floating_ip.common.annotations);
            self.client.update::<FloatingIp>(uuid, patch).await?;
            actual.is_set_up = true;
            actual.ports.clone_from(&desired.ports);
            actual.services.clone_from(&desired.services);
            let ports: Vec<String> = port_texts(&desired.ports);
            log::info!(address:%, services = desired.services, ports = ports.join(" "); "ports of services changed in Contrail");
        }
        let gone: Vec<Uuid> = actual
            .interfaces
            .iter()
            .filter(|interface| is_trusted && !desired.interfaces.contains_key(interface))
            .copied()
            .collect();
        for interface in &gone {
            self.client
                .unlink::<FloatingIp, VirtualMachineInterface>(uuid, *interface)
                .await?;
            actual.interfaces.remove(interface);
        }
        if !new.is_empty() || !gone.is_empty() {
            let backends = actual.interfaces.len();
            log::info!(address:%, services = desired.services, new = new.len(), gone = gone.len(), backends; "backends of services changed in Contrail");
        }
        Ok(())
    }

    /// Deletes an address with its floating-ip.
    async fn delete_vip(&self, address: IpAddr, in_pool: bool) -> Result<(), ManagerError> {
        let floating_ip = self.naming.floating_ip_uuid(address);
        self.client.delete::<FloatingIp>(floating_ip).await?;
        if !in_pool {
            let instance_ip = self.naming.instance_ip_uuid(address);
            self.client.delete::<InstanceIp>(instance_ip).await?;
        }
        log::info!(address:%; "address of services deleted in Contrail");
        Ok(())
    }

    /// Refuses an object that another owner created under our name.
    pub(super) fn check_is_ours<T: Object>(
        &self,
        ensured: &Ensured<T>,
    ) -> Result<(), ManagerError> {
        let Some(existing) = &ensured.existing else {
            return Ok(());
        };
        let common = existing.object.common();
        let name = &common.fq_name;
        let annotations: &KeyValues = &common.annotations;
        if !self.naming.is_ours(annotations) {
            return Err(ManagerError::Foreign(format!(
                "the {} {name} was not created for services of cluster {:?} and is not touched; delete \
                 or rename it",
                T::TYPE,
                self.naming.cluster
            )));
        }
        // It exists since the snapshot was read, and is compared once that is read again.
        if existing
            .differing_fields
            .iter()
            .any(|field| field != "annotations")
        {
            return Err(ManagerError::Conflict(format!(
                "the {} {name} exists already and differs in {}; if that stays so, delete it: it may \
                 be of another services.contrail.network",
                T::TYPE,
                existing.differing_fields.join(", ")
            )));
        }
        Ok(())
    }
}

impl DesiredFloatingIp {
    fn into_actual(self) -> ActualFloatingIp {
        ActualFloatingIp {
            ports: self.ports,
            is_set_up: true,
            services: self.services,
            interfaces: self.interfaces.into_keys().collect(),
        }
    }
}

fn port_texts(ports: &Ports) -> Vec<String> {
    let ports = ports.0.iter();
    ports
        .map(|((protocol, from), to)| format!("{from}/{}->{to}", protocol.as_str()))
        .collect()
}
