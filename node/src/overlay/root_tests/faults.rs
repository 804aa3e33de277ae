//! Faults, repairs, and the end of the daemon at any step, on one host.

use contrail_mesos::net::testing::{isolated, run};
use contrail_mesos_api::cluster::Object;
use contrail_mesos_api::container::Mac;

use super::*;
use crate::overlay::desired::tests::{cluster, node, overlay};

#[test]
fn state_is_built_once_and_own_changes_make_no_comparison_due() {
    isolated(|| {
        host("192.0.2.1/24");
        let cluster = cluster([node(1), node(2), node(3)]);
        let mut subsystem = subsystem();
        let planned = subsystem.reconcile(&cluster, Mode::DryRun).unwrap();
        assert_eq!(snapshot(), [""; 0], "a dry run changes nothing");
        let outcome = subsystem.reconcile(&cluster, Mode::Apply).unwrap();
        assert_eq!(outcome.problems, [""; 0]);
        for part in [
            "create device vtep1024: vni 1024 local 192.0.2.1 port 4789 mac 70:b3:d5:80:00:01 mtu 1450",
            "add route 9.0.2.0/24 via 44.128.0.2 dev vtep1024",
            "set neighbour fd44::3 lladdr 70:b3:d5:80:00:03 dev vtep1024",
        ] {
            let has_part =
                |outcome: &Outcome| outcome.changes.iter().any(|change| change.0 == part);
            assert!(has_part(&planned), "{part}: {planned:#?}");
            assert!(has_part(&outcome), "{part}: {outcome:#?}");
        }
        assert!(!subsystem.receive());
        let outcome = subsystem.reconcile(&cluster, Mode::Apply).unwrap();
        assert_eq!(outcome, Outcome::default());
        assert!(!subsystem.receive());
        assert_eq!(due(&cluster), [""; 0], "after a restart");
        for part in [
            "9.0.2.0/24 via 44.128.0.2 dev vtep1024 onlink",
            "fd09:0:0:3::/64 via fd44::3 dev vtep1024 metric 1024 onlink pref medium",
            "44.128.0.2 dev vtep1024 lladdr 70:b3:d5:80:00:02 PERMANENT",
            "70:b3:d5:80:00:02 dst 192.0.2.2 self permanent",
            "table inet contrail_mesos_overlay",
        ] {
            let lines = snapshot();
            assert!(lines.iter().any(|line| line == part), "{part}: {lines:#?}");
        }
        for (name, value) in [
            ("net.ipv4.ip_forward", "1"),
            ("net.ipv4.ip_forward_use_pmtu", "1"),
            ("net.ipv4.conf.vtep1024.rp_filter", "2"),
            ("net.ipv6.conf.all.forwarding", "1"),
        ] {
            assert_eq!(run("sysctl", &format!("-n {name}")).trim(), value, "{name}");
        }
    });
}

