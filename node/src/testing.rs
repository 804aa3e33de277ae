//! Objects for tests.

use contrail_mesos_api::cluster::{Node, NodeSubnets, Overlay, Revision, Underlay, Vtep};
use contrail_mesos_api::container::Mac;

use crate::cluster_state::ClusterState;

pub(crate) fn revision(text: &str) -> Revision {
    text.parse().unwrap()
}

pub(crate) fn overlay(name: &str) -> Overlay {
    Overlay {
        name: name.to_owned(),
        vni: 4097,
        subnet: Some("9.0.0.0/8".parse().unwrap()),
        subnet6: Some("fd09::/48".parse().unwrap()),
        mtu: None,
        enabled: true,
        groups: None,
        isolated: false,
        lends_blocks: false,
    }
}

/// The node `node-{number}` with a subnet of each family in `overlay`.
pub(crate) fn node(number: u8, overlay: &str) -> Node {
    Node {
        name: format!("node-{number}"),
        address: format!("192.0.2.{number}").parse().unwrap(),
        vtep: Vtep {
            address: format!("44.128.0.{number}").parse().unwrap(),
            address6: None,
            mac: Mac([0x70, 0xb3, 0xd5, 0x80, 0, number]),
        },
        subnets: vec![NodeSubnets {
            overlay: overlay.to_owned(),
            subnet: Some(format!("9.0.{number}.0/24").parse().unwrap()),
            subnet6: Some(format!("fd09:0:0:{number}::/64").parse().unwrap()),
            blocks: vec![],
            returned: 0,
        }],
    }
}

/// A state with the overlay `dcos` and two nodes, seen from `node-1`.
pub(crate) fn cluster(text: &str) -> ClusterState {
    let mut state = ClusterState::empty("node-1", revision(text));
    state.underlay = Some(Underlay {
        vtep_subnet: "44.128.0.0/16".parse().unwrap(),
        vtep_subnet6: None,
        vxlan_port: 4789,
    });
    state.overlays.insert("dcos".to_owned(), overlay("dcos"));
    for number in [1, 2] {
        let node = node(number, "dcos");
        state.nodes.insert(node.name.clone(), node);
    }
    state
}
