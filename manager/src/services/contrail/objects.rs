//! The objects of an address of services in the VNC API. Pure.
//!
//! Names and uuids derive from the cluster, the network and the address, so any manager finds what
//! another one left. Their owner is not that of the objects of containers: these need an interface,
//! and the reconciler deletes those without one.

use std::net::IpAddr;

use uuid::Uuid;

use super::plan::Ports;
use crate::config::LinkLocalDns;
use crate::model::{SERVICES_OWNER, annotation};
use crate::vnc::{
    Address, DnsRecordData, FloatingIp, FloatingIpPool, FqName, InstanceIp, KeyValues,
    LinklocalService, Object as _, PortMappings, Ref, VirtualDnsRecord,
};

/// The key of the annotation with the names of services.
const SERVICES: &str = "services";
/// The limit of that annotation: it is for operators only.
const MAX_SERVICES_BYTES: usize = 256;
/// Hashes the names of objects to their uuids.
const NAMESPACE: Uuid = Uuid::from_u128(0x6bd0_7a4e_91f3_4f0d_8c35_5f6f_54c3_a1d2);
/// Addresses of services rarely change, and clients should notice when they do.
const RECORD_TTL_SECONDS: i64 = 30;
/// The port of DNS.
const DNS_PORT: i64 = 53;

/// What the names of all objects have in common.
#[derive(Clone, Debug)]
pub(super) struct Naming {
    pub cluster: String,
    /// The network of the services' addresses.
    pub network: FqName,
}

impl Naming {
    /// The annotations of an object for these services.
    fn annotations(&self, services: &str) -> KeyValues {
        [
            (annotation::OWNER, SERVICES_OWNER),
            (annotation::CLUSTER, &self.cluster),
            (SERVICES, services),
        ]
        .into_iter()
        .collect()
    }

    /// Whether an object was created by this cluster's manager for services.
    pub(super) fn is_ours(&self, annotations: &KeyValues) -> bool {
        annotations.get(annotation::OWNER) == Some(SERVICES_OWNER)
            && annotations.get(annotation::CLUSTER) == Some(&self.cluster)
    }

    fn uuid(&self, kind: &str, of: &str) -> Uuid {
        let text = serde_json::json!([kind, self.cluster, self.network, of]);
        Uuid::new_v5(&NAMESPACE, text.to_string().as_bytes())
    }

    /// The uuid of the instance-ip with this address.
    pub(super) fn instance_ip_uuid(&self, address: IpAddr) -> Uuid {
        self.uuid(InstanceIp::TYPE, &address.to_string())
    }

    /// The uuid of the floating-ip with this address.
    pub(super) fn floating_ip_uuid(&self, address: IpAddr) -> Uuid {
        self.uuid(FloatingIp::TYPE, &address.to_string())
    }

    fn instance_ip_name(&self, address: IpAddr) -> FqName {
        // Names of instance-ips are unique in all of Contrail, and have no colons.
        let address = address.to_string().replace(':', "_");
        let cluster = self.cluster.replace(':', "_");
        FqName::new([format!("{cluster}-service-{address}")])
    }

    /// The instance-ip that takes the address in the network.
    pub(super) fn instance_ip(&self, address: IpAddr) -> InstanceIp {
        let mut object = InstanceIp::named(self.instance_ip_name(address));
        object.common.uuid = Some(self.instance_ip_uuid(address));
        object.common.annotations = self.annotations(&address.to_string());
        object.instance_ip_address = Address(Some(address));
        object.instance_ip_family = Some(if address.is_ipv4() { "v4" } else { "v6" }.to_owned());
        object.virtual_network_refs = vec![Ref::to(self.network.clone())];
        object
    }

    /// The floating-ip that forwards to these interfaces: in that pool, or below the instance-ip of the
    /// address.
    pub(super) fn floating_ip(
        &self,
        address: IpAddr,
        pool: Option<&FqName>,
        services: &str,
        ports: &Ports,
        interfaces: impl Iterator<Item = FqName>,
    ) -> FloatingIp {
        let own = self.instance_ip_name(address);
        let (parent, parent_type, network) = match pool {
            Some(pool) => (pool, FloatingIpPool::TYPE, pool.parent()),
            None => (&own, InstanceIp::TYPE, Some(self.network.clone())),
        };
        let mut object = FloatingIp::named(parent.child(own.name()));
        object.common.parent_type = Some(parent_type.to_owned());
        object.common.uuid = Some(self.floating_ip_uuid(address));
        object.common.annotations = self.annotations(services);
        object.floating_ip_address = Address(Some(address));
        // The connections that a backend itself opens keep its own address.
        object.floating_ip_traffic_direction = Some("ingress".to_owned());
        object.floating_ip_port_mappings_enable = Some(true);
        object.floating_ip_port_mappings = Some(PortMappings {
            port_mappings: ports.port_maps(),
        });
        let project = network.and_then(|network| network.parent());
        object.project_refs = project.map(Ref::to).into_iter().collect();
        object.virtual_machine_interface_refs = interfaces.map(Ref::to).collect();
        object
    }

    /// The record of a name in this virtual DNS server.
    pub(super) fn record(&self, dns: &FqName, name: &str, address: IpAddr) -> VirtualDnsRecord {
        let mut object = VirtualDnsRecord::named(dns.child(format!("{}-{name}", self.cluster)));
        object.common.uuid = Some(self.uuid(VirtualDnsRecord::TYPE, &format!("{dns} {name}")));
        object.common.annotations = self.annotations(name);
        object.virtual_dns_record_data = Some(DnsRecordData {
            record_name: Some(name.to_owned()),
            record_type: Some("A".to_owned()),
            record_class: Some("IN".to_owned()),
            record_data: Some(address.to_string()),
            record_ttl_seconds: Some(RECORD_TTL_SECONDS),
        });
        object
    }

    /// The name of the link-local service.
    pub(super) fn link_local_name(&self) -> String {
        // The vRouter agent compares names in lower case.
        format!("contrail-mesos-dns-{}", self.cluster.to_lowercase())
    }

    /// The link-local service for the DNS of the nodes.
    pub(super) fn link_local_service(&self, dns: &LinkLocalDns) -> LinklocalService {
        LinklocalService {
            linklocal_service_name: Some(self.link_local_name()),
            linklocal_service_ip: Some(dns.address.to_string()),
            linklocal_service_port: Some(DNS_PORT),
            ip_fabric_dns_service_name: None,
            ip_fabric_service_port: Some(DNS_PORT),
            ip_fabric_service_ip: dns.servers.iter().map(ToString::to_string).collect(),
        }
    }
}

/// Names of services for an annotation.
pub(super) fn services_text<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let mut text = String::new();
    for name in names {
        let separator = if text.is_empty() { "" } else { " " };
        if text.len() + separator.len() + name.len() > MAX_SERVICES_BYTES {
            text.push('…');
            break;
        }
        text.push_str(separator);
        text.push_str(name);
    }
    text
}

/// The services of an annotation.
pub(super) fn services_of(annotations: &KeyValues) -> &str {
    annotations.get(SERVICES).unwrap_or_default()
}
