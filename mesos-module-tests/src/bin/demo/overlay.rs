//! The fourth act: three hosts with overlay networks, without Contrail.
//!
//! Managers give every node its part of each overlay, and a node daemon on every host programs
//! routed VXLAN. Containers reach each other across hosts and overlays, and the world outside.
//! A transfer goes on while every part is killed, state of the kernel that somebody removes is
//! restored, a lost host comes back, and an overlay is added at run time.

use anyhow::{Context as _, Result, ensure};
use mesos_module_tests::testbed::agent::config_path;
use mesos_module_tests::testbed::docker::Docker;
use mesos_module_tests::testbed::multi_node::SERVICES;
use mesos_module_tests::testbed::overlay::{
    ALL_OVERLAYS, Capture, Container, OverlayCluster, Transfer, two_overlays,
};
use mesos_module_tests::testbed::until;
use serde_json::json;

use crate::show::{self, indent, say};

const NODES: usize = 3;

pub(crate) fn run() -> Result<()> {
    say("four hosts: three nodes, and one with the Mesos master, ZooKeeper and two managers");
    let cluster = OverlayCluster::start(3)?;
    println!(
        "    each node: a real Mesos 1.11.0 agent with libcontrail_mesos.so, and contrail-mesos-node"
    );
    println!("    the managers: no Contrail, no Marathon; their overlays:");
    println!(
        "{}",
        indent(&serde_json::to_string_pretty(&two_overlays())?)
    );
    show::run_act(cluster, act)
}

fn act(cluster: &mut OverlayCluster) -> Result<()> {
    say("GET /v1/nodes of the leading manager: what every node was given");
    show_nodes(cluster)?;
    say("contrail-mesos status --cluster, on any node");
    println!("{}", indent(&cluster.cluster_status(2, &[])?));

    say("tasks on vxlan-1 and vxlan-2");
    let containers = [
        Container::start(cluster, "one", "vxlan-1", 0)?,
        Container::start(cluster, "two", "vxlan-1", 1)?,
        Container::start(cluster, "three", "vxlan-1", 2)?,
        Container::start(cluster, "beside", "vxlan-1", 0)?,
        Container::start(cluster, "other", "vxlan-2", 2)?,
    ];
    for node in 0..NODES {
        println!("    node-{}: contrail-mesos status", node + 1);
        show::status(cluster.host(node), &config_path(cluster.host(node)))?;
    }
    say("ping from the row to the column: containers and hosts, across hosts and overlays");
    matrix(cluster, &containers)?;
    let [one, two, three, beside, _] = &containers;

    say(
        "what node-1 has for that: a route, a neighbour and a forwarding entry for each other host",
    );
    let state = cluster.host(0).sh(
        "ip -brief address show | grep vtep; ip route show proto 133; ip neigh show nud permanent; \
         ip -brief link | grep -o '^vtep[0-9]*' | xargs -n 1 bridge fdb show dev",
    );
    println!("{}", indent(&state?));

    say("packets that leave node-1 by its uplink");
    let capture = Capture::start(cluster.host(0), ALL_OVERLAYS)?;
    for (what, other) in [("its own host", beside), ("another host", two)] {
        let before = capture.counts()?;
        one.ping(other.address, 10)?;
        let after = capture.counts()?;
        let (vxlan, plain) = (after.vxlan - before.vxlan, after.plain - before.plain);
        println!("    10 pings to a container of {what}: {vxlan} VXLAN packets, {plain} others");
        ensure!((vxlan > 0) == (other.address == two.address) && plain == 0);
    }
    capture.stop()?;
    one.sh(&format!("ping -q -c 1 -W 5 {SERVICES}"))?;
    println!("    the world outside answers, too: it sees the host's address");

    with_docker(cluster, two)?;
    survive(cluster)?;

    say("somebody removes routes, neighbours, the VXLAN device and all rules of node-1");
    for removal in [
        "ip route flush proto 133",
        "ip neigh flush nud permanent",
        "ip -brief link | grep -o '^vtep[0-9]*' | xargs -n 1 ip link delete",
        "nft flush ruleset",
    ] {
        cluster.host(0).sh(removal)?;
        one.wait_until_reaches(two)?;
        println!("    {removal}: restored");
    }

    say("the cable of node-3 is pulled, and plugged in again");
    cluster.node(2).pull_cable()?;
    one.expect_reaches(two)?;
    let ping = one.sh(&format!("ping -q -c 1 -W 1 {}", three.address));
    ensure!(ping.is_err(), "the cable is not pulled");
    println!("    one and two reach each other; three is out of reach");
    cluster.node(2).plug_cable()?;
    one.wait_until_reaches(three)?;
    println!("    three is back, with the same address");

    say("an overlay is added at run time: SIGHUP to the managers");
    for node in 0..NODES {
        cluster.add_network(node, "vxlan-3")?;
    }
    let mut overlays = two_overlays();
    let added = json!({ "name": "vxlan-3", "subnet": "10.96.0.0/16", "prefix": 26 });
    let list = overlays["overlays"].as_array_mut();
    list.context("a list of overlays")?.push(added);
    cluster.set_overlays(&overlays)?;
    for node in 0..NODES {
        until("the node knows the overlay", || {
            let state = cluster.node_state(node)?;
            Ok(state.overlay("vxlan-3").map(drop))
        })?;
    }
    let new = [
        Container::start(cluster, "new-1", "vxlan-3", 0)?,
        Container::start(cluster, "new-2", "vxlan-3", 1)?,
    ];
    new[0].wait_until_reaches(&new[1])?;
    new[0].expect_reaches(three)?;
    show_nodes(cluster)
}

