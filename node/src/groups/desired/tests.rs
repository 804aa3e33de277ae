use contrail_mesos::provider::bridge::ContainerPolicy;
use contrail_mesos_api::cluster::{Admission, Endpoint, Object, RuleSource, SecurityGroup};
use contrail_mesos_api::container::{ContainerId, Mac};

use super::*;
use crate::testing::{cluster as plain_cluster, node, overlay};

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

fn membership(groups: &[&str], security_groups: &[&str]) -> Membership {
    Membership {
        groups: names(groups),
        security_groups: names(security_groups),
    }
}

/// A container of this host with that last byte of its addresses.
fn local(last: u8, overlay: Option<&str>, membership: Membership) -> LocalEndpoint {
    let net = if overlay.is_some() { 9 } else { 10 };
    LocalEndpoint {
        container: ContainerId::top_level(&format!("c{last}")),
        network: "front".to_owned(),
        overlay: overlay.map(str::to_owned),
        bridge: "m-front".to_owned(),
        bridge_addresses: vec![format!("{net}.0.1.1/25").parse().unwrap()],
        host_interface: format!("cm{last}"),
        mac: Mac([2, 0, 0, 0, 0, last]),
        addresses: vec![[net, 0, 1, last].into()],
        policy: Some(ContainerPolicy {
            membership,
            admission: Admission::default(),
        }),
    }
}

/// A state whose overlay `dcos` isolates groups.
fn cluster() -> ClusterState {
    let mut cluster = plain_cluster("3.1");
    cluster.overlays.get_mut("dcos").unwrap().groups = Some(Admission::default());
    cluster
}

fn remote(id: &str, address: [u8; 4], membership: Membership) -> Object {
    Object::Endpoint(Endpoint {
        node: "node-2".to_owned(),
        id: id.to_owned(),
        addresses: vec![address.into()],
        membership,
    })
}

fn group(name: &str) -> MemberSet {
    MemberSet::Group(name.to_owned())
}

fn named(name: &str) -> MemberSet {
    MemberSet::Named(name.to_owned())
}

fn members(policy: &GroupPolicy, set: &MemberSet) -> Vec<String> {
    let members = policy.members.get(set).into_iter().flatten();
    members.map(ToString::to_string).collect()
}

#[test]
fn nothing_is_decided_without_endpoints_and_isolating_overlays() {
    assert!(desired(None, &[]).0.is_empty());
    assert!(desired(Some(&plain_cluster("3.1")), &[]).0.is_empty());
    // Its containers must not use the addresses of containers that are in groups.
    let (policy, problems) = desired(Some(&cluster()), &[]);
    assert!(!policy.is_empty());
    assert_eq!(problems, [""; 0]);
    assert_eq!((policy.protected.len(), policy.containers.len()), (0, 0));
    let mut isolated = plain_cluster("3.1");
    isolated.overlays.get_mut("dcos").unwrap().isolated = true;
    let (policy, _) = desired(Some(&isolated), &[]);
    assert_eq!((policy.isolated.len(), policy.isolating.len()), (2, 0));
}

#[test]
fn members_of_groups_come_from_this_host_and_from_the_managers() {
    let mut cluster = cluster();
    cluster.put(remote(
        "a",
        [9, 0, 2, 2],
        membership(&["web", "unused"], &[]),
    ));
    cluster.put(remote("b", [9, 0, 2, 3], membership(&[], &[])));
    cluster.put(remote("c", [9, 0, 2, 4], membership(&["other"], &[])));
    let endpoints = [
        local(2, Some("dcos"), membership(&["web"], &[])),
        local(3, Some("dcos"), membership(&[], &[])),
        local(4, None, membership(&["web", "db"], &[])),
    ];
    let (policy, problems) = desired(Some(&cluster), &endpoints);
    assert_eq!(problems, [""; 0]);
    let web = members(&policy, &group("web"));
    assert_eq!(web, ["9.0.1.2", "9.0.2.2", "10.0.1.4"]);
    assert_eq!(members(&policy, &group("db")), ["10.0.1.4"]);
    let ungrouped = members(&policy, &MemberSet::Ungrouped);
    assert_eq!(ungrouped, ["9.0.1.3", "9.0.2.3"]);
    // Groups that no container of this host has take no room.
    assert_eq!(policy.members.len(), 3);
    let rules = &policy.containers[&[10, 0, 1, 4].into()].rules;
    assert_eq!(rules.sources, [group("db"), group("web")].into());
    assert!(!rules.admits_nodes, "only on an overlay");
    assert!(policy.containers[&[9, 0, 1, 2].into()].rules.admits_nodes);
    assert_eq!(policy.protected.len(), 2);
    assert_eq!(policy.ports["cm2"].mac, Mac([2, 0, 0, 0, 0, 2]));

    let (alone, _) = desired(None, &endpoints);
    assert_eq!(members(&alone, &group("web")), ["9.0.1.2", "10.0.1.4"]);
    assert_eq!(alone.guarded, alone.protected);
}