#[test]
fn whatever_somebody_removes_or_changes_is_noticed_and_repaired() {
    isolated(|| {
        host("192.0.2.1/24");
        let cluster = cluster([node(1), node(2), node(3)]);
        let mut subsystem = subsystem();
        subsystem.reconcile(&cluster, Mode::Apply).unwrap();
        let complete = snapshot();
        assert!(!subsystem.receive());
        for (program, arguments) in [
            ("ip", "-4 route flush proto 133"),
            ("ip", "-6 route flush proto 133"),
            ("ip", "route del 9.0.2.0/24"),
            (
                "ip",
                "route add 9.0.9.0/24 via 44.128.0.2 dev vtep1024 onlink proto 133",
            ),
            ("ip", "neigh flush dev vtep1024 nud permanent"),
            ("ip", "neigh del 44.128.0.2 dev vtep1024"),
            (
                "ip",
                "neigh replace 44.128.0.2 lladdr 02:00:00:00:00:09 dev vtep1024 nud permanent",
            ),
            (
                "ip",
                "neigh add 44.128.0.9 lladdr 02:00:00:00:00:09 dev vtep1024 nud permanent",
            ),
            ("bridge", "fdb del 70:b3:d5:80:00:02 dev vtep1024 self"),
            (
                "bridge",
                "fdb replace 70:b3:d5:80:00:02 dev vtep1024 dst 192.0.2.9 self permanent",
            ),
            (
                "bridge",
                "fdb replace 70:b3:d5:80:00:02 dev vtep1024 dst 192.0.2.2 port 9 self permanent",
            ),
            (
                "bridge",
                "fdb add 02:00:00:00:00:09 dev vtep1024 dst 192.0.2.9 self permanent",
            ),
            ("ip", "addr del 44.128.0.1/20 dev vtep1024"),
            ("ip", "addr del fd44::1/64 dev vtep1024"),
            ("ip", "addr add 10.9.9.9/24 dev vtep1024"),
            ("ip", "link set vtep1024 mtu 1300"),
            ("ip", "link set vtep1024 mtu 1200"),
            ("ip", "link set vtep1024 address 02:00:00:00:00:09"),
            ("ip", "link set vtep1024 down"),
            ("ip", "link set vtep1024 type vxlan learning"),
            ("ip", "link del vtep1024"),
            ("sysctl", "-w net.ipv4.conf.vtep1024.rp_filter=1"),
            ("sysctl", "-w net.ipv4.ip_forward=0"),
            ("nft", "flush ruleset"),
            (
                "nft",
                "delete element inet contrail_mesos_overlay sources4 { 192.0.2.2 }",
            ),
            (
                "nft",
                "add element inet contrail_mesos_overlay sources4 { 192.0.2.9 }",
            ),
        ] {
            run(program, arguments);
            assert!(is_readable(&subsystem), "{arguments}");
            assert!(subsystem.receive(), "{arguments}");
            let outcome = subsystem.reconcile(&cluster, Mode::Apply).unwrap();
            assert_eq!(outcome.problems, [""; 0], "{arguments}");
            assert!(!outcome.changes.is_empty(), "{arguments}");
            assert_eq!(snapshot(), complete, "{arguments}");
            assert_eq!(due(&cluster), [""; 0], "{arguments}");
            // A device that was changed may report some of it twice.
            while subsystem.receive() {
                let outcome = subsystem.reconcile(&cluster, Mode::Apply).unwrap();
                assert_eq!(outcome, Outcome::default(), "{arguments}");
            }
        }
    });
}

#[test]
fn change_of_the_uplinks_mtu_is_followed() {
    isolated(|| {
        host("192.0.2.1/24");
        let cluster = cluster([node(1), node(2)]);
        let mut subsystem = subsystem();
        subsystem.reconcile(&cluster, Mode::Apply).unwrap();
        assert!(!subsystem.receive());
        run("ip", "link set eth0 mtu 9000");
        assert!(subsystem.receive());
        let outcome = subsystem.reconcile(&cluster, Mode::Apply).unwrap();
        let changes = ["set vtep1024 up with mtu 8950"];
        assert_eq!(
            outcome
                .changes
                .iter()
                .map(|change| &change.0)
                .collect::<Vec<_>>(),
            changes
        );
    });
}

#[test]
fn node_that_is_gone_leaves_nothing() {
    isolated(|| {
        host("192.0.2.1/24");
        let with = cluster([node(1), node(2), node(3)]);
        let without = cluster([node(1), node(2)]);
        reconcile(&without);
        let before = snapshot();
        let outcome = reconcile(&with);
        assert_eq!(outcome.changes.len(), 2 + 1 + 2 + 1);
        // The daemon did not run meanwhile.
        let outcome = reconcile(&without);
        assert_eq!(outcome.changes.len(), 2 + 1 + 2 + 1);
        assert_eq!(snapshot(), before);
        assert!(!run("nft", "list ruleset").contains("192.0.2.3"));
    });
}

#[test]
fn overlay_that_is_gone_leaves_nothing() {
    isolated(|| {
        host("192.0.2.1/24");
        let mut cluster = cluster([node(1), node(2)]);
        reconcile(&cluster);
        run("ip", "link add foreign type vxlan id 9 dstport 4789");
        run("nft", "add table inet foreign");
        cluster.overlays.clear();
        for node in cluster.nodes.values_mut() {
            node.subnets.clear();
        }
        let outcome = reconcile(&cluster);
        assert_eq!(outcome.problems, [""; 0]);
        assert_eq!(snapshot(), [""; 0]);
        assert_eq!(due(&cluster), [""; 0]);
        run("ip", "link show foreign");
        assert!(run("nft", "list tables").contains("foreign"));
    });
}

