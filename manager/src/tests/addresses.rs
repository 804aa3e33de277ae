//! Addresses that the API server does not have, or has only in words that must be understood: subnets
//! that are used up, reserved addresses, subnets without room, quotas.

use std::net::IpAddr;

use super::*;
use crate::vnc::{Auth, InstanceIp, Patch, VirtualMachineInterface};
use contrail_mesos_api::agent_api::PortAddressRequest;
use contrail_mesos_sim::vnc::{Auth as SimAuth, Effect, Fault};

const SMALL: &str = "default-domain:mesos-default:small";

impl Fixture {
    /// Creates a container on a network, with these subnets in its label, and returns its addresses.
    async fn put_on(
        &self,
        number: u128,
        network: &str,
        subnets: &str,
    ) -> Result<String, ManagerError> {
        let port = port(
            "eth0",
            &[("networks", network), ("network-subnets", subnets)],
        );
        self.put_port(number, port).await
    }

    async fn put_port(&self, number: u128, port: PortRequest) -> Result<String, ManagerError> {
        let (vm, request) = request(number, vec![port]);
        let made = self.containers.put("node1", vm, &request).await?;
        let addresses = made.ports[0].addresses.iter();
        let addresses: Vec<String> = addresses.map(|at| at.address.to_string()).collect();
        Ok(addresses.join(" "))
    }

    async fn delete_number(&self, number: u128) {
        let (vm, _) = plain(number);
        self.containers.delete(Some("node1"), vm).await.unwrap();
    }

    /// Creates containers until the subnet has no free address, and returns how many.
    async fn use_up(&self, first: u128, network: &str, subnet: &str) -> u128 {
        let mut number = first;
        loop {
            match self.put_on(number, network, subnet).await {
                Ok(address) => assert!(!address.is_empty()),
                Err(error) => {
                    assert_eq!(error.status(), 409, "{error}");
                    assert!(error.to_string().contains("no free address"), "{error}");
                    return number - first;
                }
            }
            number += 1;
        }
    }

    /// What a refused request leaves as it was.
    fn state(&self) -> (BTreeMap<String, usize>, usize) {
        (self.server.counts(), self.server.addresses().len())
    }
}

#[track_caller]
fn assert_refused<T: std::fmt::Debug>(result: Result<T, ManagerError>, status: u16, say: &str) {
    let error = result.unwrap_err();
    assert_eq!(error.status(), status, "{error}");
    assert!(error.to_string().contains(say), "{error}");
}

#[tokio::test]
async fn own_subnet_used_up_falls_back_to_the_next_selected_one() {
    let fixture = Fixture::new().await;
    network(&fixture.client, SMALL, &["8.8.1.0/29", "8.8.2.0/24"]).await;
    assert_eq!(fixture.use_up(1, SMALL, "8.8.1.0/29").await, 4);
    let both = fixture.put_on(10, SMALL, "8.8.1.0/29,8.8.2.0/24").await;
    assert_eq!(both.unwrap(), "8.8.2.252/24");
    let reversed = fixture.put_on(11, SMALL, "8.8.2.0/24,8.8.1.0/29").await;
    assert_eq!(reversed.unwrap(), "8.8.2.251/24");
    // Another address of the same container.
    let mut two = port(
        "eth0",
        &[("networks", SMALL), ("network-subnets", "8.8.1.0/29")],
    );
    fixture.delete_number(1).await;
    two.addresses = vec![PortAddressRequest::V4, PortAddressRequest::V4];
    let before = fixture.state();
    assert_refused(
        fixture.put_port(12, two).await,
        409,
        "no free address in 8.8.1.0/29",
    );
    assert_eq!(fixture.state(), before);
}

#[tokio::test]
async fn own_subnet_used_up_is_refused_and_leaves_nothing() {
    let fixture = Fixture::new().await;
    network(&fixture.client, SMALL, &["8.9.1.0/29", "fd00:9::/125"]).await;
    for (subnet, first) in [("8.9.1.0/29", 1), ("fd00:9::/125", 100)] {
        assert_eq!(fixture.use_up(first, SMALL, subnet).await, 4);
        let before = fixture.state();
        let (vm, _) = plain(first + 50);
        for _ in 0..2 {
            let refused = fixture.put_on(first + 50, SMALL, subnet).await;
            assert_refused(refused, 409, subnet);
            assert_eq!(fixture.state(), before);
        }
        assert_refused(fixture.containers.get(None, vm).await, 404, "no container");
        assert_eq!(fixture.containers.unfinished(), 0);
        fixture.delete_number(first).await;
        fixture.put_on(first + 50, SMALL, subnet).await.unwrap();
    }
}

