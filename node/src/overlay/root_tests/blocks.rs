//! Routes to blocks, which move between nodes.

use contrail_mesos::net::testing::{isolated, run};
use contrail_mesos_api::cluster::Node;

use super::data_path::{cluster, node};
use super::*;

/// A node that has borrowed these blocks.
fn borrowing(number: u8, blocks: &[&str]) -> Node {
    let mut node = node(number);
    let subnets = &mut node.subnets[0];
    (subnets.subnet, subnets.subnet6) = (None, None);
    subnets.blocks = blocks.iter().map(|block| block.parse().unwrap()).collect();
    node
}

/// The routes of both families: destination and gateway.
fn routes() -> Vec<String> {
    let families = ["-4", "-6"].map(|family| run("ip", &format!("{family} route show proto 133")));
    let lines = families.iter().flat_map(|routes| routes.lines());
    let mut routes: Vec<String> = lines
        .map(|line| {
            line.split_whitespace()
                .take(3)
                .collect::<Vec<_>>()
                .join(" ")
        })
        .collect();
    routes.sort();
    routes
}

#[test]
fn routes_follow_blocks_that_move() {
    isolated(|| {
        host("192.0.2.1/24");
        let own = || borrowing(1, &["9.0.0.0/28"]);
        let before = cluster([
            own(),
            borrowing(2, &["9.0.0.16/28", "9.0.5.0/28", "fd09::10/124"]),
            borrowing(3, &[]),
        ]);
        assert_eq!(reconcile(&before).problems, [""; 0]);
        assert_eq!(
            routes(),
            [
                "9.0.0.16/28 via 44.128.0.2",
                "9.0.5.0/28 via 44.128.0.2",
                "fd09::10/124 via fd44::2",
            ]
        );
        let entries = run("bridge", "fdb show dev vtep1024");
        // It was given back, and another node gets it.
        let after = cluster([
            own(),
            borrowing(2, &["9.0.0.16/28"]),
            borrowing(3, &["9.0.5.0/28", "fd09::10/124"]),
        ]);
        assert_eq!(reconcile(&after).problems, [""; 0]);
        assert_eq!(
            routes(),
            [
                "9.0.0.16/28 via 44.128.0.2",
                "9.0.5.0/28 via 44.128.0.3",
                "fd09::10/124 via fd44::3",
            ]
        );
        assert_eq!(run("bridge", "fdb show dev vtep1024"), entries);
        // This node gets one itself: it has no route to it by the overlay.
        let own_now = cluster([
            borrowing(1, &["9.0.0.0/28", "9.0.5.0/28"]),
            borrowing(2, &["9.0.0.16/28"]),
            borrowing(3, &[]),
        ]);
        assert_eq!(reconcile(&own_now).problems, [""; 0]);
        assert_eq!(routes(), ["9.0.0.16/28 via 44.128.0.2"]);
        assert_eq!(due(&own_now), [""; 0]);
    });
}
