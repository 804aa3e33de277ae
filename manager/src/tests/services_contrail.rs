//! Objects of services in the simulated API server.

use std::net::{IpAddr, SocketAddr};

use tokio::sync::watch;

use super::*;
use crate::config::{LinkLocalDns, ServicesContrailOptions};
use crate::fence::fence;
use crate::lead::Readiness;
use crate::services::contrail::{
    ServiceMap, ServiceObjects, ServiceObjectsInput, ServiceObjectsStatus, spawn,
};
use crate::services::{ContrailInterface, DesiredBackend, DesiredService};
use crate::stores::listing::FullListing;
use crate::vnc::{
    FloatingIp, FloatingIpPool, InstanceIp, PortMap, Query, Ref, VirtualDns, VirtualDnsData,
    VirtualDnsRecord,
};
use contrail_mesos_api::cluster::{Backend, BackendState, Reach};
use contrail_mesos_sim::vnc::{Effect, Fault};

const NETWORK: &str = "default-domain:mesos-default:mesos-services";
const VIRTUAL_DNS: &str = "default-domain:mesos-names";

/// An API server with a network of services, and a writer of their objects.
struct ServiceFixture {
    base: Fixture,
    options: ServicesContrailOptions,
    objects: ServiceObjects,
    status: watch::Receiver<ServiceObjectsStatus>,
    services: ServiceMap,
}

impl ServiceFixture {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(change: impl FnOnce(&mut ServicesContrailOptions)) -> Self {
        let mut base = Fixture::new().await;
        network(&base.client, NETWORK, &["198.18.0.0/24"]).await;
        let mut dns = VirtualDns::named(name(VIRTUAL_DNS));
        dns.virtual_dns_data = Some(VirtualDnsData {
            domain_name: Some("l4lb.thisdcos.directory".to_owned()),
            record_order: Some("random".to_owned()),
            default_ttl_seconds: Some(60),
            ..VirtualDnsData::default()
        });
        base.client.ensure(&dns).await.unwrap();
        base.before = base.server.counts();
        base.addresses = base.server.addresses().len();
        let mut options = ServicesContrailOptions {
            network: name(NETWORK),
            floating_ip_pools: vec![],
            dns: None,
            virtual_dns: None,
        };
        change(&mut options);
        let (objects, status) = writer(&base, &options);
        Self {
            base,
            options,
            objects,
            status,
            services: ServiceMap::new(),
        }
    }

    /// Another manager takes over.
    fn change_manager(&mut self) {
        (self.objects, self.status) = writer(&self.base, &self.options);
    }

    /// Creates a container, and returns its address and the uuid of its interface.
    async fn container(&self, number: u128) -> (IpAddr, Uuid) {
        let (vm, request) = plain(number);
        let ports = self.base.containers.put("node1", vm, &request).await;
        let port = ports.unwrap().ports.remove(0);
        (port.addresses[0].address.addr(), port.uuid)
    }

    /// Sets a service; each backend is a container's number, its address and the port.
    fn service(&mut self, key: &str, address: &str, backends: &[(u128, IpAddr, u16)]) {
        let backends = backends
            .iter()
            .map(|(number, address, port)| DesiredBackend {
                backend: Backend {
                    address: SocketAddr::new(*address, *port),
                    local: None,
                    host: "10.84.22.27".parse().unwrap(),
                    reach: Reach::VirtualNetwork,
                    state: BackendState::Ready,
                    task: format!("task-{number}"),
                },
                interface: Some(ContrailInterface {
                    container: plain(*number).0.to_string(),
                    address: *address,
                }),
            });
        let service = DesiredService {
            backends: backends.collect(),
            affinity: None,
            frameworks: vec!["marathon".to_owned()],
        };
        let value = (vec![address.parse().unwrap()], service);
        self.services.insert(key.parse().unwrap(), value);
    }

    fn input(&self, is_trusted: bool) -> ServiceObjectsInput {
        ServiceObjectsInput {
            services: Arc::new(self.services.clone()),
            is_trusted,
        }
    }

    async fn apply(&mut self, is_trusted: bool) -> bool {
        let input = self.input(is_trusted);
        self.objects.apply(&input).await
    }

