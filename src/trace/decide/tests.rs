//! Each cause by itself, on a way that is open otherwise.

use std::collections::BTreeSet;

use contrail_mesos_api::cluster::{IngressRule, RuleSource};

use super::*;
use crate::net::listeners::WaitingSocket;
use crate::net::nft::groups::{ContainerRules, EnforcedPolicy, MemberSet};
use crate::net::nft::verdict::FirewallDrop;

fn address(last: u8) -> IpAddr {
    [10, 1, 0, last].into()
}

fn container(last: u8, route: Routing) -> ContainerFacts {
    ContainerFacts {
        name: format!("c{last}"),
        network: "blue".to_owned(),
        interface: "eth0".to_owned(),
        is_attached: true,
        namespace_error: None,
        is_up: Some(true),
        missing_addresses: vec![],
        route: Some(route),
        host_end: Some(HostEnd {
            interface: format!("cm{last}"),
            is_up: Some(true),
            is_port: true,
            bridge: "cmb-blue".to_owned(),
            is_bridge_up: Some(true),
            missing_gateways: vec![],
        }),
        vrouter: None,
    }
}

fn leaves(interface: &str) -> Routing {
    Routing::Leaves {
        interface: interface.to_owned(),
        gateway: None,
        source: Some(address(2)),
    }
}

fn waiting(address: &str) -> WaitingSocket {
    WaitingSocket {
        address: address.parse().unwrap(),
        has_v4: true,
    }
}

fn sockets() -> SocketFacts {
    SocketFacts {
        waiting: vec![waiting("0.0.0.0")],
        firewall: FirewallVerdict::default(),
    }
}

/// From `c2` to port 5432 of `c3` on the same bridge network, by the host's IP layer.
fn open() -> Path {
    Path {
        source: SourceSide::Container(Box::new(container(2, leaves("eth0")))),
        transport: Transport::Tcp,
        port: 5432,
        destination: address(3),
        service: None,
        mapping: None,
        flows: FlowsFacts {
            flows: 5,
            limit: 100,
        },
        branches: vec![Branch {
            destination: (address(3), 5432).into(),
            source: Some(address(2)),
            crossing: Crossing::Routed(Box::new(RoutedFacts {
                input: Some("cmb-blue".to_owned()),
                forwards: true,
                forwarding_setting: "net.ipv4.ip_forward".to_owned(),
                route: leaves("cmb-blue"),
                hook: PacketHook::Forward,
                firewall: FirewallVerdict::default(),
                masquerade: None,
            })),
            target: TargetSide::Container {
                facts: Box::new(container(3, leaves("eth0"))),
                sockets: Some(sockets()),
            },
            policy: None,
        }],
    }
}

fn source(path: &mut Path) -> &mut ContainerFacts {
    match &mut path.source {
        SourceSide::Container(facts) => facts,
        _ => panic!("no container"),
    }
}

fn receiver(path: &mut Path) -> (&mut ContainerFacts, &mut SocketFacts) {
    match &mut path.branches[0].target {
        TargetSide::Container { facts, sockets } => (facts, sockets.as_mut().unwrap()),
        _ => panic!("no container"),
    }
}

fn routed(path: &mut Path) -> &mut RoutedFacts {
    match &mut path.branches[0].crossing {
        Crossing::Routed(facts) => facts,
        _ => panic!("not routed"),
    }
}

fn dropped() -> FirewallVerdict {
    FirewallVerdict {
        drop: Some(FirewallDrop {
            family: "ip",
            table: "filter".to_owned(),
            chain: "FORWARD".to_owned(),
            rule: Some(3),
            comment: Some("no databases".to_owned()),
        }),
        not_understood: 0,
    }
}

#[test]
fn open_way_is_reachable() {
    let (steps, verdict, cause) = decide(&open());
    assert_eq!((verdict, cause), (Verdict::Reachable, None), "{steps:#?}");
    let codes: Vec<_> = steps.iter().map(|step| step.code).collect();
    assert_eq!(codes.first(), Some(&"interface"));
    assert_eq!(codes.last(), Some(&"listener"));
}

