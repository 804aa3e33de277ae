//! Configurations that change while containers run: overlays, networks of agents, and nodes.

use std::fs;
use std::process::Output;

use anyhow::{Context as _, Result, ensure};
use mesos_module_tests::testbed::overlay::{Container, OverlayCluster, two_overlays};
use mesos_module_tests::testbed::{Host, program, until};
use serde_json::{Value, json};

use crate::fixture::{subnet_of, subnets};

/// The names that Mesos and Docker give a meaning of their own.
const RESERVED_NAMES: [&str; 4] = ["host", "bridge", "default", "none"];

fn check(host: &Host, overlays: &Value) -> Result<Output> {
    let path = host.directory().join("checked.json");
    fs::write(&path, overlays.to_string())?;
    let manager = program("contrail-mesos-manager")?;
    let mut command = host.command(manager);
    Ok(command.args(["overlay", "check"]).arg(path).output()?)
}

#[test]
fn reserved_networks_are_refused() -> Result<()> {
    let cluster = OverlayCluster::start(1)?;
    let services = cluster.mesos.services();
    ensure!(
        check(services, &two_overlays())?.status.success(),
        "the overlays of this test are refused"
    );
    let before = cluster.nodes()?;
    for name in RESERVED_NAMES {
        let mut overlays = two_overlays();
        overlays["overlays"][1]["name"] = json!(name);
        let output = check(services, &overlays)?;
        ensure!(!output.status.success(), "{name} is accepted");
        let printed = String::from_utf8_lossy(&output.stdout);
        ensure!(
            printed.contains("overlays[1].name") && printed.contains(name),
            "{printed}"
        );
        // Managers that run keep the configuration that they have.
        cluster.set_overlays(&overlays)?;
    }
    // A reload is complete when the next one is.
    let mut overlays = two_overlays();
    overlays["overlays"][1]["mtu"] = json!(1400);
    cluster.set_overlays(&overlays)?;
    until("the last configuration is in force", || {
        let state = cluster.node_state(0)?;
        let mtu = state.overlay("vxlan-2").map(|overlay| overlay.mtu);
        Ok((mtu == Some(1400)).then_some(()))
    })?;
    assert_eq!(subnets(&cluster.nodes()?), subnets(&before));
    cluster.end()
}

/// A launch on an overlay that there is not waits for it, so each takes a moment.
#[test]
fn overlays_and_networks_are_added_at_run_time() -> Result<()> {
    let cluster = OverlayCluster::start(2)?;
    let one = Container::start(&cluster, "one", "vxlan-1", 0)?;
    let two = Container::start(&cluster, "two", "vxlan-1", 1)?;

    // Neither the agents nor the managers know it, then only the agents do.
    let scheduler = &cluster.mesos.scheduler;
    let message = scheduler.refused(cluster.task("unknown", "vxlan-3", 0, "true"))?;
    ensure!(message.contains("vxlan-3"), "{message}");
    for node in 0..2 {
        cluster.add_network(node, "vxlan-3")?;
    }
    let message = scheduler.refused(cluster.task("early", "vxlan-3", 0, "true"))?;
    ensure!(
        message.contains("vxlan-3") && message.contains("overlay"),
        "{message}"
    );
    let mut overlays = two_overlays();
    let added = json!({ "name": "vxlan-3", "subnet": "10.96.0.0/16", "prefix": 26 });
    let list = overlays["overlays"].as_array_mut();
    list.context("a list of overlays")?.push(added);
    cluster.set_overlays(&overlays)?;
    let has_three = |cluster: &OverlayCluster, node: usize| -> Result<Option<()>> {
        let state = cluster.node_state(node)?;
        Ok(state.overlay("vxlan-3").map(drop))
    };
    for node in 0..2 {
        until("the node knows the new overlay", || {
            has_three(&cluster, node)
        })?;
    }
    let three = Container::start(&cluster, "three", "vxlan-3", 0)?;
    let four = Container::start(&cluster, "four", "vxlan-3", 1)?;
    three.wait_until_reaches(&four)?;
    three.expect_reaches(&four)?;
    three.expect_reaches(&two)?;
    one.expect_reaches(&two)?;
    let list = cluster.wait_until_current()?;
    for node in ["node-1", "node-2"] {
        assert_eq!(subnet_of(&list, node, "vxlan-3")?.prefix_len(), 26);
    }

    // Disabled: what runs keeps its network, nothing new starts.
    overlays["overlays"][2]["enabled"] = json!(false);
    cluster.set_overlays(&overlays)?;
    until("the node knows that the overlay is disabled", || {
        let state = cluster.node_state(0)?;
        let overlay = state.overlay("vxlan-3").context("it is gone")?;
        Ok(overlay.problem.as_ref().map(drop))
    })?;
    let message = scheduler.refused(cluster.task("late", "vxlan-3", 0, "true"))?;
    ensure!(message.contains("disabled"), "{message}");
    three.expect_reaches(&four)?;
    cluster.end()
}

#[test]
fn deleted_node_frees_its_subnets() -> Result<()> {
    let mut cluster = OverlayCluster::start(3)?;
    let one = Container::start(&cluster, "one", "vxlan-1", 0)?;
    let two = Container::start(&cluster, "two", "vxlan-1", 1)?;
    let before = cluster.wait_until_current()?;
    let freed = subnet_of(&before, "node-3", "vxlan-1")?;
    let routes = "ip route show proto 133";
    let has_route = |cluster: &OverlayCluster| -> Result<bool> {
        let routes = cluster.host(0).sh(routes)?;
        Ok(routes
            .lines()
            .any(|route| route.starts_with(&freed.to_string())))
    };
    ensure!(has_route(&cluster)?, "no route to {freed}");

    // A node that is silent keeps what it has. One that is deleted does not.
    cluster.daemons[2].kill()?;
    cluster.managers.kill()?;
    cluster.managers.start()?;
    let list = cluster.wait_until("the leader has all nodes", |list| list.nodes.len() == 3)?;
    assert_eq!(subnets(&list), subnets(&before));
    ensure!(has_route(&cluster)?, "the route to a silent node is gone");
    cluster.delete_node("node-3")?;
    until("the route is gone", || {
        Ok((!has_route(&cluster)?).then_some(()))
    })?;

    // The next one that registers gets them, and the same host under another name does.
    cluster.rename(2, "node-4")?;
    cluster.daemons[2].start()?;
    let list = cluster.wait_until("node-4 has the subnets", |list| {
        subnet_of(list, "node-4", "vxlan-1").is_ok_and(|subnet| subnet == freed)
    })?;
    ensure!(
        list.nodes.iter().all(|node| node.name != "node-3"),
        "{list:?}"
    );
    let three = Container::start(&cluster, "three", "vxlan-1", 2)?;
    for other in [&one, &two] {
        other.wait_until_reaches(&three)?;
        other.expect_reaches(&three)?;
    }
    one.expect_reaches(&two)?;
    cluster.end()
}
