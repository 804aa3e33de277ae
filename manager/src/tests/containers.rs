//! Containers come and go.

use futures::future::join_all;

use super::*;
use contrail_mesos_api::agent_api::PortAddressRequest;

#[tokio::test]
async fn a_container_comes_and_goes() {
    let world = World::new().await;
    let (machine, mut request) = plain(1);
    request.annotations = labels(&[("framework", "marathon: \"prod\"")]);
    let made = world
        .containers
        .put("node1", machine, &request)
        .await
        .unwrap();
    assert_eq!(made.machine, machine);
    assert_eq!(made.container, Some(request.container.clone()));
    let [port] = &made.ports[..] else {
        panic!("{made:?}")
    };
    assert_eq!(port.interface, "eth0");
    assert_eq!(port.uuid, agent_api::interface_uuid(machine, "eth0"));
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

    let object = world.server.object(&port.uuid.to_string()).unwrap();
    assert_eq!(
        object["virtual_machine_interface_mac_addresses"]["mac_address"][0],
        port.mac.to_string()
    );
    assert_eq!(object["port_security_enabled"], true);
    assert_eq!(annotation(&object, "index"), "0/1");
    let vm = world.server.object(&machine.to_string()).unwrap();
    for (key, value) in [
        ("owner", "contrail-mesos"),
        ("cluster", "mesos"),
        ("agent", "node1"),
        ("framework", "marathon: \"prod\""),
    ] {
        assert_eq!(annotation(&vm, key), value);
    }
    assert_eq!(refs(&vm, "virtual_router_back_refs").len(), 1);

    assert_eq!(
        world.containers.get(Some("node1"), machine).await.unwrap(),
        made
    );
    let list = world.containers.list("node1", None).await.unwrap();
    assert_eq!(list.containers, [made]);
    assert!(
        world
            .containers
            .list("node2", None)
            .await
            .unwrap()
            .containers
            .is_empty()
    );
    world
        .containers
        .delete(Some("node1"), machine)
        .await
        .unwrap();
    world.assert_clean("deleted");
    world
        .containers
        .delete(Some("node1"), machine)
        .await
        .unwrap();
    let error = world
        .containers
        .get(Some("node1"), machine)
        .await
        .unwrap_err();
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
async fn no_more_calls_than_objects_need() {
    let world = World::new().await;
    let put = async |number, change: &dyn Fn(&mut PortsRequest)| {
        let (machine, mut request) = plain(number);
        change(&mut request);
        let before = world.client.requests();
        world
            .containers
            .put("node1", machine, &request)
            .await
            .unwrap();
        world.client.requests() - before
    };
    put(1, &|_| {}).await;
    // Machine, interface, address, the address read, the virtual-router's reference.
    assert_eq!(put(2, &|_| {}).await, 5);
    // An address that was asked for need not be read.
    let fixed = PortAddressRequest::Static("10.32.0.9".parse().unwrap());
    assert_eq!(
        put(3, &|request| request.ports[0].addresses = vec![fixed]).await,
        4
    );
    let two = |request: &mut PortsRequest| request.ports.push(port("eth1", &[]));
    assert_eq!(put(4, &two).await, 8);
    let before = world.client.requests();
    let (machine, _) = plain(2);
    world
        .containers
        .delete(Some("node1"), machine)
        .await
        .unwrap();
    // Two to read, and one for the reference, the address, the interface, the machine.
    assert_eq!(world.client.requests() - before, 6);
    let before = world.client.requests();
    assert_eq!(
        world
            .containers
            .list("node1", None)
            .await
            .unwrap()
            .containers
            .len(),
        3
    );
    // The virtual-router, the machines, the interfaces, two kinds of addresses.
    assert_eq!(world.client.requests() - before, 5);
}

#[tokio::test]
async fn every_label_has_its_effect() {
    let world = World::new().await;
    let (machine, request) = rich(1);
    let made = world
        .containers
        .put("node1", machine, &request)
        .await
        .unwrap();
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
    let object = world.server.object(&blue.uuid.to_string()).unwrap();
    let web = world
        .client
        .id_of::<SecurityGroup>(&name("default-domain:mesos-default:web"))
        .await
        .unwrap();
    assert_eq!(
        refs(&object, "security_group_refs"),
        [web.unwrap().to_string()]
    );
    assert_eq!(annotation(&object, "index"), "0/2");
    assert_eq!(world.containers.get(None, machine).await.unwrap(), made);
    world
        .containers
        .delete(Some("node1"), machine)
        .await
        .unwrap();
    world.assert_clean("deleted");
}

#[tokio::test]
async fn the_samples_of_the_design_work_as_they_stand() {
    let world = World::new().await;
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
        let (machine, request) = request(number as u128, vec![port]);
        let made = world
            .containers
            .put("node1", machine, &request)
            .await
            .unwrap();
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
        world
            .containers
            .delete(Some("node1"), machine)
            .await
            .unwrap();
    }
    world.assert_clean("deleted");
}

