//! Parts that are killed, restarted or lost, and state of the kernel that somebody removes.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use mesos_module_tests::testbed::agent::state_dir;
use mesos_module_tests::testbed::multi_node::SERVICES;
use mesos_module_tests::testbed::overlay::{Container, OverlayCluster, Transfer};
use mesos_module_tests::testbed::until;

use crate::fixture::subnets;

#[test]
fn transfer_survives_the_restart_of_every_part() -> Result<()> {
    let mut cluster = OverlayCluster::start(3)?;
    let transfer = Transfer::start(&cluster, "vxlan-1", [0, 1])?;

    // The leader, then both managers.
    let leader = cluster.managers.leader()?;
    cluster.managers.manager_mut(leader).kill()?;
    cluster.wait_until_current()?;
    transfer.wait_for_progress()?;
    cluster.managers.kill()?;
    transfer.wait_for_progress()?;

    // The daemons of both ends, and of another host, while no manager runs.
    for daemon in &mut cluster.daemons {
        daemon.kill()?;
    }
    transfer.wait_for_progress()?;
    for daemon in &mut cluster.daemons {
        daemon.start()?;
    }
    // They know everything without a manager.
    for index in 0..3 {
        until("the daemon has applied what it knew", || {
            let status = cluster.daemons[index].get("/v1/status").ok();
            Ok(status.filter(|status| !status["applied"].is_null()))
        })?;
    }
    transfer.wait_for_progress()?;
    cluster.managers.start()?;
    cluster.wait_until_current()?;

    // The agents of both ends.
    for node in 0..2 {
        cluster.mesos.nodes[node].cluster.kill_9()?;
        transfer.wait_for_progress()?;
        cluster.mesos.nodes[node].cluster.restart()?;
    }
    // What starts now reaches what has run all the time.
    let one = Container::start(&cluster, "one", "vxlan-1", 0)?;
    let two = Container::start(&cluster, "two", "vxlan-1", 2)?;
    one.expect_reaches(&two)?;
    transfer.finish(&cluster)?;
    cluster.end()
}

#[test]
fn allocations_survive_the_restart_of_all_managers() -> Result<()> {
    let mut cluster = OverlayCluster::start(3)?;
    let one = Container::start(&cluster, "one", "vxlan-1", 0)?;
    let two = Container::start(&cluster, "two", "vxlan-1", 1)?;
    let before = cluster.wait_until_current()?;

    cluster.managers.kill()?;
    cluster.mesos.zookeeper.kill()?;
    // A node that starts without managers waits for them. The others go on.
    cluster.daemons[2].kill()?;
    one.expect_reaches(&two)?;
    cluster.mesos.zookeeper.run()?;
    // In the other order, so that another one leads.
    cluster.managers.manager_mut(1).start()?;
    assert_eq!(cluster.managers.leader()?, 1);
    let list = cluster.wait_until_current()?;
    ensure!(
        list.revision.term > before.revision.term,
        "{} is not after {}",
        list.revision,
        before.revision
    );
    assert_eq!(subnets(&list), subnets(&before));
    let endpoints = |list: &contrail_mesos_api::cluster::NodeList| -> Vec<_> {
        list.nodes.iter().map(|node| node.vtep).collect()
    };
    assert_eq!(endpoints(&list), endpoints(&before));
    cluster.daemons[2].start()?;
    cluster.managers.start()?;
    cluster.wait_until_current()?;
    let three = Container::start(&cluster, "three", "vxlan-2", 2)?;
    one.wait_until_reaches(&three)?;
    one.expect_reaches(&three)?;
    cluster.end()
}