    #[track_caller]
    fn assert_problems(&self, subjects: &[&str]) {
        let status = self.status.borrow();
        let found = status.problems.iter().map(|problem| &problem.subject);
        assert!(found.eq(subjects.iter().copied()), "{status:?}");
        assert_eq!(status.failure, None);
    }

    fn failure(&self) -> String {
        let failure = self.status.borrow().failure.clone();
        failure.expect("something failed")
    }

    /// The floating-ip of an address of services, and what forwards for it.
    async fn floating_ip(&self, address: &str) -> Option<(FloatingIp, Vec<Uuid>)> {
        let address = address.parse().ok();
        let floating_ips = self.base.client.list::<FloatingIp>(&Query::new()).await;
        let floating_ip = floating_ips
            .unwrap()
            .into_iter()
            .find(|ip| ip.floating_ip_address.0 == address)?;
        let refs = floating_ip.virtual_machine_interface_refs.iter();
        let mut interfaces: Vec<Uuid> = refs.filter_map(|reference| reference.uuid).collect();
        interfaces.sort();
        Some((floating_ip, interfaces))
    }

    async fn records(&self) -> Vec<String> {
        let records = self
            .base
            .client
            .list::<VirtualDnsRecord>(&Query::new())
            .await;
        let mut texts: Vec<String> = records
            .unwrap()
            .into_iter()
            .filter_map(|record| record.virtual_dns_record_data)
            .map(|data| {
                format!(
                    "{} {}",
                    data.record_name.unwrap(),
                    data.record_data.unwrap()
                )
            })
            .collect();
        texts.sort();
        texts
    }
}

fn writer(
    base: &Fixture,
    options: &ServicesContrailOptions,
) -> (ServiceObjects, watch::Receiver<ServiceObjectsStatus>) {
    let client = VncClient::new(super::options(&base.server)).unwrap();
    ServiceObjects::new(
        base.containers.clone(),
        client,
        &base.config,
        options.clone(),
    )
}

fn sorted<const N: usize>(mut uuids: [Uuid; N]) -> Vec<Uuid> {
    uuids.sort();
    uuids.to_vec()
}

fn port_map(src_port: u16, dst_port: u16) -> PortMap {
    PortMap {
        protocol: "TCP".to_owned(),
        src_port,
        dst_port,
    }
}

#[tokio::test]
async fn service_is_a_floating_ip_that_follows_its_backends() {
    let mut fixture = ServiceFixture::new().await;
    let (a, vmi_a) = fixture.container(1).await;
    let (b, vmi_b) = fixture.container(2).await;
    let before = fixture.base.server.counts();
    let backends = [(1, a, 8080), (2, b, 8080)];
    fixture.service("web.marathon:80/tcp", "198.18.0.9", &backends);
    let secure = [(1, a, 8443), (2, b, 8443)];
    fixture.service("web.marathon:443/tcp", "198.18.0.9", &secure);
    assert!(fixture.apply(true).await, "{:?}", fixture.status.borrow());
    fixture.assert_problems(&[]);
    assert_eq!(fixture.status.borrow().addresses, 1);
    let (floating_ip, interfaces) = fixture.floating_ip("198.18.0.9").await.unwrap();
    assert_eq!(interfaces, sorted([vmi_a, vmi_b]));
    assert_eq!(
        floating_ip.common.parent_type.as_deref(),
        Some("instance-ip")
    );
    assert_eq!(
        floating_ip.floating_ip_traffic_direction.as_deref(),
        Some("ingress")
    );
    assert_eq!(floating_ip.floating_ip_port_mappings_enable, Some(true));
    assert_eq!(
        floating_ip.floating_ip_port_mappings.unwrap().port_mappings,
        [port_map(80, 8080), port_map(443, 8443)]
    );
    assert_eq!(
        floating_ip.project_refs[0].to.to_string(),
        "default-domain:mesos-default"
    );
    let instance_ip = floating_ip.common.parent_uuid.unwrap();
    let instance_ip: InstanceIp = fixture
        .base
        .client
        .read(instance_ip)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(instance_ip.instance_ip_address.0, "198.18.0.9".parse().ok());
    assert_eq!(instance_ip.virtual_network_refs[0].to, name(NETWORK));

    // Without a change, there is no request.
    let requests = fixture.base.server.log().len();
    assert!(fixture.apply(true).await);
    assert_eq!(fixture.base.server.log().len(), requests);

    // A backend comes, one goes, and another port takes over.
    let (c, vmi_c) = fixture.container(3).await;
    let backends = [(2, b, 9090), (3, c, 9090)];
    fixture.service("web.marathon:80/tcp", "198.18.0.9", &backends);
    fixture
        .services
        .remove(&"web.marathon:443/tcp".parse().unwrap());
    assert!(fixture.apply(true).await, "{:?}", fixture.status.borrow());
    let (floating_ip, interfaces) = fixture.floating_ip("198.18.0.9").await.unwrap();
    assert_eq!(interfaces, sorted([vmi_b, vmi_c]));
    assert_eq!(
        floating_ip.floating_ip_port_mappings.unwrap().port_mappings,
        [port_map(80, 9090)]
    );

    fixture.services.clear();
    assert!(fixture.apply(true).await);
    let (vm, _) = plain(3);
    fixture.base.containers.delete(None, vm).await.unwrap();
    assert_eq!(fixture.base.server.counts(), before);
}

