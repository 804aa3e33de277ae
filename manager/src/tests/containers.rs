//! Requests that create, read and delete containers.

use futures::future::join_all;

use super::*;
use contrail_mesos_api::agent_api::PortAddressRequest;

#[tokio::test]
async fn put_creates_and_delete_removes_all_objects() {
    let fixture = Fixture::new().await;
    let (vm, mut request) = plain(1);
    request.annotations = labels(&[("framework", "marathon: \"prod\"")]);
    let made = fixture.containers.put("node1", vm, &request).await.unwrap();
    assert_eq!(made.machine, vm);
    assert_eq!(made.container, Some(request.container.clone()));
    let [port] = &made.ports[..] else {
        panic!("{made:?}")
    };
    assert_eq!(port.interface, "eth0");
    assert_eq!(port.uuid, agent_api::interface_uuid(vm, "eth0"));
    assert_eq!(
        port.virtual_network_name,
        "default-domain:mesos-default:mesos-default-pod-task-network"
    );
    let [address] = &port.addresses[..] else {
        panic!("{port:?}")
    };
    assert_eq!(address.address.to_string(), "10.32.255.252/16");
    assert_eq!(address.gateway, "10.32.255.254".parse().ok());
    assert_eq!(address.dns, "10.32.255.253".parse().ok());

    let object = fixture.server.object(&port.uuid.to_string()).unwrap();
    assert_eq!(
        object["virtual_machine_interface_mac_addresses"]["mac_address"][0],
        port.mac.to_string()
    );
    assert_eq!(object["port_security_enabled"], true);
    assert_eq!(annotation(&object, "index"), "0/1");
    let object = fixture.server.object(&vm.to_string()).unwrap();
    for (key, value) in [
        ("owner", "contrail-mesos"),
        ("cluster", "mesos"),
        ("agent", "node1"),
        ("framework", "marathon: \"prod\""),
    ] {
        assert_eq!(annotation(&object, key), value);
    }
    assert_eq!(refs(&object, "virtual_router_back_refs").len(), 1);

    assert_eq!(
        fixture.containers.get(Some("node1"), vm).await.unwrap(),
        made
    );
    let list = fixture.containers.list("node1", None).await.unwrap();
    assert_eq!(list.containers, [made]);
    assert!(
        fixture
            .containers
            .list("node2", None)
            .await
            .unwrap()
            .containers
            .is_empty()
    );
    fixture.containers.delete(Some("node1"), vm).await.unwrap();
    fixture.assert_clean("deleted");
    fixture.containers.delete(Some("node1"), vm).await.unwrap();
    let error = fixture.containers.get(Some("node1"), vm).await.unwrap_err();
    assert_eq!(error.status(), 404);
}

fn annotation(object: &Value, key: &str) -> String {
    let pairs = object["annotations"]["key_value_pair"].as_array().unwrap();
    let pair = pairs.iter().find(|pair| pair["key"] == key);
    pair.unwrap_or_else(|| panic!("no {key} in {object}"))["value"]
        .as_str()
        .unwrap()
        .to_owned()
}

#[tokio::test]
async fn put_and_delete_make_no_more_calls_than_needed() {
    let fixture = Fixture::new().await;
    let put = async |number, change: &dyn Fn(&mut PortsRequest)| {
        let (vm, mut request) = plain(number);
        change(&mut request);
        let before = fixture.client.requests();
        fixture.containers.put("node1", vm, &request).await.unwrap();
        fixture.client.requests() - before
    };
    put(1, &|_| {}).await;
    // Virtual-machine, interface, address, read of the address, the virtual-router's reference.
    assert_eq!(put(2, &|_| {}).await, 5);
    // A fixed address need not be read.
    let fixed = PortAddressRequest::Static("10.32.0.9".parse().unwrap());
    assert_eq!(
        put(3, &|request| request.ports[0].addresses = vec![fixed]).await,
        4
    );
    let two = |request: &mut PortsRequest| request.ports.push(port("eth1", &[]));
    assert_eq!(put(4, &two).await, 8);
    let before = fixture.client.requests();
    let (vm, _) = plain(2);
    fixture.containers.delete(Some("node1"), vm).await.unwrap();
    // Two reads, and one delete each of the reference, address, interface and virtual-machine.
    assert_eq!(fixture.client.requests() - before, 6);
    let before = fixture.client.requests();
    assert_eq!(
        fixture
            .containers
            .list("node1", None)
            .await
            .unwrap()
            .containers
            .len(),
        3
    );
    // The virtual-router, the virtual-machines, the interfaces, two types of addresses.
    assert_eq!(fixture.client.requests() - before, 5);
}