#[test]
fn agent_recovers_containers_without_the_node_state() -> Result<()> {
    let mut cluster = OverlayCluster::start(2)?;
    let one = Container::start(&cluster, "one", "vxlan-1", 0)?;
    let gone = Container::start(&cluster, "gone", "vxlan-1", 0)?;
    let two = Container::start(&cluster, "two", "vxlan-1", 1)?;

    // The daemon is away with its file, and a container ends while the agent is away as well.
    cluster.daemons[0].kill()?;
    cluster.mesos.nodes[0].cluster.kill_9()?;
    fs::remove_dir_all(state_dir(cluster.host(0)).join("node"))?;
    cluster
        .host(0)
        .sh(&format!("ip netns pids {} | xargs kill -9", gone.id))?;
    one.expect_reaches(&two)?;
    cluster.mesos.nodes[0].cluster.restart()?;
    cluster.mesos.scheduler.ended("gone")?;
    until("nothing is left of the container that ended", || {
        let namespaces = cluster.host(0).sh("ls /run/netns")?;
        Ok((!namespaces.contains(&gone.id)).then_some(()))
    })?;
    one.expect_reaches(&two)?;
    let task = cluster.task("refused", "vxlan-1", 0, "true");
    let message = cluster.mesos.scheduler.refused(task)?;
    ensure!(message.contains("contrail-mesos-node"), "{message}");
    let page = one.sh(&format!("ping -q -c 1 -W 5 {SERVICES}"));
    page.context("the rules of a recovered container")?;

    // The daemon writes it again, and addresses of living containers are not given again.
    cluster.daemons[0].start()?;
    cluster.wait_until_current()?;
    let three = Container::start(&cluster, "three", "vxlan-1", 0)?;
    ensure!(three.address != one.address, "an address is given twice");
    three.expect_reaches(&one)?;
    three.expect_reaches(&two)?;
    cluster.mesos.scheduler.kill("one")?;
    cluster.end()
}

#[test]
fn lost_host_comes_back() -> Result<()> {
    let cluster = OverlayCluster::start(3)?;
    let one = Container::start(&cluster, "one", "vxlan-1", 0)?;
    let two = Container::start(&cluster, "two", "vxlan-1", 1)?;
    let three = Container::start(&cluster, "three", "vxlan-1", 2)?;
    let transfer = Transfer::start(&cluster, "vxlan-2", [0, 2])?;
    let routes = |node: usize| cluster.host(node).sh("ip route show proto 133");
    let before = routes(0)?;

    cluster.node(2).pull_cable()?;
    let ping = format!("ping -q -c 1 -W 1 {}", three.address);
    ensure!(one.sh(&ping).is_err(), "the cable is not pulled");
    one.expect_reaches(&two)?;
    // It is silent, so nothing of it is withdrawn; nor does it withdraw anything itself.
    assert_eq!(routes(0)?, before);
    cluster.node(2).plug_cable()?;
    one.wait_until_reaches(&three)?;
    one.expect_reaches(&three)?;
    transfer.finish(&cluster)?;
    cluster.wait_until_current()?;
    cluster.end()
}

#[test]
fn removed_kernel_state_is_restored() -> Result<()> {
    let cluster = OverlayCluster::start(2)?;
    let one = Container::start(&cluster, "one", "vxlan-1", 0)?;
    let two = Container::start(&cluster, "two", "vxlan-1", 1)?;
    one.expect_reaches(&two)?;
    let host = cluster.host(0);
    let state = cluster.node_state(0)?;
    let overlay = state.overlay("vxlan-1").context("no overlay")?;
    let device = format!("vtep{}", overlay.vni);
    for removal in [
        format!("ip route flush proto 133 dev {device}"),
        format!("ip neigh flush nud permanent dev {device}"),
        format!(
            "bridge fdb show dev {device} | while read mac rest; do \
             bridge fdb delete $mac dev {device}; done"
        ),
        format!("ip link set {device} down"),
        format!("ip link delete {device}"),
        "nft flush ruleset".to_owned(),
    ] {
        let before = repairs(&cluster)?;
        host.sh(&removal)?;
        until("it is repaired, and the repair is counted", || {
            Ok((repairs(&cluster)? > before).then_some(()))
        })
        .with_context(|| format!("after {removal}: {}", cluster.logs()))?;
        one.wait_until_reaches(&two)?;
    }
    // The library restores this one, too, so nobody knows who is first.
    host.sh("sysctl -qw net.ipv4.ip_forward=0")?;
    one.wait_until_reaches(&two)?;
    // Whole again, the masquerade included.
    one.expect_reaches(&two)?;
    until("the world outside is reached", || {
        let ping = one.sh(&format!("ping -q -c 1 -W 1 {SERVICES}"));
        Ok(ping.is_ok().then_some(()))
    })?;
    cluster.end()
}

/// How many changes the daemon of the first node has made because of others' changes.
fn repairs(cluster: &OverlayCluster) -> Result<u64> {
    let status = cluster.daemons[0].get("/v1/status")?;
    let subsystems = status["subsystems"].as_array();
    let subsystems = subsystems.with_context(|| status.to_string())?;
    let repairs = subsystems.iter().map(|subsystem| &subsystem["repairs"]);
    Ok(repairs.filter_map(serde_json::Value::as_u64).sum())
}
