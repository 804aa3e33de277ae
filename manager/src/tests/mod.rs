//! The manager with the simulated API server, and without any.

mod addresses;
mod attacks;
mod bursts;
mod cluster;
mod containers;
mod faults;
mod hostile;
mod http;
mod legacy;
mod overlay_master;
mod ownership;
mod provision;
mod reconcile;
mod resolver;
mod services_contrail;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;

use super::*;
use crate::vnc::{
    Domain, FloatingIpPool, FqName, IpamSubnet, IpamSubnets, NetworkIpam, NetworkIpamSubnets,
    Object, Prefix, Project, Ref, SecurityGroup, VirtualNetwork, VirtualNetworkProperties,
    VirtualRouter, VncClient, VncOptions, server_address,
};
use contrail_mesos_api::agent_api::{self, PortRequest, PortsRequest};
use contrail_mesos_api::container::ContainerId;
use contrail_mesos_api::http::Limits;
use contrail_mesos_sim::vnc::{Handle, Options, Server};

/// An API server with networks and hosts, and a writer of containers.
struct Fixture {
    server: Handle,
    client: VncClient,
    config: Config,
    containers: Arc<Containers>,
    /// The number of objects of each type before any container.
    before: BTreeMap<String, usize>,
    addresses: usize,
}

fn name(text: &str) -> FqName {
    text.parse().unwrap()
}

fn options(server: &Handle) -> VncOptions {
    VncOptions {
        limits: Limits {
            request_timeout: Duration::from_secs(20),
            ..Limits::default()
        },
        call_timeout: Duration::from_secs(30),
        ..VncOptions::new(vec![server_address(&server.url()).unwrap()])
    }
}

async fn network(client: &VncClient, network: &str, subnets: &[&str]) {
    let network = name(network);
    let ipam = NetworkIpam::named(
        network
            .parent()
            .unwrap()
            .child(format!("{}-ipam", network.name())),
    );
    client.ensure(&ipam).await.unwrap();
    let subnets = subnets.iter().map(|subnet| IpamSubnet {
        subnet: Some(Prefix::of(subnet.parse().unwrap())),
        ..IpamSubnet::default()
    });
    let mut object = VirtualNetwork::named(network);
    object.network_ipam_refs = vec![Ref::with(
        ipam.common.fq_name,
        NetworkIpamSubnets {
            ipam_subnets: subnets.collect(),
        },
    )];
    client.ensure(&object).await.unwrap();
}

async fn flat(client: &VncClient, network: &str, subnets: &[&str]) {
    let network = name(network);
    let mut ipam = NetworkIpam::named(
        network
            .parent()
            .unwrap()
            .child(format!("{}-ipam", network.name())),
    );
    ipam.ipam_subnet_method = Some("flat-subnet".to_owned());
    let subnets = subnets.iter().map(|subnet| IpamSubnet {
        subnet: Some(Prefix::of(subnet.parse().unwrap())),
        ..IpamSubnet::default()
    });
    ipam.ipam_subnets = Some(IpamSubnets {
        subnets: subnets.collect(),
    });
    client.ensure(&ipam).await.unwrap();
    let mut object = VirtualNetwork::named(network);
    object.address_allocation_mode = Some("flat-subnet-only".to_owned());
    object.virtual_network_properties = Some(VirtualNetworkProperties {
        forwarding_mode: Some("l3".to_owned()),
        ..VirtualNetworkProperties::default()
    });
    object.network_ipam_refs = vec![Ref::with(
        ipam.common.fq_name,
        NetworkIpamSubnets::default(),
    )];
    client.ensure(&object).await.unwrap();
}