#[test]
fn state_without_this_node_or_its_address_changes_nothing() {
    isolated(|| {
        host("192.0.2.1/24");
        let complete = cluster([node(1), node(2)]);
        reconcile(&complete);
        let before = snapshot();
        let mut states = vec![cluster([]), cluster([node(2)])];
        states.push(cluster([node(1)]));
        states[2].underlay = None;
        for state in states {
            assert_eq!(reconcile(&state), Outcome::default());
            assert_eq!(snapshot(), before);
        }
        run("ip", "addr del 192.0.2.1/24 dev eth0");
        let mut subsystem = subsystem();
        let outcome = subsystem
            .reconcile(&cluster([node(1)]), Mode::Apply)
            .unwrap();
        assert_eq!((outcome.changes.len(), outcome.problems.len()), (0, 1));
        assert!(outcome.problems[0].contains("192.0.2.1"), "{outcome:?}");
        assert_eq!(snapshot(), before);
        run("ip", "addr add 192.0.2.1/24 dev eth0");
        assert!(is_readable(&subsystem) && subsystem.receive());
        let outcome = subsystem.reconcile(&complete, Mode::Apply).unwrap();
        assert_eq!(outcome, Outcome::default());
    });
}

#[test]
fn foreign_routes_are_reported_and_untouched() {
    isolated(|| {
        host("192.0.2.1/24");
        let cluster = cluster([node(1), node(2), node(3)]);
        for arguments in [
            "route add 9.0.2.0/24 via 192.0.2.99 metric 50",
            "-6 route add fd09:0:0:2::/64 dev eth0 metric 2000",
        ] {
            run("ip", arguments);
        }
        let foreign = || run("ip", "route show") + &run("ip", "-6 route show dev eth0");
        let before = foreign();
        let outcome = reconcile(&cluster);
        assert_eq!(outcome.problems.len(), 2, "{outcome:#?}");
        for part in ["9.0.2.0/24", "agent-2", "192.0.2.99"] {
            assert!(outcome.problems[0].contains(part), "{outcome:#?}");
        }
        let lines = run("ip", "route show proto 133");
        assert!(!lines.contains("9.0.2.0/24") && lines.contains("9.0.3.0/24"));
        assert!(
            foreign().contains("9.0.2.0/24 via 192.0.2.99 dev eth0"),
            "{before}"
        );
        // Ours is replaced by somebody else's, which then stays.
        let mut subsystem = subsystem();
        subsystem.reconcile(&cluster, Mode::Apply).unwrap();
        run("ip", "route replace 9.0.3.0/24 via 192.0.2.99");
        assert!(subsystem.receive());
        let outcome = subsystem.reconcile(&cluster, Mode::Apply).unwrap();
        assert_eq!(outcome.problems.len(), 3, "{outcome:#?}");
        assert_eq!(outcome.changes, []);
        assert!(run("ip", "route show 9.0.3.0/24").contains("192.0.2.99"));
        run("ip", "route del 9.0.3.0/24");
        run("ip", "route del 9.0.2.0/24");
        let outcome = reconcile(&cluster);
        assert_eq!((outcome.changes.len(), outcome.problems.len()), (2, 1));
    });
}

#[test]
fn foreign_device_is_reported_and_untouched() {
    isolated(|| {
        host("192.0.2.1/24");
        let mut cluster = cluster([node(1), node(2)]);
        let mut red = overlay("red", 7);
        red.subnet = Some("10.7.0.0/16".parse().unwrap());
        red.subnet6 = None;
        cluster.put(Object::Overlay(red));
        for (create, part) in [
            ("link add vtep1024 type bridge", "bridge"),
            (
                "link add vtep1024 type vxlan id 1024 dstport 4789",
                "without an alias",
            ),
            (
                "link add flannel.1024 type vxlan id 1024 dstport 4789",
                "1024",
            ),
        ] {
            run("ip", create);
            let name = create.split(' ').nth(2).unwrap();
            let settings = || {
                ["rp_filter", "forwarding"].map(|setting| {
                    let name = name.replace('.', "/");
                    run("sysctl", &format!("net.ipv4.conf.{name}.{setting}"))
                })
            };
            // Forwarding of all links would be passed on to it.
            run("sysctl", "-w net.ipv4.ip_forward=1");
            run(
                "sysctl",
                &format!("-w net.ipv4.conf.{}.forwarding=0", name.replace('.', "/")),
            );
            let before = run("ip", &format!("link show {name}"));
            let settings_before = settings();
            let outcome = reconcile(&cluster);
            assert_eq!(settings(), settings_before);
            assert_eq!(outcome.problems.len(), 1, "{create}: {outcome:#?}");
            assert!(outcome.problems[0].contains(part), "{outcome:#?}");
            assert_eq!(run("ip", &format!("link show {name}")), before);
            assert_eq!(run("ip", "route show proto 133"), "");
            // The other overlay goes on.
            run("ip", "link show vtep7");
            run("ip", &format!("link del {name}"));
        }
        assert_eq!(reconcile(&cluster).problems, [""; 0]);
    });
}

