use contrail_mesos_api::cluster::{Object, Revision, Vtep};
use proptest::prelude::*;

use super::*;

/// The node of that number, with a subnet of both families in the overlay `blue`.
pub(crate) fn node(number: u8) -> Node {
    let subnet = NodeSubnets {
        overlay: "blue".to_owned(),
        subnet: Some(format!("9.0.{number}.0/24").parse().unwrap()),
        subnet6: Some(format!("fd09:0:0:{number:x}::/64").parse().unwrap()),
        blocks: vec![],
        returned: 0,
    };
    Node {
        name: format!("agent-{number}"),
        address: [192, 0, 2, number].into(),
        vtep: Vtep {
            address: [44, 128, 0, number].into(),
            address6: Some(format!("fd44::{number:x}").parse().unwrap()),
            mac: Mac([0x70, 0xb3, 0xd5, 0x80, 0, number]),
        },
        subnets: vec![subnet],
    }
}

pub(crate) fn overlay(name: &str, vni: u32) -> Overlay {
    Overlay {
        name: name.to_owned(),
        vni,
        subnet: Some("9.0.0.0/8".parse().unwrap()),
        subnet6: Some("fd09::/32".parse().unwrap()),
        mtu: None,
        enabled: true,
        groups: None,
        isolated: false,
        lends_blocks: false,
    }
}

/// The state with these nodes, as the first of them sees it.
pub(crate) fn cluster(nodes: impl IntoIterator<Item = Node>) -> ClusterState {
    let mut cluster = ClusterState::empty("agent-1", Revision::default());
    cluster.underlay = Some(Underlay {
        vtep_subnet: "44.128.0.0/20".parse().unwrap(),
        vtep_subnet6: Some("fd44::/64".parse().unwrap()),
        vxlan_port: 4789,
    });
    cluster.put(Object::Overlay(overlay("blue", 1024)));
    for node in nodes {
        cluster.put(Object::Node(node));
    }
    cluster
}

fn uplink() -> Uplink {
    Uplink {
        index: 2,
        name: "eth0".to_owned(),
        mtu: 1500,
    }
}

fn desired_of(cluster: &ClusterState) -> (DesiredState, Vec<String>) {
    desired(cluster, &OwnNode::of(cluster).unwrap(), &uplink())
}

/// The destinations of the routes to a node.
fn destinations(desired: &DesiredState, node: &str) -> Vec<String> {
    let routes = desired.routes.iter();
    routes
        .filter(|(_, route)| route.node == node)
        .map(|(destination, _)| destination.to_string())
        .collect()
}

#[test]
fn remote_has_a_neighbour_a_family_one_forwarding_entry_and_its_routes() {
    let (desired, problems) = desired_of(&cluster([node(1), node(2)]));
    assert_eq!(problems, [""; 0]);
    assert!(desired.has_v6);
    let device = &desired.devices["vtep1024"];
    assert_eq!(desired.devices.len(), 1);
    assert_eq!((device.mtu, device.mac), (1450, node(1).vtep.mac));
    let addresses: Vec<_> = device.addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["44.128.0.1/20", "fd44::1/64"]);
    let mac = node(2).vtep.mac;
    let neighbours = ["44.128.0.2", "fd44::2"].map(|text| (text.parse().unwrap(), mac));
    assert_eq!(device.neighbours, BTreeMap::from(neighbours));
    let forwarding = [(mac.0, node(2).address)];
    assert_eq!(device.forwarding, BTreeMap::from(forwarding));
    let routes = destinations(&desired, "agent-2");
    assert_eq!(routes, ["9.0.2.0/24", "fd09:0:0:2::/64"]);
    let sources = [
        Source::Port(4789),
        Source::Uplink("eth0".to_owned()),
        Source::Host(node(2).address),
    ];
    assert_eq!(desired.sources, BTreeSet::from(sources));
}