type Change = fn(&mut Path);

#[test]
#[expect(clippy::too_many_lines, reason = "one table of causes")]
fn each_cause_has_a_code() {
    let causes: &[(&str, Change)] = &[
        ("not-attached", |path| source(path).is_attached = false),
        ("namespace-gone", |path| {
            source(path).namespace_error = Some("gone".to_owned());
        }),
        ("interface-gone", |path| receiver(path).0.is_up = None),
        ("interface-down", |path| {
            receiver(path).0.is_up = Some(false);
        }),
        ("address-missing", |path| {
            receiver(path).0.missing_addresses = vec!["10.1.0.3/24".parse().unwrap()];
        }),
        ("container-route-missing", |path| {
            source(path).route = Some(Routing::Refused(RouteRefusal::NoRoute));
        }),
        ("return-route-missing", |path| {
            receiver(path).0.route = Some(Routing::Refused(RouteRefusal::NoRoute));
        }),
        ("host-interface-gone", |path| {
            source(path).host_end.as_mut().unwrap().is_up = None;
        }),
        ("host-interface-down", |path| {
            source(path).host_end.as_mut().unwrap().is_up = Some(false);
        }),
        ("bridge-down", |path| {
            source(path).host_end.as_mut().unwrap().is_bridge_up = Some(false);
        }),
        ("bridge-gone", |path| {
            source(path).host_end.as_mut().unwrap().is_bridge_up = None;
        }),
        ("bridge-port-missing", |path| {
            receiver(path).0.host_end.as_mut().unwrap().is_port = false;
        }),
        ("gateway-missing", |path| {
            let end = source(path).host_end.as_mut().unwrap();
            end.missing_gateways = vec!["10.1.0.1/24".parse().unwrap()];
        }),
        ("bridge-ports-isolated", |path| {
            path.branches[0].crossing = Crossing::Switched {
                bridge: "cmb-blue".to_owned(),
                is_isolated: true,
                firewall: None,
            };
        }),
        ("flow-table-full", |path| path.flows.flows = 100),
        ("forwarding-off", |path| {
            routed(path).forwards = false;
            routed(path).route = Routing::Refused(RouteRefusal::Unreachable);
        }),
        ("host-route-missing", |path| {
            routed(path).route = Routing::Refused(RouteRefusal::Blackhole);
        }),
        ("reverse-path-filter", |path| {
            routed(path).route = Routing::Refused(RouteRefusal::ReversePath);
        }),
        ("masquerade-missing", |path| {
            routed(path).masquerade = Some(false);
            path.branches[0].target = TargetSide::Elsewhere;
        }),
        ("firewall-drop", |path| routed(path).firewall = dropped()),
        ("firewall-drop", |path| {
            receiver(path).1.firewall = dropped();
        }),
        ("firewall-drop", |path| {
            path.branches[0].crossing = Crossing::Switched {
                bridge: "cmb-blue".to_owned(),
                is_isolated: false,
                firewall: Some(dropped()),
            };
        }),
        ("no-listener", |path| receiver(path).1.waiting.clear()),
        ("listens-on-loopback", |path| {
            receiver(path).1.waiting = vec![waiting("127.0.0.1"), waiting("::1")];
        }),
        ("listens-on-other-address", |path| {
            receiver(path).1.waiting = vec![waiting("127.0.0.1"), waiting("10.1.0.9")];
        }),
        ("port-mapping-missing", |path| {
            path.mapping = Some(MappingFacts {
                container: Some("c3".to_owned()),
                target: None,
            });
            path.branches.clear();
        }),
        ("address-unused", |path| {
            path.branches[0].target = TargetSide::Nobody {
                network: "blue".to_owned(),
            };
        }),
        ("no-route-back", |path| {
            path.source = SourceSide::Outside { interface: None };
        }),
    ];
    for (code, change) in causes {
        let mut path = open();
        change(&mut path);
        let (steps, verdict, cause) = decide(&path);
        assert_eq!(
            (verdict, cause),
            (Verdict::Blocked, Some(*code)),
            "{steps:#?}"
        );
        let stopping = steps.iter().filter(|step| step.outcome == Outcome::Stops);
        assert!(stopping.into_iter().all(|step| step.remedy.is_some()));
    }
}