#[tokio::test]
async fn instance_ip_without_address_is_replaced() {
    let fixture = Fixture::new().await;
    network(&fixture.client, SMALL, &["8.9.1.0/29"]).await;
    let used = fixture.use_up(1, SMALL, "8.9.1.0/29").await;
    // The manager dies before it deletes the instance-ip that it was given without an address.
    let fault = Fault::new(Effect::Cut);
    fixture.server.fault(Fault {
        method: Some("DELETE".to_owned()),
        ..fault
    });
    let (vm, request) = request(
        50,
        vec![port(
            "eth0",
            &[("networks", SMALL), ("network-subnets", "8.9.1.0/29")],
        )],
    );
    let dying = fixture.with_call_timeout(Duration::from_millis(500));
    dying.put("node1", vm, &request).await.unwrap_err();
    fixture.server.clear_faults();
    let without_address = |server: &Handle| {
        let all = server.objects("instance-ip");
        all.iter()
            .filter(|ip| ip.get("instance_ip_address").is_none())
            .count()
    };
    assert_eq!(without_address(&fixture.server), 1);
    // Still used up: the object goes, and with it the container.
    let refused = fixture.containers.put("node1", vm, &request).await;
    assert_refused(refused, 409, "no free address in 8.9.1.0/29");
    assert_eq!(without_address(&fixture.server), 0);
    assert_eq!(
        fixture.added("virtual-machine"),
        usize::try_from(used).unwrap()
    );

    // Left again, and an address is free by the next request.
    fixture.server.fault(Fault {
        method: Some("DELETE".to_owned()),
        ..Fault::new(Effect::Cut)
    });
    dying.put("node1", vm, &request).await.unwrap_err();
    fixture.server.clear_faults();
    assert_eq!(without_address(&fixture.server), 1);
    fixture.delete_number(1).await;
    let made = fixture.containers.put("node1", vm, &request).await.unwrap();
    assert_eq!(made.ports[0].addresses.len(), 1);
    assert_eq!(without_address(&fixture.server), 0);
}

#[tokio::test]
async fn flat_subnets_are_all_tried() {
    let fixture = Fixture::new().await;
    flat(
        &fixture.client,
        SMALL,
        &["13.1.0.0/29", "13.2.0.0/24", "fd00:13::/64"],
    )
    .await;
    let both = "13.1.0.0/29,13.2.0.0/24";
    let mut given = vec![];
    for number in 1..=5 {
        given.push(fixture.put_on(number, SMALL, both).await.unwrap());
    }
    let small = given.iter().filter(|at| at.ends_with("/29")).count();
    assert_eq!(
        (small, given[4].as_str()),
        (4, "13.2.0.252/24"),
        "{given:?}"
    );
    // The server tells only the ipam's subnets of one family from those of the other.
    assert_refused(
        fixture.put_on(10, SMALL, "13.2.0.0/24").await,
        400,
        "name both or neither",
    );
    assert_eq!(
        fixture.put_on(10, SMALL, "fd00:13::/64").await.unwrap(),
        "fd00:13::ffff:ffff:ffff:fffc/64"
    );
}

#[tokio::test]
async fn flat_subnet_used_up_is_refused() {
    let fixture = Fixture::new().await;
    flat(&fixture.client, SMALL, &["13.1.0.0/29"]).await;
    assert_eq!(fixture.use_up(1, SMALL, "13.1.0.0/29").await, 4);
    let before = fixture.state();
    let refused = fixture.put_on(10, SMALL, "13.1.0.0/29").await;
    assert_refused(refused, 409, "13.1.0.0/29");
    // The same without the label.
    let refused = fixture
        .put_port(10, port("eth0", &[("networks", SMALL)]))
        .await;
    assert_refused(refused, 409, "no free address");
    assert_eq!(fixture.state(), before);
}

/// A network with subnets of its own and of two flat ipams.
async fn mixed(client: &VncClient) {
    let project = name("default-domain:mesos-default");
    let mut refs = vec![];
    for (ipam, subnets) in [
        ("own", &[][..]),
        ("flat-1", &["13.1.0.0/29", "13.2.0.0/29"]),
        ("flat-2", &["14.1.0.0/24"]),
    ] {
        let mut object = NetworkIpam::named(project.child(ipam));
        let mut own = NetworkIpamSubnets::default();
        let subnet = |net: &&str| IpamSubnet {
            subnet: Some(Prefix::of(net.parse().unwrap())),
            ..IpamSubnet::default()
        };
        if subnets.is_empty() {
            own.ipam_subnets = vec![subnet(&"8.8.1.0/29")];
        } else {
            object.ipam_subnet_method = Some("flat-subnet".to_owned());
            object.ipam_subnets = Some(IpamSubnets {
                subnets: subnets.iter().map(subnet).collect(),
            });
        }
        client.ensure(&object).await.unwrap();
        refs.push(Ref::with(object.common.fq_name, own));
    }
    let mut network = VirtualNetwork::named(name(SMALL));
    network.virtual_network_properties = Some(VirtualNetworkProperties {
        forwarding_mode: Some("l3".to_owned()),
        ..VirtualNetworkProperties::default()
    });
    network.network_ipam_refs = refs;
    client.ensure(&network).await.unwrap();
}