#[test]
fn each_block_of_a_node_has_a_route() {
    let with_blocks = |number: u8, blocks: &[&str]| {
        let mut node = node(number);
        node.subnets[0].subnet = None;
        node.subnets[0].subnet6 = None;
        node.subnets[0].blocks = blocks.iter().map(|block| block.parse().unwrap()).collect();
        node
    };
    let own = with_blocks(1, &["9.0.0.0/28", "9.0.0.32/28"]);
    let remote = with_blocks(2, &["9.0.0.16/28", "9.0.7.16/28", "fd09::10/124"]);
    // It is given twice, which must not be.
    let double = with_blocks(3, &["9.0.0.32/28", "9.0.0.48/28"]);
    let (desired, problems) = desired_of(&cluster([own, remote, double]));
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].contains("9.0.0.32/28"), "{problems:?}");
    assert_eq!(
        destinations(&desired, "agent-2"),
        ["9.0.0.16/28", "9.0.7.16/28", "fd09::10/124"]
    );
    assert_eq!(destinations(&desired, "agent-3"), ["9.0.0.48/28"]);
}

#[test]
fn overlays_of_one_network_share_the_device_and_others_have_their_own() {
    let mut remote = node(2);
    let subnet = |overlay: &str, subnet: &str| NodeSubnets {
        overlay: overlay.to_owned(),
        subnet: Some(subnet.parse().unwrap()),
        subnet6: None,
        blocks: vec![],
        returned: 0,
    };
    remote.subnets = vec![
        subnet("blue", "9.0.2.0/24"),
        subnet("green", "9.1.2.0/24"),
        subnet("red", "9.2.2.0/24"),
    ];
    let mut cluster = cluster([node(1), remote]);
    cluster.put(Object::Overlay(overlay("green", 1024)));
    let mut red = overlay("red", 7);
    red.enabled = false;
    cluster.put(Object::Overlay(red));
    let (desired, problems) = desired_of(&cluster);
    assert_eq!(problems, [""; 0]);
    let devices: Vec<_> = desired.devices.keys().map(String::as_str).collect();
    assert_eq!(devices, ["vtep1024", "vtep7"]);
    let by_device = |device: &str| {
        let routes = desired.routes.values();
        routes.filter(|route| route.device == device).count()
    };
    assert_eq!((by_device("vtep1024"), by_device("vtep7")), (2, 1));
    assert_eq!(desired.devices["vtep7"].forwarding.len(), 1);
}

#[test]
fn underlay_of_ipv6_takes_seventy_bytes() {
    let mut cluster = cluster([]);
    for number in [1, 2] {
        let mut node = node(number);
        node.address = format!("2001:db8::{number}").parse().unwrap();
        cluster.put(Object::Node(node));
    }
    let (desired, problems) = desired_of(&cluster);
    assert_eq!(problems, [""; 0]);
    assert_eq!(desired.devices["vtep1024"].mtu, 1430);
}

#[test]
fn state_without_underlay_own_node_or_sound_endpoint_decides_nothing() {
    let mut unregistered = cluster([node(2)]);
    let undetermined = |cluster: &ClusterState| OwnNode::of(cluster).err();
    assert_eq!(
        undetermined(&unregistered),
        Some(DesiredError::NotRegistered("agent-1".to_owned()))
    );
    unregistered.underlay = None;
    assert_eq!(undetermined(&unregistered), Some(DesiredError::NoUnderlay));
    for damage in [
        (|node| node.vtep.address = [10, 0, 0, 1].into()) as fn(&mut Node),
        |node| node.vtep.address6 = "fd45::1".parse().ok(),
        |node| node.vtep.mac = Mac([1, 0, 0, 0, 0, 1]),
        |node| node.address = [0, 0, 0, 0].into(),
    ] {
        let mut own = node(1);
        damage(&mut own);
        let found = undetermined(&cluster([own, node(2)]));
        assert!(
            matches!(found, Some(DesiredError::Contradiction(_))),
            "{found:?}"
        );
    }
}

