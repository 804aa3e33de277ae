//! The services, for `GET /v1/vips` and `GET /v1/services`.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use contrail_mesos::net::netlink::NetlinkError;
use contrail_mesos::net::nft::services::{Frontend, connections};
use contrail_mesos_api::cluster::{BackendState, SERVICE_ZONE, ServiceKey, Vip};
use schemars::JsonSchema;
use serde::Serialize;

use crate::services::ServiceStatus;
use crate::services::desired::{frontend, target};

/// A service as dcos-net shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(super) struct DcosVip {
    /// Its name or address, with its port.
    vip: String,
    /// Its protocol.
    protocol: &'static str,
    /// The backends that get new connections.
    backend: Vec<DcosBackend>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
struct DcosBackend {
    ip: IpAddr,
    port: u16,
}

/// What clients write for a service.
fn vip(key: &ServiceKey) -> String {
    let port = key.port;
    match &key.vip {
        Vip::Address(address) => SocketAddr::new(*address, port).to_string(),
        Vip::Name(name) => format!("{name}.{SERVICE_ZONE}:{port}"),
    }
}

pub(super) fn vips(status: &ServiceStatus) -> Vec<DcosVip> {
    let services = status.services.iter();
    services
        .map(|(key, service)| {
            let ready = service
                .backends
                .iter()
                .filter(|backend| backend.state == BackendState::Ready);
            let targets = ready.filter_map(|backend| target(backend, &status.addresses));
            let backend = targets.map(|target| DcosBackend {
                ip: target.ip(),
                port: target.port(),
            });
            DcosVip {
                vip: vip(key),
                protocol: key.protocol.as_str(),
                backend: backend.collect(),
            }
        })
        .collect()
}

/// A service on this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub(super) struct ServiceReport<'a> {
    service: &'a ServiceKey,
    addresses: Vec<AddressReport>,
    backends: Vec<BackendReport<'a>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
struct AddressReport {
    address: IpAddr,
    /// How many connections clients of this host opened, or tried to, since the number of backends
    /// changed last.
    #[serde(skip_serializing_if = "Option::is_none")]
    connections: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
struct BackendReport<'a> {
    task: &'a str,
    /// The address of its host.
    host: IpAddr,
    /// Where this host sends connections; absent if it does not reach the backend.
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<SocketAddr>,
    state: BackendState,
}

/// Asks the kernel for its counters: blocks.
pub(super) fn report(status: &ServiceStatus) -> Result<Vec<ServiceReport<'_>>, NetlinkError> {
    let connections = if status.is_active {
        connections()?
    } else {
        BTreeMap::new()
    };
    Ok(report_with(status, &connections))
}

fn report_with<'a>(
    status: &'a ServiceStatus,
    connections: &BTreeMap<Frontend, u64>,
) -> Vec<ServiceReport<'a>> {
    let services = status.services.iter();
    services
        .map(|(key, service)| {
            let addresses = service.addresses.iter().map(|address| AddressReport {
                address: *address,
                connections: connections.get(&frontend(key, *address)).copied(),
            });
            let backends = service.backends.iter().map(|backend| BackendReport {
                task: &backend.task,
                host: backend.host,
                target: target(backend, &status.addresses),
                state: backend.state,
            });
            ServiceReport {
                service: key,
                addresses: addresses.collect(),
                backends: backends.collect(),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use contrail_mesos_api::cluster::{Backend, Reach, Service};
    use serde_json::json;

    use super::*;

    fn status() -> ServiceStatus {
        let backend = |address: &str, host: u8, state| Backend {
            address: address.parse().unwrap(),
            local: Some("10.1.0.2:80".parse().unwrap()),
            host: [192, 0, 2, host].into(),
            reach: Reach::Cluster,
            state,
            task: format!("task-{host}"),
        };
        let service = |key: &str, address: &str, backends| {
            let key: ServiceKey = key.parse().unwrap();
            let service = Service {
                service: key.clone(),
                addresses: vec![address.parse().unwrap()],
                backends,
                affinity: None,
            };
            (key, Arc::new(service))
        };
        let backends = vec![
            backend("192.0.2.1:31000", 1, BackendState::Ready),
            backend("192.0.2.2:31000", 2, BackendState::Ready),
            backend("192.0.2.3:31000", 3, BackendState::Draining),
        ];
        ServiceStatus {
            is_active: true,
            services: [
                service("web.marathon:80/tcp", "198.18.0.5", backends),
                service("[fd00::1]:53/udp", "fd00::1", vec![]),
            ]
            .into_iter()
            .collect(),
            addresses: [[192, 0, 2, 1].into()].into(),
            ..ServiceStatus::default()
        }
    }

    #[test]
    fn vips_have_the_form_of_dcos() {
        let vips = serde_json::to_value(vips(&status())).unwrap();
        let web = "web.marathon.l4lb.thisdcos.directory:80";
        assert_eq!(
            vips,
            json!([
                {"vip": "[fd00::1]:53", "protocol": "udp", "backend": []},
                {"vip": web, "protocol": "tcp", "backend": [
                    {"ip": "10.1.0.2", "port": 80}, {"ip": "192.0.2.2", "port": 31000},
                ]},
            ])
        );
    }

    #[test]
    fn services_have_their_connections_and_all_backends() {
        let status = status();
        let key = "web.marathon:80/tcp".parse().unwrap();
        let counters = [(frontend(&key, [198, 18, 0, 5].into()), 7)].into();
        let report = serde_json::to_value(report_with(&status, &counters)).unwrap();
        assert_eq!(
            report[1],
            json!({
                "service": "web.marathon:80/tcp",
                "addresses": [{"address": "198.18.0.5", "connections": 7}],
                "backends": [
                    {"task": "task-1", "host": "192.0.2.1", "target": "10.1.0.2:80", "state": "ready"},
                    {"task": "task-2", "host": "192.0.2.2", "target": "192.0.2.2:31000", "state": "ready"},
                    {"task": "task-3", "host": "192.0.2.3", "target": "192.0.2.3:31000", "state": "draining"},
                ],
            })
        );
        assert_eq!(report[0]["addresses"], json!([{"address": "fd00::1"}]));
    }
}
