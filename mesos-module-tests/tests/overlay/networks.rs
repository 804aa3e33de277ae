//! What nodes are given, and what containers reach.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use contrail_mesos_api::cluster::{NodeList, halves};
use ipnet::IpNet;
use mesos_module_tests::testbed::multi_node::SERVICES;
use mesos_module_tests::testbed::overlay::{
    ALL_OVERLAYS, Capture, Container, OverlayCluster, two_overlays,
};
use mesos_module_tests::testbed::until;
use serde_json::json;

use crate::fixture::{subnet_of, subnets};

#[test]
fn managers_and_nodes_agree_on_every_subnet() -> Result<()> {
    let cluster = OverlayCluster::start(3)?;
    let list = cluster.wait_until_current()?;
    let names: Vec<&str> = list.nodes.iter().map(|node| &*node.name).collect();
    assert_eq!(names, ["node-1", "node-2", "node-3"]);
    // Operators on any node see the same.
    let printed = cluster.cluster_status(1, &["-o", "json"])?;
    let seen: NodeList = serde_json::from_str(&printed)?;
    assert_eq!(subnets(&seen), subnets(&list));
    let mut given = BTreeSet::new();
    for (index, node) in list.nodes.iter().enumerate() {
        assert_eq!(node.address, Some(cluster.host(index).address()));
        let vtep = node.vtep.context("no tunnel endpoint")?;
        let [_, a, b, c] = vtep.address.octets();
        assert_eq!(vtep.mac.0, [0x70, 0xb3, 0xd5, a, b, c]);
        ensure!(given.insert(vtep.address.to_string()), "{vtep:?}");
        // The library and all other nodes know the same.
        let state = cluster.node_state(index)?;
        for overlay in ["vxlan-1", "vxlan-2"] {
            let subnet = subnet_of(&list, &node.name, overlay)?;
            ensure!(given.insert(subnet.to_string()), "{subnet} is given twice");
            let mesos = halves(subnet.into()).context("no halves")?.0;
            let local = state.overlay(overlay).context("not on the node")?;
            assert_eq!(local.subnet.map(IpNet::V4), Some(mesos));
            assert_eq!((local.mtu, &local.problem), (1450, &None));
            for daemon in &cluster.daemons {
                let known = daemon.get("/v1/cluster")?;
                let subnets = known["nodes"][&node.name]["subnets"].to_string();
                ensure!(subnets.contains(&subnet.to_string()), "{known}");
            }
        }
    }
    cluster.end()
}

#[test]
fn mesos_network_spans_three_hosts() -> Result<()> {
    let cluster = OverlayCluster::start(3)?;
    let containers = [
        Container::start(&cluster, "one", "vxlan-1", 0)?,
        Container::start(&cluster, "two", "vxlan-1", 1)?,
        Container::start(&cluster, "three", "vxlan-1", 2)?,
        Container::start(&cluster, "beside", "vxlan-1", 0)?,
        Container::start(&cluster, "other", "vxlan-2", 0)?,
        Container::start(&cluster, "remote", "vxlan-2", 1)?,
    ];
    for (index, one) in containers.iter().enumerate() {
        for other in &containers[index + 1..] {
            one.expect_reaches(other)?;
        }
    }
    let [one, two, _, beside, ..] = &containers;

    // From a host to a container of another, and from outside nothing.
    let page = cluster.host(2).sh(&two.fetch())?;
    assert_eq!(page.trim(), "two");
    let services = cluster.mesos.services();
    let ping = format!("ping -q -c 1 -W 1 {}", two.address);
    ensure!(services.sh(&ping).is_err(), "it has no route to overlays");
    // The world outside sees the host's address.
    services.sh("mkdir -p /run/www/cgi-bin && cd /run/www && \
         printf '#!/bin/sh\\necho; echo $REMOTE_ADDR\\n' > cgi-bin/peer && chmod +x cgi-bin/peer && \
         busybox httpd -p 8000 -h /run/www")?;
    let peer = two.sh(&format!(
        "curl -sSf -m 5 http://{SERVICES}:8000/cgi-bin/peer"
    ))?;
    let peer = peer.trim().trim_matches(['[', ']']);
    assert_eq!(peer.trim_start_matches("::ffff:"), "192.0.2.2");

    // Between hosts there is VXLAN only, and local traffic stays on its host.
    let capture = Capture::start(cluster.host(0), ALL_OVERLAYS)?;
    one.ping(beside.address, 10)?;
    let counts = capture.counts()?;
    assert_eq!((counts.vxlan, counts.plain), (0, 0));
    one.ping(two.address, 10)?;
    let counts = capture.counts()?;
    ensure!(counts.vxlan >= 10 && counts.plain == 0, "{counts:?}");
    capture.stop()?;
    cluster.end()
}

#[test]
fn mtu_leaves_room_for_the_tunnel() -> Result<()> {
    let cluster = OverlayCluster::start(2)?;
    let one = Container::start(&cluster, "one", "vxlan-1", 0)?;
    let two = Container::start(&cluster, "two", "vxlan-1", 1)?;
    let expect_mtu = |container: &Container, mtu: u32| {
        container.sh(&format!(
            "sh -c 'ip link show dev eth0 | grep -q \"mtu {mtu} \"'"
        ))
    };
    for container in [&one, &two] {
        expect_mtu(container, 1450)?;
    }
    // 28 bytes are headers. What is larger does not leave the container.
    let ping = |size: u32| format!("ping -q -M do -c 1 -W 5 -s {size} {}", two.address);
    one.sh(&ping(1450 - 28))?;
    ensure!(one.sh(&ping(1450 - 27)).is_err(), "the MTU is not 1450");
    one.expect_reaches(&two)?;

    // The managers can choose a lower one, for containers that start later.
    let mut overlays = two_overlays();
    overlays["overlays"][1]["mtu"] = json!(1400);
    cluster.set_overlays(&overlays)?;
    for node in 0..2 {
        until("the node knows the MTU", || {
            let state = cluster.node_state(node)?;
            let mtu = state.overlay("vxlan-2").map(|overlay| overlay.mtu);
            Ok((mtu == Some(1400)).then_some(()))
        })?;
    }
    let three = Container::start(&cluster, "three", "vxlan-2", 0)?;
    let four = Container::start(&cluster, "four", "vxlan-2", 1)?;
    for container in [&three, &four] {
        expect_mtu(container, 1400)?;
    }
    three.expect_reaches(&four)?;
    expect_mtu(&one, 1450)?;
    one.expect_reaches(&two)?;
    cluster.end()
}