#[test]
fn unusable_remote_gets_no_entry_and_a_problem() {
    for (damage, part) in [
        (
            (|node| node.address = "2001:db8::2".parse().unwrap()) as fn(&mut Node),
            "2001:db8::2",
        ),
        (|node| node.address = [192, 0, 2, 1].into(), "192.0.2.1"),
        (|node| node.address = [127, 0, 0, 1].into(), "127.0.0.1"),
        (|node| node.address = [224, 0, 0, 1].into(), "224.0.0.1"),
        (|node| node.address = [255; 4].into(), "255.255.255.255"),
        (|node| node.vtep.address = [10, 0, 0, 2].into(), "10.0.0.2"),
        (
            |node| node.vtep.address = [44, 128, 0, 0].into(),
            "44.128.0.0",
        ),
        (
            |node| node.vtep.address = [44, 128, 15, 255].into(),
            "44.128.15.255",
        ),
        (
            |node| node.vtep.address6 = "fd45::2".parse().ok(),
            "fd45::2",
        ),
        (|node| node.vtep.mac = Mac([0; 6]), "00:00:00:00:00:00"),
        (
            |node| node.vtep.mac = Mac([0x33, 0x33, 0, 0, 0, 1]),
            "33:33:00:00:00:01",
        ),
        // Those of this node.
        (
            |node| node.vtep.mac = Mac([0x70, 0xb3, 0xd5, 0x80, 0, 1]),
            "70:b3:d5:80:00:01",
        ),
        (
            |node| node.vtep.address = [44, 128, 0, 1].into(),
            "44.128.0.1",
        ),
        (
            |node| node.vtep.address6 = "fd44::1".parse().ok(),
            "fd44::1",
        ),
    ] {
        let mut remote = node(2);
        damage(&mut remote);
        let address = remote.address;
        let (desired, problems) = desired_of(&cluster([node(1), remote, node(3)]));
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].contains("agent-2"), "{problems:?}");
        assert!(problems[0].contains(part), "{part}: {problems:?}");
        let device = &desired.devices["vtep1024"];
        assert_eq!(device.forwarding.len(), 1);
        assert_eq!(device.neighbours.len(), 2);
        assert_eq!(destinations(&desired, "agent-2"), [""; 0]);
        assert!(!desired.sources.contains(&Source::Host(address)));
        // The others go on.
        assert_eq!(destinations(&desired, "agent-3").len(), 2);
    }
}

#[test]
fn subnet_that_is_not_the_remotes_is_not_routed() {
    for (subnet, part) in [
        ("10.0.2.0/24", "outside"),
        ("0.0.0.0/0", "outside"),
        ("9.0.1.128/25", "subnet of this node"),
        ("9.0.0.0/16", "subnet of this node"),
        ("9.128.2.0/24", "tunnel endpoints"),
        ("9.192.2.0/24", "underlay address"),
    ] {
        let mut remote = node(2);
        remote.subnets[0].subnet = Some(subnet.parse().unwrap());
        let mut cluster = cluster([node(1), remote, node(3)]);
        if let Some(underlay) = &mut cluster.underlay
            && subnet == "9.128.2.0/24"
        {
            underlay.vtep_subnet = "9.128.0.0/20".parse().unwrap();
            for node in cluster.nodes.values_mut() {
                let number = node.vtep.address.octets()[3];
                node.vtep.address = [9, 128, 0, number].into();
            }
        }
        if subnet == "9.192.2.0/24" {
            for node in cluster.nodes.values_mut() {
                let number = node.vtep.address.octets()[3];
                node.address = [9, 192, 2, number].into();
            }
        }
        let (desired, problems) = desired_of(&cluster);
        assert_eq!(problems.len(), 1, "{subnet}: {problems:?}");
        for part in [part, "agent-2", subnet] {
            assert!(problems[0].contains(part), "{part}: {problems:?}");
        }
        // Its IPv6 subnet is right.
        assert_eq!(destinations(&desired, "agent-2"), ["fd09:0:0:2::/64"]);
        assert_eq!(destinations(&desired, "agent-3").len(), 2);
    }
}