/// Gives the Docker of a node its half of the overlays.
fn with_docker(cluster: &mut OverlayCluster, two: &Container) -> Result<()> {
    say("Docker runs on node-1, and gets its half of each overlay: docker = … in [node]");
    let docker = Docker::start(cluster.host(0))?;
    docker.enable()?;
    cluster.daemons[0].kill()?;
    cluster.daemons[0].start()?;
    cluster.wait_until_current()?;
    let networks = docker.run("network ls --filter label=contrail-mesos")?;
    println!("{}", indent(&networks));
    let address = docker.serve("in-docker", "vxlan-1")?;
    two.ping(address, 1)?;
    docker.exec("in-docker", &format!("ping -c 1 -W 5 {}", two.address))?;
    println!("    docker run --network vxlan-1: {address}; it and two on node-2 reach each other");
    println!("    what Docker's filter lets pass:");
    let rules = cluster.host(0).sh("iptables -S | grep CONTRAIL-MESOS");
    println!("{}", indent(&rules?));
    cluster.daemons[0].kill()?;
    docker.stop()?;
    cluster.daemons[0].start()?;
    cluster.wait_until_current()?;
    Ok(())
}

/// Kills every part while a transfer goes on.
fn survive(cluster: &mut OverlayCluster) -> Result<()> {
    say("a TCP transfer from node-1 to node-2 goes on while every part is killed");
    let transfer = Transfer::start(cluster, "vxlan-1", [0, 1])?;
    let leader = cluster.managers.leader()?;
    cluster.managers.manager_mut(leader).kill()?;
    transfer.wait_for_progress()?;
    println!("    kill -9 of the leading manager: it goes on");
    cluster.managers.kill()?;
    for daemon in &mut cluster.daemons {
        daemon.kill()?;
    }
    transfer.wait_for_progress()?;
    println!("    kill -9 of all managers and node daemons: it goes on");
    for daemon in &mut cluster.daemons {
        daemon.start()?;
    }
    cluster.managers.start()?;
    cluster.wait_until_current()?;
    transfer.wait_for_progress()?;
    println!("    all are started again: it goes on");
    cluster.mesos.nodes[0].cluster.kill_9()?;
    transfer.wait_for_progress()?;
    cluster.mesos.nodes[0].cluster.restart()?;
    println!("    kill -9 of an agent, and its restart: it goes on");
    let count = transfer.finish(cluster)?;
    println!("    {count} numbers went there and back on one connection, in order");
    Ok(())
}

fn show_nodes(cluster: &OverlayCluster) -> Result<()> {
    let list = cluster.wait_until_current()?;
    println!("    revision {}", list.revision);
    for node in &list.nodes {
        let address = node.address.map(|address| address.to_string());
        let vtep = node.vtep.context("no tunnel endpoint")?;
        let subnets: Vec<String> = node
            .subnets
            .iter()
            .flat_map(|given| {
                let name = &given.overlay;
                given
                    .subnets()
                    .map(move |subnet| format!("{name} {subnet}"))
            })
            .collect();
        println!(
            "    {:<7} {:<10} {:<8} {:<12} {}  {}",
            node.name,
            address.unwrap_or_default(),
            node.condition,
            vtep.address,
            vtep.mac,
            subnets.join("  ")
        );
    }
    Ok(())
}

/// Pings between all containers, and from all hosts, and fails if one does not answer.
fn matrix(cluster: &OverlayCluster, containers: &[Container]) -> Result<()> {
    print!("    {:<24}", "");
    for container in containers {
        print!("{:<15}", container.task);
    }
    println!();
    let mut unreachable = Vec::new();
    let hosts = (0..NODES).map(|node| (format!("node-{}", node + 1), node, None));
    let inside = containers
        .iter()
        .map(|container| (container.task.clone(), 0, Some(container)));
    for (name, node, container) in hosts.chain(inside) {
        let host = cluster.host(node);
        let address = container.map_or(host.address(), |container| container.address);
        print!("    {name:<8}{:<16}", address.to_string());
        for other in containers {
            let ping = format!("ping -q -c 1 -W 3 {}", other.address);
            let reached = match container {
                Some(container) => container.sh(&ping).is_ok(),
                None => host.sh(&ping).is_ok(),
            };
            print!("{:<15}", if reached { "yes" } else { "NO" });
            if !reached {
                unreachable.push(format!("{name} -> {}", other.task));
            }
        }
        println!();
    }
    ensure!(unreachable.is_empty(), "not reachable: {unreachable:?}");
    Ok(())
}