#[tokio::test]
async fn address_of_a_subnet_that_was_not_selected_is_not_taken() {
    let fixture = Fixture::new().await;
    mixed(&fixture.client).await;
    assert_eq!(fixture.use_up(1, SMALL, "8.8.1.0/29").await, 4);
    // Where the first flat ipam is used up, the server gives addresses of the second.
    let flat = "13.1.0.0/29,13.2.0.0/29";
    let mut number = 100;
    let error = loop {
        match fixture.put_on(number, SMALL, flat).await {
            Ok(address) => assert!(address.starts_with("13."), "{address}"),
            Err(error) => break error,
        }
        number += 1;
    };
    assert_eq!(error.status(), 409, "{error}");
    assert_eq!(number - 100, 8);
    let before = fixture.state();
    assert_refused(
        fixture.put_on(200, SMALL, flat).await,
        409,
        "no free address",
    );
    assert_refused(
        fixture.put_on(200, SMALL, "8.8.1.0/29").await,
        409,
        "no free address",
    );
    assert_eq!(fixture.state(), before);
    let all = "8.8.1.0/29,13.1.0.0/29,13.2.0.0/29,14.1.0.0/24";
    assert_eq!(
        fixture.put_on(200, SMALL, all).await.unwrap(),
        "14.1.0.252/24"
    );
    assert_eq!(
        fixture.put_on(201, SMALL, "14.1.0.0/24").await.unwrap(),
        "14.1.0.251/24"
    );
}

#[tokio::test]
async fn floating_ip_outside_of_its_pool_is_refused() {
    let fixture = Fixture::new().await;
    flat(&fixture.client, SMALL, &["13.1.0.0/29"]).await;
    let pool = name(SMALL).child("pool");
    fixture
        .client
        .ensure(&FloatingIpPool::named(pool))
        .await
        .unwrap();
    let before = fixture.state();
    let public = "default-domain:default-project:__public__:__fip_pool_public__";
    for (pool, address, subnets) in [
        (&format!("{SMALL}:pool"), "1.2.3.4", "13.1.0.0/29"),
        (
            &public.to_owned(),
            "1.2.3.4",
            "10.66.77.0/24, 10.33.44.0/24",
        ),
        (&public.to_owned(), "fd00::1", "IPv4 only"),
    ] {
        let label = format!("{pool}({address})");
        let refused = fixture.put_port(1, port("eth0", &[("floating-ips", &label)]));
        let error = refused.await.unwrap_err();
        assert_eq!(error.status(), 400, "{error}");
        let text = error.to_string();
        for part in [address, "none of the network's subnets", subnets] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert_eq!(fixture.state(), before);
    }
    // A pool that is used up is no mistake of the request.
    let label = format!("{SMALL}:pool");
    for number in 1..=4 {
        let port = port("eth0", &[("floating-ips", &label)]);
        fixture.put_port(number, port).await.unwrap();
    }
    let refused = fixture.put_port(9, port("eth0", &[("floating-ips", &label)]));
    assert_refused(refused.await, 409, "no free address");
}

#[tokio::test]
async fn reserved_address_is_refused_before_anything_is_made() {
    let fixture = Fixture::new().await;
    flat(&fixture.client, SMALL, &["13.2.0.0/24"]).await;
    for (network, address, say) in [
        ("blue", "5.5.5.254", "is the gateway of 5.5.5.0/24"),
        ("blue", "5.5.5.253", "is the name server of 5.5.5.0/24"),
        ("blue", "5.5.5.0", "the network's own address"),
        ("blue", "5.5.5.255", "the last address"),
        (
            "blue",
            "fd00:5::ffff:ffff:ffff:fffe",
            "is the gateway of fd00:5::/64",
        ),
        (SMALL, "13.2.0.254", "is the gateway of 13.2.0.0/24"),
    ] {
        let mut port = port("eth0", &[("networks", network)]);
        let address: IpAddr = address.parse().unwrap();
        port.addresses = vec![PortAddressRequest::Static(address)];
        assert_refused(fixture.put_port(1, port).await, 400, say);
    }
    let log = fixture.server.log();
    assert!(log.iter().all(|record| record.path != "/virtual-machines"));
}