#[tokio::test]
async fn address_of_a_pool_is_a_floating_ip_of_the_pool() {
    const POOL: &str = "default-domain:mesos-default:out:pool";
    let mut fixture =
        ServiceFixture::with(|options| options.floating_ip_pools = vec![name(POOL)]).await;
    let (a, vmi_a) = fixture.container(1).await;
    fixture.service("203.0.113.9:80/tcp", "203.0.113.9", &[(1, a, 8080)]);
    assert!(!fixture.apply(true).await);
    let failure = fixture.failure();
    assert!(
        failure.contains("no floating-ip-pool") && failure.contains(POOL),
        "{failure}"
    );

    let out = "default-domain:mesos-default:out";
    network(&fixture.base.client, out, &["203.0.113.0/24"]).await;
    let client = &fixture.base.client;
    client
        .ensure(&FloatingIpPool::named(name(POOL)))
        .await
        .unwrap();
    // A floating-ip of somebody else in the same pool is not touched.
    let mut other = FloatingIp::named(name(POOL).child("other"));
    other.common.parent_type = Some("floating-ip-pool".to_owned());
    other.project_refs = vec![Ref::to(name("default-domain:mesos-default"))];
    client.ensure(&other).await.unwrap();
    let before = fixture.base.server.counts();
    assert!(fixture.apply(true).await, "{:?}", fixture.status.borrow());
    fixture.assert_problems(&[]);
    let (floating_ip, interfaces) = fixture.floating_ip("203.0.113.9").await.unwrap();
    assert_eq!(interfaces, [vmi_a]);
    let common = &floating_ip.common;
    assert_eq!(common.parent_type.as_deref(), Some("floating-ip-pool"));
    assert_eq!(
        floating_ip.floating_ip_port_mappings.unwrap().port_mappings,
        [port_map(80, 8080)]
    );
    // It is none of the container's own.
    let (vm, request) = plain(1);
    let ports = fixture.base.containers.get(None, vm).await.unwrap();
    assert!(ports.ports[0].floating_ips.is_empty(), "{ports:?}");
    let again = fixture.base.containers.put("node1", vm, &request).await;
    assert_eq!(again.unwrap(), ports);

    // Another manager finds it, changes its backends, and deletes it with the service.
    fixture.change_manager();
    let (b, vmi_b) = fixture.container(2).await;
    fixture.service("203.0.113.9:80/tcp", "203.0.113.9", &[(2, b, 8080)]);
    assert!(fixture.apply(true).await, "{:?}", fixture.status.borrow());
    let (_, interfaces) = fixture.floating_ip("203.0.113.9").await.unwrap();
    assert_eq!(interfaces, [vmi_b]);
    fixture.services.clear();
    assert!(fixture.apply(true).await);
    let (vm, _) = plain(2);
    fixture.base.containers.delete(None, vm).await.unwrap();
    assert_eq!(fixture.base.server.counts(), before);
}

