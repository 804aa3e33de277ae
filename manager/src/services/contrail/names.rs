//! Names of services in a virtual DNS server, and the link-local service by which virtual networks reach
//! the DNS of the nodes.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::json;

use super::ServiceObjects;
use super::apply::Outcome;
use super::plan::ServicePlan;
use super::snapshot::{ActualRecord, Dns, Snapshot};
use crate::error::ManagerError;
use crate::provision::GLOBAL_VROUTER_CONFIG;
use crate::vnc::{FqName, GlobalVrouterConfig, LinklocalService, Patch, VirtualDnsRecord};
use contrail_mesos_api::cluster::SERVICE_ZONE;

/// The addresses of names within the zone of the virtual DNS server.
pub(super) type Records = BTreeMap<String, IpAddr>;

/// The name of a service within a zone; none if the zone is not that of services or above it.
fn name_in_zone(name: &str, zone: &str) -> Option<String> {
    let full = format!("{name}.{SERVICE_ZONE}");
    let rest = full.strip_suffix(zone)?.strip_suffix('.')?;
    // The zone of a single service would do as well, but then it has no name below it.
    (rest.len() >= name.len() && !zone.is_empty()).then(|| rest.to_owned())
}

/// The records that there should be. The API server knows no AAAA records of services: their names
/// have IPv4 addresses only.
pub(super) fn desired_records(plan: &ServicePlan, snapshot: &Snapshot) -> Records {
    let Some(dns) = &snapshot.dns else {
        return Records::new();
    };
    let vips = plan.vips.iter().filter(|(address, _)| address.is_ipv4());
    vips.flat_map(|(address, vip)| vip.names.iter().map(|name| (name, *address)))
        .filter_map(|(name, address)| Some((name_in_zone(name, &dns.zone)?, address)))
        .collect()
}

impl ServiceObjects {
    /// Deletes records without a service.
    pub(super) async fn delete_records(
        &self,
        desired: &Records,
        snapshot: &mut Snapshot,
        outcome: &mut Outcome,
    ) {
        let Some(dns) = &mut snapshot.dns else { return };
        let surplus: Vec<(String, ActualRecord)> = dns
            .records
            .iter()
            .filter(|(name, _)| !desired.contains_key(*name))
            .map(|(name, record)| (name.clone(), record.clone()))
            .collect();
        for (name, record) in surplus {
            match self.client.delete::<VirtualDnsRecord>(record.uuid).await {
                Ok(_) => {
                    dns.records.remove(&name);
                }
                Err(error) => outcome.fail(&format!("name {name}"), &error.into()),
            }
        }
    }

    /// Writes the records of names whose addresses forward.
    pub(super) async fn write_records(
        &self,
        desired: &Records,
        plan: &ServicePlan,
        snapshot: &mut Snapshot,
        outcome: &mut Outcome,
    ) {
        let Some(dns) = &mut snapshot.dns else { return };
        if name_in_zone("name", &dns.zone).is_none() {
            let problem = ManagerError::invalid(format!(
                "its zone is {:?}, so it cannot have names below {SERVICE_ZONE}; name one with that \
                 zone, or a zone above it",
                dns.zone
            ));
            outcome.fail(&format!("virtual-DNS {}", dns.name), &problem);
            return;
        }
        for (name, address) in desired {
            let floating_ip = snapshot
                .vips
                .get(address)
                .and_then(|vip| vip.floating_ip.as_ref());
            // Without a backend that gets connections, they fail, and the name stays.
            let has_backends = plan
                .vips
                .get(address)
                .is_some_and(|vip| !vip.interfaces.is_empty());
            let forwards = floating_ip.is_some_and(|ip| !has_backends || !ip.interfaces.is_empty());
            let actual = dns.records.get(name);
            if !forwards || actual.is_some_and(|record| record.address == Some(*address)) {
                continue;
            }
            match self
                .write_record(dns, name, *address, actual.cloned())
                .await
            {
                Ok(record) => {
                    dns.records.insert(name.clone(), record);
                }
                Err(error) => outcome.fail(&format!("name {name}"), &error),
            }
        }
    }