#[test]
fn services_name_backends_that_are_missing_or_unhealthy() {
    let service = |is_programmed, draining: &[&str]| {
        let mut path = open();
        path.service = Some(ServiceFacts {
            name: "db.marathon:5432/tcp".to_owned(),
            is_programmed,
            backends: vec![],
            draining: draining.iter().map(ToString::to_string).collect(),
        });
        path.branches.clear();
        decide(&path).2
    };
    assert_eq!(service(false, &[]), Some("service-not-applied"));
    assert_eq!(service(true, &[]), Some("service-without-backend"));
    assert_eq!(service(true, &["db.1"]), Some("service-backends-unhealthy"));
    let mut path = open();
    path.service = Some(ServiceFacts {
        name: "db.marathon:5432/tcp".to_owned(),
        is_programmed: true,
        backends: vec![(address(3), 5432).into(), (address(4), 5432).into()],
        draining: vec![],
    });
    assert_eq!(decide(&path).1, Verdict::Reachable);
    // One of two backends cannot be reached.
    let mut second = path.branches[0].clone();
    second.destination.set_ip(address(4));
    path.branches.push(second);
    receiver(&mut path).1.waiting.clear();
    assert_eq!(decide(&path).2, Some("no-listener"));
}

#[test]
fn what_cannot_be_seen_from_here_is_not_said_to_work() {
    let mut path = open();
    path.branches[0].crossing = Crossing::Vrouter;
    let (_, verdict, cause) = decide(&path);
    assert_eq!(
        (verdict, cause),
        (Verdict::Unknown, Some("vrouter-policy-unknown"))
    );
    source(&mut path).vrouter = Some(super::super::path::VrouterFacts {
        virtual_network: None,
        port: Some(Ok(false)),
    });
    assert_eq!(decide(&path).2, Some("vrouter-port-missing"));
    let mut path = open();
    path.branches[0].target = TargetSide::Elsewhere;
    assert_eq!(decide(&path).1, Verdict::Leaves);
}

#[test]
fn what_an_overlay_lacks_of_a_node_is_named() {
    let whole = NodeFacts {
        node: "agent-2".to_owned(),
        address: Some([192, 0, 2, 2].into()),
        overlay: "dcos".to_owned(),
        container: None,
        is_device_up: Some(true),
        device: "vtep1024".to_owned(),
        has_route: true,
        has_neighbour: true,
        has_forwarding_entry: true,
        reaches_node: true,
        command: "contrail-mesos trace 9.0.1.2 9.0.2.2:80/tcp".to_owned(),
    };
    let cause = |change: fn(&mut NodeFacts)| {
        let mut facts = whole.clone();
        change(&mut facts);
        let mut path = open();
        path.branches[0].target = TargetSide::Node(facts);
        let (_, verdict, cause) = decide(&path);
        (verdict, cause)
    };
    let blocked = |code| (Verdict::Blocked, Some(code));
    assert_eq!(cause(|_| {}), (Verdict::Leaves, None));
    let device_missing = cause(|facts| facts.is_device_up = None);
    assert_eq!(device_missing, blocked("overlay-device-missing"));
    let device_down = cause(|facts| facts.is_device_up = Some(false));
    assert_eq!(device_down, blocked("overlay-device-down"));
    let route = cause(|facts| facts.has_route = false);
    assert_eq!(route, blocked("overlay-route-missing"));
    let neighbour = cause(|facts| facts.has_neighbour = false);
    assert_eq!(neighbour, blocked("overlay-neighbour-missing"));
    let entry = cause(|facts| facts.has_forwarding_entry = false);
    assert_eq!(entry, blocked("overlay-forwarding-entry-missing"));
    assert_eq!(
        cause(|facts| facts.reaches_node = false),
        blocked("node-unreachable")
    );
}