#[tokio::test]
async fn next_manager_finds_objects_and_removes_what_is_surplus() {
    let mut fixture = ServiceFixture::new().await;
    let (a, vmi_a) = fixture.container(1).await;
    fixture.service("web.marathon:80/tcp", "198.18.0.9", &[(1, a, 80)]);
    fixture.service("old.marathon:80/tcp", "198.18.0.10", &[(1, a, 80)]);
    assert!(fixture.apply(true).await, "{:?}", fixture.status.borrow());
    assert_eq!(fixture.base.added("floating-ip"), 2);

    fixture.change_manager();
    let (b, vmi_b) = fixture.container(2).await;
    fixture
        .services
        .remove(&"old.marathon:80/tcp".parse().unwrap());
    fixture.service("web.marathon:81/tcp", "198.18.0.9", &[(2, b, 81)]);
    fixture
        .services
        .remove(&"web.marathon:80/tcp".parse().unwrap());
    // While the sources are not trusted, it only adds.
    assert!(fixture.apply(false).await, "{:?}", fixture.status.borrow());
    let (floating_ip, interfaces) = fixture.floating_ip("198.18.0.9").await.unwrap();
    assert_eq!(interfaces, sorted([vmi_a, vmi_b]));
    assert_eq!(
        floating_ip.floating_ip_port_mappings.unwrap().port_mappings,
        [port_map(80, 80), port_map(81, 81)]
    );
    assert!(fixture.floating_ip("198.18.0.10").await.is_some());

    assert!(fixture.apply(true).await, "{:?}", fixture.status.borrow());
    let (floating_ip, interfaces) = fixture.floating_ip("198.18.0.9").await.unwrap();
    assert_eq!(interfaces, [vmi_b]);
    assert_eq!(
        floating_ip.floating_ip_port_mappings.unwrap().port_mappings,
        [port_map(81, 81)]
    );
    assert!(fixture.floating_ip("198.18.0.10").await.is_none());
    assert_eq!(fixture.base.added("floating-ip"), 1);
}

#[tokio::test]
async fn containers_and_services_do_not_disturb_each_other() {
    let mut fixture = ServiceFixture::new().await;
    let (a, vmi_a) = fixture.container(1).await;
    fixture.service("web.marathon:80/tcp", "198.18.0.9", &[(1, a, 80)]);
    assert!(fixture.apply(true).await, "{:?}", fixture.status.borrow());

    // The address of a service is none of the container's, and no orphan.
    let (vm, request) = plain(1);
    let ports = fixture.base.containers.get(None, vm).await.unwrap();
    assert!(ports.ports[0].floating_ips.is_empty(), "{ports:?}");
    let again = fixture.base.containers.put("node1", vm, &request).await;
    assert_eq!(again.unwrap(), ports);
    let mut listing = FullListing::new(&fixture.base.config.defaults, 100);
    listing.resume(&fixture.base.client).await.unwrap();
    #[expect(
        clippy::default_trait_access,
        reason = "the type is private to the stores"
    )]
    let view = listing.finish(&Default::default(), tokio::time::Instant::now());
    assert!(view.orphans.is_empty(), "{:?}", view.orphans);
    assert_eq!(fixture.floating_ip("198.18.0.9").await.unwrap().1, [vmi_a]);

    // The end of a container does not wait for its services.
    fixture.base.containers.delete(None, vm).await.unwrap();
    assert!(
        fixture
            .floating_ip("198.18.0.9")
            .await
            .unwrap()
            .1
            .is_empty()
    );
    fixture.change_manager();
    assert!(!fixture.apply(true).await);
    fixture.assert_problems(&["address 198.18.0.9"]);
    // It is repeated, but not everything is read again.
    let reads = |fixture: &ServiceFixture| {
        let log = fixture.base.server.log();
        log.iter()
            .filter(|entry| entry.path.starts_with("/floating-ips?"))
            .count()
    };
    let before = reads(&fixture);
    assert!(before > 0 && !fixture.apply(true).await);
    assert_eq!(reads(&fixture), before);
    fixture.services.clear();
    assert!(fixture.apply(true).await, "{:?}", fixture.status.borrow());
    fixture
        .base
        .assert_clean("services and containers are gone");
}