#[test]
fn endpoints_of_others_count_only_with_addresses_of_their_nodes() {
    let mut cluster = cluster();
    let web = || membership(&["web"], &[]);
    for (id, address) in [
        ("of-this-host", [9, 0, 1, 9]),
        ("bridge", [9, 0, 2, 1]),
        ("outside", [192, 0, 2, 1]),
        ("true", [9, 0, 2, 9]),
    ] {
        cluster.put(remote(id, address, web()));
    }
    // What the managers say of this host, or of a node that is gone, is not asked for.
    for node in ["node-1", "node-9"] {
        cluster.put(Object::Endpoint(Endpoint {
            node: node.to_owned(),
            id: "x".to_owned(),
            addresses: vec![[9, 0, 1, 77].into()],
            membership: web(),
        }));
    }
    // An overlay that does not isolate groups.
    let mut open = overlay("open");
    open.subnet = Some("11.0.0.0/8".parse().unwrap());
    cluster.put(Object::Overlay(open));
    let mut second = node(2, "dcos");
    second.subnets.push(NodeSubnets {
        overlay: "open".to_owned(),
        subnet: Some("11.0.2.0/24".parse().unwrap()),
        subnet6: None,
        blocks: vec![],
        returned: 0,
    });
    cluster.put(Object::Node(second));
    cluster.put(remote("open", [11, 0, 2, 9], web()));
    let endpoints = [local(2, Some("dcos"), web())];
    let (policy, problems) = desired(Some(&cluster), &endpoints);
    assert_eq!(members(&policy, &group("web")), ["9.0.1.2", "9.0.2.9"]);
    assert_eq!(problems.len(), 1);
    assert!(problems[0].starts_with("3 addresses"), "{problems:?}");
}

#[test]
fn security_groups_have_the_rules_of_the_managers_or_none() {
    let rule = |protocol, ports, source| IngressRule {
        protocol,
        ports,
        source,
    };
    let mut cluster = cluster();
    cluster.put(Object::SecurityGroup(SecurityGroup {
        name: "db".to_owned(),
        rules: vec![
            rule(
                Some(6),
                Some((5432, 5432)),
                RuleSource::Group("app".to_owned()),
            ),
            rule(Some(1), Some((1, 2)), RuleSource::Group("db".to_owned())),
        ],
    }));
    cluster.put(remote("a", [9, 0, 2, 2], membership(&["app"], &[])));
    cluster.put(remote("b", [9, 0, 2, 3], membership(&[], &["app", "db"])));
    let endpoints = [local(2, Some("dcos"), membership(&[], &["db", "gone"]))];
    let (policy, problems) = desired(Some(&cluster), &endpoints);
    let rules = &policy.containers[&[9, 0, 1, 2].into()].rules;
    // A security group alone is no reason to be reached by containers without groups.
    assert_eq!((rules.sources.len(), rules.rules.len()), (0, 2));
    assert_eq!(members(&policy, &named("app")), ["9.0.2.2", "9.0.2.3"]);
    assert_eq!(members(&policy, &named("db")), ["9.0.1.2", "9.0.2.3"]);
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems.iter().any(|problem| problem.contains("gone")));
    let (alone, problems) = desired(None, &endpoints);
    assert_eq!((alone.members.len(), problems.len()), (0, 2));
}

#[test]
fn isolated_overlay_has_this_hosts_subnets_and_nodes_have_their_addresses() {
    let mut cluster = plain_cluster("3.1");
    cluster.overlays.get_mut("dcos").unwrap().isolated = true;
    let (policy, _) = desired(Some(&cluster), &[]);
    let parts: Vec<_> = policy
        .isolated
        .iter()
        .map(|overlay| format!("{} in {}", overlay.local_subnet, overlay.subnet))
        .collect();
    assert_eq!(
        parts,
        ["9.0.1.0/24 in 9.0.0.0/8", "fd09:0:0:1::/64 in fd09::/48"]
    );
    let nodes: Vec<_> = policy.nodes.iter().map(ToString::to_string).collect();
    assert_eq!(
        nodes,
        [
            "9.0.1.1",
            "9.0.1.129",
            "9.0.2.1",
            "9.0.2.129",
            "44.128.0.1",
            "44.128.0.2",
            "fd09:0:0:1::1",
            "fd09::1:8000:0:0:1",
            "fd09:0:0:2::1",
            "fd09::2:8000:0:0:1",
        ]
    );
    assert_eq!(policy.tunnels, ["vtep4097".to_owned()].into());
    let guarded: Vec<_> = policy.guarded.iter().map(ToString::to_string).collect();
    assert_eq!(guarded, ["9.0.0.0/8", "44.128.0.0/16", "fd09::/48"]);
}

#[test]
fn endpoint_that_lost_its_addresses_has_no_port() {
    let mut old = local(2, None, membership(&["web"], &[]));
    old.addresses.clear();
    let new = local(3, None, membership(&["web"], &[]));
    let (policy, _) = desired(None, &[old, new]);
    assert_eq!(policy.ports.keys().collect::<Vec<_>>(), ["cm3"]);
    assert_eq!(policy.containers.len(), 1);
}