#[tokio::test]
async fn addresses_are_as_asked() {
    let world = World::new().await;
    let mut blue = port("eth0", &[("networks", "blue")]);
    let put = async |number, port: &PortRequest| {
        let (machine, request) = request(number, vec![port.clone()]);
        let made = world.containers.put("node1", machine, &request).await?;
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
    let held = world.server.counts();
    blue.addresses = vec![seven];
    refused(3, &blue, 409, "in use").await;
    blue.addresses = vec![seven, seven];
    refused(3, &blue, 400, "asked for twice").await;
    blue.addresses = vec![PortAddressRequest::Static("5.5.7.1".parse().unwrap())];
    refused(
        3,
        &blue,
        400,
        "none of its subnets: 5.5.5.0/24, 5.5.6.0/29, fd00:5::/64",
    )
    .await;
    assert_eq!(world.server.counts(), held);

    // Of subnets that are chosen, the next when one is used up.
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
    assert_eq!(world.more("virtual-machine"), 2 + 5);
}

#[tokio::test]
async fn a_request_that_comes_again_changes_nothing_but_what_differs() {
    let world = World::new().await;
    let (machine, mut request) = rich(1);
    let first = world
        .containers
        .put("node1", machine, &request)
        .await
        .unwrap();
    let counts = world.server.counts();
    assert_eq!(
        world
            .containers
            .put("node1", machine, &request)
            .await
            .unwrap(),
        first
    );
    assert_eq!(
        world.other().put("node1", machine, &request).await.unwrap(),
        first
    );
    assert_eq!(world.server.counts(), counts);

    // Another network, other groups, no floating address: as asked, with nothing of the old.
    request.ports[0].labels = labels(&[("networks", "blue")]);
    request.ports[1].labels = labels(&[
        ("networks", "blue-network"),
        ("project-name", "default-project"),
        ("security-groups", "security_groups_mesos"),
    ]);
    let second = world
        .containers
        .put("node1", machine, &request)
        .await
        .unwrap();
    assert_eq!(second.ports[0].addresses, first.ports[0].addresses);
    assert!(second.ports[0].floating_ips.is_empty());
    assert_eq!(
        second.ports[1].addresses[0].address.to_string(),
        "5.6.255.252/16"
    );
    let object = world
        .server
        .object(&second.ports[0].uuid.to_string())
        .unwrap();
    assert!(refs(&object, "security_group_refs").is_empty());
    request.ports.pop();
    world
        .containers
        .put("node1", machine, &request)
        .await
        .unwrap();
    assert_eq!(world.more("virtual-machine-interface"), 1);
    let object = world
        .server
        .object(&second.ports[0].uuid.to_string())
        .unwrap();
    assert_eq!(annotation(&object, "index"), "0/1");
    world
        .containers
        .delete(Some("node1"), machine)
        .await
        .unwrap();
    world.assert_clean("deleted");
}

#[tokio::test]
async fn many_at_once_and_one_twice_at_once() {
    let world = World::new().await;
    let all: Vec<_> = (0..100).map(plain).collect();
    let put = all
        .iter()
        .map(|(machine, request)| world.containers.put("node1", *machine, request));
    let mut addresses = std::collections::BTreeSet::new();
    for made in join_all(put).await {
        addresses.insert(made.unwrap().ports[0].addresses[0].address);
    }
    assert_eq!(addresses.len(), 100);
    assert_eq!(
        world
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
        .map(|(machine, _)| world.containers.delete(Some("node1"), *machine));
    for deleted in join_all(delete).await {
        deleted.unwrap();
    }
    world.assert_clean("all deleted");

    let (machine, request) = rich(1);
    let other = world.other();
    let twice = [&world.containers, &world.containers, &other, &other];
    let put = join_all(twice.map(|containers| containers.put("node1", machine, &request))).await;
    let first = put[0].as_ref().unwrap();
    // Two managers know nothing of each other; one that was late may see what is half made.
    for made in &put {
        assert_eq!(made.as_ref().unwrap(), first);
    }
    assert_eq!(world.more("virtual-machine-interface"), 2);
    assert_eq!(world.more("instance-ip"), 3);
    assert_eq!(world.more("floating-ip"), 1);
    let deletes = join_all(twice.map(|containers| containers.delete(Some("node1"), machine))).await;
    for deleted in deletes {
        deleted.unwrap();
    }
    world.assert_clean("deleted");
}

#[tokio::test]
async fn everything_that_is_wrong_with_a_request_is_said_at_once() {
    let world = World::new().await;
    let (machine, mut request) = plain(1);
    request.annotations = labels(&[("owner", "me")]);
    request.ports = vec![
        port("../eth0", &[("networks", "a,b")]),
        port("eth1", &[("network-subnets", "5.5.5.1/24")]),
        port("eth1", &[]),
    ];
    let error = world
        .containers
        .put("node1", Uuid::from_u128(7), &request)
        .await
        .unwrap_err();
    let ManagerError::Invalid(problems) = &error else {
        panic!("{error}")
    };
    for said in [
        &machine.to_string(),
        "\"owner\" is the manager's own",
        "\"../eth0\"",
        "names several networks",
        "write 5.5.5.0/24",
        "\"eth1\" is there twice",
    ] {
        assert_eq!(
            problems
                .iter()
                .filter(|problem| problem.contains(said))
                .count(),
            1,
            "{said}: {problems:#?}"
        );
    }
    request.ports.clear();
    let error = world
        .containers
        .put("node1", machine, &request)
        .await
        .unwrap_err();
    assert!(
        error
            .to_string()
            .contains("0 ports are not between 1 and 16"),
        "{error}"
    );
}