#[tokio::test]
async fn server_says_that_an_address_is_the_gateway() {
    // Where the manager does not know it: the subnet was added a moment ago.
    let fixture = Fixture::new().await;
    let (vm, request) = plain(1);
    fixture.containers.put("node1", vm, &request).await.unwrap();
    let uuid = agent_api::interface_uuid(vm, "eth0");
    let interface = fixture.client.read::<VirtualMachineInterface>(uuid);
    let interface = interface.await.unwrap().unwrap();
    let mut ip = InstanceIp::named(FqName::new(["gateway"]));
    ip.instance_ip_address = "5.5.5.254".parse::<IpAddr>().unwrap().into();
    ip.virtual_network_refs = vec![Ref::to(name("default-domain:mesos-default:blue"))];
    ip.virtual_machine_interface_refs = vec![Ref {
        uuid: Some(uuid),
        ..Ref::to(interface.common.fq_name.clone())
    }];
    let error = fixture.client.create(&ip).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("Gateway IP cannot be used by VM port"),
        "{error}"
    );
    let error = ManagerError::from(error);
    assert_eq!(error.status(), 400, "{error}");
    // The container's own instance-ip has the uuid in its reference, too: without it, the server fails.
    let log = fixture.server.log();
    let post = log.iter().find(|record| record.path == "/instance-ips");
    let body = post.and_then(|record| record.body.clone()).unwrap();
    let reference = &body["instance-ip"]["virtual_machine_interface_refs"][0];
    assert_eq!(reference["uuid"], uuid.to_string());
}

#[tokio::test]
async fn network_is_not_created_with_a_subnet_without_room() {
    let fixture = Fixture::with(|config| {
        config.create.networks = true;
        config.create.projects = true;
    })
    .await;
    let before = fixture.state();
    for subnet in [
        "20.5.0.0/32",
        "20.5.0.0/31",
        "20.5.0.0/30",
        "fd00:9::/128",
        "fd00:9::/127",
        "fd00:9::/126",
    ] {
        let new = port(
            "eth0",
            &[
                ("networks", "new"),
                ("project-name", "mesos-default"),
                ("network-subnets", subnet),
            ],
        );
        let error = fixture.put_port(1, new).await.unwrap_err();
        assert_eq!(error.status(), 400, "{error}");
        let text = error.to_string();
        assert!(
            text.contains(subnet) && text.contains("too few usable addresses"),
            "{text}"
        );
        assert_eq!(fixture.state(), before);
    }
    let log = fixture.server.log();
    let refused = |status: Option<u16>| status.is_some_and(|status| status >= 400);
    assert!(
        log.iter()
            .all(|record| record.path != "/virtual-networks" || !refused(record.status))
    );
    let made = fixture.put_on(1, "new", "20.5.0.0/29,fd00:9::/125").await;
    assert_eq!(made.unwrap(), "20.5.0.4/29 fd00:9::4/125");
}

#[tokio::test]
async fn quota_error_says_the_reason_of_the_page() {
    let fixture = Fixture::new().await;
    let project = name("default-domain:mesos-default");
    let uuid = fixture
        .client
        .id_of::<Project>(&project)
        .await
        .unwrap()
        .unwrap();
    let quota = json!({ "virtual_machine_interface": 1 });
    let patch = Patch::new().set("quota", quota);
    fixture.client.update::<Project>(uuid, patch).await.unwrap();
    fixture.put_port(1, port("eth0", &[])).await.unwrap();
    let before = fixture.state();
    let error = fixture.put_port(2, port("eth0", &[])).await.unwrap_err();
    assert_eq!(error.status(), 409, "{error}");
    let text = error.to_string();
    let reason = "quota limit (1) exceeded for resource virtual_machine_interface";
    assert!(text.contains(reason), "{text}");
    assert!(!text.contains(['<', '\n']), "{text}");
    assert_eq!(fixture.state(), before);
}

#[tokio::test]
async fn wrong_password_error_says_the_reason_of_the_page() {
    let options = Options {
        auth: SimAuth::Basic {
            user: "admin".to_owned(),
            password: "right".to_owned(),
        },
        ..Options::default()
    };
    let (_, server) = Server::start(options).await.unwrap();
    let client = |password: &str| {
        VncClient::new(VncOptions {
            auth: Auth::Basic {
                user: "admin".to_owned(),
                password: password.to_owned().into(),
            },
            ..super::options(&server)
        })
        .unwrap()
    };
    client("right").ping().await.unwrap();
    let error = client("wrong").ping().await.unwrap_err();
    let text = error.to_string();
    assert!(text.contains("(Authentication check failed)"), "{text}");
    assert!(text.contains("check user, password"), "{text}");
    let nobody = VncClient::new(super::options(&server)).unwrap();
    let error = nobody.ping().await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("(HTTP_AUTHORIZATION header missing)"),
        "{error}"
    );
}