    async fn write_record(
        &self,
        dns: &Dns,
        name: &str,
        address: IpAddr,
        actual: Option<ActualRecord>,
    ) -> Result<ActualRecord, ManagerError> {
        let object = self.naming.record(&dns.name, name, address);
        let uuid = if let Some(actual) = actual {
            let data = object.virtual_dns_record_data;
            let patch = Patch::new().set("virtual_DNS_record_data", data);
            self.client
                .update::<VirtualDnsRecord>(actual.uuid, patch)
                .await?;
            actual.uuid
        } else {
            let ensured = self.client.ensure(&object).await?;
            self.check_is_ours(&ensured)?;
            ensured.uuid
        };
        log::info!(name, address:%; "name of a service written to the virtual-DNS");
        Ok(ActualRecord {
            uuid,
            address: Some(address),
        })
    }

    /// Writes the link-local service for DNS, or removes it, once for each snapshot.
    pub(super) async fn write_link_local(&self, snapshot: &mut Snapshot, outcome: &mut Outcome) {
        if snapshot.is_link_local_written {
            return;
        }
        match self.replace_link_local().await {
            Ok(()) => snapshot.is_link_local_written = true,
            Err(error) => outcome.fail("the link-local service for DNS", &error),
        }
    }

    /// The list has one writer at a time only if all its users take care: it is read and written as a
    /// whole, so it is written only if our own entry differs.
    async fn replace_link_local(&self) -> Result<(), ManagerError> {
        let name = FqName::new(GLOBAL_VROUTER_CONFIG);
        let found = self.client.find::<GlobalVrouterConfig>(&name).await?;
        let found = found.and_then(|found| Some((found.common.uuid?, found.linklocal_services)));
        let desired = self.options.dns.as_ref();
        let desired = desired.map(|dns| self.naming.link_local_service(dns));
        let Some((uuid, services)) = found else {
            return match desired {
                None => Ok(()),
                Some(_) => Err(ManagerError::invalid(format!(
                    "there is no global-vrouter-config {name}; create it"
                ))),
            };
        };
        let services = services.unwrap_or_default().linklocal_service_entry;
        let own_name = self.naming.link_local_name();
        let (own, mut others): (Vec<_>, Vec<_>) = services.into_iter().partition(|service| {
            let name = service.linklocal_service_name.as_deref();
            name.is_some_and(|name| name.eq_ignore_ascii_case(&own_name))
        });
        let place = |service: &LinklocalService| {
            (
                service.linklocal_service_ip.clone(),
                service.linklocal_service_port,
            )
        };
        let taken = desired.as_ref().and_then(|desired| {
            let mut others = others.iter();
            others.find(|other| place(other) == place(desired))
        });
        if let Some(other) = taken {
            return Err(ManagerError::Conflict(format!(
                "the link-local service {:?} has the address of services.contrail.dns; choose another \
                 address",
                other.linklocal_service_name.as_deref().unwrap_or_default()
            )));
        }
        if own.iter().eq(desired.iter()) {
            return Ok(());
        }
        let is_gone = desired.is_none();
        others.extend(desired);
        let patch = Patch::new().set(
            "linklocal_services",
            json!({ "linklocal_service_entry": others }),
        );
        self.client
            .update::<GlobalVrouterConfig>(uuid, patch)
            .await?;
        let verb = if is_gone { "removed" } else { "written" };
        log::info!(service = own_name; "the link-local service for DNS is {verb}");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zone_is_that_of_services_or_above() {
        for (zone, expected) in [
            (SERVICE_ZONE, Some("web.marathon")),
            ("thisdcos.directory", Some("web.marathon.l4lb")),
            ("directory", Some("web.marathon.l4lb.thisdcos")),
            ("marathon.l4lb.thisdcos.directory", None),
            ("dcos.directory", None),
            ("example.com", None),
            ("", None),
        ] {
            let name = name_in_zone("web.marathon", zone);
            assert_eq!(name.as_deref(), expected, "{zone}");
        }
    }
}