#[tokio::test]
async fn objects_of_others_are_not_touched() {
    let mut fixture = ServiceFixture::new().await;
    let (a, vmi_a) = fixture.container(1).await;
    let client = fixture.base.client.clone();
    // An instance-ip with the address, one with our name, and a floating-ip of another program.
    let mut taken = InstanceIp::named(FqName::new(["theirs"]));
    taken.instance_ip_address = "198.18.0.9".parse::<IpAddr>().unwrap().into();
    taken.virtual_network_refs = vec![Ref::to(name(NETWORK))];
    let taken = client.create(&taken).await.unwrap();
    let mut named = InstanceIp::named(FqName::new(["mesos-service-198.18.0.10"]));
    named.virtual_network_refs = vec![Ref::to(name(NETWORK))];
    let named = client.create(&named).await.unwrap();
    fixture.service("a.marathon:80/tcp", "198.18.0.9", &[(1, a, 80)]);
    fixture.service("b.marathon:80/tcp", "198.18.0.10", &[(1, a, 80)]);
    fixture.service("c.marathon:80/tcp", "198.18.0.11", &[(1, a, 80)]);
    assert!(!fixture.apply(true).await);
    let failure = fixture.failure();
    assert!(failure.contains("address 198.18.0.9"), "{failure}");
    assert!(
        failure.contains("mesos-service-198.18.0.10 was not created"),
        "{failure}"
    );
    // What is refused is requested again, and nothing else: no task makes the manager read everything.
    let reads = |fixture: &ServiceFixture| {
        let log = fixture.base.server.log();
        log.iter()
            .filter(|entry| entry.path.starts_with("/floating-ips?"))
            .count()
    };
    let before = reads(&fixture);
    assert!(!fixture.apply(true).await);
    assert_eq!(reads(&fixture), before);
    // The others do not wait for these.
    assert_eq!(fixture.floating_ip("198.18.0.11").await.unwrap().1, [vmi_a]);
    fixture.services.clear();
    assert!(fixture.apply(true).await, "{:?}", fixture.status.borrow());
    for theirs in [taken, named] {
        assert!(client.read::<InstanceIp>(theirs).await.unwrap().is_some());
    }
    client.delete::<InstanceIp>(taken).await.unwrap();
    client.delete::<InstanceIp>(named).await.unwrap();
    // With the address free, the service gets it.
    fixture.service("a.marathon:80/tcp", "198.18.0.9", &[(1, a, 80)]);
    assert!(fixture.apply(true).await, "{:?}", fixture.status.borrow());
}

#[tokio::test]
async fn failed_call_is_made_up_for() {
    let mut fixture = ServiceFixture::new().await;
    let (a, vmi_a) = fixture.container(1).await;
    let (b, vmi_b) = fixture.container(2).await;
    fixture.service("web.marathon:80/tcp", "198.18.0.9", &[(1, a, 80)]);
    // At each kind of write, one after the other.
    for path in ["/instance-ips", "/floating-ips"] {
        let refused = Effect::Status(403, "Permission Denied".to_owned());
        fixture
            .base
            .server
            .fault(Fault::new(refused).on("POST", path));
        assert!(!fixture.apply(true).await);
        assert!(!fixture.failure().is_empty());
        fixture.base.server.clear_faults();
    }
    assert!(fixture.apply(true).await, "{:?}", fixture.status.borrow());
    fixture.service("web.marathon:80/tcp", "198.18.0.9", &[(2, b, 81)]);
    let refused = Effect::Status(403, "Permission Denied".to_owned());
    let fault = Fault::new(refused).on("POST", "/ref-update");
    fixture.base.server.fault(fault);
    assert!(!fixture.apply(true).await);
    assert_eq!(fixture.floating_ip("198.18.0.9").await.unwrap().1, [vmi_a]);
    fixture.base.server.clear_faults();
    assert!(fixture.apply(true).await, "{:?}", fixture.status.borrow());
    let (floating_ip, interfaces) = fixture.floating_ip("198.18.0.9").await.unwrap();
    assert_eq!(interfaces, [vmi_b]);
    assert_eq!(
        floating_ip.floating_ip_port_mappings.unwrap().port_mappings,
        [port_map(80, 81)]
    );
}