/// A policy by which the containers share the group `db`.
fn shared() -> PolicyFacts {
    let members: BTreeSet<_> = [MemberSet::Group("db".to_owned())].into();
    PolicyFacts {
        rules: ContainerRules {
            sources: members.clone(),
            ..ContainerRules::default()
        },
        expected: members.clone(),
        enforced: Some(EnforcedPolicy {
            is_active: true,
            is_known: true,
            members,
            is_node: false,
            is_isolating: true,
        }),
        isolates_groups: true,
        source_groups: Some(vec!["db".to_owned()]),
        destination_groups: vec!["db".to_owned()],
        ..PolicyFacts::default()
    }
}

#[test]
fn groups_decide_as_the_rules_of_the_node_daemon_do() {
    let cause = |change: fn(&mut PolicyFacts)| {
        let mut facts = shared();
        change(&mut facts);
        let mut path = open();
        path.branches[0].policy = Some(facts);
        decide(&path).2
    };
    assert_eq!(cause(|_| {}), None);
    let no_group = cause(|facts| {
        facts.expected.clear();
        facts.enforced.as_mut().unwrap().members.clear();
    });
    assert_eq!(no_group, Some("no-shared-group"));
    let not_applied = cause(|facts| facts.enforced.as_mut().unwrap().members.clear());
    assert_eq!(not_applied, Some("group-policy-not-applied"));
    let no_rules = cause(|facts| facts.enforced.as_mut().unwrap().is_active = false);
    assert_eq!(no_rules, Some("group-rules-missing"));
    let unknown = cause(|facts| {
        facts.expected.clear();
        facts.enforced.as_mut().unwrap().is_known = false;
    });
    assert_eq!(unknown, Some("unknown-container"));
    assert_eq!(
        cause(|facts| facts.is_spoofed = true),
        Some("spoofed-source")
    );
    let isolated = cause(|facts| facts.isolated_overlay = Some("dcos".to_owned()));
    assert_eq!(isolated, Some("isolated-overlay"));
    let outside = cause(|facts| {
        facts.expected.clear();
        facts.source_groups = None;
        let enforced = facts.enforced.as_mut().unwrap();
        enforced.members.clear();
        enforced.is_isolating = false;
    });
    assert_eq!(outside, Some("outside"));
    // The same with what admits it.
    let mapped = cause(|facts| {
        facts.expected.clear();
        facts.rules.admits_mapped_ports = true;
        facts.is_translated = true;
        let enforced = facts.enforced.as_mut().unwrap();
        enforced.members.clear();
        enforced.is_isolating = false;
    });
    assert_eq!(mapped, None);
    let host = cause(|facts| {
        facts.expected.clear();
        facts.enforced.as_mut().unwrap().members.clear();
        facts.is_from_host = true;
        facts.admits_own_host = true;
    });
    assert_eq!(host, None);
    // On another node, by what the managers know.
    let remote = cause(|facts| {
        facts.enforced = None;
        facts.expected.clear();
    });
    assert_eq!(remote, Some("no-shared-group"));
}

#[test]
fn rules_of_security_groups_are_matched() {
    let cause = |rule: IngressRule| {
        let mut facts = shared();
        facts.expected.clear();
        facts.enforced.as_mut().unwrap().members.clear();
        facts.rules.rules = [rule].into();
        let mut path = open();
        path.branches[0].policy = Some(facts);
        decide(&path).2
    };
    let rule = |protocol, ports, subnet: &str| IngressRule {
        protocol,
        ports,
        source: RuleSource::Subnet(subnet.parse().unwrap()),
    };
    let none = Some("no-shared-group");
    assert_eq!(cause(rule(None, None, "10.1.0.0/24")), None);
    assert_eq!(cause(rule(Some(6), Some((5000, 6000)), "0.0.0.0/0")), None);
    assert_eq!(cause(rule(Some(17), None, "0.0.0.0/0")), none);
    assert_eq!(cause(rule(Some(6), Some((1, 80)), "0.0.0.0/0")), none);
    assert_eq!(cause(rule(None, None, "10.9.0.0/24")), none);
}