impl Fixture {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let (_, server) = Server::start(Options::default()).await.unwrap();
        let mut config = Config::new(options(&server));
        config.listen.set_port(0);
        config.admin_listen = None;
        change(&mut config);
        let client = VncClient::new(options(&server)).unwrap();
        for project in ["default-domain:mesos-default", "tenants:shop"] {
            let project = Project::named(name(project));
            let domain = Domain::named(project.common.fq_name.parent().unwrap());
            client.ensure(&domain).await.unwrap();
            client.ensure(&project).await.unwrap();
        }
        let default = "default-domain:mesos-default:mesos-default-pod-task-network";
        flat(&client, default, &["10.32.0.0/16"]).await;
        network(
            &client,
            "default-domain:mesos-default:blue",
            &["5.5.5.0/24", "5.5.6.0/29", "fd00:5::/64"],
        )
        .await;
        network(
            &client,
            "default-domain:default-project:blue-network",
            &["5.6.0.0/16"],
        )
        .await;
        network(&client, "tenants:shop:red", &["6.6.6.0/24"]).await;
        network(
            &client,
            "default-domain:default-project:__public__",
            &["10.66.77.0/24", "10.33.44.0/24"],
        )
        .await;
        for pool in ["__fip_pool_public__", "__fip_pool_public2__"] {
            let pool = name("default-domain:default-project:__public__").child(pool);
            client.ensure(&FloatingIpPool::named(pool)).await.unwrap();
        }
        for group in [
            "default-domain:default-project:security_groups_mesos",
            "default-domain:mesos-default:web",
        ] {
            client
                .ensure(&SecurityGroup::named(name(group)))
                .await
                .unwrap();
        }
        for (node, address) in [("node1", "10.84.22.27"), ("node2", "10.84.22.28")] {
            let mut router =
                VirtualRouter::named(FqName::new(["default-global-system-config", node]));
            router.virtual_router_ip_address = address.parse::<std::net::IpAddr>().unwrap().into();
            client.ensure(&router).await.unwrap();
        }
        let containers = Containers::new(client.clone(), &config);
        Self {
            before: server.counts(),
            addresses: server.addresses().len(),
            server,
            client,
            config,
            containers,
        }
    }

    /// Another manager, with empty caches.
    fn other_manager(&self) -> Arc<Containers> {
        Containers::new(VncClient::new(options(&self.server)).unwrap(), &self.config)
    }

    /// A manager whose calls time out soon: on a busy machine also calls that no fault delays.
    fn with_short_timeout(&self) -> Arc<Containers> {
        self.with_call_timeout(Duration::from_millis(40))
    }

    /// A manager whose calls time out after `call_timeout`.
    fn with_call_timeout(&self, call_timeout: Duration) -> Arc<Containers> {
        let options = VncOptions {
            call_timeout,
            ..options(&self.server)
        };
        Containers::new(VncClient::new(options).unwrap(), &self.config)
    }

    #[track_caller]
    fn assert_clean(&self, what: &str) {
        assert_eq!(self.server.counts(), self.before, "{what}");
        assert_eq!(self.server.addresses().len(), self.addresses, "{what}");
        for router in self.server.objects("virtual-router") {
            assert!(refs(&router, "virtual_machine_refs").is_empty(), "{what}");
        }
    }

    /// The number of objects of a type that were added since the start.
    fn added(&self, kind: &str) -> usize {
        let count = |counts: &BTreeMap<String, usize>| counts.get(kind).copied().unwrap_or(0);
        count(&self.server.counts()) - count(&self.before)
    }
}

fn refs(object: &Value, field: &str) -> Vec<String> {
    let refs = object[field].as_array().into_iter().flatten();
    refs.map(|reference| reference["uuid"].as_str().unwrap().to_owned())
        .collect()
}

fn labels(labels: &[(&str, &str)]) -> BTreeMap<String, String> {
    let labels = labels.iter();
    labels
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

fn port(interface: &str, pairs: &[(&str, &str)]) -> PortRequest {
    PortRequest {
        interface: interface.to_owned(),
        network: "contrail-cni-plugin".to_owned(),
        virtual_network: None,
        labels: labels(pairs),
        addresses: vec![],
    }
}

/// A request for a container with these ports, and the uuid of its virtual-machine.
fn request(number: u128, ports: Vec<PortRequest>) -> (Uuid, PortsRequest) {
    let vm = Uuid::from_u128(0x660a_305f_10e4_47fd_a5fc_0000_0000_0000 + number);
    let container = ContainerId::top_level(&vm.to_string());
    assert_eq!(agent_api::vm_uuid(&container), vm);
    let request = PortsRequest {
        container,
        virtual_router_address: None,
        annotations: BTreeMap::new(),
        ports,
    };
    (vm, request)
}

/// A request for one port on the default network.
fn plain(number: u128) -> (Uuid, PortsRequest) {
    request(number, vec![port("eth0", &[])])
}

/// A request for two ports with every kind of object.
fn rich(number: u128) -> (Uuid, PortsRequest) {
    request(
        number,
        vec![
            port(
                "eth0",
                &[
                    ("networks", "blue"),
                    ("security-groups", "web"),
                    (
                        "floating-ips",
                        "default-domain:default-project:__public__:__fip_pool_public__",
                    ),
                ],
            ),
            port("eth1", &[("networks", "tenants:shop:red")]),
        ],
    )
}