#[test]
fn what_two_nodes_have_is_of_neither_and_the_problem_names_both() {
    let mut second = node(3);
    second.subnets[0].subnet = Some("9.0.2.128/25".parse().unwrap());
    let (desired, problems) = desired_of(&cluster([node(1), node(2), second, node(4)]));
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].contains("agent-2") && problems[0].contains("agent-3"));
    assert_eq!(destinations(&desired, "agent-2"), ["fd09:0:0:2::/64"]);
    assert_eq!(destinations(&desired, "agent-3"), ["fd09:0:0:3::/64"]);
    assert_eq!(destinations(&desired, "agent-4").len(), 2);

    let mut second = node(3);
    second.vtep.mac = node(2).vtep.mac;
    let (desired, problems) = desired_of(&cluster([node(1), node(2), second, node(4)]));
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].contains("agent-2") && problems[0].contains("agent-3"));
    assert_eq!(desired.devices["vtep1024"].forwarding.len(), 1);

    // A host that was registered again under another name.
    let mut second = node(3);
    second.address = node(2).address;
    let (desired, problems) = desired_of(&cluster([node(1), node(2), second]));
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].contains("agent-2") && problems[0].contains("agent-3"));
    assert_eq!(destinations(&desired, "agent-3").len(), 2);
}

#[test]
fn names_of_others_are_escaped_in_problems() {
    let mut remote = node(2);
    remote.name = "evil\n\u{1b}[31m".to_owned();
    remote.address = [127, 0, 0, 1].into();
    let (_, problems) = desired_of(&cluster([node(1), remote]));
    assert_eq!(problems.len(), 1);
    assert!(
        !problems[0].chars().any(char::is_control),
        "{:?}",
        problems[0]
    );
}

#[test]
fn overlay_without_a_network_identifier_is_left_out() {
    for vni in [0, 1 << 24] {
        let mut cluster = cluster([node(1), node(2)]);
        cluster.put(Object::Overlay(overlay("blue", vni)));
        let (desired, problems) = desired_of(&cluster);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(desired.devices.is_empty() && desired.routes.is_empty());
        assert!(desired.sources.is_empty());
    }
}

/// A node with few possible values, so that they often contradict.
fn any_node() -> impl Strategy<Value = Node> {
    let subnet = (0_u8..4, 20_u8..26, 0_u8..3).prop_map(|(third, length, overlay)| NodeSubnets {
        overlay: ["blue", "red", "none"][usize::from(overlay)].to_owned(),
        subnet: format!("9.0.{third}.0/{length}").parse().ok(),
        subnet6: format!("fd09:0:0:{third}::/{}", length + 40).parse().ok(),
        blocks: vec![],
        returned: 0,
    });
    let subnets = prop::collection::vec(subnet, 0..3);
    let numbers = (1_u8..8, 1_u8..8, 1_u8..8, 1_u8..8);
    (numbers, subnets).prop_map(|((name, address, vtep, mac), subnets)| {
        let mut node = node(name);
        node.address = [9, 0, address % 4, address].into();
        node.vtep.address = [44, 128, 0, vtep].into();
        node.vtep.address6 = (vtep % 2 == 0).then(|| format!("fd44::{vtep}").parse().unwrap());
        node.vtep.mac = Mac([2, 0, 0, 0, 0, mac]);
        node.subnets = subnets;
        node
    })
}

proptest! {
    #[test]
    fn no_route_takes_the_traffic_of_another(nodes in prop::collection::vec(any_node(), 0..6)) {
        let mut cluster = cluster(nodes);
        let mut own = node(1);
        own.address = [9, 0, 3, 200].into();
        cluster.put(Object::Node(own));
        cluster.put(Object::Overlay(overlay("red", 7)));
        let (desired, problems) = desired_of(&cluster);
        for (destination, route) in &desired.routes {
            for node in cluster.nodes.values() {
                prop_assert!(!destination.contains(&node.address));
            }
            let own = cluster.nodes["agent-1"].subnets.iter();
            for subnet in own.flat_map(NodeSubnets::subnets) {
                prop_assert!(!overlaps(subnet, *destination));
            }
            let others = desired.routes.keys().filter(|other| *other != destination);
            for other in others {
                prop_assert!(!overlaps(*other, *destination));
            }
            let neighbours = &desired.devices[&route.device].neighbours;
            prop_assert_eq!(neighbours.get(&route.gateway), Some(&cluster.nodes[&route.node].vtep.mac));
        }
        let is_complete = cluster.remote_nodes().all(|node| {
            desired.devices["vtep1024"].forwarding.get(&node.vtep.mac.0) == Some(&node.address)
        });
        prop_assert!(is_complete || !problems.is_empty());
    }
}