#[tokio::test]
async fn missing_network_is_a_failure_that_names_it() {
    let mut fixture = ServiceFixture::with(|options| {
        options.network = name("default-domain:mesos-default:none");
    })
    .await;
    assert!(!fixture.apply(true).await);
    assert!(
        fixture
            .failure()
            .contains("default-domain:mesos-default:none")
    );
    fixture.base.assert_clean("nothing is written");
}

#[tokio::test]
async fn names_follow_addresses_that_forward() {
    let mut fixture =
        ServiceFixture::with(|options| options.virtual_dns = Some(name(VIRTUAL_DNS))).await;
    let (a, _) = fixture.container(1).await;
    fixture.service("web.marathon:80/tcp", "198.18.0.9", &[(1, a, 80)]);
    fixture.service("web.marathon:81/tcp", "198.18.0.9", &[(1, a, 81)]);
    fixture.service("198.18.0.30:80/tcp", "198.18.0.30", &[(1, a, 80)]);
    // Its container does not exist.
    fixture.service("new.marathon:80/tcp", "198.18.0.10", &[(7, a, 80)]);
    assert!(!fixture.apply(true).await);
    assert_eq!(fixture.records().await, ["web.marathon 198.18.0.9"]);
    fixture
        .services
        .remove(&"new.marathon:80/tcp".parse().unwrap());
    // A record of somebody else stays.
    let mut theirs = VirtualDnsRecord::named(name(VIRTUAL_DNS).child("theirs"));
    theirs.virtual_dns_record_data = Some(crate::vnc::DnsRecordData {
        record_name: Some("theirs".to_owned()),
        record_type: Some("A".to_owned()),
        record_class: Some("IN".to_owned()),
        record_data: Some("10.0.0.1".to_owned()),
        record_ttl_seconds: Some(60),
    });
    fixture.base.client.create(&theirs).await.unwrap();
    // Another address.
    fixture.change_manager();
    fixture.service("web.marathon:80/tcp", "198.18.0.12", &[(1, a, 80)]);
    fixture
        .services
        .remove(&"web.marathon:81/tcp".parse().unwrap());
    assert!(fixture.apply(true).await, "{:?}", fixture.status.borrow());
    assert_eq!(
        fixture.records().await,
        ["theirs 10.0.0.1", "web.marathon 198.18.0.12"]
    );
    fixture.services.clear();
    assert!(fixture.apply(false).await);
    assert_eq!(fixture.records().await.len(), 2);
    assert!(fixture.apply(true).await);
    assert_eq!(fixture.records().await, ["theirs 10.0.0.1"]);
}

#[tokio::test]
async fn link_local_service_is_one_entry_among_others() {
    let servers = ["10.84.22.27", "10.84.22.28"].map(|text| text.parse().unwrap());
    let mut fixture = ServiceFixture::with(|options| {
        options.dns = Some(LinkLocalDns {
            address: "169.254.169.53".parse().unwrap(),
            servers: servers.to_vec(),
        });
    })
    .await;
    let entries = |server: &Handle| {
        let config = server.objects("global-vrouter-config").remove(0);
        let entries = config["linklocal_services"]["linklocal_service_entry"].clone();
        entries.as_array().cloned().unwrap_or_default()
    };
    let metadata = json!({
        "linklocal_service_name": "metadata", "linklocal_service_ip": "169.254.169.254",
        "linklocal_service_port": 80, "ip_fabric_DNS_service_name": "metadata.example",
        "ip_fabric_service_port": 8775, "ip_fabric_service_ip": ["10.0.0.1"],
    });
    let set = async |entries: Vec<Value>| {
        let config = fixture
            .base
            .server
            .objects("global-vrouter-config")
            .remove(0);
        let uuid: Uuid = config["uuid"].as_str().unwrap().parse().unwrap();
        let patch = crate::vnc::Patch::new().set(
            "linklocal_services",
            json!({ "linklocal_service_entry": entries }),
        );
        let client = &fixture.base.client;
        let updated = client.update::<crate::vnc::GlobalVrouterConfig>(uuid, patch);
        updated.await.unwrap();
    };
    set(vec![metadata.clone()]).await;
    let server = fixture.base.server.clone();
    assert!(fixture.apply(true).await, "{:?}", fixture.status.borrow());
    let after = entries(&server);
    assert_eq!(after.len(), 2, "{after:?}");
    assert_eq!(after[0], metadata);
    assert_eq!(
        after[1]["linklocal_service_name"],
        "contrail-mesos-dns-mesos"
    );
    assert_eq!(after[1]["linklocal_service_ip"], "169.254.169.53");
    assert_eq!(after[1]["linklocal_service_port"], 53);
    assert_eq!(after[1]["ip_fabric_service_port"], 53);
    assert_eq!(
        after[1]["ip_fabric_service_ip"],
        json!(["10.84.22.27", "10.84.22.28"])
    );
    // Nothing is written that is there already.
    let writes = |server: &Handle| {
        let log = server.log();
        log.iter().filter(|request| request.method == "PUT").count()
    };
    let before = writes(&server);
    fixture.change_manager();
    assert!(fixture.apply(true).await);
    assert_eq!(writes(&server), before);
    // Without the option, only our own entry goes.
    fixture.options.dns = None;
    fixture.change_manager();
    assert!(fixture.apply(true).await);
    assert_eq!(entries(&server), [metadata]);
}