#[test]
fn port_of_another_program_is_named() {
    isolated(|| {
        host("192.0.2.1/24");
        run("ip", "link add other type vxlan external dstport 4789");
        run("ip", "link set other up");
        let outcome = reconcile(&cluster([node(1), node(2)]));
        let has_port = |problem: &String| problem.contains("UDP port 4789");
        assert!(outcome.problems.iter().any(has_port), "{outcome:#?}");
    });
}

/// Each route leads to a neighbour, and each neighbour to a forwarding entry.
fn assert_no_dangling_entry() {
    let neighbours = run("ip", "neigh show nud permanent");
    for family in ["-4", "-6"] {
        let routes = run("ip", &format!("{family} route show proto 133"));
        for route in routes.lines() {
            let gateway = route.split(' ').nth(2).unwrap();
            let of_gateway = |line: &&str| line.split(' ').next() == Some(gateway);
            assert!(neighbours.lines().any(|line| of_gateway(&line)), "{route}");
        }
    }
    if neighbours.is_empty() {
        return;
    }
    let entries = run("bridge", "fdb show dev vtep1024");
    for neighbour in neighbours.lines().filter(|line| line.contains("vtep1024")) {
        let mac = neighbour.split(' ').nth(4).unwrap();
        assert!(entries.contains(mac), "{neighbour}: {entries}");
    }
}

/// Changes from `before` to `after`, ending before each of the steps in turn.
fn end_before_each_step(before: &ClusterState, after: &ClusterState) {
    reconcile(after);
    let complete = snapshot();
    let sources = run("nft", "list ruleset");
    for steps in 0.. {
        reconcile(before);
        let mut ended = subsystem();
        ended.remaining = Some(steps);
        ended.reconcile(after, Mode::Apply).unwrap();
        let has_ended = ended.remaining == Some(0);
        drop(ended);
        assert_no_dangling_entry();
        let outcome = reconcile(after);
        assert_eq!(outcome.problems, [""; 0], "after {steps} steps");
        assert_eq!(snapshot(), complete, "after {steps} steps");
        assert_eq!(run("nft", "list ruleset"), sources, "after {steps} steps");
        assert_eq!(due(after), [""; 0], "after {steps} steps");
        if !has_ended {
            assert!(steps > 3, "only {steps} steps");
            return;
        }
    }
}

#[test]
fn end_between_any_two_steps_is_made_up_for() {
    isolated(|| {
        host("192.0.2.1/24");
        let mut none = cluster([node(1)]);
        none.overlays.clear();
        none.nodes.get_mut("agent-1").unwrap().subnets.clear();
        let complete = cluster([node(1), node(2), node(3)]);
        end_before_each_step(&none, &complete);
        end_before_each_step(&complete, &none);

        // Another MAC address and underlay address, a subnet that moves, and a node that is gone.
        let mut moved = node(2);
        moved.vtep.mac = Mac([2, 0, 0, 0, 0, 0x22]);
        moved.address = [192, 0, 2, 22].into();
        let mut taker = node(4);
        taker.subnets = node(3).subnets;
        let changed = cluster([node(1), moved, taker]);
        end_before_each_step(&complete, &changed);

        // The device is replaced.
        let mut other_port = complete.clone();
        other_port.underlay.as_mut().unwrap().vxlan_port = 8472;
        end_before_each_step(&complete, &other_port);
    });
}

#[test]
fn neighbour_changes_after_the_new_forwarding_entry_and_before_the_old_one() {
    isolated(|| {
        host("192.0.2.1/24");
        reconcile(&cluster([node(1), node(2)]));
        let mut moved = node(2);
        moved.vtep.mac = Mac([2, 0, 0, 0, 0, 0x22]);
        moved.address = [192, 0, 2, 22].into();
        let outcome = reconcile(&cluster([node(1), moved]));
        let changes: Vec<_> = outcome
            .changes
            .iter()
            .map(|change| change.0.as_str())
            .collect();
        assert_eq!(
            changes,
            [
                "add to the nftables table inet contrail_mesos_overlay: the host 192.0.2.22",
                "set forwarding 02:00:00:00:00:22 dst 192.0.2.22 dev vtep1024",
                "set neighbour 44.128.0.2 lladdr 02:00:00:00:00:22 dev vtep1024",
                "set neighbour fd44::2 lladdr 02:00:00:00:00:22 dev vtep1024",
                "remove forwarding 70:b3:d5:80:00:02 dev vtep1024",
                "remove from the nftables table inet contrail_mesos_overlay: the host 192.0.2.2",
            ]
        );
    });
}
