//! What a comparison costs with many nodes.

use contrail_mesos::net::testing::{isolated, run};
use contrail_mesos_api::cluster::{Node, NodeSubnets, Object, Vtep};
use contrail_mesos_api::container::Mac;
use std::net::Ipv4Addr;

use super::*;
use crate::overlay::desired::tests::{cluster, node};

fn numbered(number: u16) -> Node {
    let [high, low] = number.to_be_bytes();
    let subnet = NodeSubnets {
        overlay: "blue".to_owned(),
        subnet: Some(format!("9.{}.{low}.0/24", high + 1).parse().unwrap()),
        subnet6: Some(format!("fd09:0:1:{number:x}::/64").parse().unwrap()),
        blocks: vec![],
        returned: 0,
    };
    Node {
        name: format!("node-{number}"),
        address: [192, 0, 128 + high, low].into(),
        vtep: Vtep {
            address: Ipv4Addr::new(44, 129, high, low),
            address6: Some(format!("fd44::1:{number:x}").parse().unwrap()),
            mac: Mac([2, 0, 0, 1, high, low]),
        },
        subnets: vec![subnet],
    }
}

fn of_nodes(count: u16) -> ClusterState {
    let mut cluster = cluster([node(1)]);
    cluster.underlay.as_mut().unwrap().vtep_subnet = "44.128.0.0/12".parse().unwrap();
    for number in 1..=count {
        cluster.put(Object::Node(numbered(number)));
    }
    cluster
}

/// The requests of a comparison, and its outcome.
fn requests(subsystem: &mut OverlaySubsystem, cluster: &ClusterState) -> (u32, Outcome) {
    let sent = |subsystem: &OverlaySubsystem| subsystem.socket.sent() + subsystem.sources.sent();
    let before = sent(subsystem);
    let outcome = subsystem.reconcile(cluster, Mode::Apply).unwrap();
    (sent(subsystem) - before, outcome)
}

#[test]
fn comparison_costs_the_same_with_many_nodes_and_a_change_its_own_entries() {
    isolated(|| {
        host("192.0.2.1/24");
        let mut subsystem = subsystem();
        subsystem.reconcile(&of_nodes(2), Mode::Apply).unwrap();
        let (with_two, outcome) = requests(&mut subsystem, &of_nodes(2));
        assert_eq!(outcome, Outcome::default());

        let mut many = of_nodes(5000);
        let outcome = subsystem.reconcile(&many, Mode::Apply).unwrap();
        assert_eq!(outcome.problems, [""; 0]);
        assert_eq!(outcome.changes.len(), 4998 * 5 + 1);
        assert!(!subsystem.receive(), "own changes make a comparison due");
        assert_eq!(run("ip", "-4 route show proto 133").lines().count(), 5000);
        let (with_many, outcome) = requests(&mut subsystem, &many);
        assert_eq!(outcome, Outcome::default());
        assert_eq!(with_many, with_two);

        many.put(Object::Node(numbered(5001)));
        let (with_change, outcome) = requests(&mut subsystem, &many);
        assert_eq!(outcome.changes.len(), 2 + 1 + 2 + 1);
        // Each entry, a look-up for each route, a transaction for the source, and the devices are
        // read once more.
        assert_eq!(with_change - with_many, 5 + 2 + 3 + 2);

        run("ip", "link del vtep1024");
        let outcome = subsystem.reconcile(&many, Mode::Apply).unwrap();
        assert_eq!(outcome.problems, [""; 0]);
        assert_eq!(requests(&mut subsystem, &many).1, Outcome::default());
        let outcome = subsystem.reconcile(&of_nodes(2), Mode::Apply).unwrap();
        assert_eq!(outcome.problems, [""; 0]);
        assert_eq!(run("ip", "-4 route show proto 133").lines().count(), 2);
        assert_eq!(run("bridge", "fdb show dev vtep1024").lines().count(), 2);
    });
}