#[tokio::test]
async fn put_appresponses_every_label() {
    let fixture = Fixture::new().await;
    let (vm, request) = rich(1);
    let made = fixture.containers.put("node1", vm, &request).await.unwrap();
    let [blue, red] = &made.ports[..] else {
        panic!("{made:?}")
    };
    let addresses = |port: &agent_api::Port| {
        port.addresses
            .iter()
            .map(|address| address.address.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        addresses(blue),
        ["5.5.5.252/24", "fd00:5::ffff:ffff:ffff:fffc/64"]
    );
    assert_eq!(addresses(red), ["6.6.6.252/24"]);
    assert_eq!(
        blue.floating_ips,
        ["10.66.77.252".parse::<std::net::IpAddr>().unwrap()]
    );
    let object = fixture.server.object(&blue.uuid.to_string()).unwrap();
    let web = fixture
        .client
        .id_of::<SecurityGroup>(&name("default-domain:mesos-default:web"))
        .await
        .unwrap();
    assert_eq!(
        refs(&object, "security_group_refs"),
        [web.unwrap().to_string()]
    );
    assert_eq!(annotation(&object, "index"), "0/2");
    assert_eq!(fixture.containers.get(None, vm).await.unwrap(), made);
    fixture.containers.delete(Some("node1"), vm).await.unwrap();
    fixture.assert_clean("deleted");
}

#[tokio::test]
async fn put_accepts_label_samples_of_the_original_manager() {
    let fixture = Fixture::new().await;
    let place = [
        ("networks", "blue-network"),
        ("project-name", "default-project"),
        ("domain-name", "default-domain"),
    ];
    let with = |more: &[(&'static str, &'static str)]| port("eth0", &[&place[..], more].concat());
    let floating = with(&[(
        "floating-ips",
        "default-domain:default-project:__public__:__fip_pool_public__(10.66.77.123),default-domain:default-project:__public__:__fip_pool_public2__(10.33.44.11)",
    )]);
    let group = with(&[(
        "security-groups",
        "default-domain:default-project:security_groups_mesos",
    )]);
    for (number, port) in [with(&[]), floating, group].into_iter().enumerate() {
        let (vm, request) = request(number as u128, vec![port]);
        let made = fixture.containers.put("node1", vm, &request).await.unwrap();
        let [port] = &made.ports[..] else {
            panic!("{made:?}")
        };
        assert_eq!(
            port.virtual_network_name,
            "default-domain:default-project:blue-network"
        );
        if number == 1 {
            let floating: Vec<_> = port.floating_ips.iter().map(ToString::to_string).collect();
            assert_eq!(floating, ["10.33.44.11", "10.66.77.123"]);
        }
        fixture.containers.delete(Some("node1"), vm).await.unwrap();
    }
    fixture.assert_clean("deleted");
}

#[tokio::test]
async fn put_allocates_requested_addresses() {
    let fixture = Fixture::new().await;
    let mut blue = port("eth0", &[("networks", "blue")]);
    let put = async |number, port: &PortRequest| {
        let (vm, request) = request(number, vec![port.clone()]);
        let made = fixture.containers.put("node1", vm, &request).await?;
        let addresses = made.ports[0]
            .addresses
            .iter()
            .map(|address| address.address.to_string());
        Ok::<_, ManagerError>(addresses.collect::<Vec<_>>().join(" "))
    };
    let refused = async |number, port: &PortRequest, status: u16, say: &str| {
        let error = put(number, port).await.unwrap_err();
        assert_eq!(error.status(), status, "{error}");
        assert!(error.to_string().contains(say), "{error}");
    };
    blue.addresses = vec![PortAddressRequest::V6];
    assert_eq!(
        put(1, &blue).await.unwrap(),
        "fd00:5::ffff:ffff:ffff:fffc/64"
    );
    let seven = PortAddressRequest::Static("5.5.5.7".parse().unwrap());
    blue.addresses = vec![seven, PortAddressRequest::V4, PortAddressRequest::V4];
    assert_eq!(
        put(2, &blue).await.unwrap(),
        "5.5.5.7/24 5.5.5.251/24 5.5.5.252/24"
    );
    let held = fixture.server.counts();
    blue.addresses = vec![seven];
    refused(3, &blue, 409, "in use").await;
    blue.addresses = vec![seven, seven];
    refused(3, &blue, 400, "requested twice").await;
    blue.addresses = vec![PortAddressRequest::Static("5.5.7.1".parse().unwrap())];
    refused(
        3,
        &blue,
        400,
        "none of its subnets: 5.5.5.0/24, 5.5.6.0/29, fd00:5::/64",
    )
    .await;
    assert_eq!(fixture.server.counts(), held);

    // An exhausted subnet falls back to the next selected one.
    let mut chosen = port(
        "eth0",
        &[
            ("networks", "blue"),
            ("network-subnets", "5.5.6.0/29, 5.5.5.0/24"),
        ],
    );
    let mut given = vec![];
    for number in 10..15 {
        given.push(put(number, &chosen).await.unwrap());
    }
    let small = given
        .iter()
        .filter(|address| address.ends_with("/29"))
        .count();
    assert_eq!((small, given[4].as_str()), (4, "5.5.5.250/24"));
    chosen
        .labels
        .insert("network-subnets".to_owned(), "5.5.6.0/29".to_owned());
    refused(20, &chosen, 409, "no free address").await;
    chosen
        .labels
        .insert("network-subnets".to_owned(), "5.5.7.0/24".to_owned());
    refused(20, &chosen, 400, "has no subnet 5.5.7.0/24").await;
    chosen
        .labels
        .insert("network-subnets".to_owned(), "5.5.6.0/29".to_owned());
    chosen.addresses = vec![PortAddressRequest::V6];
    refused(20, &chosen, 400, "no subnet of IPv6").await;
    assert_eq!(fixture.added("virtual-machine"), 2 + 5);
}

#[tokio::test]
async fn put_repeated_changes_only_differences() {
    let fixture = Fixture::new().await;
    let (vm, mut request) = rich(1);
    let first = fixture.containers.put("node1", vm, &request).await.unwrap();
    let counts = fixture.server.counts();
    assert_eq!(
        fixture.containers.put("node1", vm, &request).await.unwrap(),
        first
    );
    assert_eq!(
        fixture
            .other_manager()
            .put("node1", vm, &request)
            .await
            .unwrap(),
        first
    );
    assert_eq!(fixture.server.counts(), counts);

    // Another network, other groups, no floating IP: nothing of the old request stays.
    request.ports[0].labels = labels(&[("networks", "blue")]);
    request.ports[1].labels = labels(&[
        ("networks", "blue-network"),
        ("project-name", "default-project"),
        ("security-groups", "security_groups_mesos"),
    ]);
    let second = fixture.containers.put("node1", vm, &request).await.unwrap();
    assert_eq!(second.ports[0].addresses, first.ports[0].addresses);
    assert!(second.ports[0].floating_ips.is_empty());
    assert_eq!(
        second.ports[1].addresses[0].address.to_string(),
        "5.6.255.252/16"
    );
    let object = fixture
        .server
        .object(&second.ports[0].uuid.to_string())
        .unwrap();
    assert!(refs(&object, "security_group_refs").is_empty());
    request.ports.pop();
    fixture.containers.put("node1", vm, &request).await.unwrap();
    assert_eq!(fixture.added("virtual-machine-interface"), 1);
    let object = fixture
        .server
        .object(&second.ports[0].uuid.to_string())
        .unwrap();
    assert_eq!(annotation(&object, "index"), "0/1");
    fixture.containers.delete(Some("node1"), vm).await.unwrap();
    fixture.assert_clean("deleted");
}

#[tokio::test]
async fn put_concurrently_many_and_same_container() {
    let fixture = Fixture::new().await;
    let all: Vec<_> = (0..100).map(plain).collect();
    let put = all
        .iter()
        .map(|(vm, request)| fixture.containers.put("node1", *vm, request));
    let mut addresses = std::collections::BTreeSet::new();
    for made in join_all(put).await {
        addresses.insert(made.unwrap().ports[0].addresses[0].address);
    }
    assert_eq!(addresses.len(), 100);
    assert_eq!(
        fixture
            .containers
            .list("node1", None)
            .await
            .unwrap()
            .containers
            .len(),
        100
    );
    let delete = all
        .iter()
        .map(|(vm, _)| fixture.containers.delete(Some("node1"), *vm));
    for deleted in join_all(delete).await {
        deleted.unwrap();
    }
    fixture.assert_clean("all deleted");

    let (vm, request) = rich(1);
    let other = fixture.other_manager();
    let twice = [&fixture.containers, &fixture.containers, &other, &other];
    let put = join_all(twice.map(|containers| containers.put("node1", vm, &request))).await;
    let first = put[0].as_ref().unwrap();
    // Two managers are not coordinated: one may find what the other has half created.
    for made in &put {
        assert_eq!(made.as_ref().unwrap(), first);
    }
    assert_eq!(fixture.added("virtual-machine-interface"), 2);
    assert_eq!(fixture.added("instance-ip"), 3);
    assert_eq!(fixture.added("floating-ip"), 1);
    let deletes = join_all(twice.map(|containers| containers.delete(Some("node1"), vm))).await;
    for deleted in deletes {
        deleted.unwrap();
    }
    fixture.assert_clean("deleted");
}

#[tokio::test]
async fn put_invalid_request_reports_every_problem() {
    let fixture = Fixture::new().await;
    let (vm, mut request) = plain(1);
    request.annotations = labels(&[("owner", "me")]);
    request.ports = vec![
        port("../eth0", &[("networks", "a,b")]),
        port("eth1", &[("network-subnets", "5.5.5.1/24")]),
        port("eth1", &[]),
    ];
    let error = fixture
        .containers
        .put("node1", Uuid::from_u128(7), &request)
        .await
        .unwrap_err();
    let ManagerError::Invalid(problems) = &error else {
        panic!("{error}")
    };
    for message in [
        &vm.to_string(),
        "\"owner\" is reserved for the manager",
        "\"../eth0\"",
        "names several networks",
        "write 5.5.5.0/24",
        "\"eth1\" is there twice",
    ] {
        assert_eq!(
            problems
                .iter()
                .filter(|problem| problem.contains(message))
                .count(),
            1,
            "{message}: {problems:#?}"
        );
    }
    request.ports.clear();
    let error = fixture
        .containers
        .put("node1", vm, &request)
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("0 ports are not between 1 and 16"),
        "{error}"
    );
}