#[tokio::test]
async fn writer_follows_its_input_once_the_manager_is_ready() {
    let mut fixture = ServiceFixture::new().await;
    let (a, vmi) = fixture.container(1).await;
    fixture.service("web.marathon:80/tcp", "198.18.0.9", &[(1, a, 80)]);
    let (readiness, ready) = watch::channel(Readiness::none());
    let (input, receiver) = watch::channel(fixture.input(true));
    let contrail = Contrail {
        client: fixture.base.client.clone(),
        containers: fixture.base.containers.clone(),
        reconciler: None,
    };
    let mut background = tokio::task::JoinSet::new();
    let requests = fixture.base.server.log().len();
    let mut status = spawn(
        &contrail,
        &fixture.base.config,
        fixture.options.clone(),
        receiver,
        ready,
        &mut background,
    );
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(fixture.base.server.log().len(), requests);
    readiness.send_modify(|ready| ready.unready = None);
    let is_written = |status: &ServiceObjectsStatus| status.addresses == 1;
    status.wait_for(is_written).await.unwrap();
    assert_eq!(fixture.floating_ip("198.18.0.9").await.unwrap().1, [vmi]);
    // One that is not complete does not hold up others.
    fixture.service("new.marathon:80/tcp", "198.18.0.10", &[(7, a, 80)]);
    input.send_replace(fixture.input(true));
    let has_problems = |status: &ServiceObjectsStatus| !status.problems.is_empty();
    status.wait_for(has_problems).await.unwrap();
    fixture.service("more.marathon:80/tcp", "198.18.0.11", &[(1, a, 80)]);
    input.send_replace(fixture.input(true));
    let is_written = |status: &ServiceObjectsStatus| status.addresses == 2;
    status.wait_for(is_written).await.unwrap();
    fixture.services.clear();
    input.send_replace(fixture.input(true));
    let is_empty =
        |status: &ServiceObjectsStatus| status.addresses == 0 && status.failure.is_none();
    status.wait_for(is_empty).await.unwrap();
    assert_eq!(
        fixture.base.added("instance-ip"),
        1,
        "that of the container"
    );
    drop(input);
    background.join_next().await.unwrap().unwrap();
}

#[tokio::test]
async fn manager_that_does_not_lead_writes_nothing() {
    let mut fixture = ServiceFixture::new().await;
    let (a, _) = fixture.container(1).await;
    fixture.service("web.marathon:80/tcp", "198.18.0.9", &[(1, a, 80)]);
    let (control, fence) = fence("another one leads");
    let config = &fixture.base.config;
    let client = fixture.base.client.clone();
    let containers = Containers::fenced(client.clone(), config, fence);
    let (objects, status) =
        ServiceObjects::new(containers, client, config, fixture.options.clone());
    (fixture.objects, fixture.status) = (objects, status);
    let requests = fixture.base.server.log().len();
    assert!(!fixture.apply(true).await);
    assert!(fixture.failure().contains("another one leads"));
    assert_eq!(fixture.base.server.log().len(), requests);
    control.lead(1, None);
    assert!(fixture.apply(true).await, "{:?}", fixture.status.borrow());
    assert_eq!(fixture.base.added("floating-ip"), 1);
}
